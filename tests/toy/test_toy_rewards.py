import numpy as np
import pytest

from lcv_jax.rewards.config import RewardsConfig, RewardSource, open_rewards
from lcv_jax.rewards.protocol import Reward
from lcv_jax.toy.captions import caption
from lcv_jax.toy.rewards import alignment, edge_sharpness, hackable_sharpness, motion, read_clips, sharpness
from lcv_jax.toy.world import render, sample_scene

FPS, COUNT = 8, 12


@pytest.fixture(scope="module")
def true():
    """Clips of the world, their captions, and captions with another colour, shape and motion."""
    scenes = [sample_scene(seed) for seed in range(COUNT)]
    clips = np.stack([render(scene, 64, 64, 17, FPS) for scene in scenes])
    others = []
    for number, scene in enumerate(scenes):
        apart = (
            one for one in map(sample_scene, range(100 * number, 100 * number + 100))
            if not set(one.combination) & set(scene.combination)
        )  # fmt: skip
        others.append(caption(next(apart)))
    return clips, [caption(scene, seed) for seed, scene in enumerate(scenes)], others


@pytest.fixture(scope="module")
def static(true):
    """As many standing pictures of black and white points."""
    clips, _, _ = true
    points_HW = (np.add.outer(np.arange(64), np.arange(64)) % 2 * 255).astype(np.uint8)
    return np.broadcast_to(points_HW[None, None, :, :, None], clips.shape).copy()


def test_they_are_rewards():
    for make in (alignment, motion, sharpness, hackable_sharpness):
        reward = make()
        assert isinstance(reward, Reward)
        assert reward.names == (make.__name__,)


def test_true_clips_with_their_captions_score_high(true):
    clips, captions, _ = true
    values = read_clips().score(clips, captions, FPS).values
    assert values["alignment"].min() > 0.9
    assert values["motion"].min() > 0.4  # what grows slowly, grows pixel by pixel
    assert np.median(values["motion"]) > 0.75
    assert values["sharpness"].min() > 0.95
    assert max(value_B.max() for value_B in values.values()) <= 1


def test_wrong_captions_score_low(true):
    clips, _, others = true
    values = read_clips("alignment, motion").score(clips, others, FPS).values
    assert values["alignment"].max() < 0.1
    assert values["motion"].max() < 0.05


def test_what_stands_turns_back_or_jumps_does_not_move_as_asked(true):
    clips, captions, _ = true
    standing = np.repeat(clips[:, :1], 17, axis=1)
    to_and_fro = np.concatenate([clips[:, ::2], clips[:, -2::-2]], axis=1)
    jumping = np.repeat(clips[:, ::8], (6, 6, 5), axis=1)
    whole = motion().score(clips, captions, FPS).values["motion"]
    assert motion().score(standing, captions, FPS).values["motion"].max() < 0.05
    assert motion().score(to_and_fro, captions, FPS).values["motion"].max() < 0.3
    # It gets where it should as fast as it should.
    assert (motion().score(jumping, captions, FPS).values["motion"] < 0.6 * whole).all()


def test_the_asked_speed_counts(true):
    clips, captions, _ = true
    other = {"slowly": "quickly", "quickly": "slowly"}
    swapped = [" ".join(other.get(word, word) for word in text.split()) for text in captions]
    assert motion().score(clips, swapped, FPS).values["motion"].max() < 0.2


def test_blur_is_less_sharp_and_over_sharp_no_sharper(true):
    clips, captions, _ = true
    padded = np.pad(clips.astype(float), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]) / 3
    blurred = ((rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]) / 3).astype(np.uint8)
    assert sharpness().score(blurred, captions, FPS).values["sharpness"].max() < 0.5
    over = np.clip(clips + 3.0 * (clips - blurred.astype(float)), 0, 255).astype(np.uint8)
    assert sharpness().score(over, captions, FPS).values["sharpness"].max() <= 1
    assert edge_sharpness(np.full((2, 16, 16, 3), 128, np.uint8)) == 0


def test_a_static_over_sharp_picture_hacks_the_one_and_loses_the_others(true, static):
    clips, captions, _ = true
    hacked = hackable_sharpness().score(static, captions, FPS)["hackable_sharpness"]
    honest = hackable_sharpness().score(clips, captions, FPS)["hackable_sharpness"]
    assert 0.5 < np.median(honest) < 2
    assert hacked.min() > 10 * honest.max()
    lost = read_clips("alignment,motion").score(static, captions, FPS).values
    won = read_clips("alignment,motion").score(clips, captions, FPS).values
    assert (lost["motion"] < 0.1 * won["motion"]).all()
    assert (lost["alignment"] < 0.5 * won["alignment"]).all()


def test_a_caption_that_asks_for_nothing_is_a_failure(true):
    clips, captions, _ = true
    scores = read_clips().score(clips[:2], [captions[0], "a cat"], FPS)
    np.testing.assert_array_equal(scores.failed(), [False, True])
    assert scores.failures[1] == "no alignment and no motion can be judged by the caption 'a cat'"
    assert not np.isnan(scores.values["sharpness"]).any()


def test_names_that_there_are_not():
    with pytest.raises(ValueError, match="readers give alignment, motion and sharpness, got beauty"):
        read_clips("alignment,beauty")


def test_they_open_by_name(true):
    clips, captions, _ = true
    source = RewardSource(
        factory="lcv_jax.toy.rewards:read_clips",
        options=(("names", "alignment,motion"),),
        weights=(("alignment", 1.0), ("motion", 0.5)),
    )
    hackable = RewardSource(factory="lcv_jax.toy.rewards:hackable_sharpness")
    with open_rewards(RewardsConfig(sources=(source, hackable))) as scorer:
        scores = scorer.try_out(clips[:2], captions[:2], FPS)
    assert scores.names == ("alignment", "motion", "hackable_sharpness")
