"""Every implementation of attention that a CPU can run against the float32 definition: outputs, log-sum-exp, gradients.

Our Pallas kernels run in Pallas' interpreter: the same kernels as on a GPU, tile by tile.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.kernels import flash_backward, flash_forward
from lcv_jax.kernels.attention import attention, attention_with_lse, selected_attention_with_lse
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.block_transpose import transpose_selection
from lcv_jax.kernels.implementations import choose
from lcv_jax.kernels.platform import compiling_for
from lcv_jax.kernels.tiling import Tiling
from tests.kernels.defined import (
    BATCH,
    HEADS,
    assert_close,
    defined_results,
    largest_error,
    lists_of,
    random,
    random_mask,
    sparse_case,
    token_mask,
)

IMPLEMENTATIONS = ("xla", "pallas_interpret")


def with_gradients(function, q, k, v, d_out, d_lse):
    (out, lse), pull = jax.vjp(function, q, k, v)
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), pull((d_out.astype(out.dtype), d_lse)), strict=True))


@functools.partial(jax.jit, static_argnames=("block_q", "block_k", "implementation"))
def sparse_results(q, k, v, d_out, d_lse, selection, *, block_q, block_k, implementation):
    call = functools.partial(
        selected_attention_with_lse,
        selection=selection,
        block_q=block_q,
        block_k=block_k,
        implementation=implementation,
    )
    return with_gradients(call, q, k, v, d_out, d_lse)


SETTINGS = [
    # query blocks, key blocks, their tokens, width: the released setting first.
    (3, 4, 64, 64, 128),
    (3, 4, 16, 16, 32),
    (3, 2, 64, 128, 64),
    (2, 4, 128, 64, 64),
    (2, 2, 128, 1024, 32),
    (2, 3, 256, 32, 32),
    # Blocks and widths that are no powers of two: tiles overhang and are masked.
    (3, 5, 24, 40, 48),
    (2, 3, 96, 160, 96),
    (3, 3, 60, 75, 80),
    # Wide heads.
    (2, 3, 64, 64, 256),
    (2, 2, 32, 32, 192),
    # One block on one side.
    (1, 5, 48, 16, 32),
    (5, 1, 16, 48, 32),
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("num_queries", "num_keys", "block_q", "block_k", "width"), SETTINGS)
def test_sparse_is_the_definition(num_queries, num_keys, block_q, block_k, width, implementation):
    given_arrays, mask = sparse_case(num_queries, num_keys, block_q, block_k, width, jnp.float32)
    blocks = {"block_q": block_q, "block_k": block_k}
    got = sparse_results(*given_arrays, lists_of(mask), **blocks, implementation=implementation)
    want = defined_results(*given_arrays, token_mask(mask, block_q, block_k))
    empty = ~np.repeat(mask.any(axis=-1), block_q, axis=-1)
    assert (got["lse"][empty] == -jnp.inf).all()
    assert (jnp.swapaxes(got["out"], 1, 2)[empty] == 0).all()
    assert (jnp.swapaxes(got["dq"], 1, 2)[empty] == 0).all()
    # The key block that nobody selects.
    unselected = np.repeat(~mask.any(axis=2), block_k, axis=-1)
    assert (jnp.swapaxes(got["dk"], 1, 2)[unselected] == 0).all()
    assert_close(got, want, 2e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(("num_queries", "num_keys", "block_q", "block_k", "width"), SETTINGS[:3] + SETTINGS[7:10])
def test_error_is_at_most_twice_that_of_plain_xla(num_queries, num_keys, block_q, block_k, width, dtype):
    given_arrays, mask = sparse_case(num_queries, num_keys, block_q, block_k, width, dtype)
    want = defined_results(*given_arrays, token_mask(mask, block_q, block_k))
    call = functools.partial(sparse_results, *given_arrays, lists_of(mask), block_q=block_q, block_k=block_k)
    plain = largest_error(call(implementation="xla"), want)
    for name, error in largest_error(call(implementation="pallas_interpret"), want).items():
        assert error <= 2 * plain[name] + 1e-6, (name, error, plain[name])


def test_lists_in_any_order_give_the_same():
    given_arrays, mask = sparse_case(4, 6, 16, 16, 32, jnp.float32)
    selection = lists_of(mask)
    reversed_lists = Selection(np.copy(selection.indices_BNIR), selection.counts_BNI)
    for row in np.ndindex(*mask.shape[:3]):
        counted = reversed_lists.indices_BNIR[row][: selection.counts_BNI[row]]
        counted[:] = counted[::-1].copy()
    want = defined_results(*given_arrays, token_mask(mask, 16, 16))
    for implementation in IMPLEMENTATIONS:
        got = sparse_results(*given_arrays, reversed_lists, block_q=16, block_k=16, implementation=implementation)
        assert_close(got, want, 2e-5)


@functools.partial(jax.jit, static_argnames="implementation")
def dense_results(q, k, v, d_out, d_lse, key_mask, *, implementation):
    call = functools.partial(attention_with_lse, key_mask_BM=key_mask, implementation=implementation)
    return with_gradients(call, q, k, v, d_out, d_lse)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("queries", "keys", "masked"), [(100, 77, True), (192, 320, False), (1, 5, False), (33, 1, False)]
)
def test_dense_is_the_definition(queries, keys, masked, implementation):
    q, d_out = (random(i, BATCH, queries, HEADS, 32) for i in (1, 2))
    k, v = (random(i, BATCH, keys, HEADS, 32) for i in (3, 4))
    d_lse = random(5, BATCH, HEADS, queries)
    # A caption's mask: some of the first video's tokens, none of the second's.
    key_mask = np.array([[m % 3 < 2 and m < 70 for m in range(keys)], [False] * keys]) if masked else None
    allowed = np.ones((BATCH, HEADS, queries, keys), bool)
    if masked:
        allowed &= key_mask[:, None, None]
        d_lse = d_lse * np.array([[[1]], [[0]]])
    got = dense_results(q, k, v, d_out, d_lse, key_mask, implementation=implementation)
    assert_close(got, defined_results(q, k, v, d_out, d_lse, allowed), 2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_all_blocks_are_dense_attention(implementation):
    given_arrays, _ = sparse_case(3, 4, 32, 16, 32, jnp.float32)
    everything = lists_of(np.ones((BATCH, HEADS, 3, 4), bool))
    sparse = sparse_results(*given_arrays, everything, block_q=32, block_k=16, implementation=implementation)
    assert_close(sparse, dense_results(*given_arrays, None, implementation=implementation), 2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_same_bits_twice(implementation):
    given_arrays, mask = sparse_case(4, 4, 32, 32, 32, jnp.bfloat16)
    call = functools.partial(
        sparse_results, *given_arrays, lists_of(mask), block_q=32, block_k=32, implementation=implementation
    )
    first, second = call(), call()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_values(dtype, implementation):
    """Scores of +-1e4, and one key a thousand times the others: no overflow, and the winner takes all."""
    (q, k, v, d_out, d_lse), mask = sparse_case(2, 3, 32, 32, 64, dtype)
    q, k = q * 100, (k * 13).at[:, 7].multiply(1000)
    want = defined_results(q, k, v, d_out, d_lse, token_mask(mask, 32, 32))
    assert np.abs(want["lse"][np.isfinite(want["lse"])]).max() > 1e4
    got = sparse_results(q, k, v, d_out, d_lse, lists_of(mask), block_q=32, block_k=32, implementation=implementation)
    for name, x in got.items():
        assert not jnp.isnan(x).any(), name
    # Float32 knows a score of 1e4 to 1e-3, and so a weight.
    np.testing.assert_allclose(got["out"].astype(jnp.float32), want["out"], atol=1e-3 if dtype == jnp.float32 else 0.05)
    np.testing.assert_allclose(got["lse"], want["lse"], rtol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nan_in_a_block_that_is_not_selected_stays_there(implementation):
    (q, k, v, d_out, d_lse), mask = sparse_case(3, 4, 24, 24, 32, jnp.float32)
    mask[..., 3] = False
    selection = lists_of(mask)
    call = functools.partial(sparse_results, block_q=24, block_k=24, implementation=implementation)
    clean = call(q, k, v, d_out, d_lse, selection)
    nobody = np.arange(4 * 24) >= 3 * 24
    poison = np.where(nobody, np.nan, 1.0)[None, :, None, None].astype(np.float32)
    dirty = call(q, k * poison, v * poison, d_out, d_lse, selection)
    for name in clean:
        np.testing.assert_array_equal(dirty[name], clean[name], err_msg=name)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    num_queries=st.integers(1, 4),
    num_keys=st.integers(1, 5),
    block_q=st.integers(1, 70),
    block_k=st.integers(1, 70),
    width=st.sampled_from([8, 32, 40, 64]),
    seed=st.integers(0, 99),
)
def test_any_shape(num_queries, num_keys, block_q, block_k, width, seed):
    given_arrays, mask = sparse_case(num_queries, num_keys, block_q, block_k, width, jnp.float32, seed)
    want = defined_results(*given_arrays, token_mask(mask, block_q, block_k))
    for implementation in IMPLEMENTATIONS:
        got = sparse_results(
            *given_arrays, lists_of(mask), block_q=block_q, block_k=block_k, implementation=implementation
        )
        assert_close(got, want, 3e-5)


@pytest.mark.parametrize("tiles", [Tiling(16, 64, 4, 1), Tiling(64, 16, 8, 3), Tiling(32, 32, 4, 2)])
def test_any_tiling_gives_the_same(tiles):
    (q, k, v, d_out, d_lse), mask = sparse_case(2, 3, 48, 80, 32, jnp.float32)
    selection = lists_of(mask)
    out, lse = flash_forward.forward(q, k, v, selection, 48, 80, tiles=tiles, interpret=True)
    residuals = (q, k, v, selection, out, lse, d_out, d_lse)
    gradients = flash_backward.backward(*residuals, 48, 80, tiles=(tiles, tiles), interpret=True)
    got = {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))
    assert_close(got, defined_results(q, k, v, d_out, d_lse, token_mask(mask, 48, 80)), 2e-5)


@pytest.mark.parametrize("most", [2**31 - 1, 200])
def test_a_selection_transposed(most, monkeypatch):
    """Ascending lists of the queries of every key, also where all heads' pairs do not fit one sort."""
    monkeypatch.setattr("lcv_jax.kernels.block_transpose.LAST", most)
    mask = random_mask(3, 9, 7)
    queries, starts = transpose_selection(lists_of(mask), 7)
    for b, n, j in np.ndindex(BATCH, HEADS, 7):
        got = queries[starts[b, n, j] : starts[b, n, j + 1]]
        np.testing.assert_array_equal(got, np.flatnonzero(mask[b, n, :, j]))


def test_partial_results_merge_into_the_whole():
    """What a ring does: attention to two sets of keys, merged by log-sum-exp, is attention to both, with gradients."""
    q, d_out = (random(i, 1, 40, HEADS, 32) for i in (1, 2))
    k, v = (random(i, 1, 96, HEADS, 32) for i in (3, 4))

    @functools.partial(jax.jit, static_argnames="implementation")
    def merged(q, k, v, implementation):
        parts = [
            attention_with_lse(q, k[:, rows], v[:, rows], implementation=implementation)
            for rows in (slice(0, 37), slice(37, None))
        ]
        total = jnp.logaddexp(parts[0][1], parts[1][1])
        return sum(out * jnp.swapaxes(jnp.exp(lse - total), 1, 2)[..., None] for out, lse in parts)

    want = defined_results(q, k, v, d_out, jnp.zeros((1, HEADS, 40)), np.ones((1, HEADS, 40, 96), bool))
    for implementation in IMPLEMENTATIONS:
        got, pull = jax.vjp(functools.partial(merged, implementation=implementation), q, k, v)
        np.testing.assert_allclose(got, want["out"], atol=2e-6)
        for name, gradient in zip(("dq", "dk", "dv"), pull(d_out), strict=True):
            np.testing.assert_allclose(gradient, want[name], atol=1e-5, err_msg=name)


def test_auto_takes_cudnn_for_dense_and_pallas_for_sparse_on_a_gpu():
    q, wide = (np.zeros((1, 64, 2, width), jnp.bfloat16) for width in (64, 384))
    mask = np.ones((1, 64), bool)
    blocks = (64, 64)
    assert choose("auto", q, q, q, blocks=None) == choose("auto", q, q, q, blocks=blocks) == "xla"
    with compiling_for("gpu"):
        assert choose("auto", q, q, q, blocks=None) == "cudnn"
        assert choose("auto", q, q, q, blocks=None, key_mask_BM=mask) == "pallas_triton"
        assert choose("auto", q, q, q, blocks=blocks) == "pallas_triton"
        assert choose("auto", wide, wide, wide, blocks=None) == "xla"


@pytest.mark.parametrize(
    ("named", "blocks", "message"),
    [
        ("pallas", (64, 64), "'pallas': have auto, xla, pallas_triton"),
        ("pallas_triton", (64, 64), "runs on a GPU, this is for cpu"),
        ("cudnn", (64, 64), "dense only"),
        ("jax_triton", None, "block-sparse only"),
        ("pallas_interpret", (64, 64), "heads at most 256 wide, got 384"),
    ],
)
def test_a_named_implementation_runs_or_says_why(named, blocks, message):
    q = np.zeros((1, 64, 1, 384), np.float32)
    with pytest.raises(NotImplementedError, match=message):
        choose(named, q, q, q, blocks=blocks)


def test_dtypes_must_agree():
    q = random(0, 1, 16, 1, 32)
    with pytest.raises(NotImplementedError, match="one dtype of bfloat16, float16, float32, got bfloat16, float32"):
        attention(q, q.astype(jnp.bfloat16), q, implementation="pallas_interpret")
