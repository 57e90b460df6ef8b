"""What the compiler makes of our kernels, without a GPU: `python -m benchmarks.kernel_resources [--check PAGE]`.

Compiles every kernel for the described GPUs (lcv_jax/gpus) in a process of its own, reads the PTX and the launch sizes
that XLA leaves, asks ptxas for registers and spills, and prints a table. Fails where a kernel does not compile, spills,
or multiplies matrices without Hopper's tensor cores (wgmma). `--write PAGE` puts the table between two markers of a
page (docs/kernels.md), `--check PAGE` fails when the page has another one.

Needs `pip install "lcv_jax[gpu-compile]"`.
"""

import argparse
import dataclasses
import difflib
import functools
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.kernel_cases import MOSAIC_DUMP
from benchmarks.pages import put_between
from lcv_jax import gpus
from lcv_jax.kernels.mosaic_ring import SLOTS

BEGIN, END = "<!-- kernel resources: begin -->", "<!-- kernel resources: end -->"
put_between_markers = functools.partial(put_between, begin=BEGIN, end=END)
HOPPERS = ("h100", "h200")
"""The described GPUs that the table is about."""
ARCHITECTURE = "sm_90a"
MOSAIC = "mosaic"
"""Folder of what Mosaic's compiler leaves, beside what XLA leaves."""

COLUMNS = (
    *("kernel", "tokens", "blocks", "tiles", "warps", "stages"),
    *("registers", "spills", "shared memory", "products", "loop", "waits", "programs"),
)

PTXAS_PACKAGES = ("cuda_nvcc", "cu13")
"""Folders of NVIDIA's packages that have a compiler, CUDA 12 and 13."""

WITHOUT_PRODUCTS = ("norm_rope", "residual_norm", "select_blocks")
"""Kernels that multiply no matrices: of them alone no tensor cores are asked."""

PRODUCT = re.compile(r"^\s*(wgmma\.mma_async|mma)\.\S*sync", re.MULTILINE)
THREADS_PER_WARP, REGISTERS_AT_ONCE, RESERVED_SHARED_MEMORY, MAX_PROGRAMS = 32, 256, 1024, 32
"""Of compute capability 9.0: registers are given a warp at a time in pieces, a program takes 1 KiB more shared memory
than it asks for, and a multiprocessor runs 32 programs at most."""


@dataclasses.dataclass(frozen=True)
class Assembled:
    """What the assembler and the PTX of a kernel say."""

    registers: int
    spills: int
    products: str
    """wgmma, mma (the tensor cores as before Hopper), both or none."""
    loop: int
    """PTX instructions of a step of the main loop, 0 where it multiplies no matrices."""
    waits: str
    """How many groups of loads may be under way where a step waits for its own; empty where it waits for none."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """A kernel's row of the table."""

    kernel: str
    num_tokens: int
    blocks: str
    tiles: str
    """Queries x keys that a program multiplies at once."""
    num_warps: int
    num_stages: int
    registers: int
    shared_memory: int
    spills: int
    products: str
    loop: int
    waits: str
    programs: int
    """That fit a multiprocessor together."""
    limit: str
    """What keeps one more from fitting."""

    def problems(self) -> list[str]:
        """What a kernel of ours may not do."""
        where = f"{self.kernel}, {self.num_tokens} tokens, {self.blocks}"
        found = [f"{where}: spills {self.spills} bytes"] if self.spills else []
        if self.products != "wgmma" and self.kernel not in WITHOUT_PRODUCTS:
            found.append(f"{where}: no wgmma, products by {self.products}")
        return found


def programs_per_core(gpu: gpus.GPU, num_warps: int, registers: int, shared_memory: int) -> tuple[int, str]:
    """How many programs a multiprocessor runs at once, and what limits it.

    Args:
        registers: of a thread; shared_memory: bytes of a program.
    """
    registers_per_warp = -(-registers * THREADS_PER_WARP // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
    # Warps live in one of four quarters of a multiprocessor, each with a quarter of its registers.
    warps = 4 * (gpu.registers_per_core // 4 // registers_per_warp)
    limits = {
        "registers": warps // num_warps,
        "shared memory": gpu.shared_memory_per_core // (shared_memory + RESERVED_SHARED_MEMORY),
        "threads": gpu.threads_per_core // (num_warps * THREADS_PER_WARP),
        "programs": MAX_PROGRAMS,
    }
    limit = min(limits, key=lambda name: limits[name])
    return limits[limit], limit


def ptxas() -> Path:
    """The assembler, of NVIDIA's packages or on the path.

    Raises:
        OSError: there is none.
    """
    for folder in sys.path:
        for package in PTXAS_PACKAGES:
            candidate = Path(folder) / "nvidia" / package / "bin" / "ptxas"
            if candidate.is_file():
                return candidate
    if found := shutil.which("ptxas"):
        return Path(found)
    raise OSError('no ptxas here: pip install "lcv_jax[gpu-compile]"')


def main_loop(body: str) -> list[str]:
    """The instructions of the loop of a kernel's PTX that multiplies matrices, a line each; empty if none does."""
    lines = body.splitlines()
    labels = {line.split(":")[0]: number for number, line in enumerate(lines) if re.match(r"\$\w+:", line)}
    loops = []
    for number, line in enumerate(lines):
        back = re.search(r"\bbra(?:\.uni)?\s+(\$\w+);", line)
        if back and labels.get(back.group(1), number) < number:
            loop = lines[labels[back.group(1)] + 1 : number + 1]
            loops.append([one for one in loop if re.match(r"\s+(@!?%p\d+\s+)?[a-z]", one)])
    with_products = [loop for loop in loops if any(PRODUCT.search(line) for line in loop)]
    return min(with_products, key=len, default=[])


def waits_of(loop: list[str]) -> str:
    """How many groups of loads may be under way at each wait of a loop for some of them."""
    found = re.findall(r"cp\.async\.wait_group\s+(\d+);", "\n".join(loop))
    return ", ".join(dict.fromkeys(found))


def assemblers_report(ptx: Path) -> str:
    """What the assembler says of a file: Mosaic, which has a newer one, leaves it beside the PTX."""
    if (left := ptx.with_suffix(".ptxas")).exists():
        return left.read_text()
    command = [ptxas(), "--verbose", f"--gpu-name={ARCHITECTURE}", ptx, "--output-file", os.devnull]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def assembled(ptx_files: list[Path]) -> dict[str, Assembled]:
    """Of every kernel in the files what it takes."""
    found = {}
    for path in ptx_files:
        # Mosaic wraps every product in braces, with a predicate that is always true.
        text = re.sub(r"\{ \.reg \.pred p; [^;]+; (?=wgmma)", "", path.read_text())
        if ".entry" not in text:
            continue
        report = assemblers_report(path)
        # A piece starts with its kernel's name.
        bodies = {piece.split("(", 1)[0].strip(): piece for piece in text.split(".entry ")[1:]}
        for piece in report.split("Compiling entry function '")[1:]:
            name = piece.split("'", 1)[0]
            spills = sum(int(count) for count in re.findall(r"(\d+) bytes spill", piece))
            registers = int(re.findall(r"Used (\d+) registers", piece)[0])
            kinds = [
                kind for kind in ("wgmma", "mma") if re.search(rf"^\s*{kind}\.\S*sync", bodies[name], re.MULTILINE)
            ]
            loop = main_loop(bodies[name])
            found[name] = Assembled(registers, spills, " and ".join(kinds) or "none", len(loop), waits_of(loop))
    return found


def read_case(folder: Path, case: dict, gpu: gpus.GPU) -> list[Resources]:
    """The kernels of a compiled program, of the files that XLA left of it."""
    name = case["name"]

    def text(pattern: str) -> str:
        return "\n".join(path.read_text() for path in folder.glob(f"*.jit_{name}.{pattern}"))

    pallas = {
        kernel: (int(stages), int(warps))
        for kernel, stages, warps in re.findall(
            r'name = "(\w+)", num_stages = (\d+) : i32, num_warps = (\d+)', text("*gpu_after_optimizations.txt")
        )
    }
    launches = re.findall(
        r"(\w+) grid: \[.*?\] threads: \[.*?\]\s+shared_memory: (\d+) bytes", text("thunk_sequence.txt")
    )
    reports = assembled(sorted(folder.glob(f"*.jit_{name}.*.ptx")))
    found = [
        (kernel, int(shared_memory), *pallas[kernel], reports[kernel])
        for kernel, shared_memory in sorted(set(launches))
        if kernel in pallas
    ]
    rows = []
    for kernel, shared_memory, num_stages, num_warps, report in found + mosaic_kernels(folder / MOSAIC / name):
        programs, limit = programs_per_core(gpu, num_warps, report.registers, shared_memory)
        rows.append(
            Resources(
                kernel=kernel,
                num_tokens=case["num_tokens"],
                blocks="{} x {}".format(*case["blocks"]) if case["blocks"] else "dense",
                tiles=case["tiles"].get(kernel.rsplit("_", 1)[-1], ""),
                num_warps=num_warps,
                num_stages=num_stages,
                **dataclasses.asdict(report),
                shared_memory=shared_memory,
                programs=programs,
                limit=limit,
            )
        )
    return rows


def mosaic_kernels(folder: Path) -> list[tuple[str, int, int, int, Assembled]]:
    """Name, shared memory, stages, warps and what the assembler says of the kernels that Mosaic left in a folder."""
    found = []
    for path in sorted(folder.glob("*.ptx")):
        ((entry, report),) = assembled([path]).items()
        (threads,) = set(re.findall(r"\.maxntid (\d+)", path.read_text()))
        with path.with_suffix(".mlir-passes.log").open() as log:
            launch = next(filter(None, map(re.compile(r"dynamic_shared_memory_size %c(\d+)").search, log)))
        kernel = entry.removesuffix("_mosaic_gpu_kernel")
        found.append((kernel, int(launch[1]), SLOTS, int(threads) // THREADS_PER_WARP, report))
    return sorted(found)


def compile_for(name: str, *options: str) -> tuple[list[Resources], list[str]]:
    """The rows of a GPU's table, and what did not compile."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_FLAGS": flags,
            MOSAIC_DUMP: str(Path(folder) / MOSAIC),
        }
        command = [sys.executable, "-m", "benchmarks.kernel_cases", name, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"compiling for a GPU {name!r} failed:\n{done.stderr}")
        rows: list[Resources] = []
        problems = []
        for case in map(json.loads, done.stdout.splitlines()):
            found = [] if case["error"] else read_case(Path(folder), case, gpus.described_gpu(name))
            seconds, gigabytes = case["seconds"], case["temporary_bytes"] / 1e9
            made = f"{len(found)} kernels, {gigabytes:.2f} GB of temporary arrays"
            print(f"{name}: {case['name']} took {seconds:.1f} s to compile: {made}", flush=True)
            if not found:
                problems.append(f"{name}: {case['name']}: {case['error'] or 'no kernel found in what XLA left'}")
            rows += found
        return rows, problems


def table(rows_by_gpu: dict[str, list[Resources]]) -> str:
    """Markdown; GPUs for which the compiler does the same share their rows."""
    banner = subprocess.run([ptxas(), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.findall(r"V(\d[\d.]*)", banner)[0]
    lines = [
        f"`python -m benchmarks.kernel_resources`: JAX {importlib.metadata.version('jax')}, ptxas {version}; bfloat16, "
        "32 heads of 128.",
        "Registers are a thread's, shared memory and spills a program's in bytes, programs those that fit a "
        "multiprocessor at once and what keeps one more away. The loop is PTX instructions of a thread for a pair of "
        "tiles, waits the groups of loads that may be under way where a step waits for its own.",
    ]
    for rows in dict.fromkeys(map(tuple, rows_by_gpu.values())):
        lines += [
            "",
            " and ".join(name.upper() for name, its in rows_by_gpu.items() if tuple(its) == rows) + ":",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|---" * len(COLUMNS) + "|",
        ]
        lines += [
            f"| {row.kernel} | {row.num_tokens:,} | {row.blocks} | {row.tiles} | {row.num_warps} | {row.num_stages} "
            f"| {row.registers} | {row.spills} | {row.shared_memory:,} | {row.products} "
            f"| {row.loop or ''} | {row.waits} | {row.programs} ({row.limit}) |"
            for row in rows
        ]
    return "\n".join(lines)


def tables_by_gpu(text: str) -> dict[str, list[str]]:
    """The lines of each GPU's table, of a page or of what `table` makes."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.fullmatch(r"\w+( and \w+)*:", line):
            lines: list[str] = []
            found |= dict.fromkeys(line[:-1].split(" and "), lines)
        elif line.startswith("|") and found:
            lines.append(line)
    return found


def difference(page: str, text: str) -> str:
    """How the page's tables differ from the text's; empty where they are the same, or made with other versions."""
    inside = page.split(BEGIN, 1)[-1].split(END, 1)[0].strip()
    versions = re.compile(r"JAX (\S+), ptxas ([^;\s]+)")
    kept, new = versions.search(inside), versions.search(text)
    if kept and new and kept.groups() != new.groups():
        print(f"the page's table was made with {kept.group()}, this one with {new.group()}: not compared")
        return ""
    before, now = tables_by_gpu(inside), tables_by_gpu(text)
    if not now:
        raise ValueError("no table to compare: nothing stands under the name of a GPU")
    changes = [
        difflib.unified_diff(before.get(gpu, []), lines, f"page, {gpu}", f"now, {gpu}", lineterm="", n=0)
        for gpu, lines in now.items()
    ]
    return "\n".join(itertools.chain.from_iterable(changes))


def main() -> None:
    """Compiles, prints, and compares or writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", nargs="+", choices=HOPPERS, default=HOPPERS)
    parser.add_argument("--only", default="", help="programs with this in their name, such as 64x64 or dense")
    parser.add_argument("--sweep", action="store_true", help="every tiling that a kernel could be given, to tune by")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="fail when the page's table is another")
    args = parser.parse_args()
    if (args.only or args.sweep) and (args.write or args.check):
        parser.error("a page has the whole table of what runs: leave out --only and --sweep")
    options = ["--only", args.only, *(["--sweep"] if args.sweep else [])]
    problems: list[str] = []
    rows_by_gpu = {}
    try:
        if page := args.write or args.check:
            put_between_markers(page.read_text(), "")  # a page without a place for it is no use finding last
        for name in args.gpus:
            rows_by_gpu[name], failed = compile_for(name, *options)
            problems += failed
        text = table(rows_by_gpu)
        print(text)
        if args.write:
            args.write.write_text(put_between_markers(args.write.read_text(), text))
        if args.check and (changes := difference(args.check.read_text(), text)):
            problems.append(f"{args.check} has another table: look at the change, then --write {args.check}\n{changes}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for rows in () if args.sweep else dict.fromkeys(map(tuple, rows_by_gpu.values())):
        problems += [problem for row in rows for problem in row.problems()]
    if problems:
        print("\n".join(f"failed: {problem}" for problem in problems), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
