"""Items whose right answer is known: a run's clips with a fault put in, for training raters and checking attention."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lcv_jax.data.media_reader import read_video
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.evaluation.runs import Video

Clip = np.ndarray
"""T H W 3, uint8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownAnswer:
    """A faulty clip, the dimension that the fault concerns, and why."""

    video: Path
    source: Video
    """The clip without the fault."""
    prompt: str
    dimension: str
    explanation: str


def noisy(clip: Clip) -> Clip:
    """Strong grain that differs from frame to frame."""
    grain = np.random.default_rng(0).normal(0, 70, clip.shape)
    return np.clip(clip + grain, 0, 255).astype(np.uint8)


def frozen(clip: Clip) -> Clip:
    """The first frame for as long."""
    return np.repeat(clip[:1], len(clip), axis=0)


_FAULTS: tuple[tuple[str, str, Callable[[Clip], Clip]], ...] = (
    ("visual_quality", "Every frame is covered by strong noise.", noisy),
    ("motion_quality", "The picture is frozen: nothing moves.", frozen),
    ("text_alignment", "This prompt belongs to another video.", lambda clip: clip),
)


def known_answers(videos: Sequence[Video], folder: Path, number: int, *, pairs: bool = False) -> list[KnownAnswer]:
    """Faulty clips written to a folder, the kinds of fault in turn.

    Args:
        videos: clips to put faults into.
        folder: where they are written.
        number: how many.
        pairs: only faults that show beside the clip itself, not a wrong prompt.

    Raises:
        ValueError: fewer than two clips.
        OSError: a clip cannot be read, or a file not written.
    """
    if number and len(videos) < 2:
        raise ValueError("items with known answers need at least two videos of a run")
    faults = _FAULTS[:2] if pairs else _FAULTS
    found = []
    for place in range(number):
        dimension, explanation, fault = faults[place % len(faults)]
        source, other = videos[place % len(videos)], videos[(place + len(videos) // 2) % len(videos)]
        clip, fps = read_video(source.path)
        path = folder / f"known-{place}.mp4"
        with VideoWriter(path, fps=fps, height=clip.shape[1], width=clip.shape[2], crf=12) as file:
            file.write(fault(clip))
        prompt = other.item.prompt if dimension == "text_alignment" else source.item.prompt
        found.append(
            KnownAnswer(video=path, source=source, prompt=prompt, dimension=dimension, explanation=explanation)
        )
    return found
