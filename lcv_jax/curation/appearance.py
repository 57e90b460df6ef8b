"""How single frames look: blur, exposure, texture, colour, and a weight-free stand-in for an aesthetic score.

Every function takes a frame whose shorter side is at most `DETAIL_SIDE` pixels, so that numbers of one film in several
sizes are alike.
"""

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.extras import import_extra

DETAIL_SIDE = 360
"""Pixels of the shorter side, at most, where single frames are measured."""
_TEXTURE_SIDE = 180
_SMOOTHING = 1.0
"""Pixels: standard deviation of a Gaussian."""
_LEVELS = 32
"""Of brightness, in co-occurrence matrices."""
_DARK, _BRIGHT = 10, 245
"""Levels beyond which a pixel has lost its detail."""


def detail(frame_HWC: UInt8[np.ndarray, "H W 3"], side: int = DETAIL_SIDE) -> UInt8[np.ndarray, "h w 3"]:
    """The frame, made smaller where it is larger."""
    cv2 = import_extra("cv2", "curate", "measuring needs")
    H, W = frame_HWC.shape[:2]
    if min(H, W) <= side:
        return frame_HWC
    size = max(1, round(W * side / min(H, W))), max(1, round(H * side / min(H, W)))
    return cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)


def measure_frame(frame_HWC: UInt8[np.ndarray, "H W 3"]) -> dict[str, float]:
    """All measures of one frame."""
    cv2 = import_extra("cv2", "curate", "measuring needs")
    small_HWC = detail(frame_HWC)
    grey_HW = cv2.cvtColor(small_HWC, cv2.COLOR_RGB2GRAY)
    found = {**blur(grey_HW), **exposure(grey_HW), **texture(grey_HW), "colourfulness": colourfulness(small_HWC)}
    return {**found, "aesthetic_heuristic": aesthetic_heuristic(found)}


def blur(grey_HW: UInt8[np.ndarray, "H W"]) -> dict[str, float]:
    """Variance of the Laplacian, and the width of edges as a percentage of the shorter side.

    The variance depends on the contrast and on how much there is to see. The width does not: across an edge that a
    Gaussian of some width has blurred, the largest slope is sqrt(e) times that width as large as the largest second
    derivative. It is the median over the steepest tenth of the pixels, so that subtitles do not hide a blurred picture.
    """
    cv2 = import_extra("cv2", "curate", "measuring needs")
    laplacian = cv2.Laplacian(grey_HW, cv2.CV_16S)
    # Grain would look like sharp edges.
    smooth_HW = cv2.GaussianBlur(grey_HW.astype(np.float32), (0, 0), _SMOOTHING)
    x, y = (cv2.Sobel(smooth_HW, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    slope_HW = np.hypot(x, y)
    bend_HW = np.abs(cv2.Laplacian(smooth_HW, cv2.CV_32F, ksize=3, scale=1 / 4))
    largest_HW = cv2.dilate(bend_HW, np.ones((7, 7), np.uint8))
    steep_HW = slope_HW >= np.percentile(slope_HW, 90)
    width = float(np.median(slope_HW[steep_HW] / np.maximum(largest_HW[steep_HW], 0.01))) * np.exp(-0.5)
    return {
        "sharpness": float(cv2.meanStdDev(laplacian)[1][0, 0] ** 2),
        "edge_width": 100 * max(width**2 - _SMOOTHING**2, 0.0) ** 0.5 / min(grey_HW.shape),
    }


def exposure(grey_HW: UInt8[np.ndarray, "H W"]) -> dict[str, float]:
    """Mean and standard deviation of brightness, from 0 to 1, and the shares of pixels that are black or white."""
    return {
        "brightness": float(grey_HW.mean()) / 255,
        "contrast": float(grey_HW.std()) / 255,
        "clipped_dark": float((grey_HW <= _DARK).mean()),
        "clipped_bright": float((grey_HW >= _BRIGHT).mean()),
    }


def texture(grey_HW: UInt8[np.ndarray, "H W"]) -> dict[str, float]:
    """Haralick's features of grey-level co-occurrence: neighbours one pixel away in four directions, 32 levels."""
    cv2 = import_extra("cv2", "curate", "measuring needs")
    feature = import_extra("skimage.feature", "curate", "measuring texture needs")
    scale = min(1.0, _TEXTURE_SIDE / min(grey_HW.shape))
    size = max(2, round(grey_HW.shape[1] * scale)), max(2, round(grey_HW.shape[0] * scale))
    levels_HW = cv2.resize(grey_HW, size, interpolation=cv2.INTER_AREA) // (256 // _LEVELS)
    angles = np.arange(4) * np.pi / 4
    matrix = feature.graycomatrix(levels_HW, [1], angles, _LEVELS, symmetric=True, normed=True)
    names = ("contrast", "homogeneity", "energy", "entropy")
    return {f"glcm_{name}": float(feature.graycoprops(matrix, name).mean()) for name in names}


def colourfulness(frame_HWC: UInt8[np.ndarray, "H W 3"]) -> float:
    """As Hasler and Suesstrunk (2003) define it: 0 is grey, above 80 is vivid."""
    red, green, blue = np.moveaxis(frame_HWC[::2, ::2].astype(np.float32), -1, 0)
    one, other = red - green, (red + green) / 2 - blue
    spread, distance = np.hypot(one.std(), other.std()), np.hypot(one.mean(), other.mean())
    return float(spread + 0.3 * distance)


def aesthetic_heuristic(measures: dict[str, float]) -> float:
    """From 0 to 1: sharp, well exposed, with contrast and colour. No replacement for a learned score.

    Args:
        measures: of a frame.
    """
    exposed = 1 - min(1.0, 2 * abs(measures["brightness"] - 0.47)) ** 2
    lost = 1 - min(1.0, 2 * (measures["clipped_dark"] + measures["clipped_bright"]))
    parts = (
        1 / (1 + measures["edge_width"] ** 2),
        exposed * lost,
        min(1.0, measures["contrast"] / 0.22),
        min(1.0, measures["colourfulness"] / 60),
    )
    return float(np.prod(parts) ** (1 / len(parts)))
