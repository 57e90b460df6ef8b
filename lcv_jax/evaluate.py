"""Evaluation of models, section 5 of the report: `python -m lcv_jax.evaluate COMMAND ...`.

    python -m lcv_jax.evaluate describe general
    python -m lcv_jax.evaluate sample outputs/demo/weights toy outputs/evaluation/base --size 64 64 --num-frames 17

Every command has its own --help; docs/evaluation.md goes through them in order.
"""

import dataclasses
import functools
import json
import operator
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.evaluation import describing, report
from lcv_jax.evaluation.agreement import judge_agreement, lines_of_agreement
from lcv_jax.evaluation.benchmarks import aggregate, read_results, run_benchmark
from lcv_jax.evaluation.comparing import compare_runs, lines_of_comparison
from lcv_jax.evaluation.layouts import write_layout
from lcv_jax.evaluation.measures import MEASURES
from lcv_jax.evaluation.rating_server import serve
from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.scores import Scores, judged, measured, score_run
from lcv_jax.evaluation.studies import create_study, read_study
from lcv_jax.evaluation.study_results import lines_of_findings, rating_rows, study_findings, write_table
from lcv_jax.evaluation.suite_readers import READERS
from lcv_jax.evaluation.suite_sampling import Settings, sample_suite
from lcv_jax.evaluation.suites import read_suite, write_suite
from lcv_jax.generate import Devices, Sampling, Weights
from lcv_jax.generate import load as load_weights
from lcv_jax.parallel.broadcast import is_first
from lcv_jax.parallel.launch import leaving_at_once
from lcv_jax.rewards.config import RewardSource, open_reward


def _positional(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar)


# Suites


@dataclasses.dataclass(frozen=True, kw_only=True)
class Describe:
    """Print what a suite consists of: categories and their shares, lengths, kinds of prompt."""

    suite: Annotated[tyro.conf.Positional[str], _positional("SUITE")]
    """A suite file (.jsonl), or `general` or `toy`, which come with the package."""

    def run(self) -> None:
        """Prints the figures."""
        print("\n".join(describing.lines_of(describing.describe(read_suite(self.suite)))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Write a suite from the prompts that a public benchmark publishes."""

    benchmark: Annotated[
        tyro.conf.Positional[Literal["vbench", "vbench2", "moviegen", "t2v-compbench"]], _positional("BENCHMARK")
    ]
    """Which."""
    source: Annotated[tyro.conf.Positional[Path], _positional("SOURCE")]
    """VBench_full_info.json, VBench2_full_info.json, MovieGenVideoBench.txt or -WithTag.csv, or T2V-CompBench's folder
    `prompts`."""
    suite: Annotated[tyro.conf.Positional[Path], _positional("SUITE.jsonl")]
    """The file to write."""

    def run(self) -> None:
        """Reads and writes."""
        items = READERS[self.benchmark](self.source)
        write_suite(items, self.suite)
        print(f"wrote {self.suite}: {len(items)} prompts, {sum(item.num_samples for item in items)} videos")


# Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What to sample, and where to."""

    suite: Annotated[tyro.conf.Positional[str], _positional("SUITE")]
    """A suite file (.jsonl), or `general` or `toy`, which come with the package."""
    folder: Annotated[tyro.conf.Positional[Path], _positional("RUN")]
    """The folder to write."""
    batch: int = 1
    """Videos at once."""
    part: tuple[int, int] = (0, 1)
    """I N: every N-th item from the I-th on, for N machines that share the folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Sample the videos of a suite. Stopped at any time, the same command resumes."""

    weights: Weights
    work: Work
    settings: Settings = dataclasses.field(default_factory=Settings)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    devices: Devices = dataclasses.field(default_factory=Devices)

    def run(self) -> None:
        """Loads the model and samples what the folder lacks."""
        self.devices.join()
        suite, options = read_suite(self.work.suite), self.sampling.checked()
        pipeline = load_weights(self.weights, self.devices)
        pipeline.check_adapters(options)
        started = time.monotonic()

        def tell(done: int, total: int) -> None:
            if is_first():
                print(f"\r{done} of {total} videos, {time.monotonic() - started:.0f} s", end="", file=sys.stderr)

        count = sample_suite(
            pipeline,
            suite,
            self.work.folder,
            self.settings,
            options,
            batch=self.work.batch,
            part=self.work.part,
            on_video=tell,
        )
        if is_first():
            print(f"\n{self.work.folder}: sampled {count} videos")


# Public benchmarks

Benchmark = Annotated[tyro.conf.Positional[Literal["vbench", "vbench2"]], _positional("BENCHMARK")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Link a run's videos to the file names that VBench or VBench 2.0 expects."""

    benchmark: Benchmark
    """Which."""
    run_folder: Annotated[tyro.conf.Positional[Path], _positional("RUN")]
    """A run of its imported prompts."""
    folder: Annotated[tyro.conf.Positional[Path], _positional("FOLDER")]
    """Where the benchmark is to find the videos."""

    def run(self) -> None:
        """Checks that all are there, and links them."""
        count = write_layout(read_run(self.run_folder), self.folder, self.benchmark)
        print(f"{self.folder}: {count} videos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunBenchmark:
    """Run VBench or VBench 2.0 in an environment of its own, dimension by dimension; finished ones are kept."""

    benchmark: Benchmark
    """Which."""
    videos: Annotated[tyro.conf.Positional[Path], _positional("FOLDER")]
    """Videos in its layout."""
    output: Annotated[tyro.conf.Positional[Path], _positional("RESULTS")]
    """Where results and logs go."""
    command: str = ""
    """Command line with {videos}, {dimension} and {output}, such as `/opt/vbench/bin/vbench evaluate ...`. Empty: the
    benchmark's documented one, found on the path."""
    dimensions: tuple[str, ...] = ()
    """Which, spelt with underscores. None: all."""
    folder: Path | None = None
    """Where the command runs, such as the benchmark's checkout."""

    def run(self) -> None:
        """Runs the commands, then prints what `results` does."""
        failed = run_benchmark(
            self.benchmark,
            self.videos,
            self.output,
            command=self.command,
            dimensions=self.dimensions,
            folder=self.folder,
        )
        if failed:
            raise ValueError(f"{len(failed)} dimensions failed: {', '.join(failed)}; their log.txt says why")
        print_results(self.benchmark, self.output)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Aggregate the results of VBench or VBench 2.0. What depends on a missing dimension is missing, never zero."""

    benchmark: Benchmark
    """Which."""
    results: Annotated[tyro.conf.Positional[Path], _positional("RESULTS")]
    """A file *_eval_results.json, or a folder of them."""

    def run(self) -> None:
        """Prints dimensions, groups and total."""
        print_results(self.benchmark, self.results)


def print_results(benchmark: str, results: Path) -> None:
    """Dimensions, groups and total, in percent."""
    found = aggregate(benchmark, read_results(results))
    rows = {**found.dimensions, **dict.fromkeys(found.missing), **found.groups, "total": found.total}
    for name, score in rows.items():
        print(f"{name:30} {'missing' if score is None else f'{100 * score:6.2f} %'}")


# People


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeStudy:
    """Set up a study in which people rate the videos of one or more runs."""

    study: Annotated[tyro.conf.Positional[Path], _positional("STUDY")]
    """The folder to write."""
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], _positional("RUN")]
    """The models; their prompts in common are rated."""
    kind: Literal["absolute", "pairwise"] = "absolute"
    """Scores from 1 to 5 for each video, or which of two models' videos is better."""
    raters: tuple[str, ...] = ("rater",)
    """Names; each gets a link."""
    allow: tuple[tuple[str, str], ...] = ()
    """RATER CATEGORY: this rater sees only these categories. Others see all."""
    training: int = 3
    """Items with known answers before a rater's first rating."""
    checks: int = 3
    """Items with known answers among the others."""
    num_raters: int = 3
    """Ratings that every item gets."""
    extra_raters: int = 2
    """Further ratings where two raters differ much."""
    disagreement: int = 2
    """Points by which two ratings differ much."""
    seed: int = 0
    """Of the order in which raters see items."""

    def run(self) -> None:
        """Writes the study."""
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

    study: Annotated[tyro.conf.Positional[Path], _positional("STUDY")]
    """The study."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8080
    """0 takes a free one."""

    def run(self) -> None:
        """Serves until it is interrupted."""
        study = read_study(self.study)

        def tell(address: str) -> None:
            for rater in study.raters:
                print(f"{rater.name}: {address}/?rater={rater.token}", flush=True)

        serve(study, self.host, self.port, tell)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Print what a study found: scores or preferences with intervals, agreement, raters who fail known answers."""

    study: Annotated[tyro.conf.Positional[Path], _positional("STUDY")]
    """The study."""
    output: Path | None = None
    """Also write all ratings, one a row: .parquet or .csv."""
    exclude: tuple[str, ...] = ()
    """Raters to leave out, such as those who are flagged."""

    def run(self) -> None:
        """Reads the ratings, prints and exports."""
        study = read_study(self.study)
        rows = rating_rows(Ratings(study), self.exclude)
        if self.output is not None:
            write_table(rows, self.output)
        print("\n".join(lines_of_findings(study_findings(study, rows))))


# Measures and judges


def _tell(done: int, total: int) -> None:
    print(f"\r{done} of {total} videos", end="" if done < total else "\n", file=sys.stderr)


def _print_failures(scores: Scores) -> None:
    for video, reason in list(scores.failures.items())[:5]:
        print(f"warning: {video} has no score: {reason}", file=sys.stderr)
    print(f"{scores.name}: {len(scores.by_video)} videos scored, {len(scores.failures)} without a score")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureRuns:
    """Measure the clips of runs: flicker, dynamics, warping error, jerk, sharpness, colour drift; no weights needed."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], _positional("RUN")]
    """The runs."""

    def run(self) -> None:
        """Writes RUN/scores/measures.json."""
        for folder in self.runs:
            run = read_run(folder)
            _print_failures(score_run(run, "measures", {"measures": list(MEASURES)}, measured(run), _tell))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeRuns:
    """Score the clips of runs with a reward model of lcv_jax.rewards, or a model behind an OpenAI-compatible endpoint.

    For the latter: `--factory lcv_jax.evaluation.openai_judge:judge --options url http://host:8000/v1 model NAME`.
    """

    name: Annotated[tyro.conf.Positional[str], _positional("NAME")]
    """What the scores are called."""
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], _positional("RUN")]
    """The runs."""
    factory: str = ""
    """module:factory of a reward in this process, such as lcv_jax.toy.rewards:read_clips."""
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
    """KEY VALUE: keywords of the factory."""
    command: tuple[str, ...] = ()
    """Instead: a reward in a process of its own, such as its Python, -m lcv_jax.rewards.worker and module:factory."""
    urls: tuple[str, ...] = ()
    """Instead: servers of one reward model (`lcv serve-rewards`)."""
    timeout: float = 600.0
    """Seconds for a score."""

    def run(self) -> None:
        """Writes RUN/scores/NAME.json."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) or self.name == "measures":
            raise ValueError(f"NAME must be letters, digits, dots or hyphens, and not measures; got {self.name!r}")
        where: Literal["local", "process", "http"] = "http" if self.urls else "process" if self.command else "local"
        source = RewardSource(
            where=where, factory=self.factory, options=self.options, command=self.command, urls=self.urls
        )
        made_by = json.loads(json.dumps({"factory": self.factory, "options": self.options, "place": source.place}))
        reward = open_reward(source, timeout=self.timeout)
        try:
            for folder in self.runs:
                _print_failures(score_run(read_run(folder), self.name, made_by, judged(reward), _tell))
        finally:
            getattr(reward, "close", lambda: None)()


# Comparing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare runs on the prompts that all have: means, paired differences with intervals, and what is too close."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], _positional("RUN")]
    """Two or more; differences are between the first and each other one."""
    page: Path | None = None
    """Write a self-contained HTML page with bars, tables and clips."""
    markdown: Path | None = None
    """Write a table for a model card."""
    num_prompts: int = 3
    """Best and worst prompts whose clips are on the page."""
    rank_by: tuple[str, str] | None = None
    """NAME SCORE that ranks them, such as `measures flicker`. None: a judge's first score."""

    def run(self) -> None:
        """Prints the comparison and writes what is asked for."""
        found = compare_runs([read_run(run) for run in self.runs])
        print("\n".join(lines_of_comparison(found)))
        if self.markdown is not None:
            _write_text(self.markdown, report.markdown(found))
        if self.page is not None:
            _write_text(self.page, report.page(found, num_prompts=self.num_prompts, shown=self.rank_by))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agree:
    """Compare a judge's scores with people's ratings of the same runs, and print their 2:1 mean for each model."""

    study: Annotated[tyro.conf.Positional[Path], _positional("STUDY")]
    """An absolute study."""
    name: Annotated[tyro.conf.Positional[str], _positional("NAME")]
    """Of the judge's scores."""
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], _positional("RUN")]
    """The study's runs."""
    match: tuple[tuple[str, str], ...] = ()
    """DIMENSION SCORE: which of the judge's scores is about which dimension, where the names differ."""

    def run(self) -> None:
        """Prints correlations and scores."""
        rows = rating_rows(Ratings(read_study(self.study)))
        found = judge_agreement(rows, [read_run(run) for run in self.runs], self.name, dict(self.match))
        print("\n".join(lines_of_agreement(found)))


COMMANDS: dict[str, type] = {
    "describe": Describe,
    "import": Import,
    "sample": Sample,
    "layout": Layout,
    "run-benchmark": RunBenchmark,
    "results": Results,
    "measure": MeasureRuns,
    "judge": JudgeRuns,
    "compare": Compare,
    "study": MakeStudy,
    "rate": Rate,
    "study-results": StudyResults,
    "agree": Agree,
}


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.evaluate") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    commands = [Annotated[kind, tyro.conf.subcommand(name=name)] for name, kind in COMMANDS.items()]
    with leaving_at_once(), mistakes_in_one_line("interrupted; the same command resumes"):
        chosen = parse_arguments(
            functools.reduce(operator.or_, commands),  # type: ignore[arg-type]
            arguments,
            prog=prog,
            description="Evaluate models: suites, sampling, ratings, judges, measures, statistics, reports.",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        chosen.run()


if __name__ == "__main__":
    main()
