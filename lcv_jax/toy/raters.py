"""Simulated people who answer a study of the procedural world: `python -m lcv_jax.toy.raters STUDY`.

    python -m lcv_jax.evaluate study outputs/study outputs/evaluation/steps_16 outputs/evaluation/steps_4
    python -m lcv_jax.toy.raters outputs/study
    python -m lcv_jax.evaluate study-results outputs/study

They see what the readers see (toy/judges.py), each through a bias of their own and noise, and answer one item after the
other, as people do on the page of `lcv evaluate rate`. They are attentive: they see the faults of items with known
answers, some of which the readers miss (grain is sharp). Stopped at any time, the same command resumes.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from lcv_jax.bounds import Seed, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.data.media_reader import read_video
from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.studies import Rater, Study, StudyItem, read_study
from lcv_jax.models.judges import DIMENSIONS
from lcv_jax.toy.captions import parse
from lcv_jax.toy.judges import Raters, truth

ASKED = {"visual_quality": "VQ", "motion_quality": "MQ", "text_alignment": "TA"}
"""Dimensions of a study with those of the truth; the overall quality is the mean of the three."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Answer all items of a study as simulated raters."""

    study: Annotated[tyro.conf.Positional[Path], positional("STUDY")]
    """What `lcv evaluate study` set up; every rater of it answers."""
    bias: float = Raters.bias
    """Standard deviation of a rater's own, in points."""
    noise: float = Raters.noise
    """Likewise of every single answer."""
    same: float = Raters.same
    """Of a pair: differences below this, in points, are called the same."""
    seed: Seed = 0
    """Of biases and noise."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.raters()

    def raters(self) -> Raters:
        """As the judges' simulated raters."""
        return Raters(bias=self.bias, noise=self.noise, same=self.same)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.raters") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    with mistakes_in_one_line("interrupted; the same command resumes"):
        answer_study(parse_arguments(Arguments, arguments, prog=prog))


def answer_study(arguments: Arguments) -> int:
    """Answers what is left of a study; gives back the number of items.

    Raises:
        ValueError: no study, or one of prompts or dimensions that the readers do not know.
        OSError: a clip cannot be read.
    """
    study = read_study(arguments.study)
    ratings, count = Ratings(study), 0
    look = functools.cache(functools.partial(opinion, study))
    for number, rater in enumerate(study.raters):
        bias = np.random.default_rng([arguments.seed, number]).normal(0, arguments.bias)
        while (item := ratings.next(rater)) is not None:
            for dimension, score in scores(study, item, rater, arguments, float(bias), look(item.id)).items():
                ratings.add(item, rater, dimension, score)
            count += 1
    print(f"{arguments.study}: {len(study.raters)} simulated raters answered {count} items")
    return count


def scores(
    study: Study, item: StudyItem, rater: Rater, arguments: Arguments, bias: float, seen_V3: np.ndarray
) -> dict[str, int]:
    """A rater's answers to an item."""
    shown = "/".join((item.item, *item.models, item.role, rater.name))
    rng = np.random.default_rng([arguments.seed, *shown.encode()])
    found = {}
    for dimension in item.dimensions:
        points_V = 1 + 4 * points(seen_V3, dimension) + bias + rng.normal(0, arguments.noise, len(seen_V3))
        if study.kind == "absolute":
            found[dimension] = int(np.clip(np.rint(points_V[0]), 1, 5))
        else:
            gain = points_V[0] - points_V[1]
            found[dimension] = 0 if abs(gain) < arguments.same else int(np.sign(gain))
        low, high = item.expected.get(dimension, (found[dimension],) * 2)
        found[dimension] = min(max(found[dimension], low), high)
    return found


def points(seen_V3: np.ndarray, dimension: str) -> np.ndarray:
    """What each of the shown videos is worth in a dimension, 0..1.

    Raises:
        ValueError: another dimension.
    """
    if dimension == "overall":
        return seen_V3.mean(axis=1)
    if dimension not in ASKED:
        raise ValueError(f"simulated raters answer {', '.join(ASKED)} and overall, the study asks for {dimension}")
    return seen_V3[:, DIMENSIONS.index(ASKED[dimension])]


def opinion(study: Study, item_id: str) -> np.ndarray:
    """VQ, MQ and TA of each video of an item."""
    item = study.by_id[item_id]
    asked = parse(item.prompt)
    if asked.colour is None and asked.shape is None and asked.motion is None:
        raise ValueError(f"{item.item}: {item.prompt!r} asks for nothing of the procedural world, which raters know")
    return np.array([truth(read_video(study.folder / name)[0], item.prompt) for name in item.videos])


if __name__ == "__main__":
    main()
