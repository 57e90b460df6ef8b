"""Images and videos from files, as they are meant to be seen: upright, square pixels, RGB bytes.

Videos are decoded one frame at a time: what is held in memory is what is asked for. Writing is in media_writer.py.
"""

import re
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.frames import media_package

# Duration rounded to the container's clock must not add a frame.
_CLOCK_SLACK = Fraction(1, 10)


def exact_conversion() -> Any:
    """FFmpeg's flags for a conversion of colours without its shortcuts.

    With them every trip through a file darkens all pixels by a level, and a long video is read back many times.
    """
    flags = media_package("av.video.reformatter").Interpolation
    return flags.BICUBIC | flags.ACCURATE_RND | flags.FULL_CHR_H_INT


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image file, turned as its EXIF data says; of an animation the first frame. Transparency is laid over white.

    Raises:
        OSError: there is no such file, or it is no image.
    """
    image_module, image_ops = media_package("PIL.Image"), media_package("PIL.ImageOps")
    try:
        with image_module.open(path) as file:
            image = image_ops.exif_transpose(file)
            if image.mode.startswith(("I", "F")):
                image = image_module.fromarray(_eight_bits(np.asarray(image)))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = image_module.alpha_composite(image_module.new("RGBA", image.size, "white"), image)
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise OSError(f"{path}: cannot be read as an image ({_reason(error)})") from error


def _eight_bits(grey_HW: np.ndarray) -> np.ndarray:
    """Gray values of more than eight bits as bytes: 16 bits by their highest, floats from 0..1."""
    if np.issubdtype(grey_HW.dtype, np.floating):
        return (np.clip(np.nan_to_num(grey_HW), 0, 1) * 255 + 0.5).astype(np.uint8)
    return (np.clip(grey_HW, 0, 65535) // 257).astype(np.uint8)


def read_video(
    path: str | Path, fps: Fraction | float | int | None = None, *, first: int | None = None, last: int | None = None
) -> tuple[UInt8[np.ndarray, "T H W 3"], Fraction]:
    """The frames of a video file and their rate.

    Args:
        path: anything FFmpeg decodes: mp4, webm, mkv, mov, gif...
        fps: frames a second wanted. Each moment gets the frame nearest to it in time, so that speed stays as it is,
            also with a variable rate. None takes all frames as they are.
        first: stop after this many frames.
        last: keep this many frames at the end. With `fps`, the last frame of the file is always one of them.

    Raises:
        OSError: there is no such file, or it cannot be decoded to its end.
        ValueError: it holds no video, or an argument makes no sense.
    """
    if first is not None and last is not None:
        raise ValueError(f"give first or last, not both; got {first=}, {last=}")
    for name, value in (("fps", fps), ("first", first), ("last", last)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    wanted = None if fps is None else Fraction(fps).limit_denominator(100_000)
    with _OpenVideo(path) as video:
        if last is not None:
            frames = iter(_last_frames(video, wanted, last))
        else:
            frames = (frame for frame, _, _ in video) if wanted is None else _at_rate(video, wanted)
        images = []
        for frame in frames:
            images.append(video.to_rgb(frame))
            if len(images) == first:
                break
        if not images:
            raise ValueError(f"{path}: holds no frame")
        if len({image.shape for image in images}) > 1:
            raise ValueError(f"{path}: its frames change size from {images[0].shape[:2]} to {images[-1].shape[:2]}")
        return np.stack(images), wanted or video.rate


def stream_video(path: str | Path, fps: Fraction | float | int, start: float = 0) -> Iterator[np.ndarray]:
    """The frames H W 3 of a video one by one, at a rate, from a moment on; see `read_video`.

    Raises:
        OSError: as `read_video`, and where the file ends before it should.
        ValueError: it holds no video.
    """
    with _OpenVideo(path, strict=True) as video:
        if start > 0:
            video.seek(Fraction(start))
        for frame in _at_rate(video, Fraction(fps).limit_denominator(100_000), Fraction(start)):
            yield video.to_rgb(frame)


def probe_video(path: str | Path) -> tuple[int, int, float]:
    """Height and width of a video's frames as they are meant to be seen, and the seconds that it says it lasts.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no video, or no frame.
    """
    with _OpenVideo(path) as video:
        for frame, _, _ in video:
            height, width, _ = video.to_rgb(frame).shape
            return height, width, float(video.stated_seconds())
    raise ValueError(f"{path}: holds no frame")


class _OpenVideo:
    """A file's video stream: an iterator over (frame, start, end), in seconds since the first frame.

    Args:
        path: the file.
        strict: raise an error, instead of warning, where a file ends before it should.
    """

    def __init__(self, path: str | Path, strict: bool = False):
        self.path, self._av, self._strict = path, media_package("av"), strict
        self._count = 0
        self._origin: Fraction | None = None

    def __enter__(self) -> "_OpenVideo":
        try:
            self._container = self._av.open(str(self.path))
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise OSError(f"{self.path}: cannot be read as a video ({_reason(error)})") from error
        streams = [
            stream for stream in self._container.streams.video
            if not stream.disposition & self._av.stream.Disposition.attached_pic  # the cover of a song
        ]  # fmt: skip
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            self._container.close()
            raise ValueError(f"{self.path}: holds no video, only {kinds}")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    @property
    def rate(self) -> Fraction:
        """Frames a second: the average one where the rate varies."""
        return self._stream.average_rate or self._stream.guessed_rate or Fraction(25)

    def seek(self, seconds: Fraction) -> None:
        """Goes to a key frame before a moment, where the file allows it: what lies before need not be decoded."""
        if self._stream.start_time is not None:
            moment = self._stream.start_time + int(seconds / self._stream.time_base)
            with suppress(self._av.FFmpegError):
                self._container.seek(moment, stream=self._stream)
                self._origin = self._stream.start_time * self._stream.time_base

    def __iter__(self) -> Iterator[tuple[Any, Fraction, Fraction]]:
        period, origin, end = 1 / self.rate, self._origin, Fraction(0)
        try:
            for frame in self._container.decode(self._stream):
                start = end if frame.pts is None else frame.pts * frame.time_base
                origin = start if origin is None else origin
                end = start + (frame.duration * frame.time_base if frame.duration else period)
                self._count += 1
                yield frame, start - origin, end - origin
        except self._av.FFmpegError as error:
            raise OSError(f"{self.path}: breaks off after {self._count} frames ({_reason(error)})") from error
        if origin is not None:
            self._tell_if_cut_off(end - origin)

    def stated_seconds(self) -> Fraction:
        """How long the video lasts by what the file says; 0 where it does not."""
        if self._stream.duration:
            return self._stream.duration * self._stream.time_base
        return Fraction(self._container.duration or 0, self._av.time_base)

    def _tell_if_cut_off(self, seconds: Fraction) -> None:
        """FFmpeg takes a file that was not copied to its end for one that ends early."""
        stated = self.stated_seconds()
        if stated - seconds > max(3 / self.rate, stated / 20):
            message = (
                f"{self.path}: should last {float(stated):.2f} s, but its frames end after {float(seconds):.2f} s; "
                "is the file complete?"
            )
            if self._strict:
                raise OSError(message)
            warnings.warn(message, stacklevel=4)

    def to_rgb(self, frame: Any) -> UInt8[np.ndarray, "H W 3"]:
        """The frame with square pixels, turned upright."""
        reformatter = self._av.video.reformatter
        untagged = frame.colorspace in (2, 0) and not frame.format.is_rgb
        # What players assume when a file does not say: BT.709 for high definition, BT.601 below.
        high = frame.width >= 1280 or frame.height > 576
        space = reformatter.Colorspace.ITU709 if high else reformatter.Colorspace.ITU601
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        width, height = frame.width, frame.height
        if aspect > 1:
            width = round(width * aspect)
        elif 0 < aspect < 1:
            height = round(height / aspect)
        image_HWC = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=space if untagged else None,
            interpolation=exact_conversion(),
        ).to_ndarray()
        # Counter-clockwise, like numpy's.
        return np.ascontiguousarray(np.rot90(image_HWC, round(frame.rotation / 90) % 4))


def _at_rate(video: _OpenVideo, fps: Fraction, since: Fraction = Fraction(0)) -> Iterator[Any]:
    """For every moment since + k / fps of the video the frame that starts nearest to it."""
    before, before_start, end, count = None, Fraction(0), Fraction(0), 0
    for frame, start, end in video:  # noqa: B007
        while before is not None and 2 * (since + count / fps) <= before_start + start:
            yield before
            count += 1
        before, before_start = frame, start
    while before is not None and (since == count == 0 or count < (end - since) * fps - _CLOCK_SLACK):
        yield before
        count += 1


def _last_frames(video: _OpenVideo, fps: Fraction | None, number: int) -> list[Any]:
    """The last frames; with a rate, the moments are counted back from the start of the last frame."""
    kept: deque[tuple[Any, Fraction]] = deque()
    for frame, start, _ in video:
        kept.append((frame, start))
        # A moment's nearest frame may lie before it: hold the one that covers the earliest moment, and no more.
        while fps and len(kept) > 2 and kept[1][1] <= start - (number - 1) / fps:
            kept.popleft()
        while not fps and len(kept) > number:
            kept.popleft()
    if fps is None or not kept:
        return [frame for frame, _ in kept]
    moments = [kept[-1][1] - back / fps for back in reversed(range(number))]
    in_reach = [moment for moment in moments if moment >= kept[0][1] - _CLOCK_SLACK / fps]
    return [min(kept, key=lambda pair: abs(pair[1] - moment))[0] for moment in in_reach]


def _reason(error: BaseException) -> str:
    """FFmpeg's or Pillow's own words, without error numbers and the file name, which the message has already."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.split(r":? '", words.splitlines()[0])[0]
