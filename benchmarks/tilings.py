"""Time of every tiling of our kernels: `python -m benchmarks.tilings [--blocks 64x64] [--tokens 84480]`.

For tuning on the GPU at hand: forward, dq, and dk with dv (transposing the lists included), each alone, the fastest
first, with the default tiling marked. `python -m benchmarks.kernel_resources --sweep` says, without a GPU, what the
compiler makes of the same tilings.
"""

import argparse
import functools
from collections.abc import Callable, Iterator

import jax
import rich
from rich.table import Table

from benchmarks.attention import pair_of
from benchmarks.facts import reason
from benchmarks.kernel_cases import DTYPE, GRIDS, HEAD_WIDTH, HEADS, SPARSITY, tilings
from benchmarks.timing import times_of
from lcv_jax.kernels import flash_backward, flash_forward
from lcv_jax.kernels.block_select import Selection, pool_blocks, select_blocks
from lcv_jax.kernels.tiling import Tiling

FLOP = {"forward": 4, "dq": 6, "dkdv": 8}
"""Of a pair of tokens, a head and a channel: two a product, and the backward kernels both make the scores again and the
weights' gradients."""

Kernels = dict[str, tuple[Tiling, Callable[[Tiling], Callable[[], object]]]]


def kernels(q: jax.Array, k: jax.Array, v: jax.Array, d_out: jax.Array, blocks: tuple[int, int]) -> Kernels:
    """By name the default tiling, and what makes a call of a tiling. In Pallas' interpreter where there is no GPU."""
    options = {"block_q": blocks[0], "block_k": blocks[1], "interpret": jax.default_backend() == "cpu"}
    default = flash_forward.default_tiling(*blocks, q.shape[-1], q.dtype)
    default_dq, default_dkdv = flash_backward.default_tilings(*blocks, q.shape[-1], q.dtype)

    @jax.jit
    def select(q: jax.Array, k: jax.Array) -> Selection:
        pooled = pool_blocks(q, blocks[0]), pool_blocks(k, blocks[1])
        return select_blocks(*pooled, sparsity=SPARSITY, cdf_threshold=None)

    selection = select(q, k)
    out, lse = jax.jit(functools.partial(flash_forward.forward, **options))(q, k, v, selection)

    def forward(tiles: Tiling) -> Callable[[], object]:
        run = jax.jit(functools.partial(flash_forward.forward, tiles=tiles, **options))
        return lambda: run(q, k, v, selection)

    def backward(tiles: tuple[Tiling, Tiling], gradients: slice) -> Callable[[], object]:
        # What is not returned is not computed.
        all_of = functools.partial(flash_backward.backward, d_lse_BNS=None, tiles=tiles, **options)
        run = jax.jit(lambda *x: all_of(*x)[gradients])
        return lambda: run(q, k, v, selection, out, lse, d_out)

    return {
        "forward": (default, forward),
        "dq": (default_dq, lambda tiles: backward((tiles, default_dkdv), slice(1))),
        "dkdv": (default_dkdv, lambda tiles: backward((default_dq, tiles), slice(1, 3))),
    }


def rows(given: Kernels, blocks: tuple[int, int], teraflop: float, seconds: float) -> Iterator[tuple[str, ...]]:
    """The table's rows: a kernel after the other, each from its fastest tiling to what does not run.

    Args:
        teraflop: pairs of tokens that attend to each other, times heads, times channels, in 10^12.
    """
    for name, (default, call) in given.items():
        timed = []
        for tiles in tilings(blocks):
            try:
                taken = times_of(call(tiles), seconds=seconds).median
                told = f"{1000 * taken:.2f}", f"{FLOP[name] * teraflop / taken:.3g}"
            except Exception as error:  # a tiling that does not fit is a row, not the end
                taken, told = float("inf"), (reason(error), "")
            print(f"{name} {tiles}: {told[0]}", flush=True)
            size = f"{tiles.tile_q} x {tiles.tile_k}"
            mark = "default" if tiles == default else ""
            timed.append((taken, (name, size, str(tiles.num_warps), str(tiles.num_stages), *told, mark)))
        yield from (row for _, row in sorted(timed))


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=GRIDS[1].num_tokens)
    parser.add_argument("--blocks", type=pair_of, default=(64, 64), help="QUERIESxKEYS")
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--head-dim", type=int, default=HEAD_WIDTH)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default=DTYPE.name)
    parser.add_argument("--seconds", type=float, default=0.3, help="to spend on a tiling, once warm")
    args = parser.parse_args()

    shape = (4, 1, args.tokens, args.heads, args.head_dim)
    q, k, v, d_out = jax.jit(lambda key: tuple(jax.random.normal(key, shape, args.dtype)))(jax.random.key(0))
    num_keys = args.tokens // args.blocks[1]
    density = max(1, int((1 - SPARSITY) * num_keys)) / num_keys
    teraflop = args.tokens**2 * args.heads * args.head_dim * density / 1e12
    title = "{} x {} blocks, {:,} tokens, {:.2%} sparse, {}".format(
        *args.blocks, args.tokens, SPARSITY, jax.devices()[0].device_kind
    )
    table = Table("kernel", "tiles", "warps", "stages", "ms", "TF/s", "", title=title)
    for row in rows(kernels(q, k, v, d_out, args.blocks), args.blocks, teraflop, args.seconds):
        table.add_row(*row)
    rich.print(table)


if __name__ == "__main__":
    main()
