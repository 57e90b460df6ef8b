"""Per-frame modulation of tokens that are split over devices: the same numbers, nothing sent, little looked up."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lcv_jax.kernels.block_order import block_order, plain_order
from lcv_jax.models.dit import gated, modulate
from lcv_jax.parallel.mesh import make_mesh

ORDERS = {
    "frame by frame": (plain_order((4, 8, 10)), 20),  # 80 a frame, 40 a device of 8: the parts of 2 and 4 are frames
    "borders within frames": (plain_order((3, 4, 8)), 4),  # 32 a frame, 12 a device
    "blocks": (block_order((8, 8, 8), (4, 4, 4)), 16),
    "blocks in blocks": (block_order((8, 8, 16), (4, 4, 4), (4, 2, 4)), 8),
    "no whole number of tokens": (plain_order((3, 5, 5)), 1),
}


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("name", ORDERS)
def test_every_token_has_the_vectors_of_its_frame(name, parts):
    order, shortest = ORDERS[name]
    B, T, D = 2, order.grid[0], 8
    rng = np.random.default_rng(0)
    x_BSD, branch_BSD = rng.standard_normal((2, B, np.prod(order.grid), D)).astype(np.float32)
    shift_BTD, scale_BTD, gate_BTD = rng.standard_normal((3, B, T, D)).astype(np.float32)

    def both(x_BSD, branch_BSD):
        return gated(modulate(x_BSD, shift_BTD, scale_BTD, order), gate_BTD, branch_BSD, order)

    frames_S = np.arange(T).repeat(np.prod(order.grid[1:]))
    frames_S = np.asarray(order.apply(jnp.asarray(frames_S), axis=0))
    normed = (x_BSD - x_BSD.mean(-1, keepdims=True)) / np.sqrt(x_BSD.var(-1, keepdims=True) + 1e-6)
    wanted = normed * (1 + scale_BTD[:, frames_S]) + shift_BTD[:, frames_S] + gate_BTD[:, frames_S] * branch_BSD
    np.testing.assert_allclose(jax.jit(both)(x_BSD, branch_BSD), wanted, rtol=1e-4, atol=1e-4)

    mesh = make_mesh(seq=parts, devices=jax.devices()[:parts])
    divides = x_BSD.shape[1] % parts == 0
    split = NamedSharding(mesh, PartitionSpec(None, "seq" if divides else None))
    with jax.set_mesh(mesh):
        compiled = jax.jit(both, out_shardings=split).lower(*jax.device_put((x_BSD, branch_BSD), split)).compile()
        traced = jax.make_jaxpr(both)(x_BSD, branch_BSD)
    got = compiled(*jax.device_put((x_BSD, branch_BSD), split))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    if divides:
        assert not re.search(r"all-(gather|reduce|to-all)|collective-permute", compiled.as_text())
    looked_up = [eqn.outvars[0].aval.shape[1] for eqn in _equations(traced.jaxpr) if eqn.primitive.name == "gather"]
    assert len(looked_up) == 3
    assert max(looked_up) <= x_BSD.shape[1] / shortest


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)
