"""Every measure of a clip finds the fault or the motion that was put in, and no other; one pass, no frame kept."""

import math
import weakref
from fractions import Fraction

import numpy as np
import pytest

from lcv_jax.curation.appearance import blur, colourfulness, measure_frame
from lcv_jax.curation.measures import MEASURES, measure_file, measure_frames
from lcv_jax.curation.motion import Motion, fit_similarity, similarity_flow
from lcv_jax.curation.repeats import Repeats
from lcv_jax.data.flow import small_grey
from lcv_jax.data.media_writer import VideoWriter

cv2 = pytest.importorskip("cv2")
pytest.importorskip("skimage")
H, W, FPS = 72, 128, 15.0


def canvas(seed=3, side=400, sigma=2.0):
    """A colourful texture."""
    rng = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (side, side, 3)).astype(np.float32), (0, 0), sigma)
    return np.clip((wide - wide.mean()) * 4 + 128, 0, 255).astype(np.uint8)


def window(picture, x=0.0, y=0.0, zoom=1.0):
    matrix = np.array([[1 / zoom, 0, 100 + x], [0, 1 / zoom, 100 + y]])
    return cv2.warpAffine(picture, matrix, (W, H), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def motion_of(frames, fps=FPS):
    motion = Motion(fps)
    for frame in frames:
        motion.add(small_grey(frame))
    return motion


def test_the_similarity_that_most_of_the_flow_follows():
    rng = np.random.default_rng(0)
    places = rng.uniform(-60, 60, (500, 2))
    wanted = np.array([1.5, -0.8, 0.02, -0.01])
    x, y = places.T
    # The definition: translation, zoom and rotation about the middle.
    flow = np.stack([1.5 + 0.02 * x + 0.01 * y, -0.8 + 0.02 * y - 0.01 * x], axis=1)
    np.testing.assert_allclose(similarity_flow(wanted, places), flow)
    flow[:175] = rng.uniform(-6, 6, (175, 2))
    found = fit_similarity(places, flow + rng.normal(0, 0.02, flow.shape), np.ones(500))
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_the_camera_and_the_objects_are_told_apart():
    picture, other = canvas(), canvas(7)
    still = [window(picture) for _ in range(16)]
    panned = [window(picture, x=2.0 * t) for t in range(16)]

    def with_object(frames):
        moving = [frame.copy() for frame in frames]
        for t, frame in enumerate(moving):
            frame[20:50, 10 + 3 * t : 40 + 3 * t] = other[20:50, 10:40]
        return moving

    found = {name: motion_of(frames).result() for name, frames in {
        "still": still, "panned": panned, "object": with_object(still), "both": with_object(panned)
    }.items()}  # fmt: skip
    assert max(found["still"].values()) < 0.1
    # 2 of 72 pixels at 15 frames a second are 42 % a second.
    assert found["panned"]["camera_motion"] == pytest.approx(100 * 2 * FPS / H, rel=0.05)
    assert found["panned"]["object_motion"] < 0.05 * found["panned"]["camera_motion"]
    assert found["object"]["camera_motion"] < 0.3 * found["object"]["object_motion"]
    assert found["object"]["object_motion"] > 4
    assert found["both"]["camera_motion"] == pytest.approx(found["panned"]["camera_motion"], rel=0.1)
    assert found["both"]["moving_share"] > 3 * found["panned"]["moving_share"]


def test_the_path_has_one_scale_at_every_rate_and_size():
    picture = canvas(sigma=4.0)
    slow = motion_of([window(picture, x=2.0 * t) for t in range(12)], FPS)
    fast = motion_of([window(picture, x=0.5 * t) for t in range(48)], 4 * FPS)
    large = motion_of([cv2.resize(window(picture, x=2.0 * t), (256, 144)) for t in range(12)], FPS)
    paths = [np.mean(motion.path_T4, axis=0) for motion in (slow, fast, large)]
    np.testing.assert_allclose(paths[0], [-2 * FPS / H, 0, 0, 0], atol=0.02)
    np.testing.assert_allclose(paths[1], paths[0], atol=0.02)
    np.testing.assert_allclose(paths[2], paths[0], atol=0.02)
    zoomed = motion_of([window(picture, zoom=1.02**t) for t in range(12)]).path_T4
    assert np.mean(zoomed, axis=0)[2] == pytest.approx(math.log(1.02) * FPS, rel=0.15)


def repeats_of(frames, fps=FPS):
    repeats = Repeats(fps)
    for frame in frames:
        repeats.add(small_grey(frame))
    return repeats.result()


def test_frozen_frames():
    picture, rng = canvas(), np.random.default_rng(0)
    places = [*range(10), *[10] * 8, *range(11, 20)]

    def grain(frame):
        return np.clip(frame + rng.normal(0, 1.5, frame.shape), 0, 255).astype(np.uint8)

    found = repeats_of([grain(window(picture, x=place)) for place in places])
    assert found["frozen_share"] == pytest.approx(7 / 26)
    assert found["longest_freeze"] == pytest.approx(7 / FPS)
    assert repeats_of([grain(window(picture)) for _ in range(20)])["frozen_share"] == 1
    # Motion that is not to be seen from frame to frame adds up.
    slow = [window(picture, x=0.02 * t) for t in range(100)]
    assert repeats_of(slow[:6])["repeated_share"] == 1
    assert repeats_of(slow)["frozen_share"] < 0.2
    # Animation on twos repeats every other frame and freezes nowhere.
    twos = repeats_of([window(picture, x=4 * (t // 2)) for t in range(20)])
    assert twos["repeated_share"] > 0.5
    assert twos["frozen_share"] == 0


def test_a_text_that_appears_over_a_frozen_picture_does_not_end_the_freeze():
    picture = canvas()

    def frames(texts, places):
        for text, place in zip(texts, places, strict=True):
            frame = np.ascontiguousarray(window(picture, x=place))
            if text:
                cv2.putText(frame, text, (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
            yield frame

    moving, frozen = list(range(6)), [6.0] * 9
    texts = [""] * 11 + ["go on"] * 10
    found = repeats_of(frames(texts, [*moving, *frozen, *range(7, 13)]))
    assert found["longest_freeze"] == pytest.approx(8 / FPS)
    # An object that begins to move ends it, and so does a text that comes as soon as the picture stands.
    late = repeats_of(frames(["", "a", "ab", "abc", "abcd"] * 4, [0.0] * 20))
    assert late["longest_freeze"] <= 2 / FPS


@pytest.mark.parametrize("sigma", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("contrast", [1.0, 0.3])
def test_the_width_of_edges_is_that_of_the_gaussian(sigma, contrast):
    stripes = np.where(np.arange(300) // 50 % 2, 128 + 100 * contrast, 128 - 100 * contrast)
    picture = cv2.GaussianBlur(np.tile(stripes, (200, 1)).astype(np.float32), (0, 0), sigma).astype(np.uint8)
    assert blur(picture)["edge_width"] == pytest.approx(100 * sigma / 200, rel=0.3)
    assert blur(np.tile(stripes, (200, 1)).astype(np.uint8))["edge_width"] < 0.2


def test_single_frames():
    picture = window(canvas())
    clean = measure_frame(picture)
    # Neighbours differ less; what is lost in the shadows is lost.
    soft = measure_frame(cv2.GaussianBlur(picture, (0, 0), 3))
    dark = measure_frame((picture * 0.05).astype(np.uint8))
    assert soft["glcm_contrast"] < clean["glcm_contrast"] / 2
    assert soft["sharpness"] < clean["sharpness"] / 10
    assert dark["brightness"] == pytest.approx(clean["brightness"] * 0.05, abs=0.01)
    assert dark["clipped_dark"] > 0.3 > clean["clipped_dark"]
    assert measure_frame(np.full_like(picture, 255))["clipped_bright"] == 1
    assert max(soft["aesthetic_heuristic"], dark["aesthetic_heuristic"]) < clean["aesthetic_heuristic"]
    assert colourfulness(np.repeat(picture.mean(axis=-1, keepdims=True), 3, -1).astype(np.uint8)) == 0


def test_flicker_is_a_change_that_is_taken_back():
    picture = canvas()
    frames = [window(picture, x=t) for t in range(20)]
    flicker = [np.clip(frame * (1 + 0.1 * (-1) ** t), 0, 255).astype(np.uint8) for t, frame in enumerate(frames)]
    faded = [(frame * (0.3 + 0.03 * t)).astype(np.uint8) for t, frame in enumerate(frames)]
    assert measure_frames(frames, FPS)["flicker"] < 1
    assert measure_frames(faded, FPS)["flicker"] < 1
    assert measure_frames(flicker, FPS)["flicker"] == pytest.approx(20, rel=0.2)


def test_no_frame_is_kept():
    picture, alive = canvas(), weakref.WeakSet()
    most = 0

    class Frame(np.ndarray):
        """An array that a weak set takes."""

        __hash__ = object.__hash__

    def frames():
        nonlocal most
        for t in range(30):
            frame = window(picture, x=t).view(Frame)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame

    assert measure_frames(frames(), FPS)["clip_frames"] == 30
    assert most <= 2


def test_a_file(tmp_path):
    path, picture = tmp_path / "clip.mp4", canvas()
    with VideoWriter(path, fps=Fraction(30000, 1001), height=H, width=W) as video:
        video.write(np.stack([window(picture, y=-t) for t in range(40)]))
    found = measure_file(path)
    assert found.keys() == MEASURES.keys()
    assert (found["clip_height"], found["clip_width"], found["clip_frames"]) == (H, W, 40)
    assert found["clip_bit_rate"] == pytest.approx(8 * path.stat().st_size / found["clip_seconds"])
    assert found["camera"] == "tilt_up"
    assert found["frozen_share"] == 0


def test_one_frame_and_none():
    found = measure_frames([window(canvas())], FPS)
    assert math.isnan(found["motion"])
    assert found["frozen_share"] == 0
    with pytest.raises(ValueError, match="no frame"):
        measure_frames([], FPS)
