"""A producer and two consumers on one multiprocessor: the schedule that the Mosaic GPU kernels share.

A program has three warpgroups. Each of two consumers keeps the rows of a tile of its own; the producer copies the tiles
that they walk into slots of shared memory (TMA) and runs ahead of them by as many slots as there are. First come the
blocks that both consumers walk, in one ring of all slots: a tile is loaded once and is free when both have released it.
Then each consumer has the tiles of its own list, in a ring of half the slots. Lists: kernels/mosaic_lists.py.

Two barriers say of a slot that its tile is there and that it may be filled again. The rings have barriers of their own,
because whoever waits for a barrier must see all its phases.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lcv_jax.array_types import Array

ROWS = 64
"""Rows of every tile: what a warpgroup multiplies at once."""
CONSUMERS = 2
SLOTS = 4
"""Tiles of each walked array in shared memory."""
OWN_SLOTS = SLOTS // CONSUMERS

State = TypeVar("State")


class Tile(NamedTuple):
    """A slot, for the tile that is in it."""

    refs: tuple[Any, ...]
    full: Any
    free: Any

    def wait(self) -> tuple[Any, ...]:
        """The slot's memory, once the tile is there."""
        plgpu.barrier_wait(self.full)
        return self.refs

    def release(self) -> None:
        """One of its consumers has read it."""
        plgpu.barrier_arrive(self.free)

    def wait_free(self) -> None:
        """Until all its consumers have released it."""
        plgpu.barrier_wait(self.free)


class Slots(NamedTuple):
    """The slots of arrays whose tiles come and go together: what to allocate, or references to it."""

    refs: tuple[Any, ...]
    full: Any
    free: Any
    own_full: Any
    own_free: Any

    def shared(self, slot: Array | int) -> Tile:
        """A slot of the ring of both consumers."""
        return Tile(tuple(ref.at[slot] for ref in self.refs), self.full.at[slot], self.free.at[slot])

    def own(self, slot: Array | int) -> Tile:
        """A slot of the ring of one consumer."""
        return Tile(tuple(ref.at[slot] for ref in self.refs), self.own_full.at[slot], self.own_free.at[slot])


def slots(*memory: Any) -> Slots:
    """What to allocate for arrays whose tiles come and go together.

    Args:
        memory: of all slots of each.
    """
    full = plgpu.Barrier(num_barriers=SLOTS, num_arrivals=len(memory))
    free = plgpu.Barrier(num_barriers=SLOTS, num_arrivals=CONSUMERS)
    return Slots(memory, full, free, full, plgpu.Barrier(num_barriers=SLOTS))


class Program(NamedTuple):
    """Where a warpgroup is in the grid."""

    video: Array
    head: Array
    pair: Array
    warpgroup: Array

    def tokens(self, ref: Any, row: Array) -> Any:
        """Of B S N K, a tile from a row on."""
        return ref.at[self.video, pl.ds(row, ROWS), self.head]

    def numbers(self, ref: Any, row: Array) -> Any:
        """Of B N S, a tile's rows."""
        return ref.at[self.video, self.head, pl.ds(row, ROWS)]

    def own_row(self) -> Array:
        """The first row of a consumer's tile."""
        return (self.pair * CONSUMERS + self.warpgroup) * ROWS


def program() -> Program:
    """The one that runs."""
    return Program(*(lax.axis_index(name) for name in Program._fields))


class Walk(NamedTuple):
    """The tiles of the three lists of a pair."""

    blocks: Any
    starts: tuple[Array, ...]
    """Where the lists start, and where the last one ends."""
    block: int
    """Rows of a walked block."""

    def num_tiles(self, which: int) -> Array:
        """Tiles of one of the lists."""
        return (self.starts[which + 1] - self.starts[which]) * (self.block // ROWS)

    def row(self, which: int, number: Array) -> Array:
        """The first row of a list's tile."""
        tiles = self.block // ROWS
        place, tile = (number, 0) if tiles == 1 else (lax.div(number, tiles), lax.rem(number, tiles))
        return self.blocks[self.starts[which] + place] * self.block + tile * ROWS


def walk_of(here: Program, blocks_ref: Any, starts_ref: Any, own_block: int, walked_block: int) -> Walk:
    """What a program walks.

    Args:
        blocks_ref, starts_ref: of `mosaic_lists.PairedLists`.
        own_block, walked_block: rows of a block of what it keeps, and of what it walks.
    """
    pair = here.pair if own_block == ROWS else lax.div(here.pair, own_block // (CONSUMERS * ROWS))
    starts = (starts_ref[here.video, here.head, 3 * pair + which] for which in range(4))
    return Walk(blocks_ref, tuple(starts), walked_block)


def load_own(here: Program, full: Any, *copied: tuple[Callable[[Any, Array], Any], Any, Any]) -> None:
    """Copies a consumer's own tiles, and waits until they are there.

    Args:
        full: the barrier.
        copied: of each `here.tokens` or `here.numbers`, the array, and the shared memory.
    """
    for place, source, ref in copied:
        plgpu.copy_gmem_to_smem(place(source, here.own_row()), ref, full)
    plgpu.barrier_wait(full)


def run(
    here: Program,
    num_rows: int,
    registers: dict[str, int],
    consumer: Callable[[], None],
    producer: Callable[[], None],
) -> None:
    """What the warpgroups of a program do.

    Args:
        num_rows: of what consumers keep: the last pair may be one block alone.
        registers: of a thread of a "consumer" and of the "producer".
    """

    @pl.when((here.warpgroup < CONSUMERS) & (here.own_row() < num_rows))
    def _() -> None:
        plgpu.set_max_registers(registers["consumer"], action="increase")
        consumer()

    @pl.when(here.warpgroup == CONSUMERS)
    def _() -> None:
        plgpu.set_max_registers(registers["producer"], action="decrease")
        producer()


def consume(walk: Walk, arrays: Sequence[Slots], consumer: Array, step: Callable[..., State], state: State) -> State:
    """Walks the tiles of both lists of a consumer.

    Args:
        step: of a `Tile` of each of `arrays` and the state, to the state. It must wait for every tile and release it.
    """

    def shared(number: Array, state: State) -> State:
        slot = lax.rem(number, SLOTS)
        return step(*(array.shared(slot) for array in arrays), state)

    def own(number: Array, state: State) -> State:
        slot = consumer * OWN_SLOTS + lax.rem(number, OWN_SLOTS)
        return step(*(array.own(slot) for array in arrays), state)

    state = lax.fori_loop(0, walk.num_tiles(0), shared, state)
    return lax.fori_loop(0, jnp.where(consumer == 0, walk.num_tiles(1), walk.num_tiles(2)), own, state)


def produce(walk: Walk, arrays: Sequence[Slots], sources: Sequence[Sequence[Callable[[Array], Any]]]) -> None:
    """Fills the slots in the order in which `consume` walks them, and returns when all of them are free.

    Args:
        sources: for each of `arrays`, and each memory of it, what to copy from a row on.
    """
    num_shared, *num_own = (walk.num_tiles(which) for which in range(1 + CONSUMERS))

    def fetch(tile: Tile, copied: Sequence[Callable[[Array], Any]], row: Array) -> None:
        for ref, source in zip(tile.refs, copied, strict=True):
            plgpu.copy_gmem_to_smem(source(row), ref, tile.full)

    @pl.loop(0, num_shared)
    def _(number: Array) -> None:
        slot, row = lax.rem(number, SLOTS), walk.row(0, number)
        for array, copied in zip(arrays, sources, strict=True):
            pl.when(number >= SLOTS)(array.shared(slot).wait_free)
            fetch(array.shared(slot), copied, row)

    def fetch_own(number: Array, consumer: int) -> None:
        slot, row = consumer * OWN_SLOTS + lax.rem(number, OWN_SLOTS), walk.row(1 + consumer, number)
        for array, copied in zip(arrays, sources, strict=True):
            pl.when((number < OWN_SLOTS) & (slot < num_shared))(array.shared(slot).wait_free)
            pl.when(number >= OWN_SLOTS)(array.own(slot).wait_free)
            fetch(array.own(slot), copied, row)

    @pl.loop(0, jnp.maximum(*num_own))
    def _(number: Array) -> None:
        for consumer in range(CONSUMERS):
            pl.when(number < num_own[consumer])(functools.partial(fetch_own, number, consumer))

    for slot in range(SLOTS):
        consumer, place = divmod(slot, OWN_SLOTS)
        was_own = place < num_own[consumer]
        for array in arrays:
            pl.when(was_own)(array.own(slot).wait_free)
            pl.when(~was_own & (slot < num_shared))(array.shared(slot).wait_free)


def launch(
    body: Callable[..., None],
    arrays: Sequence[Array],
    *,
    name: str,
    outputs: Sequence[jax.ShapeDtypeStruct],
    scratch: dict[str, Any],
    grid: tuple[int, int, int],
    interpret: Any = None,
) -> Sequence[Array]:
    """Runs a kernel of a producer and two consumers.

    Args:
        body: of references to arrays and outputs, and of what `scratch` names.
        grid: videos, heads and pairs, pairs fastest, so that programs that run together share a head's tokens in the L2
            cache.
        interpret: parameters of Pallas' Mosaic GPU interpreter; None: on a GPU.
    """
    return plgpu.kernel(
        body,
        out_type=outputs,
        scratch_types=scratch,
        grid=grid,
        grid_names=Program._fields[:-1],
        num_threads=CONSUMERS + 1,
        thread_name=Program._fields[-1],
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(*arrays)
