"""Messages between a trainer and its rewards: a JSON header and raw bytes, never pickle.

    magic "LCVR", header length (4 bytes), body length (8 bytes), header (JSON), body

Numbers are big-endian. Every header holds `version`. A request's header holds `request` (its id), `prompts`, `fps`,
`media` and, for mp4, `sizes`; its body is one npz with the array `videos` (B T H W 3, uint8), or mp4s one after the
other.
A reply's header repeats `request` and holds `scores`, where null is a score that is not finite, and `failures`, pairs
of a clip's number and a reason; or else `error`. Before the first request, a worker sends `names` and `request_ids`:
true if all of its replies repeat the id.

This file, factory.py and worker.py run in a reward's own environment and import nothing but NumPy; mp4 needs all of
`lcv_jax[video]` there.
"""

import io
import json
import math
import struct
import tempfile
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

VERSION = 1
"""Of what is said here; both sides compare it."""
Media = Literal["npz", "mp4"]

_MAGIC = b"LCVR"
_LENGTHS = struct.Struct(">4sIQ")
_MOST_HEADER = 16 << 20
MOST_BODY = 16 << 30
"""Bytes; longer messages, and messages that decompress to more, are refused."""
LEAST_FPS, MOST_FPS = 0.001, 1000.0
"""Frames a second of clips; others are refused."""


class WireError(ValueError):
    """What came is no message, or not one that was expected."""


def pack_message(header: Mapping[str, Any], body: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """A message as the parts to write one after the other."""
    text = json.dumps(header, allow_nan=False).encode()
    return [_LENGTHS.pack(_MAGIC, len(text), len(body)), text, body]


def read_message(stream: io.BufferedIOBase, most_body: int = MOST_BODY) -> tuple[dict[str, Any], bytes]:
    """The header and the body of the next message.

    Raises:
        EOFError: the stream is at its end.
        WireError: what comes is no message, ends within one, or is longer than allowed.
    """
    start = stream.read(_LENGTHS.size)
    if not start:
        raise EOFError("no further message")
    if len(start) < _LENGTHS.size or not start.startswith(_MAGIC):
        raise WireError(f"a message begins with {_MAGIC!r} and two lengths, got {start!r}")
    _, header_length, body_length = _LENGTHS.unpack(start)
    if header_length > _MOST_HEADER or body_length > most_body:
        raise WireError(f"a message of {header_length} + {body_length} bytes; at most {_MOST_HEADER} + {most_body}")
    text, body = _exactly(stream, header_length), _exactly(stream, body_length)
    return parse_header(text, "a message's header"), body


def parse_header(text: bytes, name: str) -> dict[str, Any]:
    """The JSON object in UTF-8 that a header or an HTTP answer is.

    Raises:
        WireError: it is something else, or holds a key twice; the message calls it `name`.
    """
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{name} is no JSON: {type(error).__name__}: {error}") from None
    if not isinstance(header, dict):
        raise WireError(f"{name} must be a JSON object, got {type(header).__name__}")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"duplicate keys among {_short([key for key, _ in pairs])}")
    return found


def request_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex


def _exactly(stream: io.BufferedIOBase, length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise WireError(f"a message ended after {len(data)} of {length} bytes")
    return data


def pack_request(
    videos_BTHWC: np.ndarray, prompts: Sequence[str], fps: float | int, media: Media = "npz", request: str = ""
) -> list[bytes | memoryview]:
    """The message that asks for scores of clips, B T H W 3, uint8.

    Args:
        videos_BTHWC: the clips; prompts: one a clip.
        fps: frames a second.
        media: how the clips are sent.
        request: the id that the reply repeats.

    Raises:
        ValueError: mp4 of odd sizes.
        ImportError: mp4 without the packages of the `video` extra.
    """
    header: dict[str, Any] = {
        "version": VERSION, "request": request, "prompts": list(prompts), "fps": float(fps), "media": media,
    }  # fmt: skip
    if media == "mp4":
        videos = [_to_mp4(video_THWC, fps) for video_THWC in videos_BTHWC]
        return pack_message({**header, "sizes": [len(video) for video in videos]}, b"".join(videos))
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, videos=videos_BTHWC)
    return pack_message(header, file.getbuffer())


def unpack_request(
    header: Mapping[str, Any], body: bytes, most_bytes: int = MOST_BODY
) -> tuple[np.ndarray, list[str], float]:
    """The clips, B T H W 3, their prompts, and frames a second.

    Args:
        header, body: of the message.
        most_bytes: that the decoded clips may take.

    Raises:
        WireError: it is no request, of another version, decodes to more, or clips and prompts do not go together.
    """
    if header.get("version") != VERSION:
        raise WireError(f"a request of version {header.get('version')!r}; this side speaks {VERSION}")
    prompts, fps, media = header.get("prompts"), header.get("fps"), header.get("media")
    if not isinstance(prompts, list) or not all(_is_text(prompt) for prompt in prompts):
        raise WireError(f"prompts must be a list of texts, without halves of surrogate pairs, got {_short(prompts)}")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not LEAST_FPS <= fps <= MOST_FPS:
        raise WireError(f"fps must be a number in {LEAST_FPS}..{MOST_FPS}, got {_short(fps)}")
    if media not in ("npz", "mp4"):
        raise WireError(f"media must be npz or mp4, got {media!r}")
    videos_BTHWC = _read_mp4s(body, header.get("sizes"), most_bytes) if media == "mp4" else _read_npz(body, most_bytes)
    if len(prompts) != len(videos_BTHWC):
        raise WireError(f"{len(videos_BTHWC)} videos need as many prompts, got {len(prompts)}")
    return videos_BTHWC, prompts, float(fps)


def _is_text(value: Any) -> bool:
    """Whether it is a string of characters: JSON can also write halves of surrogate pairs, which UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _read_npz(body: bytes, most_bytes: int) -> np.ndarray:
    """The array `videos` of an npz, B T H W 3.

    Sizes that an archive declares are no bound for what it decompresses to: exactly the array's bytes are read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive, archive.open("videos.npy") as file:
            shape, fortran_order, dtype = _npy_header(file)
            if dtype != np.uint8 or fortran_order or len(shape) != 5 or shape[-1] != 3 or min(shape) < 1:
                raise WireError(f"videos must be uint8, B T H W 3, got {dtype}, {shape}")
            if math.prod(shape) > most_bytes:
                raise WireError(f"videos of {shape} take {math.prod(shape)} bytes; at most {most_bytes} are taken")
            levels, filled = np.empty(math.prod(shape), np.uint8), 0
            while filled < levels.size:
                data = file.read(min(1 << 20, levels.size - filled))
                if not data:
                    raise WireError(f"videos of {shape} end {levels.size - filled} bytes early")
                levels[filled : filled + len(data)] = np.frombuffer(data, np.uint8)
                filled += len(data)
            if file.read(1):  # at the end of the file its checksum is compared
                raise WireError(f"more bytes follow videos of {shape}")
            return levels.reshape(shape)
    except WireError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each have their own
        raise WireError(f"the body is no npz with an array `videos` ({type(error).__name__}: {error})") from None


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    return read(file)


def _to_mp4(video_THWC: np.ndarray, fps: float | int) -> bytes:
    from lcv_jax.data.media_writer import VideoWriter

    _, H, W, _ = video_THWC.shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, fps=Fraction(fps).limit_denominator(100_000), height=H, width=W) as file:
            file.write(video_THWC)
        return path.read_bytes()


def _read_mp4s(body: bytes, sizes: Any, most_bytes: int) -> np.ndarray:
    if not isinstance(sizes, list) or not all(isinstance(size, int) and size > 0 for size in sizes) or not sizes:
        raise WireError(f"sizes must be the bytes of each mp4, got {sizes!r}")
    if sum(sizes) != len(body):
        raise WireError(f"sizes add up to {sum(sizes)}, the body has {len(body)} bytes")
    videos: list[np.ndarray] = []
    ends = np.cumsum(sizes).tolist()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for size, end in zip(sizes, ends, strict=True):
            path.write_bytes(body[end - size : end])
            videos.append(_read_mp4(path, most_bytes - sum(video.nbytes for video in videos)))
    if len({video.shape for video in videos}) > 1:
        raise WireError(f"videos must have the same size, got {[video.shape for video in videos]}")
    return np.stack(videos)


def _read_mp4(path: Path, most_bytes: int) -> np.ndarray:
    """The frames of an mp4, of which no more are decoded than may be taken."""
    from lcv_jax.data.media_reader import probe_video, read_video

    try:
        height, width, _ = probe_video(path)
        most_frames = most_bytes // (3 * height * width)
        video_THWC = read_video(path, first=most_frames + 1)[0]
    except (OSError, ValueError) as error:
        raise WireError(f"the body holds no mp4: {error}") from None
    if len(video_THWC) > most_frames:
        raise WireError(f"the mp4s of the body decode to more than the {most_bytes} bytes that are left of the limit")
    return video_THWC


def reply_header(scores: Mapping[str, Any], failures: Mapping[int, str]) -> dict[str, Any]:
    """The reply that gives scores, as they came, in numbers of JSON.

    Raises:
        TypeError: scores that are no numbers, one a clip.
    """
    lists = {}
    for name, values in scores.items():
        array = np.asarray(values)
        if array.dtype.kind not in "fiu" or array.ndim != 1:
            raise TypeError(f"{name}: scores must be floats, one a clip, got {array.dtype}, shape {array.shape}")
        lists[str(name)] = array.astype(np.float64).tolist()
    reasons = [[int(clip), str(reason)] for clip, reason in failures.items()]
    told = {clip for clip, _ in reasons}
    for name, values in lists.items():
        for clip, value in enumerate(values):
            if not math.isfinite(value) and clip not in told:
                reasons.append([clip, f"{name}: {value}"])
    finite = {name: [value if math.isfinite(value) else None for value in values] for name, values in lists.items()}
    return {"version": VERSION, "scores": finite, "failures": reasons}


def check_reply(header: Mapping[str, Any], request: str, *, repeats_ids: bool) -> None:
    """Checks that a reply speaks this version and answers this request.

    Args:
        header: of the reply.
        request: id of the request.
        repeats_ids: the other side said that all of its replies repeat the id; otherwise a reply may hold none.

    Raises:
        WireError: another version, or the answer to another request.
    """
    if header.get("version") != VERSION:
        raise WireError(f"a reply of version {header.get('version')!r}; this side speaks {VERSION}")
    if (repeats_ids or "request" in header) and header.get("request") != request:
        raise WireError(f"a reply to request {_short(header.get('request'))}, expected one to {request!r}")


def unpack_reply(header: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Scores by name, NaN for null, and the clips that failed.

    Raises:
        WireError: it is an error, whatever scores come with it, or no reply, or a score is no number.
    """
    if "error" in header:
        raise WireError(str(header["error"])[:500])
    scores, failures = header.get("scores"), header.get("failures", [])
    if not isinstance(scores, dict) or not all(isinstance(values, list) for values in scores.values()):
        raise WireError(f"a reply holds scores, lists by name, got {_short(header)}")
    if not isinstance(failures, list) or not all(
        isinstance(one, list) and len(one) == 2 and type(one[0]) is int for one in failures
    ):
        raise WireError(f"failures must be pairs of a clip and a reason, got {_short(failures)}")
    return {name: _to_floats(name, values) for name, values in scores.items()}, {
        clip: str(reason) for clip, reason in failures
    }


def _to_floats(name: str, values: list[Any]) -> np.ndarray:
    wrong = [value for value in values if value is not None and type(value) not in (int, float)]
    if wrong:
        raise WireError(f"{name}: scores must be numbers or null, got {_short(wrong[0])}")
    try:
        return np.array([math.nan if value is None else float(value) for value in values], np.float64)
    except OverflowError:
        raise WireError(f"{name}: scores must be numbers that a float can hold") from None


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"{type(value).__name__} of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."
