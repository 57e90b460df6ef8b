"""GRPO's closed forms: gradients free of t and dt, a step with the flow's own marginals, advantages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.diffusion import sde
from lcv_jax.objectives.grpo import GRPO, advantages, log_prob
from lcv_jax.objectives.networks import Networks

SHAPE = (2, 3, 4, 4, 2)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def step_batch(t, dt, threshold, seed=0):
    """A step of a policy with velocity v, as a batch of GRPO without guidance."""
    rng = np.random.default_rng(seed)
    x, v, z = (jnp.asarray(rng.standard_normal(SHAPE)) for _ in range(3))
    s = sde.deviation(t, dt, threshold=threshold)
    mu = sde.mean(x, v, t, dt, s)
    following = mu + s * z
    full = jnp.full(SHAPE[0], 1.0)
    batch = {
        "x_BTHWC": x, "next_BTHWC": following, "log_prob_B": log_prob(following, mu, s),
        "advantage_B": jnp.array([0.7, -1.3]), "kept_B": full, "t_B": t * full, "dt_B": dt * full, "s_B": s * full,
        "text_BLD": jnp.zeros((2, 1, 1)), "text_mask_BL": jnp.ones((2, 1), bool),
    }  # fmt: skip
    return batch, v, z


def loss_of(objective, batch, v, reference):
    networks = Networks(student=lambda *_: v, teacher=lambda *_: reference)
    return objective(networks, batch, jax.random.key(0)).loss


@pytest.mark.parametrize("threshold", [None, 0.45])
@pytest.mark.parametrize(("t", "dt"), [(0.9, 0.02), (0.5, 0.1), (0.97, 0.01)])
def test_the_gradients_are_free_of_time(t, dt, threshold, float64):
    batch, v, z = step_batch(t, dt, threshold)
    size = v.size  # means over elements and over samples
    policy = GRPO(guidance_scale=1.0, kl_weight=0.0)
    found = jax.grad(lambda v: loss_of(policy, batch, v, v))(v)
    wanted = -3 / 2 * batch["advantage_B"][:, None, None, None, None] * z / size
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-14)

    reference = v + jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE))
    still = {**batch, "advantage_B": jnp.zeros(2)}
    found = jax.grad(lambda v: loss_of(GRPO(guidance_scale=1.0, kl_weight=1.0), still, v, reference))(v)
    np.testing.assert_allclose(found, 9 / 4 * (v - reference) / size, rtol=1e-9)


def test_the_weight_is_the_published_one_where_nothing_is_cut(float64):
    for t, dt in ((0.9, 0.02), (0.3, 0.001)):
        s = sde.deviation(t, dt, threshold=None)
        assert s == pytest.approx(np.sqrt(t / (1 - t) * dt))
        assert sde.weight(t, dt, s) == pytest.approx(np.sqrt(t / (dt * (1 - t))))
    assert sde.deviation(1.0, 0.01) == 0.45
    assert sde.weight(1.0, 0.01, 0.45) == pytest.approx(3 * 0.45 / 0.02)


def test_the_mean_is_the_reports(float64):
    batch, v, _ = step_batch(0.8, 0.05, None)
    x, t, dt = batch["x_BTHWC"], 0.8, 0.05
    sigma = np.sqrt(t / (1 - t))
    wanted = x + dt * (v * (1 + sigma**2 * (1 - t) / (2 * t)) - sigma**2 * x / (2 * t))
    np.testing.assert_allclose(sde.mean(x, v, t, dt, sigma * np.sqrt(dt)), wanted, rtol=1e-12)


def test_the_divergence_is_the_reports(float64):
    batch, v, _ = step_batch(0.8, 0.05, None)
    t, dt, sigma = 0.8, 0.05, np.sqrt(0.8 / 0.2)
    objective = GRPO(guidance_scale=1.0, kl_weight=1.0, reweighted=False)
    still = {**batch, "advantage_B": jnp.zeros(2)}
    wanted = dt / 2 * (sigma * (1 - t) / (2 * t) + 1 / sigma) ** 2 * 0.3**2
    assert loss_of(objective, still, v, v + 0.3) == pytest.approx(wanted, rel=1e-9)


def test_a_noisy_step_keeps_the_marginals():
    """Data are normal, so that the velocity is known: x_t = (1 - t) x_0 + t noise has variance (1 - t)^2 m + t^2."""
    variance, t, dt, n = 0.25, 0.7, 0.01, 400_000

    def marginal(t):
        return (1 - t) ** 2 * variance + t**2

    x = jax.random.normal(jax.random.key(0), (n,)) * np.sqrt(marginal(t))
    v = x * ((1 - t) * variance - t) / marginal(t)  # E[x_0 - noise | x_t]
    for threshold in (None, 0.05):
        s = sde.deviation(t, dt, threshold=threshold)
        following = sde.mean(x, v, t, dt, s) + s * jax.random.normal(jax.random.key(1), (n,))
        # To first order in dt; 3 standard errors of a variance.
        assert float(jnp.var(following)) == pytest.approx(marginal(t - dt), abs=3e-3 * marginal(t) + 2 * dt**2)
    s = sde.deviation(t, dt, threshold=None)
    shrunk = jnp.var(sde.mean(x, v, t, dt, s))  # the noise replaces what the drift takes
    assert float(shrunk) < marginal(t - dt) - 0.9 * s**2


def test_the_ratio_is_one_at_first_and_cut_later(float64):
    batch, v, _ = step_batch(0.9, 0.02, 0.45)
    networks = Networks(student=lambda *_: v, teacher=lambda *_: v)
    first = GRPO(guidance_scale=1.0)(networks, batch, jax.random.key(0))
    assert first.metrics["clipped"] == 0
    assert first.metrics["ratio_spread"] == pytest.approx(0, abs=1e-12)
    # A ratio that has gone up for a good sample, and down for a bad one, is cut: no gradient is left.
    moved = {**batch, "log_prob_B": batch["log_prob_B"] - jnp.array([0.1, -0.1])}
    gradient = jax.grad(lambda v: loss_of(GRPO(guidance_scale=1.0, kl_weight=0.0), moved, v, v))(v)
    assert not np.any(gradient)
    worse = {**batch, "log_prob_B": batch["log_prob_B"] + jnp.array([0.1, -0.1])}
    gradient = jax.grad(lambda v: loss_of(GRPO(guidance_scale=1.0, kl_weight=0.0), worse, v, v))(v)
    assert np.all(gradient)


def test_advantages():
    reward = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0], [0.0, 10.0, 0.0, 10.0]])
    spread = np.sqrt(1.25)
    own = advantages(reward)
    np.testing.assert_allclose(own[0], (reward[0] - 2.5) / spread, rtol=1e-5)
    assert not np.any(own[1])
    largest = advantages(reward, jnp.float32(5.0))
    np.testing.assert_allclose(largest[0], (reward[0] - 2.5) / 5, rtol=1e-5)
    np.testing.assert_allclose(largest[2], [-1, 1, -1, 1], rtol=1e-5)
