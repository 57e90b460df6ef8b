"""Which of a row's blocks are the best, in integer operations that XLA and a Triton kernel share.

The rule, the same on every implementation because all of them run `best_blocks`, which works on integers only:

*   Blocks rank by their score; of equal scores the lower key index ranks first. -0.0 equals 0.0. NaN ranks below
    everything, -inf included: a key block with a NaN in it is taken last and cannot break a list.
*   top-r: the first r. CDF-p: the longest run of first blocks whose softmax mass stays at or below p. The mass is
    counted in units of 2^-30, so that a running sum is exact and does not depend on the order of summation.
*   The n-th score is found by bisection over the 32 bits of its order-preserving integer, not by sorting.
"""

import jax.numpy as jnp
from jax import lax

from lcv_jax.array_types import Array, Bool, Float, Int

LOWEST = -(2**31)
"""The key of NaN, and of nothing else."""


def order_keys(score: Float[Array, "*a"]) -> Int[Array, "*a"]:
    """Integers in the order of the scores: equal for 0.0 and -0.0, `LOWEST` for NaN and for nothing else."""
    bits = lax.bitcast_convert_type(score, jnp.int32)
    magnitude = bits & 0x7FFFFFFF
    key = jnp.where(bits < 0, -magnitude, magnitude)
    return jnp.where(magnitude > 0x7F800000, LOWEST, key)


def best_blocks(
    key: Int[Array, "*a J"], top: int, mass: Int[Array, "*a J"] | None = None, mass_limit: int = 0
) -> Bool[Array, "*a J"]:
    """Which of the last axis are the best: the rule of this file, in operations that a Triton kernel has too.

    Args:
        key: `order_keys` of the scores.
        mass, mass_limit: the blocks' softmax masses and how much may be kept (CDF-p), in units of 2^-30.
    """
    count: Array | int = top
    if mass is not None:
        above, level = _split_at(key, _crossing(key, mass, mass_limit))
        room = mass_limit - _total(jnp.where(above, mass, 0))
        kept = above | (level & (running_sum(jnp.where(level, mass, 0)) <= room))
        count = jnp.maximum(_total(kept.astype(jnp.int32)), top)
    above, level = _split_at(key, _crossing(key, 1, count - 1, enough=count))
    room = count - _total(above.astype(jnp.int32))
    return above | (level & (running_sum(level.astype(jnp.int32)) <= room))


def _crossing(key: Array, weight: Array | int, limit: Array | int, enough: Array | int = 0) -> Array:
    """The largest t at which the keys >= t weigh more than the limit; LOWEST where there is none.

    With `enough` = limit + 1 and weights of one, t stops at the first value above which there is nothing but the keys
    wanted: about half of the 32 steps, when scores differ.
    """

    def unsettled(state: tuple[Array, Array, Array]) -> Array:
        bit, _, weight_from = state
        return (bit < 32) & (jnp.max(weight_from - enough) > 0)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        bit, threshold, weight_from = state
        # From the sign down; a set sign is the lower half of the integers, so every bit goes upwards by xor.
        raised = threshold ^ lax.shift_right_logical(jnp.int32(LOWEST), bit)
        weight_from_raised = _total(jnp.where(key >= raised, weight, 0))
        crosses = weight_from_raised > limit
        return bit + 1, jnp.where(crosses, raised, threshold), jnp.where(crosses, weight_from_raised, weight_from)

    # The sign is settled outside of the loop, so that what is carried has the rows' shape, and varies as they do in
    # shard_map.
    start = step((jnp.int32(0), jnp.int32(LOWEST), jnp.int32(2**31 - 1)))
    return lax.while_loop(unsettled, step, start)[1]


def _split_at(key: Array, threshold: Array) -> tuple[Array, Array]:
    return key > threshold, key == threshold


def _total(x: Array) -> Array:
    return jnp.sum(x, axis=-1, keepdims=True, dtype=jnp.int32)


def running_sum(x: Array) -> Array:
    """The cumulative sum along the last axis."""
    return lax.cumsum(x, axis=x.ndim - 1)
