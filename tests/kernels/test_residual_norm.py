"""A gated residual and its layer norm: the kernel and the formulas against float64, and the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels.block_order import TokenOrder, block_order, plain_order
from lcv_jax.kernels.residual_norm import choose, residual_norm

IMPLEMENTATIONS = ("xla", "pallas_interpret")
ORDERS = {
    "plain": plain_order((3, 2, 6)),  # runs of 12 tokens, tiles of 4
    "odd": plain_order((3, 3, 5)),  # runs of 15, tiles of one
    "blocks": block_order((4, 4, 8), (2, 2, 4)),  # runs of 8
}


def inputs(order: TokenOrder, dtype=jnp.float32, width=32):
    T, H, W = order.grid
    shapes = ((2, T * H * W, width), (2, T * H * W, width), (2, T, width), (width,), (width,))
    x, branch, *rest = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in enumerate(shapes))
    return 3 + x.astype(dtype), branch.astype(dtype), *rest


def defined(order, x, branch, gate, weight, bias):
    x, branch, gate, weight, bias = (np.asarray(part, np.float64) for part in (x, branch, gate, weight, bias))
    total = x + branch * gate[:, order.frames()]
    centred = total - total.mean(axis=-1, keepdims=True)
    return total, centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * weight + bias


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ORDERS)
def test_definition(name, implementation):
    order = ORDERS[name]
    given = inputs(order)
    found = jax.jit(functools.partial(residual_norm, order=order, implementation=implementation))(*given)
    for got, wanted in zip(found, defined(order, *given), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_bfloat16_is_as_exact_as_the_formulas():
    order = ORDERS["blocks"]
    given = inputs(order, jnp.bfloat16)
    wanted = defined(order, *given)
    errors = []
    for implementation in IMPLEMENTATIONS:
        found = residual_norm(*given, order=order, implementation=implementation)
        assert all(part.dtype == jnp.bfloat16 for part in found)
        errors.append(
            [np.abs(np.asarray(got, np.float64) - want).max() for got, want in zip(found, wanted, strict=True)]
        )
    for formula, kernel in zip(*errors, strict=True):
        assert kernel <= 1.1 * formula


def test_gradient_is_that_of_the_formulas():
    order = ORDERS["plain"]
    given = inputs(order)
    d_sum, d_normed = (jax.random.normal(jax.random.key(seed), given[0].shape) for seed in (7, 8))

    def gradients(implementation):
        def loss(*given):
            total, normed = residual_norm(*given, order=order, implementation=implementation)
            return jnp.sum(total * d_sum) + jnp.sum(normed * d_normed)

        return jax.jit(jax.grad(loss, argnums=range(5)))(*given)

    for got, wanted in zip(gradients("pallas_interpret"), gradients("xla"), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
        assert np.abs(wanted).max() > 0.1


def test_channels_that_the_kernel_cannot_take_are_computed_by_xla():
    assert choose("pallas_interpret", jnp.zeros((1, 4, 48))) == "xla"
    assert choose("pallas_interpret", jnp.zeros((1, 4, 64))) == "pallas_interpret"
