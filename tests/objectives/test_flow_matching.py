"""The loss of pretraining, restated in float64, and its weight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lcv_jax.objectives.drawing import ConditionNoise, TimeShift
from lcv_jax.objectives.flow_matching import FlowMatching, LogitNormalWeight
from lcv_jax.objectives.networks import Networks

SHIFT = 3.0
CONSTANT = TimeShift(base=SHIFT, base_tokens=None)


def weight(u, mean, std, floor):
    logit = np.log(u / (1 - u))
    density = np.exp(-((logit - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi) * u * (1 - u))
    return floor + (1 - floor) * density


@pytest.mark.parametrize("num_cond_latents", [0, 1, 3])
def test_restated(batch, shown, evaluate, num_cond_latents):
    objective = FlowMatching(
        shift=CONSTANT,
        weight=LogitNormalWeight(mean=0.3, std=0.8, floor=0.1),
        condition=ConditionNoise(max_level=0.4),
    )
    student = shown(lambda x, timesteps: jnp.cos(3 * x))
    losses = evaluate(objective, Networks(student), batch, jax.random.key(5), num_cond_latents=num_cond_latents)
    ((x, timesteps, text, mask),) = student.calls
    np.testing.assert_array_equal(text, batch["text_BLD"])
    np.testing.assert_array_equal(mask, batch["text_mask_BL"])

    clean = batch["latents_BTHWC"].astype(np.float64)
    t = timesteps[:, -1] / 1000
    np.testing.assert_array_equal(
        timesteps[:, num_cond_latents:], 1000 * np.tile(t[:, None], (1, 4 - num_cond_latents))
    )
    np.testing.assert_array_equal(timesteps[:, :num_cond_latents], 0)
    # x = (1 - t) x_0 + t noise, so x_0 - noise = (x_0 - x) / t.
    noisy = (slice(None), slice(num_cond_latents, None))
    target = (clean - x)[noisy] / t[:, None, None, None, None]
    error = np.mean((np.cos(3 * x)[noisy] - target) ** 2, axis=(1, 2, 3, 4))
    u = t / (SHIFT - (SHIFT - 1) * t)
    np.testing.assert_allclose(losses.t_B, t, rtol=1e-6)
    np.testing.assert_allclose(losses.error_B, error, rtol=1e-4)
    np.testing.assert_allclose(losses.loss, np.mean(weight(u, 0.3, 0.8, 0.1) * error), rtol=1e-4)


def test_noise_is_normal_and_new_for_every_key(batch, shown):
    @jax.jit
    def noise(key):
        student = shown(jnp.zeros_like(batch["latents_BTHWC"]))
        losses = FlowMatching(shift=CONSTANT)(Networks(student), batch, key, num_cond_latents=0)
        t = losses.t_B[:, None, None, None, None]
        return (student.calls[0][0] - (1 - t) * batch["latents_BTHWC"]) / t

    draws = np.stack([noise(jax.random.key(seed)) for seed in range(40)]).reshape(40, -1)
    assert abs(draws.mean()) < 0.04
    assert abs(draws.std() - 1) < 0.03
    assert np.abs(np.corrcoef(draws) - np.eye(40)).max() < 0.35
    np.testing.assert_array_equal(noise(jax.random.key(0)), noise(jax.random.key(0)))


@pytest.mark.parametrize("num_cond_latents", [0, 2])
def test_the_shift_counts_noisy_tokens(shown, evaluate, num_cond_latents):
    """Stratified times, unshifted by the shift of the noisy frames alone, are evenly spaced."""
    latents = np.zeros((512, 6, 4, 4, 1), np.float32)
    given = {"latents_BTHWC": latents, "text_BLD": latents[:, :1, 0, 0], "text_mask_BL": np.ones((512, 1), bool)}
    objective = FlowMatching(shift=TimeShift(base=5.0, base_tokens=24))
    student = shown(jnp.zeros_like(latents))
    t = np.asarray(
        evaluate(objective, Networks(student), given, jax.random.key(0), num_cond_latents=num_cond_latents).t_B
    )
    shift = 5.0 * ((6 - num_cond_latents) * 4 / 24) ** 0.5
    u = t / (shift - (shift - 1) * t)
    np.testing.assert_allclose(np.diff(np.sort(u)), 1 / 512, rtol=0.02)
    free = dataclasses.replace(objective, stratified=False)
    t = np.asarray(evaluate(free, Networks(student), given, jax.random.key(0), num_cond_latents=num_cond_latents).t_B)
    u = t / (shift - (shift - 1) * t)
    assert np.diff(np.sort(u)).max() > 3 / 512
    assert u.mean() == pytest.approx(0.5, abs=0.05)


def test_condition_frames_have_no_loss(batch, shown):
    objective = FlowMatching(shift=CONSTANT)

    def loss(velocity, batch):
        student = lambda *given: velocity  # noqa: E731
        return objective(Networks(student), batch, jax.random.key(2), num_cond_latents=2).loss

    velocity = jnp.asarray(batch["upsampled_BTHWC"])
    gradient = np.asarray(jax.jit(jax.grad(loss))(velocity, batch))
    assert np.all(gradient[:, :2] == 0)
    assert np.all(np.abs(gradient[:, 2:]).max(axis=(2, 3, 4)) > 0)
    other = {**batch, "latents_BTHWC": batch["latents_BTHWC"] + 5 * (np.arange(4) < 2)[:, None, None, None]}
    np.testing.assert_array_equal(loss(velocity, other), loss(velocity, batch))


@pytest.mark.parametrize(
    ("mean", "std", "floor"), [(0.0, 1.0, 0.2), (0.0, 1.0, 0.0), (0.5, 0.6, 0.1), (-1.0, 1.4, 0.0), (0.0, 1.0, 1.0)]
)
def test_the_weight_is_the_density_and_its_mean_is_one(mean, std, floor):
    shape = LogitNormalWeight(mean=mean, std=std, floor=floor)
    u = (np.arange(200_000) + 0.5) / 200_000
    got = np.asarray(jax.jit(shape)(u.astype(np.float32)), np.float64)
    np.testing.assert_allclose(got, weight(u, mean, std, floor), rtol=2e-3, atol=1e-6)
    assert got.mean() == pytest.approx(1, abs=1e-4)
    ends = np.asarray(shape(np.array([0, 1], np.float32)))
    np.testing.assert_allclose(ends, floor, atol=2e-3)


def test_the_default_weight_is_bounded():
    got = LogitNormalWeight()(jnp.linspace(0, 1, 10_001))
    assert float(got.max()) == pytest.approx(0.2 + 0.8 * 4 / np.sqrt(2 * np.pi), rel=1e-4)  # at u = 1/2
    assert float(got.min()) == pytest.approx(0.2)


def test_weighting_is_drawing_from_the_logit_normal():
    """The mean of w(u) g(shift(u)) over uniform u is that of g(shift(u)) over logit-normal u."""

    def g(t):
        return np.sin(5 * t) + t**3

    u = (np.arange(100_000) + 0.5) / 100_000
    drawn = 1 / (1 + np.exp(-(0.4 + 0.9 * np.random.default_rng(0).normal(size=1_000_000))))
    weighted = LogitNormalWeight(mean=0.4, std=0.9, floor=0.0)(u.astype(np.float32)) * g(
        SHIFT * u / (1 + (SHIFT - 1) * u)
    )
    assert weighted.mean() == pytest.approx(np.mean(g(SHIFT * drawn / (1 + (SHIFT - 1) * drawn))), abs=3e-3)


def test_bfloat16_latents(batch, shown):
    low = {**batch, "latents_BTHWC": jnp.asarray(batch["latents_BTHWC"], ml_dtypes.bfloat16)}
    student = shown(lambda x, timesteps: x.astype(jnp.bfloat16))
    run = functools.partial(FlowMatching(), Networks(student), num_cond_latents=1)
    losses = jax.eval_shape(run, low, jax.random.key(0))
    assert losses.loss.dtype == losses.error_B.dtype == jnp.float32


def test_overfits_a_batch(learn):
    before, after = learn(FlowMatching(shift=CONSTANT), 1500)
    assert after < before / 10, (before, after)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LogitNormalWeight(std=0.0), "std must be above 0"),
        (lambda: LogitNormalWeight(std=2.0), "at most 1.41"),
        (lambda: LogitNormalWeight(floor=-0.1), r"floor must lie in 0..1"),
        (lambda: LogitNormalWeight(mean=float("nan")), "mean must lie in"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call()
