"""The path from the noisy upsampled clip to the true one, and that sampling follows it home."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.diffusion.flow import mix
from lcv_jax.diffusion.sampler import sample
from lcv_jax.diffusion.schedule import refining
from lcv_jax.objectives.networks import Networks
from lcv_jax.objectives.refinement import Refinement


@pytest.mark.parametrize(("t_thresh", "num_cond_latents"), [(0.5, 2), (0.3, 1), (1.0, 0)])
def test_restated(batch, shown, evaluate, t_thresh, num_cond_latents):
    student = shown(lambda x, timesteps: jnp.cos(x))
    objective = Refinement(t_thresh=t_thresh)
    losses = evaluate(objective, Networks(student), batch, jax.random.key(0), num_cond_latents=num_cond_latents)
    ((x, timesteps, _, _),) = student.calls
    t = timesteps[:, -1] / 1000
    np.testing.assert_allclose(losses.t_B, t, rtol=1e-6)
    np.testing.assert_allclose(np.diff(np.sort(t)), t_thresh / 4, rtol=1e-4)
    assert t.max() <= t_thresh
    np.testing.assert_array_equal(
        timesteps[:, num_cond_latents:], 1000 * np.tile(t[:, None], (1, 4 - num_cond_latents))
    )
    np.testing.assert_array_equal(timesteps[:, :num_cond_latents], 0)
    np.testing.assert_array_equal(x[:, :num_cond_latents], batch["latents_BTHWC"][:, :num_cond_latents])

    # x_thresh from what was shown: x = x_0 + (x_thresh - x_0) t / t_thresh.
    x, clean, upsampled = (
        given[:, num_cond_latents:].astype(np.float64)
        for given in (x, batch["latents_BTHWC"], batch["upsampled_BTHWC"])
    )
    x_thresh = clean + (x - clean) * t_thresh / t[:, None, None, None, None]
    noise = (x_thresh - (1 - t_thresh) * upsampled) / t_thresh
    assert abs(noise.mean()) < 0.3
    assert abs(noise.std() - 1) < 0.25
    assert abs(np.corrcoef(noise.ravel(), upsampled.ravel())[0, 1]) < 0.25
    error = np.mean((np.cos(x) - (clean - x_thresh) / t_thresh) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(losses.error_B, error, rtol=1e-3)
    np.testing.assert_allclose(losses.loss, error.mean(), rtol=1e-3)


def perfect(clean_BTHWC):
    """Knows the true clip: from x at t the way home is (x_0 - x) / t."""
    return lambda x, timesteps, *_: (clean_BTHWC - x) / jnp.maximum(timesteps, 1e-3)[:, :, None, None, None] * 1000


def test_a_perfect_network_has_no_loss_and_refines_to_the_true_clip(batch, evaluate):
    """From the upsampled clip noised as the pipeline does, over its schedule, by its sampler."""
    clean = jnp.asarray(batch["latents_BTHWC"])
    student = perfect(clean)
    losses = evaluate(Refinement(), Networks(student), batch, jax.random.key(1), num_cond_latents=0)
    assert float(losses.loss) < 1e-6

    noise = jax.random.normal(jax.random.key(2), clean.shape)
    times = refining(50, 12.0, 0.5)
    start = mix(jnp.asarray(batch["upsampled_BTHWC"]), noise, times[0])
    got = sample(lambda x, t: student(x, jnp.full(x.shape[:2], 1000 * t)), start, jnp.array(times))
    np.testing.assert_allclose(got, clean, atol=1e-5)
    # So it does with the constant velocity of the training target.
    target = (clean - start) / 0.5
    np.testing.assert_allclose(sample(lambda x, t: target, start, jnp.array(times)), clean, atol=1e-5)


def test_condition_frames_have_no_loss(batch):
    def loss(velocity, batch):
        return Refinement()(Networks(lambda *_: velocity), batch, jax.random.key(0), num_cond_latents=2).loss

    velocity = jnp.asarray(batch["latents_BTHWC"])
    gradient = np.asarray(jax.jit(jax.grad(loss))(velocity, batch))
    assert np.all(gradient[:, :2] == 0)
    assert np.all(np.abs(gradient[:, 2:]).max(axis=(2, 3, 4)) > 0)
    condition = 5 * (np.arange(4) < 2)[:, None, None, None].astype(np.float32)
    other = {**batch, **{name: batch[name] + condition for name in ("latents_BTHWC", "upsampled_BTHWC")}}
    np.testing.assert_array_equal(loss(velocity, other), loss(velocity, batch))


def test_overfits_a_batch(learn):
    before, after = learn(Refinement(), 1500)
    assert after < before / 10, (before, after)


@pytest.mark.parametrize("t_thresh", [0.0, 1.1])
def test_bad_settings(t_thresh):
    with pytest.raises(ValueError, match=r"t_thresh must be above 0 and at most 1"):
        Refinement(t_thresh=t_thresh)
