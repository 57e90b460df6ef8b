"""What a checkpoint makes of a data set, before anything is trained on it: warnings, for the command that encodes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.clips import Groups
from lcv_jax.data.frames import resize_and_crop

POOR_DB = 22.0
"""A round trip through the autoencoder below this is visibly damaged."""
KNOWN_SHARE = 0.02
"""Of tokens: so many unknown ones need no warning."""
_SIDE = 192
"""Pixels that the shorter side of a previewed frame has at most."""


def decibels(one: UInt8[np.ndarray, "T H W 3"], other: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Peak signal-to-noise ratio of two clips."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return math.inf if error == 0 else float(10 * np.log10(255**2 / error))


def beside(
    original: UInt8[np.ndarray, "T H W 3"], back: UInt8[np.ndarray, "T H W 3"]
) -> UInt8[np.ndarray, "T height width 3"]:
    """Frames with their reconstruction to the right, made smaller where they are large."""
    _, H, W, _ = original.shape
    scale = max(1.0, min(H, W) / _SIDE)
    height, width = round(H / scale), round(W / scale)
    return np.concatenate([resize_and_crop(clip, height, width) for clip in (original, back)], axis=2)


def poor_round_trips(measured: Mapping[str, float], checkpoint: str, picture: str) -> str | None:
    """A warning of clips that the autoencoder does not reproduce well, by their ids and decibels."""
    poor = {identity: value for identity, value in measured.items() if value < POOR_DB}
    if not poor:
        return None
    worst = min(poor, key=lambda identity: poor[identity])
    return (
        f"the autoencoder of {checkpoint} reproduces {len(poor)} of {len(measured)} previewed clips badly: "
        f"{worst} at {poor[worst]:.1f} dB, expected at least {POOR_DB:g}. Training cannot get better than its "
        f"reconstructions: look at {picture}"
    )


def unknown_words(unknown: Sequence[str], total: int, checkpoint: str) -> str | None:
    """A warning of words that a checkpoint's tokenizer does not know.

    Args:
        unknown: these words, with repetitions.
        total: how many there are, the others included.
        checkpoint: what to call it.
    """
    if total == 0 or len(unknown) / total <= KNOWN_SHARE:
        return None
    examples = ", ".join(list(dict.fromkeys(unknown))[:5])
    return (
        f"the tokenizer of {checkpoint} does not know {len(unknown) / total:.0%} of the captions' words, such as "
        f"{examples}: the model cannot tell them apart. Use words that it knows"
    )


def too_short_clips(groups: Groups, short: Mapping[str, int], fps: float) -> str | None:
    """A warning of clips that are left out, and what they would need.

    Args:
        groups: the buckets.
        short: ids, with their numbers of frames at `fps`.
        fps: that frames are counted at.
    """
    if not short:
        return None
    needed = min(size[0] for group in groups for size in group)
    longest = max(short, key=lambda identity: short[identity])
    return (
        f"{len(short)} clips are too short and left out: the longest, {longest}, has {short[longest]} frames at "
        f"{fps:g} per second ({short[longest] / fps:.2f} s); the shortest bucket needs {needed} "
        f"({needed / fps:.2f} s). Give longer clips, or --sizes of fewer frames"
    )
