"""Qwen2-VL's text model over text and pictures (arXiv 2409.12191), and both towers as one network.

Several sequences that begin alike, such as one picture under several captions, are one sequence here: the beginning
once, then their ends one after the other (`Branches`). Ends see the beginning and themselves, so the hidden states are
those of the separate sequences, and the beginning is computed once. Tokens that are generated one after the other keep
their keys and values in a cache instead (`Cached`). Not here: token ids and what the answer is read from
(models/judges.py, models/captioner.py). Names follow the published checkpoint.
"""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcv_jax.array_types import Array, Bool, DTypeLike, Float, Int
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.kernels.attention import attention
from lcv_jax.models.layers import Embedding, Linear, RMSNorm
from lcv_jax.models.qwen2_rope import Rotation, rotate, text_rotation
from lcv_jax.models.qwen2_vision import VisionTower
from lcv_jax.models.remat import BLOCK_INPUT, rematerialised
from lcv_jax.parallel.sharding import constrain_samples, over_samples


@flax.struct.dataclass
class Branches:
    """How a sequence of tokens is a beginning and several ends of equal length that follow it."""

    begun_BP: Any
    """An array, or its shape: which tokens of the beginning are no padding; padding is at its end."""
    num_ends: int = flax.struct.field(pytree_node=False)

    def attend(self, q_BLNK: Array, k_BLNK: Array, v_BLNK: Array, implementation: str) -> Array:
        """Causal attention of the beginning to itself, and of each end to the beginning and itself."""
        causal = functools.partial(attention, causal=True, implementation=implementation)

        def attend(q: Array, k: Array, v: Array, begun_BP: Array) -> Array:
            P, ends = begun_BP.shape[1], self.num_ends
            out = causal(q[:, :P], k[:, :P], v[:, :P])
            if not ends:
                return out
            q_end = _by_end(q[:, P:], ends)
            k_end, v_end = (
                jnp.concatenate([jnp.repeat(x[:, :P], ends, axis=0), _by_end(x[:, P:], ends)], axis=1) for x in (k, v)
            )
            own = jnp.ones(q_end.shape[:2], bool)
            allowed = jnp.concatenate([jnp.repeat(begun_BP, ends, axis=0), own], axis=1)
            out_end = causal(q_end, k_end, v_end, key_mask_BM=allowed)
            return jnp.concatenate([out, out_end.reshape(q[:, P:].shape)], axis=1)

        return over_samples(attend, q_BLNK, k_BLNK, v_BLNK, self.begun_BP)


@flax.struct.dataclass
class Cached:
    """How tokens continue a sequence whose keys and values are in the variable collection "cache".

    The first call fills the cache with the prompt; each further one brings one token.
    """

    at: Int[Array, ""]
    """Place of the first new token."""
    seen_BM: Bool[Array, "B M"]
    """Which of the cache's places hold tokens, the new ones included; padding and places to come do not."""

    def attend(self, q_BLNK: Array, own: tuple[Array, Array], kept: tuple[Array, Array], implementation: str) -> Array:
        """Causal attention of a prompt to itself, or of one token to all that is kept.

        Args:
            own: keys and values of the new tokens.
            kept: those of the whole cache.
        """
        attend = functools.partial(attention, implementation=implementation)
        if q_BLNK.shape[1] > 1:
            return over_samples(functools.partial(attend, causal=True), q_BLNK, *own)
        return over_samples(lambda q, k, v, seen_BM: attend(q, k, v, key_mask_BM=seen_BM), q_BLNK, *kept, self.seen_BM)


def _by_end(x_BLNK: Array, ends: int) -> Array:
    """B (ends l) N K -> (B ends) l N K."""
    B, L, N, K = x_BLNK.shape
    return x_BLNK.reshape(B * ends, L // ends, N, K)


class Attention(nn.Module):
    """Rotation, causal attention in which several query heads share a head of keys and values, projection."""

    cfg: Qwen2VLConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], rotation: Rotation, others: Branches | Cached
    ) -> Float[Array, "B L D"]:
        cfg = self.cfg
        B, L, D = x_BLD.shape
        shared, per_head = cfg.num_key_value_heads, cfg.num_attention_heads // cfg.num_key_value_heads

        def project(name: str, heads: int) -> Float[Array, "B L N K"]:
            linear = Linear(heads * cfg.head_dim, dtype=self.dtype, param_dtype=self.param_dtype, name=name)
            return linear(x_BLD).reshape(B, L, heads, cfg.head_dim)

        q = rotate(project("q_proj", cfg.num_attention_heads), rotation)
        own = rotate(project("k_proj", shared), rotation), project("v_proj", shared)

        def all_heads(keys_and_values: tuple[Array, Array]) -> tuple[Array, Array]:
            k, v = (jnp.repeat(x, per_head, axis=2) for x in keys_and_values)
            return k, v

        if isinstance(others, Cached):
            kept = self._keep("keys", own[0], others), self._keep("values", own[1], others)
            out = others.attend(q, all_heads(own), all_heads(kept), self.implementation)
        else:
            out = others.attend(q, *all_heads(own), self.implementation)
        return Linear(D, False, self.dtype, self.param_dtype, name="o_proj")(out.reshape(B, L, D))

    def _keep(self, name: str, new_BLNK: Array, cached: Cached) -> Array:
        """The cache with the new tokens' keys, or values."""
        B, _, N, K = new_BLNK.shape
        cache = self.variable("cache", name, jnp.zeros, (B, cached.seen_BM.shape[1], N, K), new_BLNK.dtype)
        cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, new_BLNK, cached.at, axis=1)
        return cache.value


class MLP(nn.Module):
    """The gated feed-forward `down(silu(gate x) * up x)`."""

    cfg: Qwen2VLConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        def linear(name: str, features: int) -> Linear:
            return Linear(features, False, self.dtype, self.param_dtype, name=name)

        gate_BLF = jax.nn.silu(linear("gate_proj", self.cfg.intermediate_size)(x_BLD))
        up_BLF = linear("up_proj", self.cfg.intermediate_size)(x_BLD)
        return linear("down_proj", x_BLD.shape[-1])(gate_BLF * up_BLF)


class Layer(nn.Module):
    """One layer, in the form nn.scan wants: the carry and no output per layer."""

    cfg: Qwen2VLConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(
        self, x_BLD: Float[Array, "B L D"], rotation: Rotation, others: Branches | Cached
    ) -> tuple[Float[Array, "B L D"], None]:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(RMSNorm, self.cfg.rms_norm_eps, self.param_dtype)
        attend = Attention(self.cfg, implementation=self.implementation, name="self_attn", **types)
        x_BLD = checkpoint_name(x_BLD, BLOCK_INPUT)
        x_BLD = x_BLD + attend(norm(name="input_layernorm")(x_BLD), rotation, others)
        x_BLD = x_BLD + MLP(self.cfg, name="mlp", **types)(norm(name="post_attention_layernorm")(x_BLD))
        return constrain_samples(x_BLD), None


class TextModel(nn.Module):
    """Token ids, some of them overwritten by pictures' tokens, to hidden states after the last norm."""

    cfg: Qwen2VLConfig
    num_embeddings: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        ids_BL: Int[Array, "B L"],
        visual_BVD: Float[Array, "B V D"],
        visual_BL: Int[Array, "B L"],
        rotation: Rotation,
        others: Branches | Cached,
    ) -> Float[Array, "B L D"]:
        """Hidden states.

        Args:
            visual_BVD: the tokens of a sequence's pictures.
            visual_BL: which of them stands at each place; -1 where the id counts.
        """
        x_BLD = Embedding(self.num_embeddings, self.cfg.hidden_size, self.param_dtype, name="embed_tokens")(ids_BL)
        x_BLD = x_BLD.astype(self.dtype or x_BLD.dtype)
        seen_BLD = jnp.take_along_axis(visual_BVD, jnp.maximum(visual_BL, 0)[..., None], axis=1)
        x_BLD = constrain_samples(jnp.where(visual_BL[..., None] >= 0, seen_BLD.astype(x_BLD.dtype), x_BLD))
        layers = nn.scan(
            rematerialised(Layer, self.remat),
            variable_axes={"params": 0, "adapters": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast),
            length=self.cfg.num_hidden_layers,
        )(self.cfg, self.dtype, self.param_dtype, self.implementation, name="layers")
        x_BLD, _ = layers(x_BLD, rotation, others)
        return RMSNorm(self.cfg.rms_norm_eps, self.param_dtype, name="norm")(x_BLD)


class Qwen2VL(nn.Module):
    """Both towers.

    Attributes:
        cfg: the published config.
        num_embeddings: rows of the embedding table, which added tokens change.
        dtype: of the computation outside the norms and softmax; None is the parameters' own.
        param_dtype: of the parameters that `init` makes.
        implementation: of attention, see kernels/attention.py.
        exact_frequencies: see models/qwen2_rope.py.
        remat: what a backward pass computes again, see models/remat.py.
    """

    cfg: Qwen2VLConfig
    num_embeddings: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"
    exact_frequencies: bool = False
    remat: str = "none"

    def setup(self) -> None:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        types |= {"implementation": self.implementation, "remat": self.remat}
        self.visual = VisionTower(self.cfg.vision_config, exact_frequencies=self.exact_frequencies, **types)
        self.model = TextModel(self.cfg, self.num_embeddings, **types)

    def encode(
        self,
        patches_BTSC: Float[Array, "B T S C"],
        cells_BS2: Int[Array, "B S 2"],
        mask_BTS: Bool[Array, "B T S"],
    ) -> Float[Array, "B V D"]:
        """The tokens of each sample's temporal patches, one after the other, padding included.

        Args:
            patches_BTSC: normalised pixels of the patches of T temporal patches.
            cells_BS2: row and column of a patch, the same in each of them.
            mask_BTS: false where there is padding.
        """
        B, T, S, C = patches_BTSC.shape
        cells_NS2 = jnp.repeat(cells_BS2, T, axis=0)
        tokens_NLD = self.visual(patches_BTSC.reshape(B * T, S, C), cells_NS2, mask_BTS.reshape(B * T, S))
        return tokens_NLD.reshape(B, -1, tokens_NLD.shape[-1])

    def __call__(
        self,
        ids_BL: Int[Array, "B L"],
        visual_BVD: Float[Array, "B V D"],
        visual_BL: Int[Array, "B L"],
        positions: Int[Array, "B L"] | Int[Array, "B L 3"],
        others: Branches | Cached,
    ) -> Float[Array, "B L D"]:
        """Hidden states after the last norm.

        Args:
            visual_BVD: of `encode`.
            visual_BL: which of them stands at each place; -1 where the id counts.
            positions: see `text_rotation`.
        """
        rotation = text_rotation(positions, self.cfg, exact=self.exact_frequencies)
        return self.model(ids_BL, visual_BVD, visual_BL, rotation, others)
