"""Attention split by keys, inside shard_map: keys and values travel round a ring (Liu et al., 2023).

Each of n devices keeps its queries. In n steps the keys and values of every device pass by; partial results are merged
by their log-sum-exp, in float32. What the next step needs is sent before this step's attention starts, and does not
depend on it, so that the two overlap:

    step            0          1         2         3        of device 1 of 4
    attends to      k1         k0        k3        k2
    meanwhile gets  k0         k3        k2        -

Only keys and values move, (n - 1) / n of all of them past every device, however many queries or devices there are. The
backward pass gives each step's backward kernel the merged output and log-sum-exp, which makes what it computes this
step's exact share of the gradient. dK and dV are float32 and travel with their keys and values, one step behind, so
that they too overlap with the attention; one more hop brings them home.

`ring_attend` serves dense attention and, given lists of key blocks, block-sparse attention (parallel/ring_sparse.py).
"""

import functools

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Bool, Float
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.implementations import backward, choose, forward, keep
from lcv_jax.parallel.ranks import Ranks, whole_axis


def ring_attention(
    q_BSNK: Float[Array, "B S N K"],
    k_BMNK: Float[Array, "B M N K"],
    v_BMNK: Float[Array, "B M N K"],
    *,
    axis: str | Ranks,
    key_mask_BM: Bool[Array, "B allM"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B S N K"]:
    """Dense attention of this device's queries to the keys of all devices of `axis`.

    Args:
        key_mask_BM: of all keys, the same on every device: it is small, and need not travel.

    Raises:
        NotImplementedError: the implementation is not there or cannot take these arrays.
    """
    ring = whole_axis(axis)
    M = k_BMNK.shape[1]
    own_mask_BM = None if key_mask_BM is None else key_mask_BM[:, :M]  # one device's, as implementations get it
    named = choose(implementation, q_BSNK, k_BMNK, v_BMNK, blocks=None, key_mask_BM=own_mask_BM)
    return ring_attend(ring, named, q_BSNK.shape[1], M, q_BSNK, k_BMNK, v_BMNK, None, key_mask_BM)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def ring_attend(
    ring: Ranks,
    implementation: str,
    block_q: int,
    block_k: int,
    q_BSNK: Array,
    k_BMNK: Array,
    v_BMNK: Array,
    selection: Selection | None,
    key_mask_BM: Array | None,
) -> Array:
    """Attention of this device's queries; keys and values are differentiable, the selection and the mask are not.

    Args:
        implementation: what `choose` gave.
        selection: of this device's query blocks among the key blocks of all devices, ascending; None is dense, with
            `block_q` and `block_k` the lengths.
        key_mask_BM: of all keys, of dense attention.
    """
    return _ring_forward(ring, implementation, block_q, block_k, q_BSNK, k_BMNK, v_BMNK, selection, key_mask_BM)[0]


def _ring_forward(
    ring: Ranks,
    implementation: str,
    block_q: int,
    block_k: int,
    q_BSNK: Array,
    k_BMNK: Array,
    v_BMNK: Array,
    selection: Selection | None,
    key_mask_BM: Array | None,
) -> tuple[Array, tuple]:
    keys_2BMNK = jnp.stack([k_BMNK, v_BMNK])
    merged: tuple[Array, Array] | None = None
    for step in range(ring.size):
        arriving_2BMNK = _next_keys(ring, step, keys_2BMNK)
        here = _at_hand(ring, step, selection, key_mask_BM, k_BMNK.shape[1], block_k)
        k, v = keys_2BMNK
        part = forward(implementation, block_q, block_k, q_BSNK, k, v, *here)
        merged = part if merged is None else merge(merged, part)
        keys_2BMNK, merged = _one_step_ahead(arriving_2BMNK, merged)
    assert merged is not None
    out_BSNK, lse_BNS = merged
    out_BSNK, lse_BNS = keep(out_BSNK.astype(q_BSNK.dtype), lse_BNS)
    return out_BSNK, (q_BSNK, k_BMNK, v_BMNK, selection, key_mask_BM, out_BSNK, lse_BNS)


def _ring_backward(
    ring: Ranks, implementation: str, block_q: int, block_k: int, residuals: tuple, d_out_BSNK: Array
) -> tuple:
    q_BSNK, k_BMNK, v_BMNK, selection, key_mask_BM, out_BSNK, lse_BNS = residuals
    keys_2BMNK = jnp.stack([k_BMNK, v_BMNK])
    dq_BSNK, d_keys_2BMNK = (jnp.zeros(x.shape, jnp.float32) for x in (q_BSNK, keys_2BMNK))
    for step in range(ring.size):
        arriving_2BMNK = _next_keys(ring, step, keys_2BMNK)
        here = _at_hand(ring, step, selection, key_mask_BM, k_BMNK.shape[1], block_k)
        given = (q_BSNK, *keys_2BMNK, *here, out_BSNK, lse_BNS)
        dq_share, *shares = backward(implementation, block_q, block_k, given, d_out_BSNK, None)
        if step:
            # Of the keys now at hand: what the devices that they have passed add up to. With one collective in flight,
            # the keys hide behind the kernel of dq, and this behind that of dk and dv.
            first = (arriving_2BMNK, dq_share, d_keys_2BMNK)
            arriving_2BMNK, dq_share, d_keys_2BMNK = jax.lax.optimization_barrier(first)
            d_keys_2BMNK = ring.send_on(d_keys_2BMNK)
        sums = dq_BSNK + dq_share.astype(jnp.float32), d_keys_2BMNK + jnp.stack(shares).astype(jnp.float32)
        keys_2BMNK, (dq_BSNK, d_keys_2BMNK) = _one_step_ahead(arriving_2BMNK, sums)
    dk_BMNK, dv_BMNK = ring.send_on(d_keys_2BMNK)
    return dq_BSNK.astype(q_BSNK.dtype), dk_BMNK.astype(k_BMNK.dtype), dv_BMNK.astype(v_BMNK.dtype), None, None


ring_attend.defvjp(_ring_forward, _ring_backward)


def _next_keys(ring: Ranks, step: int, keys_2BMNK: Array) -> Array:
    """The keys and values of the next step; after the last there is none.

    They travel as one array: XLA keeps one collective in flight, and of two it would wait for the first.
    """
    return ring.send_on(keys_2BMNK) if step + 1 < ring.size else keys_2BMNK


def _one_step_ahead(arriving_2BMNK: Array, results: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
    """The same. What arrives may be sent on only when this step has its results.

    Else XLA would send everything round before the first attention: nothing is hidden, and all keys are held at once.
    """
    return jax.lax.optimization_barrier((arriving_2BMNK, results))


def merge(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Attention to two sets of keys from the outputs and log-sum-exps of each, in float32; -inf is a set of none."""
    lse_BNS = jnp.logaddexp(one[1], other[1])
    base_BNS = jnp.where(lse_BNS == -jnp.inf, 0.0, lse_BNS)

    def weighted(out_BSNK: Array, its_lse_BNS: Array) -> Array:
        return out_BSNK.astype(jnp.float32) * jnp.swapaxes(jnp.exp(its_lse_BNS - base_BNS), 1, 2)[..., None]

    return weighted(*one) + weighted(*other), lse_BNS


def _at_hand(
    ring: Ranks, step: int, selection: Selection | None, key_mask_BM: Array | None, num_keys: int, block_k: int
) -> tuple[Selection | None, Array | None]:
    """Of the lists and of the mask, what is about the keys that are here in this step."""
    whose = (ring.index() - step) % ring.size
    if selection is not None:
        selection = part_of_lists(selection, whose * (num_keys // block_k), num_keys // block_k)
    if key_mask_BM is not None:
        key_mask_BM = jax.lax.dynamic_slice_in_dim(key_mask_BM, whose * num_keys, num_keys, axis=1)
    return selection, key_mask_BM


def part_of_lists(selection: Selection, first: Array, num_blocks: int) -> Selection:
    """The selected among `num_blocks` key blocks from `first` on, which are counted from 0 then.

    Lists ascend, so a part of them is a run of neighbours; of a list with nothing there it is empty.
    """
    indices_BNIR, counts_BNI = selection
    R = indices_BNIR.shape[-1]
    counted_BNIR = jnp.arange(R, dtype=jnp.int32) < counts_BNI[..., None]

    def how_many_below(block: Array) -> Array:
        return jnp.sum(counted_BNIR & (indices_BNIR < block), axis=-1, dtype=jnp.int32)

    start_BNI = how_many_below(first)
    part_counts_BNI = how_many_below(first + num_blocks) - start_BNI
    entry_R = jnp.arange(min(R, num_blocks), dtype=jnp.int32)
    run = jnp.take_along_axis(indices_BNIR, start_BNI[..., None] + entry_R, axis=-1, mode="clip")
    return Selection(jnp.where(entry_R < part_counts_BNI[..., None], run - first, 0), part_counts_BNI)
