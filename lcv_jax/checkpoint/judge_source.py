"""A published reward model, opened: its files, settings, tokenizer and templates are read and checked, and no weights.

    HPSv3          FOLDER/HPSv3.safetensors, the complete model
    VideoReward    FOLDER/model_config.json and FOLDER/checkpoint-N/model.pth, the complete model with unmerged LoRA; or
                   checkpoint-N/adapter_model.safetensors and non_lora_state_dict.pth, over the base model's weights

The base model is a folder of Qwen2-VL with config.json and tokenizer.json: given, or the one in FOLDER or beside it.
The newest checkpoint counts.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcv_jax.checkpoint import convert, names
from lcv_jax.checkpoint.judge_names import EMBEDDING, UNUSED, head_names, judge_table, plain_name
from lcv_jax.checkpoint.judge_templates import read_templates
from lcv_jax.checkpoint.judge_tokenizer import open_tokenizer
from lcv_jax.checkpoint.qwen2_vl import is_qwen2_vl
from lcv_jax.checkpoint.safetensors_files import SafetensorsFile, Tensor, open_folder, open_safetensors
from lcv_jax.checkpoint.torch_files import open_torch_file
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.models.judges import DIMENSIONS, HPSV3, JudgeConfig

SUFFIXES = {".pth": open_torch_file, ".safetensors": open_safetensors}
HPSV3_PIXELS = 256 * 28 * 28
VIDEO_MIN_PIXELS = 128 * 28 * 28
"""Not among VideoReward's published settings, but in its code."""
_LORA = re.compile(r"(.*)\.lora_([AB])(?:\.default)?\.weight")
_SETTINGS = {
    ("model_config", "use_special_tokens"): True,
    ("model_config", "reward_token"): "special",
    ("data_config", "prompt_template_type"): "detailed_special",
    ("data_config", "eval_dim"): list(DIMENSIONS),
    ("peft_lora_config", "use_rslora"): False,
}
"""Settings of VideoReward of which one value only is implemented."""

Place = tuple[SafetensorsFile, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedJudge:
    """What conversion needs."""

    folder: Path
    cfg: JudgeConfig
    table: names.Table
    tokenizer: str
    """The JSON of its tokenizer, with the reward tokens."""
    files: Sequence[SafetensorsFile]
    tensors: Mapping[str, Place]
    """By their plain names; of several files the last that has a name counts."""
    adapters: Mapping[str, tuple[Place, Place]]
    """The low-rank factors A and B of a plain name."""
    lora_scale: float

    @property
    def num_bytes(self) -> int:
        """The size of the files."""
        return sum(file.size for file in self.files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """The files of a judge, and what they say of LoRA."""

    files: Sequence[SafetensorsFile]
    complete: bool
    """Whether the files are of one complete model; else the last ones lie over the base model's."""
    tokenizers: Sequence[Path]
    """Folders that may have the tokenizer, the first that has it counts."""
    settings: Mapping[str, Any]
    rank: int = 0
    lora_scale: float = 1.0
    adapted: frozenset[str] = frozenset()
    """Plain names of weights that must have low-rank factors."""


def open_judge(folder: Path, kind: str, templates: Path, base: Path | None = None) -> PublishedJudge:
    """Reads all that a published judge has beside its weights, and checks their names and shapes.

    Args:
        folder: see above.
        kind: hpsv3 or videoreward.
        templates: see judge_templates.py.
        base: the base model's folder; None: the one in `folder`, or beside it.

    Raises:
        ValueError: something is missing, damaged, or does not fit together.
        OSError: a file cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; wanted a published {kind}")
    root, checkpoint = _checkpoint(folder, kind)
    base = _find_base(root, base)
    network = _read_network(base)
    layout = _open_hpsv3(root, base) if kind == HPSV3 else _open_videoreward(root, checkpoint, base)
    before_picture, before_caption, after_caption = read_templates(templates, kind)

    tensors: dict[str, Place] = {}
    factors: dict[str, dict[str, Place]] = {}
    for file in layout.files:
        for tensor in file.tensors:
            match = _LORA.fullmatch(tensor.name)
            if match:
                factors.setdefault(plain_name(f"{match[1]}.weight"), {})[match[2]] = (file, tensor)
            else:
                tensors[plain_name(tensor.name)] = (file, tensor)
    if not layout.complete:
        tensors.pop(UNUSED, None)
    tokenizer, num_tokens = open_tokenizer(layout.tokenizers, kind, network)
    _check_vocabulary(layout.tokenizers, num_tokens, tensors.get(EMBEDDING))
    cfg = JudgeConfig(
        kind=kind,
        network=network,
        num_embeddings=num_tokens,
        head_widths=_head_widths(kind, tensors),
        before_picture=before_picture,
        before_caption=before_caption,
        after_caption=after_caption,
        **layout.settings,
    )
    table = judge_table(cfg)
    _check(folder, kind, table, layout, tensors, factors)
    return PublishedJudge(
        folder=folder,
        cfg=cfg,
        table=table,
        tokenizer=tokenizer,
        files=layout.files,
        tensors=tensors,
        adapters={name: (pair["A"], pair["B"]) for name, pair in factors.items()},
        lora_scale=layout.lora_scale,
    )


def _check(
    folder: Path,
    kind: str,
    table: names.Table,
    layout: _Layout,
    tensors: Mapping[str, Place],
    factors: Mapping[str, Mapping[str, Place]],
) -> None:
    """Every tensor there, and none beside; all that is wrong is in one error."""
    wanted = names.published_shapes(table)
    if layout.complete:
        wanted[UNUSED] = wanted[EMBEDDING]
    adapted = {plain_name(tensor.name) for _, tensor in tensors.values() if ".base_layer.weight" in tensor.name}
    for name in sorted(adapted | layout.adapted | factors.keys()):
        if len(shape := wanted.get(name, ())) == 2:
            wanted |= {f"{name} lora_A": (layout.rank, shape[1]), f"{name} lora_B": (shape[0], layout.rank)}
    got = {name: tensor.shape for name, (_, tensor) in tensors.items()}
    got |= {
        f"{name} lora_{letter}": tensor.shape for name, pair in factors.items() for letter, (_, tensor) in pair.items()
    }
    convert.check_names(f"the checkpoint of {kind} in {folder}", wanted, got)


def _head_widths(kind: str, tensors: Mapping[str, Place]) -> tuple[int, ...]:
    """The outputs of the head's layers, as they are in the file; where one is missing, what is published."""
    published = (1024, 16, 2) if kind == HPSV3 else (1,)
    found = [tensors[name][1].shape if name in tensors else () for name in head_names(kind)]
    return tuple(shape[0] if len(shape) == 2 else width for shape, width in zip(found, published, strict=True))


def _check_vocabulary(folders: Sequence[Path], num_tokens: int, embedding: Place | None) -> None:
    if embedding is not None and embedding[1].shape[:1] != (num_tokens,):
        raise ValueError(
            f"{embedding[0].path} has embeddings of {embedding[1].shape[0]} tokens, the tokenizer in {folders[0]} or "
            f"{folders[-1]} has {num_tokens}: it is of another vocabulary"
        )


def _checkpoint(folder: Path, kind: str) -> tuple[Path, Path]:
    """The folder with the settings, and of VideoReward the newest checkpoint."""
    if kind == HPSV3:
        return folder, folder
    if re.fullmatch(r"checkpoint-\d+", folder.name):
        return folder.parent, folder
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    if not found:
        raise ValueError(f"{folder} has no checkpoint-N: wanted a published {kind}")
    return folder, max(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _find_base(root: Path, base: Path | None) -> Path:
    """The base model's folder."""
    if base is not None:
        if not (base / "config.json").is_file():
            raise ValueError(f"{base} is no base model: it has no config.json")
        return base
    for folder in (root, root.absolute().parent):
        found = [path.parent for path in sorted(folder.glob("*/config.json")) if is_qwen2_vl(path.parent)]
        if len(found) > 1:
            raise ValueError(f"{folder} has {', '.join(path.name for path in found)}: give one of them as --base")
        if found:
            return found[0]
    raise ValueError(f"{root} has no base model, a folder of Qwen2-VL with config.json: give it as --base")


def _read_network(base: Path) -> Qwen2VLConfig:
    path = base / "config.json"
    try:
        return Qwen2VLConfig.from_json(_read_json(path))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, wanted an object")
    return loaded


def _open_either(folder: Path, stem: str) -> SafetensorsFile | None:
    """STEM.pth, as published, or STEM.safetensors."""
    for suffix, open_file in SUFFIXES.items():
        if (folder / f"{stem}{suffix}").is_file():
            return open_file(folder / f"{stem}{suffix}")
    return None


def _open_hpsv3(root: Path, base: Path) -> _Layout:
    file = _open_either(root, "HPSv3")
    return _Layout(
        files=[file] if file else open_folder(root),
        complete=True,
        tokenizers=(root, base),
        settings={"min_pixels": HPSV3_PIXELS, "max_pixels": HPSV3_PIXELS},
    )


def _open_videoreward(root: Path, checkpoint: Path, base: Path) -> _Layout:
    path = next(
        (path for path in (root / "model_config.json", root.absolute().parent / "model_config.json") if path.is_file()),
        None,
    )
    published = _read_json(path) if path else {}
    common: dict[str, Any] = {"tokenizers": (checkpoint / "tokenizer", base)}
    common["settings"] = _video_settings(published, path or root)
    complete = _open_either(checkpoint, "model")
    if complete is not None:
        lora = published.get("peft_lora_config") or {}
        rank, alpha = _lora_numbers(lora, "lora_r", "lora_alpha", path or root / "model_config.json")
        return _Layout(files=[complete], complete=True, rank=rank, lora_scale=alpha / rank, **common)
    adapter, rest = _open_either(checkpoint, "adapter_model"), _open_either(checkpoint, "non_lora_state_dict")
    if adapter is None or rest is None:
        raise ValueError(
            f"{checkpoint} has neither model.pth nor adapter_model.safetensors and non_lora_state_dict.pth"
        )
    config = _read_json(checkpoint / "adapter_config.json")
    other = [name for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(name)]
    if other:
        raise ValueError(f"{checkpoint / 'adapter_config.json'}: {', '.join(other)} is not implemented")
    rank, alpha = _lora_numbers(config, "r", "lora_alpha", checkpoint / "adapter_config.json")
    targets = config.get("target_modules")
    adapted = (
        frozenset(f"{name}.weight" for name in targets if "." in name) if isinstance(targets, list) else frozenset()
    )
    return _Layout(
        files=[*open_folder(base), rest, adapter],
        complete=False,
        rank=rank,
        lora_scale=alpha / rank,
        adapted=adapted,
        **common,
    )


def _lora_numbers(config: Mapping[str, Any], rank: str, alpha: str, path: Path) -> tuple[int, float]:
    found = config.get(rank), config.get(alpha)
    if not isinstance(found[0], int) or found[0] < 1 or not isinstance(found[1], int | float):
        raise ValueError(f"{path} must give {rank} and {alpha} of LoRA, got {found[0]!r} and {found[1]!r}")
    return found[0], float(found[1])


def _video_settings(published: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What VideoReward's settings say of frames, pixels and read-out."""
    for (section, name), only in _SETTINGS.items():
        value = (published.get(section) or {}).get(name, only)
        if value != only:
            raise ValueError(f"{path}: {section}.{name} = {value!r} is not implemented, only {only!r}")
    data, statistics = published.get("data_config") or {}, published.get("inference_config") or {}
    lacking = [name for name in DIMENSIONS if statistics and not {f"{name}_mean", f"{name}_std"} <= statistics.keys()]
    if lacking:
        raise ValueError(f"{path}: inference_config has no mean and std of {', '.join(lacking)}")
    return {
        "min_pixels": VIDEO_MIN_PIXELS,
        "max_pixels": int(data.get("max_frame_pixels") or HPSV3_PIXELS),
        "fps": float(data.get("fps") or 2.0),
        "num_frames": data.get("num_frames"),
        "statistics": tuple((statistics[f"{name}_mean"], statistics[f"{name}_std"]) for name in DIMENSIONS)
        if statistics
        else (),
    }
