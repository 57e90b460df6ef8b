"""The procedural world: determinism, sizes, what is inside the frame, the held-out split, captions."""

import collections
import dataclasses

import numpy as np
import pytest

from lcv_jax.toy.captions import Asked, caption, parse, vocabulary
from lcv_jax.toy.world import (
    COLOURS,
    COMBINATIONS,
    DURATION,
    MOTIONS,
    PAN_RATE,
    SHAPES,
    Scene,
    is_held_out,
    pose,
    render,
    sample_scene,
)

SCENES = [sample_scene([3, number], rough_share=0.2) for number in range(200)]


def test_scenes_and_frames_are_functions_of_the_seed():
    again = [sample_scene([3, number], rough_share=0.2) for number in range(200)]
    assert again == SCENES
    assert len(set(SCENES)) == len(SCENES)
    for scene in (SCENES[0], next(scene for scene in SCENES if scene.rough)):
        np.testing.assert_array_equal(render(scene, 64, 64, 5, 8), render(scene, 64, 64, 5, 8))
    assert 20 < sum(scene.rough for scene in SCENES) < 60


def test_the_split_is_an_eighth_that_leaves_out_no_colour_shape_or_motion():
    held_out = [combination for combination in COMBINATIONS if is_held_out(combination)]
    assert len(COMBINATIONS) == 8 * (5 * 6 + 3)
    assert len(held_out) == len(COMBINATIONS) / 8
    # One colour for every pair of a shape and a motion.
    assert max(collections.Counter(combination[1:] for combination in held_out).values()) == 1
    assert {combination[0] for combination in held_out} == set(COLOURS)
    trained = [combination for combination in COMBINATIONS if not is_held_out(combination)]
    assert {(colour, shape) for colour, shape, _ in trained} == {(c, s) for c in COLOURS for s in SHAPES}


def test_no_scene_to_train_on_is_held_out():
    assert not any(is_held_out(scene) for scene in SCENES)
    asked = [sample_scene([4, number], held_out=True) for number in range(100)]
    assert all(is_held_out(scene) for scene in asked)


def test_common_combinations_are_commoner():
    colours = collections.Counter(sample_scene([5, number]).colour for number in range(2000))
    assert colours["red"] > 1.5 * colours["white"]
    assert set(colours) == set(COLOURS)


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_object_stays_inside_for_the_duration(motion):
    scenes = [scene for scene in SCENES if scene.motion == motion and not scene.rough]
    plain = [dataclasses.replace(scene, texture="plain", pan="none", light=(0.0, 0.0)) for scene in scenes]
    assert plain
    for scene in plain:
        last = render(scene, 64, 64, 2, 1 / DURATION)
        ground = last[:, 0, 0].astype(int)
        for edge in (last[:, 0], last[:, -1], last[:, :, 0], last[:, :, -1]):
            assert np.abs(edge.astype(int) - ground[:, None]).max() <= 1, scene


@pytest.mark.parametrize("size", [(128, 128, 33, 16), (64, 96, 17, 8)])
def test_the_same_scene_at_another_size_and_rate(size):
    height, width, num_frames, fps = size
    scene = next(scene for scene in SCENES if scene.motion == "left" and not scene.rough)
    small, large = render(scene, 64, 64, 17, 8), render(scene, height, width, num_frames, fps)
    assert large.shape == (num_frames, height, width, 3)
    if width == height:
        # Halved in size and rate it is the small one, but for edges.
        halved = large[::2].reshape(17, 64, 2, 64, 2, 3).mean(axis=(2, 4))
        assert np.abs(halved - small).mean() < 1.2  # of which 0.5 are rounding down
        # Not softer: edges are as many pixels wide as in the small one.
        assert np.abs(np.diff(large.astype(int), axis=2)).max() > 0.8 * np.abs(np.diff(small.astype(int), axis=2)).max()
    else:
        centre, _, _ = pose(scene, np.zeros(1, np.float32), height, width)
        assert centre[0, 0] == pytest.approx(scene.x * width / height, rel=1e-5)


def test_a_panning_camera_moves_the_texture_the_other_way():
    scene = dataclasses.replace(SCENES[0], texture="checks", pan="right", light=(0.0, 0.0), rough=False, x=9.0)
    frames = render(scene, 64, 64, 2, PAN_RATE * 64 / 4)  # four pixels a frame
    np.testing.assert_allclose(frames[1, :, :-4].astype(int), frames[0, :, 4:].astype(int), atol=1)


def test_a_scene_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="circle looks the same however it turns"):
        dataclasses.replace(SCENES[0], shape="circle", motion="turns")
    with pytest.raises(ValueError, match="colour must be one of red, .*, got 'puce'"):
        dataclasses.replace(SCENES[0], colour="puce")
    with pytest.raises(ValueError, match="must be positive, got height=0"):
        render(SCENES[0], 0, 64, 17, 8)


def test_captions_ask_for_what_is_shown():
    for number, scene in enumerate(SCENES):
        names = [field.name for field in dataclasses.fields(Asked)]
        assert parse(caption(scene, number)) == Asked(**{name: getattr(scene, name) for name in names})
        still = parse(caption(scene, number, still=True))
        assert (still.colour, still.shape, still.texture) == (scene.colour, scene.shape, scene.texture)
        assert still.motion is still.speed is still.pan is None


def test_captions_vary_and_use_known_words_only():
    scene = dataclasses.replace(SCENES[0], motion="left", texture="stripes", pan="right")
    texts = {caption(scene, seed) for seed in range(200)}
    assert len(texts) == 27
    known = set(vocabulary())
    for text in texts | {caption(each, seed) for seed, each in enumerate(SCENES)}:
        assert set(text.replace(",", " , ").split()) <= known


def test_the_camera_is_not_taken_for_the_motion():
    asked = parse("A red circle turns slowly over a plain grey background, the camera pans to the left")
    assert (asked.motion, asked.pan) == ("turns", "left")
    asked = parse("a red circle moves quickly to the right, camera panning left")
    assert (asked.motion, asked.speed, asked.pan, asked.texture) == ("right", "quickly", "left", None)
    assert parse("") == Asked()


def test_a_scene_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCENES[0].colour = "red"
    assert isinstance(SCENES[0], Scene)
