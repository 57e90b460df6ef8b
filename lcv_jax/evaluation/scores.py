"""Scores of a run's videos by measures or a judge: RUN/scores/NAME.json, resumable, and read by comparisons.

A score that is missing or not finite is absent and `failures` says why; it never becomes a number.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.data.media_reader import read_video
from lcv_jax.evaluation.measures import measure_file
from lcv_jax.evaluation.runs import Run, Video
from lcv_jax.own_files import write_json
from lcv_jax.rewards.collect import score_all
from lcv_jax.rewards.protocol import Reward
from lcv_jax.user_files import read_json, reading

SAVE_EVERY = 20
"""Videos between two writes of the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """One scorer's scores of a run."""

    name: str
    by_video: Mapping[str, Mapping[str, float]]
    failures: Mapping[str, str]

    def by_item(self, run: Run) -> dict[str, dict[str, float]]:
        """Means over the samples of each item, by score and item."""
        found: dict[str, dict[str, list[float]]] = {}
        for video in run.videos:
            for score, value in self.by_video.get(video.id, {}).items():
                found.setdefault(score, {}).setdefault(video.item.id, []).append(value)
        return {score: {item: float(np.mean(each)) for item, each in by.items()} for score, by in found.items()}


def read_scores(run: Run) -> list[Scores]:
    """All scores that a run has.

    Raises:
        ValueError: a damaged file.
    """
    found = []
    for path in sorted((run.folder / "scores").glob("*.json")):
        content = read_json(path)
        with reading(path, "delete the file and score again"):
            by_video = {
                video: {key: float(value) for key, value in each.items()} for video, each in content["scores"].items()
            }
            found.append(Scores(name=path.stem, by_video=by_video, failures=dict(content["failures"])))
    return found


def score_run(
    run: Run,
    name: str,
    made_by: Mapping[str, Any],
    score: Callable[[Video], Mapping[str, float]],
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Scores the videos that have no score of this name yet; those that failed are tried again.

    Args:
        run: whose videos.
        name: of the file.
        made_by: what gives the scores; another one under the same name is refused.
        score: scores of one video; ValueError and OSError make it a failure.
        on_video: progress callback.

    Raises:
        ValueError: the name has scores of something else.
    """
    path = run.folder / "scores" / f"{name}.json"
    content = read_json(path) if path.is_file() else {"made_by": dict(made_by), "scores": {}, "failures": {}}
    if content["made_by"] != dict(made_by):
        raise ValueError(f"{path}: made by {content['made_by']}, now {dict(made_by)}: choose another name")
    scores, failures = dict(content["scores"]), {}
    for done, video in enumerate(run.videos):
        on_video(done, len(run.videos))
        if video.id in scores and video.id not in content["failures"]:
            continue
        try:
            found = {key: float(value) for key, value in score(video).items()}
        except (ValueError, OSError) as error:
            failures[video.id] = str(error)
            continue
        wrong = sorted(key for key, value in found.items() if not math.isfinite(value))
        if wrong:
            failures[video.id] = f"{', '.join(wrong)} not finite"
        scores[video.id] = {key: value for key, value in found.items() if key not in wrong}
        if done % SAVE_EVERY == 0:
            write_json(path, {"made_by": dict(made_by), "scores": scores, "failures": failures})
    on_video(len(run.videos), len(run.videos))
    write_json(path, {"made_by": dict(made_by), "scores": scores, "failures": failures})
    return Scores(name=name, by_video=scores, failures=failures)


def measured(run: Run) -> Callable[[Video], Mapping[str, float]]:
    """The measures of a video; of image-to-video with the fidelity of the first frame."""

    def measure(video: Video) -> Mapping[str, float]:
        found = measure_file(video.path, run.suite.image(video.item) if video.item.image else None)
        return {key: min(value, 99.0) if key.endswith("psnr") else value for key, value in found.items()}

    return measure


def judged(reward: Reward) -> Callable[[Video], Mapping[str, float]]:
    """A reward's scores of a video; a reward that fails makes it a failure."""

    def judge(video: Video) -> Mapping[str, float]:
        frames, fps = read_video(Path(video.path))
        scores = score_all([reward], frames[None], [video.item.prompt], float(fps))
        if scores.failures:
            raise ValueError(scores.failures[0])
        return {name: float(values[0]) for name, values in scores.values.items()}

    return judge
