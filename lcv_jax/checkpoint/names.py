"""The name table: every parameter of the three networks and of an adapter, and the published tensors it is made of.

A table is a list of `Leaf`, one a parameter. The networks' tables follow from their configs alone, an adapter's from
the config and what the adapter covers; convert.py uses them in both directions.

Parameter paths are the published names: `decoder.up_blocks.0.resnets.1.conv1.weight` lies at
`params["decoder"]["up_blocks_0"]["resnets_1"]["conv1"]["kernel"]`. The layer number of a scanned stack vanishes from
the path and becomes the leading axis. Kernels are turned to (spatial..., in, out); nothing else moves.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from lcv_jax.config import DiTConfig, UMT5Config, VAEConfig

Shape = tuple[int, ...]

LISTED = 20
"""Names that an error lists of each kind before it only counts them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """One parameter and the published tensors it is stacked from.

    A tensor is reshaped to `split`, its axes are put in the order `axes`, and the result is reshaped to `turned`; the
    parameter stacks one of these for each index of `lead`.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    """The published tensors, in row-major order over `lead`."""
    lead: Shape
    published: Shape
    """The shape of each published tensor."""
    split: Shape
    axes: tuple[int, ...]
    turned: Shape
    """The shape of one tensor's part of the parameter."""

    @property
    def shape(self) -> Shape:
        """The parameter's shape."""
        return self.lead + self.turned

    @property
    def is_as_published(self) -> bool:
        """Whether a tensor goes into the parameter as it is."""
        return self.published == self.turned and self.axes == tuple(range(len(self.published)))

    def turn(self, tensor: np.ndarray) -> np.ndarray:
        """A published tensor as a slice of the parameter; a view where the axes allow it."""
        return tensor.reshape(self.split).transpose(self.axes).reshape(self.turned)

    def turn_back(self, part: np.ndarray) -> np.ndarray:
        """A slice of the parameter as the published tensor."""
        axes = np.argsort(self.axes)
        return part.reshape([self.split[axis] for axis in self.axes]).transpose(axes).reshape(self.published)

    def slices(self) -> Iterator[tuple[str, Shape]]:
        """Each published name with the index of its slice."""
        return zip(self.names, np.ndindex(*self.lead), strict=True)


Table = Sequence[Leaf]


def _path(pattern: str, leaf: str) -> tuple[str, ...]:
    """A module's name as a parameter's path: the scanned layer number "{}" vanishes, other numbers join their list."""
    joined = re.sub(r"\.(\d+)(?=\.|$)", r"_\1", pattern.replace(".{}", ""))
    return (*joined.split("."), leaf)


def _leaf(
    path: tuple[str, ...],
    pattern: str,
    published: Shape,
    *,
    lead: Shape = (),
    split: Shape | None = None,
    axes: tuple[int, ...] | None = None,
    turned: Shape | None = None,
) -> Leaf:
    split = published if split is None else split
    axes = tuple(range(len(split))) if axes is None else axes
    turned = tuple(split[axis] for axis in axes) if turned is None else turned
    names = tuple(pattern.format(*index) for index in np.ndindex(*lead))
    return Leaf(
        path=path, names=names, lead=lead, published=published, split=split, axes=axes, turned=turned
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Stack:
    """Makes the leaves of named layers, `lead` copies of each (none: a layer that is not scanned)."""

    lead: Shape = ()

    def as_is(self, name: str, kind: str, *shape: int) -> list[Leaf]:
        return [_leaf(_path(name, kind), f"{name}.{kind}", shape, lead=self.lead)]

    def norm(self, name: str, width: int, *, bias: bool = False) -> list[Leaf]:
        return self.as_is(name, "weight", width) + (self.as_is(name, "bias", width) if bias else [])

    def gamma(self, name: str, channels: int, spatial: int) -> list[Leaf]:
        shape = (channels,) + (1,) * spatial
        return [_leaf(_path(name, "gamma"), f"{name}.gamma", shape, lead=self.lead, turned=(channels,))]

    def kernel(self, name: str, out: int, *rest: int, bias: bool = True, flat: bool = False) -> list[Leaf]:
        """A linear layer or a convolution, (out, in, spatial...) as published; flat: spatial and in are one axis."""
        shape = (out, *rest)
        axes = (*range(2, len(shape)), 1, 0)
        turned = (math.prod(rest), out) if flat else None
        path = _path(name, "kernel")
        leaves = [_leaf(path, f"{name}.weight", shape, lead=self.lead, axes=axes, turned=turned)]
        return leaves + (self.as_is(name, "bias", out) if bias else [])


_once = _Stack()


def dit_table(cfg: DiTConfig) -> Table:
    """The transformer's parameters. The patch embedding, a convolution whose stride is its kernel, is a linear here."""
    D, E, K, F = cfg.hidden_size, cfg.adaln_tembed_dim, cfg.head_dim, cfg.ffn_dim
    layers = _Stack((cfg.depth,))
    return [
        *_once.kernel("x_embedder.proj", D, cfg.in_channels, *cfg.patch_size, flat=True),
        *_once.kernel("t_embedder.mlp.0", E, cfg.frequency_embedding_size),
        *_once.kernel("t_embedder.mlp.2", E, E),
        *_once.kernel("y_embedder.y_proj.0", D, cfg.caption_channels),
        *_once.kernel("y_embedder.y_proj.2", D, D),
        *layers.kernel("blocks.{}.adaLN_modulation.1", 6 * D, E),
        *layers.norm("blocks.{}.pre_crs_attn_norm", D, bias=True),
        *layers.kernel("blocks.{}.attn.qkv", 3 * D, D),
        *layers.norm("blocks.{}.attn.q_norm", K),
        *layers.norm("blocks.{}.attn.k_norm", K),
        *layers.kernel("blocks.{}.attn.proj", D, D),
        *layers.kernel("blocks.{}.cross_attn.q_linear", D, D),
        *layers.kernel("blocks.{}.cross_attn.kv_linear", 2 * D, D),
        *layers.norm("blocks.{}.cross_attn.q_norm", K),
        *layers.norm("blocks.{}.cross_attn.k_norm", K),
        *layers.kernel("blocks.{}.cross_attn.proj", D, D),
        *layers.kernel("blocks.{}.ffn.w1", F, D, bias=False),
        *layers.kernel("blocks.{}.ffn.w2", D, F, bias=False),
        *layers.kernel("blocks.{}.ffn.w3", F, D, bias=False),
        *_once.kernel("final_layer.adaLN_modulation.1", 2 * D, E),
        *_once.kernel("final_layer.linear", math.prod(cfg.patch_size) * cfg.out_channels, D),
    ]


def vae_table(cfg: VAEConfig) -> Table:
    """The autoencoder's parameters. The encoder's blocks are one flat list, the decoder's are grouped by level."""
    last = len(cfg.dim_mult) - 1
    deepest = cfg.base_dim * cfg.dim_mult[-1]

    table = [*_once.kernel("encoder.conv_in", cfg.base_dim, cfg.in_channels, 3, 3, 3)]
    width, block = cfg.base_dim, 0
    for level, multiple in enumerate(cfg.dim_mult):
        for _ in range(cfg.num_res_blocks):
            table += _residual(f"encoder.down_blocks.{block}", width, cfg.base_dim * multiple)
            width, block = cfg.base_dim * multiple, block + 1
        if level < last:
            name = f"encoder.down_blocks.{block}"
            table += _once.kernel(f"{name}.resample.1", width, width, 3, 3)
            if cfg.temperal_downsample[level]:
                table += _once.kernel(f"{name}.time_conv", width, width, 3, 1, 1)
            block += 1
    table += _middle("encoder", deepest)
    table += _once.gamma("encoder.norm_out", deepest, 3)
    table += _once.kernel("encoder.conv_out", 2 * cfg.z_dim, deepest, 3, 3, 3)

    table += _once.kernel("quant_conv", 2 * cfg.z_dim, 2 * cfg.z_dim, 1, 1, 1)
    table += _once.kernel("post_quant_conv", cfg.z_dim, cfg.z_dim, 1, 1, 1)

    table += _once.kernel("decoder.conv_in", deepest, cfg.z_dim, 3, 3, 3)
    table += _middle("decoder", deepest)
    came = deepest
    for level, multiple in enumerate(reversed(cfg.dim_mult)):
        name, width = f"decoder.up_blocks.{level}", cfg.base_dim * multiple
        for resnet in range(cfg.num_res_blocks + 1):
            table += _residual(f"{name}.resnets.{resnet}", came, width)
            came = width
        if level < last:
            table += _once.kernel(f"{name}.upsamplers.0.resample.1", width // 2, width, 3, 3)
            if cfg.temperal_downsample[last - 1 - level]:
                table += _once.kernel(f"{name}.upsamplers.0.time_conv", 2 * width, width, 3, 1, 1)
            came = width // 2
    table += _once.gamma("decoder.norm_out", came, 3)
    return [*table, *_once.kernel("decoder.conv_out", cfg.out_channels, came, 3, 3, 3)]


def _residual(name: str, came: int, width: int) -> list[Leaf]:
    return [
        *_once.gamma(f"{name}.norm1", came, 3),
        *_once.kernel(f"{name}.conv1", width, came, 3, 3, 3),
        *_once.gamma(f"{name}.norm2", width, 3),
        *_once.kernel(f"{name}.conv2", width, width, 3, 3, 3),
        *(_once.kernel(f"{name}.conv_shortcut", width, came, 1, 1, 1) if came != width else []),
    ]


def _middle(part: str, width: int) -> list[Leaf]:
    attention = f"{part}.mid_block.attentions.0"
    return [
        *_residual(f"{part}.mid_block.resnets.0", width, width),
        *_once.gamma(f"{attention}.norm", width, 2),
        *_once.kernel(f"{attention}.to_qkv", 3 * width, width, 1, 1),
        *_once.kernel(f"{attention}.proj", width, width, 1, 1),
        *_residual(f"{part}.mid_block.resnets.1", width, width),
    ]


UMT5_ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}
"""A second name under which the published text encoder stores its embedding once more."""


def umt5_table(cfg: UMT5Config) -> Table:
    """The text encoder's parameters."""
    D, F, NK = cfg.d_model, cfg.d_ff, cfg.num_heads * cfg.d_kv
    layers = _Stack((cfg.num_layers,))
    attention, ffn = "encoder.block.{}.layer.0", "encoder.block.{}.layer.1"
    return [
        *_once.as_is("shared", "weight", cfg.vocab_size, D),
        *layers.kernel(f"{attention}.SelfAttention.q", NK, D, bias=False),
        *layers.kernel(f"{attention}.SelfAttention.k", NK, D, bias=False),
        *layers.kernel(f"{attention}.SelfAttention.v", NK, D, bias=False),
        *layers.kernel(f"{attention}.SelfAttention.o", D, NK, bias=False),
        *layers.as_is(
            f"{attention}.SelfAttention.relative_attention_bias",
            "weight",
            cfg.relative_attention_num_buckets,
            cfg.num_heads,
        ),
        *layers.norm(f"{attention}.layer_norm", D),
        *layers.kernel(f"{ffn}.DenseReluDense.wi_0", F, D, bias=False),
        *layers.kernel(f"{ffn}.DenseReluDense.wi_1", F, D, bias=False),
        *layers.kernel(f"{ffn}.DenseReluDense.wo", D, F, bias=False),
        *layers.norm(f"{ffn}.layer_norm", D),
        *_once.norm("encoder.final_layer_norm", D),
    ]


_JOIN = "___lorahyphen___"
_ADAPTER_NAME = re.compile(_JOIN.join(("lora", "blocks", r"(\d+)", r"(\w+?)", r"(\w+?)")) + r"\.(lora_.*|alpha_scale)")


def adapted_linears(cfg: DiTConfig) -> dict[tuple[str, str], tuple[int, int]]:
    """The linear layers of a block that adapters may cover, (module, linear), each with its widths in and out."""
    D, F = cfg.hidden_size, cfg.ffn_dim
    return {
        ("attn", "qkv"): (D, 3 * D),
        ("attn", "proj"): (D, D),
        ("cross_attn", "q_linear"): (D, D),
        ("cross_attn", "kv_linear"): (D, 2 * D),
        ("cross_attn", "proj"): (D, D),
        ("ffn", "w1"): (D, F),
        ("ffn", "w2"): (F, D),
        ("ffn", "w3"): (D, F),
    }


def _adapter_leaves(cfg: DiTConfig, linear: tuple[str, str], pairs: int, rank: int) -> list[Leaf]:
    """One linear's low-rank pairs: `down` is one matrix of all pairs' rows, `up` one matrix a pair."""
    came, width = adapted_linears(cfg)[linear]
    path = ("blocks", *linear)
    prefix = _JOIN.join(("lora", "blocks", "{}", *linear))
    up = f"{prefix}.lora_up.weight" if pairs == 1 else f"{prefix}.lora_up.blocks.{{}}.weight"
    # With one pair the second index goes unused: str.format drops what a pattern does not name.
    return [
        _leaf(
            (*path, "down"),
            f"{prefix}.lora_down.weight",
            (pairs * rank, came),
            lead=(cfg.depth,),
            split=(pairs, rank, came),
            axes=(2, 0, 1),
        ),
        _leaf((*path, "up"), up, (width // pairs, rank), lead=(cfg.depth, pairs), axes=(1, 0)),
        _leaf((*path, "alpha_scale"), f"{prefix}.alpha_scale", (), lead=(cfg.depth,)),
    ]


def lora_table(shapes: Mapping[str, Shape], cfg: DiTConfig) -> Table:
    """The table of a published adapter: any subset of a block's linear layers, in every layer, of any rank.

    Args:
        shapes: the adapter's tensor names with their shapes.
        cfg: the transformer that the adapter is for.

    Raises:
        ValueError: no adapter of the published key format, or one for another model.
    """
    covered, depth = {}, 0
    for name, shape in shapes.items():
        match = _ADAPTER_NAME.fullmatch(name)
        if match is None:
            continue
        depth = max(depth, 1 + int(match[1]))
        if match[1] == "0" and match[4] == "lora_down.weight" and len(shape) == 2:
            ups = [up for up in shapes if up.startswith(name.removesuffix("down.weight") + "up.blocks.")]
            pairs = max(1, len(ups))
            covered[match[2], match[3]] = (shape[1], pairs, shape[0] // pairs)
    if not covered:
        raise ValueError(
            f"no adapter of the published key format: wanted names such as "
            f"lora{_JOIN}blocks{_JOIN}0{_JOIN}attn{_JOIN}qkv.lora_down.weight, got {listed(shapes)}"
        )
    return _adapter_leaves_of(covered, depth, cfg)


def adapter_table(shapes: Mapping[tuple[str, ...], Shape], cfg: DiTConfig) -> Table:
    """The table of an adapter that is already a tree, from the shapes at its paths.

    Raises:
        ValueError: the adapter is for another model.
    """
    downs = {path: shape for path, shape in shapes.items() if path[-1] == "down" and len(path) == len(shape) == 4}
    covered = {(path[1], path[2]): shape[1:] for path, shape in downs.items()}
    return _adapter_leaves_of(covered, max((shape[0] for shape in downs.values()), default=0), cfg)


def _adapter_leaves_of(covered: Mapping[tuple[str, str], Shape], depth: int, cfg: DiTConfig) -> Table:
    """The leaves of the linears that an adapter covers, each with its width in, pairs and rank."""
    known = adapted_linears(cfg)
    widths = {linear: shape[0] for linear, shape in covered.items() if linear in known}
    if depth != cfg.depth or any(width != known[linear][0] for linear, width in widths.items()):
        ffn = widths.pop(("ffn", "w2"), None)
        hidden = " or ".join(sorted({str(width) for width in widths.values()})) or "unknown"
        raise ValueError(
            f"the adapter is for another model: it has depth {depth}, hidden_size {hidden}"
            f"{f' and feed-forward width {ffn}' if ffn else ''}; "
            f"this model has depth {cfg.depth}, hidden_size {cfg.hidden_size} and feed-forward width {cfg.ffn_dim}"
        )
    # Linears that are not known yield no leaves: their names then are unexpected.
    return [
        leaf
        for linear, (_, pairs, rank) in covered.items()
        if linear in known
        for leaf in _adapter_leaves(cfg, linear, pairs, rank)
    ]


def published_shapes(table: Table) -> dict[str, Shape]:
    """Every published tensor of a table with its shape."""
    return {name: leaf.published for leaf in table for name in leaf.names}


def listed(names: Iterable[str]) -> str:
    """Names in an error: the first 20, and how many more."""
    names = list(names)
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
