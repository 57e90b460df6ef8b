"""Reward models on Qwen2-VL: what one is made of, and its network, from patches and token ids to numbers.

HPSv3 (arXiv 2508.03789) reads mu and log sigma of a picture's preference at one token, by a small MLP in float32.
VideoReward (arXiv 2501.13918) reads visual quality, motion quality and text alignment of a video at three tokens, by a
linear layer. Not here: pixels, prompts and batches (rewards/judge.py).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Bool, DTypeLike, Float, Int, UInt8
from lcv_jax.bounds import Count, Finite, Fps, FrameCount, Positive, check_fields
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.data.patches import MEAN, STD
from lcv_jax.models.layers import Linear
from lcv_jax.models.qwen2_vl import Branches, Qwen2VL

HPSV3, VIDEOREWARD = "hpsv3", "videoreward"
REWARD_TOKENS: Mapping[str, tuple[str, ...]] = {
    HPSV3: ("<|Reward|>",),
    VIDEOREWARD: ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"),
}
"""The tokens that each kind of judge reads its numbers at, in the order in which they get their ids."""
DIMENSIONS = ("VQ", "MQ", "TA")
"""VideoReward's numbers."""
PREFERENCE = "preference"
"""What people compared HPSv3's pictures by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """All that a converted judge is, but for its parameters and its tokenizer."""

    kind: str
    """One of `REWARD_TOKENS`."""
    network: Qwen2VLConfig
    num_embeddings: Count
    """Rows of the embedding table: the tokenizer's tokens."""
    head_widths: tuple[Count, ...]
    """Outputs of the head's linear layers."""
    before_picture: str
    """The conversation up to the visual tokens."""
    before_caption: str
    after_caption: str
    min_pixels: Count
    max_pixels: Count
    fps: Fps = 2.0
    """Frames a second that are taken of a video."""
    num_frames: FrameCount | None = None
    """Frames that are taken of a video, whatever its length."""
    statistics: tuple[tuple[Finite, Positive], ...] = ()
    """Mean and standard deviation of each of `DIMENSIONS`, where the published settings have them."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind not in REWARD_TOKENS:
            raise ValueError(f"a judge is one of {', '.join(REWARD_TOKENS)}, got {self.kind!r}")
        outputs = self.head_widths[-1]
        if self.kind == VIDEOREWARD and outputs not in (1, len(DIMENSIONS)):
            raise ValueError(f"rm_head of {self.kind} has 1 or {len(DIMENSIONS)} outputs, got {outputs}")

    @property
    def reward_tokens(self) -> tuple[str, ...]:
        return REWARD_TOKENS[self.kind]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the numbers of a score are."""
        return DIMENSIONS if self.kind == VIDEOREWARD else ("mu", "log_sigma")[: self.head_widths[-1]]

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What people's labels are about: the first outputs, in order."""
        return DIMENSIONS if self.kind == VIDEOREWARD else (PREFERENCE,)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "JudgeConfig":
        fields = dict(stored)
        fields["network"] = Qwen2VLConfig.from_json(fields["network"])
        fields["head_widths"] = tuple(fields["head_widths"])
        fields["statistics"] = tuple((mean, std) for mean, std in fields["statistics"])
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return dataclasses.asdict(self)


class JudgeNetwork(nn.Module):
    """Qwen2-VL and a head. Attributes are those of `Qwen2VL`."""

    cfg: JudgeConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"
    exact_frequencies: bool = False
    remat: str = "none"

    def setup(self) -> None:
        cfg = self.cfg
        self.qwen2_vl = Qwen2VL(
            cfg.network,
            cfg.num_embeddings,
            self.dtype,
            self.param_dtype,
            self.implementation,
            self.exact_frequencies,
            self.remat,
        )
        nn.share_scope(self, self.qwen2_vl)
        if cfg.kind == HPSV3:
            # Float32 whatever the rest computes in, as published.
            self.rm_head_0, self.rm_head_3, self.rm_head_5 = (
                Linear(width, dtype=jnp.float32, param_dtype=jnp.float32) for width in cfg.head_widths
            )
        else:
            self.rm_head = Linear(cfg.head_widths[0], False, self.dtype, self.param_dtype)

    def encode(
        self, patches_BTSC: Float[Array, "B T S C"], cells_BS2: Int[Array, "B S 2"], mask_BTS: Bool[Array, "B T S"]
    ) -> Float[Array, "B V D"]:
        """See `Qwen2VL.encode`."""
        return self.qwen2_vl.encode(patches_BTSC, cells_BS2, mask_BTS)

    def __call__(
        self,
        patches_BTSC: UInt8[Array, "B T S C"],
        cells_BS2: Int[Array, "B S 2"],
        mask_BTS: Bool[Array, "B T S"],
        ids_BL: Int[Array, "B L"],
        visual_BL: Int[Array, "B L"],
        positions: Int[Array, "B L"] | Int[Array, "B L 3"],
        branches: Branches,
        reward_BQR: Int[Array, "B Q R"],
    ) -> Float[Array, "B Q outputs"]:
        """Numbers of each of a sample's Q captions.

        Args:
            positions: plain ones, as published; see models/qwen2_rope.py.
            reward_BQR: where the reward tokens of each caption stand in the sequence.
        """
        visual_BVD = self.encode(normalised(patches_BTSC), cells_BS2, mask_BTS)
        hidden_BLD = self.qwen2_vl(ids_BL, visual_BVD, visual_BL, positions, branches)
        B, Q, R = reward_BQR.shape
        read_BXD = jnp.take_along_axis(hidden_BLD, reward_BQR.reshape(B, Q * R, 1), axis=1)
        return self.head(read_BXD.reshape(B, Q, R, -1))

    def head(self, hidden_BQRD: Float[Array, "B Q R D"]) -> Float[Array, "B Q outputs"]:
        """Numbers of the hidden states at the reward tokens, float32."""
        if self.cfg.kind == HPSV3:
            x_BQD = hidden_BQRD[:, :, 0].astype(jnp.float32)
            x_BQD = jax.nn.relu(self.rm_head_0(x_BQD))
            return self.rm_head_5(jax.nn.relu(self.rm_head_3(x_BQD)))
        out_BQRO = self.rm_head(hidden_BQRD).astype(jnp.float32)
        if out_BQRO.shape[-1] == 1:
            return out_BQRO[..., 0]
        # With an output for each dimension, that of its own token counts.
        return jnp.diagonal(out_BQRO, axis1=2, axis2=3)


def normalised(patches: UInt8[Array, "... C"]) -> Float[Array, "... C"]:
    """Pixels of patches, whose numbers are channel by channel, as the tower takes them."""
    per_channel = patches.shape[-1] // 3
    mean, std = (np.repeat(x, per_channel) for x in (MEAN, STD))
    return (patches.astype(jnp.float32) / 255 - mean) / std
