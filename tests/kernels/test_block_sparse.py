"""Block-sparse attention against the published numbers and the float32 definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.kernels import reference, xla
from lcv_jax.kernels.attention import attention, block_sparse_attention
from lcv_jax.kernels.block_order import block_order


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


@pytest.mark.parametrize("case", [0, 1, 2])
def test_published_output_and_gradients(golden, case):
    config, tensors = golden("bsa_ops")
    q, k, v, do = (jnp.swapaxes(tensors[f"in.{name}"], 1, 2) for name in ("q", "k", "v", "do"))
    out, pull = jax.vjp(lambda *x: block_sparse_attention(*x, **settings(config, case)), q, k, v)
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
    want = by_query.undo(reference.block_sparse_attention(by_query.apply(q), by_key.apply(k), by_key.apply(v), mask))
    got = block_sparse_attention(q, k, v, **shapes, block_mask=mask)
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=2e-6 if dtype == jnp.float32 else 2e-2)
    gradient = jax.grad(lambda v: block_sparse_attention(q, k, v, **shapes, block_mask=mask).astype(jnp.float32).sum())(
        v
    )
    assert jnp.isfinite(gradient.astype(jnp.float32)).all()


def test_all_blocks_is_dense_attention_and_unselected_nan_stays_out():
    q, k, v = random_qkv(3, 16, 32)
    shapes = {"query_shape": (1, 4, 4), "key_shape": (2, 4, 4), "query_block": (1, 2, 2), "key_block": (2, 2, 2)}
    dense = attention(q, k, v)
    np.testing.assert_allclose(dense, reference.attention(q, k, v), atol=2e-6)
    np.testing.assert_allclose(block_sparse_attention(q, k, v, **shapes, sparsity=0.0), dense, atol=2e-6)
    mask = jnp.ones((2, 2, 4, 4), bool).at[..., 3].set(False)
    # Key block 3 holds rows and columns 2 and 3 of both frames.
    corner = np.zeros((2, 4, 4), bool)
    corner[:, 2:, 2:] = True
    poison = jnp.where(corner.reshape(1, -1, 1, 1), jnp.nan, 1.0)
    clean = block_sparse_attention(q, k, v, **shapes, block_mask=mask)
    np.testing.assert_array_equal(block_sparse_attention(q, k * poison, v * poison, **shapes, block_mask=mask), clean)


def test_pieces_do_not_change_the_result(monkeypatch):
    q, k, v = random_qkv(4, 37, 24)
    mask = jax.random.bernoulli(jax.random.key(5), 0.5, (2, 24)).at[1].set(False)
    whole = attention(q, k, v, key_mask_BM=mask)
    want = reference.attention(q, k, v, jnp.broadcast_to(mask[:, None, None], (2, 2, 37, 24)))
    np.testing.assert_allclose(whole, want, atol=2e-6)
    gradient = jax.grad(lambda q: attention(q, k, v, key_mask_BM=mask).sum())(q)
    monkeypatch.setattr(xla, "workspace", lambda: 1000)
    np.testing.assert_allclose(attention(q, k, v, key_mask_BM=mask), want, atol=2e-6)
    np.testing.assert_allclose(jax.grad(lambda q: attention(q, k, v, key_mask_BM=mask).sum())(q), gradient, atol=2e-6)


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
    ],
)
def test_bad_shapes_say_what_was_wanted(change, message):
    q, k, v = random_qkv(6, 32, 32)
    arguments = {"query_shape": (2, 4, 4), "key_shape": (2, 4, 4), "query_block": (2, 2, 2), "key_block": (2, 2, 2)}
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(q, k, v, **{**arguments, "sparsity": 0.5, **change})


def test_a_named_implementation_runs_or_says_why():
    q, k, v = random_qkv(7, 4, 4)
    with pytest.raises(NotImplementedError, match="cudnn"):
        attention(q, k, v, implementation="cudnn")
