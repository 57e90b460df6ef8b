"""Causal attention of the door against its definition: outputs and gradients, with fewer queries than keys, masked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels import xla
from lcv_jax.kernels.attention import attention
from lcv_jax.kernels.implementations import choose
from lcv_jax.kernels.platform import compiling_for


def defined(q, k, v, allowed_SM):
    logits = jnp.einsum("bsnk,bmnk->bnsm", q, k, precision="highest") / np.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(allowed_SM[:, None], logits, -1e30))
    return jnp.einsum("bnsm,bmnk->bsnk", weights, v, precision="highest")


@pytest.mark.parametrize(("queries", "keys", "masked"), [(37, 37, False), (5, 70, False), (21, 50, True)])
def test_causal_attention_is_the_definition(queries, keys, masked, monkeypatch):
    monkeypatch.setattr(xla, "workspace", lambda: 16 * keys)  # several pieces of queries
    rng = np.random.default_rng(0)
    q, d_out = (rng.standard_normal((2, queries, 3, 8), np.float32) for _ in range(2))
    k, v = (rng.standard_normal((2, keys, 3, 8), np.float32) for _ in range(2))
    allowed = np.broadcast_to(np.tri(queries, keys, keys - queries, dtype=bool), (2, queries, keys))
    mask = None
    if masked:
        mask = rng.random((2, keys)) < 0.6
        mask[:, 0] = True
        allowed = allowed & mask[:, None]

    def with_gradients(function):
        out, pull = jax.vjp(function, q, k, v)
        return out, *pull(d_out)

    out, *gradients = jax.jit(
        functools.partial(with_gradients, functools.partial(attention, causal=True, key_mask_BM=mask))
    )()
    want, *want_gradients = jax.jit(functools.partial(with_gradients, functools.partial(defined, allowed_SM=allowed)))()
    np.testing.assert_allclose(out, want, atol=2e-6)
    for got, expected in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_other_implementations_say_that_they_have_no_causal_attention():
    q = np.zeros((1, 64, 2, 64), np.float32)
    with compiling_for("gpu"):
        assert choose("auto", q, q, q, blocks=None, causal=True) == "xla"
        for named in ("cudnn", "pallas_triton", "pallas_interpret"):
            with pytest.raises(NotImplementedError, match="no causal attention; xla does"):
                choose(named, q, q, q, blocks=None, causal=True)
