"""Selection of key blocks: the rule, restated in numpy; every implementation bit for bit; masks and patterns."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from lcv_jax.kernels import block_select, select_kernel
from lcv_jax.kernels.block_order import TokenOrder, block_order
from lcv_jax.kernels.block_patterns import block_mask, space_and_time
from lcv_jax.kernels.block_select import (
    WHOLE_MASS,
    Selection,
    block_scores,
    choose_blocks,
    pool_blocks,
    select_blocks,
    selection_of_mask,
)

chosen_by = jax.jit(choose_blocks, static_argnames=("top", "cdf_threshold", "implementation"))


def defined(score, top, cdf_threshold):
    """Rank by (NaN last, score down, index up); keep `top`, or what the exact running sum of softmax allows."""
    score = np.asarray(score, np.float64)
    num_keys = score.shape[-1]
    indices = np.zeros((*score.shape[:-1], top if cdf_threshold is None else num_keys), np.int32)
    counts = np.zeros(score.shape[:-1], np.int32)
    for row in np.ndindex(score.shape[:-1]):
        order = sorted(range(num_keys), key=lambda j, x=score[row]: (np.isnan(x[j]), -np.nan_to_num(x[j]), j))
        count = top
        if cdf_threshold is not None:
            largest = float(np.finfo(np.float32).max)
            finite = np.nan_to_num(score[row], nan=-largest, posinf=largest, neginf=-largest)
            mass = np.exp(finite - finite.max())
            running = np.cumsum((mass / mass.sum())[order])
            # A sum this close to the threshold may fall either way: no test should depend on it.
            assert np.abs(running - cdf_threshold).min() > 1e-6 or cdf_threshold in (0, 1)
            count = num_keys if cdf_threshold == 1 else max(top, int((running <= cdf_threshold).sum()))
        indices[row][:count] = sorted(order[:count])
        counts[row] = count
    return Selection(indices, counts)


def assert_same(got, want):
    np.testing.assert_array_equal(got.counts_BNI, want.counts_BNI)
    np.testing.assert_array_equal(got.indices_BNIR, want.indices_BNIR)


def check_both(score, top, cdf_threshold=None):
    want = defined(score, top, cdf_threshold)
    for implementation in ("xla", "pallas_interpret"):
        got = chosen_by(score, top=top, cdf_threshold=cdf_threshold, implementation=implementation)
        assert got.indices_BNIR.dtype == got.counts_BNI.dtype == jnp.int32
        assert_same(got, want)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("num_keys", "top"), [(1, 1), (16, 15), (33, 1), (33, 33), (220, 13), (2640, 165)])
def test_the_best_blocks(num_keys, top):
    check_both(normal(num_keys, 1, 2, 5 if num_keys < 1000 else 1, num_keys), top)


@pytest.mark.parametrize("num_keys", [1, 12])
def test_the_kernel_can_choose_everything(num_keys):
    """Callers never ask it to."""
    score = normal(0, 1, 1, 3, num_keys)
    indices, counts = select_kernel.choose(score, None, num_keys, 0, num_keys, interpret=True)
    assert_same(Selection(indices, counts), defined(score, num_keys, None))


def filled(rows):
    """Rows of scores as an array of the shape that most tests share, so that it is compiled for once."""
    padded = np.full((8, 24), -np.inf, np.float32)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded[None, None]


QUANTISED = np.round(normal(0, 1, 1, 8, 24)).astype(np.float32)


def test_of_equal_scores_the_lower_index_wins():
    assert len(np.unique(QUANTISED)) < 9
    check_both(QUANTISED, 5)
    check_both(QUANTISED, 2, 0.5625)
    level = chosen_by(np.full_like(QUANTISED, -3.5), top=5)
    assert level.indices_BNIR[0, 0, 7].tolist() == [0, 1, 2, 3, 4]


def test_zeros_infinities_and_tiny_numbers_keep_their_order():
    tiny = np.float32(1e-45)
    row = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, 3e38, -3e38, -0.0, 0.0], np.float32)
    for length in (6, 9, 10):
        check_both(filled([np.roll(row[:length], shift) for shift in range(8)]), 5)
    check_both(filled([row, np.roll(row, 4)[:7]]), 2, 0.5625)


def test_nan_comes_last_and_the_list_stays_whole():
    row = np.array([np.nan, -np.inf, 1.0, -np.nan, 2.0, np.nan] * 4, np.float32)
    some = np.where(np.arange(24) < 21, np.nan, 1.0)
    score = filled([row, row[::-1], some, np.full(24, np.nan), np.where(row > 1, np.nan, row)])
    check_both(score, 5)
    check_both(score, 2, 0.5625)


@pytest.mark.parametrize(("num_keys", "top", "cdf_threshold"), [(7, 1, 0.0), (150, 1, 0.777), (7, 1, 1.0)])
def test_softmax_mass(num_keys, top, cdf_threshold):
    check_both(2 * normal(num_keys, 1, 2, 3, num_keys), top, cdf_threshold)


def test_the_larger_of_the_two_counts():
    score = normal(1, 1, 1, 8, 24) * np.linspace(0, 8, 8, dtype=np.float32)[:, None]
    score[0, 0, 0] += normal(2, 24) / 100
    check_both(score, 2, 0.5625)
    counts = chosen_by(score, top=2, cdf_threshold=0.5625).counts_BNI
    assert (counts == 2).any()
    assert (counts > 2).any()


@pytest.mark.parametrize("implementation", ["xla", "pallas_interpret"])
def test_a_block_that_fills_the_threshold_exactly_is_kept(implementation):
    """Sums of 1/16 are exact."""
    got = chosen_by(filled([np.zeros(16)] * 8), top=2, cdf_threshold=0.5625, implementation=implementation)
    assert (got.counts_BNI == 9).all()


@pytest.mark.parametrize("implementation", ["xla", "pallas_interpret"])
def test_a_threshold_above_every_sum_keeps_all_though_rounding_may_lose_mass(implementation):
    score = normal(2, 1, 1, 8, 24)
    counts = chosen_by(score, top=2, cdf_threshold=1 - 1e-12, implementation=implementation).counts_BNI
    assert (np.abs(counts - 24) <= 1).all()
    assert (np.abs(block_select._softmax_mass(score).sum(-1) - WHOLE_MASS) < 1e-6 * WHOLE_MASS).all()


@settings(deadline=None, max_examples=30)
@given(
    rule=st.sampled_from([(5, None), (2, 0.5625)]),
    values=st.lists(st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0]), min_size=1, max_size=40),
    num_copies=st.integers(0, 24),
)
def test_both_implementations_choose_the_same(rule, values, num_copies):
    top, cdf_threshold = rule
    score = np.resize(np.array(values, np.float32), (1, 1, 8, 24))
    score[..., :num_copies] = score[..., :1]
    xla = chosen_by(score, top=top, cdf_threshold=cdf_threshold)
    assert_same(chosen_by(score, top=top, cdf_threshold=cdf_threshold, implementation="pallas_interpret"), xla)
    for row, count in zip(np.asarray(xla.indices_BNIR[0, 0]), np.asarray(xla.counts_BNI[0, 0]), strict=True):
        assert top <= count <= 24
        assert (np.diff(row[:count]) > 0).all()
        assert not row[count:].any()


@settings(deadline=None, max_examples=5)
@given(num_keys=st.integers(2, 300), rows=st.integers(1, 9), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_any_shape(num_keys, rows, share, seed):
    check_both(np.round(normal(seed, 1, 1, rows, num_keys), 1), max(1, math.floor(share * num_keys)))


@pytest.mark.parametrize(
    ("dtype", "sparsity", "cdf_threshold", "top"),
    [(jnp.float32, 0.5, None, 4), (jnp.bfloat16, None, 0.6, 1), (jnp.float32, 0.75, 0.01, 2)],
)
def test_selection_from_tokens(dtype, sparsity, cdf_threshold, top):
    q, k = jnp.asarray(normal(3, 2, 12, 2, 8), dtype), jnp.asarray(normal(4, 2, 64, 2, 8), dtype)
    q_pool, k_pool = pool_blocks(q, 4), pool_blocks(k, 8)
    assert q_pool.dtype == k_pool.dtype == jnp.float32
    q_mean = np.asarray(q, np.float64).reshape(2, 3, 4, 2, 8).mean(2)
    k_mean = np.asarray(k, np.float64).reshape(2, 8, 8, 2, 8).mean(2)
    np.testing.assert_allclose(q_pool, q_mean, atol=1e-6)
    score = np.einsum("bink,bjnk->bnij", q_mean, k_mean) / math.sqrt(8)
    np.testing.assert_allclose(block_scores(q_pool, k_pool), score, atol=1e-6)
    for implementation in ("xla", "pallas_interpret"):
        got = select_blocks(
            q_pool, k_pool, sparsity=sparsity, cdf_threshold=cdf_threshold, implementation=implementation
        )
        assert_same(got, defined(score, top, cdf_threshold))


def test_heads_in_groups_give_the_same_lists(monkeypatch):
    q, k = normal(5, 2, 3, 6, 4), normal(6, 2, 8, 6, 4)
    want = select_blocks(q, k, sparsity=0.5, cdf_threshold=None)
    assert block_select._heads_at_once(6, 24) == 6
    assert block_select._heads_at_once(32, 2**18) == 4
    assert block_select._heads_at_once(3, 2**40) == 1
    monkeypatch.setattr(block_select, "_heads_at_once", lambda heads, scores: 2)
    assert_same(select_blocks(q, k, sparsity=0.5, cdf_threshold=None), want)


def test_selection_under_shard_map():
    mesh = jax.make_mesh((1,), ("heads",), axis_types=(AxisType.Auto,))
    q, k = normal(11, 1, 3, 2, 4), normal(12, 1, 8, 2, 4)
    select = functools.partial(select_blocks, sparsity=0.5, cdf_threshold=0.5)
    heads = PartitionSpec(None, None, "heads")
    sharded = jax.shard_map(select, mesh=mesh, in_specs=(heads, heads), out_specs=PartitionSpec(None, "heads"))
    assert_same(jax.jit(sharded)(q, k), select(q, k))


def test_selection_passes_no_gradient():
    q, k = normal(7, 1, 4, 1, 4), normal(8, 1, 8, 1, 4)

    def chosen_mean(q, implementation):
        lists = select_blocks(q, k, sparsity=0.5, cdf_threshold=None, implementation=implementation).indices_BNIR
        return jnp.mean(jnp.take(k, lists[0, 0], axis=1) * q[0, 0, 0, 0])

    for implementation in ("xla", "pallas_interpret"):
        gradient = jax.grad(chosen_mean)(q, implementation)
        assert np.flatnonzero(gradient).tolist() == [0]


@pytest.mark.parametrize(("name", "share"), [("sparsity", 1.5), ("sparsity", -0.1), ("cdf_threshold", 90.0)])
def test_a_share_is_between_zero_and_one(name, share):
    q = normal(9, 1, 2, 1, 4)
    with pytest.raises(ValueError, match=f"{name} is a share, wanted 0 to 1, got {share}"):
        select_blocks(q, q, **{"sparsity": None, "cdf_threshold": None, name: share})


def test_an_unknown_implementation_is_refused():
    with pytest.raises(NotImplementedError, match="'magic': have xla"):
        choose_blocks(normal(10, 1, 1, 2, 4), top=2, implementation="magic")


MASK = np.array(
    [
        [0, 1, 0, 1, 1],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
    ],
    bool,
)


def test_selection_of_a_mask():
    known = selection_of_mask(MASK, batch=2, heads=3)
    assert known.indices_BNIR.shape == (2, 3, 3, 3)
    assert known.indices_BNIR[1, 2].tolist() == [[1, 3, 4], [0, 0, 0], [0, 0, 0]]
    assert known.counts_BNI[0, 1].tolist() == [3, 0, 1]
    traced = jax.jit(selection_of_mask)(MASK)
    assert traced.indices_BNIR[0, 0].tolist() == [[1, 3, 4, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert traced.counts_BNI[0, 0].tolist() == [3, 0, 1]
    by_head = np.stack([MASK, ~MASK])
    each = selection_of_mask(jnp.asarray(by_head), batch=2, heads=2)
    assert each.counts_BNI.tolist() == [[[3, 0, 1], [2, 5, 4]]] * 2
    assert each.indices_BNIR[0, 1].tolist() == [[0, 2, 0, 0, 0], [0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]
    assert selection_of_mask(np.zeros((1, 1, 2, 4), bool)).indices_BNIR.shape == (1, 1, 2, 1)


def test_space_and_time_is_a_cross():
    video = {"query_shape": (4, 4, 8), "key_shape": (4, 4, 8), "query_block": (2, 2, 4), "key_block": (2, 2, 4)}
    mask = block_mask(space_and_time, **video)
    # Two frames of blocks, each 2 x 2: its own frame, and its own place in the other.
    plane, place = np.ones((4, 4), bool), np.eye(4, dtype=bool)
    np.testing.assert_array_equal(mask, np.block([[plane, place], [place, plane]]))


def test_queries_are_the_last_frames_of_the_keys():
    mask = block_mask(
        space_and_time, query_shape=(4, 4, 4), key_shape=(6, 4, 4), query_block=(2, 2, 2), key_block=(2, 2, 2)
    )
    whole = block_mask(
        space_and_time, query_shape=(6, 4, 4), key_shape=(6, 4, 4), query_block=(2, 2, 2), key_block=(2, 2, 2)
    )
    np.testing.assert_array_equal(mask, whole[4:])


def test_a_pattern_of_unequal_blocks_counts_in_the_larger():
    """Every query block sees its own frames and its own place: token by token, wherever one block lies in the other."""
    shapes = {"query_shape": (4, 4, 4), "key_shape": (8, 4, 4), "query_block": (2, 1, 4), "key_block": (4, 2, 2)}
    mask = block_mask(space_and_time, **shapes)
    t, h, w = np.indices((8, 4, 4))
    names = np.stack([t // 4, h // 2, w // 4], -1).reshape(-1, 3)
    order_q = block_order((4, 4, 4), shapes["query_block"])
    order_k = block_order((8, 4, 4), shapes["key_block"])
    query = np.asarray(order_q.apply(names[None, 64:]))[0, ::8]
    key = np.asarray(order_k.apply(names[None]))[0, ::16]
    same = query[:, None] == key[None]
    np.testing.assert_array_equal(mask, same[..., 0] | (same[..., 1] & same[..., 2]))


def test_the_smaller_of_nested_blocks_can_be_put_in_order():
    """As the docstring of block_mask says: the mask of blocks in (T, H, W) order, reordered for nested blocks."""
    grid, small, large = (2, 4, 8), (1, 2, 2), (2, 4, 4)
    order = block_order(grid, small, large)
    mask = block_mask(
        lambda query, key: query[2] == key[2], query_shape=grid, key_shape=grid, query_block=small, key_block=large
    )
    nested = TokenOrder(order.levels[:-1]).apply(mask, axis=0)
    column = np.asarray(order.apply(np.indices(grid)[2].reshape(1, -1)))[0]
    np.testing.assert_array_equal(nested, column[::4, None] // 4 == column[None, ::32] // 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_shape": (3, 4, 4)}, "query_shape must be a multiple of query_block"),
        ({"query_shape": (4, 8, 4)}, "agree in height and width"),
        ({"query_shape": (6, 4, 4)}, "keys must have a multiple of 2 frames"),
        ({"query_block": (4, 2, 2), "key_shape": (6, 4, 4)}, "keys must have a multiple of 4 frames"),
    ],
)
def test_a_mask_that_cannot_be_made_says_why(change, message):
    video = {"query_shape": (4, 4, 4), "key_shape": (4, 4, 4), "query_block": (2, 2, 2), "key_block": (2, 2, 2)}
    with pytest.raises(ValueError, match=message):
        block_mask(space_and_time, **{**video, **change})
