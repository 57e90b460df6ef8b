"""The Mosaic GPU kernels in Pallas' interpreter, which runs their three warpgroups as threads and looks for races.

Products are plain jnp there; that the GPU's compiler takes the real ones is for `make test-compile`, and that they fit
together is traced here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax.experimental.pallas import mosaic_gpu as plgpu

from lcv_jax.kernels import mosaic_backward, mosaic_forward, mosaic_ring
from lcv_jax.kernels.attention import selected_attention_with_lse
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.implementations import choose
from lcv_jax.kernels.mosaic_lists import pair_lists
from lcv_jax.kernels.platform import compiling_for
from tests.kernels.defined import (
    BATCH,
    HEADS,
    defined_results,
    largest_error,
    lists_of,
    random_mask,
    sparse_case,
    token_mask,
)

# JAX 0.10 prints races, later ones log them if they are asked to.
HOW = {"on_race": "warn"} if "on_race" in {field.name for field in dataclasses.fields(InterpretGPUParams)} else {}


@pytest.fixture
def interpreted(capsys, caplog):
    """interpreted(function, ...) -> what it computes in the interpreter, and whether that saw a race."""

    def run(function, *args, **options):
        got = jax.block_until_ready(function(*args, **options, interpret=InterpretGPUParams(detect_races=True, **HOW)))
        return got, "RACE DETECTED" in capsys.readouterr().out + caplog.text

    return run


def shuffled(selection, seed=0):
    """Lists in any order, with filler behind the count that must not be read."""
    generator = np.random.default_rng(seed)
    indices = np.full_like(selection.indices_BNIR, 2**20)
    for row in np.ndindex(selection.counts_BNI.shape):
        count = selection.counts_BNI[row]
        indices[row][:count] = generator.permutation(selection.indices_BNIR[row][:count])
    return Selection(jnp.asarray(indices), jnp.asarray(selection.counts_BNI))


def plain_results(q, k, v, d_out, d_lse, selection, blocks):
    """Plain XLA in the same dtype."""
    call = functools.partial(selected_attention_with_lse, selection=selection, **blocks, implementation="xla")
    (out, lse), pull = jax.vjp(call, q, k, v)
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), pull((d_out, d_lse)), strict=True))


SETTINGS = [
    # query blocks, key blocks, their tokens, width, dtype
    (3, 5, 64, 64, 128, jnp.bfloat16),
    (2, 2, 128, 256, 64, jnp.float16),
]


@pytest.mark.parametrize(("num_queries", "num_keys", "block_q", "block_k", "width", "dtype"), SETTINGS)
def test_error_is_at_most_twice_that_of_plain_xla(interpreted, num_queries, num_keys, block_q, block_k, width, dtype):
    (q, k, v, d_out, d_lse), mask = sparse_case(num_queries, num_keys, block_q, block_k, width, dtype, batch=1)
    mask[0, 1, 0, 1:] = mask[0, 0, 1, :2] = True
    blocks = {"block_q": block_q, "block_k": block_k}
    want = defined_results(q, k, v, d_out, d_lse, token_mask(mask, block_q, block_k))
    plain = largest_error(plain_results(q, k, v, d_out, d_lse, lists_of(mask), blocks), want)
    selection = shuffled(lists_of(mask))
    (out, lse), raced = interpreted(mosaic_forward.forward, q, k, v, selection, **blocks)
    assert not raced
    residuals = q, k, v, selection, out, lse
    gradients, raced = interpreted(mosaic_backward.backward, *residuals, d_out, d_lse, **blocks)
    assert not raced
    got = {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), gradients, strict=True))
    for name, error in largest_error(got, want).items():
        assert error <= 2 * plain[name] + 1e-6, (name, error, plain[name])
    empty = ~np.repeat(mask.any(axis=-1), block_q, axis=-1)
    assert empty.any()
    assert np.isneginf(lse[empty]).all()
    for x in (out, gradients[0]):
        assert not np.swapaxes(x, 1, 2)[empty].any()


def read_before_it_is_there(tile):
    return tile.refs


def wait_and_release(tile):
    plgpu.barrier_wait(tile.full)
    plgpu.barrier_arrive(tile.free)


def release_before_it_is_read(tile):
    wait_and_release(tile)
    return tile.refs


@pytest.mark.parametrize(
    ("wait", "release"),
    [(read_before_it_is_there, wait_and_release), (release_before_it_is_read, lambda tile: None)],
)
def test_a_race_is_seen(interpreted, monkeypatch, wait, release):
    """So that none being seen above means something."""
    (q, k, v, _, _), mask = sparse_case(2, 6, 64, 64, 64, jnp.bfloat16, batch=1)
    monkeypatch.setattr(mosaic_ring.Tile, "wait", wait)
    monkeypatch.setattr(mosaic_ring.Tile, "release", release)
    mask[:] = True
    _, raced = interpreted(mosaic_forward.forward, q[:, :, :1], k[:, :, :1], v[:, :, :1], lists_of(mask[:, :1]), 64, 64)
    assert raced


@pytest.mark.parametrize("most", [2**31 - 1, 200])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("by_key", [True, False])
def test_lists_of_a_pair_are_what_both_walk_then_what_one_does(by_key, merge, most, monkeypatch):
    """Also where all heads' entries do not fit one sort."""
    monkeypatch.setattr("lcv_jax.kernels.mosaic_lists.LAST", most)
    mask = random_mask(3, 9, 7)
    blocks, starts = pair_lists(shuffled(lists_of(mask)), 7, by_key=by_key, merge=merge)
    walks = np.swapaxes(mask, 2, 3) if by_key else mask
    if merge:
        walks = np.pad(walks, ((0, 0), (0, 0), (0, walks.shape[2] % 2), (0, 0)))
        first, second = walks[:, :, 0::2], walks[:, :, 1::2]
    else:
        first = second = walks
    lists = np.stack([first & second, first & ~second, second & ~first], axis=3).reshape(
        BATCH, HEADS, -1, walks.shape[-1]
    )
    assert starts.shape == (BATCH, HEADS, lists.shape[2] + 1)
    for b, n, which in np.ndindex(lists.shape[:3]):
        got = blocks[starts[b, n, which] : starts[b, n, which + 1]]
        np.testing.assert_array_equal(got, np.flatnonzero(lists[b, n, which]))


def test_the_products_fit_together():
    """Traced as for a GPU: shapes of factors and accumulators, through the door and its gradient."""
    (q, k, v, d_out, d_lse), mask = sparse_case(3, 2, 64, 128, 128, jnp.bfloat16)

    def results(q, k, v, d_out, d_lse, selection):
        call = functools.partial(
            selected_attention_with_lse,
            selection=selection,
            block_q=64,
            block_k=128,
            implementation="pallas_mosaic_gpu",
        )
        computed, pull = jax.vjp(call, q, k, v)
        return *computed, *pull((d_out, d_lse))

    with compiling_for("gpu"):
        got = jax.eval_shape(results, q, k, v, d_out, d_lse, lists_of(mask))
    shapes = [(x.shape, x.dtype) for x in got]
    assert shapes == [(x.shape, x.dtype) for x in (q, d_lse, q, k, v)]


def test_auto_does_not_take_it():
    q = np.zeros((1, 64, 2, 128), jnp.bfloat16)
    with compiling_for("gpu"):
        assert choose("pallas_mosaic_gpu", q, q, q, blocks=(64, 64)) == "pallas_mosaic_gpu"
        assert choose("auto", q, q, q, blocks=(64, 64)) == "pallas_triton"


@pytest.mark.parametrize(
    ("platform", "dtype", "width", "blocks", "message"),
    [
        ("cpu", jnp.bfloat16, 128, (64, 64), "runs on a GPU, this is for cpu"),
        ("gpu", jnp.bfloat16, 128, None, "block-sparse only"),
        (
            "gpu:8.9",
            jnp.bfloat16,
            128,
            (64, 64),
            r"Hopper \(H100, H200\), compute capability 9.0, got 8.9; pallas_triton",
        ),
        ("gpu:10.0", jnp.bfloat16, 128, (64, 64), "got 10.0"),
        ("gpu", jnp.float32, 128, (64, 64), "bfloat16 and float16, got float32"),
        ("gpu", jnp.bfloat16, 80, (64, 64), "heads 64 or 128 wide, got 80"),
        ("gpu", jnp.bfloat16, 128, (64, 96), "64 or of a multiple of 128 tokens, got 64 queries and 96 keys"),
        ("gpu", jnp.bfloat16, 128, (192, 64), "got 192 queries and 64 keys"),
    ],
)
def test_what_it_does_not_take_it_says(platform, dtype, width, blocks, message):
    q = np.zeros((1, 64, 1, width), dtype)
    with compiling_for(platform), pytest.raises(NotImplementedError, match=f"'pallas_mosaic_gpu': .*{message}"):
        choose("pallas_mosaic_gpu", q, q, q, blocks=blocks)
