"""Commands about people: `study`, `rate`, `study-results`, `agree`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lcv_jax.bounds import Bounds, check_fields
from lcv_jax.command_line import positional
from lcv_jax.evaluation.agreement import judge_agreement, lines_of_agreement
from lcv_jax.evaluation.rating_server import serve
from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.studies import create_study, read_study
from lcv_jax.evaluation.study_results import (
    known_answers_of,
    lines_of_findings,
    rating_rows,
    study_findings,
    write_table,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeStudy:
    """Set up a study in which people rate the videos of one or more runs."""

    study: Annotated[tyro.conf.Positional[Path], positional("STUDY")]
    """The folder to write."""
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], positional("RUN")]
    """The models; their prompts in common are rated."""
    kind: Literal["absolute", "pairwise"] = "absolute"
    """Scores from 1 to 5 for each video, or which of two models' videos is better."""
    raters: tuple[str, ...] = ("rater",)
    """Names; each gets a link."""
    allow: tuple[tuple[str, str], ...] = ()
    """RATER CATEGORY: this rater sees only these categories. Others see all."""
    training: Annotated[int, Bounds(least=0, most=1000)] = 3
    """Items with known answers before a rater's first rating."""
    checks: Annotated[int, Bounds(least=0, most=1000)] = 3
    """Items with known answers among the others."""
    num_raters: Annotated[int, Bounds(least=1, most=1000)] = 3
    """Ratings that every item gets."""
    extra_raters: Annotated[int, Bounds(least=0, most=1000)] = 2
    """Further ratings where two raters differ much."""
    disagreement: Annotated[int, Bounds(least=1, most=4)] = 2
    """Points by which two ratings differ much."""
    seed: int = 0
    """Of the order in which raters see items."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Writes the study."""
        if wrong := [name for name in self.raters if not name.strip() or not name.isprintable()]:
            raise ValueError(f"--raters must be names, got {wrong[0]!r}")
        if twice := [name for name in self.raters if self.raters.count(name) > 1]:
            raise ValueError(f"--raters names {twice[0]} twice: each rater has a link of their own")
        strangers = sorted({rater for rater, _ in self.allow} - set(self.raters))
        if strangers:
            raise ValueError(
                f"--allow names {', '.join(strangers)}, who is none of the raters {', '.join(self.raters)}"
            )
        allowed = {name: [category for rater, category in self.allow if rater == name] for name in self.raters}
        study, warnings = create_study(
            self.study,
            [read_run(run) for run in self.runs],
            self.kind,
            allowed,
            num_training=self.training,
            num_checks=self.checks,
            num_raters=self.num_raters,
            extra_raters=self.extra_raters,
            disagreement=self.disagreement,
            seed=self.seed,
        )
        for line in warnings:
            print(f"warning: {line}", file=sys.stderr)
        count = sum(item.role == "rating" for item in study.items)
        print(f"{self.study}: {count} items to rate; serve them with `evaluate rate {self.study}`")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """Serve a study's page and print the raters' links. Answers are stored at once; stop and start it at any time."""

    study: Annotated[tyro.conf.Positional[Path], positional("STUDY")]
    """The study."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Bounds(least=0, most=65535)] = 8080
    """0 takes a free one."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Serves until it is interrupted."""
        study = read_study(self.study)
        missing = [path for item in study.items if (path := study.missing_file(item))]
        if len(missing) == len(study.items):
            raise ValueError(f"{self.study}: the clips are gone ({missing[0]}, ...): restore the runs that were rated")
        if replaced := study.replaced_files():
            raise ValueError(
                f"{self.study}: {len(replaced)} clips were replaced since the study was made ({replaced[0]}): restore "
                "them, or make a new study"
            )
        if missing:
            text = f"{len(missing)} of {len(study.items)} items are not shown, because their clips are gone"
            print(f"warning: {text} ({missing[0]})", file=sys.stderr)

        def tell(address: str) -> None:
            for rater in study.raters:
                print(f"{rater.name}: {address}/?rater={rater.token}", flush=True)

        serve(study, self.host, self.port, tell)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Print what a study found: scores or preferences with intervals, agreement, raters who fail known answers."""

    study: Annotated[tyro.conf.Positional[Path], positional("STUDY")]
    """The study."""
    output: Path | None = None
    """Also write all ratings, one a row: .parquet or .csv."""
    exclude: tuple[str, ...] = ()
    """Raters to leave out, such as those who are flagged."""

    def run(self) -> None:
        """Reads the ratings, prints and exports."""
        study = read_study(self.study)
        ratings = Ratings(study)
        rows = rating_rows(ratings, self.exclude)
        if self.output is not None:
            write_table(rows, self.output)
        print("\n".join(lines_of_findings(study_findings(study, rows))))
        if self.exclude:
            print(f"\nleft out: {', '.join(self.exclude)}")
        if replaced := study.replaced_files():
            text = f"{len(replaced)} clips were replaced since the study was made; ratings may be of others"
            print(f"warning: {text} ({replaced[0]})", file=sys.stderr)
        for item, rater in ratings.skipped():
            print(f"{rater} could not play {' or '.join(item.videos)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agree:
    """Compare a judge's scores with people's ratings of the same runs, and print their 2:1 mean for each model."""

    study: Annotated[tyro.conf.Positional[Path], positional("STUDY")]
    """An absolute study."""
    name: Annotated[tyro.conf.Positional[str], positional("NAME")]
    """Of the judge's scores."""
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], positional("RUN")]
    """The study's runs."""
    match: tuple[tuple[str, str], ...] = ()
    """DIMENSION SCORE: which of the judge's scores is about which dimension, where the names differ."""
    exclude: tuple[str, ...] = ()
    """Raters to leave out, such as those whom `study-results` flags."""

    def run(self) -> None:
        """Prints correlations and scores."""
        rows = rating_rows(Ratings(read_study(self.study)), self.exclude)
        for rater, known in known_answers_of(rows).items():
            if known.flag:
                print(f"warning: {rater} {known.flag}; --exclude {rater} leaves them out", file=sys.stderr)
        found = judge_agreement(rows, [read_run(run) for run in self.runs], self.name, dict(self.match))
        print("\n".join(lines_of_agreement(found)))


COMMANDS: dict[str, type] = {"study": MakeStudy, "rate": Rate, "study-results": StudyResults, "agree": Agree}
