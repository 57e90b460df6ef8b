"""Programs that hold every kernel of ours, compiled for a described GPU: `python -m benchmarks.kernel_cases h200`.

kernel_resources.py starts this, with XLA_FLAGS that make the compiler leave its work behind. A line of JSON a program
says how it went.
"""

import argparse
import dataclasses
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from lcv_jax.gpus import described_devices
from lcv_jax.kernels.attention import attention, ordered_block_sparse_attention
from lcv_jax.kernels.platform import compiling_for

HEADS, HEAD_WIDTH = 32, 128
IMPLEMENTATION = "pallas_triton"
SPARSITY = 0.9375


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

    num_tokens: int
    blocks: tuple[int, int] | None
    """Tokens of a query block and of a key block; None is dense."""

    @property
    def name(self) -> str:
        """The name of the compiled module, and of the files that the compiler leaves."""
        blocks = "dense" if self.blocks is None else "{}x{}".format(*self.blocks)
        return f"attention_{self.num_tokens}_{blocks}"

    def program(self) -> Callable:
        def gradients(q, k, v, d_out):
            if self.blocks is None:
                out, backward = jax.vjp(lambda q, k, v: attention(q, k, v, implementation=IMPLEMENTATION), q, k, v)
            else:
                block_q, block_k = self.blocks
                out, backward = jax.vjp(
                    lambda q, k, v: ordered_block_sparse_attention(
                        q, k, v, block_q=block_q, block_k=block_k, sparsity=SPARSITY, implementation=IMPLEMENTATION
                    ),
                    q,
                    k,
                    v,
                )
            return out, backward(d_out)

        gradients.__name__ = self.name
        return jax.jit(gradients)


def cases() -> Iterator[Case]:
    """The 480p and 720p sizes with the released block size, and each other block size at the smallest it divides."""
    for grid in GRIDS[:2]:
        yield Case(grid.num_tokens, None)
        yield Case(grid.num_tokens, BLOCKS[0])
    for blocks in BLOCKS[1:]:
        fitting = (grid.num_tokens for grid in GRIDS[1:] if not any(grid.num_tokens % block for block in blocks))
        yield Case(next(fitting), blocks)


def main() -> None:
    """Compiles the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gpu")
    parser.add_argument("--only", default="", help="cases with this in their name")
    args = parser.parse_args()
    (device,) = described_devices(args.gpu)
    for case in cases():
        if args.only not in case.name:
            continue
        shape = (1, case.num_tokens, HEADS, HEAD_WIDTH)
        x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=SingleDeviceSharding(device))
        start, error = time.perf_counter(), None
        try:
            with compiling_for("gpu"):
                case.program().trace(x, x, x, x).lower().compile()
        except Exception:  # whatever it is, the other cases still have something to tell
            error = traceback.format_exc(limit=-3)
        print(json.dumps({"name": case.name, "seconds": time.perf_counter() - start, "error": error}), flush=True)


if __name__ == "__main__":
    main()
