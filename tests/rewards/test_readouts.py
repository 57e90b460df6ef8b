import numpy as np
import pytest

from lcv_jax.rewards.frame_rewards import FrameReward, Grayscale
from lcv_jax.rewards.protocol import Reward, RewardError
from lcv_jax.rewards.readouts import QUALITY_PROMPT, grayscale, mean_of_best_frames, mean_of_frames
from tests.rewards.clips import PROMPTS, clips
from tests.rewards.faulty import Brightness


def random_scores(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_mean_of_frames_is_the_mean():
    scores_BT = random_scores(3, 7)
    np.testing.assert_allclose(mean_of_frames(scores_BT), [sum(row) / 7 for row in scores_BT], rtol=1e-5)


@pytest.mark.parametrize(("num_frames", "count"), [(1, 1), (2, 1), (3, 1), (4, 2), (10, 3), (11, 4), (93, 28)])
def test_best_frames_are_the_highest_thirty_percent_rounded_up(num_frames, count):
    scores_BT = random_scores(2, num_frames)
    wanted = [np.mean(sorted(row, reverse=True)[:count]) for row in scores_BT]
    np.testing.assert_allclose(mean_of_best_frames(scores_BT), wanted, rtol=1e-5)


def test_one_frame_without_a_score_leaves_none():
    scores_BT = random_scores(2, 10)
    scores_BT[1, 4] = np.nan
    for readout in (mean_of_frames, mean_of_best_frames):
        np.testing.assert_array_equal(np.isnan(readout(scores_BT)), [False, True])


def test_shares_beyond_one_are_refused():
    with pytest.raises(ValueError, match="share must lie in 0..1, got 30"):
        mean_of_best_frames(random_scores(1, 3), 30.0)


def test_grayscale_is_luma_of_bt601():
    videos = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
    grey = grayscale(videos)
    red, green, blue = np.moveaxis(videos.astype(float), -1, 0)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey[..., 0], np.floor(0.299 * red + 0.587 * green + 0.114 * blue + 0.5))
    np.testing.assert_array_equal(grey, grey[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(grayscale(grey), grey)


def test_frame_reward_gives_every_frame_its_prompt():
    seen = []

    def score_frames(frames_NHWC, prompts):
        seen.extend(zip(frames_NHWC[:, 0, 0, 0].tolist(), prompts, strict=True))
        return frames_NHWC[:, 0, 0, 0].astype(float)

    videos = clips()
    videos[:, 1] += 5
    reward = FrameReward("a", score_frames, readout=mean_of_best_frames)
    assert isinstance(reward, Reward)
    np.testing.assert_array_equal(reward.score(videos, PROMPTS, 8)["a"], [15, 25, 35])
    assert seen == [(10, "a"), (15, "a"), (20, "b"), (25, "b"), (30, "c"), (35, "c")]
    seen.clear()
    parts = FrameReward("a", score_frames, prompt=QUALITY_PROMPT, frames_per_call=4)
    np.testing.assert_array_equal(parts.score(videos, PROMPTS, 8)["a"], [12.5, 22.5, 32.5])
    assert {prompt for _, prompt in seen} == {"A high-quality image"}
    assert len(seen) == 6


def test_frame_reward_refuses_other_answers():
    with pytest.raises(RewardError, match=r"one float for each of 6 images, got float64, shape \(5,\)"):
        FrameReward("a", lambda frames, prompts: np.ones(len(frames) - 1)).score(clips(), PROMPTS, 8)


def test_grayscale_shows_the_other_grey_videos():
    videos = clips() * np.array([1, 0, 0], np.uint8)
    reward = Grayscale(Brightness())
    assert reward.names == ("brightness",)
    np.testing.assert_array_equal(reward.score(videos, PROMPTS, 8)["brightness"], [3, 6, 9])
