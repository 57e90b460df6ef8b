"""Schedules against the published ones; flow, guidance and sampler against their formulas."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.diffusion import schedule
from lcv_jax.diffusion.flow import mix, shift_time
from lcv_jax.diffusion.guidance import cfg_zero
from lcv_jax.diffusion.sampler import sample

KINDS = {
    "uniform": schedule.uniform,
    "distill": schedule.distilled,
    "refine0.3": lambda steps, shift: schedule.refining(steps, shift, 0.3),
    "refine0.5": lambda steps, shift: schedule.refining(steps, shift, 0.5),
    "enhance_hf": lambda steps, shift: schedule.with_fine_tail(schedule.uniform(steps, shift)),
}


def test_published_schedules(golden):
    _, tensors = golden("schedules")
    for name, want in tensors.items():
        shift, steps, kind, unit = re.fullmatch(r"shift(\d+)\.steps(\d+)\.(.+)\.(\w+)", name).groups()
        got = np.array(KINDS[kind](int(steps), float(shift)), np.float32)
        got = got * np.float32(1000) if unit == "timesteps" else np.append(got, 0)
        np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule.uniform(0, 12.0), "at least 1, got 0"),
        (lambda: schedule.uniform(-3, 12.0), "at least 1, got -3"),
        (lambda: schedule.uniform(4, 0.0), "shift must be above 0"),
        (lambda: schedule.distilled(51, 12.0), "at most 50 steps, got 51"),
        (lambda: schedule.refining(4, 12.0, 0.0), r"in \(0, 1\], got 0"),
    ],
)
def test_bad_schedules(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shift_keeps_the_ends():
    t = np.linspace(0, 1, 5)
    np.testing.assert_allclose(shift_time(t, 1.0), t)
    shifted = shift_time(t, 12.0)
    np.testing.assert_allclose(shifted[[0, -1]], [0, 1])
    np.testing.assert_allclose(shifted[2], 12 * 0.5 / (1 + 11 * 0.5))


def test_guidance_is_per_sample():
    v_c, v_u = (jax.random.normal(jax.random.key(seed), (3, 2, 4, 4, 5)) for seed in (0, 1))
    got = cfg_zero(v_c, v_u, 4.0)
    for c, u, one in zip(np.asarray(v_c), np.asarray(v_u), got, strict=True):
        s = (c * u).sum() / ((u * u).sum() + 1e-8)
        np.testing.assert_allclose(one, s * u + 4 * (c - s * u), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(cfg_zero(v_c, v_u, 1.0), v_c, atol=1e-5)


def test_sampler_is_the_loop_and_straight_flow_is_exact():
    x0, noise = (jax.random.normal(jax.random.key(seed), (2, 3, 4)) for seed in (2, 3))
    times = schedule.uniform(7, 3.0)
    seen = []

    def on_step(done):
        seen.append(int(done))
        return np.bool_(True)

    straight = jax.jit(lambda x: sample(lambda x, t: x0 - noise, x, jnp.array(times), on_step))(mix(x0, noise, 1.0))
    np.testing.assert_allclose(straight, x0, atol=1e-5)
    jax.effects_barrier()
    assert seen == list(range(1, 8))

    x = noise
    for t, t_next in zip(times, (*times[1:], 0.0), strict=True):
        x = x + jnp.sin(x * t) * (t - t_next)
    np.testing.assert_allclose(sample(lambda x, t: jnp.sin(x * t), noise, jnp.array(times)), x, atol=1e-5)
