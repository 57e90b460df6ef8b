"""Minutes of video: segment after segment, each continuing the last, then refined segment by segment.

Every finished segment is a file of raw frames in a working folder beside the output, so memory stays that of one
segment and a killed run goes on at the first segment that is not there, with the result it would have had: a segment
depends on nothing but the request, its number and the frames before it. Frames pass from segment to segment as uint8,
as published. Of several processes the first alone sees that folder, and tells the others what it finds.
"""

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lcv_jax.data.frames import to_uint8
from lcv_jax.own_files import differences, replacing, write_json
from lcv_jax.parallel.broadcast import from_first, is_first
from lcv_jax.pipeline import Frames, OnStep, Pipeline
from lcv_jax.sampling.options import check_condition, whole_frames
from lcv_jax.user_files import read_json

OnSegment = Callable[[str, int, int], None]
"""Called before each segment with the stage ("draft" or "refined"), its number from 0 and the number of segments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments:
    """The working folder: one file of raw frames a finished segment, written whole or not at all."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, request: dict[str, Any]) -> "Segments":
        """A new working folder for this request, or the one that a killed run of the same request left.

        Raises:
            ValueError: the folder belongs to another request; the fields that differ are named. Or another process is
                at work in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder)
        for stray in folder.glob(".*.partial"):
            stray.unlink()
        try:
            _check_request(folder, json.loads(json.dumps(request)))
        except Exception:
            _unlock(folder)
            raise
        return cls(folder=folder)

    def get(self, stage: str, number: int, make: Callable[[], Frames]) -> Frames:
        """The new frames of a segment, uint8: from its file, or made and put there."""
        path = self.folder / f"{stage}_{number:04}.npy"
        made = None if from_first(path.is_file) else to_uint8(make())
        if made is not None and is_first():
            with replacing(path) as partial, partial.open("wb") as file:
                np.save(file, made)
        if jax.process_count() == 1:
            return np.load(path, mmap_mode="r")
        return from_first(functools.partial(np.load, path)) if made is None else made

    def remove(self) -> None:
        """Deletes the folder and what this class has put into it."""
        for path in (*self.folder.glob("*_*.npy"), *self.folder.glob(".*.partial"), self.folder / "request.json"):
            path.unlink(missing_ok=True)
        _unlock(self.folder)
        with contextlib.suppress(OSError):  # somebody else's file is in there
            self.folder.rmdir()


def _check_request(folder: Path, wanted: dict[str, Any]) -> None:
    """Writes the request of a new working folder, or compares it with the one that the folder was begun for."""
    path = folder / "request.json"
    if not path.is_file():
        write_json(path, wanted)
    elif differing := differences(read_json(path, advice="delete the folder to start anew"), wanted):
        raise ValueError(
            f"{folder} holds segments of another request (different: {differing}); "
            f"repeat that request to finish it, or delete the folder"
        )


LOCK = "lock"
_held: dict[Path, int] = {}
"""Descriptors of this process's locks by folder. The system releases them however the process ends."""


def _lock(folder: Path) -> None:
    """Keeps other processes out of a working folder.

    Raises:
        ValueError: another process holds it.
    """
    if folder.resolve() in _held:
        return
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ValueError(
            f"{folder}: another process makes this video: wait for it, stop it, or choose another --output"
        ) from None
    _held[folder.resolve()] = lock


def _unlock(folder: Path) -> None:
    (folder / LOCK).unlink(missing_ok=True)
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        os.close(lock)


def segment_seed(seed: int, number: int) -> int:
    """The seed of a segment: the first is the request's own, so it is the video that the request makes alone."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def draft(
    pipeline: Pipeline,
    segments: Segments,
    prompts: Sequence[str],
    *,
    start: Frames | None = None,
    size: tuple[int, int] | None = None,
    resolution: str = "480p",
    num_frames: int = 93,
    num_cond_frames: int = 13,
    seed: int = 0,
    on_segment: OnSegment | None = None,
    on_step: OnStep | None = None,
    **options: Any,
) -> Iterator[Frames]:
    """The new frames of each segment, T H W 3 uint8; all but the first go on from the frames before.

    Args:
        pipeline: what makes them.
        segments: where they are kept.
        prompts: one a segment; the same for a long video, different ones for an interactive one.
        start: the first segment begins with these: one frame (an image) or a clip; None: from the prompt alone.
        size: height and width. None: 480 x 832, or the aspect-ratio bucket of `resolution` nearest to `start`.
        resolution: "480p" or "720p".
        num_frames: of a segment, condition included.
        num_cond_frames: last frames of a segment that the next goes on from.
        seed: of the whole; each segment gets its own.
        on_segment: told of every segment that is not finished yet; on_step: of its steps.
        options: fields of `SamplingOptions`.
    """
    num_frames = whole_frames(num_frames)
    if len(prompts) > 1 or (start is not None and len(start) > 1):
        check_condition(num_cond_frames, num_frames, None if start is None or len(start) == 1 else len(start))
    before: Frames | None = start

    def make(number: int) -> Frames:
        if on_segment is not None:
            on_segment("draft", number, len(prompts))
        shared = {"num_frames": num_frames, "on_step": on_step, "seed": segment_seed(seed, number), **options}
        if before is None:
            height, width = size or (480, 832)
            return pipeline.text_to_video(prompts[number], height=height, width=width, **shared)[0]
        if number == 0 and len(before) == 1:
            return pipeline.image_to_video(before[0], prompts[0], size=size, resolution=resolution, **shared)[0]
        shared |= {"size": before.shape[1:3] if number else size, "resolution": resolution}
        video = pipeline.continue_video(before, prompts[number], num_cond_frames=num_cond_frames, **shared)[0]
        return video[num_cond_frames:] if number else video

    for number in range(len(prompts)):
        new = segments.get("draft", number, functools.partial(make, number))
        yield new
        before = _tail(before if number else None, new, num_cond_frames)


def _tail(before: Frames | None, new: Frames, count: int) -> Frames:
    """The last frames so far, in memory: a copy, for a view would keep all of them."""
    joined = new if before is None or len(new) >= count else np.concatenate([before, new])
    return joined[max(0, len(joined) - count) :].copy()


def windows(drafts: Iterator[Frames], overlap: int) -> Iterator[Frames]:
    """The frames of each segment together with the last `overlap` frames of the segment before."""
    before: Frames | None = None
    for new in drafts:
        yield new if before is None else np.concatenate([before, new])
        before = _tail(before, new, overlap)


def refine(
    pipeline: Pipeline,
    segments: Segments,
    drafts: Iterator[Frames],
    num_segments: int,
    *,
    overlap: int = 13,
    spatial_only: bool = False,
    seed: int = 0,
    prompt: str = "",
    on_segment: OnSegment | None = None,
    on_step: OnStep | None = None,
    **options: Any,
) -> Iterator[Frames]:
    """The new frames of each segment at 720p, each conditioned on the refined frames before it.

    Args:
        pipeline: what refines them; segments: where they are kept.
        drafts: the new frames of each segment; num_segments: how many there are.
        overlap: frames of a segment that the next one's refinement sees again.
        spatial_only: keep the frame rate instead of doubling it.
        seed: of the whole; prompt: of all segments, as released an empty one.
        on_segment: told of every segment that is not finished yet; on_step: of its steps.
        options: fields of `SamplingOptions`.
    """
    before: Frames | None = None

    def make(number: int, window: Frames) -> Frames:
        if on_segment is not None:
            on_segment("refined", number, num_segments)
        known = 0 if before is None else len(before)
        return pipeline.refine(
            window,
            prompt,
            condition_video=before,
            num_cond_frames=known,
            spatial_only=spatial_only,
            seed=segment_seed(seed, number),
            on_step=on_step,
            **options,
        )[0, known:]

    for number, window in enumerate(windows(drafts, overlap)):
        new = segments.get("refined", number, functools.partial(make, number, window))
        yield new
        before = _tail(before, new, overlap if spatial_only else 2 * overlap)


def cut(video: Frames, num_frames: int = 93, overlap: int = 13) -> list[Frames]:
    """A video of any length as segments to refine: `num_frames` first, then `num_frames - overlap` new ones each."""
    edges = [0, *range(num_frames, len(video), num_frames - overlap), len(video)]
    return [video[start:stop] for start, stop in itertools.pairwise(edges)]
