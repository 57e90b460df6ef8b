"""Everything that only a GPU can show, in nine minutes on one H100 or H200: `python -m benchmarks.gpu`, or `make gpu`.

    python -m benchmarks.gpu [--minutes 9] [--only kernels attention] [--dry-run]
    python -m benchmarks.table2 --write docs/speed.md

Stages run in order of their worth, each in a process and with a budget of its own. Each writes a JSON file with card,
versions, date, command and numbers to benchmarks/results/gpu as it goes, so that a run that is cut off leaves what it
measured; what fails is recorded with its error, and the next stage starts. `--dry-run` runs every stage at toy sizes on
a CPU. Needs JAX for CUDA, and neither a checkpoint nor anything that only training on real data wants.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from benchmarks.gpu.running import Run, Stage, run_stages

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
DRY_RESULTS = ROOT / "outputs" / "gpu_dry_run"

ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",  # what the planner plans for
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
}
DRY_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def _step(name: str, seconds: float) -> Stage:
    """One of parts.STEPS, alone in its process so that its peak of memory is known."""
    return Stage(f"step_{name}", "generation", seconds, {"parts": (f"step_{name}",)})


STAGES = (
    Stage("kernels", "kernels", 45),
    Stage("small_model", "small_model", 30),
    _step("480p", 25),
    _step("480p_guided", 28),
    _step("720p_sparse", 28),
    _step("720p_189_sparse", 32),
    _step("720p", 32),
    _step("720p_guided", 40),
    Stage("text", "generation", 12, {"parts": ("text",)}),
    Stage("autoencoder", "generation", 50, {"parts": (
        "decode_480p", "encode_720p", "decode_720p", "encode_720p_189", "decode_720p_189",
    )}),
    Stage("attention", "attention", 45),
    _step("720p_189", 60),
    Stage("weights", "weights", 60),
    Stage("training", "training", 35),
    Stage("rollouts", "rollouts", 40),
    Stage("lists", "lists", 10),
    Stage("whole_480p", "generation", 38, {"parts": ("step_480p",), "steps": 16}),
)  # fmt: skip
"""What matters most first. Seconds are scaled to the minutes that are given; what a stage leaves is the others'."""


def main() -> None:
    """Runs the stages; exit status 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [stage.name for stage in STAGES]
    parser.add_argument("--minutes", type=float, default=9.0, help="stages are stopped so that all ends by then")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=f"of {', '.join(names)}")
    parser.add_argument("--dry-run", action="store_true", help="at toy sizes on a CPU")
    parser.add_argument("--results", type=Path, help="folder for the JSON files")
    args = parser.parse_args()
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    if args.dry_run:
        os.environ.update(DRY_ENVIRONMENT)
    run = Run(
        folder=args.results or (DRY_RESULTS if args.dry_run else RESULTS),
        toy=args.dry_run,
        command=shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
        limit=60 * args.minutes,
    )
    problems = run_stages([stage for stage in STAGES if stage.name in (args.only or names)], run)
    print(f"results are in {run.folder}")
    if problems:
        print("\n".join(f"failed: {problem}" for problem in problems), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
