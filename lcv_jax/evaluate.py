"""Evaluation of models, section 5 of the report: `python -m lcv_jax.evaluate COMMAND ...`.

    python -m lcv_jax.evaluate describe general
    python -m lcv_jax.evaluate sample outputs/demo/weights toy outputs/evaluation/base --size 64 64 --num-frames 17

Every command has its own --help; docs/evaluation.md goes through them in order.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lcv_jax.command_line import mistakes_in_one_line, parse_command, positional, show_progress
from lcv_jax.evaluation import describing, people_commands, score_commands
from lcv_jax.evaluation.benchmarks import aggregate, read_results, run_benchmark
from lcv_jax.evaluation.layouts import write_layout
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.suite_readers import READERS
from lcv_jax.evaluation.suite_sampling import Settings, sample_suite
from lcv_jax.evaluation.suites import read_suite, write_suite
from lcv_jax.generate import Devices, Sampling, Weights
from lcv_jax.generate import load as load_weights
from lcv_jax.parallel.broadcast import is_first
from lcv_jax.parallel.launch import leaving_at_once

# Suites


@dataclasses.dataclass(frozen=True, kw_only=True)
class Describe:
    """Print what a suite consists of: categories and their shares, lengths, kinds of prompt."""

    suite: Annotated[tyro.conf.Positional[str], positional("SUITE")]
    """A suite file (.jsonl), or `general` or `toy`, which come with the package."""

    def run(self) -> None:
        """Prints the figures."""
        print("\n".join(describing.lines_of(describing.describe(read_suite(self.suite)))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Write a suite from the prompts that a public benchmark publishes."""

    benchmark: Annotated[
        tyro.conf.Positional[Literal["vbench", "vbench2", "moviegen", "t2v-compbench"]], positional("BENCHMARK")
    ]
    """Which."""
    source: Annotated[tyro.conf.Positional[Path], positional("SOURCE")]
    """VBench_full_info.json, VBench2_full_info.json, MovieGenVideoBench.txt or -WithTag.csv, or T2V-CompBench's folder
    `prompts`."""
    suite: Annotated[tyro.conf.Positional[Path], positional("SUITE.jsonl")]
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

    suite: Annotated[tyro.conf.Positional[str], positional("SUITE")]
    """A suite file (.jsonl), or `general` or `toy`, which come with the package."""
    folder: Annotated[tyro.conf.Positional[Path], positional("RUN")]
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
                show_progress(f"{done} of {total} videos, {time.monotonic() - started:.0f} s", last=done == total)

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
            print(f"{self.work.folder}: sampled {count} videos")


# Public benchmarks

Benchmark = Annotated[tyro.conf.Positional[Literal["vbench", "vbench2"]], positional("BENCHMARK")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Link a run's videos to the file names that VBench or VBench 2.0 expects."""

    benchmark: Benchmark
    """Which."""
    run_folder: Annotated[tyro.conf.Positional[Path], positional("RUN")]
    """A run of its imported prompts."""
    folder: Annotated[tyro.conf.Positional[Path], positional("FOLDER")]
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
    videos: Annotated[tyro.conf.Positional[Path], positional("FOLDER")]
    """Videos in its layout."""
    output: Annotated[tyro.conf.Positional[Path], positional("RESULTS")]
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
    results: Annotated[tyro.conf.Positional[Path], positional("RESULTS")]
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


COMMANDS: dict[str, type] = {
    "describe": Describe,
    "import": Import,
    "sample": Sample,
    "layout": Layout,
    "run-benchmark": RunBenchmark,
    "results": Results,
    **score_commands.COMMANDS,
    **people_commands.COMMANDS,
}


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.evaluate") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    description = "Evaluate models: suites, sampling, ratings, judges, measures, statistics, reports."
    with leaving_at_once(), mistakes_in_one_line("interrupted; the same command resumes"):
        parse_command(COMMANDS, arguments, prog=prog, description=description).run()


if __name__ == "__main__":
    main()
