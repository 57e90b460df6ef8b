"""Floating point operations: of the transformer by formula, of any other program by counting its products.

A multiplication and an addition are two. XLA's own count is of no use here: it knows nothing about the insides of
attention kernels.
"""

import dataclasses
import math
from typing import Any

import jax

from lcv_jax.config import BlockSparseConfig, DiTConfig, Qwen2VLConfig

LOOPS = {"scan": "jaxpr", "while": "body_jaxpr"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Of forward passes of the transformer."""

    linear: float = 0.0
    """Projections and feed-forwards of video tokens: what `depth` blocks multiply each token by."""
    attention: float = 0.0
    """Of video tokens among themselves, sparse attention's scores of blocks included."""
    cross_attention: float = 0.0
    """To the caption, with the caption's keys and values."""
    other: float = 0.0
    """Modulation, embeddings, the final layer, adapters that are added at run time."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.linear + self.attention + self.cross_attention + self.other

    def __add__(self, other: "ForwardFlops") -> "ForwardFlops":
        return ForwardFlops(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self)}
        )

    def __mul__(self, times: int) -> "ForwardFlops":
        return ForwardFlops(**{field.name: times * getattr(self, field.name) for field in dataclasses.fields(self)})


def pairs_attended(num_queries: int, num_keys: int, sparse: BlockSparseConfig | None) -> float:
    """Pairs of a query and a key that are multiplied; of blocks chosen by their share of the softmax, the least."""
    if sparse is None:
        return float(num_queries * num_keys)
    block_q, block_k = math.prod(sparse.chunk_3d_shape_q), math.prod(sparse.chunk_3d_shape_k)
    num_blocks = num_keys // block_k
    chosen = 1 if sparse.sparsity is None else max(1, math.floor((1 - sparse.sparsity) * num_blocks))
    # Every selected pair twice, scores and values; the scores of pooled blocks once.
    return num_queries * chosen * block_k + num_queries // block_q * num_blocks / 2


def forward_flops(
    cfg: DiTConfig,
    *,
    grid: tuple[int, int, int],
    num_condition: int = 0,
    cached: int = 0,
    text_tokens: int = 512,
    adapter_rank: int = 0,
) -> ForwardFlops:
    """One forward pass of one sample.

    Args:
        grid: T H W of the tokens of the call.
        num_condition: latent frames of these that are the condition.
        cached: latent frames of the condition whose keys and values are given.
        text_tokens: of the caption; 0: a pass that leaves it out, to make that cache.
        adapter_rank: of adapters that are added at run time, all together.
    """
    D, F, layers = cfg.hidden_size, cfg.ffn_dim, cfg.depth
    frames, per_frame = grid[0], grid[1] * grid[2]
    S, condition, before = (count * per_frame for count in (frames, num_condition, cached))
    sparse = cfg.bsa_params if cfg.enable_bsa and frames + cached > 1 else None
    pairs = pairs_attended(S - condition, S + before, sparse)
    pairs += pairs_attended(condition, condition, sparse) if condition else 0
    noisy = S - condition if text_tokens else 0
    per_token = 4 * D * D + 3 * D * F  # qkv, proj, feed-forward
    linear = 2 * layers * (S * per_token + noisy * 2 * D * D)
    cross = 2 * layers * (text_tokens * 2 * D * D + 2 * noisy * text_tokens * D)
    other = 2 * layers * frames * cfg.adaln_tembed_dim * 6 * D
    other += 2 * frames * cfg.adaln_tembed_dim * (cfg.frequency_embedding_size + cfg.adaln_tembed_dim)
    patch = math.prod(cfg.patch_size)
    other += 2 * S * patch * cfg.in_channels * D
    if text_tokens:
        other += 2 * text_tokens * D * (cfg.caption_channels + D)
        other += 2 * S * patch * cfg.out_channels * D + 2 * frames * cfg.adaln_tembed_dim * 2 * D
    if adapter_rank:
        # Of the layers of n slices each slice has its own D x rank, and rank x its part of the output.
        own = (3 * D + 3 * D) + (D + D) + 2 * (D + F) + (F + D)
        other += 2 * layers * adapter_rank * (S * own + noisy * 4 * D)
        other += 2 * layers * adapter_rank * text_tokens * (2 * D + 2 * D)
    return ForwardFlops(
        linear=float(linear), attention=4 * layers * pairs * D, cross_attention=float(cross), other=float(other)
    )


def causal_flops(cfg: DiTConfig, *, grid: tuple[int, int, int], chunk: int, text_tokens: int) -> ForwardFlops:
    """One pass of causal training over a clean and a noisy copy of a clip, in chunks of latent frames."""
    frames, per_frame = grid[0], grid[1] * grid[2]
    both = forward_flops(cfg, grid=(2 * frames, *grid[1:]), num_condition=frames, text_tokens=text_tokens)
    ends = [min(start + chunk, frames) for start in range(0, frames, chunk)]
    # Both copies of a chunk see the clean frames before it, and one copy of itself.
    pairs = sum(2 * (end - start) * end for start, end in zip([0, *ends], ends, strict=False)) * per_frame**2
    return dataclasses.replace(both, attention=4.0 * cfg.depth * pairs * cfg.hidden_size)


def qwen2_vl_flops(
    cfg: Qwen2VLConfig, *, pictures: int, patches: int, begun: int, ends: int = 0, end: int = 0
) -> float:
    """Of a forward pass over one picture or video under its captions; the head is left out.

    Args:
        cfg: of the network.
        pictures: temporal patches.
        patches: of each picture.
        begun: tokens up to where captions differ, those of the pictures included.
        ends: captions.
        end: tokens of each that are its own.
    """
    vision, text = cfg.vision_config, cfg
    W, D, F = vision.embed_dim, text.hidden_size, text.intermediate_size
    S = pictures * patches
    tower = vision.depth * (S * (4 + 2 * vision.mlp_ratio) * W * W + 2 * S * patches * W)
    tower += S * vision.patch_features * W + S // 4 * (4 * W) * (4 * W + D)
    shared = text.num_key_value_heads * text.head_dim
    per_token = 2 * D * D + 2 * D * shared + 3 * D * F
    seen = begun * begun / 2 + ends * (end * begun + end * end / 2)
    layers = text.num_hidden_layers * ((begun + ends * end) * per_token + 2 * seen * D)
    return float(2 * (tower + layers))


def counted_flops(jaxpr: Any) -> float:
    """Of all matrix products and convolutions of a jaxpr, loops times their lengths; of branches the largest.

    Loops of unknown length count once. Attention kernels are not looked into.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * inner
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outputs
        elif name == "cond":
            total += max(counted_flops(branch) for branch in params["branches"])
        elif name in LOOPS:
            total += params.get("length", 1) * counted_flops(params[LOOPS[name]])
        elif name != "pallas_call":
            inner_jaxprs = jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr)
            total += sum(counted_flops(inner) for inner in inner_jaxprs if _is_jaxpr(inner))
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
