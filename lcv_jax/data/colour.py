"""Colours of decoded video frames: to 8-bit RGB with BT.709 primaries for an SDR display, over white.

The tags of a frame (matrix, range, transfer curve, primaries; numbered as in ITU-T H.273) decide; what an untagged
frame is taken as, and which tags are refused, is in docs/training.md.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.frames import media_package

WHITE = 255
"""Background of transparent images and clips, in all three channels."""

_UNTAGGED = (0, 2, 3)
_BT709, _BT601, _BT2020 = 1, 5, 9
_DCI_P3, _DISPLAY_P3 = 11, 12
_LIMITED, _FULL = 1, 2
_PQ, _HLG = 16, 18
_MATRICES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: _BT2020}
_MATRIX_OF_PRIMARIES = {1: _BT709, 5: _BT601, 6: _BT601, 7: 7, 9: _BT2020}
# BT.709, gamma 2.2 and 2.8, SMPTE 170M and 240M, xvYCC, BT.1361, sRGB, BT.2020 in 10 and 12 bits.
_SDR_CURVES = {1, 4, 5, 6, 7, 11, 12, 13, 14, 15}
# Of the primaries of BT.709 those of BT.601 (5, 6), SMPTE 240M (7) and EBU 3213 (22) are near enough to be taken as is.
_NARROW = {1, 5, 6, 7, 22}
# Linear light to linear light of BT.709; rows are red, green and blue. BT.2020 as in ITU-R BT.2087.
_TO_BT709 = {
    9: ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730)),
    12: ((1.224940, -0.224940, 0.0), (-0.042057, 1.042057, 0.0), (-0.019638, -0.078636, 1.098274)),
}
_DISPLAY_GAMMA = 2.4
"""Of an SDR display, ITU-R BT.1886."""
_SDR_WHITE = 203.0
"""cd/m2 of diffuse white in HDR, ITU-R BT.2408: SDR's white before highlights are compressed."""
_HDR_PEAK = 1000.0
"""cd/m2 that become SDR's white. One value for all clips: a clip's stated peak is often missing or wrong."""
_KNEE = 0.8
"""SDR signal level up to which tone mapping changes nothing."""
_CONVERT = "convert it to SDR BT.709 with a video editor or with FFmpeg's filter libplacebo"


def exact_conversion() -> Any:
    """FFmpeg's flags for a conversion of colours without its shortcuts.

    With them every trip through a file darkens all pixels by a level, and a long video is read back many times.
    """
    flags = media_package("av.video.reformatter").Interpolation
    return flags.BICUBIC | flags.ACCURATE_RND | flags.FULL_CHR_H_INT


@dataclasses.dataclass(frozen=True)
class Tags:
    """What a frame or a container states about its colours, numbered as in ITU-T H.273."""

    matrix: int
    transfer: int
    primaries: int
    range: int

    @classmethod
    def of(cls, source: Any) -> "Tags":
        """The tags of a frame or of a codec context."""
        names = ("colorspace", "color_trc", "color_primaries", "color_range")
        return cls(*(int(getattr(source, name)) for name in names))

    def or_else(self, other: "Tags") -> "Tags":
        """Another's tags where these say nothing."""
        ours, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        known = [tag not in _UNTAGGED for tag in ours[:3]] + [self.range in (_LIMITED, _FULL)]
        return Tags(*(a if is_known else b for a, b, is_known in zip(ours, theirs, known, strict=True)))


@dataclasses.dataclass(frozen=True)
class Coding:
    """What the pixel values of a frame mean."""

    matrix: int | None
    """YCbCr to RGB; None: the frame holds RGB or gray values."""
    is_full_range: bool
    transfer: int | None
    """_PQ, _HLG, or None: SDR."""
    primaries: int
    """A key of _TO_BT709, or _BT709."""
    has_alpha: bool


def coding_of(frame: Any, container: Tags, *, has_dolby_vision: bool = False) -> Coding:
    """Decides what a frame's pixel values mean, by its own tags and, where these are missing, its container's.

    Args:
        frame: as decoded.
        container: its tags.
        has_dolby_vision: whether it has the metadata of Dolby Vision.

    Raises:
        ValueError: they cannot be converted to SDR; the message is a reason without the file's name.
    """
    tags, name = Tags.of(frame).or_else(container), frame.format.name
    _refuse_unsupported(tags, has_dolby_vision)
    holds_yuv = not (frame.format.is_rgb or name.startswith(("gray", "ya", "mono", "pal")))
    primaries = _primaries(tags)
    if not holds_yuv:
        matrix = None
    elif tags.matrix in _MATRICES:
        matrix = _MATRICES[tags.matrix]
    elif tags.matrix in _UNTAGGED:
        matrix = _untagged_matrix(tags, primaries, frame.height, frame.width)
    else:
        raise ValueError(f"has the colour matrix {tags.matrix} of H.273, which is not supported; {_CONVERT}")
    full_by_format = name.startswith("yuvj") or (not holds_yuv and tags.range != _LIMITED)
    return Coding(
        matrix=matrix,
        is_full_range=tags.range == _FULL or full_by_format,
        transfer=tags.transfer if tags.transfer in (_PQ, _HLG) else None,
        primaries=primaries,
        has_alpha=name.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya", "pal")),
    )


def _refuse_unsupported(tags: Tags, has_dolby_vision: bool) -> None:
    if has_dolby_vision and tags.transfer in _UNTAGGED:
        raise ValueError(f"is Dolby Vision without an HDR10, HLG or SDR base layer; {_CONVERT}")
    if tags.transfer in _UNTAGGED and _BT2020 in (tags.primaries, tags.matrix):
        raise ValueError(f"has BT.2020 colours without a transfer curve: SDR, PQ and HLG are all possible; {_CONVERT}")
    if tags.transfer not in _UNTAGGED and tags.transfer not in _SDR_CURVES | {_PQ, _HLG}:
        raise ValueError(f"has the transfer curve {tags.transfer} of H.273, which is not supported; {_CONVERT}")
    if tags.primaries not in _UNTAGGED and tags.primaries not in _NARROW | {_DCI_P3} | _TO_BT709.keys():
        raise ValueError(f"has the colour primaries {tags.primaries} of H.273, which are not supported; {_CONVERT}")


def _primaries(tags: Tags) -> int:
    if tags.primaries in _UNTAGGED:  # HDR is defined with those of BT.2020 alone
        return _BT2020 if tags.transfer in (_PQ, _HLG) or tags.matrix == _BT2020 else _BT709
    if tags.primaries == _DCI_P3:  # differs from Display P3 by its white point, which is mapped to white
        return _DISPLAY_P3
    return _BT709 if tags.primaries in _NARROW else tags.primaries


def _untagged_matrix(tags: Tags, primaries: int, height: int, width: int) -> int:
    if primaries == _BT2020 or tags.primaries in _MATRIX_OF_PRIMARIES:
        return _MATRIX_OF_PRIMARIES[_BT2020 if primaries == _BT2020 else tags.primaries]
    # What players assume when a file does not say: BT.709 for high definition, BT.601 below.
    return _BT709 if width >= 1280 or height > 576 else _BT601


def to_sdr(frame: Any, coding: Coding, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    """A decoded frame in 8 bits, scaled to a size."""
    convert = functools.partial(_converted, frame, coding, height, width)
    if coding.transfer is None and coding.primaries == _BT709:
        image = convert("rgba" if coding.has_alpha else "rgb24")
        return over_white(image) if coding.has_alpha else image
    image = convert("rgba64le" if coding.has_alpha else "rgb48le")
    display = (_display(coding.transfer, coding.primaries, image[..., :3]) * 255 + 0.5).astype(np.uint8)
    if coding.has_alpha:
        return over_white(np.dstack([display, (image[..., 3] // 257).astype(np.uint8)]))
    return display


def over_white(image_HWC: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """RGB with straight alpha over the background."""
    colour, alpha = image_HWC[..., :3].astype(np.uint32), image_HWC[..., 3:].astype(np.uint32)
    return ((colour * alpha + WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)


def _converted(frame: Any, coding: Coding, height: int, width: int, kind: str) -> np.ndarray:
    reformatter = media_package("av.video.reformatter")
    ranges = reformatter.ColorRange
    # A reformatter of its own would stay with the frame, and its threads with both.
    converted = reformatter.VideoReformatter().reformat(
        frame,
        width=width,
        height=height,
        format=kind,
        src_colorspace=None if coding.matrix is None else reformatter.Colorspace(coding.matrix),
        src_color_range=ranges.JPEG if coding.is_full_range else ranges.MPEG,
        dst_color_range=ranges.JPEG,
        interpolation=exact_conversion(),
        threads=1,
    )
    image = converted.to_ndarray()
    if coding.matrix is None and not coding.is_full_range:  # FFmpeg takes RGB and gray for full range
        top = np.iinfo(image.dtype).max
        scaled = (image[..., :3].astype(np.float32) - top * 16 / 255) * (255 / 219)
        image[..., :3] = np.clip(scaled + 0.5, 0, top).astype(image.dtype)
    return image


def _display(transfer: int | None, primaries: int, signal_HW3: np.ndarray) -> np.ndarray:
    """16-bit signal values to SDR signal values in 0..1."""
    light = _decoding_table(transfer)[signal_HW3]
    if transfer == _HLG:  # system gamma 1.2 of a display of 1000 cd/m2, ITU-R BT.2100
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light = light * (_HDR_PEAK / _SDR_WHITE) * np.maximum(luminance, 1e-6)[..., None] ** np.float32(0.2)
    if primaries != _BT709:
        light = light @ np.array(_TO_BT709[primaries], np.float32).T
    light = np.maximum(light, 0)
    if transfer is None:
        return np.minimum(light, 1) ** np.float32(1 / _DISPLAY_GAMMA)
    signal = light ** np.float32(1 / _DISPLAY_GAMMA)
    # By the largest component, so that bright colours keep their hue.
    largest = np.maximum(signal.max(axis=-1, keepdims=True), 1e-6)
    return signal * (_compress(largest) / largest)


def _compress(signal: np.ndarray) -> np.ndarray:
    """The identity up to the knee, from there a hyperbola of the same slope that reaches 1 at the peak."""
    peak = (_HDR_PEAK / _SDR_WHITE) ** (1 / _DISPLAY_GAMMA)
    slope = (peak - _KNEE) / (1 - _KNEE)
    above = np.clip((signal - _KNEE) / (peak - _KNEE), 0, 1)
    curve = _KNEE + (1 - _KNEE) * slope * above / (1 + (slope - 1) * above)
    return np.where(signal <= _KNEE, signal, curve)


@functools.cache
def _decoding_table(transfer: int | None) -> np.ndarray:
    """16-bit signal to light: relative to SDR white; for HLG, of the scene, in 0..1."""
    signal = np.arange(65536) / 65535
    if transfer == _PQ:  # SMPTE ST 2084
        root = signal ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        return (light * (10_000 / _SDR_WHITE)).astype(np.float32)
    if transfer == _HLG:  # ITU-R BT.2100
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        return light.astype(np.float32)
    return (signal**_DISPLAY_GAMMA).astype(np.float32)
