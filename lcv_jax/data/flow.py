"""Optical flow on small frames: DIS (Kroeger et al. 2016) where the shorter side has at most 128 pixels."""

from collections.abc import Callable

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.extras import import_extra

FLOW_SIDE = 128
"""Pixels of the shorter side where flow is computed."""
SHORTEST_SIDE = 32
"""Smaller frames are enlarged: DIS runs out of pixels on its coarsest level, and crashes."""


def small_grey(frame_HWC: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w"]:
    """Brightness of a frame whose shorter side is at most `FLOW_SIDE`; no side is below `SHORTEST_SIDE`."""
    cv2 = import_extra("cv2", "evaluate", "optical flow needs")
    H, W = frame_HWC.shape[:2]
    scale = min(1.0, FLOW_SIDE / min(H, W))
    size = max(SHORTEST_SIDE, round(W * scale)), max(SHORTEST_SIDE, round(H * scale))
    return cv2.resize(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)


def flow_estimator() -> Callable[[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]], Float[np.ndarray, "H W 2"]]:
    """A function from two small grey frames to the displacement of every pixel, x and y in pixels.

    It holds buffers, and making it takes as long as a call: one for each clip, not shared by threads.
    """
    cv2 = import_extra("cv2", "evaluate", "optical flow needs")
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return lambda before_HW, after_HW: estimator.calc(before_HW, after_HW, None)
