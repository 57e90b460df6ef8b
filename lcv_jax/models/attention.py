"""Self-attention over video tokens and cross-attention to the caption.

Condition frames (report section 3.2): their tokens come first, attend to themselves only and get nothing from the
caption, so their keys and values are the same at every sampling step and can be given as a cache.

Causal training (objectives/causal.py): the condition is a clean copy of the noisy frames, and both are chunks. A chunk
attends to itself and to the clean chunks before it, in one call of attention per chunk and copy: no pair of tokens
that is masked is computed.
"""

import math

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, DTypeLike, Float
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.models.layers import Linear, RMSNorm
from lcv_jax.models.rope import RopeTable, rotate
from lcv_jax.parallel.context import ContextParallel

LayerCache = dict[str, Array]
"""Keys (before RoPE) and values of some tokens, B M N K each: {"k": ..., "v": ...}."""


@flax.struct.dataclass
class AttentionPlan:
    """What every layer's self-attention shares: where tokens are, which come first as the condition, how to attend."""

    rope: RopeTable
    """Of all tokens, cached ones included, in the tokens' order."""
    num_condition: int = flax.struct.field(pytree_node=False)
    """Condition tokens among those of this call."""
    sparse: BlockSparseConfig | None = flax.struct.field(pytree_node=False)
    """None is dense attention."""
    context: ContextParallel = flax.struct.field(pytree_node=False)
    """How attention is split over a mesh, if one is set."""
    implementation: str = flax.struct.field(pytree_node=False, default="auto")
    present_M: Bool[Array, " M"] | None = None
    """Which tokens, cached ones included, are there to be attended to; None is all."""
    chunk: int | None = flax.struct.field(pytree_node=False, default=None)
    """Tokens of a chunk: the condition is a clean copy of the noisy tokens, and attention is causal over chunks."""

    def attend(self, q: Array, k: Array, v: Array) -> Array:
        """Attention of one shape, dense or sparse; dense while tokens are absent, whose blocks have no scores."""
        if self.present_M is not None:
            present_BM = jnp.broadcast_to(self.present_M, k.shape[:2])
            return self.context.attention(q, k, v, key_mask_BM=present_BM, implementation=self.implementation)
        if self.sparse is None:
            return self.context.attention(q, k, v, implementation=self.implementation)
        return self.context.ordered_block_sparse_attention(
            q,
            k,
            v,
            block_q=math.prod(self.sparse.chunk_3d_shape_q),
            block_k=math.prod(self.sparse.chunk_3d_shape_k),
            sparsity=self.sparse.sparsity,
            cdf_threshold=self.sparse.cdf_threshold,
            implementation=self.implementation,
        )

    def attend_causally(self, q_BSNK: Array, k_BSNK: Array, v_BSNK: Array) -> Array:
        """Attention of a clean copy and, behind it, a noisy copy of the same tokens."""
        assert self.chunk is not None
        half = q_BSNK.shape[1] // 2
        clean, noisy = [], []
        for start in range(0, half, self.chunk):
            end = min(start + self.chunk, half)
            own = slice(half + start, half + end)
            clean.append(self.attend(q_BSNK[:, start:end], k_BSNK[:, :end], v_BSNK[:, :end]))
            k, v = (jnp.concatenate([x[:, :start], x[:, own]], axis=1) for x in (k_BSNK, v_BSNK))
            noisy.append(self.attend(q_BSNK[:, own], k, v))
        return jnp.concatenate(clean + noisy, axis=1)


class SelfAttention(nn.Module):
    """Fused qkv, RMS norm of queries and keys, RoPE, attention, projection."""

    cfg: DiTConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], plan: AttentionPlan, cache: LayerCache | None
    ) -> tuple[Float[Array, "B S D"], LayerCache]:
        """Returns the tokens' attention and their own keys (before RoPE) and values, as a cache would hold them."""
        B, S, D = x_BSD.shape
        N, K = self.cfg.num_heads, self.cfg.head_dim
        qkv = Linear(3 * D, dtype=self.dtype, param_dtype=self.param_dtype, name="qkv")(x_BSD)
        q, k, v = jnp.moveaxis(qkv.reshape(B, S, 3, N, K), 2, 0)
        q = RMSNorm(param_dtype=self.param_dtype, name="q_norm")(q)
        k = RMSNorm(param_dtype=self.param_dtype, name="k_norm")(k)
        own = {"k": k, "v": v}
        if cache is not None:
            # A condition shared by several prompts, or by the two halves of guidance, is cached once.
            repeats = B // cache["k"].shape[0]
            k = jnp.concatenate([jnp.tile(cache["k"], (repeats, 1, 1, 1)).astype(k.dtype), k], axis=1)
            v = jnp.concatenate([jnp.tile(cache["v"], (repeats, 1, 1, 1)).astype(v.dtype), v], axis=1)
        k = rotate(k, plan.rope)
        q = rotate(q, (plan.rope[0][-S:], plan.rope[1][-S:]))
        if plan.chunk is not None:
            out = plan.attend_causally(q, k, v)
        elif c := plan.num_condition:
            condition = plan.attend(q[:, :c], k[:, :c], v[:, :c])
            out = jnp.concatenate([condition, plan.attend(q[:, c:], k, v)], axis=1) if c < S else condition
        else:
            out = plan.attend(q, k, v)
        proj = Linear(D, dtype=self.dtype, param_dtype=self.param_dtype, name="proj")
        return proj(out.reshape(B, S, D)), own


class CrossAttention(nn.Module):
    """Video tokens attend to the caption's tokens; no RoPE."""

    cfg: DiTConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        text_BLD: Float[Array, "B L D"],
        text_mask_BL: Bool[Array, "B L"] | None,
        plan: AttentionPlan,
    ) -> Float[Array, "B S D"]:
        B, S, D = x_BSD.shape
        L = text_BLD.shape[1]
        N, K = self.cfg.num_heads, self.cfg.head_dim
        q = Linear(D, dtype=self.dtype, param_dtype=self.param_dtype, name="q_linear")(x_BSD).reshape(B, S, N, K)
        kv = Linear(2 * D, dtype=self.dtype, param_dtype=self.param_dtype, name="kv_linear")(text_BLD)
        k, v = jnp.moveaxis(kv.reshape(B, L, 2, N, K), 2, 0)
        q = RMSNorm(param_dtype=self.param_dtype, name="q_norm")(q)
        k = RMSNorm(param_dtype=self.param_dtype, name="k_norm")(k)
        out = plan.context.cross_attention(q, k, v, key_mask_BM=text_mask_BL, implementation=plan.implementation)
        return Linear(D, dtype=self.dtype, param_dtype=self.param_dtype, name="proj")(out.reshape(B, S, D))
