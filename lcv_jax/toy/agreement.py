"""How well judges of the procedural world agree with simulated people: `python -m lcv_jax.toy.agreement ...`.

    python -m lcv_jax.toy.agreement outputs/judges/toy_data/held_out_ratings.jsonl examples/toy_judge

Pearson's correlation of a judge's scores with ratings (toy/judges.py), with Fisher's 95 % interval, for each dimension.
Of several folders the mean of their scores, an ensemble, is a row too. The last row is the truth itself, as the readers
see it in the files; raters saw it before the clips were compressed, and with noise.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from lcv_jax.array_types import Float
from lcv_jax.bounds import Bounds, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.data.media_reader import read_video
from lcv_jax.data.preferences import RATINGS, Opinion, read_opinions
from lcv_jax.evaluation.statistics import Correlation, correlation
from lcv_jax.models.judges import DIMENSIONS
from lcv_jax.own_files import write_json
from lcv_jax.rewards.judge import load_judge
from lcv_jax.toy.judges import FPS, truth
from lcv_jax.user_files import check_writable

TRUTH, ENSEMBLE = "the truth", "their mean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print how well judges of the procedural world agree with simulated people."""

    ratings: Annotated[tyro.conf.Positional[Path], positional("RATINGS.jsonl")]
    """Clips and their ratings, of toy.judges."""
    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], positional("FOLDER")]
    """Judges that were trained: RUN/weights, or what lcv export wrote of it."""
    num_frames: Annotated[int, Bounds(least=2, most=1000)] | None = None
    """Of each clip, the first so many are scored, as GRPO on short clips does. None: all."""
    json: Path | None = None
    """A file for the numbers. None: they are printed only."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.folders:
            raise ValueError("give at least one judge's folder")


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.agreement") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line():
        compare(parse_arguments(Arguments, arguments, prog=prog))


def compare(arguments: Arguments) -> None:
    """Prints a row for each judge, and writes the file.

    Raises:
        ValueError: ratings or a judge that cannot be read, or one that scores no videos.
        OSError: a file that cannot be read or written.
    """
    if arguments.json is not None:
        check_writable(arguments.json)
    opinions = read_opinions(arguments.ratings, RATINGS, DIMENSIONS)
    judges = {str(folder): load_judge(folder) for folder in arguments.folders}
    clips = [read_video(one.paths[0], first=arguments.num_frames)[0] for one in opinions]
    prompts = [one.prompt for one in opinions]
    scores = {name: judge.score_videos(clips, [FPS] * len(clips), prompts) for name, judge in judges.items()}
    if len(scores) > 1:
        scores[ENSEMBLE] = np.mean(list(scores.values()), axis=0)
    scores[TRUTH] = np.array([truth(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)])
    found = {name: agreement(scores_ND, opinions) for name, scores_ND in scores.items()}
    _print(found)
    if arguments.json is not None:
        write_json(arguments.json, {name: _to_json(each) for name, each in found.items()})


def agreement(scores_ND: Float[np.ndarray, "N D"], opinions: Sequence[Opinion]) -> dict[str, Correlation]:
    """Of each dimension, over the clips that have a rating in it.

    Args:
        scores_ND: of each clip in each of `DIMENSIONS`.
        opinions: the clips' ratings.
    """
    found = {}
    for place, name in enumerate(DIMENSIONS):
        rated = [number for number, one in enumerate(opinions) if name in one.values]
        if rated:
            found[name] = correlation(scores_ND[rated, place], [opinions[number].values[name] for number in rated])
    return found


def _to_json(found: dict[str, Correlation]) -> dict[str, Any]:
    return {name: dataclasses.asdict(one) for name, one in found.items()}


def _print(found: dict[str, dict[str, Correlation]]) -> None:
    table = Table("correlation with people", *DIMENSIONS, box=None)
    for row, each in found.items():
        cells = [each.get(name) for name in DIMENSIONS]
        table.add_row(row, *("" if one is None else _cell(one) for one in cells))
    Console().print(table)


def _cell(one: Correlation) -> str:
    return f"{one.pearson:.3f} ({one.pearson_low:.3f} to {one.pearson_high:.3f})"


if __name__ == "__main__":
    main()
