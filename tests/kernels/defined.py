"""Random block-sparse attention, and its definition in float64: shared by the tests of implementations."""

import jax.numpy as jnp
import numpy as np

from lcv_jax.kernels.block_select import Selection

BATCH, HEADS = 2, 2


def random(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def random_mask(seed, num_queries, num_keys, batch=BATCH):
    """About 40 % of the pairs; one row is empty, one full, one key block is nobody's."""
    mask = np.random.default_rng(seed).random((batch, HEADS, num_queries, num_keys)) < 0.4
    mask[..., -1] &= num_keys == 1
    mask[0, 0, 0] = True
    mask[-1, -1, -1] = False
    return mask


def lists_of(mask_BNIJ):
    """`selection_of_mask` in numpy, which compiles nothing."""
    counts = mask_BNIJ.sum(axis=-1).astype(np.int32)
    order = np.argsort(~mask_BNIJ, axis=-1, kind="stable")[..., : max(1, counts.max())].astype(np.int32)
    return Selection(order, counts)


def token_mask(mask_BNIJ, block_q, block_k):
    return np.repeat(np.repeat(mask_BNIJ, block_q, axis=2), block_k, axis=3)


def defined_results(q, k, v, d_out, d_lse, mask_BNSM):
    """The formulas in float64; a row that may attend to nothing has weights of zero."""
    q, k, v, d_out, d_lse = (np.asarray(x.astype(jnp.float32), np.float64) for x in (q, k, v, d_out, d_lse))
    scale = 1 / np.sqrt(q.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        logits = np.where(mask_BNSM, np.einsum("bsnk,bmnk->bnsm", q, k) * scale, -np.inf)
        top = logits.max(axis=-1, keepdims=True)
        lse = np.log(np.exp(logits - top).sum(axis=-1, keepdims=True)) + top
        lse = np.where(np.isneginf(top), -np.inf, lse)
        weights = np.where(np.isneginf(top), 0, np.exp(logits - lse))
    out = np.einsum("bnsm,bmnk->bsnk", weights, v)
    d_weights = np.einsum("bsnk,bmnk->bnsm", d_out, v)
    delta = np.einsum("bsnk,bsnk->bns", d_out, out)
    d_logits = weights * (d_weights - delta[..., None] + d_lse[..., None]) * scale
    return {
        "out": out,
        "lse": lse[..., 0],
        "dq": np.einsum("bnsm,bmnk->bsnk", d_logits, k),
        "dk": np.einsum("bnsm,bsnk->bmnk", d_logits, q),
        "dv": np.einsum("bnsm,bsnk->bmnk", weights, d_out),
    }


def sparse_case(num_queries, num_keys, block_q, block_k, width, dtype, seed=0, batch=BATCH):
    S, M = num_queries * block_q, num_keys * block_k
    q, d_out = (random(seed + i, batch, S, HEADS, width, dtype=dtype) for i in (1, 2))
    k, v = (random(seed + i, batch, M, HEADS, width, dtype=dtype) for i in (3, 4))
    mask = random_mask(seed, num_queries, num_keys, batch)
    d_lse = random(seed + 5, batch, HEADS, S) * np.repeat(mask.any(axis=-1), block_q, axis=-1)
    return (q, k, v, d_out, d_lse), mask


def largest_error(got, want):
    """Of each result; where both are -inf they agree."""
    got = {name: np.asarray(got[name].astype(jnp.float32), np.float64) for name in want}
    with np.errstate(invalid="ignore"):
        return {name: np.where(got[name] == x, 0.0, np.abs(got[name] - x)).max() for name, x in want.items()}


def assert_close(got, want, atol):
    for name, error in largest_error(got, want).items():
        assert error <= atol, (name, error)
