"""Which key blocks a query block attends to: mean-pool, score, keep the best (report section 3.4).

A selection is one list of key blocks for every query block. Lists are canonical, whatever chose them: ascending key
block index, filler 0 after the count. It is not differentiated, as published. The rule by which blocks rank is in
block_ranking.py.

Scoring and choosing are apart (`block_scores`, `choose_blocks`), and only the scores of a few heads are held at once.
The work per layer of 32 heads of 128, by arithmetic and the compiled kernel's instructions (an H200 reads 4.8 TB/s,
does 67 float32 TF/s and issues 0.9e12 instructions a second, half of that for integers; nothing here was timed):

    tokens    blocks   pooling reads   score product   scores written and read   top-r, warp instructions
    84,480     1,320         1.4 GB        14 GFLOP          0.45 GB                 0.3e9
    168,960    2,640         2.8 GB        57 GFLOP          1.8 GB                  1.2e9
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lcv_jax.array_types import Array, Bool, Float, Int
from lcv_jax.kernels.block_ranking import best_blocks, order_keys, running_sum
from lcv_jax.kernels.platform import target_platform

WHOLE_MASS = 2**30
"""A softmax mass of one. Rounding J blocks to units moves a sum by J * 2^-31 at most; int32 has room for that."""


class Selection(NamedTuple):
    """For every query block the key blocks that it attends to."""

    indices_BNIR: Int[Array, "B N I R"]
    """Key blocks; entries past the count are filler."""
    counts_BNI: Int[Array, "B N I"]
    """How many of the entries count; may be zero."""


def pool_blocks(x_BSNK: Float[Array, "B S N K"], block: int) -> Float[Array, "B I N K"]:
    """The mean of each block of `block` consecutive tokens, in float32."""
    B, S, N, K = x_BSNK.shape
    return jnp.mean(x_BSNK.reshape(B, S // block, block, N, K), axis=2, dtype=jnp.float32)


def select_blocks(
    q_BINK: Float[Array, "B I N K"],
    k_BJNK: Float[Array, "B J N K"],
    *,
    sparsity: float | None,
    cdf_threshold: float | None,
    implementation: str = "xla",
) -> Selection:
    """Selects key blocks for every query block from their pooled tokens.

    Args:
        sparsity: keep the floor((1 - sparsity) * J) best blocks.
        cdf_threshold: keep the best blocks while the running sum of softmax(score) stays at or below it. The block that
            crosses it is left out, as published. Lists then have room for all J blocks.
        Both: the larger count of the two. At least one block is kept (the published code can keep none, which is NaN).
        implementation: "xla", "pallas_triton", or "pallas_interpret".

    Raises:
        ValueError: a sparsity or a threshold that is no share.
    """
    for name, share in (("sparsity", sparsity), ("cdf_threshold", cdf_threshold)):
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"block selection: {name} is a share, wanted 0 to 1, got {share}")
    q_BINK, k_BJNK = lax.stop_gradient((q_BINK, k_BJNK))
    B, num_queries, N, _ = q_BINK.shape
    num_keys = k_BJNK.shape[1]
    top = 1 if sparsity is None else max(1, math.floor((1 - sparsity) * num_keys))
    at_once = _heads_at_once(N, num_queries * num_keys)

    def groups(x_BINK: Array) -> Array:
        B, count, _, K = x_BINK.shape
        return jnp.moveaxis(x_BINK.reshape(B, count, -1, at_once, K), 2, 1).reshape(-1, 1, count, at_once, K)

    def choose(group: tuple[Array, Array]) -> Selection:
        return choose_blocks(block_scores(*group), top=top, cdf_threshold=cdf_threshold, implementation=implementation)

    indices, counts = lax.map(choose, (groups(q_BINK), groups(k_BJNK)))
    return Selection(indices.reshape(B, N, num_queries, -1), counts.reshape(B, N, num_queries))


def _heads_at_once(num_heads: int, scores: int) -> int:
    """As many heads as have scores that fit what a device holds with ease, on a CPU a core's cache."""
    workspace = 2**20 if target_platform() == "cpu" else 2**27
    return largest_divisor(num_heads, workspace // scores)


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor that is at most `most`; 1 if there is none."""
    return max(part for part in range(1, number + 1) if number % part == 0 and part <= max(1, most))


def block_scores(q_BINK: Float[Array, "B I N K"], k_BJNK: Float[Array, "B J N K"]) -> Float[Array, "B N I J"]:
    """The scores of pooled tokens, q k^T / sqrt(K), in float32."""
    score_BNIJ = jnp.einsum(
        "bink,bjnk->bnij", q_BINK, k_BJNK, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    return score_BNIJ / math.sqrt(q_BINK.shape[-1])


def choose_blocks(
    score_BNIJ: Float[Array, "B N I J"],
    *,
    top: int,
    cdf_threshold: float | None = None,
    implementation: str = "xla",
) -> Selection:
    """The lists of the best blocks; the same scores give the same lists on every implementation.

    Args:
        top: how many blocks to keep, at least.
        cdf_threshold, implementation: as in `select_blocks`.
    """
    num_keys = score_BNIJ.shape[-1]
    if top == num_keys or (cdf_threshold is not None and cdf_threshold >= 1):
        every_J = jnp.arange(num_keys, dtype=jnp.int32)
        return Selection(
            jnp.broadcast_to(every_J, score_BNIJ.shape), jnp.full(score_BNIJ.shape[:-1], num_keys, jnp.int32)
        )
    mass_BNIJ = None if cdf_threshold is None else _softmax_mass(score_BNIJ)
    mass_limit = 0 if cdf_threshold is None else math.floor(cdf_threshold * WHOLE_MASS)
    room = top if cdf_threshold is None else num_keys
    if implementation == "xla":
        chosen_BNIJ = best_blocks(order_keys(score_BNIJ), top, mass_BNIJ, mass_limit)
        return Selection(_positions(chosen_BNIJ, room), jnp.sum(chosen_BNIJ, axis=-1, dtype=jnp.int32))
    if implementation not in ("pallas_triton", "pallas_interpret"):
        raise NotImplementedError(
            f"block selection implementation {implementation!r}: have xla, pallas_triton, pallas_interpret"
        )
    from lcv_jax.kernels import select_kernel  # Pallas

    interpret = implementation == "pallas_interpret"
    return Selection(*select_kernel.choose(score_BNIJ, mass_BNIJ, top, mass_limit, room, interpret=interpret))


def _softmax_mass(score_BNIJ: Array) -> Array:
    """softmax(score) over the last axis in units of 2^-30; infinities and NaN count as the largest and lowest float."""
    largest = float(np.finfo(np.float32).max)
    finite_BNIJ = jnp.nan_to_num(score_BNIJ, nan=-largest, posinf=largest, neginf=-largest)
    return jnp.round(jax.nn.softmax(finite_BNIJ) * WHOLE_MASS).astype(jnp.int32)


def _positions(mask: Array, room: int) -> Array:
    """Where the last axis of a mask is True, ascending, in lists of `room`; 0 behind the last."""
    num = mask.shape[-1]
    running = running_sum(mask.astype(jnp.int32)).reshape(-1, num)
    wanted = jnp.arange(1, room + 1, dtype=jnp.int32)
    position = jax.vmap(lambda row_J: jnp.searchsorted(row_J, wanted))(running).reshape(*mask.shape[:-1], room)
    return jnp.where(position < num, position, 0)


def selection_of_mask(mask: Bool[Array | np.ndarray, "*a I J"], *, batch: int = 1, heads: int = 1) -> Selection:
    """The selection of a caller's own block mask; a query block may have no key block at all.

    Args:
        mask: [I, J], or with axes in front that broadcast to B and N. The lists of a numpy array, which is known when a
            program is traced, have room for the longest of them; those of any other array for all J blocks.
        batch, heads: B and N, where the mask does not say.
    """
    longest = mask.shape[-1]
    if isinstance(mask, np.ndarray):
        longest = max(1, int(mask.sum(axis=-1).max(initial=0)))
    lead = jnp.broadcast_shapes(mask.shape[:-2], (batch, heads))
    mask = jnp.asarray(mask)
    indices, counts = _positions(mask, longest), jnp.sum(mask, axis=-1, dtype=jnp.int32)
    return Selection(
        jnp.broadcast_to(indices, (*lead, *indices.shape[-2:])), jnp.broadcast_to(counts, (*lead, counts.shape[-1]))
    )
