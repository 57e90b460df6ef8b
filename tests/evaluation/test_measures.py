"""Every measure reacts to its own fault, put into a clip, and the definitions that are published."""

import itertools
import json

import numpy as np
import pytest

from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.evaluate import main
from lcv_jax.evaluation import measures

cv2 = pytest.importorskip("cv2")
FPS = 8


@pytest.fixture(scope="module")
def clean():
    """A blurred colourful texture that moves smoothly to the right, 48 frames."""
    rng = np.random.default_rng(3)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (96, 300, 3)).astype(np.float32), (0, 0), 3)
    wide = np.clip((wide - wide.mean()) * 4 + 128, 0, 255)
    return np.stack([wide[:, 2 * t : 2 * t + 128] for t in range(48, 0, -1)]).astype(np.uint8)


def gain(clip, factors):
    return np.clip(clip * np.asarray(factors)[:, None, None, None], 0, 255).astype(np.uint8)


def put_in(clip, fault):
    rng = np.random.default_rng(0)
    T = len(clip)
    if fault == "noise":
        return np.clip(clip + rng.normal(0, 10, clip.shape), 0, 255).astype(np.uint8)
    if fault == "flicker":
        return gain(clip, 1 + 0.08 * (-1) ** np.arange(T))
    if fault == "drift":
        return np.clip(clip + np.linspace(0, 40, T)[:, None, None, None] * [1, 0, -1], 0, 255).astype(np.uint8)
    if fault == "frozen":
        return np.repeat(clip[:1], T, axis=0)
    if fault == "jitter":
        shifts = rng.integers(-4, 5, (T, 2))
        return np.stack([np.roll(frame, tuple(shift), (0, 1)) for frame, shift in zip(clip, shifts, strict=True)])
    if fault == "blur":
        return np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in clip])
    assert fault == "grey"
    return np.repeat(clip.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def found(clean):
    faults = ("noise", "flicker", "drift", "frozen", "jitter", "blur", "grey")
    measured = {fault: measures.measure_clip(put_in(clean, fault), FPS) for fault in faults}
    return {"clean": measures.measure_clip(clean, FPS), **measured}


@pytest.mark.parametrize(
    ("measure", "fault", "factor"),
    [
        ("warping_error", "noise", 3),
        ("jerk", "jitter", 3),
        ("colour_drift", "drift", 5),
        ("drift_per_minute", "drift", 5),
        ("dynamic_degree", "frozen", 1 / 50),
        ("sharpness", "blur", 1 / 2),
        ("saturation", "grey", 1 / 10),
    ],
)
def test_a_measure_reacts_to_its_fault(found, measure, fault, factor):
    before, after = found["clean"][measure], found[fault][measure]
    assert after > factor * before if factor > 1 else after < factor * before


def test_flicker_is_vbenchs(clean, found):
    for fault in ("clean", "flicker", "noise", "frozen"):
        clip = clean if fault == "clean" else put_in(clean, fault)
        errors = [np.mean(np.abs(a.astype(np.float32) - b)) for a, b in itertools.pairwise(clip)]
        assert found[fault]["flicker"] == pytest.approx((255 - np.mean(errors)) / 255, abs=1e-6)
    assert found["flicker"]["flicker"] < found["clean"]["flicker"] < found["frozen"]["flicker"] == 1


def test_a_frozen_clip_wins_only_where_its_dynamics_stand_beside_it(found):
    assert found["frozen"]["warping_error"] == found["frozen"]["jerk"] == 0
    assert found["frozen"]["dynamic_degree"] == 0 < found["clean"]["dynamic_degree"]
    assert measures.MEASURES["dynamic_degree"].better == "neither"
    assert set(found["clean"]) == set(measures.MEASURES)


def test_dynamic_degree_is_a_speed(clean):
    # Two pixels a frame at eight frames a second, of a side of 96.
    assert measures.measure_clip(clean, FPS)["dynamic_degree"] == pytest.approx(100 * 2 * 8 / 96, rel=0.2)


def test_drift_has_a_slope(clean):
    still = np.full((48, 32, 32, 3), 100, np.uint8)
    assert measures.colour_distances(still, FPS) == [0.0] * 6
    found = measures.measure_clip(put_in(np.repeat(clean[:1], 48, axis=0), "drift"), FPS)
    distances = measures.colour_distances(put_in(np.repeat(clean[:1], 48, axis=0), "drift"), FPS)
    assert found["drift_per_minute"] == pytest.approx(60 * np.polyfit(range(6), distances, 1)[0])
    assert found["colour_drift"] == max(distances)


def test_a_seam_jumps(clean):
    smooth = measures.seam_jumps(clean, [24])[0]
    joined = np.concatenate([clean[:24], clean[:24]])
    assert 0.8 < smooth < 1.2
    assert measures.seam_jumps(joined, [24])[0] > 2
    with pytest.raises(ValueError, match="seams must lie in 1..47"):
        measures.seam_jumps(clean, [48])


def test_likeness_to_a_reference(clean):
    pytest.importorskip("skimage")
    noisy = put_in(clean, "noise")
    found = measures.likeness(noisy[:2], clean[:2])
    error = [np.mean((a.astype(float) - b) ** 2) for a, b in zip(noisy[:2], clean[:2], strict=True)]
    assert found["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / np.array(error))))
    assert found["ssim"] < 0.98
    assert measures.likeness(clean[0], clean[0]) == {"psnr": np.inf, "ssim": 1.0}
    with pytest.raises(ValueError, match="must have one shape"):
        measures.likeness(clean[:1], clean[:2])


@pytest.mark.parametrize("size", [(16, 2000), (16, 256), (2000, 16), (4, 4)])
def test_strips_can_be_measured(size):
    wide = np.random.default_rng(0).integers(0, 255, (3, *size, 3)).astype(np.uint8)
    assert np.isfinite(list(measures.measure_clip(wide, FPS).values())).all()


def test_json_has_no_infinity_and_no_nan(clean, tmp_path, capsys):
    pytest.importorskip("skimage")
    path = str(tmp_path / "short.mp4")
    with VideoWriter(path, fps=8, height=96, width=128) as file:
        file.write(clean[:3])
    main(["measure-video", path, "--seams", "1", "2", "--reference", path, "--as-json"])

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)[path]
    assert (found["psnr"], found["ssim"], found["seam_at_1"]) == (None, 1, None)
    assert found["null_because"].keys() == {"psnr", "seam_at_1", "seam_at_2"}
    assert found["null_because"]["psnr"] == "infinite: the videos are equal"


def test_too_few_frames():
    with pytest.raises(ValueError, match="at least three frames"):
        measures.measure_clip(np.zeros((2, 32, 32, 3), np.uint8), 8)
