"""The video diffusion transformer. Start reading here.

A clip of latents is cut into patches, the tokens run through `depth` single-stream blocks (self-attention,
cross-attention to the caption, SwiGLU, modulated per latent frame by the timestep) and come out as a velocity that
points towards the data (report section 3.1; names follow the published checkpoint).

All tasks are one (report section 3.2): a clip whose first latent frames are given. Their timestep is 0, they see only
themselves, and so `encode_condition` can compute their keys and values once for all sampling steps.

With block-sparse attention the tokens are put into block order once, here, and nothing below permutes.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name

from lcv_jax.array_types import Array, Bool, DTypeLike, Float, Int, Params
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.kernels.block_order import Shape3D, TokenOrder, block_order, plain_order
from lcv_jax.kernels.platform import target_platform
from lcv_jax.kernels.residual_norm import affine_layer_norm, layer_norm, residual_norm
from lcv_jax.kernels.residual_norm import choose as choose_residual_norm
from lcv_jax.models.attention import AttentionPlan, CrossAttention, LayerCache, SelfAttention
from lcv_jax.models.layers import Linear
from lcv_jax.models.remat import BLOCK_INPUT, rematerialised
from lcv_jax.models.rope import rope_table
from lcv_jax.models.streamed import PackedLayers, at_layer, run_layers
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.sharding import constrain_tokens

Cache = dict[str, Float[Array, "P Bcache M N K"]]
"""Keys, before RoPE, and values of the condition tokens in every layer: {"k": ..., "v": ...}."""


@flax.struct.dataclass
class CachedFrames:
    """Where the frames of a cache are in time, when they are not simply the first ones (sampling/streaming.py)."""

    positions_T: Int[Array, " T"]
    next_position: Int[Array, ""]
    """Of the first frame after the cache."""
    present_T: Bool[Array, " T"] | None
    """Frames that may be attended to; None is all. With absent frames attention is dense."""


@flax.struct.dataclass
class BlockInputs:
    """What every block is given beside its tokens."""

    t_BTE: Float[Array, "B T E"]
    text_BLD: Float[Array, "B L D"] | None
    """None leaves the caption out: the tokens are all of condition frames."""
    text_mask_BL: Bool[Array, "B L"] | None
    plan: AttentionPlan
    order: TokenOrder = flax.struct.field(pytree_node=False)
    """Of the tokens of this call."""
    keep_cache: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def batched(self) -> dict[str, Array | None]:
        """Those with an entry for each sample."""
        return {"t_BTE": self.t_BTE, "text_BLD": self.text_BLD, "text_mask_BL": self.text_mask_BL}


def modulate(
    x_BSD: Float[Array, "B S D"], shift_BTD: Float[Array, "B T D"], scale_BTD: Float[Array, "B T D"], order: TokenOrder
) -> Float[Array, "B S D"]:
    """Layer norm without affine, then scale and shift per latent frame; float32."""
    framed, shift, scale = by_frame(order, layer_norm(x_BSD), shift_BTD, scale_BTD)
    return (framed * (1 + scale) + shift).reshape(x_BSD.shape)


def gated(
    x_BSD: Float[Array, "B S D"], gate_BTD: Float[Array, "B T D"], branch_BSD: Float[Array, "B S D"], order: TokenOrder
) -> Float[Array, "B S D"]:
    """X + gate * branch with one gate a latent frame, added up in float32."""
    branch, gate = by_frame(order, branch_BSD.astype(jnp.float32), gate_BTD)
    return (x_BSD.astype(jnp.float32) + (branch * gate).reshape(x_BSD.shape)).astype(x_BSD.dtype)


def by_frame(order: TokenOrder, x_BSD: Float[Array, "B S D"], *vectors_BTD: Float[Array, "B T D"]) -> tuple[Array, ...]:
    """Tokens and per-frame vectors in shapes that broadcast against each other.

    Split over devices, a device's tokens are no whole number of frames, and axes of time would be gathered. There the
    tokens come as runs of one frame each that no device's border cuts, and every run looks its frame up: a run has tens
    of tokens at least, so what is looked up is small.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and (parts := mesh.shape.get("seq", 1)) > 1:
        frames_S = order.frames()
        # Tokens that do not divide are padded by the partitioner, at places of its own: then every token for itself.
        run = 1 if frames_S.size % parts else math.gcd(order.run_length(), frames_S.size // parts)
        runs_BRrD = x_BSD.reshape(x_BSD.shape[0], -1, run, x_BSD.shape[-1])
        return runs_BRrD, *(jnp.take(vector_BTD, frames_S[::run], axis=1)[:, :, None] for vector_BTD in vectors_BTD)
    return order.frame_view(x_BSD), *(order.per_frame(vector_BTD) for vector_BTD in vectors_BTD)


def per_frame(linear: Linear, t_BTE: Float[Array, "B T E"]) -> Float[Array, "B T D"]:
    """A linear layer of one vector a latent frame, by itself.

    Fused with what is around it, its gradient is a product of arrays that are cut at frames, and XLA has no tiles for
    that where a device has several clips whose frames are no power of two: it refuses the whole program.
    """
    return jax.lax.optimization_barrier(linear(jax.lax.optimization_barrier(t_BTE)))


class ResidualNorm(nn.Module):
    """`gated`, and the affine layer norm of those tokens that the caption is for: all but the condition's."""

    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        gate_BTD: Float[Array, "B T D"],
        branch_BSD: Float[Array, "B S D"],
        given: BlockInputs,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B noisy D"]]:
        weight = self.param("weight", nn.initializers.ones, (x_BSD.shape[-1],), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (x_BSD.shape[-1],), self.param_dtype)
        first, implementation = given.plan.num_condition, given.plan.implementation
        mesh = jax.sharding.get_abstract_mesh()
        if not first and (mesh.empty or mesh.size == 1) and choose_residual_norm(implementation, x_BSD) != "xla":
            return residual_norm(
                x_BSD, branch_BSD, gate_BTD, weight, bias, order=given.order, implementation=implementation
            )
        # Rounded here: fused with the norm that reads it, XLA would keep the sum in float32 too.
        x_BSD = jax.lax.optimization_barrier(gated(x_BSD, gate_BTD, branch_BSD, given.order))
        return x_BSD, affine_layer_norm(x_BSD[:, first:], weight, bias)


class SwiGLU(nn.Module):
    """`w2(silu(w1 x) * w3 x)`."""

    cfg: DiTConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        def linear(features: int, name: str) -> Linear:
            return Linear(features, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name=name)

        hidden_BSF = nn.silu(linear(self.cfg.ffn_dim, "w1")(x_BSD)) * linear(self.cfg.ffn_dim, "w3")(x_BSD)
        return linear(x_BSD.shape[-1], "w2")(hidden_BSF)


class Block(nn.Module):
    """One layer: modulated self-attention, cross-attention, modulated feed-forward."""

    cfg: DiTConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], cache: LayerCache | None, given: BlockInputs
    ) -> tuple[Float[Array, "B S D"], LayerCache | None]:
        x_BSD = checkpoint_name(constrain_tokens(x_BSD), BLOCK_INPUT)
        D, order, num_condition = x_BSD.shape[-1], given.order, given.plan.num_condition
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        modulation = Linear(6 * D, dtype=jnp.float32, param_dtype=self.param_dtype, name="adaLN_modulation_1")
        shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = jnp.split(
            per_frame(modulation, nn.silu(given.t_BTE)), 6, axis=-1
        )

        h_BSD = modulate(x_BSD, shift_attn, scale_attn, order).astype(x_BSD.dtype)
        h_BSD, own = SelfAttention(self.cfg, **types, name="attn")(h_BSD, given.plan, cache)

        if given.text_BLD is None:
            x_BSD = gated(x_BSD, gate_attn, h_BSD, order)
        else:
            norm = ResidualNorm(param_dtype=self.param_dtype, name="pre_crs_attn_norm")
            x_BSD, normed = norm(x_BSD, gate_attn, h_BSD, given)
            cross = CrossAttention(self.cfg, **types, name="cross_attn")
            noisy_BSD = x_BSD[:, num_condition:] + cross(normed, given.text_BLD, given.text_mask_BL, given.plan)
            x_BSD = jnp.concatenate([x_BSD[:, :num_condition], noisy_BSD], axis=1)

        h_BSD = modulate(x_BSD, shift_ffn, scale_ffn, order).astype(x_BSD.dtype)
        h_BSD = SwiGLU(self.cfg, **types, name="ffn")(h_BSD)
        return gated(x_BSD, gate_ffn, h_BSD, order), own if given.keep_cache else None


class TimestepEmbedder(nn.Module):
    """Sinusoid of a timestep in 0..1000, then an MLP; float32, one vector a latent frame."""

    cfg: DiTConfig
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, timesteps_BT: Float[Array, "B T"]) -> Float[Array, "B T E"]:
        half = self.cfg.frequency_embedding_size // 2
        frequency = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angle = timesteps_BT.astype(jnp.float32)[..., None] * frequency
        types = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
        h = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        h = nn.silu(per_frame(Linear(self.cfg.adaln_tembed_dim, **types, name="mlp_0"), h))
        return per_frame(Linear(self.cfg.adaln_tembed_dim, **types, name="mlp_2"), h)


class CaptionEmbedder(nn.Module):
    """Projects the text encoder's output to the model's width."""

    cfg: DiTConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, text_BLC: Float[Array, "B L C"]) -> Float[Array, "B L D"]:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = nn.gelu(Linear(self.cfg.hidden_size, **types, name="y_proj_0")(text_BLC), approximate=True)
        return Linear(self.cfg.hidden_size, **types, name="y_proj_2")(h)


class PatchEmbedder(nn.Module):
    """Patches of 1 x h x w latents to tokens."""

    cfg: DiTConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents_BTHWC: Float[Array, "B T H W C"]) -> Float[Array, "B S D"]:
        _, h, w = self.cfg.patch_size
        patches = rearrange(latents_BTHWC, "B T (H h) (W w) C -> B (T H W) (h w C)", h=h, w=w)
        return Linear(self.cfg.hidden_size, dtype=self.dtype, param_dtype=self.param_dtype, name="proj")(patches)


class FinalLayer(nn.Module):
    """Modulated norm and a projection to patches of velocity; float32."""

    cfg: DiTConfig
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], t_BTE: Float[Array, "B T E"], order: TokenOrder
    ) -> Float[Array, "B S C"]:
        types = {"dtype": jnp.float32, "param_dtype": self.param_dtype}
        modulation = Linear(2 * x_BSD.shape[-1], **types, name="adaLN_modulation_1")
        shift_BTD, scale_BTD = jnp.split(per_frame(modulation, nn.silu(t_BTE)), 2, axis=-1)
        _, h, w = self.cfg.patch_size
        linear = Linear(h * w * self.cfg.out_channels, **types, name="linear")
        return linear(modulate(x_BSD, shift_BTD, scale_BTD, order))


class LongCatVideo(nn.Module):
    """The transformer: noisy latents, timesteps and a caption's embedding to a velocity.

    Attributes:
        cfg: the published config.
        dtype: of the computation outside the float32 islands; None is the parameters' own.
        param_dtype: of the parameters that `init` makes.
        implementation: of attention, see kernels/attention.py.
        context: how attention is split over the devices of a mesh, where `jax.set_mesh` set one.
        remat: what a backward pass computes again, see models/remat.py: all of each block; all but self-attention,
            the costliest; the same, with what is kept in the host's memory; or nothing.
    """

    cfg: DiTConfig
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    implementation: str = "auto"
    context: ContextParallel = ContextParallel()
    remat: str = "full"

    def setup(self) -> None:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.x_embedder = PatchEmbedder(self.cfg, **types)
        self.t_embedder = TimestepEmbedder(self.cfg, param_dtype=self.param_dtype)
        self.y_embedder = CaptionEmbedder(self.cfg, **types)
        # Scanned, so that compile time does not grow with depth; recomputed in the backward pass, so that memory does
        # not.
        self.blocks = nn.scan(
            rematerialised(Block, self.remat),
            variable_axes={"params": 0, "adapters": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=self.cfg.depth,
        )(self.cfg, **types)
        self.final_layer = FinalLayer(self.cfg, param_dtype=self.param_dtype)

    def __call__(
        self,
        latents_BTHWC: Float[Array, "B T H W C"],
        timesteps_BT: Float[Array, "B T"],
        text_BLD: Float[Array, "B L Dtext"],
        text_mask_BL: Bool[Array, "B L"] | Int[Array, "B L"],
        num_cond_latents: int = 0,
        cache: Cache | None = None,
        cached_frames: CachedFrames | None = None,
        chunk: int | None = None,
    ) -> Float[Array, "B T H W C"]:
        """Velocity of every latent frame, float32.

        Args:
            timesteps_BT: 0..1000, one a latent frame; 0 for condition frames.
            text_mask_BL: true where the caption has a token. With `text_tokens_zero_pad` the padding is attended to, as
                zeros.
            num_cond_latents: condition frames at the front of `latents_BTHWC`.
            cache: of `encode_condition`; then `latents_BTHWC` holds the noisy frames only and num_cond_latents stays 0.
                A batch of one serves all prompts.
            cached_frames: positions of the cache's frames; None: they are 0, 1, ... and all there.
            chunk: for causal training: the condition frames are a clean copy of the noisy ones, and attention is
                causal over chunks of so many latent frames, as in sampling/streaming.py.

        Raises:
            ValueError: latents off the patch or block grid; both a cache and condition frames; with `chunk` copies of
                different lengths, or block-sparse attention.
        """
        if cache is not None and num_cond_latents:
            raise ValueError(
                f"with a cache the latents hold no condition frames, got num_cond_latents={num_cond_latents}"
            )
        if chunk is not None and 2 * num_cond_latents != latents_BTHWC.shape[1]:
            raise ValueError(
                f"causal training wants a clean and a noisy copy of the same frames, got {latents_BTHWC.shape[1]} "
                f"frames with {num_cond_latents} clean ones"
            )
        text_mask_BL = text_mask_BL.astype(bool)
        text_BLD = self.y_embedder(text_BLD)
        if self.cfg.text_tokens_zero_pad:
            text_BLD = text_BLD * text_mask_BL[..., None].astype(text_BLD.dtype)
        grid = self._token_grid(latents_BTHWC)
        given = BlockInputs(
            t_BTE=self.t_embedder(timesteps_BT),
            text_BLD=text_BLD,
            text_mask_BL=None if self.cfg.text_tokens_zero_pad else text_mask_BL,
            **self._geometry(grid, num_cond_latents, cache, cached_frames, chunk),
        )
        x_BSD = given.order.apply(self.x_embedder(latents_BTHWC))
        x_BSD, _ = self._run_blocks(x_BSD, cache, given)
        patches_BSC = given.order.undo(self.final_layer(x_BSD, given.t_BTE, given.order))
        _, h, w = self.cfg.patch_size
        T, H, W = grid
        return rearrange(patches_BSC, "B (T H W) (h w C) -> B T (H h) (W w) C", T=T, H=H, W=W, h=h, w=w)

    def encode_condition(
        self,
        condition_BTHWC: Float[Array, "B T H W C"],
        cache: Cache | None = None,
        cached_frames: CachedFrames | None = None,
    ) -> dict[str, Float[Array, "P B S N K"]]:
        """Keys and values of the condition frames, to be given as `cache=` with the noisy frames only.

        Args:
            cache, cached_frames: earlier clean frames that these attend to beside themselves; as in `__call__`.
        """
        grid = self._token_grid(condition_BTHWC)
        given = BlockInputs(
            t_BTE=self.t_embedder(jnp.zeros(condition_BTHWC.shape[:2], jnp.float32)),
            text_BLD=None,
            text_mask_BL=None,
            keep_cache=True,
            **self._geometry(grid, grid[0] if cache is None else 0, cache, cached_frames),
        )
        own: Any
        _, own = self._run_blocks(given.order.apply(self.x_embedder(condition_BTHWC)), cache, given)
        return own

    def _run_blocks(self, x_BSD: Array, cache: Cache | None, given: BlockInputs) -> tuple[Array, Any]:
        """All blocks, whose parameters are here or rest in the host's memory."""
        packed: Any = self.get_variable("params", "blocks")
        if not isinstance(packed, PackedLayers):
            return self.blocks(x_BSD, cache, given)
        block: Any = Block(self.cfg, dtype=self.dtype, param_dtype=self.param_dtype, parent=None).apply
        adapters: Params = self.get_variable("adapters", "blocks", {})

        def samples(params: Params, x_BSD: Array, index: Array) -> tuple[Array, Any]:
            """One layer, sample by sample: weights cross once for both halves of guidance, and only one computes."""
            variables = {"params": params, "adapters": at_layer(adapters, index)}
            own_cache = at_layer(cache, index)
            if target_platform() != "gpu":  # one thing to the scheduler matters there alone; else to the same bits
                return block(variables, x_BSD, own_cache, given)

            def one(number: Array) -> tuple[Array, Any]:
                def sample(x: Array) -> Array:
                    return jax.lax.dynamic_slice_in_dim(x, number % x.shape[0], 1)

                x_1SD, kept, inputs = jax.tree.map(sample, (x_BSD, own_cache, given.batched))
                x_1SD, own = block(variables, x_1SD, kept, dataclasses.replace(given, **inputs))
                return x_1SD[0], jax.tree.map(lambda part: part[0], own)

            return jax.lax.map(one, jnp.arange(x_BSD.shape[0]))

        depth, size = packed.rows_PN.shape
        row = jax.ShapeDtypeStruct((size,), jnp.uint8)
        _, own = jax.eval_shape(lambda row: samples(packed.layer(row), x_BSD, jnp.int32(0)), row)
        owns = jax.tree.map(lambda part: jnp.zeros((depth, *part.shape), part.dtype), own)

        def layer(params: Params, carry: tuple[Array, Any], index: Array) -> tuple[Array, Any]:
            x_BSD, own = samples(params, carry[0], index)
            return x_BSD, jax.tree.map(lambda all, one: all.at[index].set(one), carry[1], own)

        return run_layers(packed, layer, (x_BSD, owns))

    def _token_grid(self, latents_BTHWC: Array) -> Shape3D:
        _, T, H, W, C = latents_BTHWC.shape
        _, h, w = self.cfg.patch_size
        if self.cfg.in_channels != C or H % h or W % w:
            raise ValueError(
                f"latents are B T H W C with C = {self.cfg.in_channels} and H, W multiples of {h} and {w}; "
                f"got {latents_BTHWC.shape}"
            )
        return T, H // h, W // w

    def _geometry(
        self,
        grid: Shape3D,
        num_cond_latents: int,
        cache: Cache | None,
        cached_frames: CachedFrames | None = None,
        chunk: int | None = None,
    ) -> dict[str, Any]:
        """The tokens' order and the attention plan of a call."""
        T, H, W = grid
        num_cached = 0 if cache is None else cache["k"].shape[2] // (H * W)
        whole = (num_cached + T, H, W)
        # Images are attended to densely, as published.
        sparse = self.cfg.bsa_params if self.cfg.enable_bsa and whole[0] > 1 else None
        if sparse and chunk is not None:
            raise ValueError("causal training has dense attention only: leave sparse out")
        order = sparse_order(sparse, grid, num_cond_latents, num_cached) if sparse else plain_order(grid)
        # Frames are the outermost level of any order, so the order of the whole ends in the order of this call's
        # tokens.
        whole_order = TokenOrder(((order.levels[0][0] * whole[0] // T, *order.levels[0][1:]), *order.levels[1:]))
        positions_T = present_M = None
        if cached_frames is not None:
            new_T = cached_frames.next_position + jnp.arange(T)
            positions_T = jnp.concatenate([cached_frames.positions_T, new_T])
            if cached_frames.present_T is not None:
                present_T = jnp.concatenate([cached_frames.present_T, jnp.ones(T, bool)])
                present_M = whole_order.apply(jnp.repeat(present_T, H * W), axis=0)
        if chunk is not None:
            positions_T = jnp.tile(jnp.arange(num_cond_latents), 2)
        table = rope_table(whole, self.cfg.head_dim, positions_T)
        cos_SH, sin_SH = (whole_order.apply(part, axis=0) for part in table)
        plan = AttentionPlan(
            rope=(cos_SH, sin_SH),
            num_condition=num_cond_latents * H * W,
            sparse=sparse,
            implementation=self.implementation,
            context=self.context,
            present_M=present_M,
            chunk=None if chunk is None else chunk * H * W,
        )
        return {"order": order, "plan": plan}


def sparse_order(
    sparse: BlockSparseConfig, grid: Shape3D, num_cond_latents: int = 0, cached_frames: int = 0
) -> TokenOrder:
    """Block order of the tokens of a clip whose condition frames are whole blocks.

    Raises:
        ValueError: the grid or the condition is no multiple of the blocks.
    """
    block_q, block_k = sparse.chunk_3d_shape_q, sparse.chunk_3d_shape_k
    frames = max(block_q[0], block_k[0])
    if num_cond_latents % frames or cached_frames % frames:
        raise ValueError(
            f"block-sparse attention needs condition frames in multiples of {frames} latent frames, "
            f"got {num_cond_latents or cached_frames}: use dense attention, or other condition frames"
        )
    return block_order(grid, block_q, block_k)
