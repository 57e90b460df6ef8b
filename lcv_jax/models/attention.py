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
from lcv_jax.kernels.block_select import pool_blocks
from lcv_jax.kernels.norm_rope import rms_norm, rotate
from lcv_jax.models.layers import Linear, RMSNorm, SplitLinear
from lcv_jax.models.rope import RopeTable
from lcv_jax.parallel.context import ContextParallel

Means = tuple[Float[Array, "B I N K"], Float[Array, "B J N K"]]
"""Of the blocks of queries and keys, float32."""
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

    @property
    def blocks(self) -> tuple[int, int] | tuple[None, None]:
        """Tokens of a block of queries and of a block of keys; None is dense attention."""
        if self.sparse is None or self.present_M is not None:
            return None, None
        return math.prod(self.sparse.chunk_3d_shape_q), math.prod(self.sparse.chunk_3d_shape_k)

    def attend(self, q: Array, k: Array, v: Array, means: Means | None = None) -> Array:
        """Attention of one shape, dense or sparse; dense while tokens are absent, whose blocks have no scores."""
        if self.present_M is not None:
            present_BM = jnp.broadcast_to(self.present_M, k.shape[:2])
            return self.context.attention(q, k, v, key_mask_BM=present_BM, implementation=self.implementation)
        block_q, block_k = self.blocks
        if self.sparse is None or block_q is None or block_k is None:
            return self.context.attention(q, k, v, implementation=self.implementation)
        return self.context.ordered_block_sparse_attention(
            q,
            k,
            v,
            block_q=block_q,
            block_k=block_k,
            sparsity=self.sparse.sparsity,
            cdf_threshold=self.sparse.cdf_threshold,
            means=means,
            implementation=self.implementation,
        )

    def attend_behind(self, q_BSNK: Array, k_BMNK: Array, v_BMNK: Array, means: Means | None) -> Array:
        """Attention where the first tokens are the condition, which attends to itself only."""
        c, (block_q, block_k) = self.num_condition, self.blocks
        own = rest = None
        if means is not None and block_q is not None and block_k is not None:
            q_BINK, k_BJNK = means
            own = q_BINK[:, : c // block_q], k_BJNK[:, : c // block_k]
            rest = q_BINK[:, c // block_q :], k_BJNK
        condition = self.attend(q_BSNK[:, :c], k_BMNK[:, :c], v_BMNK[:, :c], own)
        if c == q_BSNK.shape[1]:
            return condition
        return jnp.concatenate([condition, self.attend(q_BSNK[:, c:], k_BMNK, v_BMNK, rest)], axis=1)

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


class NormRope(nn.Module):
    """The RMS norm of queries or keys, and RoPE after it."""

    epsilon: float = 1e-6
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x_BSNK: Float[Array, "B S N K"], rope: RopeTable, block: int | None, plan: "AttentionPlan"
    ) -> tuple[Float[Array, "B S N K"], Float[Array, "B S N K"], Float[Array, "B I N K"] | None]:
        """The normed tokens, the rotated tokens and, with `block`, the means of blocks of rotated tokens.

        The means are None where tokens are split over devices.
        """
        weight = self.param("weight", nn.initializers.ones, (x_BSNK.shape[-1],), self.param_dtype)
        rotated_BSNK, means_BINK = plan.context.norm_rope(
            x_BSNK, weight, *rope, epsilon=self.epsilon, block=block, implementation=plan.implementation
        )
        # Only a cache wants tokens before RoPE; where there is none, XLA drops this.
        return rms_norm(x_BSNK, weight, self.epsilon), rotated_BSNK, means_BINK


def _tile(x_BMNK: Array, repeats: int) -> Array:
    return jnp.tile(x_BMNK, (repeats, 1, 1, 1))


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
        qkv = SplitLinear(3 * D, num_parts=3, dtype=self.dtype, param_dtype=self.param_dtype, name="qkv")
        q, k, v = (part.reshape(B, S, N, K) for part in qkv(x_BSD))
        block_q, block_k = plan.blocks
        rope = plan.rope[0][-S:], plan.rope[1][-S:]
        _, q, q_means = NormRope(param_dtype=self.param_dtype, name="q_norm")(q, rope, block_q, plan)
        normed_k, k, k_means = NormRope(param_dtype=self.param_dtype, name="k_norm")(k, rope, block_k, plan)
        own = {"k": normed_k, "v": v}
        if cache is not None:
            # A condition shared by several prompts, or by the two halves of guidance, is cached once.
            repeats = B // cache["k"].shape[0]
            cached = rotate(cache["k"].astype(k.dtype), plan.rope[0][:-S], plan.rope[1][:-S])
            if k_means is not None and block_k is not None:
                k_means = jnp.concatenate([_tile(pool_blocks(cached, block_k), repeats), k_means], axis=1)
            k = jnp.concatenate([_tile(cached, repeats), k], axis=1)
            v = jnp.concatenate([_tile(cache["v"], repeats).astype(v.dtype), v], axis=1)
        means = None if q_means is None or k_means is None else (q_means, k_means)
        if plan.chunk is not None:
            out = plan.attend_causally(q, k, v)
        elif plan.num_condition:
            out = plan.attend_behind(q, k, v, means)
        else:
            out = plan.attend(q, k, v, means)
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
