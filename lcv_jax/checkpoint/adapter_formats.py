"""Adapters of other tools: their key layouts read and written where the mapping is exact; others recognised by name.

An adapter adds `scale * up @ down` to a linear layer. What layouts differ in:

    published   lora___lorahyphen___blocks___lorahyphen___0___... .lora_down.weight, .lora_up.weight, .alpha_scale: the
                scale itself. qkv and kv_linear may have a pair for each slice of theirs: .lora_up.blocks.0.weight, ...
    kohya       lora_unet_blocks_0_attn_qkv.lora_down.weight, .lora_up.weight, .alpha; the scale is alpha / rank
    comfyui     diffusion_model.blocks.0.attn.qkv.lora_A.weight, .lora_B.weight, .alpha; likewise
    diffusers   transformer.blocks.0.attn.qkv.lora_A.weight, .lora_B.weight; the scale is 1
    peft        base_model.model.blocks.0.attn.qkv.lora_A.weight, .lora_B.weight; likewise

Without `.alpha` the scale is 1. Other layouts have one pair a layer: pairs of slices are joined into one with a
block-diagonal `up`, and such a pair is split again. Layers that an adapter leaves out are filled with zeros, and ranks
that differ between layers are padded with them, for the published layout covers a linear in all layers or in none.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from lcv_jax.checkpoint.names import adapted_linears, listed
from lcv_jax.config import DiTConfig

Layout = Literal["published", "kohya", "comfyui", "diffusers", "peft"]
Place = tuple[int, str, str]
"""Block, module, linear."""
Tensors = dict[str, np.ndarray]

STACKED = {"qkv": 3, "kv_linear": 2}
_JOIN = "___lorahyphen___"
_PREFIXES: dict[Layout, str] = {
    "published": f"lora{_JOIN}blocks{_JOIN}",
    "kohya": "lora_unet_blocks_",
    "comfyui": "diffusion_model.blocks.",
    "diffusers": "transformer.blocks.",
    "peft": "base_model.model.blocks.",
}
_OTHERS = {
    r"dora_scale|lora_magnitude_vector": "DoRA, which also rescales weights: merge it into the model with its own tool",
    r"lokr_": "LoKr (LyCORIS), which is no low-rank pair: merge it into the model, or train a plain LoRA",
    r"hada_|loha_": "LoHa (LyCORIS), which is no low-rank pair: merge it into the model, or train a plain LoRA",
    r"lora_mid": "LoCon with a Tucker core, for convolutions, which this model's blocks do not have",
    r"lora_te|text_encoder": "an adapter of a text encoder, which this model's adapters do not cover",
    r"\.diff(_b)?$": "full differences of weights, which are no low-rank pairs: merge them into the model",
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """What an adapter adds to a linear layer: scale * up @ down."""

    down: np.ndarray
    """R, in."""
    up: np.ndarray
    """out, R."""
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def layout_of(names: Iterable[str]) -> Layout | None:
    """The layout whose names these are; None: none of them."""
    counts = {layout: sum(name.startswith(prefix) for name in names) for layout, prefix in _PREFIXES.items()}
    best = max(counts, key=lambda layout: counts[layout])
    return best if counts[best] else None


def advice(names: Iterable[str]) -> str:
    """What to do about a file that cannot be read as it is."""
    names = list(names)
    for pattern, told in _OTHERS.items():
        if any(re.search(pattern, name) for name in names):
            return f"it is {told}"
    layout = layout_of(names)
    if layout is None:
        return "its layout is unknown: convert-adapter reads " + ", ".join(_PREFIXES)
    if layout == "published":
        return "an adapter of only some blocks is completed by `lcv convert-adapter FILE OUT.safetensors`"
    return f"it is in the layout of {layout}: `lcv convert-adapter FILE OUT.safetensors` converts it"


def read_pairs(tensors: Mapping[str, np.ndarray], cfg: DiTConfig) -> dict[Place, Pair]:
    """The pairs of an adapter in any layout.

    Raises:
        ValueError: another layout, tensors without a place in the transformer, or shapes that do not fit.
    """
    layout = layout_of(tensors)
    if layout is None or any(re.search(pattern, name) for name in tensors for pattern in _OTHERS):
        raise ValueError(f"cannot be converted: {advice(tensors)}; got {listed(tensors)}")
    places = _places(layout, cfg)
    parts: dict[Place, dict[str, np.ndarray]] = {}
    strange = []
    for name, tensor in tensors.items():
        stem, kind = _split(name)
        if stem not in places or kind is None:
            strange.append(name)
        else:
            parts.setdefault(places[stem], {})[kind] = tensor
    if strange:
        raise ValueError(f"{len(strange)} tensors have no place in this transformer: {listed(strange)}")
    return {place: _pair(layout, place, part, cfg) for place, part in sorted(parts.items())}


def write_pairs(pairs: Mapping[Place, Pair], layout: Layout, cfg: DiTConfig) -> Tensors:
    """An adapter in a layout: the inverse of `read_pairs`."""
    if layout == "published":
        return _published(pairs, cfg)
    names = {place: stem for stem, place in _places(layout, cfg).items()}
    down, up = ("lora_down", "lora_up") if layout == "kohya" else ("lora_A", "lora_B")
    tensors: Tensors = {}
    for place, pair in pairs.items():
        stem, factor = names[place], pair.up
        if layout in ("diffusers", "peft"):
            factor = _scaled(pair.up, pair.scale)
        else:
            tensors[f"{stem}.alpha"] = np.array(pair.scale * pair.rank, np.float32)
        tensors |= {f"{stem}.{down}.weight": pair.down, f"{stem}.{up}.weight": factor}
    return tensors


def weighted_sum(adapters: Sequence[tuple[Mapping[Place, Pair], float]]) -> dict[Place, Pair]:
    """One adapter that adds what several add together, each times its weight; its ranks are the sums of theirs."""
    places = dict.fromkeys(place for pairs, _ in adapters for place in pairs)
    return {
        place: _sum([(pairs[place], weight) for pairs, weight in adapters if place in pairs], STACKED.get(place[2], 1))
        for place in places
    }


def _sum(weighted: Sequence[tuple[Pair, float]], count: int) -> Pair:
    if not all(_is_block_diagonal(pair.up, count) for pair, _ in weighted):
        count = 1
    downs, ups = [], []
    for pair, weight in weighted:
        of_slices = _slices(pair, count, pair.rank // count)
        downs.append(of_slices[0])
        scaled = (up.astype(np.float32) * np.float32(pair.scale * weight) for up in of_slices[1])
        ups.append([up.astype(pair.up.dtype) for up in scaled])
    joined = [np.concatenate(of_slice, axis=1) for of_slice in zip(*ups, strict=True)]
    down = np.concatenate([down for of_slice in zip(*downs, strict=True) for down in of_slice])
    return Pair(down, _block_diagonal(joined), 1.0)


def _places(layout: Layout, cfg: DiTConfig) -> dict[str, Place]:
    """Names of layers in a layout, without what follows the name."""
    between = {"published": _JOIN, "kohya": "_"}.get(layout, ".")
    return {
        _PREFIXES[layout] + between.join((str(block), *linear)): (block, *linear)
        for block in range(cfg.depth)
        for linear in adapted_linears(cfg)
    }


def _split(name: str) -> tuple[str, str | None]:
    """A tensor's layer, and what it is of it: down, up, up.0, up.1, ..., alpha, alpha_scale; None: something else."""
    half = r"(lora_A|lora_down|lora_B|lora_up)(?:\.default)?(?:\.blocks\.(\d+))?\.weight"
    found = re.fullmatch(rf"(.*?)\.(?:{half}|(alpha|alpha_scale))", name)
    if found is None:
        return name, None
    if found[4]:
        return found[1], found[4]
    kind = "down" if found[2] in ("lora_A", "lora_down") else "up"
    return found[1], kind if found[3] is None else f"{kind}.{found[3]}"


def _pair(layout: Layout, place: Place, part: Mapping[str, np.ndarray], cfg: DiTConfig) -> Pair:
    named = f"block {place[0]}, {place[1]}.{place[2]}"
    width_in, width_out = adapted_linears(cfg)[place[1:]]
    ups = [part[name] for name in sorted(part) if name.startswith("up")]
    if "down" not in part or not ups:
        raise ValueError(f"{named}: one half of its pair is missing, it has {', '.join(part)}")
    up = ups[0] if len(ups) == 1 else _block_diagonal(ups)
    down = part["down"]
    fits = down.ndim == up.ndim == 2 and down.shape == (up.shape[1], width_in) and up.shape[0] == width_out
    if not fits:
        raise ValueError(
            f"the adapter is for another model: {named} has pairs of {down.shape} and {up.shape}, "
            f"this model's are (rank, {width_in}) and ({width_out}, rank)"
        )
    scale = 1.0
    if "alpha_scale" in part:
        scale = float(part["alpha_scale"])
    elif "alpha" in part:
        scale = float(part["alpha"]) / down.shape[0]
    return Pair(down, up, scale)


def _published(pairs: Mapping[Place, Pair], cfg: DiTConfig) -> Tensors:
    covered = dict.fromkeys(place[1:] for place in pairs)
    names = {place: stem for stem, place in _places("published", cfg).items()}
    tensors: Tensors = {}
    for linear in covered:
        own = {block: pairs[block, *linear] for block in range(cfg.depth) if (block, *linear) in pairs}
        count = STACKED.get(linear[1], 1)
        if not all(_is_block_diagonal(pair.up, count) for pair in own.values()):
            count = 1
        rank = max(-(-pair.rank // count) for pair in own.values())
        like = next(iter(own.values()))
        for block in range(cfg.depth):
            stem, pair = names[block, *linear], own.get(block)
            if pair is None:
                down, up = np.zeros_like(like.down[:count]), np.zeros_like(like.up[:, :count])
                pair = Pair(down, up, 1.0)
            downs, ups = _slices(pair, count, rank)
            tensors[f"{stem}.lora_down.weight"] = np.concatenate(downs)
            for number, up in enumerate(ups):
                tensors[f"{stem}.lora_up.weight" if count == 1 else f"{stem}.lora_up.blocks.{number}.weight"] = up
            tensors[f"{stem}.alpha_scale"] = np.array(pair.scale, np.float32)
    return tensors


def _slices(pair: Pair, count: int, rank: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A pair with a block-diagonal `up` as one for each slice of the output, of a rank that is padded to."""
    downs = np.split(pair.down, count)
    ups = [np.split(part, count, axis=1)[number] for number, part in enumerate(np.split(pair.up, count))]
    room = rank - downs[0].shape[0]
    return [np.pad(down, ((0, room), (0, 0))) for down in downs], [np.pad(up, ((0, 0), (0, room))) for up in ups]


def _block_diagonal(ups: list[np.ndarray]) -> np.ndarray:
    height, width = ups[0].shape
    whole = np.zeros((height * len(ups), width * len(ups)), ups[0].dtype)
    for number, up in enumerate(ups):
        whole[number * height : (number + 1) * height, number * width : (number + 1) * width] = up
    return whole


def _is_block_diagonal(up: np.ndarray, count: int) -> bool:
    if up.shape[0] % count or up.shape[1] % count:
        return False
    blocks = up.reshape(count, up.shape[0] // count, count, up.shape[1] // count)
    return all(not blocks[row, :, column].any() for row in range(count) for column in range(count) if row != column)


def _scaled(up: np.ndarray, scale: float) -> np.ndarray:
    """Exact where the scale is a power of two; otherwise in float32, rounded once."""
    if np.frexp(scale)[0] == 0.5:
        return (up.astype(np.float32) * np.float32(scale)).astype(up.dtype)
    return up.astype(np.float32) * np.float32(scale)
