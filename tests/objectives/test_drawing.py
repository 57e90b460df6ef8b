"""Times, shifts and the noise of condition frames."""

import jax
import numpy as np
import pytest

from lcv_jax.objectives.drawing import ConditionNoise, TimeShift, draw_noisy_clip, draw_uniform, frame_times


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ((24, 60, 104), 12.0),  # 480p x 93 frames: 37,440 tokens, the released shift
        ((6, 60, 104), 6.0),  # a quarter of its tokens
        ((24, 88, 160), 12 * (24 * 44 * 80 / 37_440) ** 0.5),  # 720p
        ((1, 32, 32), 1.0),  # an image of 256 x 256
        ((1, 4, 4), 1.0),
    ],
)
def test_shift_grows_with_the_root_of_the_tokens(shape, want):
    assert TimeShift().at((3, *shape, 16)) == pytest.approx(want)
    assert TimeShift(base=5.0, base_tokens=None).at((3, *shape, 16)) == 5.0


def test_shift_takes_other_bases():
    shift = TimeShift(base=4.0, base_tokens=100, latents_per_token=1, lowest=0.5)
    assert shift.at((2, 4, 10, 10, 3)) == pytest.approx(8.0)
    assert shift.at((2, 1, 1, 1, 3)) == 0.5
    assert TimeShift(base=0.25, base_tokens=None).at((2, 1, 1, 1, 3)) == 0.25


def test_stratified_times_are_evenly_spaced_and_each_is_uniform():
    u = np.asarray(draw_uniform(jax.random.key(0), 16, stratified=True), np.float64)
    np.testing.assert_allclose(np.diff(np.sort(u)), 1 / 16, atol=1e-6)
    keys = jax.random.split(jax.random.key(1), 4000)
    for stratified in (True, False):
        many = np.asarray(jax.vmap(lambda key, s=stratified: draw_uniform(key, 4, stratified=s))(keys), np.float64)
        assert many.min() >= 0
        assert many.max() < 1
        for column in many.T:  # Kolmogorov-Smirnov, one in ten thousand would exceed
            distance = np.abs(np.sort(column) - (np.arange(4000) + 0.5) / 4000).max()
            assert distance < 2.2 / 4000**0.5
        spread = many.mean(axis=1).std()
        assert spread < 0.1 if stratified else spread == pytest.approx(12**-0.5 / 2, rel=0.05)


def test_condition_levels_are_independent_and_uniform():
    condition = ConditionNoise(max_level=0.3)
    levels = np.asarray(condition.draw(jax.random.key(0), 4000, 3), np.float64)
    assert levels.min() >= 0
    assert levels.max() <= 0.3
    np.testing.assert_allclose(levels.mean(axis=0), 0.15, atol=0.006)
    np.testing.assert_allclose(levels.std(axis=0), 0.3 / 12**0.5, atol=0.004)
    np.testing.assert_allclose(np.corrcoef(levels.T), np.eye(3), atol=0.07)


@pytest.mark.parametrize("told", ["zero", "level"])
def test_a_noisy_clip_is_mixed_frame_by_frame(told):
    clean = np.random.default_rng(0).normal(size=(3, 5, 2, 2, 2)).astype(np.float32)
    t = np.array([0.2, 0.9, 1.0], np.float32)
    clip = draw_noisy_clip(jax.random.key(3), clean, t, 2, ConditionNoise(max_level=0.5, timestep=told))
    x, timesteps, noise = (np.asarray(a, np.float64) for a in clip)
    np.testing.assert_allclose(timesteps[:, 2:], 1000 * np.repeat(t[:, None], 3, axis=1), rtol=1e-6)
    # The level of a frame, from what was mixed: x - x_0 = level (noise - x_0).
    level = np.sum((x - clean) * (noise - clean), axis=(2, 3, 4)) / np.sum((noise - clean) ** 2, axis=(2, 3, 4))
    np.testing.assert_allclose(x - clean, level[..., None, None, None] * (noise - clean), atol=1e-5)
    np.testing.assert_allclose(level[:, 2:], np.repeat(t[:, None], 3, axis=1), atol=1e-5)
    assert len(np.unique(level[:, :2].round(4))) == 6, "every condition frame has a level of its own"
    assert level[:, :2].max() <= 0.5
    np.testing.assert_allclose(timesteps[:, :2], 1000 * level[:, :2] if told == "level" else 0, atol=0.01)


@pytest.mark.parametrize(("num_cond_latents", "max_level"), [(1, 0.5), (3, 0.0)])
def test_the_image_and_frames_without_noise_stay_clean(num_cond_latents, max_level):
    clean = np.random.default_rng(0).normal(size=(2, 5, 2, 2, 2)).astype(np.float32)
    condition = ConditionNoise(max_level=max_level, timestep="level")
    clip = draw_noisy_clip(jax.random.key(3), clean, np.full(2, 0.7, np.float32), num_cond_latents, condition)
    np.testing.assert_array_equal(clip.x_BTHWC[:, :num_cond_latents], clean[:, :num_cond_latents])
    np.testing.assert_array_equal(clip.timesteps_BT[:, :num_cond_latents], 0)


def test_frame_times_without_condition():
    got = frame_times(np.zeros((2, 0), np.float32), np.array([0.25, 0.5], np.float32), 3)
    np.testing.assert_array_equal(got, [[0.25] * 3, [0.5] * 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TimeShift(base=0.0), "base must be above 0"),
        (lambda: TimeShift(base_tokens=0), "base_tokens must be at least 1"),
        (lambda: TimeShift(latents_per_token=0), "latents_per_token must be at least 1"),
        (lambda: TimeShift(lowest=-1.0), "lowest must be above 0"),
        (lambda: ConditionNoise(max_level=1.5), r"max_level must lie in 0..1, got 1.5"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call()
