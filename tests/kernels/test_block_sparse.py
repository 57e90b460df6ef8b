"""The door to block-sparse attention: published numbers, tokens in plain order, masks and patterns, errors.

What each implementation computes is in test_implementations.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels import reference, xla
from lcv_jax.kernels.attention import attention, block_sparse_attention, ordered_block_sparse_attention
from lcv_jax.kernels.block_order import block_order
from lcv_jax.kernels.block_patterns import block_mask, space_and_time


def settings(config: dict, case: int) -> dict:
    published = config["cases"][case]
    return {
        "query_shape": tuple(config["latent_shape_q"]),
        "key_shape": tuple(config["latent_shape_k"]),
        "query_block": tuple(published["chunk_3d_shape_q"]),
        "key_block": tuple(published["chunk_3d_shape_k"]),
        "sparsity": published["sparsity"],
        "cdf_threshold": published["cdf_threshold"],
    }


@pytest.mark.parametrize("implementation", ["xla", "pallas_interpret"])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_published_output_and_gradients(golden, case, implementation):
    config, tensors = golden("bsa_ops")
    q, k, v, do = (jnp.swapaxes(tensors[f"in.{name}"], 1, 2) for name in ("q", "k", "v", "do"))
    how = settings(config, case) | {"implementation": implementation}
    out, pull = jax.vjp(jax.jit(lambda *x: block_sparse_attention(*x, **how)), q, k, v)
    for name, got in zip(("o", "dq", "dk", "dv"), (out, *pull(do)), strict=True):
        np.testing.assert_allclose(np.swapaxes(got, 1, 2), tensors[f"out{case}.{name}"], atol=2e-5, err_msg=name)


def random_qkv(seed, query_tokens, key_tokens, dtype=jnp.float32, heads=2, width=8, batch=2):
    keys = jax.random.split(jax.random.key(seed), 3)
    lengths = (query_tokens, key_tokens, key_tokens)
    return [
        jax.random.normal(key, (batch, length, heads, width), dtype) for key, length in zip(keys, lengths, strict=True)
    ]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_custom_mask_with_empty_rows_is_the_definition(dtype):
    q, k, v = random_qkv(1, 32, 48, dtype)
    mask = jax.random.bernoulli(jax.random.key(2), 0.4, (2, 2, 4, 6)).at[0, 1, 2].set(False)
    shapes = {"query_shape": (2, 4, 4), "key_shape": (3, 4, 4), "query_block": (2, 2, 2), "key_block": (1, 2, 4)}
    by_query = block_order(shapes["query_shape"], shapes["query_block"])
    by_key = block_order(shapes["key_shape"], shapes["key_block"])

    @jax.jit
    def defined(q, k, v):
        return by_query.undo(
            reference.block_sparse_attention(by_query.apply(q), by_key.apply(k), by_key.apply(v), mask)
        )

    @jax.jit
    def value_and_gradient(q, k, v):
        out, pull = jax.vjp(lambda v: block_sparse_attention(q, k, v, **shapes, block_mask=mask), v)
        return out, *pull(jnp.ones_like(out))

    want, (got, gradient) = defined(q, k, v), value_and_gradient(q, k, v)
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=2e-6 if dtype == jnp.float32 else 2e-2)
    assert np.isfinite(gradient.astype(np.float32)).all()


def test_a_pattern_counts_in_plain_order_and_broadcasts():
    """Block-wise 2D+1D of a rule, of its mask, and of the mask of every token."""
    q, k, v = random_qkv(3, 32, 48)
    shapes = {"query_shape": (2, 4, 4), "key_shape": (3, 4, 4), "query_block": (1, 2, 2), "key_block": (1, 2, 2)}
    mask = block_mask(space_and_time, **shapes)
    assert mask.shape == (8, 12)
    by_rule, by_mask = (
        jax.jit(functools.partial(block_sparse_attention, **shapes, block_mask=pattern))(q, k, v)
        for pattern in (space_and_time, mask)
    )
    np.testing.assert_array_equal(by_rule, by_mask)
    # Queries are the last two of the keys' three frames.
    frame, row, column = (x.reshape(-1) for x in np.indices((3, 4, 4)))
    same_frame = frame[16:, None] == frame
    same_place = (row[16:, None] // 2 == row // 2) & (column[16:, None] // 2 == column // 2)
    allowed = np.broadcast_to(same_frame | same_place, (2, 2, 32, 48))
    np.testing.assert_allclose(by_rule, jax.jit(reference.attention)(q, k, v, allowed), atol=2e-6)


def test_pieces_do_not_change_the_result(monkeypatch):
    q, k, v = random_qkv(4, 37, 24)
    mask = jax.random.bernoulli(jax.random.key(5), 0.5, (2, 24)).at[1].set(False)
    want = jax.jit(reference.attention)(q, k, v, np.broadcast_to(mask[:, None, None], (2, 2, 37, 24)))

    def value_and_gradient(q):
        out, pull = jax.vjp(lambda q: attention(q, k, v, key_mask_BM=mask), q)
        return out, *pull(jnp.ones_like(out))

    whole, gradient = jax.jit(value_and_gradient)(q)
    monkeypatch.setattr(xla, "workspace", lambda: 1000)
    pieces, gradient_of_pieces = jax.jit(lambda q: value_and_gradient(q))(q)
    np.testing.assert_allclose(whole, want, atol=2e-6)
    np.testing.assert_allclose(pieces, want, atol=2e-6)
    np.testing.assert_allclose(gradient_of_pieces, gradient, atol=2e-6)


def test_memory_is_linear_in_tokens():
    def temporary(tokens: int) -> int:
        q = jax.ShapeDtypeStruct((1, tokens, 2, 32), jnp.float32)
        shape = (tokens // 64, 8, 8)
        call = jax.jit(
            lambda q, k, v: block_sparse_attention(
                q, k, v, query_shape=shape, key_shape=shape, query_block=(4, 4, 4), key_block=(4, 4, 4), sparsity=0.9375
            )
        )
        return call.trace(q, q, q).lower().compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(16384), temporary(65536)
    assert large < 5 * small
    assert large < 65536 * 65536 / 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_shape": (2, 4, 5)}, "holds 40 tokens, got 32"),
        ({"query_block": (2, 3, 2)}, "multiple of the block 2 x 3 x 2"),
        ({"sparsity": None}, "give either block_mask"),
        ({"sparsity": None, "block_mask": np.ones((4, 5), bool)}, r"broadcast to .* \(2, 2, 4, 4\), got \(4, 5\)"),
        ({"sparsity": None, "block_mask": np.ones((3, 1, 4, 4), bool)}, r"got \(3, 1, 4, 4\)"),
    ],
)
def test_bad_shapes_say_what_was_wanted(change, message):
    q, k, v = random_qkv(6, 32, 32)
    arguments = {"query_shape": (2, 4, 4), "key_shape": (2, 4, 4), "query_block": (2, 2, 2), "key_block": (2, 2, 2)}
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(q, k, v, **{**arguments, "sparsity": 0.5, **change})


def test_tokens_that_are_no_multiple_of_a_block():
    q, k, v = random_qkv(6, 32, 30)
    with pytest.raises(ValueError, match="30 keys are no multiple of a block of 8"):
        ordered_block_sparse_attention(q, k, v, block_q=8, block_k=8, sparsity=0.5)
