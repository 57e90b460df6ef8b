"""Perceptual hashes of a film's frames: what stays nearly the same when it is encoded again, resized or cut.

Four frames a second, by time, so that copies at other frame rates are hashed alike. A hash has 63 bits: which of the
lowest frequencies of the picture at 32 x 32 (a DCT) are above their median. Another bit says that it counts: nearly
uniform frames, such as those of fades, have no hash. Eight bytes beside it are the colours of the picture's quarters,
which tell films apart whose light is alike. A film takes 64 bytes a second.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import Shaped, UInt8
from lcv_jax.data.media_reader import stream_video
from lcv_jax.extras import import_extra

RATE = 4
"""Frames a second."""
VALID = np.uint64(1 << 63)
"""Of a hash that counts."""
_SIDE, _LOW = 32, 8
_LEAST_CONTRAST = 4.0
"""Standard deviation of a frame's brightness, levels."""


def fingerprint(path: str | Path) -> bytes:
    """The frames' hashes and colours, 16 bytes each, little-endian; see `read_fingerprint`.

    Raises:
        OSError: the file cannot be read, or is incomplete.
        ValueError: it holds no video, or cannot be read by the rules.
    """
    return hash_frames(stream_video(path, Fraction(RATE))).astype("<u8").tobytes()


def read_fingerprint(data: bytes) -> Shaped[np.ndarray, "T 2"]:
    """What `fingerprint` wrote, uint64: hashes, 0 for frames without one, and colours."""
    return np.frombuffer(data, "<u8").reshape(-1, 2)


def hash_frames(frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Shaped[np.ndarray, "T 2"]:
    """The hash and the colours of each frame, uint64."""
    cv2 = import_extra("cv2", "curate", "fingerprints of films need")
    return np.array([_of_frame(frame_HWC, cv2) for frame_HWC in frames], np.uint64).reshape(-1, 2)


def _of_frame(frame_HWC: np.ndarray, cv2: Any) -> tuple[np.uint64, np.uint64]:
    """At 32 x 32, in two steps, the first of them without a copy of the whole frame in another format."""
    small_HWC = cv2.resize(frame_HWC, (2 * _SIDE, 2 * _SIDE), interpolation=cv2.INTER_AREA)
    grey_HW = cv2.cvtColor(small_HWC, cv2.COLOR_RGB2GRAY)
    grey_HW = cv2.resize(grey_HW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return _hash(grey_HW, cv2), _colours(small_HWC, cv2)


def _hash(grey_HW: np.ndarray, cv2: Any) -> np.uint64:
    if grey_HW.std() < _LEAST_CONTRAST:
        return np.uint64(0)
    low = cv2.dct(grey_HW)[:_LOW, :_LOW].ravel()[1:]
    bits = np.packbits(np.concatenate([[True], low > np.median(low)]))
    return bits.view(">u8")[0]


def _colours(small_HWC: np.ndarray, cv2: Any) -> np.uint64:
    """Cr and Cb of the quarters, where there is light."""
    ycc_HWC = cv2.cvtColor(small_HWC, cv2.COLOR_RGB2YCrCb).astype(np.float32)
    light_HW1, chroma_HW2 = ycc_HWC[..., :1] + 1, ycc_HWC[..., 1:]
    parts = [part.reshape(2, _SIDE, 2, _SIDE, -1).sum(axis=(1, 3)) for part in (light_HW1 * chroma_HW2, light_HW1)]
    return np.rint(parts[0] / parts[1]).astype(np.uint8).ravel().view("<u8")[0]
