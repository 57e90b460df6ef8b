"""Images and clips from files, as they are meant to be seen: upright, square pixels, 8-bit SDR RGB over white.

Everything that reads media reads it here, so that one set of rules holds; it is in docs/training.md. What cannot be
read by these rules is refused with its reason. Images and animations are in pictures.py, videos in video_file.py.
Clips are decoded one frame at a time: what is held in memory is what is asked for. Writing is in media_writer.py.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.pictures import Animation, is_picture_file, read_image
from lcv_jax.data.pictures import reason as _reason
from lcv_jax.data.video_file import VideoFile

__all__ = ["open_clip", "probe_video", "read_image", "read_video", "stream_video"]


def read_video(
    path: str | Path, fps: Fraction | float | int | None = None, *, first: int | None = None, last: int | None = None
) -> tuple[UInt8[np.ndarray, "T H W 3"], Fraction]:
    """The frames of a clip and their rate.

    Args:
        path: anything that FFmpeg decodes (mp4, webm, mkv, mov, ts...), or an animated GIF, WebP, PNG or AVIF.
        fps: frames per second wanted. Each moment gets the frame nearest to it in time, so that the speed stays as it
            is, also with a variable rate. None: the clip's own rate, the most common one where it varies.
        first: stop after this many frames.
        last: keep this many frames at the end. The last frame of the file is always one of them.

    Raises:
        OSError: there is no such file, or it is incomplete or damaged.
        ValueError: it holds no video, cannot be read by the rules, or an argument makes no sense.
    """
    if first is not None and last is not None:
        raise ValueError(f"give first or last, not both; got {first=}, {last=}")
    for name, value in (("fps", fps), ("first", first), ("last", last)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    wanted = None if fps is None else Fraction(fps).limit_denominator(100_000)
    with open_clip(path) as clip:
        timeline = clip.timeline
        indices = timeline.last(last, wanted) if last is not None else islice(timeline.at_rate(wanted), first)
        return np.stack(list(clip.pictures(indices))), wanted or timeline.rate


def stream_video(path: str | Path, fps: Fraction | float | int, start: float = 0) -> Iterator[np.ndarray]:
    """The frames H W 3 of a clip one by one, at a rate, from a moment on (seconds after its first frame).

    Raises:
        OSError: see `read_video`.
        ValueError: see `read_video`.
    """
    since = Fraction(start).limit_denominator(1_000_000)
    with open_clip(path) as clip:
        yield from clip.pictures(clip.timeline.at_rate(Fraction(fps).limit_denominator(100_000), since))


def probe_video(path: str | Path) -> tuple[int, int, float]:
    """Height and width of a clip's frames as they are meant to be seen, and the seconds that its picture lasts.

    Raises:
        OSError: see `read_video`.
        ValueError: see `read_video`.
    """
    with open_clip(path) as clip:
        height, width, _ = next(clip.pictures([0])).shape
        return height, width, float(clip.timeline.seconds)


def open_clip(path: str | Path) -> Animation | VideoFile:
    """A clip to read frames from by number: use it in a `with` statement, and its `pictures`.

    Raises:
        OSError: see `read_video`.
        ValueError: see `read_video`.
    """
    try:
        return Animation(path) if is_picture_file(path) else VideoFile(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be read as a video ({_reason(error)})") from error
