"""One pass of the student against the teacher's guided velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.objectives.networks import Networks


def velocity(x, text, module):
    """Any function of x that the caption changes; `module` is numpy or jax.numpy."""
    prompt = module.sum(text, axis=(1, 2))[:, None, None, None, None]
    return module.sin(2 * x + prompt) + 0.3 * prompt * x


def teacher(x_BTHWC, timesteps_BT, text_BLD, text_mask_BL, num_cond_latents):
    assert text_mask_BL.shape == text_BLD.shape[:2]
    return velocity(x_BTHWC, text_BLD, jnp)


def guided(x, batch, scale, num_cond_latents):
    """CFG-Zero over the noisy frames, sample by sample; condition frames stay 0."""
    v_c = velocity(x, batch["text_BLD"].astype(np.float64), np)[:, num_cond_latents:]
    negative = np.repeat(batch["negative_text_1LD"].astype(np.float64), len(x), axis=0)
    v_u = velocity(x, negative, np)[:, num_cond_latents:]
    out = np.zeros_like(x)
    for i, (c, u) in enumerate(zip(v_c, v_u, strict=True)):
        fit = np.sum(c * u) / (np.sum(u * u) + 1e-8)
        out[i, num_cond_latents:] = fit * u + scale * (c - fit * u)
    return out


@pytest.mark.parametrize("num_cond_latents", [0, 2])
def test_restated(batch, shown, num_cond_latents):
    objective = CFGDistillation(guidance_scale=3.0, shift=7.0)

    @jax.jit
    def run(velocity):
        student = shown(velocity)
        networks = Networks(student, teacher)
        return objective(networks, batch, jax.random.key(0), num_cond_latents=num_cond_latents), student.calls

    velocity = np.cos(batch["latents_BTHWC"])
    losses, ((x, timesteps, text, _),) = run(velocity)
    x, timesteps = np.asarray(x, np.float64), np.asarray(timesteps, np.float64)
    np.testing.assert_array_equal(text, batch["text_BLD"])
    np.testing.assert_array_equal(x[:, :num_cond_latents], batch["latents_BTHWC"][:, :num_cond_latents])
    np.testing.assert_array_equal(timesteps[:, :num_cond_latents], 0)
    np.testing.assert_allclose(losses.t_B, timesteps[:, -1] / 1000, rtol=1e-6)
    want = guided(x, batch, 3.0, num_cond_latents)
    difference = (velocity - want)[:, num_cond_latents:]
    np.testing.assert_allclose(losses.error_B, np.mean(difference**2, axis=(1, 2, 3, 4)), rtol=1e-4)
    np.testing.assert_allclose(losses.loss, np.mean(difference**2), rtol=1e-4)
    u = np.sort(timesteps[:, -1] / 1000 / (7 - 6 * timesteps[:, -1] / 1000))
    np.testing.assert_allclose(np.diff(u), 1 / 4, atol=1e-4)
    # A perfect student has no loss; one of another guidance scale has.
    assert float(run(want.astype(np.float32))[0].loss) < 1e-9
    assert float(run(guided(x, batch, 2.5, num_cond_latents).astype(np.float32))[0].loss) > 1e-3


def test_the_teacher_gets_no_gradient(batch):
    def loss(weight, bias):
        networks = Networks(lambda x, *_: weight * x, lambda *given: bias * teacher(*given))
        return CFGDistillation()(networks, batch, jax.random.key(1), num_cond_latents=1).loss

    student, of_teacher = jax.jit(jax.grad(loss, argnums=(0, 1)))(1.0, 1.0)
    assert float(student) != 0
    assert float(of_teacher) == 0


def test_overfits_a_batch(learn):
    before, after = learn(CFGDistillation(), 1500)
    assert after < before / 10, (before, after)


@pytest.mark.parametrize(("field", "value"), [("guidance_scale", 0.5), ("shift", 0.0)])
def test_bad_settings(field, value):
    with pytest.raises(ValueError, match=f"{field} must "):
        CFGDistillation(**{field: value})
