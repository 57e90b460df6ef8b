"""The stages that measure: what they declare is what they write, and a bad file is a fault of its row."""

import numpy as np
import pytest

from lcv_jax.curation.stage import attempt
from lcv_jax.curation.stages import logo, measures, staying_text, text
from lcv_jax.data.media_writer import VideoWriter

cv2 = pytest.importorskip("cv2")
pytest.importorskip("skimage")
H, W = 96, 160


def write_clip(path, seed, marked=False, num_frames=6):
    rng = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (H, W + num_frames, 3)).astype(np.float32), (0, 0), 4)
    wide = np.clip((wide - 128) * 6 + 128, 0, 255).astype(np.uint8)
    frames = np.stack([wide[:, t : t + W] for t in range(num_frames)])
    if marked:
        for frame in frames:
            cv2.putText(frame, "TV", (115, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (245, 245, 245), 3)
    with VideoWriter(path, fps=12, height=H, width=W) as video:
        video.write(frames)
    return path


def row(path):
    return {"clip": path.stem, "source": "film", "clip_path": path, "clip_digest": "0"}


def test_measures(tmp_path):
    outcome = attempt(measures.STAGE, row(write_clip(tmp_path / "a.mp4", 0)))
    assert outcome.fault is None
    assert outcome.rows[0]["clip_frames"] == 6
    assert outcome.rows[0]["camera"] == "pan_right"
    # One frame has no motion: no number is made up.
    (single,) = attempt(measures.STAGE, row(write_clip(tmp_path / "b.mp4", 0, num_frames=1))).rows
    assert single["motion"] is single["camera_confidence"] is None
    assert single["brightness"] > 0


@pytest.mark.parametrize("stage", [measures.STAGE, text.STAGE])
def test_a_file_that_is_no_video(tmp_path, stage):
    (tmp_path / "c.mp4").write_bytes(b"nothing")
    assert "c.mp4" in attempt(stage, row(tmp_path / "c.mp4")).fault


def test_logo(tmp_path):
    paths = [write_clip(tmp_path / f"{number}.mp4", number, marked=True) for number in range(8)]
    columns = {"clip": [path.stem for path in paths], "clip_path": paths, "clip_digest": ["0"] * 8}
    found = logo.find_logos(columns, logo.Settings())
    assert found.keys() == logo.STAGE.writes.keys()
    assert found["logo"] == [1.0] * 8
    left, top, _, height = found["logo_box"][0]
    assert left > 0.6
    assert top + height < 0.4
    # Of three clips nothing can be said.
    assert (
        logo.find_logos({name: values[:3] for name, values in columns.items()}, logo.Settings())["logo"] == [None] * 3
    )


def brightest(frames):
    """A classifier of the user's."""
    return frames.max() / 510


def test_a_classifier_instead(tmp_path):
    paths = [write_clip(tmp_path / f"{number}.mp4", number) for number in range(2)]
    columns = {"clip": ["0", "1"], "clip_path": paths, "clip_digest": ["0"] * 2}
    found = logo.find_logos(columns, logo.Settings(classifier=f"{__name__}:brightest"))
    assert found["logo"] == pytest.approx([0.5] * 2, abs=0.01)
    with pytest.raises(ValueError, match="classifier must be MODULE:FUNCTION, got 'nothing'"):
        logo.Settings(classifier="nothing")


def test_text_that_stays():
    corner, line = [0.8, 0.05, 0.1, 0.06], [0.3, 0.85, 0.4, 0.1]
    columns = {"clip": list("abcdefg"), "text_boxes": [corner + line] + [corner] * 5 + [None]}
    found = staying_text.find_staying_text(columns, staying_text.Settings())
    assert found == {"staying_text": [1.0] * 7, "staying_text_box": [corner] * 7}
    columns["text_boxes"] = [line] + [None] * 6
    assert staying_text.find_staying_text(columns, staying_text.Settings())["staying_text"] == [0.0] * 7


def test_text(tmp_path):
    pytest.importorskip("rapidocr")
    frame = np.full((180, 320, 3), 70, np.uint8)
    cv2.putText(frame, "look at that", (60, 160), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    with VideoWriter(tmp_path / "a.mp4", fps=2, height=180, width=320) as video:
        video.write(np.stack([np.full_like(frame, 70)] * 2 + [frame] * 2))
    (found,) = attempt(text.STAGE, row(tmp_path / "a.mp4")).rows
    assert found["text_share"] == 0.5
    assert found["text_coverage"] == pytest.approx(found["text_coverage_most"] / 2)
    assert len(found["text_boxes"]) == 4
