"""The umT5 text encoder (Chung et al. 2023, arXiv 2304.09151), whose hidden states the video transformer attends to.

A T5 v1.1 encoder in which every layer has relative position biases of its own. Not here: cleaning and tokenising
captions (data/captions.py), the caption projection (models/dit.py), a decoder. Names follow the published checkpoint.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Bool, DTypeLike, Float, Int, Shaped
from lcv_jax.config import UMT5Config
from lcv_jax.models.layers import Embedding, Linear, RMSNorm, matmul_precision
from lcv_jax.models.streamed import PackedLayers, run_layers


def relative_position_buckets(length: int, num_buckets: int, max_distance: int) -> Int[np.ndarray, "L M"]:
    """Which bias serves key M for query L: one bucket each for near offsets, logarithmically wider ones further away.

    Half of the buckets look back and half ahead; the last of each half holds everything from `max_distance` on.
    """
    offset_LM = np.arange(length)[None, :] - np.arange(length)[:, None]
    per_side = num_buckets // 2
    num_exact = per_side // 2
    distance_LM = np.abs(offset_LM)
    # float32, as published: in float64 a distance at the edge of a bucket could fall into its neighbour.
    octaves_LM = np.log(np.maximum(distance_LM, 1).astype(np.float32) / np.float32(num_exact))
    octaves_LM /= np.float32(np.log(max_distance / num_exact))
    far_LM = num_exact + (octaves_LM * np.float32(per_side - num_exact)).astype(np.int32)
    bucket_LM = np.where(distance_LM < num_exact, distance_LM, np.minimum(far_LM, per_side - 1))
    return (bucket_LM + per_side * (offset_LM > 0)).astype(np.int32)


class RelativeAttentionBias(nn.Module):
    """One number per head and bucket of offsets, added to the scores."""

    cfg: UMT5Config
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, bucket_LM: Int[Array, "L M"]) -> Float[Array, "N L M"]:
        shape = (self.cfg.relative_attention_num_buckets, self.cfg.num_heads)
        weight = self.param("weight", nn.initializers.normal(1.0), shape, self.param_dtype)
        return weight.T.at[:, bucket_LM].get(mode="promise_in_bounds")


class SelfAttention(nn.Module):
    """Unscaled dot products plus relative position biases; scores and softmax in float32."""

    cfg: UMT5Config
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"], bucket_LM: Int[Array, "L M"]
    ) -> Float[Array, "B L D"]:
        cfg = self.cfg
        B, L, D = x_BLD.shape

        def project(name: str) -> Float[Array, "B N L K"]:
            inner = Linear(cfg.num_heads * cfg.d_kv, False, self.dtype, self.param_dtype, name=name)(x_BLD)
            return inner.reshape(B, L, cfg.num_heads, cfg.d_kv).swapaxes(1, 2)

        # Heads in front of tokens, and plain matrix products: a CPU then has no L x L array to transpose.
        q_BNLK, k_BNMK, v_BNMK = project("q"), project("k"), project("v")
        bias_NLM = RelativeAttentionBias(cfg, self.param_dtype, name="relative_attention_bias")(bucket_LM)
        precision = matmul_precision(q_BNLK.dtype)
        score_BNLM = jnp.einsum(
            "BNLK,BNMK->BNLM", q_BNLK, k_BNMK, precision=precision, preferred_element_type=jnp.float32
        )
        # finfo.min and not -inf: a caption that is all padding then averages its values instead of giving NaN.
        lowest = jnp.finfo(jnp.float32).min
        score_BNLM = jnp.where(mask_BL[:, None, None, :], score_BNLM + bias_NLM.astype(jnp.float32), lowest)
        weight_BNLM = jax.nn.softmax(score_BNLM, axis=-1).astype(q_BNLK.dtype)
        y_BNLK = jnp.matmul(weight_BNLM, v_BNMK, precision=precision)
        return Linear(D, False, self.dtype, self.param_dtype, name="o")(y_BNLK.swapaxes(1, 2).reshape(B, L, -1))


class DenseReluDense(nn.Module):
    """The gated feed-forward `wo(gelu(wi_0 x) * wi_1 x)`; the published name is T5's, from before gates and GELU."""

    cfg: UMT5Config
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        def linear(name: str, features: int) -> Linear:
            return Linear(features, False, self.dtype, self.param_dtype, name=name)

        gate_BLF = jax.nn.gelu(linear("wi_0", self.cfg.d_ff)(x_BLD), approximate=True)
        return linear("wo", x_BLD.shape[-1])(gate_BLF * linear("wi_1", self.cfg.d_ff)(x_BLD))


class AttentionLayer(nn.Module):
    """Norm, self-attention, residual."""

    cfg: UMT5Config
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"], bucket_LM: Int[Array, "L M"]
    ) -> Float[Array, "B L D"]:
        normed_BLD = RMSNorm(self.cfg.layer_norm_epsilon, self.param_dtype, name="layer_norm")(x_BLD)
        attention = SelfAttention(self.cfg, self.dtype, self.param_dtype, name="SelfAttention")
        return x_BLD + attention(normed_BLD, mask_BL, bucket_LM)


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward, residual."""

    cfg: UMT5Config
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        normed_BLD = RMSNorm(self.cfg.layer_norm_epsilon, self.param_dtype, name="layer_norm")(x_BLD)
        return x_BLD + DenseReluDense(self.cfg, self.dtype, self.param_dtype, name="DenseReluDense")(normed_BLD)


class Block(nn.Module):
    """One encoder layer, in the form nn.scan wants: the carry and no output per layer."""

    cfg: UMT5Config
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"], bucket_LM: Int[Array, "L M"]
    ) -> tuple[Float[Array, "B L D"], None]:
        x_BLD = AttentionLayer(self.cfg, self.dtype, self.param_dtype, name="layer_0")(x_BLD, mask_BL, bucket_LM)
        return FeedForwardLayer(self.cfg, self.dtype, self.param_dtype, name="layer_1")(x_BLD), None


class Encoder(nn.Module):
    """The stack of layers, scanned, and the last norm."""

    cfg: UMT5Config
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"], mask_BL: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        cfg = self.cfg
        bucket_LM = jnp.asarray(
            relative_position_buckets(
                x_BLD.shape[1], cfg.relative_attention_num_buckets, cfg.relative_attention_max_distance
            )
        )
        packed: Any = self.get_variable("params", "block")
        if isinstance(packed, PackedLayers):
            block: Any = Block(cfg, self.dtype, self.param_dtype, parent=None).apply
            x_BLD = run_layers(packed, lambda params, x, _: block({"params": params}, x, mask_BL, bucket_LM)[0], x_BLD)
            return RMSNorm(cfg.layer_norm_epsilon, self.param_dtype, name="final_layer_norm")(x_BLD)
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=cfg.num_layers,
        )(cfg, self.dtype, self.param_dtype, name="block")
        x_BLD, _ = blocks(x_BLD, mask_BL, bucket_LM)
        return RMSNorm(cfg.layer_norm_epsilon, self.param_dtype, name="final_layer_norm")(x_BLD)


class UMT5Encoder(nn.Module):
    """Token ids to hidden states, in `dtype` or else in the parameters' own.

    Hidden states at padded positions are finite and mean nothing.
    """

    cfg: UMT5Config
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, ids_BL: Int[Array | np.ndarray, "B L"], mask_BL: Shaped[Array | np.ndarray, "B L"]
    ) -> Float[Array, "B L D"]:
        """Encodes captions.

        Args:
            ids_BL: what data/captions.py gives.
            mask_BL: nonzero where there is a token, zero where there is padding.
        """
        embedding = Embedding(self.cfg.vocab_size, self.cfg.d_model, self.param_dtype, name="shared")
        x_BLD = embedding(jnp.asarray(ids_BL))
        x_BLD = x_BLD.astype(self.dtype or x_BLD.dtype)
        return Encoder(self.cfg, self.dtype, self.param_dtype, name="encoder")(x_BLD, jnp.asarray(mask_BL, bool))
