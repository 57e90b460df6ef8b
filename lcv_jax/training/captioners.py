"""A captioner as it is trained: all of Qwen2-VL, or its text model by an adapter.

The vision tower is frozen by default. Logits are computed at the answers' places alone: of hidden states B L D those at
A places are taken, B A D, and only these meet the table of V words, B A V. With 16384 tokens of a clip and 256 of a
caption that is a 64th of B L V.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, Params
from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.captioning.prompts import CaptionPrompts
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.judge_names import captioner_table
from lcv_jax.checkpoint.names import Table
from lcv_jax.checkpoint.qwen2_vl import COMPONENT, TOKENIZER
from lcv_jax.data.batches import Batches
from lcv_jax.models.captioner import Asked, Captioner
from lcv_jax.models.flops import qwen2_vl_flops
from lcv_jax.objectives.next_token import CaptionerNetworks
from lcv_jax.training.caption_inputs import open_captions
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.tuned import Tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerModel(Tuned):
    """What a step is compiled for."""

    component = COMPONENT
    network: Captioner

    @property
    def table(self) -> Table:
        """All parameters."""
        return captioner_table(self.cfg)

    @property
    def passes(self) -> int:
        """See `Tuned`."""
        return 2 if self.adapted else 3

    def read(self, folder: Path, dtype: str, rule: Any, keep: Callable[[tuple[str, ...]], bool]) -> Params:
        """See `Tuned`."""
        return store.load_params(folder, f"{COMPONENT}/params", lambda shapes: self.table, dtype, rule, keep)

    def bound(self, variables: Params) -> CaptionerNetworks:
        """The captioner with these variables."""
        return CaptionerNetworks(logits=functools.partial(self.logits, variables))

    def logits(self, variables: Params, batch: Mapping[str, Array]) -> Float[Array, "B A V"]:
        """Of the tokens of each answer."""
        asked = Asked(**{name: batch[name] for name in Asked._fields})
        apply: Any = self.network.apply
        return apply(variables, asked, batch["places_BA"])

    def cost(self, batch: Mapping[str, Any]) -> tuple[int, float]:
        """See `Tuned`."""
        B, pictures, patches, _ = batch["patches_BTSC"].shape
        tokens, answers = batch["ids_BL"].shape[1], batch["places_BA"].shape[1]
        forward = qwen2_vl_flops(self.cfg, pictures=pictures, patches=patches, begun=tokens)
        head = 2 * answers * self.cfg.hidden_size * self.cfg.vocab_size
        return B * tokens, B * self.passes * (forward + head)


@dataclasses.dataclass(frozen=True)
class CaptionerBase:
    """What a run reads of the captioner that it starts from, but for the weights."""

    prompts: CaptionPrompts
    dimensions: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> "CaptionerBase":
        """Reads the config and the tokenizer of a converted Qwen2-VL.

        Raises:
            ValueError: no converted Qwen2-VL, or a damaged one.
        """
        return cls(CaptionPrompts(store.load_config(folder, COMPONENT), store.tokenizer_folder(folder) / TOKENIZER))

    def model(self, cfg: TrainConfig) -> CaptionerModel:
        """The network as a config trains it."""
        return CaptionerModel(
            network=Captioner(self.prompts.cfg, jnp.dtype(cfg.dtype), remat=cfg.remat),
            adapted=cfg.adapter is not None,
            vision=cfg.train_vision is True,
        )

    def check(self, cfg: TrainConfig) -> None:
        """Every captioner can be trained."""

    def open_data(self, cfg: TrainConfig, **rows: Any) -> Batches:
        """See `open_captions`."""
        assert isinstance(cfg.data, CaptionsConfig)
        return open_captions(cfg.data, self.prompts, **rows)
