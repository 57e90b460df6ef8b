"""A small batch, a network that records what it is shown, and one small enough to learn a batch in a second."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcv_jax.objectives.networks import Networks

B, T, H, W, C, L, D = 4, 4, 2, 4, 2, 3, 5


class Shown:
    """A velocity that keeps its inputs: `velocity` is an array or a function of (x, timesteps)."""

    def __init__(self, velocity):
        self.velocity, self.calls = velocity, []

    def __call__(self, x_BTHWC, timesteps_BT, text_BLD, text_mask_BL, num_cond_latents):
        self.calls.append([x_BTHWC, timesteps_BT, text_BLD, text_mask_BL])
        assert x_BTHWC.shape[:2] == timesteps_BT.shape
        assert x_BTHWC.dtype == timesteps_BT.dtype == jnp.float32
        return self.velocity(x_BTHWC, timesteps_BT) if callable(self.velocity) else self.velocity


@pytest.fixture(scope="session")
def shown():
    return Shown


@pytest.fixture(scope="session")
def evaluate():
    """evaluate(objective, networks, batch, key, **given) -> losses, jitted; what was `shown` is numpy then."""

    def run(objective, networks, batch, key, **given):
        watched = [network for network in networks if isinstance(network, Shown)]

        @jax.jit
        def compiled(batch, key):
            for network in watched:
                network.calls = []
            losses = objective(networks, batch, key, **given)
            return losses, [network.calls for network in watched]

        losses, calls = compiled(batch, key)
        for network, seen in zip(watched, calls, strict=True):
            network.calls = jax.tree.map(lambda a: np.asarray(a, np.float64), seen)
        return losses

    return run


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def batch():
    return {
        "latents_BTHWC": draw(0, B, T, H, W, C),
        "upsampled_BTHWC": draw(1, B, T, H, W, C),
        "text_BLD": draw(2, B, L, D),
        "text_mask_BL": np.ones((B, L), bool),
        "negative_text_1LD": draw(3, 1, L, D),
        "negative_mask_1L": np.ones((1, L), bool),
    }


def small_network(params, x_BTHWC, timesteps_BT, text_BLD, text_mask_BL, num_cond_latents):
    """A perceptron over the whole clip, and x scaled by a function of time."""
    t_BT = timesteps_BT / 1000
    size = x_BTHWC.shape[0]
    seen = jnp.concatenate([x_BTHWC.reshape(size, -1), t_BT, jnp.log(t_BT + 0.01), text_BLD.reshape(size, -1)], axis=1)
    hidden = jax.nn.gelu(seen @ params["in"] + params["bias"])
    scale_BT = jnp.einsum("BTI,I->BT", t_BT[..., None] ** jnp.arange(6.0), params["scale"])
    return (hidden @ params["out"]).reshape(x_BTHWC.shape) + scale_BT[:, :, None, None, None] * x_BTHWC


@pytest.fixture
def learn(batch):
    """learn(objective, steps) -> mean loss before and after training a small network on the batch."""

    def run(objective, steps, num_cond_latents=1, rate=1e-2):
        rows, width = T * H * W * C + 2 * T + L * D, 192
        params = {
            "in": draw(4, rows, width) / rows**0.5,
            "bias": np.zeros(width, np.float32),
            "out": draw(5, width, T * H * W * C) * 0.02,
            "scale": np.zeros(6, np.float32),
        }
        teacher_params = {name: draw(6, *value.shape) * 0.1 for name, value in params.items()}
        optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
        moments = optimizer.init(params)

        def loss(params, average, key):
            def bind(params):
                return lambda *given: small_network(params, *given)

            networks = Networks(bind(params), bind(teacher_params), bind(average))
            return objective(networks, batch, key, num_cond_latents=num_cond_latents).loss

        @jax.jit
        def train(params, moments, key):
            def step(carry, key):
                params, average, moments = carry
                updates, moments = optimizer.update(jax.grad(loss)(params, average, key), moments)
                params = optax.apply_updates(params, updates)
                average = optax.incremental_update(params, average, 0.1)
                return (params, average, moments), None

            def measure(params):
                keys = jax.random.split(jax.random.key(99), 64)
                return jnp.mean(jax.lax.map(lambda key: loss(params, params, key), keys))

            before = measure(params)
            (params, *_), _ = jax.lax.scan(step, (params, params, moments), jax.random.split(key, steps))
            return before, measure(params)

        before, after = train(params, moments, jax.random.key(7))
        return float(before), float(after)

    return run
