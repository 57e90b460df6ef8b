"""The fields of a request for a video: names, types, descriptions; values from JSON or from a form.

One table serves parsing, messages and the OpenAPI document. A form has strings alone: `seed=7`, `adapters[name]=0.5`,
`prompts[]=...` (as the SDK writes lists), or JSON for lists and objects.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from lcv_jax.bounds import (
    Bounds,
    Finite,
    Fps,
    FrameCount,
    GuidanceScale,
    NoiseLevel,
    Pixels,
    SamplingSteps,
    Seconds,
    Seed,
    Share,
    Shift,
    TextTokens,
    check_value,
)
from lcv_jax.generation.tasks import TASKS
from lcv_jax.serving.errors import ApiError, invalid
from lcv_jax.user_files import parse_json

SERVED_TASKS = tuple(name for name in TASKS if name != "stream")
MEDIA = ("input_reference", "video")
"""Fields that hold an image or a clip: a file, {"image_url": "data:..."} or {"id": "video_..."}."""
_NESTED = ("extra_body", "extra_params")
"""Where some clients put fields that they do not know."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A field's type and what it means."""

    hint: Any
    doc: str


FIELDS = {
    "prompt": Field(str, "What to show. May be left out where an image, a clip or `prompts` is given."),
    "prompts": Field(tuple[str, ...], "An interactive video: what happens in each segment, in order."),
    "negative_prompt": Field(str, "What not to show; used with guidance only."),
    "model": Field(str, "Name of the served model; may be left out."),
    "task": Field(Literal[SERVED_TASKS], "What to do. Chosen by what is given, if left out; refining a clip names it."),
    "size": Field(str, "WIDTHxHEIGHT in pixels, multiples of 16 (of 64 when refining a clip)."),
    "width": Field(Pixels, "Instead of `size`."),
    "height": Field(Pixels, "Instead of `size`."),
    "resolution": Field(Literal["480p", "720p"], "Table of aspect ratios for an image or a clip without a size."),
    "fit": Field(Literal["crop", "stretch"], "How an image or a clip gets the video's shape."),
    "seconds": Field(Seconds, "Duration; the nearest possible number of frames is made."),
    "num_frames": Field(FrameCount, "Number of frames of the video, or of a segment; rounded down to 4 k + 1."),
    "fps": Field(Fps, "Frames per second."),
    "seed": Field(Seed, "Of the noise: the same request with the same seed gives the same video. Random if left out."),
    "num_inference_steps": Field(SamplingSteps, "Sampling steps."),
    "guidance_scale": Field(GuidanceScale, "Strength of guidance; 1 is without, at half the cost."),
    "distilled": Field(bool, "Few steps without guidance, with the checkpoint's distilled adapter."),
    "enhance_hf": Field(bool, "Ten more steps at the end, for details."),
    "adapters": Field(
        tuple[tuple[str, Finite], ...], "Adapters of the checkpoint: an object of names and multipliers."
    ),
    "step_cache": Field(Share, "Skip steps whose velocity changes by less than this share, such as 0.05."),
    "shift": Field(Shift, "Time shift of the schedule."),
    "max_sequence_length": Field(TextTokens, "Tokens of a prompt; longer ones are cut."),
    "num_segments": Field(Annotated[int, Bounds(least=1, most=10000)], "A long video: number of segments."),
    "num_cond_frames": Field(FrameCount, "Last frames of a clip or segment that the next goes on from, 4 k + 1."),
    "refine": Field(bool, "Refine the result to 720p and twice the frame rate."),
    "refine_size": Field(str, "WIDTHxHEIGHT of the refined video, multiples of 64."),
    "spatial_only": Field(bool, "When refining a clip: keep its frame rate."),
    "t_thresh": Field(NoiseLevel, "When refining a clip: noise level to start from."),
}


def parse_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The checked fields of a request; those that are null are left out.

    Raises:
        ApiError: an unknown field, named with the nearest known one, or a value that does not fit.
    """
    values: dict[str, Any] = {}
    for name, value in _flattened(raw).items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            known = f"; did you mean {near[0]!r}?" if near else ""
            raise ApiError(400, f"unknown field {name[:80]!r}{known}", param=name[:80], code="unknown_field")
        if value is None:
            continue
        try:
            values[name] = _value(name, value)
        except ValueError as error:
            raise invalid(str(error), name) from None
    return values


def _flattened(raw: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in raw.items() if name not in _NESTED}
    for name in _NESTED:
        inner = raw.get(name)
        if isinstance(inner, str):
            inner = _json(inner, name, dict)
        if inner is not None and not isinstance(inner, dict):
            raise invalid(f"{name} must be an object, got {type(inner).__name__}", name)
        if twice := sorted({*(inner or {})} & flat.keys()):
            raise invalid(f"{', '.join(twice)}: given in the request and in {name}; drop one", twice[0])
        flat.update(inner or {})
    return flat


def _json(text: str, name: str, kind: type) -> Any:
    try:
        return parse_json(text, name, kind)
    except ValueError as error:
        raise invalid(str(error), name) from None


def _value(name: str, value: Any) -> Any:
    """A value of JSON or of a form as what the table says."""
    hint = FIELDS[name].hint
    if isinstance(value, str):
        value = _of_text(name, hint, value)
    elif isinstance(value, list | dict):
        pairs = list(value.items()) if isinstance(value, dict) else value
        value = tuple(tuple(each) if isinstance(each, list) else each for each in pairs)
    if hint is str and len(value if isinstance(value, str) else "") == 0 and name != "prompt":
        return value
    check_value(name, hint, value)
    if name == "prompts" or hint is str:
        for text in (value,) if isinstance(value, str) else value:
            _check_text(name, text)
    return value


def _of_text(name: str, hint: Any, text: str) -> Any:
    """A form's string as a value; strings that are no number or boolean stay what they are."""
    kind = hint.__origin__ if hasattr(hint, "__metadata__") else hint
    if kind in (int, float):
        try:
            return int(text) if re.fullmatch(r"\s*[+-]?\d{1,20}\s*", text) else float(text) if kind is float else text
        except ValueError:
            return text
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)
    if name in ("prompts", "adapters"):
        found = _json(text, name, dict if text.lstrip().startswith("{") else list)
        return tuple(
            tuple(each) if isinstance(each, list) else each for each in getattr(found, "items", lambda: found)()
        )
    return text


def _check_text(name: str, text: str) -> None:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} holds a character that is none (a NUL or half a surrogate pair)")


def of_form(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a form: `name[]` and repeated names make lists, `name[key]` objects.

    Raises:
        ApiError: a name in two of these forms, or a field twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        nested = re.fullmatch(r"(\w+)\[(.*)\]", name, re.DOTALL)
        base, key = (nested[1], nested[2]) if nested else (name, None)
        if key is None:
            if base in found:
                raise invalid(f"{base[:80]} is given twice", base[:80])
            found[base] = value
            continue
        kind: type = dict if key else list
        part = found.setdefault(base, kind())
        if not isinstance(part, kind):
            raise invalid(f"{base[:80]} is given as a value, a list or an object, not as several of them", base[:80])
        if isinstance(part, dict):
            part[key] = _number(value)
        elif isinstance(part, list):
            part.append(value)
    return found


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def parse_size(name: str, text: str) -> tuple[int, int]:
    """Height and width of WIDTHxHEIGHT.

    Raises:
        ApiError: it is none.
    """
    match = re.fullmatch(r"(\d{1,5})\s*[x*]\s*(\d{1,5})", text.strip().lower())
    if match is None:
        raise invalid(f"{name} must be WIDTHxHEIGHT, such as 832x480, got {text[:80]!r}", name)
    return int(match[2]), int(match[1])
