"""What a reward is, what its scores are, and the check that every answer goes through.

A score that is missing or not finite is NaN in `Scores.values`, and `Scores.failures` says why: it never becomes a
number.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lcv_jax.array_types import Bool, Float, UInt8


class RewardError(ValueError):
    """A reward gave no scores, or none that can be used: it died, was late, or answered with something else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a batch of clips."""

    values: Mapping[str, Float[np.ndarray, " B"]]
    """Of every reward, float32; NaN where a clip has no score."""
    failures: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Why, for each clip that lacks a score of any reward."""

    @property
    def names(self) -> tuple[str, ...]:
        """The rewards."""
        return tuple(self.values)

    def failed(self) -> Bool[np.ndarray, " B"]:
        """Whether each clip lacks a score of any reward."""
        return np.asarray(np.isnan(np.stack(list(self.values.values()))).any(axis=0))

    def kept_groups(self, group_size: int) -> Bool[np.ndarray, " groups"]:
        """Whether each group of clips that follow one another has all its scores.

        Raises:
            ValueError: the clips are not whole groups.
        """
        failed_B = self.failed()
        if group_size < 1 or len(failed_B) % group_size:
            raise ValueError(f"{len(failed_B)} clips are no whole groups of {group_size}")
        return np.asarray((~failed_B).reshape(-1, group_size).all(axis=1))


@runtime_checkable
class Reward(Protocol):
    """Scores videos; higher is better. One that holds processes or connections has a `close()` too."""

    @property
    def names(self) -> tuple[str, ...]:
        """What `score` gives, always all of it."""

    def score(
        self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int
    ) -> Mapping[str, Float[np.ndarray, " B"]] | Scores:
        """Scores of every name; NaN is a clip that cannot be scored, and `Scores` can say why.

        Args:
            videos_BTHWC: clips of the same size.
            prompts: one a clip.
            fps: frames a second.
        """


def check_names(names: Any, source: str) -> tuple[str, ...]:
    """The names of a reward.

    Raises:
        RewardError: there are none, one is no text, or one comes twice.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise RewardError(f"{source}: names must be a tuple of at least one name, got {names!r}")
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise RewardError(f"{source}: names must be different texts, got {names!r}")
    return tuple(names)


def checked(
    returned: Any,
    names: Sequence[str],
    num_clips: int,
    source: str = "the reward",
    failures: Mapping[int, str] = MappingProxyType({}),
) -> Scores:
    """What a reward returned, as scores; clips whose score is not finite become failures.

    Args:
        returned: a mapping from names to numbers, or `Scores`.
        names: what was wanted.
        num_clips: how many clips were to be scored.
        source: what an error calls the reward.
        failures: clips that failed and why, besides those that `Scores` hold.

    Raises:
        RewardError: a name lacks or is none of those wanted, or scores are not floats, one a clip.
    """
    values = returned
    if isinstance(returned, Scores):
        values, failures = returned.values, {**failures, **returned.failures}
    if not isinstance(values, Mapping):
        raise RewardError(f"{source} returned {type(returned).__name__}, wanted a mapping of {', '.join(names)}")
    if set(values) != set(names):
        came = ", ".join(map(str, values)) or "nothing"
        raise RewardError(f"{source} returned scores of {came}, wanted {', '.join(names)}: mend its `names` or `score`")
    if not all(isinstance(clip, int) and 0 <= clip < num_clips for clip in failures):
        raise RewardError(f"{source} reported failures of clips {sorted(failures)}, there are 0..{num_clips - 1}")
    found = {name: _floats(values[name], num_clips, f"{source}, {name}") for name in names}
    reasons: dict[int, list[str]] = {clip: [f"{source}: {reason}"] for clip, reason in failures.items()}
    for name, values_B in found.items():
        for clip in np.flatnonzero(~np.isfinite(values_B)).tolist():
            reasons.setdefault(clip, []).append(f"{source}, {name}: {values_B[clip]}")
    return Scores(
        values={name: _failed_as_nan(values_B, failures) for name, values_B in found.items()},
        failures={clip: "; ".join(reasons[clip]) for clip in sorted(reasons)},
    )


def _floats(values: Any, num_clips: int, source: str) -> Float[np.ndarray, " B"]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise RewardError(f"{source}: scores must be floats, got {array.dtype}")
    if array.shape != (num_clips,):
        raise RewardError(f"{source}: wanted one score for each of {num_clips} clips, got shape {array.shape}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _failed_as_nan(values_B: np.ndarray, failures: Mapping[int, str]) -> np.ndarray:
    """A clip that a reward reports as failed has no score, whatever number came with it."""
    failed = [clip in failures for clip in range(len(values_B))]
    return np.where(failed | ~np.isfinite(values_B), np.float32(math.nan), values_B)


def failed_scores(names: Sequence[str], num_clips: int, reason: str) -> Scores:
    """No clip has a score, all for the same reason."""
    return Scores(
        values={name: np.full(num_clips, np.nan, np.float32) for name in names},
        failures=dict.fromkeys(range(num_clips), reason),
    )


def merged(scores: Sequence[Scores]) -> Scores:
    """Scores of the same clips by several rewards, whose names differ."""
    values = {name: value_B for one in scores for name, value_B in one.values.items()}
    clips = sorted({clip for one in scores for clip in one.failures})
    failures = {clip: "; ".join(one.failures[clip] for one in scores if clip in one.failures) for clip in clips}
    return Scores(values=values, failures=failures)
