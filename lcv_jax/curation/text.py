"""How much of a clip is covered by text: RapidOCR's detector, one frame a second, without reading what it finds.

The detector is PP-OCR's, which the package `rapidocr` brings along; nothing is downloaded.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.curation.logos import Box
from lcv_jax.extras import import_extra

TEXT_SIDE = 640
"""Pixels of the longer side that the detector sees."""
TEXT_RATE = 1.0
"""Frames a second that are looked at."""
_TALLEST = 0.25
"""Share of the frame's height: blurred pictures without any text are often taken for one large box."""
_LEAST_SCORE = 0.7
"""Of a box: below, edges of other things are among them."""
_MASK_SIDE = 512
"""Pixels of the longer side where the areas of boxes are united."""


def text_boxes(frame_HWC: UInt8[np.ndarray, "H W 3"]) -> tuple[list[Box], float]:
    """Boxes of text in a frame, and the share of the frame that their outlines cover together."""
    cv2 = import_extra("cv2", "curate", "finding text needs")
    H, W = frame_HWC.shape[:2]
    scale = TEXT_SIDE / max(H, W)
    size = max(32, round(W * scale)), max(32, round(H * scale))
    flag = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    # Channels in the order of OpenCV, as the detector wants them.
    found = _detector()(np.ascontiguousarray(cv2.resize(frame_HWC, size, interpolation=flag)[..., ::-1]))
    if found.boxes is None or not len(found.boxes):
        return [], 0.0
    outlines_N42 = np.asarray(found.boxes, np.float64) / size
    is_tall_N = np.ptp(outlines_N42[..., 1], axis=1) > _TALLEST
    outlines_N42 = outlines_N42[~is_tall_N & (np.asarray(found.scores) >= _LEAST_SCORE)]
    mask_size = [max(1, round(side * _MASK_SIDE / max(H, W))) for side in (H, W)]
    mask = np.zeros(mask_size, np.uint8)
    for outline_42 in outlines_N42:
        cv2.fillPoly(mask, [np.round(outline_42 * mask_size[::-1]).astype(np.int32)], 1)
    corners = [(outline.min(axis=0), outline.max(axis=0)) for outline in outlines_N42.clip(0, 1)]
    return [(*map(float, low), *map(float, high - low)) for low, high in corners], float(mask.mean())  # type: ignore[misc]


def measure_text(frames: Iterable[UInt8[np.ndarray, "H W 3"]]) -> dict[str, Any]:
    """Text of a clip, given about a frame a second.

    Returns:
        text_coverage: the mean share of a frame that is covered; text_coverage_most: of the frame with the most;
        text_share: share of the frames that have text; text_boxes: those of the middle frame.

    Raises:
        ValueError: there is no frame.
    """
    found = [text_boxes(frame_HWC) for frame_HWC in frames]
    if not found:
        raise ValueError("no frame to look for text in")
    covered = [share for _, share in found]
    return {
        "text_coverage": float(np.mean(covered)),
        "text_coverage_most": max(covered),
        "text_share": float(np.mean([share > 0 for share in covered])),
        "text_boxes": found[len(found) // 2][0],
    }


@functools.cache
def _detector() -> Any:
    package = import_extra("rapidocr", "ocr", "finding text needs")
    engine = package.RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,
            "Global.use_rec": False,
            "Det.limit_type": "max",
            "Det.limit_side_len": TEXT_SIDE,
            # A worker is one of many processes.
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        }
    )
    return functools.partial(engine, use_det=True, use_cls=False, use_rec=False)
