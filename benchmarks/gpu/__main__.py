"""Everything that only a GPU can show, in nine minutes on one H100 or H200: `python -m benchmarks.gpu`, or `make gpu`.

    python -m benchmarks.gpu [--minutes 9] [--only kernels attention] [--dry-run]
    python -m benchmarks.table2 --write docs/speed.md

Stages run in order of their worth, each in a process of its own and for a limited time. Each writes a JSON file with
card, versions, date, command and numbers to benchmarks/results/gpu as it goes, so that a run that is cut off leaves
what it measured; what fails is recorded with its error, and the next stage starts. `--only` runs some, such as those
that there was no time for; the compilation cache makes that quicker. `--dry-run` runs every stage at toy sizes on
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


def _step(name: str, seconds: float = 75) -> Stage:
    """One of parts.STEPS, alone in its process so that its peak of memory is known."""
    return Stage(f"step_{name}", "generation", seconds, {"parts": (f"step_{name}",)})


STAGES = (
    Stage("kernels", "kernels", 70),
    Stage("small_model", "small_model", 60),
    _step("480p"),
    _step("480p_guided"),
    _step("720p_sparse"),
    _step("720p_189_sparse"),
    Stage("attention", "attention", 75),
    _step("720p"),
    _step("720p_guided"),
    Stage("text", "generation", 40, {"parts": ("text",)}),
    Stage("autoencoder", "generation", 120, {"parts": (
        "decode_480p", "encode_720p", "decode_720p", "encode_720p_189", "decode_720p_189",
    )}),
    _step("720p_189", 120),
    Stage("weights", "weights", 90),
    Stage("training", "training", 120),
    Stage("rollouts", "rollouts", 60),
    Stage("lists", "lists", 40),
    Stage("whole_480p", "generation", 60, {"parts": ("step_480p",), "steps": 16}),
)  # fmt: skip
"""What matters most first. All of them fit into nine minutes if they take half of what they may; if not, the last ones
are left out."""


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
