"""The PTX that the kernels ask for computes what plain jnp does, and lists are walked block after block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels import arithmetic, tiling


def run_ptx(asm, *, args, constraints, pack, result_shape_dtypes):
    """Two instructions of PTX, in NumPy; a GPU is not needed to see operands in the wrong order."""
    instruction, registers = asm.rstrip(";").split(" ", 1)
    assert registers == ", ".join(f"${number}" for number in range(len(args) + 1))
    assert constraints == ",".join(["=f"] + ["f"] * len(args))
    x = [np.asarray(arg, np.float64) for arg in args]
    if instruction == "fma.rn.f32":
        result = (x[0] * x[1] + x[2]).astype(np.float32)
    else:
        assert instruction == "ex2.approx.ftz.f32"
        result = np.exp2(x[0]).astype(np.float32)
        result = np.where(result < np.finfo(np.float32).tiny, np.float32(0), result)
    (expected,) = result_shape_dtypes
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    return [jnp.asarray(result)]


@pytest.mark.parametrize("axis", [0, 1])
def test_fast_exponentials_are_those_of_plain_jnp(monkeypatch, axis):
    monkeypatch.setattr(arithmetic.plt, "elementwise_inline_asm", run_ptx)
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.normal(0, 30, (8, 8)), jnp.float32).at[2, 3].set(-jnp.inf)
    minus = jnp.asarray(rng.normal(0, 30, 8), jnp.float32).at[5].set(jnp.inf)
    minus = jnp.expand_dims(minus, axis)
    got, plain = (arithmetic.exp2_scaled(scores, 0.127, minus, fast=fast) for fast in (True, False))
    np.testing.assert_allclose(got, plain, rtol=2e-5, atol=1e-37)
    assert got[2, 3] == 0
    assert (jnp.take(got, 5, axis=1 - axis) == 0).all()
    got, plain = (arithmetic.exp2(scores, fast=fast) for fast in (True, False))
    np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("tile", [16, 32, 40])
def test_a_walk_visits_every_tile_of_the_listed_blocks_in_order(tile):
    listed = jnp.array([4, 1, 7, 99])  # the last is filler

    def visit(block, start, state):
        visited, number = state
        return visited.at[number].set(jnp.stack([jnp.int32(block), jnp.int32(start)])), number + 1

    def walk(num_blocks):
        nothing = (jnp.full((12, 2), -1), 0)
        return tiling.walk(visit, nothing, num_blocks, 40, tile, read=lambda place: listed[place], most=2)

    visited, number = jax.jit(walk)(3)
    expected = [(block, start) for block in (4, 1, 7) for start in range(0, 40, tile)]
    assert number == len(expected)
    np.testing.assert_array_equal(visited[:number], expected)
    assert jax.jit(walk)(0)[1] == 0  # a list without blocks
