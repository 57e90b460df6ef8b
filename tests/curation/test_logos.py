"""Logos: what stays over the shots of a source is found where it is; what is in one shot, or black, is not."""

import numpy as np
import pytest

from lcv_jax.curation import logos
from lcv_jax.curation.logos import LEAST_SHOTS, find_logo, staying_text

cv2 = pytest.importorskip("cv2")
H, W = 120, 200
PLACE = (slice(10, 30), slice(150, 185))


def shots(number=8, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        picture = cv2.GaussianBlur(rng.uniform(0, 255, (H, W, 3)).astype(np.float32), (0, 0), 4)
        yield np.clip((picture - 128) * 6 + 128, 0, 255).astype(np.uint8)


def marked(frame, opacity=0.6):
    mark = np.zeros((H, W), np.uint8)
    cv2.putText(mark, "TV", (150, 29), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 255, 3)
    alpha = opacity * mark[..., None] / 255
    return (frame + alpha * (245.0 - frame)).astype(np.uint8)


@pytest.mark.parametrize("opacity", [0.4, 0.9])
def test_a_logo_is_found_in_its_place(opacity):
    found = find_logo(marked(frame, opacity) for frame in shots())
    left, top, width, height = np.array(found.box) * (W, H, W, H)
    assert abs(left - 150) < 8
    assert abs(top + height - 30) < 6
    assert 12 < width < 50
    assert found.shots == 8
    assert found.area == pytest.approx(width * height / (W * H))


def test_no_logo():
    assert find_logo(shots()).box is None
    # In one shot only, or in a part of them.
    some = [marked(frame) if number < 3 else frame for number, frame in enumerate(shots())]
    assert find_logo(some).box is None


def test_borders_are_no_logo():
    framed = []
    for frame in shots():
        frame[:16] = frame[-16:] = 0
        framed.append(frame)
    assert find_logo(framed).box is None


def test_what_is_beside_a_border():
    brightest = np.full((40, 60), 90, np.uint8)
    brightest[:10] = 4  # a border
    brightest[20:24, :30] = 4  # a dark corner is none
    wanted = np.zeros((40, 60), bool)
    wanted[:13] = True
    np.testing.assert_array_equal(logos._at_borders(brightest), wanted)


def test_black_frames_are_left_out():
    black = [np.full((H, W, 3), 3, np.uint8)] * 9
    found = find_logo([*black, *(marked(frame) for frame in shots())])
    assert found.shots == 8
    assert found.box is not None


def test_too_few_shots_say_nothing():
    assert find_logo(marked(frame) for frame in shots(LEAST_SHOTS - 1)) is None


def test_text_that_stays():
    corner, line = (0.8, 0.05, 0.1, 0.06), (0.3, 0.85, 0.4, 0.1)
    moved = [(0.1 * number, 0.85, 0.2, 0.1) for number in range(8)]
    assert staying_text([[corner, other] for other in moved]) == corner
    assert staying_text([[other] for other in moved]) is None
    assert staying_text([[line]] * 5 + [[]] * 3) == line
    assert staying_text([[line]] * 4 + [[]] * 4) is None


def test_a_camera_that_does_not_move_has_no_logo():
    scene = next(shots())
    frames = []
    for number in range(12):
        frame = scene.copy()
        frame[40:80, 10 * number : 10 * number + 30] = 255 - frame[40:80, 10 * number : 10 * number + 30]
        frames.append(frame)
    assert find_logo(frames) is None
