"""The rollout: what it keeps, what a group shares, and its ends restated by plain sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.config import DiTConfig
from lcv_jax.diffusion import sde
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.sampling.denoise import denoise, guided_velocity
from lcv_jax.training.rollout import rollout
from lcv_jax.training.rollout_config import SDEConfig

CFG = DiTConfig(hidden_size=32, depth=1, num_heads=2, caption_channels=16, adaln_tembed_dim=16)
P, G, SHAPE = 2, 3, (2, 4, 4, 16)
NOISE = SDEConfig()
SCHEDULE = jnp.array([1.0, 0.9, 0.7, 0.4])


@pytest.fixture(scope="module")
def setup():
    model = LongCatVideo(CFG)
    keys = jax.random.split(jax.random.key(0), 5)
    text, mask = jax.random.normal(keys[0], (P, 5, 16)), jnp.ones((P, 5), bool)
    negative, negative_mask = jax.random.normal(keys[1], (1, 5, 16)), jnp.ones((1, 5), bool)
    noise = jax.random.normal(keys[2], (P, *SHAPE))
    variables = model.init(keys[3], noise, jnp.ones((P, SHAPE[0])), text, mask)
    shapes = jax.tree.leaves(variables)
    drawn = [
        jax.random.normal(key, leaf.shape) * 0.1
        for key, leaf in zip(jax.random.split(keys[4], len(shapes)), shapes, strict=True)
    ]
    variables = jax.tree.unflatten(jax.tree.structure(variables), drawn)
    return model, variables, noise, text, mask, negative, negative_mask


def roll(setup, critical, noise=NOISE, scale=3.0, seed=1):
    return rollout(
        *setup, SCHEDULE, jnp.float32(scale), jnp.int32(critical), jax.random.key(seed), group_size=G, noise=noise
    )


@pytest.mark.parametrize("critical", [0, 2])
def test_a_group_shares_its_way_up_to_the_critical_step(setup, critical):
    model, variables, noise, text, mask, negative, negative_mask = setup
    found = roll(setup, critical)
    x = np.asarray(found.x_BTHWC).reshape(P, G, *SHAPE)
    assert (x == x[:, :1]).all()
    following = np.asarray(found.next_BTHWC).reshape(P, G, *SHAPE)
    assert (following[:, 0] != following[:, 1]).all()
    # Without fresh noise it is plain sampling, whatever step is critical.
    silent = roll(setup, critical, SDEConfig(threshold=1e-6))
    text_GLD = jnp.concatenate([jnp.repeat(negative, P, 0), text])
    plain, _ = denoise(
        model,
        variables,
        noise,
        None,
        text_GLD,
        jnp.concatenate([jnp.repeat(negative_mask, P, 0), mask]),
        SCHEDULE,
        jnp.float32(3.0),
    )
    np.testing.assert_allclose(silent.latents_BTHWC, np.repeat(plain, G, axis=0), rtol=2e-3, atol=2e-4)


def test_the_step_and_its_density_are_those_of_the_formula(setup):
    model, variables, _, text, _, negative, _ = setup
    found = roll(setup, 1, SDEConfig(threshold=None))
    t, dt = 0.9, 0.2
    assert (found.t, found.dt) == (pytest.approx(t), pytest.approx(dt))
    assert found.s == pytest.approx(np.sqrt(t / (1 - t) * dt), rel=1e-5)
    text_GLD = jnp.concatenate([jnp.repeat(negative, P * G, 0), jnp.repeat(text, G, 0)])
    mask_GL = jnp.ones(text_GLD.shape[:2], bool)
    v = guided_velocity(model, variables, text_GLD, mask_GL, jnp.float32(3.0))(found.x_BTHWC, jnp.float32(t))
    mu = sde.mean(found.x_BTHWC, v, t, dt, found.s)
    z = np.asarray((found.next_BTHWC - mu) / found.s)
    np.testing.assert_allclose(found.log_prob_B, -0.5 * (z**2).mean(axis=(1, 2, 3, 4)), rtol=1e-4)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 4 / np.sqrt(z.size)


def test_noise_at_all_steps_parts_a_group_from_the_first(setup):
    found = roll(setup, 2, SDEConfig(noisy_steps="all"))
    x = np.asarray(found.x_BTHWC).reshape(P, G, *SHAPE)
    assert (x[:, 0] != x[:, 1]).all()
    first = np.asarray(roll(setup, 0, SDEConfig(noisy_steps="all")).x_BTHWC).reshape(P, G, *SHAPE)
    assert (first == np.asarray(setup[2])[:, None]).all()


def test_another_critical_step_is_no_other_program(setup):
    roll(setup, 0)
    before = rollout._cache_size()
    roll(setup, 1)
    assert rollout._cache_size() == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"amplitude": 0.0}, "amplitude must be above 0"),
        ({"threshold": -1.0}, "threshold must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SDEConfig(**fields)
