"""A judge as it is trained.

Its trained parameters are those of tuned.py, and

    params/token_rows/weight    the rows of the embedding table that belong to the reward tokens

The rest of the table is frozen; the head is always trained in full.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, Params
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.judge_conversion import COMPONENT, load_judge_config, load_judge_params
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.names import Table
from lcv_jax.data.batches import Batches
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.models.flops import qwen2_vl_flops
from lcv_jax.models.judges import JudgeNetwork
from lcv_jax.models.qwen2_vl import Branches
from lcv_jax.objectives.preferences import JudgeNetworks, PairPreference, RatingRegression
from lcv_jax.rewards.conversation import Conversation
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.judge_inputs import chosen_dimensions, open_preferences
from lcv_jax.training.state import Frozen
from lcv_jax.training.tuned import TABLE, Tuned, merged

ARGUMENTS = ("patches_BTSC", "cells_BS2", "mask_BTS", "ids_BL", "visual_BL", "positions", "begun_BP", "reward_BQR")
"""Of `JudgeNetwork`; in a batch each has an axis of a sample's videos after the first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeModel(Tuned):
    """What a step is compiled for."""

    component = COMPONENT
    network: JudgeNetwork
    reward_ids: tuple[int, ...]
    """Of the reward tokens, in their order."""
    vision: bool = True

    @property
    def table(self) -> Table:
        """All parameters."""
        return judge_table(self.cfg)

    def read(self, folder: Path, dtype: str, rule: Any, keep: Callable[[tuple[str, ...]], bool]) -> Params:
        """See `Tuned`."""
        return load_judge_params(folder, self.cfg, dtype, rule, keep)

    def is_trained(self, path: tuple[str, ...]) -> bool:
        """Whether a parameter of the network is trained in full."""
        is_head = path[0] not in ("visual", "model")
        return is_head or (path != TABLE and super().is_trained(path))

    def is_read(self, path: tuple[str, ...]) -> bool:
        """Those that are trained, and the table for its rows."""
        return path == TABLE or self.is_trained(path)

    def begin(self, read: Params) -> Params:
        """What is trained, but for the adapter."""
        network = merged(read, {})
        table_VD = network["model"].pop("embed_tokens")["weight"]
        if not network["model"]:
            del network["model"]
        return {"network": network, "token_rows": {"weight": table_VD[jnp.array(self.reward_ids)]}}

    def params(self, trained: Params, frozen: Params) -> Params:
        """The network's parameters, but for the adapter."""
        params = super().params(trained, frozen)
        table_VD = frozen["model"]["embed_tokens"]["weight"]
        rows_RD = trained["token_rows"]["weight"].astype(table_VD.dtype)
        params["model"]["embed_tokens"]["weight"] = table_VD.at[jnp.array(self.reward_ids)].set(rows_RD)
        return params

    def exported(self, trained: Params, frozen: Frozen) -> Params:
        """See `Tuned`; the rows of the table are float32, too."""
        assert frozen.params is not None
        kept = merged(frozen.params, {})
        table_VD = kept["model"]["embed_tokens"]["weight"]
        kept["model"]["embed_tokens"]["weight"] = table_VD.astype(jnp.float32)
        return super().exported(trained, Frozen(params=kept, alpha_scale=frozen.alpha_scale))

    def bound(self, variables: Params) -> JudgeNetworks:
        """The judge with these variables."""
        return JudgeNetworks(scores=lambda batch: self.scores(variables, batch))

    def scores(self, variables: Params, batch: Mapping[str, Array]) -> Float[Array, "B V outputs"]:
        """Numbers of each video of each sample."""
        B, V = batch["ids_BL"].shape[:2]
        given: dict[str, Any] = {name: batch[name].reshape(B * V, *batch[name].shape[2:]) for name in ARGUMENTS}
        given["branches"] = Branches(begun_BP=given.pop("begun_BP"), num_ends=given["reward_BQR"].shape[1])
        apply: Any = self.network.apply
        scores_NQO = apply(variables, **given)
        return scores_NQO[:, 0].reshape(B, V, -1)

    def cost(self, batch: Mapping[str, Any]) -> tuple[int, float]:
        """See `Tuned`."""
        B, V, pictures, patches, _ = batch["patches_BTSC"].shape
        tokens, begun = batch["ids_BL"].shape[2], batch["begun_BP"].shape[2]
        own = {"ends": 1, "end": tokens - begun}
        forward = qwen2_vl_flops(self.cfg.network, pictures=pictures, patches=patches, begun=begun, **own)
        return B * V * tokens, B * V * self.passes * forward


@dataclasses.dataclass(frozen=True)
class JudgeBase:
    """What a run reads of the judge that it starts from, but for the weights."""

    conversation: Conversation

    @classmethod
    def open(cls, folder: Path) -> "JudgeBase":
        """Reads a converted judge's settings and tokenizer.

        Raises:
            ValueError: no converted judge, or a damaged one.
        """
        cfg = load_judge_config(folder)
        return cls(Conversation(cfg, store.tokenizer_folder(folder) / "tokenizer.json"))

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What people's labels are about."""
        return self.conversation.cfg.dimensions

    def model(self, cfg: TrainConfig) -> JudgeModel:
        """The network as a config trains it."""
        return JudgeModel(
            network=JudgeNetwork(self.conversation.cfg, jnp.dtype(cfg.dtype), remat=cfg.remat),
            reward_ids=self.conversation.reward_ids,
            adapted=cfg.adapter is not None,
            vision=cfg.train_vision is not False,
        )

    def check(self, cfg: TrainConfig) -> None:
        """Raises ValueError for dimensions or an objective that the judge does not have the outputs for."""
        judge = self.conversation.cfg
        assert isinstance(cfg.data, PreferencesConfig)
        assert isinstance(cfg.objective, PairPreference | RatingRegression)
        cfg.objective.check(judge.outputs, chosen_dimensions(cfg.data, judge))

    def open_data(self, cfg: TrainConfig, **rows: Any) -> Batches:
        """See `open_preferences`."""
        assert isinstance(cfg.data, PreferencesConfig)
        assert isinstance(cfg.objective, PairPreference | RatingRegression)
        return open_preferences(cfg.data, self.conversation, cfg.objective.task, **rows)
