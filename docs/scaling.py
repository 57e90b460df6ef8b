"""Fills the tables of docs/scaling.md: `python docs/scaling.py`, or `python docs/scaling.py "One GPU"` for a section.

Each `python -m lcv_jax.plan ... --markdown` of the page is planned again and the table that follows it replaced; the
table of small GPUs is made of the tasks listed here. Needs the environment of `make test-compile`. All of it takes
hours, as the autoencoder takes minutes to compile; the page is written after every table.
"""

import dataclasses
import datetime
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from lcv_jax import plan
from lcv_jax.planning import compiling, tables, training_tables
from lcv_jax.planning.compiling import Machine, Stage
from lcv_jax.planning.report import gigabytes
from lcv_jax.planning.requests import Program

PAGE = Path(__file__).parent / "scaling.md"
TABLE = re.compile(
    r"`python\s+-m\s+lcv_jax\.plan(?P<arguments>\s[^`]*--markdown)`[^\n|]*\n\n"
    r"(?P<table>(?:\|[^\n]*\n)+(?:\n\d+ x \w+[^\n]*\n)?)"
)
MADE = re.compile(r"Made on [\d-]+ with JAX [\w.]+\.")

SMALL_GPUS = "Small GPUs"
STREAMED = "--weights stream --keep-text-encoder host"
TASKS = (
    "text-to-video",
    "text-to-video --distilled --fold cfg_step_lora",
    "text-to-video --distilled",
    "text-to-video --height 704 --width 1280",
    "text-to-video --height 704 --width 1280 --distilled --fold cfg_step_lora",
    "image-to-video",
    "continue-video",
    "refine --spatial-only --fold refinement_lora",
    "refine --fold refinement_lora",
)
AUTOENCODER = (
    ("text-to-video", "decode"),
    ("text-to-video --height 704 --width 1280", "decode"),
    ("refine --fold refinement_lora", "encode"),
    ("refine --fold refinement_lora", "decode"),
)
"""Tasks and stages of them."""
FAMILIES = ("rtx4090", "rtx5090", "l40s")
"""The largest card of each; the autoencoder is planned for the first."""
SMALLER = (8, 12, 16)
SIZES = (*(f"{size} GB" for size in SMALLER), "largest")
FRAMES = ("upsample", "encode", "decode")
"""Stages without the transformer and the text encoder."""


def main(sections: list[str]) -> None:
    """Plans sections of the page; none: all."""
    jax.config.update("jax_platforms", "cpu")
    remember_frames()
    for section in sections or re.findall(r"^## (.*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        if section == SMALL_GPUS:
            for name, table in {"tasks": small_tasks, "frames": small_frames}.items():
                for rows in table():
                    replace(section, lambda text, name=name, rows=rows: filled(text, name, rows))
        count = len(TABLE.findall(text_of(section)))
        for number in range(count):
            replace(section, lambda text, number=number: with_table(text, number))
        if count or section == SMALL_GPUS:
            made = f"Made on {datetime.date.today()} with JAX {jax.__version__}."
            replace(section, lambda text, made=made: MADE.sub(made, text, count=1))


def text_of(section: str) -> str:
    """Of the page, from a heading to the next one of its level."""
    (found,) = re.findall(rf"^## {section}\n.*?(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found


def replace(section: str, change: Callable[[str], str]) -> None:
    """Writes the page with a changed section; others may have been edited meanwhile."""
    changed = (before := text_of(section)) and change(before)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(text_of(section), changed), encoding="utf-8")


def with_table(text: str, number: int) -> str:
    """A section with its table of this number planned again."""
    found = list(TABLE.finditer(text))[number]
    print(f"plan{found['arguments']}", file=sys.stderr, flush=True)
    start, end = found.span("table")
    return f"{text[:start]}{planned(shlex.split(found['arguments']))}\n{text[end:]}"


def planned(arguments: list[str]) -> str:
    """What `python -m lcv_jax.plan ... --markdown` prints."""
    plans, trains = plans_of(arguments)
    return (training_tables if trains else tables).markdown(plans)


def plans_of(arguments: list[str]) -> tuple[list[Any], bool]:
    """The plans of a command, and whether they are of training."""
    chosen = plan.parse(arguments, "python -m lcv_jax.plan")
    trains = isinstance(chosen, plan.TrainCommand)
    split = chosen.gpus if trains else chosen.devices
    counts = chosen.output.sweep or (split.num_gpus,)
    return [plan.plan_of(chosen, dataclasses.replace(split, num_gpus=count)) for count in counts], trains


def filled(text: str, name: str, content: str) -> str:
    """A section with `content` in the place of that name."""
    begin, end = f"<!-- {name} -->\n", "<!-- end -->\n"
    before, rest = text.split(begin)
    return f"{before}{begin}{content}\n{end}{rest.split(end, 1)[1]}"


def small_tasks() -> Iterator[str]:
    """The transformer and the text encoder of every task on every family, after each row."""
    rows = []
    for gpu in FAMILIES:
        for task in TASKS:
            made = streamed(f'{task} --gpu {gpu} --only "encode text" denoise')
            fits = ["yes" if made.peak.peak_bytes <= usable else "no" for usable in usable_bytes(made)]
            rows.append([f"`{task}`", gpu, gigabytes(made.peak.peak_bytes), tables.duration(made.seconds), *fits])
            yield "\n".join(tables.markdown_table(["TASK", "GPU", "memory", "at least", *SIZES], rows))


def small_frames() -> Iterator[str]:
    """The autoencoder, whole and in tiles, after each row."""
    rows = []
    for task, stage in AUTOENCODER:
        needed = []
        for tiles in ("", " --vae-tiles"):
            made = streamed(f"{task} --gpu {FAMILIES[0]} --only {stage}{tiles}")
            needed.append(made.peak.peak_bytes)
        fits = [
            next((word for word, size in zip(("yes", "tiles"), needed, strict=True) if size <= usable), "no")
            for usable in usable_bytes(made)
        ]
        rows.append([f"`{task}`", stage, *map(gigabytes, needed), *fits])
        yield "\n".join(tables.markdown_table(["TASK", "stage", "whole", "in tiles", *SIZES], rows))


def streamed(command: str) -> Any:
    """The plan of a task with streamed weights."""
    print(f"plan {command}", file=sys.stderr, flush=True)
    ((made,), _) = plans_of(shlex.split(f"{command} {STREAMED}"))
    return made


def usable_bytes(made: Any) -> list[float]:
    """Of the smaller cards, and of the one that was planned for."""
    return [(1 - made.reserve) * memory for memory in (*(size * 1e9 for size in SMALLER), made.gpu.memory_bytes)]


def remember_frames() -> None:
    """Compiles what the autoencoder does with frames of a size once for all tasks."""
    compiled: dict[str, Stage] = {}

    def compile_once(program: Program, machine: Machine) -> Stage:
        if program.name not in FRAMES or machine.mesh:
            return compiling.compile_stage(program, machine)
        key = f"{machine.devices[0].client} {program.name} {program.arguments} {program.options}"
        if key not in compiled:
            compiled[key] = compiling.compile_stage(program, machine)
        resident = {name: machine.bytes_each(tree, name) for name, tree in program.resident.items()}
        return dataclasses.replace(compiled[key], resident_bytes=resident, times=program.times)

    plan.compile_stage = compile_once  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1:])
