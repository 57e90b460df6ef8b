"""Stage: dense and block-sparse attention by every implementation, beside the card's own matrix product."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.attention import Clock, Work, matmul_rate, measure, row_as_json
from benchmarks.kernel_cases import GRIDS

SPARSITY = 0.9375
SMALL, LARGE = (grid.num_tokens for grid in GRIDS[:2])
WORKS = (
    Work(LARGE, "pallas_triton", (64, 64), SPARSITY),
    Work(LARGE, "cudnn"),
    Work(LARGE, "pallas_mosaic_gpu", (64, 64), SPARSITY),
    Work(LARGE, "jax_triton", (64, 64), SPARSITY),
    Work(SMALL, "cudnn"),
    Work(SMALL, "pallas_triton"),
    Work(LARGE, "pallas_triton", (128, 64), SPARSITY),
    Work(LARGE, "pallas_mosaic_gpu", (128, 64), SPARSITY),
    Work(LARGE, "pallas_triton"),
)
"""What matters most first: sparse attention of a refined video, the dense one of 480p and 720p."""
TOY_WORKS = (Work(256, "xla", (64, 64), 0.75), Work(256, "xla"), Work(256, "cudnn"))


def rows(toy: bool) -> Iterator[dict[str, Any]]:
    """A row for the matrix product, then one for every pass of every work."""
    seconds, heads, width = (0.001, 2, 16) if toy else (0.3, 32, 128)
    dtype = jnp.dtype(jnp.float32 if toy else jnp.bfloat16)
    size = 64 if toy else 8192
    matmul = matmul_rate(size, dtype, seconds)
    yield {"matmul_size": size, "dtype": dtype.name, "tflops": matmul}
    clock, found = Clock(minutes=60, slowest=4.0), []
    x: tuple[jax.Array, ...] = ()
    for work in TOY_WORKS if toy else WORKS:
        if not x or x[0].shape[1] != work.num_tokens:
            x = ()
            shape = (4, 1, work.num_tokens, heads, width)
            x = tuple(jax.jit(lambda key, shape=shape: jax.random.normal(key, shape, dtype))(jax.random.key(1)))
        for row in measure(work, x, clock, seconds):
            found.append(row)
            yield {"heads": heads, "head_dim": width, "dtype": dtype.name, **row_as_json(row, found, matmul)}
