"""Scores of a run's videos by measures or a judge: RUN/scores/NAME.json, resumable, and read by comparisons.

Each score is stored with what it is of (sources.py); one of a video that was replaced since is not read.
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
from lcv_jax.evaluation.sources import Source, is_unchanged, source_of
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
    made_by: Mapping[str, Any]
    """What gave them."""
    by_video: Mapping[str, Mapping[str, float]]
    failures: Mapping[str, str]
    sources: Mapping[str, Source]
    """What they are of, by video."""
    outdated: tuple[str, ...] = ()
    """Videos that were replaced, or whose prompt or image was changed, after they were scored."""

    def by_item(self, run: Run) -> dict[str, dict[str, float]]:
        """Means over the samples of each item, by score and item."""
        found: dict[str, dict[str, list[float]]] = {}
        for video in run.videos:
            for score, value in self.by_video.get(video.id, {}).items():
                found.setdefault(score, {}).setdefault(video.item.id, []).append(value)
        return {score: {item: float(np.mean(each)) for item, each in by.items()} for score, by in found.items()}


def read_scores(run: Run) -> list[Scores]:
    """All scores that a run has, without those that are outdated.

    Raises:
        ValueError: a damaged file.
    """
    return [_read(path, run) for path in sorted((run.folder / "scores").glob("*.json"))]


def _read(path: Path, run: Run) -> Scores:
    content = read_json(path)
    with reading(path, "delete the file and score again"):
        by_video = {
            video: {key: float(value) for key, value in each.items()} for video, each in content["scores"].items()
        }
        sources = {video: Source(**each) for video, each in content.get("sources", {}).items()}
        made_by, failures = dict(content["made_by"]), dict(content["failures"])
    scored = [video for video in run.videos if video.id in by_video]
    outdated = tuple(video.id for video in scored if not is_unchanged(sources.get(video.id), run, video))
    for video_id in outdated:
        del by_video[video_id]
        sources.pop(video_id, None)
    return Scores(
        name=path.stem, made_by=made_by, by_video=by_video, failures=failures, sources=sources, outdated=outdated
    )


def score_run(
    run: Run,
    name: str,
    made_by: Mapping[str, Any],
    score: Callable[[Video], Mapping[str, float]],
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Scores the videos that have no score of this name yet, or have changed; those that failed are tried again.

    Interrupted, it keeps what it has scored.

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
    before = _read(path, run) if path.is_file() else None
    if before is not None and before.by_video and before.made_by != dict(made_by):
        raise ValueError(f"{path}: made by {before.made_by}, now {dict(made_by)}: choose another name")
    scores = dict(before.by_video) if before else {}
    failures = dict(before.failures) if before else {}
    sources = dict(before.sources) if before else {}

    def save() -> None:
        written = {video: dataclasses.asdict(source) for video, source in sources.items()}
        content = {"made_by": dict(made_by), "scores": scores, "failures": failures, "sources": written}
        write_json(path, content)

    unsaved = 0
    try:
        for done, video in enumerate(run.videos):
            on_video(done, len(run.videos))
            if video.id in scores and video.id not in failures:
                continue
            failures.pop(video.id, None)
            try:
                sources[video.id], scores[video.id], reason = _scored(run, video, score)
            except (ValueError, OSError) as error:
                reason = str(error)
            if reason:
                failures[video.id] = reason
            unsaved += 1
            if unsaved == SAVE_EVERY:
                save()
                unsaved = 0
        on_video(len(run.videos), len(run.videos))
    finally:
        save()
    outdated = before.outdated if before else ()
    return Scores(name=name, made_by=made_by, by_video=scores, failures=failures, sources=sources, outdated=outdated)


def _scored(
    run: Run, video: Video, score: Callable[[Video], Mapping[str, float]]
) -> tuple[Source, dict[str, float], str]:
    """What is scored, its finite scores, and why others are missing."""
    source = source_of(run, video)
    found = {key: float(value) for key, value in score(video).items()}
    wrong = sorted(key for key, value in found.items() if not math.isfinite(value))
    kept = {key: value for key, value in found.items() if key not in wrong}
    return source, kept, f"{', '.join(wrong)} not finite" if wrong else ""


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
