"""Curates raw videos, section 2 of the report: `python -m lcv_jax.curate COMMAND ...`.

    python -m lcv_jax.curate run films library --stages probe duplicates
    python -m lcv_jax.curate status library
    python -m lcv_jax.curate query library "SELECT path, source_seconds FROM sources"

Killed at any time, the same `run` resumes and redoes no finished row.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from lcv_jax.bounds import Bounds, Seed, Share, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_command, positional
from lcv_jax.curation.camera_training import train_camera
from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.recipe import Recipe, read_recipe
from lcv_jax.curation.report import write_report
from lcv_jax.curation.runs import list_sources, run_stages
from lcv_jax.curation.select import select
from lcv_jax.curation.stages import ORDER, all_settings, stage_named, with_needed
from lcv_jax.curation.tables import distribution_lines, quarantine_lines, query, status_lines
from lcv_jax.own_files import write_json

LibraryFolder = Annotated[tyro.conf.Positional[Path], positional("LIBRARY")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Run stages over videos. Stopped at any time, the same command resumes.

    Flags with a stage's name are its settings: --segment.trim 3. With others, results of other settings are kept.
    """

    folder: Annotated[tyro.conf.Positional[Path], positional("VIDEOS")]
    """A folder of videos, or a list of them (.jsonl, .csv, .parquet with the columns path and id)."""
    library: LibraryFolder
    """The folder of results; created if it is not there."""
    stages: tuple[str, ...] = ("probe", "fingerprint", "duplicates")
    """Which stages to run, in the order of `curate stages`, after those that they need. Of the latter, stages that ran
    with settings other than those given, and stages that call a server, are not run again unless they are named."""
    retry: bool = False
    """Try rows again that are quarantined."""
    engine: Annotated[Engine, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Engine)

    def run(self) -> None:
        """Lists the videos and runs the stages."""
        library = Library(self.library)
        settings = {name: getattr(self, name, own) for name, own in all_settings().items()}
        stages = with_needed(self.stages, _settled(library, settings), settings)
        for name in settings.keys() - {stage.name for stage in stages}:
            if settings[name] != stage_named(name).settings:
                raise ValueError(f"--{name}: settings of a stage that is not run; add it to --stages")
        with library.writing():
            count = list_sources(library, self.folder)
            print(f"{self.folder}: {count} videos", file=sys.stderr)
            run_stages(library, stages, self.engine, retry=self.retry, tell=_Progress())
        print("\n".join(status_lines(library)))
        for line in quarantine_lines(library, shown=5):
            print(f"warning: {line}", file=sys.stderr)


class _Progress:
    """A line on standard error, at most once a second and at the end of a stage."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, stage: str, done: int, total: int, faults: int) -> None:
        if done == total or time.monotonic() - self._last > 1:
            self._last = time.monotonic()
            told = f", {faults} quarantined" if faults else ""
            print(f"{stage}: {done} of {total}{told}", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """Print how far each stage is: rows done, quarantined, to do; seconds that a row took."""

    library: LibraryFolder
    """The folder of results."""

    def run(self) -> None:
        """Prints the table."""
        print("\n".join(status_lines(_existing(self.library))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """Print the result of an SQL query (DuckDB's) over the views sources, clips and quarantine."""

    library: LibraryFolder
    """The folder of results."""
    sql: Annotated[tyro.conf.Positional[str], positional("SQL")]
    """Such as "SELECT stage, reason, count(*) FROM quarantine GROUP BY ALL"."""

    def run(self) -> None:
        """Prints the rows, with tabs between their columns."""
        for values in query(_existing(self.library), self.sql):
            print("\t".join("" if value is None else str(value) for value in values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Select:
    """Select clips by a recipe: `select [RECIPE.py] LIBRARY OUT`. Prints what each rule kept and dropped.

    RECIPE.py is a file of configs/curation/ or one of yours; flags change its fields. Without one, flags are all.
    """

    library: LibraryFolder
    """The folder of results."""
    out: Annotated[tyro.conf.Positional[Path], positional("OUT")]
    """The file to write: a manifest (.jsonl) for `lcv encode` and the trainer, or prompts, one a line (.txt)."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Recipe)

    def run(self) -> None:
        """Selects and prints the funnel."""
        for step in select(_existing(self.library), self.recipe, self.out):
            print(f"{step.kept:9} kept {step.dropped:9} dropped  {step.rule}")
        print(f"wrote {self.out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Write a page about a library and what a recipe drops: `report [RECIPE.py] LIBRARY OUT.html`.

    It shows the funnel, examples next to every threshold, histograms, the map of clusters and what is quarantined.
    """

    library: LibraryFolder
    """The folder of results."""
    out: Annotated[tyro.conf.Positional[Path], positional("OUT.html")]
    """The page to write; it holds all its pictures."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Recipe)

    def run(self) -> None:
        """Writes the page."""
        write_report(_existing(self.library), self.recipe, self.out)
        print(f"wrote {self.out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distribution:
    """Print the clusters of captions: how many clips each has, how dense it is, and which are too thin."""

    library: LibraryFolder
    """The folder of results, in which the stage distribution has run."""
    thin: Share = 0.25
    """A cluster is thin with fewer clips than this part of an even share."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Prints the table."""
        print("\n".join(distribution_lines(_existing(self.library), self.thin)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages:
    """List the stages: what each reads and writes."""

    def run(self) -> None:
        """Prints them in the order in which they run."""
        for name in ORDER:
            stage = stage_named(name)
            print(f"{name} ({stage.of}s) reads {', '.join(stage.reads)}; writes {', '.join(stage.writes)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCamera:
    """Train the classifier of camera movement, and measure it on pictures that it never saw."""

    out: Annotated[tyro.conf.Positional[Path], positional("OUT")]
    """The JSON file to write: weights and card."""
    num_clips: Annotated[int, Bounds(least=8, most=10**6)] = 960
    """Clips rendered to train on, in equal parts of every class."""
    num_held_out: Annotated[int, Bounds(least=8, most=10**6)] = 480
    """Clips rendered to measure accuracy."""
    seed: Seed = 0
    """Of all paths."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Trains, and writes the file."""
        model = train_camera(self.num_clips, self.num_held_out, self.seed)
        write_json(self.out, model)
        print(f"wrote {self.out}: accuracy {model['held_out']['accuracy']:.3f} on pictures never seen")


def _settled(library: Library, settings: Mapping[str, Any]) -> list[str]:
    """Stages of a library that another stage does not run again, although there may be new rows for them."""
    stages = {name: stage_named(name, settings.get(name)) for name in library.stages()}
    return [name for name, stage in stages.items() if stage.cost.calls or not library.shows(stage)]


def _existing(folder: Path) -> Library:
    if not (folder / "current.json").is_file():
        raise ValueError(f"{folder}: no library here; `curate run VIDEOS {folder}` makes one")
    return Library(folder)


COMMANDS: dict[str, type] = {
    "run": Run,
    "status": Status,
    "query": Query,
    "select": Select,
    "report": Report,
    "distribution": Distribution,
    "stages": Stages,
    "train-camera": TrainCamera,
}


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.curate") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    description = "Curate raw videos: stages, their library, queries."
    with mistakes_in_one_line("interrupted; the same command resumes"):
        arguments, commands = [*(sys.argv[1:] if arguments is None else arguments)], dict(COMMANDS)
        if arguments[:1] == ["run"]:
            commands["run"] = _with_settings()
        if arguments[:1] in (["select"], ["report"]) and arguments[1:2] and arguments[1].endswith(".py"):
            commands[arguments[0]] = _with_recipe(commands[arguments[0]], arguments.pop(1))
        parse_command(commands, arguments, prog=prog, description=description, nested=True).run()


def _with_settings() -> type:
    """The command `run`, with a group of flags for the settings of each stage."""
    fields = {name: (type(value), value) for name, value in all_settings().items()}
    return _with_fields(Run, fields)


def _with_recipe(command: type, path: str) -> type:
    """A command whose flags have a recipe's fields as defaults."""
    return _with_fields(command, {"recipe": (Annotated[Recipe, tyro.conf.arg(name="")], read_recipe(Path(path)))})


def _with_fields(command: type, fields: Mapping[str, tuple[Any, Any]]) -> type:
    """A command with fields of these types and defaults."""
    made = [(name, kind, dataclasses.field(default=value)) for name, (kind, value) in fields.items()]
    namespace = {"__doc__": command.__doc__}
    return dataclasses.make_dataclass(
        command.__name__, made, bases=(command,), namespace=namespace, frozen=True, kw_only=True
    )


if __name__ == "__main__":
    main()
