"""Whether a video file was copied to its end.

FFmpeg reads a file that was cut off like one that ends early. Where a container states its size in bytes, that decides;
a stated duration decides only where it does not, because durations are often those of the sound, or wrong.
"""

from fractions import Fraction
from typing import Any

from lcv_jax.data.frames import media_package

_EBML_HEADER, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


def check_complete(path: str, size: int, container: Any, stream: Any, reached: Fraction) -> None:
    """Raises OSError for a file that was cut off.

    Args:
        path: the file.
        size: its bytes.
        container: the container, all packets of which have been read.
        stream: the video stream.
        reached: when the last packet of any stream ends, in seconds.
    """
    stated_bytes = _stated_bytes(path, container.format.name, stream)
    if stated_bytes is not None:
        if stated_bytes > size:
            raise OSError(
                f"{path}: is cut off: it states {stated_bytes} bytes and has {size}; copy or download it again"
            )
        return
    stated = Fraction(container.duration or 0, media_package("av").time_base)
    if stated - reached > max(Fraction(1, 5), stated / 20):
        raise OSError(
            f"{path}: is cut off, or states a wrong duration: {float(stated):.2f} s are stated, {float(reached):.2f} s "
            "are there; copy or download it again, or rewrite it (ffmpeg -i FILE -c copy OUT)"
        )


def _stated_bytes(path: str, kind: str, stream: Any) -> int | None:
    """Bytes that the file has at least by its own structure; None if it does not say."""
    if "mov" in kind or "mp4" in kind:
        return max((entry.pos + entry.size for entry in stream.index_entries), default=None)
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(_EBML_HEADER):
        return _matroska_bytes(head)
    return None


def _matroska_bytes(head: bytes) -> int | None:
    """Where the segment of a Matroska or WebM file ends."""
    length, at = _variable_length_number(head, 4)
    at += length or 0
    if head[at : at + 4] != _SEGMENT:
        return None
    length, at = _variable_length_number(head, at + 4)
    return None if length is None else at + length


def _variable_length_number(data: bytes, at: int) -> tuple[int | None, int]:
    """A size of EBML (None: unknown), and where it ends."""
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length
