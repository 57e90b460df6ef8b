"""Transitions between shots out of the signals of shot_signals.py, and the clips between them.

Hard cuts are the union of PySceneDetect and TransNet V2; each has to change most of the picture by more than its
brightness, which flicker, flashes and subtitles do not. Where the film's time jumps there is a cut as well. Dissolves
come from TransNet V2: where it is sure, and where it has a suspicion and the frames are a steady mix of one into
another. Where its weights are missing they come from frames that mix those around them; fades from the brightness. The
frames of a dissolve or a fade belong to no clip.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from lcv_jax.curation.shot_signals import Signals

_LEAST_CHANGE = 0.15
"""Of a hard cut: cuts of planted films begin at 0.22, what is none ends at 0.15."""
_SURE, _LIKELY = 0.5, 0.2
"""Probabilities: a transition reaches the first, and goes on over frames above the second."""
_SUSPECTED, _POSSIBLE, _RAMP = 0.12, 0.06, 0.25
"""Likewise, of a transition in which `ramp` falls below the third."""
_LEAST_GRADUAL = 4
"""Frames of a dissolve."""
_BRIDGED = 2
"""Frames below `_LIKELY` within a dissolve."""
_BLACK = 6.0
"""Level of a frame without light."""
_LEAST_RAMP, _RAMP_FRAMES = 0.012, 60
"""A fade changes the level by this share of the shot's, each frame, within so many frames."""
_MIXED = 0.2
"""Frames below are mixes, where TransNet V2 does not say."""

Kind = Literal["cut", "dissolve", "fade"]


@dataclasses.dataclass(frozen=True, order=True)
class Transition:
    """Frames [start, end) that belong to no shot; of a cut both are the first frame of the next one."""

    start: int
    end: int
    kind: Kind


def find_transitions(signals: Signals) -> list[Transition]:
    """All transitions of a film in order; none overlaps another."""
    fades = list(_fades(signals.level))
    dissolves = [each for each in _dissolves(signals) if not _within(each, fades)]
    gradual = fades + dissolves
    cuts = [Transition(cut, cut, "cut") for cut in _cuts(signals)]
    return _merged(gradual + [cut for cut in cuts if not _within(cut, gradual)])


def clips_between(
    transitions: Sequence[Transition], num_frames: int, *, trim: int, shortest: int, longest: int
) -> list[tuple[int, int]]:
    """Clips as frames [start, end): what lies between transitions, less `trim` frames at each.

    Args:
        transitions: in order.
        num_frames: of the film.
        trim: frames next to a transition that are left out. A dissolve is left out with a sixth of its length more:
            its first and last frames hold so little of the other shot that no detector is sure of them.
        shortest: frames; shorter clips are left out.
        longest: frames; longer ones are divided into equal parts.
    """
    clips, start = [], 0
    for transition in [*transitions, None]:
        end, following = num_frames, num_frames
        if transition is not None:
            margin = trim + (0 if transition.kind == "cut" else (transition.end - transition.start) // 6)
            end, following = transition.start - margin, transition.end + margin
        if end - start >= shortest:
            edges = np.linspace(start, end, -(-(end - start) // longest) + 1).astype(int).tolist()
            clips += [(one, other) for one, other in itertools.pairwise(edges) if other - one >= shortest]
        start = max(start, following)
    return clips


def _cuts(signals: Signals) -> list[int]:
    candidates = set(np.flatnonzero(signals.content).tolist())
    if signals.middle is not None:
        for start, end in _runs(signals.middle > _SURE):
            candidates.add(min(start + int(signals.middle[start:end].argmax()) + 1, len(signals.middle) - 1))
    cuts = set(signals.gaps)
    for candidate in candidates:
        near = range(max(1, candidate - 1), min(len(signals.change), candidate + 2))
        place = max(near, key=lambda index: signals.change[index], default=0)
        if place and signals.change[place] > _LEAST_CHANGE:
            cuts.add(place)
    return sorted(cuts)


def _dissolves(signals: Signals) -> Iterator[Transition]:
    if signals.middle is None or signals.inside is None:
        runs = _runs(_bridged(signals.mix < _MIXED))
    else:
        sure = (signals.inside > _SURE) | (signals.middle > _SURE)
        runs = _runs_with(signals.inside > _LIKELY, sure)
        suspected = _runs_with(signals.inside > _POSSIBLE, signals.inside > _SUSPECTED)
        steady = [(start, end) for start, end in suspected if signals.ramp[start:end].min() < _RAMP]
        runs += [run for run in steady if not any(run[0] < end and start < run[1] for start, end in runs)]
    for start, end in runs:
        # A hard cut makes frames around it likely too, but a single step of them is most of the change.
        changes = signals.change[start : end + 1]
        is_cut = changes.max() > max(_LEAST_CHANGE, changes.sum() / 2)
        if end - start >= _LEAST_GRADUAL and not is_cut:
            yield Transition(start, end, "dissolve")


def _fades(level: np.ndarray) -> Iterator[Transition]:
    """Runs of black frames with the ramps that lead to them."""
    for black_start, black_end in _runs(level < _BLACK):
        start = black_start - _ramp(level[:black_start][::-1])
        end = black_end + _ramp(level[black_end:])
        yield Transition(start, end, "fade")
    # A film may begin or end just before the light is gone.
    if len(level) and level[0] >= _BLACK and (ramp := _edge_ramp(level)):
        yield Transition(0, ramp, "fade")
    if len(level) and level[-1] >= _BLACK and (ramp := _edge_ramp(level[::-1])):
        yield Transition(len(level) - ramp, len(level), "fade")


def _edge_ramp(level: np.ndarray) -> int:
    """For how many frames an end of a film rises from near black."""
    ramp = _ramp(level)
    return ramp if ramp >= _LEAST_GRADUAL and level[0] < 0.3 * level[:_RAMP_FRAMES].max() else 0


def _ramp(level: np.ndarray) -> int:
    """For how many frames the level rises, from black on."""
    level = level[:_RAMP_FRAMES]
    if len(level) < 2:
        return len(level)
    # Flicker and grain hide a step or two of a slow ramp: it ends where a new maximum stays away for longer.
    highest, end = level[0], 1 if level[0] > _BLACK else 0
    for place in range(1, len(level)):
        if level[place] >= highest + _LEAST_RAMP * level.max():
            highest, end = level[place], place + 1
        elif place - end >= 3:
            break
    return end


def _runs_with(flags: np.ndarray, peaks: np.ndarray) -> list[tuple[int, int]]:
    """Runs of flags, short gaps closed, that have a peak."""
    return [(start, end) for start, end in _runs(_bridged(flags)) if peaks[start:end].any()]


def _bridged(flags: np.ndarray) -> np.ndarray:
    """Closes short gaps."""
    flags = flags.copy()
    for start, end in _runs(~flags):
        if start > 0 and end < len(flags) and end - start <= _BRIDGED:
            flags[start:end] = True
    return flags


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Intervals [start, end) of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _within(transition: Transition, others: Sequence[Transition]) -> bool:
    """Whether it overlaps or touches one of the others."""
    return any(transition.start <= other.end and transition.end >= other.start for other in others)


def _merged(transitions: Sequence[Transition]) -> list[Transition]:
    """In order, those that overlap as one."""
    merged: list[Transition] = []
    for transition in sorted(transitions):
        if merged and transition.start < merged[-1].end:
            last = merged.pop()
            transition = Transition(last.start, max(last.end, transition.end), last.kind)
        merged.append(transition)
    return merged
