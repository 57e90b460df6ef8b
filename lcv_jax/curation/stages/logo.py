"""Watermarks and logos of a source, found over its clips; curation/logos.py says how.

A classifier of the user's decides where one is set: a function of frames T H W 3 of different clips, which gives back
how sure it is that they bear a watermark, from 0 to 1.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from lcv_jax.bounds import Bounds, check_fields
from lcv_jax.curation.logos import LEAST_SHOTS, find_logo
from lcv_jax.curation.stage import GroupStage
from lcv_jax.data.frames import evenly
from lcv_jax.data.media_reader import open_clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How many clips are compared, and by what."""

    most_clips: Annotated[int, Bounds(least=LEAST_SHOTS, most=256)] = 24
    """Of a source, spread over it, of which one frame each is compared."""
    classifier: str = ""
    """MODULE:FUNCTION; empty: what stays over the clips."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.classifier and self.classifier.count(":") != 1:
            raise ValueError(f"classifier must be MODULE:FUNCTION, got {self.classifier!r}")


def find_logos(columns: dict[str, list[Any]], settings: Settings) -> Mapping[str, Sequence[Any]]:
    """What is over the source of these clips, the same for each; None where too few clips can be compared."""
    paths = columns["clip_path"]
    frames = _of_one_size(_middle_frame(paths[place]) for place in evenly(len(paths), settings.most_clips))
    if settings.classifier:
        found: dict[str, Any] = {"logo": float(_function(settings.classifier)(np.stack(list(frames))))}
        found |= dict.fromkeys(("logo_area", "logo_strength", "logo_box", "logo_shots"))
    elif (logo := find_logo(frames)) is None:
        found = dict.fromkeys(("logo", "logo_area", "logo_strength", "logo_box", "logo_shots"))
    else:
        found = {
            "logo": float(logo.box is not None),
            "logo_area": logo.area,
            "logo_strength": logo.strength,
            "logo_box": None if logo.box is None else list(logo.box),
            "logo_shots": logo.shots,
        }
    return {name: [value] * len(paths) for name, value in found.items()}


def _middle_frame(path: str | Path) -> np.ndarray:
    with open_clip(path) as clip:
        return next(clip.pictures([len(clip.timeline) // 2]))


def _of_one_size(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Those that have the first one's size: a source has one, but for what its crops leave."""
    shape = None
    for frame_HWC in frames:
        shape = shape or frame_HWC.shape
        if frame_HWC.shape == shape:
            yield frame_HWC


def _function(place: str) -> Callable[[np.ndarray], float]:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


STAGE = GroupStage(
    name="logo",
    version=1,
    run=find_logos,
    settings=Settings(),
    reads={"clip": str, "clip_path": Path, "clip_digest": str},
    writes={"logo": float, "logo_area": float, "logo_strength": float, "logo_box": list[float], "logo_shots": int},
    of="clip",
    by="source",
)
