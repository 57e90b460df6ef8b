"""Programs that hold every kernel of ours, compiled for a described GPU: `python -m benchmarks.kernel_cases h200`.

kernel_resources.py starts this, with XLA_FLAGS that make the compiler leave its work behind. A line of JSON a program
says how it went.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from lcv_jax.gpus import described_devices
from lcv_jax.kernels import flash_backward, flash_forward, mosaic_ring
from lcv_jax.kernels.attention import attention, ordered_block_sparse_attention
from lcv_jax.kernels.block_order import block_order
from lcv_jax.kernels.block_select import Selection
from lcv_jax.kernels.norm_rope import norm_rope
from lcv_jax.kernels.platform import compiling_for
from lcv_jax.kernels.residual_norm import residual_norm
from lcv_jax.kernels.tiling import Tiling

HEADS, HEAD_WIDTH, DTYPE = 32, 128, jnp.dtype(jnp.bfloat16)
SPARSITY = 0.9375
MOSAIC_DUMP = "MOSAIC_GPU_DUMP_TO"
"""The environment's name of the folder in which Mosaic's compiler leaves its work; here one of folders, one a case."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Tokens of a video, frames x rows x columns, as the released model makes them."""

    name: str
    shape: tuple[int, int, int]

    @property
    def num_tokens(self) -> int:
        return math.prod(self.shape)


GRIDS = (
    Grid("480p x 93", (24, 30, 52)),
    Grid("720p x 93", (24, 44, 80)),
    Grid("720p x 189", (48, 44, 80)),
)
BLOCKS = ((64, 64), (64, 128), (128, 64), (128, 1024))


@dataclasses.dataclass(frozen=True)
class Case:
    """A program: attention and its gradients."""

    implementation = "pallas_triton"

    num_tokens: int
    blocks: tuple[int, int] | None
    """Tokens of a query block and of a key block; None is dense."""
    tiles: Tiling | None = None
    """Of every kernel, instead of the one it would take."""

    @property
    def name(self) -> str:
        """The name of the compiled module, and of the files that the compiler leaves."""
        blocks = "dense" if self.blocks is None else "{}x{}".format(*self.blocks)
        tiles = "" if self.tiles is None else "_{}x{}_{}_{}".format(*dataclasses.astuple(self.tiles))
        return f"attention_{self.num_tokens}_{blocks}{tiles}"

    def tiles_of(self) -> dict[str, str]:
        """The tiles of each kernel, by the end of its name."""
        blocks = (*(self.blocks or (self.num_tokens, self.num_tokens)), HEAD_WIDTH, DTYPE)
        defaults = flash_forward.default_tiling(*blocks), *flash_backward.default_tilings(*blocks)
        return {
            kernel: f"{(self.tiles or its).tile_q} x {(self.tiles or its).tile_k}"
            for kernel, its in zip(("forward", "dq", "dkdv"), defaults, strict=True)
        }

    def program(self) -> Callable:
        """Output and gradients of queries, keys, values and the output's gradient."""
        if self.tiles is not None:
            return self._tiled_program()

        def attend(q, k, v):
            if self.blocks is None:
                return attention(q, k, v, implementation=self.implementation)
            block_q, block_k = self.blocks
            return ordered_block_sparse_attention(
                q, k, v, block_q=block_q, block_k=block_k, sparsity=SPARSITY, implementation=self.implementation
            )

        def gradients(q, k, v, d_out):
            out, pull_back = jax.vjp(attend, q, k, v)
            return out, pull_back(d_out)

        return gradients

    def _tiled_program(self) -> Callable:
        def gradients(q, k, v, d_out, selection):
            blocks = self.blocks or (self.num_tokens, self.num_tokens)
            out, lse = flash_forward.forward(q, k, v, selection, *blocks, tiles=self.tiles)
            tiles = self.tiles, self.tiles
            return out, flash_backward.backward(q, k, v, selection, out, lse, d_out, None, *blocks, tiles=tiles)

        return gradients

    def arguments(self, device: jax.Device) -> tuple:
        """Shapes to compile the program for."""

        def shaped(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

        x = shaped((1, self.num_tokens, HEADS, HEAD_WIDTH), DTYPE)
        if self.tiles is None:
            return x, x, x, x
        if self.blocks is None:
            return x, x, x, x, None
        num_queries, num_keys = (self.num_tokens // block for block in self.blocks)
        lists = (1, HEADS, num_queries, int((1 - SPARSITY) * num_keys))
        return x, x, x, x, Selection(shaped(lists, jnp.int32), shaped(lists[:-1], jnp.int32))


class MosaicCase(Case):
    """The same by the Mosaic GPU kernels, whose tiles are all alike."""

    implementation = "pallas_mosaic_gpu"

    @property
    def name(self) -> str:
        return f"mosaic_{super().name}"

    def tiles_of(self) -> dict[str, str]:
        return dict.fromkeys(("forward", "dq", "dkdv"), f"{mosaic_ring.ROWS} x {mosaic_ring.ROWS}")


class NormRopeCase(Case):
    """A program of what comes before attention: norm and RoPE of keys, and the means of their blocks."""

    @property
    def name(self) -> str:
        return f"norm_rope_{self.num_tokens}"

    def program(self) -> Callable:
        assert self.blocks is not None
        block = self.blocks[1]

        def turn(x, *how):
            return norm_rope(x, *how, block=block, implementation=self.implementation)

        return turn

    def arguments(self, device: jax.Device) -> tuple:
        x, *_ = super().arguments(device)
        shaped = functools.partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
        table = shaped((self.num_tokens, HEAD_WIDTH // 2), jnp.float32)
        return x, shaped((HEAD_WIDTH,), DTYPE), table, table


class ResidualNormCase(Case):
    """A program of what comes after attention: a gated residual and its norm, of tokens in blocks of 4 x 4 x 4."""

    @property
    def name(self) -> str:
        return f"residual_norm_{self.num_tokens}"

    def _grid(self) -> tuple[int, int, int]:
        return next(grid.shape for grid in GRIDS if grid.num_tokens == self.num_tokens)

    def program(self) -> Callable:
        order = block_order(self._grid(), (4, 4, 4))

        def add(*given):
            return residual_norm(*given, order=order, implementation=self.implementation)

        return add

    def arguments(self, device: jax.Device) -> tuple:
        shaped = functools.partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
        channels = HEADS * HEAD_WIDTH
        x, channel = shaped((1, self.num_tokens, channels), DTYPE), shaped((channels,), DTYPE)
        return x, x, shaped((1, self._grid()[0], channels), jnp.float32), channel, channel


def cases() -> Iterator[Case]:
    """The 480p and 720p sizes with the released block size, and each other block size at the smallest it divides."""
    for grid in GRIDS[:2]:
        yield Case(grid.num_tokens, None)
        yield Case(grid.num_tokens, BLOCKS[0])
    for blocks in BLOCKS[1:]:
        fitting = (grid.num_tokens for grid in GRIDS[1:] if not any(grid.num_tokens % block for block in blocks))
        yield Case(next(fitting), blocks)
    yield MosaicCase(GRIDS[1].num_tokens, BLOCKS[0])
    yield NormRopeCase(GRIDS[1].num_tokens, BLOCKS[0])
    yield ResidualNormCase(GRIDS[1].num_tokens, BLOCKS[0])


def tilings(blocks: tuple[int, int] | None) -> Iterator[Tiling]:
    """What a kernel could be given instead, within a block."""
    most_q, most_k = blocks or (128, 128)
    for tile_q, tile_k, num_warps, num_stages in itertools.product((32, 64, 128), (32, 64, 128), (4, 8), (1, 2, 3, 4)):
        if tile_q <= most_q and tile_k <= most_k:
            yield Tiling(tile_q, tile_k, num_warps, num_stages)


def main() -> None:
    """Compiles the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gpu")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--sweep", action="store_true", help="in every tiling")
    args = parser.parse_args()
    (device,) = described_devices(args.gpu)
    chosen = [case for case in cases() if args.only in case.name]
    if args.sweep:
        tiled = [case for case in chosen if type(case) is Case]
        chosen = [dataclasses.replace(case, tiles=tiles) for case in tiled for tiles in tilings(case.blocks)]
    mosaic_dump = os.environ.get(MOSAIC_DUMP)
    for case in chosen:
        if mosaic_dump:
            # Mosaic's files do not say of which program they are.
            folder = Path(mosaic_dump) / case.name
            folder.mkdir(parents=True)
            os.environ[MOSAIC_DUMP] = str(folder)
        start, error, temporary = time.perf_counter(), None, 0
        program = case.program()
        program.__name__ = case.name
        try:
            with compiling_for("gpu"):
                compiled = jax.jit(program).trace(*case.arguments(device)).lower().compile()
            temporary = compiled.memory_analysis().temp_size_in_bytes
        except Exception:  # whatever it is, the other cases still have something to tell
            error = traceback.format_exc(limit=-3)
        told = {"name": case.name, "num_tokens": case.num_tokens, "blocks": case.blocks, "tiles": case.tiles_of()}
        went = {"seconds": time.perf_counter() - start, "temporary_bytes": temporary, "error": error}
        print(json.dumps({**told, **went}), flush=True)


if __name__ == "__main__":
    main()
