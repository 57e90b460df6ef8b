"""A judge as it is trained: which of its parameters change, which stay, and how both are its network.

    params/network/...          the vision tower and the head; without an adapter also the text model but its table
    params/token_rows/weight    the rows of the embedding table that belong to the reward tokens
    params/pairs/...            low-rank factors of the text model's linear layers, where an adapter is trained

The rest of the table is frozen: it is no parameter of the optimiser, and has neither moments nor weight decay.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, Params
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.judge_conversion import load_judge_config
from lcv_jax.models.judges import JudgeConfig, JudgeNetwork
from lcv_jax.models.lora import combine, fold
from lcv_jax.models.qwen2_vl import Branches
from lcv_jax.rewards.conversation import Conversation
from lcv_jax.training import state as states
from lcv_jax.training.config import TrainConfig
from lcv_jax.training.state import Frozen

TABLE = ("model", "embed_tokens", "weight")
TEXT_LAYERS = ("model", "layers")
ADAPTED = ("self_attn", "mlp")
ARGUMENTS = ("patches_BTSC", "cells_BS2", "mask_BTS", "ids_BL", "visual_BL", "positions", "begun_BP", "reward_BQR")
"""Of `JudgeNetwork`; in a batch each has an axis of a sample's videos after the first."""


@dataclasses.dataclass(frozen=True)
class JudgeModel:
    """What a step is compiled for."""

    network: JudgeNetwork
    reward_ids: tuple[int, ...]
    """Of the reward tokens, in their order."""
    adapted: bool

    @property
    def cfg(self) -> JudgeConfig:
        return self.network.cfg

    def is_trained(self, path: tuple[str, ...]) -> bool:
        """Whether a parameter of the network is trained in full."""
        return path[0] != "model" or (not self.adapted and path != TABLE)

    def params(self, trained: Params, frozen: Params) -> Params:
        """The network's parameters, but for the adapter."""
        params = _merged(frozen, trained["network"])
        table_VD = frozen["model"]["embed_tokens"]["weight"]
        rows_RD = trained["token_rows"]["weight"].astype(table_VD.dtype)
        params["model"]["embed_tokens"]["weight"] = table_VD.at[jnp.array(self.reward_ids)].set(rows_RD)
        return params

    def variables(self, trained: Params, frozen: Frozen) -> Params:
        """What the network is applied with."""
        assert frozen.params is not None
        variables = {"params": self.params(trained, frozen.params)}
        if self.adapted:
            variables["adapters"] = combine([(states.with_scale(trained["pairs"], frozen.alpha_scale), 1.0)])
        return variables

    def scores(self, variables: Params, batch: Mapping[str, Array]) -> Float[Array, "B V outputs"]:
        """Numbers of each video of each sample."""
        B, V = batch["ids_BL"].shape[:2]
        given: dict[str, Any] = {name: batch[name].reshape(B * V, *batch[name].shape[2:]) for name in ARGUMENTS}
        given["branches"] = Branches(begun_BP=given.pop("begun_BP"), num_ends=given["reward_BQR"].shape[1])
        apply: Any = self.network.apply
        scores_NQO = apply(variables, **given)
        return scores_NQO[:, 0].reshape(B, V, -1)

    def exported(self, trained: Params, frozen: Frozen) -> Params:
        """The parameters of a judge's folder, the adapter folded in.

        What was trained is in float32: a narrower sum would lose most of what was added.
        """
        assert frozen.params is not None
        kept = _merged(frozen.params, {})
        table_VD = kept["model"]["embed_tokens"]["weight"]
        kept["model"]["embed_tokens"]["weight"] = table_VD.astype(jnp.float32)
        params = self.params(trained, kept)
        if not self.adapted:
            return params
        layers = params["model"]["layers"]
        for module in ADAPTED:
            layers[module] = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), layers[module])
        return fold(params, [(states.with_scale(trained["pairs"], frozen.alpha_scale), 1.0)])


@dataclasses.dataclass(frozen=True)
class JudgeBase:
    """What a run reads of the judge that it starts from, but for the weights."""

    cfg: JudgeConfig
    conversation: Conversation

    @classmethod
    def open(cls, folder: Path) -> "JudgeBase":
        """Reads a converted judge's settings and tokenizer.

        Raises:
            ValueError: no converted judge, or a damaged one.
        """
        cfg = load_judge_config(folder)
        return cls(cfg, Conversation(cfg, store.tokenizer_folder(folder) / "tokenizer.json"))

    def model(self, cfg: TrainConfig) -> JudgeModel:
        """The network as a config trains it."""
        dtype = jnp.dtype(cfg.dtype)
        network = JudgeNetwork(self.cfg, dtype, remat=cfg.remat)
        return JudgeModel(network, self.conversation.reward_ids, adapted=cfg.adapter is not None)


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Params:
    """Two nested dicts as one that is new down to its leaves; they share no leaf."""
    names = {**one, **other}
    return {
        name: _merged(one.get(name, {}), other.get(name, {})) if isinstance(value, Mapping) else value
        for name, value in names.items()
    }
