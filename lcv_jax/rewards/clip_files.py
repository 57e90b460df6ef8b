"""Frames of clip files as Qwen2-VL is shown them: the one place that chooses them, for judges and the captioner."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.media_reader import open_clip
from lcv_jax.data.timing import Timeline
from lcv_jax.rewards.videoreward import Views, chosen_frames, video_grid

Grid = tuple[int, int, int]
"""Temporal patches, rows and columns of patches."""
_CLOCK_SLACK = 0.1
"""Part of a frame: durations are rounded to the container's clock."""


def file_grid(path: Path, views: Views, start: float = 0.0, end: float | None = None) -> Grid:
    """The patches that a clip will have; one frame is decoded.

    Args:
        path: of a video or an animation.
        views: which frames are shown, and how large.
        start: seconds after its first frame.
        end: likewise; the frame that starts there is no part of the clip. None: to the end of the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it cannot be shown as it is meant to be, or has fewer than two frames.
    """
    with open_clip(path) as clip:
        height, width, _ = next(clip.pictures([0])).shape
        length = sum(1 for _ in _places(clip.timeline, start, end))
        return video_grid((length, height, width), float(clip.timeline.rate), views)


def file_frames(path: Path, views: Views, start: float = 0.0, end: float | None = None) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames that are shown; arguments and errors are those of `file_grid`."""
    with open_clip(path) as clip:
        places = list(_places(clip.timeline, start, end))
        taken = chosen_frames(len(places), float(clip.timeline.rate), views.fps, views.num_frames)
        return np.stack(list(clip.pictures([places[number] for number in taken])))


def _places(timeline: Timeline, start: float, end: float | None) -> Iterator[int]:
    """A clip's frames, evenly spaced where the file's rate varies."""
    all_places = timeline.at_rate(None, Fraction(start).limit_denominator(1_000_000))
    if end is None:
        return all_places
    return islice(all_places, max(0, math.ceil((end - start) * float(timeline.rate) - _CLOCK_SLACK)))
