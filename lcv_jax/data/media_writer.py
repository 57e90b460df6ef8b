"""Videos and images to files.

A file takes its name only when it is complete: a run that is killed leaves no half video under it. Videos are written
frame by frame, so that a long one never has to fit into memory.
"""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lcv_jax.array_types import Array, Shaped
from lcv_jax.data.colour import exact_conversion
from lcv_jax.data.frames import media_package, to_uint8
from lcv_jax.own_files import full_disk, naming_write_errors, replacing

_USUAL_CODECS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1")
# x265's chatter would tear up a progress bar. x264 has an approximation of its own for each kind of CPU, with which the
# same frames make another file now and then.
_OPTIONS = {"libx264": {"x264-params": "cpu-independent=1"}, "libx265": {"x265-params": "log-level=error"}}
_BT709 = 1
_LIMITED_RANGE = 1


class VideoWriter:
    """Writes frames to a video file: `with VideoWriter(path, fps=15, height=480, width=832) as video: video.write(x)`.

    The frames go to a file beside `path`, which takes its name on leaving without an exception and is removed
    otherwise. Colours are BT.709, and tagged so.

    Args:
        path: the suffix chooses the container (.mp4, .mkv, .mov, .webm). Missing folders are made.
        fps: frames a second; fractions such as Fraction(30000, 1001) are kept exactly.
        height: even.
        width: even.
        codec: an FFmpeg encoder. None takes H.264, or VP9 where the container is webm.
        crf: quality of the codecs that know it, lower is better; None leaves it to the codec and `options`.
        options: more options of the codec, as FFmpeg names them.

    Raises:
        ValueError: odd sizes, a codec or container that is not there, options it does not take.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: Fraction | float | int,
        height: int,
        width: int,
        codec: str | None = None,
        crf: int | None = 18,
        options: Mapping[str, str] | None = None,
    ):
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ValueError(f"{path}: videos need an even height and width, got {height} x {width}")
        if fps <= 0:
            raise ValueError(f"{path}: fps must be above 0, got {fps}")
        self.path, self.size, self.num_frames = Path(path), (height, width), 0
        self._fps = Fraction(fps).limit_denominator(100_000)
        self._codec = codec or ("libvpx-vp9" if self.path.suffix.lower() == ".webm" else "libx264")
        self._options = {**_OPTIONS.get(self._codec, {}), **(options or {})}
        if crf is not None:
            self._options.setdefault("crf", str(crf))
        _check_codec(self._codec)

    def __enter__(self) -> "VideoWriter":
        with ExitStack() as stack:
            self._begin(stack.enter_context(replacing(self.path, suffix=self.path.suffix)))
            self._file = stack.pop_all()
        return self

    def _begin(self, partial: Path) -> None:
        av = media_package("av")
        options = {"movflags": "faststart"} if self.path.suffix.lower() in (".mp4", ".mov") else {}
        try:
            with naming_write_errors(self.path):
                self._container = av.open(f"file:{partial}", "w", container_options=options)
        except ValueError as error:
            raise ValueError(f"{self.path}: no such kind of video file; use .mp4, .mkv, .mov or .webm") from error
        try:
            stream = self._container.add_stream(self._codec, rate=self._fps, options=self._options)
            stream.height, stream.width = self.size
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _LIMITED_RANGE
            if self._codec == "libvpx-vp9":
                stream.bit_rate = 0  # or else crf is only a lower bound for the quality of its default bit rate
            self._stream = stream
            # Here and not with the first frame, which may be hours of sampling away.
            self._container.start_encoding()
        except (av.FFmpegError, ValueError, OSError) as error:
            self._abandon()
            if full := full_disk(error, self.path):
                raise full from None
            raise ValueError(
                f"{self.path}: {self._codec} does not work in this container or with these options: "
                f"{self._options} ({getattr(error, 'strerror', None) or error})"
            ) from error
        unknown = sorted(self._options.keys() & stream.codec_context.options.keys())
        if unknown:
            self._abandon()
            advice = "; pass crf=None and options for it" if "crf" in unknown else ""
            raise ValueError(f"{self.path}: {self._codec} has no option {', '.join(unknown)}{advice}")

    def write(self, frames_THWC: Shaped[Array | np.ndarray, "T H W 3"]) -> None:
        """Appends frames: bytes, or floats in 0..1."""
        av = media_package("av")
        if tuple(frames_THWC.shape[1:]) != (*self.size, 3):
            raise ValueError(
                f"{self.path}: frames must be (T, {self.size[0]}, {self.size[1]}, 3), got {frames_THWC.shape}"
            )
        space, color_range = av.video.reformatter.Colorspace.ITU709, av.video.reformatter.ColorRange.MPEG
        for frame_HWC in frames_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(to_uint8(frame_HWC)), format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=space,
                dst_color_range=color_range,
                dst_color_trc=_BT709,
                dst_color_primaries=_BT709,
                interpolation=exact_conversion(),
                threads=1,  # to start them takes longer than to convert
            )
            frame.pts, frame.time_base = self.num_frames, 1 / self._fps
            self._encode(frame)
            self.num_frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
            self._file.__exit__(kind, error, trace)
            return
        with self._file:
            try:
                if self.num_frames == 0:
                    raise ValueError(f"{self.path}: no frame was written")
                self._encode(None)
                with naming_write_errors(self.path):
                    self._container.close()
            except BaseException:
                self._abandon()
                raise

    def _encode(self, frame: Any) -> None:
        with naming_write_errors(self.path):
            self._container.mux(self._stream.encode(frame))

    def _abandon(self) -> None:
        """Closes the unfinished file; what it reports of the disk is known by now."""
        with suppress(OSError, ValueError):
            self._container.close()


def write_image(path: str | Path, image_HWC: Shaped[Array | np.ndarray, "H W 3"]) -> None:
    """An image file; the suffix chooses its kind.

    Raises:
        ValueError: a suffix that is no image's.
        OSError: the file cannot be written.
    """
    path = Path(path)
    image = media_package("PIL.Image").fromarray(to_uint8(image_HWC))
    with replacing(path, suffix=path.suffix) as partial, naming_write_errors(path):
        image.save(partial)


def write_frames(folder: str | Path, frames_THWC: Shaped[Array | np.ndarray, "T H W 3"], start: int = 0) -> list[Path]:
    """Every frame as folder/frame_00000.png, numbered from `start`; gives back their paths."""
    paths = [Path(folder) / f"frame_{start + index:05d}.png" for index in range(len(frames_THWC))]
    for path, frame_HWC in zip(paths, frames_THWC, strict=True):
        write_image(path, frame_HWC)
    return paths


def _check_codec(name: str) -> None:
    av = media_package("av")
    try:
        if av.codec.Codec(name, "w").type == "video":
            return
    except ValueError:
        pass
    usual = [codec for codec in _USUAL_CODECS if codec in av.codecs_available]
    raise ValueError(f"no video encoder {name!r} here; there are {', '.join(usual)} among others")
