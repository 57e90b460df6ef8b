"""From the fields of a request to a task of generation/tasks.py: the task by what is given, defaults, limits."""

import dataclasses
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lcv_jax.generation.tasks import Task, task_from_json, task_to_json
from lcv_jax.serving.errors import ApiError, invalid
from lcv_jax.serving.fields import parse_size
from lcv_jax.serving.jobs import CLIP, IMAGE
from lcv_jax.serving.limits import Defaults, Limits

MediaKind = Literal["image", "clip"]

_OPTIONS = {
    "negative_prompt", "guidance_scale", "distilled", "enhance_hf", "adapters", "shift", "max_sequence_length", "seed",
    "step_cache",
}  # fmt: skip
_SIZED = {"size", "width", "height"}
_TIMED = {"seconds", "num_frames", "fps", "num_inference_steps"}
_ALWAYS = {"prompt", "model", "task"}
_SEGMENTED = {"resolution", "num_cond_frames", "refine", "refine_size"}
_USED: dict[str, set[str]] = {
    "text-to-video": _SIZED | _TIMED | _OPTIONS,
    "image-to-video": _SIZED | _TIMED | _OPTIONS | {"resolution", "fit"},
    "continue-video": _SIZED | _TIMED | _OPTIONS | {"resolution", "fit", "num_cond_frames"},
    "refine": _SIZED
    | {"num_inference_steps", "spatial_only", "t_thresh", "adapters", "shift", "max_sequence_length", "seed"},
    "long-video": _SIZED | _TIMED | _OPTIONS | _SEGMENTED | {"num_segments"},
    "interactive-video": _SIZED | _TIMED | _OPTIONS | _SEGMENTED | {"prompts"},
}
_NEEDS: dict[str, tuple[MediaKind | None, ...]] = {
    "text-to-video": (None,),
    "image-to-video": ("image",),
    "continue-video": ("clip",),
    "refine": ("clip",),
    "long-video": (None, "image", "clip"),
    "interactive-video": (None, "image", "clip"),
}


def choose_task(fields: Mapping[str, Any], kind: MediaKind | None) -> str:
    """The task that a request is for.

    Raises:
        ApiError: fields that do not go together, or an input that is missing.
    """
    many = "interactive-video" if "prompts" in fields else "long-video"
    chosen: str = fields.get("task") or (
        many
        if {"prompts", "num_segments"} & fields.keys() or fields.get("refine")
        else "continue-video" if kind == "clip" else "image-to-video" if kind else "text-to-video"
    )  # fmt: skip
    if kind not in _NEEDS[chosen]:
        wanted = " or ".join("no input" if need is None else f"an {need}" if need == "image" else f"a {need}"
                             for need in _NEEDS[chosen])  # fmt: skip
        raise invalid(f"{chosen} takes {wanted} as input_reference, got {kind or 'none'}", "input_reference")
    for name, value in fields.items():
        if name not in _USED[chosen] | _ALWAYS and value is not False:
            raise invalid(f"{name} does not apply to {chosen}: leave it out", name)
    return chosen


def plan_task(fields: Mapping[str, Any], kind: MediaKind | None, defaults: Defaults, limits: Limits) -> dict[str, Any]:
    """The task of a request as flat JSON, its inputs by their names in the job's folder.

    Raises:
        ApiError: it makes no sense, or is more than the server accepts.
    """
    chosen = choose_task(fields, kind)
    entry: dict[str, Any] = {"task": chosen, **{name: fields[name] for name in _OPTIONS & fields.keys()}}
    entry.setdefault("seed", random.SystemRandom().randrange(2**31))
    entry.setdefault("max_sequence_length", defaults.max_sequence_length)
    if "num_inference_steps" in fields or defaults.num_steps:
        entry["num_steps"] = fields.get("num_inference_steps", defaults.num_steps)
    if chosen != "refine":
        entry.setdefault("distilled", defaults.distilled and not entry.get("guidance_scale"))
        entry["fps"] = float(fields.get("fps", defaults.fps))
        entry["num_frames"] = _frames(fields, entry["fps"], defaults)
    _prompts(entry, fields, limits)
    _sizes(entry, fields, defaults)
    if kind:
        entry["image" if kind == "image" else "video"] = IMAGE if kind == "image" else CLIP
    for name in ("resolution", "fit", "spatial_only", "t_thresh"):
        if name in fields and name in _USED[chosen]:
            entry[name] = fields[name]
    if "num_cond_frames" in _USED[chosen]:
        entry["num_cond_frames"] = fields.get(
            "num_cond_frames", max(1, min(defaults.num_cond_frames, entry["num_frames"] - 4))
        )
    if chosen == "long-video":
        entry["num_segments"] = fields.get("num_segments", 1)
    _check_limits(entry, limits)
    return entry


def _frames(fields: Mapping[str, Any], fps: float, defaults: Defaults) -> int:
    """Frames of a video or a segment, 4 k + 1: those asked for, or the nearest to the seconds."""
    if "num_frames" in fields and "seconds" in fields:
        raise invalid("give seconds or num_frames, not both", "seconds")
    if "seconds" in fields:
        return 4 * max(0, round((fields["seconds"] * fps - 1) / 4)) + 1
    return (fields.get("num_frames", defaults.num_frames) - 1) // 4 * 4 + 1


def _prompts(entry: dict[str, Any], fields: Mapping[str, Any], limits: Limits) -> None:
    if entry["task"] == "interactive-video":
        if "prompt" in fields:
            raise invalid("give prompt or prompts, not both", "prompts")
        if not fields.get("prompts"):
            raise invalid("an interactive video needs prompts, one a segment", "prompts")
        entry["prompt"] = fields["prompts"]
    elif "prompt" not in fields and entry["task"] in ("text-to-video", "long-video"):
        raise invalid("prompt is missing: say what to show", "prompt")
    else:
        prompt = fields.get("prompt", "")
        entry["prompt"] = prompt if entry["task"] in ("refine", "long-video") else (prompt,)
    for name in ("prompt", "prompts", "negative_prompt"):
        for text in [fields[name]] if isinstance(fields.get(name), str) else fields.get(name, ()):
            if len(text) > limits.max_prompt_characters:
                raise invalid(f"{name} has {len(text)} characters, at most {limits.max_prompt_characters}", name)


def _sizes(entry: dict[str, Any], fields: Mapping[str, Any], defaults: Defaults) -> None:
    if "size" in fields and {"width", "height"} & fields.keys():
        raise invalid("give size, or width and height, not both", "size")
    if ("width" in fields) != ("height" in fields):
        raise invalid("give width and height together", "width" if "width" in fields else "height")
    size = parse_size("size", fields["size"]) if "size" in fields else None
    if "width" in fields:
        size = fields["height"], fields["width"]
    if entry["task"] == "refine":
        size = size or defaults.refine_size
    elif "resolution" not in fields:
        size = size or defaults.size
    if entry["task"] == "text-to-video":
        entry["height"], entry["width"] = size or (480, 832)
    elif size:
        entry["size"] = size
    if fields.get("refine"):
        entry["refine"] = True
        own = parse_size("refine_size", fields["refine_size"]) if "refine_size" in fields else defaults.refine_size
        if own:
            entry["refine_size"] = own


def _check_limits(entry: Mapping[str, Any], limits: Limits) -> None:
    if entry.get("num_frames", 0) > limits.max_frames:
        long = "; for a longer video give num_segments" if entry["task"] != "long-video" else ""
        raise invalid(
            f"num_frames must be at most {limits.max_frames} on this server, got {entry['num_frames']}{long}",
            "num_frames",
        )
    for name in ("size", "refine_size"):
        height, width = entry.get(name) or (entry.get("height", 0), entry.get("width", 0))
        if height * width > limits.max_pixels:
            raise invalid(
                f"{name} {width}x{height} has {height * width} pixels, at most {limits.max_pixels} on this server", name
            )
    if (entry.get("num_steps") or 0) > limits.max_steps:
        raise invalid(
            f"num_inference_steps must be at most {limits.max_steps}, got {entry['num_steps']}", "num_inference_steps"
        )
    count = len(entry["prompt"]) if entry["task"] == "interactive-video" else entry.get("num_segments", 1)
    if count > limits.max_segments:
        name = "prompts" if entry["task"] == "interactive-video" else "num_segments"
        raise invalid(f"{name}: at most {limits.max_segments} segments on this server, got {count}", name)


def make_task(entry: Mapping[str, Any], folder: Path) -> Task:
    """A job's task, whose inputs are in its folder.

    Raises:
        ApiError: values that do not go together.
    """
    try:
        task = task_from_json(_as_lists(entry))
    except ValueError as error:
        raise ApiError(400, _in_words_of_the_api(str(error)), code="invalid_value") from None
    inputs = {name: folder / getattr(task, name) for name in ("image", "video") if getattr(task, name, None)}
    return dataclasses.replace(task, **inputs)


def usual_task(defaults: Defaults, limits: Limits) -> Task:
    """The task of a request that leaves out all it may.

    Raises:
        ValueError: the server itself would refuse it.
    """
    try:
        return make_task(plan_task({"prompt": "a cat"}, None, defaults, limits), Path())
    except ApiError as error:
        raise ValueError(f"the defaults of requests do not fit the limits: {error.message}") from None


def portable(task: Task) -> dict[str, Any]:
    """A task as JSON, its inputs by name instead of by path."""
    entry = task_to_json(task)
    return {**entry, **{name: Path(entry[name]).name for name in ("image", "video") if entry.get(name)}}


def _as_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_lists(each) for key, each in value.items()}
    return [_as_lists(each) for each in value] if isinstance(value, tuple | list) else value


def _in_words_of_the_api(message: str) -> str:
    return message.replace("num_steps", "num_inference_steps")


def num_frames_of(entry: Mapping[str, Any]) -> int | None:
    """Frames of the finished video; None where the clip to refine decides."""
    if entry["task"] == "refine":
        return None
    frames: int = entry["num_frames"]
    count = len(entry["prompt"]) if entry["task"] == "interactive-video" else entry.get("num_segments", 1)
    total = frames + (count - 1) * (frames - entry.get("num_cond_frames", 0)) if count > 1 else frames
    return 2 * total if entry.get("refine") else total


def size_of(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the finished video; None where an image or a clip decides."""
    if entry.get("refine"):
        return tuple(entry["refine_size"]) if entry.get("refine_size") else None
    if entry.get("size"):
        return tuple(entry["size"])
    if "height" in entry:
        return entry["height"], entry["width"]
    return None if {"image", "video"} & entry.keys() else (480, 832)


def seconds_text(num_frames: float | None, fps: float) -> str | None:
    """A duration as the API writes it."""
    if num_frames is None or not math.isfinite(num_frames):
        return None
    return f"{num_frames / fps:.3f}".rstrip("0").rstrip(".")
