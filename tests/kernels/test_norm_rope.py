"""Norm, RoPE and block means of queries and keys: the kernel against the formulas, in float64 too, and its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels.norm_rope import choose, norm_rope


def inputs(tokens, dtype=jnp.float32, heads=3, width=16):
    x, weight, angle = (jax.random.key(number) for number in range(3))
    angle_SH = jax.random.uniform(angle, (tokens, width // 2), maxval=6.0)
    x_BSNK = jax.random.normal(x, (2, tokens, heads, width), dtype)
    return x_BSNK, 1 + 0.3 * jax.random.normal(weight, (width,), dtype), jnp.cos(angle_SH), jnp.sin(angle_SH)


def defined(x, weight, cos, sin):
    """In float64: each pair of numbers is a complex number, turned by e^(i angle)."""
    x, weight, cos, sin = (np.asarray(part, np.float64) for part in (x, weight, cos, sin))
    normed = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * weight
    turned = (normed[..., 0::2] + 1j * normed[..., 1::2]) * (cos + 1j * sin)[:, None, :]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


@pytest.mark.parametrize("implementation", ["xla", "pallas_interpret"])
@pytest.mark.parametrize(("tokens", "block"), [(72, 8), (192, 192), (70, None)])
def test_definition(implementation, tokens, block):
    given = inputs(tokens)
    how = {"block": block, "implementation": implementation}
    rotated, means = jax.jit(functools.partial(norm_rope, **how))(*given)
    wanted = defined(*given)
    np.testing.assert_allclose(rotated, wanted, atol=2e-6)
    if block is None:
        assert means is None
    else:
        wanted_means = wanted.reshape(2, tokens // block, block, 3, 16).mean(axis=2)
        np.testing.assert_allclose(means, wanted_means, atol=2e-6)


def test_bfloat16_rounds_as_the_formulas_do():
    given = inputs(64, jnp.bfloat16)
    of = {
        name: jax.jit(functools.partial(norm_rope, block=16, implementation=name))(*given)
        for name in ("xla", "pallas_interpret")
    }
    wanted = defined(*given)
    errors = {name: np.abs(np.asarray(rotated, np.float64) - wanted).max() for name, (rotated, _) in of.items()}
    assert errors["pallas_interpret"] <= 1.1 * errors["xla"]
    assert of["pallas_interpret"][1].dtype == jnp.float32
    np.testing.assert_allclose(of["pallas_interpret"][1], of["xla"][1], atol=0.01)


def test_gradient_is_that_of_the_formulas():
    given = inputs(24)
    d_out = jax.random.normal(jax.random.key(3), given[0].shape)

    def gradients(implementation):
        def loss(x, weight):
            rotated, means = norm_rope(x, weight, *given[2:], block=8, implementation=implementation)
            return jnp.sum(rotated * d_out) + 0.0 * jnp.sum(means)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(*given[:2])

    for got, wanted in zip(gradients("pallas_interpret"), gradients("xla"), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert np.abs(wanted).max() > 0.1


def test_a_width_that_the_kernel_cannot_take_is_computed_by_xla():
    given = inputs(16, width=12)
    assert choose("pallas_interpret", given[0]) == "xla"
    rotated, _ = norm_rope(*given, implementation="pallas_interpret")
    np.testing.assert_allclose(rotated, defined(*given), atol=2e-6)
