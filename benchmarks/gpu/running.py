"""Stages one after the other, each in a process of its own, with results on disk as soon as they are there.

A process that runs out of memory, crashes or is stopped at the end of its time takes nothing with it: the rows that it
wrote stay, the record says what happened, and the next stage starts on an empty device. Processes are forked from one
that has imported everything and touched no device (multiprocessing's fork server).
"""

import dataclasses
import importlib
import json
import logging
import multiprocessing
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LEAST_SECONDS = 5.0
"""With less time left nothing is begun."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A generator of rows, and how long it may take."""

    name: str
    """Also of the file of results."""
    module: str
    """Of the run's package, with a function `rows(toy, **options)`."""
    seconds: float
    """It may take at the most."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run have in common."""

    folder: Path
    """Of results."""
    toy: bool
    command: str
    limit: float
    """Seconds from the start to the end of the last stage."""
    package: str = "benchmarks.gpu"
    """Of the stages' modules."""


def run_stages(stages: Sequence[Stage], run: Run) -> list[str]:
    """Runs them in order, and gives a line for everything that failed."""
    run.folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    modules = dict.fromkeys(f"{run.package}.{stage.module}" for stage in stages)
    context.set_forkserver_preload(["benchmarks.facts", *modules])
    begin, problems = time.monotonic(), []
    for stage in stages:
        start = time.monotonic()
        seconds = min(stage.seconds, run.limit - (start - begin))
        if seconds < LEAST_SECONDS:
            print(f"{stage.name}: not run, no time is left; --only {stage.name} runs it", flush=True)
            continue
        path = run.folder / f"{stage.name}.json"
        process = context.Process(target=run_here, args=(stage, run))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            _finish(path, stage, f"stopped after its {seconds:.0f} s")
        elif process.exitcode:
            _finish(path, stage, f"its process died: exit status {process.exitcode}")
        record = json.loads(path.read_text())
        faults = faults_of(record)
        problems += [f"{stage.name}: {fault}" for fault in faults]
        told = f"{len(record['rows'])} rows" + (f", {len(faults)} failed: {faults[0]}" if faults else "")
        print(f"{stage.name}: {time.monotonic() - start:.0f} s, {told}", flush=True)
    return problems


def run_here(stage: Stage, run: Run) -> None:
    """Runs a stage in this process and writes its record after every row."""
    path = run.folder / f"{stage.name}.json"
    record: dict[str, Any] = {"stage": stage.name, "toy": run.toy, "command": run.command, "rows": []}
    record |= {"status": "running", "error": None}
    start = time.monotonic()
    write(path, record)
    try:
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports its inner workings through it
        from benchmarks.facts import facts, reason  # this imports JAX, which the parent does without

        record |= facts(run.command)
        for row in importlib.import_module(f"{run.package}.{stage.module}").rows(run.toy, **stage.options):
            record["rows"].append(row)
            record["seconds"] = time.monotonic() - start
            write(path, record)
        record["status"] = "done"
    except Exception as error:
        record |= {"status": "failed", "error": reason(error), "traceback": traceback.format_exc(limit=-4)}
    record["seconds"] = time.monotonic() - start
    write(path, record)


def faults_of(record: Mapping[str, Any]) -> list[str]:
    """What went wrong in a stage, a line each."""
    faults = [row["error"] for row in record["rows"] if row.get("error")]
    if record["error"]:
        faults.append(record["error"])
    return faults


def write(path: Path, record: Mapping[str, Any]) -> None:
    """In one piece, whenever the process is stopped."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def _finish(path: Path, stage: Stage, error: str) -> None:
    """Completes the record of a process that could not."""
    record = {"stage": stage.name, "rows": []}
    if path.is_file() and (found := json.loads(path.read_text())).get("status") == "running":
        record = found
    write(path, {**record, "status": "failed", "error": error})
