"""Qwen2-VL's vision tower (arXiv 2409.12191): patches of pictures to tokens of the text model's width.

Each temporal patch of a video (two frames) is a picture of its own: attention is full inside of one and there is none
across, so that a batch of pictures is all that block-diagonal attention needs. Pictures of different sizes are padded
to one length and masked. Not here: pixels to patches (data/patches.py). Names follow the published checkpoint.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcv_jax.array_types import Array, Bool, DTypeLike, Float, Int
from lcv_jax.config import Qwen2VisionConfig
from lcv_jax.kernels.attention import attention
from lcv_jax.models.layers import LayerNorm, Linear
from lcv_jax.models.qwen2_rope import Rotation, patch_rotation, rotate
from lcv_jax.models.remat import BLOCK_INPUT, rematerialised
from lcv_jax.parallel.sharding import constrain_samples, over_samples

MERGED = 4
"""Patches of a token: two rows of two, which follow one another."""


class Attention(nn.Module):
    """Fused qkv, rotation by row and column, full attention inside a picture, projection."""

    cfg: Qwen2VisionConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], rotation: Rotation, mask_BS: Bool[Array, "B S"] | None
    ) -> Float[Array, "B S D"]:
        B, S, D = x_BSD.shape
        qkv = Linear(3 * D, dtype=self.dtype, param_dtype=self.param_dtype, name="qkv")(x_BSD)
        q, k, v = jnp.moveaxis(qkv.reshape(B, S, 3, self.cfg.num_heads, self.cfg.head_dim), 2, 0)

        def attend(q: Array, k: Array, v: Array, mask_BM: Array | None) -> Array:
            return attention(q, k, v, key_mask_BM=mask_BM, implementation=self.implementation)

        out = over_samples(attend, rotate(q, rotation), rotate(k, rotation), v, mask_BS)
        return Linear(D, dtype=self.dtype, param_dtype=self.param_dtype, name="proj")(out.reshape(B, S, D))


class MLP(nn.Module):
    """Two linear layers with x * sigmoid(1.702 x) between them."""

    cfg: Qwen2VisionConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        linear = functools.partial(Linear, dtype=self.dtype, param_dtype=self.param_dtype)
        x_BSF = linear(self.cfg.mlp_ratio * self.cfg.embed_dim, name="fc1")(x_BSD)
        return linear(self.cfg.embed_dim, name="fc2")(x_BSF * jax.nn.sigmoid(1.702 * x_BSF))


class Block(nn.Module):
    """One layer, in the form nn.scan wants: the carry and no output per layer."""

    cfg: Qwen2VisionConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], rotation: Rotation, mask_BS: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], None]:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(LayerNorm, self.param_dtype)
        attend = Attention(self.cfg, implementation=self.implementation, name="attn", **types)
        x_BSD = checkpoint_name(x_BSD, BLOCK_INPUT)
        x_BSD = x_BSD + attend(norm(name="norm1")(x_BSD), rotation, mask_BS)
        x_BSD = x_BSD + MLP(self.cfg, name="mlp", **types)(norm(name="norm2")(x_BSD))
        return constrain_samples(x_BSD), None


class PatchMerger(nn.Module):
    """Four patches of a 2 x 2 block to one token of the text model's width."""

    cfg: Qwen2VisionConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B L Dtext"]:
        B, S, D = x_BSD.shape
        linear = functools.partial(Linear, dtype=self.dtype, param_dtype=self.param_dtype)
        x_BLF = LayerNorm(self.param_dtype, name="ln_q")(x_BSD).reshape(B, S // MERGED, MERGED * D)
        x_BLF = jax.nn.gelu(linear(MERGED * D, name="mlp_0")(x_BLF), approximate=False)
        return linear(self.cfg.hidden_size, name="mlp_2")(x_BLF)


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel: a linear layer over a patch's numbers."""

    cfg: Qwen2VisionConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, patches_BSC: Float[Array, "B S C"]) -> Float[Array, "B S D"]:
        return Linear(self.cfg.embed_dim, False, self.dtype, self.param_dtype, name="proj")(patches_BSC)


class VisionTower(nn.Module):
    """A batch of pictures, each one temporal patch, to a token for every four patches.

    Attributes:
        cfg: the published vision config.
        dtype: of the computation outside the norms; None is the parameters' own.
        param_dtype: of the parameters that `init` makes.
        implementation: of attention, see kernels/attention.py.
        exact_frequencies: see models/qwen2_rope.py.
        remat: see models/remat.py.
    """

    cfg: Qwen2VisionConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"
    exact_frequencies: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        patches_BSC: Float[Array, "B S C"],
        cells_BS2: Int[Array, "B S 2"],
        mask_BS: Bool[Array, "B S"] | None = None,
    ) -> Float[Array, "B L Dtext"]:
        """Tokens of the pictures.

        Args:
            patches_BSC: normalised pixels of patches, in the order of data/patches.py.
            cells_BS2: row and column of each.
            mask_BS: false where a picture is padded; the tokens of padding mean nothing. None: no padding.
        """
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        rotation = patch_rotation(cells_BS2, self.cfg.head_dim, exact=self.exact_frequencies)
        blocks = nn.scan(
            rematerialised(Block, self.remat),
            variable_axes={"params": 0, "adapters": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.cfg.depth,
        )(self.cfg, implementation=self.implementation, name="blocks", **types)
        x_BSD = PatchEmbed(self.cfg, name="patch_embed", **types)(constrain_samples(patches_BSC))
        x_BSD, _ = blocks(x_BSD, rotation, mask_BS)
        return PatchMerger(self.cfg, name="merger", **types)(x_BSD)
