"""How fast stages are on the engines, side by side: `python -m benchmarks.curation_throughput FILMS [--json FILE]`.

A row for each stage: seconds of film, or of clips, that a core does in a second, all overheads of the engine included
(starting workers, loading the network). Needs films of a few minutes in all for these not to count.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.curation import Row, table
from benchmarks.facts import facts
from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.runs import list_sources, run_stages
from lcv_jax.curation.stage import GroupStage
from lcv_jax.curation.stages import stage_named, with_needed

_SECONDS = {
    "source": 'SELECT sum(source_seconds) FROM sources WHERE "source_seconds" > 0',
    "clip": 'SELECT sum(("end" - start) / source_fps) FROM clips',
}


def throughput(films: Path, stages: list[str], engine: Engine) -> dict[str, float]:
    """Seconds of video a core-second, of each stage that works row by row."""
    cores, found = len(os.sched_getaffinity(0)), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder) / "library")
        with library.writing():
            list_sources(library, films)
            for stage in with_needed(stages, (), {name: stage_named(name).settings for name in stages}):
                begun = time.monotonic()
                run_stages(library, [stage], engine)
                spent = time.monotonic() - begun
                (seconds,) = library.connect().execute(_SECONDS[stage.of]).fetchone()
                if not isinstance(stage, GroupStage):
                    found[stage.name] = (seconds or 0.0) / (spent * cores)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("films", type=Path)
    parser.add_argument("--stages", nargs="+", default=["measures"])
    parser.add_argument("--engines", nargs="+", default=["pool", "ray"], choices=("pool", "ray", "process"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    found = {name: throughput(args.films, args.stages, Engine(engine=name)) for name in args.engines}
    rows: list[Row] = [
        {"stage": stage, **{name: found[name][stage] for name in args.engines}} for stage in found[args.engines[0]]
    ]
    print(table(rows))
    if args.json:
        about = facts(shlex.join(["python", "-m", "benchmarks.curation_throughput", *sys.argv[1:]]))
        args.json.write_text(
            json.dumps({**about, "cores": len(os.sched_getaffinity(0)), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
