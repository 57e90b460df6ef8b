"""Commands about scores: `measure`, `measure-video`, `fvd`, `judge`, `compare`."""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lcv_jax.bounds import Bounds, check_fields
from lcv_jax.command_line import positional, show_progress
from lcv_jax.evaluation import report
from lcv_jax.evaluation.comparing import compare_runs, lines_of_comparison
from lcv_jax.evaluation.fvd import FEWEST_CLIPS, features_of, frechet_distance, make_features
from lcv_jax.evaluation.measures import MEASURES, measure_video
from lcv_jax.evaluation.runs import Run, read_run, videos_of
from lcv_jax.evaluation.scores import Scores, judged, measured, score_run
from lcv_jax.own_files import write_text
from lcv_jax.rewards.config import RewardSource, open_reward
from lcv_jax.user_files import check_writable


def _tell(done: int, total: int) -> None:
    show_progress(f"{done} of {total} videos", last=done == total)


def _read_runs(folders: tuple[Path, ...], least: int) -> list[Run]:
    """Several runs.

    Raises:
        ValueError: too few, or one that is there twice.
    """
    if len(folders) < least:
        raise ValueError(
            f"expected {least} run{'s' if least > 1 else ''} at least, got {len(folders)}: folders of `sample`"
        )
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder for folder in folders if resolved.count(folder.resolve()) > 1]:
        raise ValueError(f"{twice[0]} is given twice")
    return [read_run(folder) for folder in folders]


def _warn_of_missing(run: Run) -> None:
    if run.missing:
        few = ", ".join(run.missing[:3]) + (", ..." if len(run.missing) > 3 else "")
        print(f"warning: {run.folder}: {len(run.missing)} prompts have no video ({few})", file=sys.stderr)


def _print_failures(scores: Scores) -> None:
    if scores.outdated:
        changed = f"{len(scores.outdated)} videos that were replaced since, or scored by an older version"
        print(f"{scores.name}: scored again {changed}")
    for video, reason in list(scores.failures.items())[:5]:
        print(f"warning: {video} has no score: {reason}", file=sys.stderr)
    print(f"{scores.name}: {len(scores.by_video)} videos scored, {len(scores.failures)} without a score")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureRuns:
    """Measure the clips of runs: flicker, dynamics, warping error, jerk, sharpness, colour drift; no weights needed."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], positional("RUN")]
    """The runs, one at least."""

    def run(self) -> None:
        """Writes RUN/scores/measures.json."""
        for run in _read_runs(self.runs, 1):
            _warn_of_missing(run)
            _print_failures(score_run(run, "measures", {"measures": list(MEASURES)}, measured(run), _tell))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureVideo:
    """Measure single videos, such as a long one: the measures, jumps at seams, likeness to a reference."""

    videos: Annotated[tyro.conf.Positional[tuple[Path, ...]], positional("VIDEO")]
    """The files."""
    seams: tuple[int, ...] = ()
    """Frames (from 0) that begin a segment: how much more changes there than elsewhere; 1 is smooth."""
    reference: Path | None = None
    """A video of the same size and length: PSNR and SSIM to it."""
    as_json: bool = False
    """Print JSON. A number that is infinite or undefined is null there, and `null_because` says why."""

    def run(self) -> None:
        """Prints a line for each number of each video."""
        if not self.videos:
            raise ValueError("expected a video at least, got none")
        found = {str(path): measure_video(path, seams=self.seams, reference=self.reference) for path in self.videos}
        if self.as_json:
            print(json.dumps({path: finite_json(values) for path, values in found.items()}, indent=1))
            return
        for path, values in found.items():
            print(path)
            for name, value in values.items():
                print(f"  {name:18} {value:.4g}")


def finite_json(values: Mapping[str, float]) -> dict[str, Any]:
    """Numbers as JSON has them: it has no infinity and no NaN."""
    reasons = {
        name: "infinite: the videos are equal"
        if math.isinf(value)
        else "undefined: every frame is a seam, there is no other change"
        for name, value in values.items()
        if not math.isfinite(value)
    }
    found: dict[str, Any] = {name: None if name in reasons else value for name, value in values.items()}
    return {**found, "null_because": reasons} if reasons else found


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrechetDistance:
    """Fréchet video distance of a run's videos to reference videos, by a network whose weights you have.

    `--features lcv_jax.evaluation.fvd:i3d --options weights i3d_torchscript.pt` needs PyTorch; any module:factory that
    gives a function of uint8 frames T H W 3 does.
    """

    run_folder: Annotated[tyro.conf.Positional[Path], positional("RUN")]
    """A run."""
    reference: Annotated[tyro.conf.Positional[Path], positional("REFERENCE")]
    """Another run, or a folder of videos."""
    features: str = "lcv_jax.evaluation.fvd:i3d"
    """module:factory."""
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
    """KEY VALUE: keywords of the factory."""
    num_frames: Annotated[int, Bounds(least=1)] = 16
    """The first so many frames of each video; shorter videos are left out."""

    def run(self) -> None:
        """Prints the distance, and what it is of."""
        check_fields(self)
        run = read_run(self.run_folder)
        _warn_of_missing(run)
        sets = [[video.path for video in run.videos], videos_of(self.reference)]
        network = make_features(self.features, dict(self.options))
        vectors = []
        for paths in sets:
            found, failures = features_of(paths, network, self.num_frames, _tell)
            for path, reason in list(failures.items())[:5]:
                print(f"warning: {path} is left out: {reason}", file=sys.stderr)
            vectors.append(found)
        fewest = min(map(len, vectors))
        if fewest < FEWEST_CLIPS:
            print(f"warning: {fewest} clips are few: the distance is biased upwards by their number", file=sys.stderr)
        distance = frechet_distance(*vectors)
        print(f"FVD {distance:.4g}: {len(vectors[0])} and {len(vectors[1])} clips of {self.num_frames} frames")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeRuns:
    """Score the clips of runs with a reward model of lcv_jax.rewards, or a model behind an OpenAI-compatible endpoint.

    For the latter: `--factory lcv_jax.evaluation.openai_judge:judge --options url http://host:8000/v1 model NAME`.
    """

    name: Annotated[tyro.conf.Positional[str], positional("NAME")]
    """What the scores are called."""
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], positional("RUN")]
    """The runs, one at least."""
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
        runs = _read_runs(self.runs, 1)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) or self.name == "measures":
            raise ValueError(f"NAME must be letters, digits, dots or hyphens, and not measures; got {self.name!r}")
        where: Literal["local", "process", "http"] = "http" if self.urls else "process" if self.command else "local"
        source = RewardSource(
            where=where, factory=self.factory, options=self.options, command=self.command, urls=self.urls
        )
        made_by = json.loads(json.dumps({"factory": self.factory, "options": self.options, "place": source.place}))
        reward = open_reward(source, timeout=self.timeout)
        try:
            for run in runs:
                _warn_of_missing(run)
                _print_failures(score_run(run, self.name, made_by, judged(reward), _tell))
        finally:
            getattr(reward, "close", lambda: None)()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare runs on the prompts that all have: means, paired differences with intervals, and what is too close."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], positional("RUN")]
    """Two or more; differences are between the first and each other one."""
    page: Path | None = None
    """Write a self-contained HTML page with bars, tables and clips."""
    markdown: Path | None = None
    """Write a table for a model card."""
    num_prompts: Annotated[int, Bounds(least=0, most=1000)] = 3
    """Best and worst prompts whose clips are on the page."""
    rank_by: tuple[str, str] | None = None
    """NAME SCORE that ranks them, such as `measures flicker`. None: a judge's first score."""

    def __post_init__(self) -> None:
        check_fields(self)

    def run(self) -> None:
        """Prints the comparison and writes what is asked for."""
        for path in (self.page, self.markdown):
            if path is not None:
                check_writable(path)
        if self.page is not None and self.markdown is not None and self.page.resolve() == self.markdown.resolve():
            raise ValueError(f"--page and --markdown are both {self.page}: give two files")
        found = compare_runs(_read_runs(self.runs, 2))
        files = [(self.markdown, report.markdown(found))] if self.markdown is not None else []
        if self.page is not None:
            files.append((self.page, report.page(found, num_prompts=self.num_prompts, shown=self.rank_by)))
        elif self.rank_by is not None:
            raise ValueError("--rank-by ranks the prompts of a --page: give one")
        for path, text in files:
            write_text(path, text)
        print("\n".join([*lines_of_comparison(found), *(f"wrote {path}" for path, _ in files)]))


COMMANDS: dict[str, type] = {
    "measure": MeasureRuns,
    "measure-video": MeasureVideo,
    "fvd": FrechetDistance,
    "judge": JudgeRuns,
    "compare": Compare,
}
