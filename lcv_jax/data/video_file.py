"""Video files, by FFmpeg: their frame times, frames at given places, and their pixels upright and in SDR.

The times of a file's frames are read from its packets, without decoding, once per file. A seek is checked by the first
frame that it leads to. The rules are in docs/training.md.
"""

import functools
import gc
import os
from array import array
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.colour import Tags, coding_of, to_sdr
from lcv_jax.data.completeness import check_complete
from lcv_jax.data.frames import media_package
from lcv_jax.data.pictures import reason
from lcv_jax.data.timing import Timeline, make_timeline
from lcv_jax.user_files import check_regular

_REORDERED = 32
"""Frames by which decoding order and display order can differ in any codec."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these codecs leave the alpha channel out."""
_EXTREME_ASPECT = 8
_KEY, _DISCARD = 1, 2
_UNTIMED = np.iinfo(np.int64).min
_REENCODE = "re-encode it (ffmpeg -i FILE -r RATE OUT.mp4)"


class VideoFile:
    """A file's video stream as a clip."""

    def __init__(self, path: str | Path):
        self.path = path
        self._marks: tuple[bytes | None, bool] | None = None

    def __enter__(self) -> "VideoFile":
        self.timeline = timeline_of(self.path)
        self._open()
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()
        # Frames and their side data refer to each other: few objects, which Python would not collect soon, and large.
        gc.collect(1)

    def pictures(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Frames H W 3 of the timeline; the indices must not fall.

        Raises:
            OSError: a frame cannot be decoded.
            ValueError: the pixels of a frame cannot be shown as they are meant to be.
        """
        frames, size, shown, picture = None, None, -1, np.empty(0)
        for index in indices:
            if index != shown:
                frames = frames or _Frames(self._frames_from(index), self.timeline)
                frame = frames.nearest(int(self.timeline.ticks[index]))
                if frame is None or frame.is_corrupt:
                    moment = float(self.timeline.start(index))
                    raise OSError(
                        f"{self.path}: frame {index} of {len(self.timeline)} (at {moment:.3f} s) is "
                        f"{'missing after decoding' if frame is None else 'damaged'}; copy or download the file again"
                    )
                size = size or (frame.height, frame.width)
                if (frame.height, frame.width) != size:
                    raise ValueError(
                        f"{self.path}: its frames change size from {size} to {(frame.height, frame.width)}; cut it "
                        "into clips of one size"
                    )
                shown, picture = index, self._to_rgb(frame)
            yield picture

    def _open(self) -> None:
        self._container, self._stream = open_stream(self.path)
        self._stream.thread_type = "AUTO"
        context = self._stream.codec_context
        self._tags, self._alpha_decoder = Tags.of(context), None
        if context.name in _ALPHA_DECODERS and self._stream.metadata.get("alpha_mode") == "1":
            self._alpha_decoder = media_package("av").CodecContext.create(_ALPHA_DECODERS[context.name], "r")

    def _frames_from(self, index: int) -> Iterator[Any]:
        """Decoded frames from a frame or one before it.

        The first frame after a seek can lie after the time that was sought (always in MPEG transport streams). Then it
        starts from earlier key frames and in the end from the beginning of the file.
        """
        tick, back = int(self.timeline.ticks[index]), 0
        keyframes = self.timeline.keyframes
        place = int(np.searchsorted(keyframes, tick, side="right")) - 1
        while place - back > 0:
            try:
                self._container.seek(int(keyframes[place - back]), stream=self._stream)
                frames = self._decoded()
                first = next(frames, None)
            except OSError:  # of the decoder, which did not get the frames that it needed
                first = None
            if first is not None and first.pts <= tick and not first.is_corrupt:
                yield first
                yield from frames
                return
            back = max(1, 2 * back)
            self._container.close()
            self._open()
        yield from self._decoded()

    def _decoded(self) -> Iterator[Any]:
        av, last = media_package("av"), None
        try:
            for packet in self._container.demux(self._stream):
                decoder = self._alpha_decoder or self._stream.codec_context
                for frame in decoder.decode(packet if packet.size else None):
                    if frame.pts is None or (last is not None and frame.pts <= last):
                        moment = float(self._seconds(last or 0))
                        raise ValueError(f"{self.path}: its frame times do not rise after {moment:.3f} s; {_REENCODE}")
                    last = frame.pts
                    yield frame
        except av.FFmpegError as error:
            after = "before its first frame" if last is None else f"after {float(self._seconds(last)):.3f} s"
            raise OSError(f"{self.path}: cannot be decoded {after} ({reason(error)})") from error

    def _seconds(self, tick: int) -> Fraction:
        return (tick - int(self.timeline.ticks[0])) * self.timeline.time_base

    def _to_rgb(self, frame: Any) -> UInt8[np.ndarray, "H W 3"]:
        """The frame with square pixels, upright, in SDR."""
        aspect = _exact(self._stream.sample_aspect_ratio or Fraction(1))
        try:
            if frame.interlaced_frame:
                raise ValueError("is interlaced; deinterlace it (ffmpeg -i FILE -vf bwdif OUT.mp4)")
            if aspect > 0 and not 1 / _EXTREME_ASPECT <= aspect <= _EXTREME_ASPECT:
                raise ValueError(
                    f"has pixels of the aspect ratio {aspect}; correct it (ffmpeg -i FILE -vf setsar=1 ...)"
                )
            height = round(frame.height / aspect) if 0 < aspect < 1 else frame.height
            width = round(frame.width * aspect) if aspect > 1 else frame.width
            # Only of the first frame: one whose side data is read refers to itself, and its memory is not freed soon.
            self._marks = self._marks or _marks(frame)
            display_matrix, has_dolby_vision = self._marks
            coding = coding_of(frame, self._tags, has_dolby_vision=has_dolby_vision)
            return _upright(to_sdr(frame, coding, height, width), display_matrix)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None


class _Frames:
    """Decoded frames, of which the one nearest to a rising time is taken."""

    def __init__(self, frames: Iterator[Any], timeline: Timeline):
        self._frames, self._before, self._after = frames, None, next(frames, None)
        # Some packets (of VP8, for one) give no frame of their own: the nearest one is shown at their time.
        self._tolerance = Fraction(1, 2) / (timeline.rate * timeline.time_base)

    def nearest(self, tick: int) -> Any | None:
        while self._after is not None and self._after.pts < tick:
            self._before, self._after = self._after, next(self._frames, None)
        near = [
            frame for frame in (self._before, self._after)
            if frame is not None and abs(frame.pts - tick) <= self._tolerance
        ]  # fmt: skip
        return min(near, key=lambda frame: abs(frame.pts - tick), default=None)


def timeline_of(path: str | Path) -> Timeline:
    """The frame times of a file; they are read again only if the file changes.

    Raises:
        OSError: the file cannot be read, or is incomplete.
        ValueError: it holds no video, or its frames have no usable times.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be read as a video ({reason(error)})") from error
    return _scan(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _scan(path: str, size: int, mtime_ns: int) -> Timeline:
    av = media_package("av")
    container, stream = open_stream(path)
    with container:
        packets, end, ends_in_a_frame = _Packets(), Fraction(0), False
        try:
            for packet in container.demux():
                if packet.pts is not None and packet.time_base:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream_index == stream.index and packet.size:
                    packets.add(packet)
                    ends_in_a_frame = packet.is_corrupt
        except av.FFmpegError as error:
            raise OSError(f"{path}: breaks off after {len(packets)} frames ({reason(error)})") from error
        if ends_in_a_frame:
            raise OSError(f"{path}: is cut off in the middle of its last frame; copy or download it again")
        check_complete(path, size, container, stream, end)
        try:
            return _timeline(packets, stream)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


class _Packets:
    """What a timeline needs of a stream's packets: 17 bytes of each, as films can have a million."""

    def __init__(self) -> None:
        self._times, self._durations, self._flags = array("q"), array("q"), array("b")

    def __len__(self) -> int:
        return len(self._times)

    def add(self, packet: Any) -> None:
        self._times.append(_UNTIMED if packet.pts is None else packet.pts)
        self._durations.append(packet.duration or 0)
        self._flags.append(_KEY * packet.is_keyframe + _DISCARD * packet.is_discard)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times, durations, and whether it is a key frame, of those that can be decoded and are shown."""
        times, durations, flags = np.array(self._times), np.array(self._durations), np.array(self._flags)
        # Frames before the first key frame cannot be decoded, nor can those that are shown before it.
        shown = (flags & _DISCARD) == 0
        if (flags & _KEY).any():
            shown[: int(np.argmax(flags & _KEY > 0))] = False
        return times[shown], durations[shown], (flags[shown] & _KEY) > 0


def _timeline(packets: _Packets, stream: Any) -> Timeline:
    times, durations, is_key = packets.arrays()
    untimed = int((times == _UNTIMED).sum())
    if untimed:
        raise ValueError(f"{untimed} of its {len(times)} frames have no time; {_REENCODE}")
    if len(times) and is_key[0]:
        shown = times >= times[0]
        times, durations, is_key = times[shown], durations[shown], is_key[shown]
    moved = np.abs(np.argsort(np.argsort(times, kind="stable"), kind="stable") - np.arange(len(times)))
    limit = 0 if stream.codec_context.codec.intra_only else _REORDERED
    if (moved > limit).any():
        raise ValueError(
            f"its frame times do not rise (frame {int(np.argmax(moved > limit))} is the first); {_REENCODE}"
        )
    return make_timeline(
        times,
        _exact(stream.time_base),
        last_duration=int(durations[np.argmax(times)]) if len(times) else 0,
        stated_rates=[_exact(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate],
        keyframes=times[is_key],
    )


def _exact(rational: Any) -> Fraction:
    """A number of PyAV's, which since version 19 are of a type of its own."""
    return Fraction(rational.numerator, rational.denominator)


def open_stream(path: str | Path) -> tuple[Any, Any]:
    """A container and its first video stream that is not a cover picture.

    Raises:
        OSError: the file cannot be read as a video.
        ValueError: it holds no video.
    """
    av = media_package("av")
    check_regular(path)
    try:
        container = av.open(f"file:{path}")  # "file:": a name with a colon is no address
    except (av.FFmpegError, OSError, ValueError) as error:
        raise OSError(f"{path}: cannot be read as a video ({reason(error)})") from error
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise ValueError(f"{path}: holds no video, only {kinds}")
    return container, streams[0]


def _marks(frame: Any) -> tuple[bytes | None, bool]:
    """The display matrix, and whether it is Dolby Vision."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else bytes(matrix), frame.side_data.get("DOVI_METADATA") is not None


def _upright(image_HWC: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """The image as a display matrix says: turned by multiples of 90 degrees, mirrored, or both.

    The matrix (ISO/IEC 14496-12) takes the place (x, y) of a pixel to (a x + c y, b x + d y).
    """
    if matrix is None:
        return image_HWC
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if not a == d == 0 and not b == c == 0:
        raise ValueError("is turned by an angle that is no multiple of 90 degrees; apply its display matrix first")
    if a == d == 0:
        image_HWC, a, d = image_HWC.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image_HWC[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
