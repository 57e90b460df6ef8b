"""Evaluation of models, section 5 of the report: `python -m lcv_jax.evaluate COMMAND ...`.

    python -m lcv_jax.evaluate describe general
    python -m lcv_jax.evaluate import vbench2 VBench2_full_info.json outputs/vbench2.jsonl

Every command has its own --help; docs/evaluation.md goes through them in order.
"""

import dataclasses
import functools
import operator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.evaluation import describing
from lcv_jax.evaluation.suite_readers import READERS
from lcv_jax.evaluation.suites import read_suite, write_suite


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


COMMANDS = {"describe": Describe, "import": Import}


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.evaluate") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    commands = [Annotated[kind, tyro.conf.subcommand(name=name)] for name, kind in COMMANDS.items()]
    with mistakes_in_one_line():
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
