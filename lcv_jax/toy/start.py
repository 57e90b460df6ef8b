"""Writes a fresh checkpoint to train on the procedural world: `python -m lcv_jax.toy.start OUT`.

    python -m lcv_jax.toy.start start
    python -m lcv_jax.toy.start start-torch --layout published
    python -m lcv_jax.toy.start start --clips clips/manifest.jsonl

The tokenizer has one token for each word of the grammar. The text encoder is random and stays so: each word's vector
is its own plus, through one head for each offset, those of the four words to either side, so that "left" after "moves"
and "left" after "pans" differ. The autoencoder and the transformer are random, to be trained; with clips the
autoencoder begins with their principal components (components.py).
"""

import dataclasses
import json
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import ml_dtypes
import numpy as np
import tyro

from lcv_jax.array_types import Float, Params
from lcv_jax.bounds import Seed, check_fields
from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.conversion import convert_checkpoint
from lcv_jax.checkpoint.export import STEMS
from lcv_jax.checkpoint.published import open_published
from lcv_jax.checkpoint.safetensors_files import Planned, published_order, write_safetensors
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.config import DiTConfig, PublishedConfig, UMT5Config, VAEConfig
from lcv_jax.data.clips import read_frames
from lcv_jax.data.manifest import read_manifest
from lcv_jax.own_files import naming_full_disk
from lcv_jax.toy.captions import vocabulary
from lcv_jax.toy.components import begin_with_components
from lcv_jax.toy.sizes import OFFSETS, SIZES, ToySize

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
_ENOUGH_BYTES = 1 << 27
NUM_CLIPS, CLIP_SIZE, CLIP_FPS = 96, (17, 64, 64), 8.0
"""Clips whose components are taken, at most; their frames, height and width; frames a second."""
_UNEVEN = 0.2
"""Weight of random kernels beside those that average."""
_LOG_VARIANCE = -5.0
"""Of latents at first: little enough not to drown what they say."""
_LOOK = 8.0
"""Bias of a head for the word that it looks at: exp(8) to 1 against any other."""
_NEIGHBOUR = 0.4
"""Weight of a neighbouring word's vector beside the word's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a fresh checkpoint to train on the procedural world."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder to write: it must not exist, or be empty."""
    size: Literal["small", "tiny"] = "small"
    """Of the networks; tiny is for tests."""
    layout: Literal["converted", "published"] = "converted"
    """As convert_torch_weights.py writes it, to train and generate; or as PyTorch has it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the weights are stored as."""
    clips: Path | None = None
    """Manifest of clips with whose principal components the autoencoder begins. None: it begins as a blur."""
    seed: Seed = 0
    """Of all weights."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.start") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line():
        start(parse_arguments(Arguments, arguments, prog=prog))


def start(arguments: Arguments) -> None:
    """Writes the folder.

    Raises:
        ValueError: a seed out of range, or OUT is there already; clips that are too short, or networks that are too
            small for their components.
        OSError: a file that cannot be read or written.
    """
    size, dtype = SIZES[arguments.size], np.dtype(arguments.dtype)
    clips_BTHWC = None if arguments.clips is None else clips_of(arguments.clips)
    if arguments.layout == "published":
        with workspace(arguments.out, _ENOUGH_BYTES) as work:
            write_published(work, size, arguments.seed, dtype, clips_BTHWC)
    else:
        with tempfile.TemporaryDirectory() as folder:
            with naming_full_disk(Path(folder)):
                write_published(Path(folder), size, arguments.seed, dtype, clips_BTHWC)
            convert_checkpoint(open_published(Path(folder)), arguments.out)
    print(f"wrote {arguments.out}")


def clips_of(manifest: Path) -> Float[np.ndarray, "B T H W 3"]:
    """Clips from all over a manifest, in -1..1, as the autoencoder of the small model takes them."""
    entries = [entry for entry in read_manifest(manifest, captions=False) if not entry.is_image]
    if not entries:
        raise ValueError(f"{manifest} has no clips: the components are those of videos")
    chosen = sorted({number * len(entries) // NUM_CLIPS for number in range(NUM_CLIPS)})
    clips = [read_frames(entries[number], CLIP_SIZE, CLIP_FPS) for number in chosen]
    return np.stack(clips).astype(np.float32) / 127.5 - 1


def write_published(
    folder: Path, size: ToySize, seed: int, dtype: Any, clips_BTHWC: Float[np.ndarray, "B T H W 3"] | None = None
) -> None:
    """Writes all components, into an existing folder, in the published layout; see `Arguments.clips`."""
    configs = {"dit": size.dit, "vae": size.vae, "text_encoder": size.text_encoder}
    makers: dict[str, Any] = {
        "dit": random_transformer,
        "vae": random_autoencoder,
        "text_encoder": random_text_encoder,
    }
    for number, (name, cfg) in enumerate(configs.items()):
        params = makers[name](cfg, np.random.default_rng([seed, number]))
        if name == "vae" and clips_BTHWC is not None:
            begin_with_components(params, size.vae, clips_BTHWC)
        state = convert.NETWORKS[name].torch_state(params, cfg)
        (folder / name).mkdir()
        _write_json(folder / name / "config.json", cfg.to_json())
        _write_weights(folder / name / f"{STEMS[name]}.safetensors", state, dtype)
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", size.scheduler.to_json())
    write_tokenizer(folder / "tokenizer")


def random_params(cfg: PublishedConfig, rng: np.random.Generator) -> Params:
    """Kernels that keep the variance of what goes in, norms of one, biases of zero, words of variance one."""
    network = next(network for network in convert.NETWORKS.values() if network.config is type(cfg))
    params: Params = {}
    for leaf in network.table(cfg):
        kind = leaf.path[-1]
        if kind == "kernel":
            fan_in = math.prod(leaf.turned[:-1])
            value = rng.standard_normal(leaf.shape, np.float32) / np.float32(math.sqrt(fan_in))
        elif leaf.path == ("shared", "weight"):
            value = rng.standard_normal(leaf.shape, np.float32)
        else:
            value = np.full(leaf.shape, kind in ("gamma", "weight"), np.float32)
        convert.place(params, leaf.path, value)
    return params


def random_autoencoder(cfg: VAEConfig, rng: np.random.Generator) -> Params:
    """It begins as a blur: latents carry the mean colours of their blocks, and residual branches add nothing.

    Random convolutions forget the colour of what they average, and for hundreds of steps nothing but grey is learnt.
    """

    def begin(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name == "quant_conv/bias":
            leaf[cfg.z_dim :] = _LOG_VARIANCE
        elif name.endswith("conv_in/bias"):
            leaf[...] = 0.5 * rng.standard_normal(leaf.shape)
        if "/conv2/" in name or name.endswith("/proj/kernel"):
            return np.zeros_like(leaf)
        if not name.endswith("kernel") or "/conv1/" in name or "attentions" in name:
            return leaf
        return (_averaging(name, leaf.shape, rng) + _UNEVEN * leaf).astype(np.float32)

    return jax.tree_util.tree_map_with_path(begin, random_params(cfg, rng))


def _averaging(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A convolution that turns channels, and averages the pixels and frames that a stride leaves out."""
    *_, before, after = shape
    kernel = np.zeros(shape)
    turned = math.sqrt(max(before, after) / after) * _orthogonal(rng, before, after)
    if "time_conv" in name and after == 2 * before:  # one frame becomes two
        half = _orthogonal(rng, before, before)
        kernel[-1, 0, 0] = np.concatenate([half, half], axis=1)
    elif "time_conv" in name:
        kernel[-2:, 0, 0] = turned / 2
    elif "resample" in name and name.startswith("encoder"):
        kernel[:2, :2] = turned / 4
    elif "resample" in name:
        kernel[1, 1] = turned
    else:  # the last frame is the present one
        kernel[-1, shape[1] // 2, shape[2] // 2] = turned
    return kernel


def random_transformer(cfg: DiTConfig, rng: np.random.Generator) -> Params:
    """Its blocks change nothing at first (Peebles and Xie, 2023)."""
    params = random_params(cfg, rng)
    blocks = params["blocks"]
    gates = (blocks["adaLN_modulation_1"], blocks["cross_attn"]["proj"], *params["final_layer"].values())
    for gate in gates:
        gate["kernel"][...] = 0
    return params


def random_text_encoder(cfg: UMT5Config, rng: np.random.Generator) -> Params:
    """Vectors of words that are far from one another, and heads that each look at one neighbour.

    Rounded to bfloat16, whatever it is stored as: embeddings made in training are those of the shipped model.
    """
    params = random_params(cfg, rng)
    attention = params["encoder"]["block"]["layer_0"]["SelfAttention"]
    # What the heads look at is the offset's business alone, but for a little.
    for name in ("q", "k"):
        attention[name]["kernel"] *= 0.1
    bias = attention["relative_attention_bias"]["weight"]
    bias[...] = 0
    for head, offset in enumerate(OFFSETS):
        # Near offsets have a bucket each: the first half of all for words before, the second for words after.
        bias[:, abs(offset) + (cfg.relative_attention_num_buckets // 2 if offset > 0 else 0), head] = _LOOK
    # An orthogonal matrix for each head's way in and out: neighbours arrive turned, each offset in its own subspace.
    D, NK = cfg.d_model, cfg.num_heads * cfg.d_kv
    attention["v"]["kernel"] = np.stack([_orthogonal(rng, D, NK) for _ in range(cfg.num_layers)])
    out = np.stack([_orthogonal(rng, NK, D) for _ in range(cfg.num_layers)])
    attention["o"]["kernel"] = np.float32(_NEIGHBOUR * math.sqrt(cfg.num_heads)) * out
    params["encoder"]["block"]["layer_1"]["DenseReluDense"]["wo"]["kernel"] *= 0.5
    return jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16).astype(np.float32), params)


def _orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    wide = max(rows, columns)
    return np.linalg.qr(rng.standard_normal((wide, wide)))[0][:rows, :columns].astype(np.float32)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer.json with a token for every word of the grammar; other words are <unk>."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    words = [*SPECIAL_TOKENS, *vocabulary()]
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", words.index("</s>"))]
    )
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special}
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", special)


def _write_weights(path: Path, state: Mapping[str, np.ndarray], dtype: Any) -> None:
    names = sorted(state, key=published_order)
    plan = [Planned(name=name, dtype=dtype, shape=state[name].shape) for name in names]
    write_safetensors(path, plan, (state[name].astype(dtype) for name in names))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
