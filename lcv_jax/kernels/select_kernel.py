"""The best key blocks of every query block, as one Pallas kernel on the Triton backend.

Algorithm: `block_ranking.best_blocks`, on a tile of whole rows of scores; then every chosen block's place in its list
is the number of chosen blocks before it, and the lists are written by a masked scatter.

Grid: one program for a few rows, 1024 scores or one row, whichever is more. J is padded to a power of two with keys
below every score (NaN's) at the highest indices, which are never chosen before a real block.
On chip: the tile, as integers, and with a CDF threshold its masses. 32 scores a thread: a longer chain of additions
for fewer barriers, or the reverse, came out worse by arithmetic. Scores are read once.
Numerics: integers only.
Accepted: float32 scores of any shape (rows, J); beyond 16,384 blocks a row with a CDF threshold spills registers.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from lcv_jax.array_types import Array
from lcv_jax.kernels.block_ranking import best_blocks, order_keys

SCORES_A_PROGRAM = 1024
SCORES_A_THREAD = 32


def choose(
    score_BNIJ: Array, mass_BNIJ: Array | None, top: int, mass_limit: int, room: int, *, interpret: bool = False
) -> tuple[Array, Array]:
    """Lists of `room` key blocks and their counts; see `block_select.choose_blocks`."""
    *lead, num_keys = score_BNIJ.shape
    num_rows = score_BNIJ.size // num_keys
    width = pl.next_power_of_2(num_keys)
    rows = max(1, SCORES_A_PROGRAM // width)
    inputs = [score_BNIJ.reshape(num_rows, num_keys)]
    if mass_BNIJ is not None:
        inputs.append(mass_BNIJ.reshape(num_rows, num_keys))

    def kernel(*refs) -> None:
        score_ref, *mass_refs, indices_ref, counts_ref = refs
        row = jax.lax.broadcasted_iota(jnp.int32, (rows, width), 0)
        column = jax.lax.broadcasted_iota(jnp.int32, (rows, width), 1)
        rows_left = num_rows - pl.program_id(0) * rows
        here = (row < rows_left) & (column < num_keys)

        def load(ref, other):
            return plt.load(ref.at[row, column], mask=here, other=other)

        key = order_keys(load(score_ref, jnp.nan))
        mass = load(mass_refs[0], 0) if mass_refs else None
        chosen = (best_blocks(key, top, mass, mass_limit) & here).astype(jnp.int32)
        place = jax.lax.cumsum(chosen, axis=1) - chosen
        # What is not chosen goes out of bounds: in interpret mode a masked lane writes back what it read, and with the
        # place of a chosen one it would be left to the order of the scatter which of the two stays.
        plt.store(indices_ref.at[row, jnp.where(chosen > 0, place, room)], column, mask=chosen > 0)
        count = jnp.sum(chosen, axis=1, dtype=jnp.int32)
        plt.store(counts_ref.at[:], count, mask=jnp.arange(rows, dtype=jnp.int32) < rows_left)
        if mass_refs:
            filler = here & (column >= count[:, None])
            plt.store(indices_ref.at[row, column], jnp.zeros_like(column), mask=filler)

    def rows_of(size: int) -> pl.BlockSpec:
        return pl.BlockSpec((rows, size), lambda program: (program, 0))

    indices, counts = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(num_rows, rows),),
        in_specs=[rows_of(num_keys)] * len(inputs),
        out_specs=[rows_of(room), pl.BlockSpec((rows,), lambda program: (program,))],
        out_shape=[
            jax.ShapeDtypeStruct((num_rows, room), jnp.int32),
            jax.ShapeDtypeStruct((num_rows,), jnp.int32),
        ],
        compiler_params=plt.CompilerParams(num_warps=max(1, min(16, rows * width // (32 * SCORES_A_THREAD)))),
        interpret=interpret,
        name="select_blocks",
    )(*inputs)
    return indices.reshape(*lead, room), counts.reshape(lead)
