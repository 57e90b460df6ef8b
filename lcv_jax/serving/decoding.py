"""Images and clips of clients, decoded in a process of its own with limits of memory and time.

What comes out is a PNG, or a lossless video of the frames that the task uses: other processes never open what a
client sent. Only files that begin like an image, an mp4, a webm, a mkv or an avi are given to a decoder: FFmpeg also
reads playlists, which name other files and addresses.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import resource
import threading
import warnings
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from lcv_jax.data.frames import media_package
from lcv_jax.data.media_reader import open_clip, read_image
from lcv_jax.data.media_writer import write_image
from lcv_jax.data.pictures import is_animation_file, is_picture_file
from lcv_jax.serving.limits import Limits
from lcv_jax.user_files import reason

# This module is loaded by the process that is forked for each file; it has started no thread of JAX's.
warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)

MediaKind = Literal["image", "clip"]
_AT_ONCE = threading.BoundedSemaphore(2)
_OUTPUT_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of a clip."""

    fps: float | None = None
    """Frames a second; None: its own."""
    last: int | None = None
    """Frames at its end; None: all."""
    most: int = 0
    """More frames are refused."""


class Decoder:
    """What a client sent, opened by another process: `with Decoder(path, limits) as decoder:` kind, then write.

    Raises:
        ValueError: it cannot be decoded, or takes more than the limits.
    """

    def __init__(self, source: Path, limits: Limits):
        self._source, self._limits = source, limits

    def __enter__(self) -> "Decoder":
        _AT_ONCE.acquire()
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_decode, args=(theirs, self._source, self._limits), daemon=True)
        try:
            self._process.start()
        except BaseException:
            _AT_ONCE.release()
            raise
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()
        _AT_ONCE.release()

    def kind(self) -> MediaKind:
        """What the file is, by its first bytes."""
        kind: MediaKind = self._answer()
        return kind

    def write(self, target: Path, wanted: Wanted) -> None:
        """Writes the image as a PNG, or the frames wanted of the clip as a lossless video."""
        self._connection.send((target, wanted))
        try:
            self._answer()
        except ValueError:
            target.unlink(missing_ok=True)
            raise

    def _answer(self) -> Any:
        try:
            if not self._connection.poll(self._limits.max_decode_seconds):
                raise ValueError(_too_much(self._limits))
            answer, problem = self._connection.recv()
        except (EOFError, OSError):
            raise ValueError(_too_much(self._limits)) from None
        if problem:
            raise ValueError(problem)
        return answer


def _context() -> Any:
    """Processes forked from one that has loaded this module and nothing more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def warm_up() -> None:
    """Starts the process that decoders are forked from."""
    process = _context().Process(target=os.getpid, daemon=True)
    process.start()
    process.join()


def _too_much(limits: Limits) -> str:
    return (
        f"cannot be decoded within {limits.max_decode_seconds:g} s and {limits.max_decode_megabytes} MB: "
        "give a smaller file"
    )


def _decode(connection: Connection, source: Path, limits: Limits) -> None:
    """What the other process does: it tells the kind, is told what is wanted, and writes that."""
    with contextlib.suppress(EOFError, BrokenPipeError):  # the server is gone
        try:
            _bound(limits)
            kind = _kind_of(source, limits.max_input_pixels)
            connection.send((kind, None))
            target, wanted = connection.recv()
            if kind == "image":
                write_image(target, read_image(source))
            else:
                _copy_clip(source, target, limits, wanted)
            connection.send((None, None))
        except (EOFError, BrokenPipeError):
            raise
        except MemoryError:
            connection.send((None, _too_much(limits)))
        except Exception as error:
            told = reason(error).replace(f"{source}: ", "").replace(str(source), "the file")
            connection.send((None, " ".join(told.split())))


def _kind_of(path: Path, most_pixels: int) -> MediaKind:
    if is_picture_file(path):
        image: Any = media_package("PIL.Image")
        image.MAX_IMAGE_PIXELS = None  # the header's size is compared here
        with image.open(path) as file:
            width, height = file.size
        if width * height > most_pixels:
            raise ValueError(f"has {width} x {height} pixels, at most {most_pixels} are accepted")
        return "clip" if is_animation_file(path) else "image"
    with path.open("rb") as file:
        head = file.read(16)
    if head[4:8] == b"ftyp" or head.startswith(b"\x1a\x45\xdf\xa3") or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "clip"
    raise ValueError("neither an image (png, jpg, webp, ...) nor a clip (mp4, mov, webm, mkv, avi, gif)")


def _bound(limits: Limits) -> None:
    taken = 0
    with contextlib.suppress(OSError):  # there is no such file on other systems than Linux
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    bounds = {
        resource.RLIMIT_AS: taken + (limits.max_decode_megabytes << 20),
        resource.RLIMIT_CPU: int(2 * limits.max_decode_seconds) + 1,
        resource.RLIMIT_FSIZE: _OUTPUT_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (bound, hard))


def _copy_clip(source: Path, target: Path, limits: Limits, wanted: Wanted) -> None:
    with open_clip(source) as clip:
        timeline = clip.timeline
        rate = timeline.rate if wanted.fps is None else Fraction(wanted.fps).limit_denominator(100_000)
        if wanted.last is not None:
            indices: Any = timeline.last(wanted.last, rate)
        else:
            indices = list(itertools.islice(timeline.at_rate(rate), wanted.most + 1))
            if len(indices) > wanted.most:
                raise ValueError(f"has more than {wanted.most} frames, which this server does not accept")
        _write_lossless(target, clip.pictures(indices), rate, limits)


def _write_lossless(target: Path, pictures: Any, rate: Fraction, limits: Limits) -> None:
    av = media_package("av")
    with av.open(f"file:{target}", "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        for number, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            if height * width > limits.max_input_pixels:
                raise ValueError(f"has frames of {width} x {height} pixels, at most {limits.max_input_pixels}")
            if number == 0:
                stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0", threads=1)
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
