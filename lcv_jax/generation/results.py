"""What tasks give: videos in pieces, and who is told on the way."""

import dataclasses
from collections.abc import Callable, Iterable
from fractions import Fraction

from lcv_jax.generation.long_video import OnSegment
from lcv_jax.pipeline import Frames, OnStep

FPS = 15.0
"""Frames a second of what the model was trained on; refinement doubles it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """A video to be written: pieces of frames, T H W 3."""

    pieces: Iterable[Frames]
    num_frames: int | None
    """None: until it is interrupted."""
    fps: Fraction | float
    name: str = ""
    """Appended to the output's name, when a task makes several videos."""
    finish: Callable[[], None] = lambda: None
    """Called when the video is written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who is told of what happens."""

    on_step: OnStep | None = None
    on_segment: OnSegment | None = None
