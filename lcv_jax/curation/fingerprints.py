"""Perceptual hashes of a film's frames: what stays nearly the same when it is encoded again, resized or cut.

Four frames a second, by time, so that copies at other frame rates are hashed alike. A hash has 63 bits: which of the
lowest frequencies of the picture at 32 x 32 (a DCT) are above their median. Another bit says that it counts: nearly
uniform frames, such as those of fades, have no hash. A film takes 32 bytes a second.
"""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.media_reader import stream_video
from lcv_jax.extras import import_extra

RATE = 4
"""Frames a second."""
VALID = np.uint64(1 << 63)
_SIDE, _LOW = 32, 8
_LEAST_CONTRAST = 4.0
"""Standard deviation of a frame's brightness, levels."""


def fingerprint(path: str | Path) -> bytes:
    """Hashes of a film, 8 bytes each, little-endian; 0 for frames without one.

    Raises:
        OSError: the file cannot be read, or is incomplete.
        ValueError: it holds no video, or cannot be read by the rules.
    """
    return hash_frames(stream_video(path, Fraction(RATE))).astype("<u8").tobytes()


def hash_frames(frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> Any:
    """The hash of each frame, uint64."""
    cv2 = import_extra("cv2", "curate", "fingerprints of films need")
    return np.array([_hash(_small(frame_HWC, cv2), cv2) for frame_HWC in frames], np.uint64)


def _small(frame_HWC: np.ndarray, cv2: Any) -> np.ndarray:
    """Grey, 32 x 32. In two steps, the first of them without a copy of the whole frame as grey."""
    small_HWC = cv2.resize(frame_HWC, (2 * _SIDE, 2 * _SIDE), interpolation=cv2.INTER_AREA)
    grey_HW = cv2.cvtColor(small_HWC, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey_HW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def _hash(grey_HW: np.ndarray, cv2: Any) -> np.uint64:
    if grey_HW.std() < _LEAST_CONTRAST:
        return np.uint64(0)
    low = cv2.dct(grey_HW)[:_LOW, :_LOW].ravel()[1:]
    bits = np.packbits(np.concatenate([[True], low > np.median(low)]))
    return bits.view(">u8")[0]
