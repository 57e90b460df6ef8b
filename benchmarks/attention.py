"""Time of dense and block-sparse attention: `python -m benchmarks.attention [--json FILE] [--chart FILE.png]`.

Prints a table and asserts nothing. The defaults are the released model's at 480p and 720p, for a GPU, and take some
minutes there; on a CPU:

    python -m benchmarks.attention --tokens 3520 7040 14080 --heads 4 --head-dim 64 --dtype float32

Inputs are normal random numbers, made on the device. A time is the median of warm calls. TF/s are of the products that
are done: 4 x queries x keys x heads x head width forward, 10 of them backward, for the pairs of blocks that are
attended to. "of matmul" is the share of what one large matrix product reaches in the same run, in the same dtype.
"speed-up" is over the fastest dense implementation at that number of tokens. A sparse forward pass includes the
selection (pool, score, choose), which has a row of its own, as has attention alone. A backward pass starts from the
forward pass's results.
"""

import argparse
import dataclasses
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.facts import facts, reason
from benchmarks.kernel_cases import BLOCKS, GRIDS
from benchmarks.timing import Times, times_of
from lcv_jax.kernels.attention import attention, ordered_block_sparse_attention, selected_attention_with_lse
from lcv_jax.kernels.block_select import Selection, pool_blocks, select_blocks
from lcv_jax.kernels.implementations import IMPLEMENTATIONS, SPARSE_ONLY, selects_by

DENSE_ONLY, COMPARED_LAST = ("cudnn",), (*SPARSE_ONLY, "xla")
SPARSITIES = (0.9375, 0.875, 0.0)
FLOP = {"selection": 0, "attention alone": 4, "forward": 4, "backward": 10}
"""Of a pair of tokens, a head and a channel, by pass. Attention alone is sparse attention, the selection in hand."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is timed together: the passes of one implementation on one size."""

    num_tokens: int
    implementation: str
    blocks: tuple[int, int] | None = None
    """Tokens of a query block and of a key block; None is dense."""
    sparsity: float = 0.0

    def __str__(self) -> str:
        how = "dense" if self.blocks is None else "{} x {}, {:.2%} sparse".format(*self.blocks, self.sparsity)
        return f"{self.num_tokens:,} tokens, {how}, {self.implementation}"

    @property
    def density(self) -> float:
        """Share of the pairs of blocks that are attended to."""
        if self.blocks is None:
            return 1.0
        num_keys = self.num_tokens // self.blocks[1]
        return max(1, int((1 - self.sparsity) * num_keys)) / num_keys

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        if self.blocks is None:
            return attention(q, k, v, implementation=self.implementation)
        block_q, block_k = self.blocks
        return ordered_block_sparse_attention(
            q, k, v, block_q=block_q, block_k=block_k, sparsity=self.sparsity, implementation=self.implementation
        )

    def select(self, q: jax.Array, k: jax.Array) -> Selection:
        block_q, block_k = self.blocks or (1, 1)
        return select_blocks(
            pool_blocks(q, block_q),
            pool_blocks(k, block_k),
            sparsity=self.sparsity,
            cdf_threshold=None,
            implementation=selects_by(self.implementation),
        )

    def attend_selected(self, q: jax.Array, k: jax.Array, v: jax.Array, selection: Selection) -> tuple:
        block_q, block_k = self.blocks or (1, 1)
        return selected_attention_with_lse(
            q, k, v, selection, block_q=block_q, block_k=block_k, implementation=self.implementation
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One pass of some work; times are None where `note` says why."""

    work: Work
    what: str
    times: Times | None
    teraflop: float
    note: str = ""

    @property
    def rate(self) -> float | None:
        """TF/s executed."""
        return self.teraflop / self.times.median if self.times and self.teraflop else None


class Clock:
    """When the run has to end, and how long things took, so that nothing is started that would not."""

    def __init__(self, minutes: float, slowest: float):
        self.end = time.monotonic() + 60 * minutes
        self.slowest = slowest
        self.seconds_per_teraflop: dict[tuple[str, bool, str], float] = {}

    def why_not(self, work: Work, what: str, teraflop: float) -> str:
        """A reason to leave a pass out; empty to go on."""
        if time.monotonic() > self.end:
            return "no time left, see --minutes"
        expected = teraflop * self.seconds_per_teraflop.get((work.implementation, work.blocks is None, what), 0.0)
        return f"would take some {expected:.0f} s, see --slowest" if expected > self.slowest else ""

    def note(self, row: Row) -> None:
        if row.times and row.teraflop:
            key = row.work.implementation, row.work.blocks is None, row.what
            self.seconds_per_teraflop[key] = row.times.median / row.teraflop


def plan(args: argparse.Namespace) -> list[Work]:
    """The work, what matters most first: should time run out, it is the rest that is missing."""
    ranked = []
    for tokens, name in itertools.product(args.tokens, args.implementations):
        last = name in COMPARED_LAST and len(args.implementations) > 1
        if name not in SPARSE_ONLY:
            ranked.append((last, 0, Work(tokens, name)))
        if name in DENSE_ONLY:
            continue
        for number, sparsity in enumerate(args.sparsity):
            ranked.append((last, number, Work(tokens, name, args.blocks[0], sparsity)))
        for block in args.blocks[1:]:
            ranked.append((last, len(args.sparsity), Work(tokens, name, block, args.sparsity[0])))
    return [work for _, _, work in sorted(ranked, key=lambda each: each[:2])]


def passes_of(work: Work, x: tuple[jax.Array, ...]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each pass, compiled, as a call; a pass may need the results of the one before it."""
    q, k, v, d_out = x
    jax.eval_shape(work.attend, q, k, v)  # an implementation that cannot run says so before anything else does
    if work.blocks is not None:
        select, attend = jax.jit(work.select), jax.jit(work.attend_selected)
        yield "selection", lambda: select(q, k)
        selection = select(q, k)
        yield "attention alone", lambda: attend(q, k, v, selection)
    forward = jax.jit(work.attend)
    yield "forward", lambda: forward(q, k, v)
    # The function that jax.vjp returns is a pytree of the forward pass's results.
    _, pull_back = jax.jit(lambda q, k, v: jax.vjp(work.attend, q, k, v))(q, k, v)
    backward = jax.jit(lambda pull_back, d_out: pull_back(d_out))
    yield "backward", lambda: backward(pull_back, d_out)


def measure(work: Work, x: tuple[jax.Array, ...], clock: Clock, seconds: float) -> Iterator[Row]:
    """Times every pass; what cannot run gives a row that says why."""
    _, S, N, K = x[0].shape
    per_product = S * S * N * K * work.density / 1e12
    if work.blocks is not None and any(S % block for block in work.blocks):
        yield Row(work, "forward", None, 0.0, "tokens are no multiple of the blocks")
        return
    what = "selection" if work.blocks is not None else "forward"
    try:
        if note := clock.why_not(work, "forward", FLOP["forward"] * per_product):
            yield Row(work, "forward", None, 0.0, note)
            return
        for what, run in passes_of(work, x):
            teraflop = FLOP[what] * per_product
            if note := clock.why_not(work, what, teraflop):
                yield Row(work, what, None, 0.0, note)
                return
            row = Row(work, what, times_of(run, seconds=seconds), teraflop)
            clock.note(row)
            yield row
    except Exception as error:  # a row says it, and the others still count
        yield Row(work, what, None, 0.0, reason(error))


def matmul_rate(size: int, dtype: jnp.dtype, seconds: float) -> float:
    """TF/s of a square matrix product of normal random numbers."""
    x, y = jax.jit(lambda key: jax.random.normal(key, (2, size, size), dtype))(jax.random.key(0))
    product = jax.jit(jnp.dot)
    return 2 * size**3 / times_of(lambda: product(x, y), seconds=seconds).median / 1e12


def printed(rows: list[Row], matmul: float) -> Table:
    """The table of what was timed, by tokens, sparsity and blocks."""
    table = Table()
    for heading in ("tokens", "blocks", "sparsity", "implementation", "pass", "ms", "TF/s", "of matmul", "speed-up"):
        table.add_column(heading, justify="left" if heading in ("implementation", "pass") else "right", no_wrap=True)
    for row in sorted(rows, key=order):
        if row.times is None:
            continue
        work, faster, share = row.work, speed_up(row, rows), selection_share(row, rows)
        table.add_row(
            f"{work.num_tokens:,}",
            "{} x {}".format(*work.blocks) if work.blocks else "dense",
            f"{work.sparsity:.2%}" if work.blocks else "",
            work.implementation,
            f"{row.what}, {share:.1%} of forward" if share else row.what,
            f"{1000 * row.times.median:.2f}",
            f"{row.rate:.3g}" if row.rate else "",
            f"{row.rate / matmul:.1%}" if row.rate else "",
            f"{faster:.2f}" if faster else "",
        )
    return table


def order(row: Row) -> tuple:
    """What rows are sorted by."""
    work = row.work
    return work.num_tokens, work.sparsity, work.blocks or (0, 0), list(FLOP).index(row.what), work.implementation


def speed_up(row: Row, rows: list[Row]) -> float | None:
    """Over the fastest dense implementation of the same pass at the same number of tokens."""
    what = "backward" if row.what == "backward" else "forward"
    dense = [
        other.times.median
        for other in rows
        if (other.work.num_tokens, other.work.blocks, other.what) == (row.work.num_tokens, None, what) and other.times
    ]
    return min(dense) / row.times.median if row.times and row.teraflop and dense else None


def selection_share(row: Row, rows: list[Row]) -> float | None:
    """Of a selection, its part of the forward pass."""
    whole = [other.times.median for other in rows if other.work == row.work and other.what == "forward" and other.times]
    return row.times.median / whole[0] if row.what == "selection" and row.times and whole else None


def as_json(rows: list[Row], matmul: list[float], args: argparse.Namespace) -> dict:
    """Everything that the table says, and where it is from."""
    return {
        **facts(shlex.join(["python", "-m", "benchmarks.attention", *sys.argv[1:]])),
        "heads": args.heads,
        "head_dim": args.head_dim,
        "dtype": args.dtype,
        "matmul_tflops": {"size": args.matmul_size, "before": matmul[0], "after": matmul[-1]},
        "rows": [row_as_json(row, rows, max(matmul)) for row in sorted(rows, key=order)],
    }


def row_as_json(row: Row, rows: list[Row], matmul: float) -> dict:
    """A row of the table; `rows` are all those that it is compared with."""
    return {
        **dataclasses.asdict(row.work),
        "density": row.work.density,
        "pass": row.what,
        "median_ms": 1000 * row.times.median if row.times else None,
        "fastest_ms": 1000 * row.times.fastest if row.times else None,
        "repeats": row.times.repeats if row.times else 0,
        "tflops": row.rate,
        "of_matmul": row.rate / matmul if row.rate else None,
        "speed_up": speed_up(row, rows),
        "selection_share": selection_share(row, rows),
        "note": row.note,
    }


def arguments() -> argparse.Namespace:
    """What to time, and for how long."""
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [GRIDS[1].num_tokens, GRIDS[0].num_tokens, GRIDS[2].num_tokens]
    parser.add_argument("--tokens", nargs="+", type=int, default=sizes)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    sparsity = "the first one also for every block size but the first"
    parser.add_argument("--sparsity", nargs="+", type=float, default=list(SPARSITIES), help=sparsity)
    parser.add_argument("--blocks", nargs="+", type=pair_of, default=list(BLOCKS), help="QUERIESxKEYS, such as 64x128")
    parser.add_argument("--implementations", nargs="+", default=[n for n in IMPLEMENTATIONS if "interpret" not in n])
    parser.add_argument("--matmul-size", type=int, default=2048 if on_cpu else 8192)
    parser.add_argument("--seconds", type=float, default=4.0 if on_cpu else 0.7, help="to spend on a row, once warm")
    parser.add_argument("--slowest", type=float, default=60.0 if on_cpu else 4.0, help="seconds a single call may take")
    parser.add_argument("--minutes", type=float, default=60.0 if on_cpu else 7.0, help="nothing is begun after these")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="time against tokens: a .png or .svg")
    return parser.parse_args()


def pair_of(text: str) -> tuple[int, int]:
    """64x128 -> (64, 128)."""
    block_q, block_k = map(int, text.split("x"))
    return block_q, block_k


def main() -> None:
    """Measures, prints as it goes, then the whole table."""
    args = arguments()
    dtype, clock, device = jnp.dtype(args.dtype), Clock(args.minutes, args.slowest), jax.devices()[0].device_kind
    if args.chart:
        from benchmarks import charts  # matplotlib is looked for before the work, not after it
    matmul = [matmul_rate(args.matmul_size, dtype, args.seconds)]
    print(f"{device}, {args.dtype}: a product of {args.matmul_size}^3 runs at {matmul[0]:.3g} TF/s", flush=True)
    rows: list[Row] = []
    x, missing = (), set()
    for work in plan(args):
        if work.implementation in missing:
            continue
        if not x or x[0].shape[1] != work.num_tokens:
            x = ()
            shape = (4, 1, work.num_tokens, args.heads, args.head_dim)
            x = tuple(jax.jit(lambda key, shape=shape: jax.random.normal(key, shape, dtype))(jax.random.key(1)))
        for row in measure(work, x, clock, args.seconds):
            took = f"{1000 * row.times.median:.2f} ms" if row.times else row.note
            print(f"{work}: {row.what}: {took}" + (f", {row.rate:.3g} TF/s" if row.rate else ""), flush=True)
            rows.append(row)
            if row.note.startswith(("NotImplementedError", "ImportError", "ModuleNotFoundError")):
                missing.add(work.implementation)
    matmul.append(matmul_rate(args.matmul_size, dtype, args.seconds))
    Console(width=None if sys.stdout.isatty() else 120).print(printed(rows, max(matmul)))
    print(f"{device}, {args.heads} heads of {args.head_dim}, {args.dtype}")
    print(f"a product of {args.matmul_size}^3: {matmul[0]:.3g} TF/s before, {matmul[1]:.3g} after")
    print("\n".join(f"not timed: {row.work}: {row.what}: {row.note}" for row in rows if not row.times))
    result = as_json(rows, matmul, args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    if args.chart:
        charts.draw(result, args.chart)


if __name__ == "__main__":
    main()
