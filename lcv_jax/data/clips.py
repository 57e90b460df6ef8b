"""Clips of a manifest: which bucket each goes to, and its frames in that bucket's size."""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.config import DataConfig, Size, as_text
from lcv_jax.data.encoded import checked_weights
from lcv_jax.data.frames import resize_and_crop
from lcv_jax.data.manifest import Entry
from lcv_jax.data.media_reader import probe_video, read_image, stream_video

Groups = Sequence[Sequence[Size]]
# Durations are rounded to the container's clock.
_SLACK = 0.1
# Published buckets are no exact fit for usual videos: 720 x 1280 goes to 704 x 1312.
_ENLARGED = 1.1


class TooShortError(ValueError):
    """A clip has fewer frames than any bucket wants."""

    def __init__(self, num_frames: int, shortest: int):
        super().__init__(f"too short: {num_frames} frames, the shortest bucket has {shortest}")
        self.num_frames = num_frames


@dataclasses.dataclass(frozen=True)
class Measure:
    """What decides about a clip's bucket."""

    height: int
    width: int
    num_frames: int
    """At the wanted rate, between start and end."""


def measure(entry: Entry, fps: float) -> Measure:
    """Size and number of frames of a clip, from the manifest where it says them, otherwise from the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no video, or nothing from `start` on.
    """
    if entry.is_image:
        if entry.height is not None and entry.width is not None:
            return Measure(entry.height, entry.width, 1)
        height, width, _ = read_image(entry.path).shape
        return Measure(height, width, 1)
    if None not in (entry.height, entry.width, entry.num_frames, entry.fps):
        height, width, seconds = entry.height, entry.width, entry.num_frames / entry.fps  # type: ignore[operator]
    else:
        height, width, seconds = probe_video(entry.path)
    end = seconds if entry.end is None else min(entry.end, seconds)
    count = math.ceil((end - entry.start) * fps - _SLACK)
    if seconds == 0:  # the file does not say: reading will tell
        count = math.ceil(((entry.end or math.inf) - entry.start) * fps - _SLACK) if entry.end else 2**31
    elif count < 1:
        raise ValueError(f"{entry.path}: lasts {seconds:.2f} s, nothing lies from start = {entry.start} on")
    return Measure(height, width, count)  # type: ignore[arg-type]


def choose_bucket(groups: Groups, clip: Measure) -> Size:
    """The bucket of a clip: of the nearest shape, and of the most frames that the clip can fill.

    Of several groups (resolutions), and of several sizes of one shape, it is the largest for which the clip is not
    enlarged by more than a tenth, or the smallest. Shapes are compared as published: height / width, rounded to two
    decimals.

    Raises:
        TooShortError: the clip fills no bucket.
    """
    fitting = [[size for size in group if size[0] <= clip.num_frames] for group in groups]
    fitting = [group for group in fitting if group]
    if not fitting:
        raise TooShortError(clip.num_frames, min(size[0] for group in groups for size in group))
    ratio = clip.height / clip.width
    best = []
    for group in fitting:
        distances = {size: round(abs(round(size[1] / size[2], 2) - ratio), 6) for size in group}
        near = [size for size in group if distances[size] == min(distances.values())]
        best.append(_largest_covered([(height, width) for _, height, width in near], clip))
    height, width = _largest_covered(best, clip)
    return max(size for group in fitting for size in group if size[1:] == (height, width))


def _largest_covered(sizes: Sequence[tuple[int, int]], clip: Measure) -> tuple[int, int]:
    covered = [size for size in sizes if max(size[0] / clip.height, size[1] / clip.width) <= _ENLARGED]
    area = lambda size: size[0] * size[1]  # noqa: E731
    return max(covered, key=area) if covered else min(sizes, key=area)


def image_groups(groups: Groups) -> list[list[Size]]:
    """Buckets of single frames: the shapes of all buckets."""
    return [list(dict.fromkeys((1, height, width) for _, height, width in group)) for group in groups]


def read_frames(entry: Entry, size: Size, fps: float) -> UInt8[np.ndarray, "T H W 3"]:
    """The first frames of a clip, in a bucket's size: resampled in time, resized and cropped.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no video.
        TooShortError: it has fewer frames than it said.
    """
    T, height, width = size
    if entry.is_image:
        return resize_and_crop(read_image(entry.path)[None], height, width)
    limit = T
    if entry.end is not None:
        limit = min(T, math.ceil((entry.end - entry.start) * fps - _SLACK))
    stream = stream_video(entry.path, Fraction(fps).limit_denominator(100_000), entry.start)
    # One by one: what is in memory is the clip in its bucket's size, not in its file's.
    frames = [resize_and_crop(frame_HWC[None], height, width) for frame_HWC in itertools.islice(stream, limit)]
    if len(frames) < T:
        raise TooShortError(len(frames), T)
    return np.concatenate(frames)


def read_into_bucket(entry: Entry, groups: Groups, fps: float) -> tuple[Size, UInt8[np.ndarray, "T H W 3"]]:
    """A clip's bucket and its frames, also where the file has fewer than it says.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no video, or fills no bucket.
    """
    clip = measure(entry, fps)
    if entry.is_image:
        groups = image_groups(groups)
    while True:
        size = choose_bucket(groups, clip)
        try:
            return size, read_frames(entry, size, fps)
        except TooShortError as error:
            clip = dataclasses.replace(clip, num_frames=error.num_frames)


def first_described(entry: Entry, size: Size, fps: float, temporal_factor: int = 4) -> int:
    """The first latent frame all of whose frames are described by the entry's captions: `caption_start` in latents.

    Args:
        size: of its bucket.
        fps: frames a second in that bucket.
        temporal_factor: frames of a latent frame after the first.

    Raises:
        ValueError: nothing of the clip is described.
    """
    frame = round((entry.caption_start or 0) * fps)
    latent = 0 if frame <= 0 else 1 + math.ceil((frame - 1) / temporal_factor)
    if latent > (size[0] - 1) // temporal_factor:
        raise ValueError(
            f"captions describe it from {entry.caption_start:g} s on (caption_start), and its {size[0]} frames last "
            f"{size[0] / fps:g} s"
        )
    return latent


@dataclasses.dataclass(frozen=True)
class SortedClips:
    """The clips of a manifest by their buckets."""

    entries: dict[Size, list[Entry]]
    left_out: dict[str, str]
    """Ids of those that cannot be read or are too short, with reasons."""


def sort_clips(cfg: DataConfig, entries: Sequence[Entry], groups: Groups) -> SortedClips:
    """Puts every clip into its bucket; crops are taken from all clips that are long enough for them.

    Warns of clips that are left out.

    Raises:
        ValueError: none is left.
    """
    by_size: dict[Size, list[Entry]] = {}
    unread: dict[str, str] = {}
    short: dict[str, TooShortError] = {}
    with ThreadPoolExecutor(max(cfg.threads, 1)) as pool:
        measured = [(entry, pool.submit(measure, entry, cfg.fps)) for entry in entries]
        for entry, future in measured:
            try:
                for size in _sizes_of(cfg, entry, future.result(), groups):
                    by_size.setdefault(size, []).append(entry)
            except TooShortError as error:
                short[entry.id] = error
            except (OSError, ValueError) as error:
                unread[entry.id] = " ".join(str(error).split())
    if not by_size:
        lengths = {identity: error.num_frames for identity, error in short.items()}
        raise ValueError(f"{cfg.path}: {nothing_left(groups, lengths, unread, cfg.fps)}")
    left_out = unread | {identity: str(error) for identity, error in short.items()}
    if left_out:
        some = "; ".join(f"{identity}: {reason}" for identity, reason in list(left_out.items())[:3])
        warnings.warn(f"{cfg.path}: {len(left_out)} of {len(entries)} clips are left out: {some}", stacklevel=4)
    return SortedClips(dict(sorted(by_size.items())), left_out)


def _sizes_of(cfg: DataConfig, entry: Entry, clip: Measure, groups: Groups) -> list[Size]:
    if cfg.mode == "autoencoder":
        sizes = [size for group in groups for size in group]
        fitting = [size for size in sizes if (size[0] == 1 if entry.is_image else size[0] <= clip.num_frames)]
        if not fitting:
            raise TooShortError(clip.num_frames, min(size[0] for size in sizes))
        return fitting
    size = choose_bucket(image_groups(groups) if entry.is_image else groups, clip)
    first_described(entry, size, cfg.fps, cfg.temporal_factor)
    also_image = cfg.images_from_clips and size[0] > 1 and not entry.caption_start
    return [size, (1, *size[1:])] if also_image else [size]


def nothing_left(groups: Groups, short: Mapping[str, int], unread: Mapping[str, str], fps: float) -> str:
    """Why there is no clip to train on.

    Args:
        groups: the buckets.
        short: ids of the clips that are too short, with their numbers of frames.
        unread: ids of those that cannot be read, with reasons.
        fps: that frames are counted at.
    """
    example = next((f"{identity}: {reason}" for identity, reason in unread.items()), "")
    if not short:
        return f"no clip can be read: {len(unread)} are quarantined, such as {example}"
    longest = max(short, key=lambda identity: short[identity])
    shortest = min((size for group in groups for size in group), key=lambda size: size[0])
    also = f". {len(unread)} more cannot be read, such as {example}" if unread else ""
    return (
        f"all clips are too short: the longest, {longest}, has {short[longest]} frames at {fps:g} frames a second "
        f"({short[longest] / fps:.2f} s), the shortest bucket is {as_text(shortest)} and needs {shortest[0]} "
        f"({shortest[0] / fps:.2f} s); give sizes of fewer frames, or a higher fps{also}"
    )


def entry_weights(entries: Sequence[Entry], column: str, manifest: Path) -> np.ndarray:
    """A column of weights.

    Raises:
        ValueError: a clip has none, or it is no weight.
    """
    return checked_weights(column_values(entries, column, manifest, "weight_column"), column, str(manifest))


def column_values(entries: Sequence[Entry], column: str, manifest: Path, option: str) -> list[float]:
    """A column of numbers, which an option names.

    Raises:
        ValueError: a clip has none.
    """
    missing = [entry.id for entry in entries if column not in entry.numbers]
    if missing:
        have = sorted({name for entry in entries for name in entry.numbers})
        raise ValueError(
            f"{manifest}: {option} {column!r} is not given for {len(missing)} clips, the first is {missing[0]}; "
            f"columns with numbers: {', '.join(have) or 'none'}"
        )
    return [entry.numbers[column] for entry in entries]
