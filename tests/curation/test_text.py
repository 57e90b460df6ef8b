"""Text: its boxes and the share of the frame that they cover, without a network connection."""

import numpy as np
import pytest

from lcv_jax.curation.text import measure_text, text_boxes

pytest.importorskip("rapidocr")
ImageDraw, Image, ImageFont = (pytest.importorskip(f"PIL.{name}") for name in ("ImageDraw", "Image", "ImageFont"))
H, W = 180, 320


def frame(text=None):
    columns = np.broadcast_to(np.linspace(40, 160, W)[None, :, None], (H, W, 3))
    image = Image.fromarray(columns.astype(np.uint8))
    if text:
        ImageDraw.Draw(image).text((60, 130), text, fill="white", font=ImageFont.load_default(size=24))
    return np.asarray(image)


def test_text_is_found_in_its_place():
    ((left, top, width, height),), share = text_boxes(frame("the last train"))
    wanted = ImageFont.load_default(size=24).getbbox("the last train")
    assert left * W == pytest.approx(60, abs=8)
    assert width * W == pytest.approx(wanted[2], rel=0.15)
    assert 130 < (top + height / 2) * H < 160
    assert share == pytest.approx(width * height, rel=0.25)


def test_a_clip():
    found = measure_text([frame(), frame("look at that"), frame("look at that")])
    assert found["text_share"] == pytest.approx(2 / 3)
    assert found["text_coverage"] == pytest.approx(found["text_coverage_most"] * 2 / 3)
    assert len(found["text_boxes"]) == 1
    assert measure_text([frame()])["text_coverage"] == 0
    with pytest.raises(ValueError, match="no frame"):
        measure_text([])
