"""Readers find what the world draws, and still do after what an autoencoder would do to it."""

import dataclasses

import numpy as np
import pytest

from lcv_jax.toy.captions import caption, parse
from lcv_jax.toy.readers import ATTRIBUTES, alignment, follows, read_clip
from lcv_jax.toy.world import RATES, render, sample_scene

NUM = 80
SCENES = [sample_scene([11, number], held_out=number % 2 == 0) for number in range(NUM)]


def blurred(video_THWC: np.ndarray, sigma: float) -> np.ndarray:
    reach = np.arange(-4, 5)
    kernel = np.exp(-(reach**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (1, 2):
        padded = np.pad(video_THWC, [(4, 4) if each == axis else (0, 0) for each in range(4)], mode="edge")
        shifted = [np.take(padded, range(4 + d, 4 + d + video_THWC.shape[axis]), axis=axis) for d in reach]
        video_THWC = sum(weight * part for weight, part in zip(kernel, shifted, strict=True))
    return video_THWC


def spoiled(video_THWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    soft = blurred(video_THWC.astype(np.float32), 1.0)
    noisy = soft + rng.normal(0, 8, soft.shape) + rng.uniform(-10, 10, 3)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def accuracy(readings) -> dict[str, float]:
    pairs = list(zip(readings, SCENES, strict=True))
    return {name: np.mean([r.best(name) == getattr(scene, name) for r, scene in pairs]) for name in ATTRIBUTES}


@pytest.fixture(scope="module")
def clean():
    return [read_clip(render(scene, 64, 64, 17, 8), 8) for scene in SCENES]


def test_all_is_read_from_rendered_clips(clean):
    assert accuracy(clean) == dict.fromkeys(ATTRIBUTES, 1.0)


def test_readers_bear_blur_noise_and_wrong_colours():
    rng = np.random.default_rng(0)
    found = accuracy([read_clip(spoiled(render(scene, 64, 64, 17, 8), rng), 8) for scene in SCENES])
    wanted = {
        "colour": 0.97,
        "shape": 0.95,
        "motion": 0.97,
        "speed": 0.9,
        "texture": 0.9,
        "background": 0.9,
        "pan": 0.9,
    }
    assert all(found[name] >= least for name, least in wanted.items()), found


def test_shapes_are_told_apart_without_their_corners():
    """As a small autoencoder leaves them: of crosses, stars."""
    soft = [blurred(render(scene, 64, 64, 5, 8).astype(np.float32), 2.2).astype(np.uint8) for scene in SCENES]
    found = [read_clip(clip, 8).best("shape") == scene.shape for clip, scene in zip(soft, SCENES, strict=True)]
    assert np.mean(found) >= 0.95, np.mean(found)


def test_readers_work_at_other_sizes_and_rates():
    for scene in SCENES[:6]:
        reading = read_clip(render(scene, 128, 128, 33, 16), 16)
        assert {name: reading.best(name) for name in ATTRIBUTES} == {name: getattr(scene, name) for name in ATTRIBUTES}


def test_rates_are_measured(clean):
    for reading, scene in zip(clean, SCENES, strict=True):
        measured = {
            "left": -reading.velocity[0],
            "right": reading.velocity[0],
            "up": -reading.velocity[1],
            "down": reading.velocity[1],
            "grows": reading.growth,
            "shrinks": -reading.growth,
            "turns": reading.turning,
        }
        assert measured[scene.motion] == pytest.approx(scene.rate, rel=0.06), scene
    assert RATES["moves"][0] * 1.5 < RATES["moves"][1]


def test_scores_are_probabilities(clean):
    for reading, scene in zip(clean, SCENES, strict=True):
        for name in ATTRIBUTES:
            values = list(reading.scores[name].values())
            assert min(values) >= 0
            assert sum(values) <= 1 + 1e-6
            assert reading.score(name, getattr(scene, name)) > 0.5


def test_scores_fall_gradually_as_the_picture_gets_worse():
    scene = dataclasses.replace(SCENES[0], colour="red", shape="square", motion="left", rate=0.11, size=0.16)
    clip = render(scene, 64, 64, 17, 8).astype(np.float32)
    grey = clip.mean(axis=(1, 2), keepdims=True)
    scores = [
        read_clip(((1 - share) * clip + share * grey).astype(np.uint8), 8).score("colour", "red")
        for share in (0.0, 0.15, 0.3, 0.45, 0.9)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95
    assert 0.05 < scores[2] < scores[0]
    assert scores[-1] < 0.3


def test_a_still_clip_has_no_motion_and_no_speed():
    clip = np.repeat(render(SCENES[1], 64, 64, 1, 8), 17, axis=0)
    reading = read_clip(clip, 8)
    assert reading.best("motion") is None
    assert reading.best("speed") is None
    assert reading.best("shape") == SCENES[1].shape
    assert reading.motion_energy == reading.flicker == 0


def test_what_hardly_moves_is_hardly_a_motion():
    scene = dataclasses.replace(SCENES[0], motion="right", texture="plain", pan="none", x=0.5, size=0.16)
    scores = [
        read_clip(render(dataclasses.replace(scene, rate=rate), 64, 64, 17, 8), 8).score("motion", "right")
        for rate in (0.0, 0.008, 0.025, 0.09)
    ]
    assert scores == sorted(scores)
    assert scores[1] < 0.2
    assert scores[-1] > 0.85


def test_what_is_like_no_shape_is_none():
    clip = np.full((5, 64, 64, 3), 128, np.uint8)
    clip[:, 30:34, 8:56] = (222, 38, 42)
    reading = read_clip(clip, 8)
    assert reading.best("colour") == "red"
    assert reading.best("shape") is None


def test_a_clip_played_backwards_moves_the_other_way():
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up", "grows": "shrinks", "shrinks": "grows"}
    for scene in [scene for scene in SCENES if scene.motion in opposite][:12]:
        assert read_clip(render(scene, 64, 64, 17, 8)[::-1], 8).best("motion") == opposite[scene.motion]


@pytest.mark.parametrize(("low", "high"), [(128, 129), (0, 256)])
def test_nothing_is_found_where_there_is_nothing(low, high):
    reading = read_clip(np.random.default_rng(0).integers(low, high, (5, 32, 32, 3)).astype(np.uint8), 8)
    assert reading.best("colour") is None
    assert reading.best("shape") is None
    assert np.isfinite([reading.sharpness, reading.flicker, reading.turning, *reading.velocity]).all()


def test_two_objects_of_different_colours_are_unsure():
    red = dataclasses.replace(SCENES[0], colour="red", motion="up", texture="plain", pan="none", x=0.25, size=0.16)
    blue = dataclasses.replace(red, colour="blue", x=0.75)
    left, right = render(red, 64, 64, 9, 8), render(blue, 64, 64, 9, 8)
    reading = read_clip(np.concatenate([left[:, :, :32], right[:, :, 32:]], axis=2), 8)
    assert max(reading.scores["colour"].values()) < 0.7


def test_sharpness_flicker_and_saturation_go_the_right_way():
    rng = np.random.default_rng(0)
    clip = render(SCENES[2], 64, 64, 17, 8)
    plain = read_clip(clip, 8)
    soft = read_clip(blurred(clip.astype(np.float32), 1.5).astype(np.uint8), 8)
    assert soft.sharpness < 0.8 * plain.sharpness
    assert soft.laplacian < 0.6 * plain.laplacian
    flickering = np.clip(clip * rng.normal(1, 0.04, (17, 1, 1, 1)), 0, 255).astype(np.uint8)
    assert read_clip(flickering, 8).flicker > plain.flicker + 2
    grey = np.repeat(clip.mean(axis=-1, keepdims=True), 3, axis=-1).astype(np.uint8)
    assert read_clip(grey, 8).saturation == 0 < plain.saturation
    np.testing.assert_allclose(plain.mean_colour, clip.reshape(-1, 3).mean(axis=0), rtol=1e-4)


def test_a_panning_camera_is_no_flicker(clean):
    panned = [reading.flicker for reading, scene in zip(clean, SCENES, strict=True) if scene.pan != "none"]
    assert panned
    assert max(panned) < 1.5


def test_a_caption_is_compared_attribute_by_attribute(clean):
    scene, reading = SCENES[0], clean[0]
    asked = parse(caption(scene, 0))
    assert all(follows(reading, asked).values())
    assert set(alignment(reading, asked)) == set(ATTRIBUTES)
    wrong = next(colour for colour in reading.scores["colour"] if colour != scene.colour)
    other = dataclasses.replace(asked, colour=wrong, pan=None)
    assert follows(reading, other) == {name: name != "colour" for name in ATTRIBUTES if name != "pan"}
    assert alignment(reading, other)["colour"] < 0.05


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="at least 8 x 8 and fps above 0"):
        read_clip(np.zeros((0, 64, 64, 3), np.uint8), 8)
    with pytest.raises(ValueError, match="fps above 0"):
        read_clip(np.zeros((1, 64, 64, 3), np.uint8), 0)
