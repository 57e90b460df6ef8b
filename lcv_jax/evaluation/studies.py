"""Studies: which clips people rate, and who. A study is a folder; study.json does not change once it is rated.

Absolute studies ask for a mean opinion score of one clip from 1 to 5 in each dimension; pairwise ones show two models'
clips of one prompt and ask which is better (good, same, bad). Before the first rating every rater passes training items
whose answers are known; among the others there are a few more of them, which check attention. Files are named relative
to the study's folder, so that it may be moved together with the runs.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lcv_jax.bounds import check_fields
from lcv_jax.data.media_reader import probe_video
from lcv_jax.data.media_writer import write_image
from lcv_jax.evaluation.dimensions import BY_ID, dimensions_of
from lcv_jax.evaluation.known_answers import known_answers
from lcv_jax.evaluation.runs import Run, Video
from lcv_jax.evaluation.suites import Item
from lcv_jax.own_files import file_sha256, write_json
from lcv_jax.user_files import read_json, reading

FORMAT = 2
Kind = Literal["absolute", "pairwise"]
Role = Literal["rating", "training", "check"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyItem:
    """What a rater sees at a time."""

    id: str
    """Random: raters learn nothing from it."""
    role: Role
    item: str
    """Id of the suite's item."""
    categories: tuple[str, ...]
    prompt: str
    videos: tuple[str, ...]
    """One file, or two of a pair, relative to the study's folder as the image."""
    models: tuple[str, ...]
    """Their runs' names, which raters never see."""
    dimensions: tuple[str, ...]
    image: str = ""
    """A reference image."""
    expected: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """Of a known answer: lowest and highest right score by dimension."""
    explanation: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rater:
    """Who may rate."""

    name: str
    token: str
    """In the rater's link."""
    categories: tuple[str, ...] = ()
    """What they may rate; empty: everything."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """The contents of study.json."""

    folder: Path
    kind: Kind
    items: tuple[StudyItem, ...]
    raters: tuple[Rater, ...]
    files: Mapping[str, str]
    """SHA-256 of each file that items show, when the study was made."""
    num_raters: int = 3
    """Ratings that every item gets."""
    extra_raters: int = 2
    """Further ratings where two raters differ much."""
    disagreement: int = 2
    """Points by which two ratings differ much."""
    seed: int = 0
    """Of the order in which raters see items."""

    @functools.cached_property
    def digest(self) -> str:
        """Of everything; ratings belong to one."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @functools.cached_property
    def _root(self) -> str:
        return str(self.folder)

    @functools.cached_property
    def by_id(self) -> dict[str, StudyItem]:
        return {item.id: item for item in self.items}

    def missing_file(self, item: StudyItem) -> Path | None:
        """A file that an item shows and that is gone, or empty; such an item cannot be rated."""
        # Every request asks this of every item: texts are twice as fast as paths.
        absent = [name for name in _names(item) if not _has_content(os.path.join(self._root, name))]
        return self.folder / absent[0] if absent else None

    def paths(self, item: StudyItem) -> list[Path]:
        """The files that an item shows."""
        return [self.folder / name for name in _names(item)]

    def replaced_files(self) -> list[Path]:
        """Files whose content is another than when the study was made; those that are gone are not among them."""
        paths = {self.folder / name: sha256 for name, sha256 in self.files.items()}
        return [path for path, sha256 in paths.items() if _has_content(path) and file_sha256(path) != sha256]

    def rater(self, token: str) -> Rater | None:
        """The rater with this token."""
        given = token.encode("utf-8", "surrogatepass")
        return next((rater for rater in self.raters if secrets.compare_digest(rater.token.encode(), given)), None)

    def scores(self) -> range:
        """Those that a rating can have."""
        return range(1, 6) if self.kind == "absolute" else range(-1, 2)

    def to_json(self) -> dict[str, Any]:
        """All fields but the folder."""
        fields = dataclasses.asdict(self)
        del fields["folder"]
        return {"format": FORMAT, **json.loads(json.dumps(fields))}


def read_study(folder: Path) -> Study:
    """A study.

    Raises:
        OSError: no such folder.
        ValueError: it has no study.json, or one that is damaged or of another version.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: not a study, it has no study.json; make one with `evaluate study`")
    content = read_json(path)
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"{path}: of another version of this program; expected format {FORMAT}")
    with reading(path):
        items = tuple(StudyItem(**_tuples(item)) for item in content.pop("items"))
        raters = tuple(Rater(**_tuples(rater)) for rater in content.pop("raters"))
        study = Study(folder=folder, items=items, raters=raters, **content)
        for part in (study, *items, *raters):
            check_fields(part)
        for item in items:
            if unknown := {*item.dimensions, *item.expected} - BY_ID.keys():
                raise ValueError(f"item {item.id}: unknown dimensions {', '.join(sorted(unknown))}")
            if len(item.videos) != len(item.models) or len(item.videos) != (1 if study.kind == "absolute" else 2):
                raise ValueError(f"item {item.id}: of another kind of study: {len(item.videos)} videos")
        return study


def _names(item: StudyItem) -> tuple[str, ...]:
    return (*item.videos, item.image) if item.image else item.videos


def _has_content(path: Path | str) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields read from JSON, whose lists are tuples here."""

    def as_tuple(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else _tuples(value) if isinstance(value, dict) else value

    return {key: as_tuple(value) for key, value in fields.items()}


def create_study(
    folder: Path,
    runs: Sequence[Run],
    kind: Kind,
    raters: Mapping[str, Sequence[str]],
    *,
    num_training: int = 3,
    num_checks: int = 3,
    num_raters: int = 3,
    extra_raters: int = 2,
    disagreement: int = 2,
    seed: int = 0,
) -> tuple[Study, list[str]]:
    """Writes a study of the prompts that all runs have.

    Args:
        folder: of the study; it must be new.
        runs: models; pairwise studies compare every two.
        kind: absolute or pairwise.
        raters: names, each with the categories that they may rate (none: all).
        num_training: items with known answers before the first rating.
        num_checks: items with known answers among the others.
        num_raters, extra_raters, disagreement, seed: fields of `Study`.

    Returns:
        The study, and what is worth a warning.

    Raises:
        ValueError: a folder that has a study or is a run, runs without common prompts or with the same name, no
            raters, a category that no prompt has.
        OSError: a video that cannot be read.
    """
    if (folder / "study.json").exists():
        raise ValueError(f"{folder} has a study already, which does not change any more; choose another folder")
    if (folder / "items.jsonl").exists():
        raise ValueError(f"{folder} is a run: choose another folder for the study, and give the run after it")
    names = [run.name for run in runs]
    if not raters or len(set(names)) < len(names) or len(runs) < (2 if kind == "pairwise" else 1):
        needed = "two runs" if kind == "pairwise" else "a run"
        raise ValueError(f"a study needs raters and {needed} with different folder names, got {', '.join(names)}")
    by_run = {run.name: {video.item.id: video for video in run.videos if video.sample == 0} for run in runs}
    common = [item for item in runs[0].suite.items if all(item.id in videos for videos in by_run.values())]
    common = [one for one in common if len({videos[one.id].item.prompt for videos in by_run.values()}) == 1]
    if not common:
        raise ValueError(f"{', '.join(names)} have no prompt in common")
    warnings = [
        f"{name}: {len(videos) - len(common)} of {len(videos)} prompts are not in all runs and are left out"
        for name, videos in by_run.items()
        if len(videos) > len(common)
    ]
    warnings += _raters_of(common, raters, num_raters)
    warnings += _clip_differences(by_run, [item.id for item in common])
    groups = [(run.name,) for run in runs] if kind == "absolute" else list(itertools.combinations(names, 2))
    items = [
        _item(folder, runs[0], [by_run[name][item.id] for name in models], models)
        for item in common
        for models in groups
    ]
    known = _known_items(folder, list(by_run[names[0]].values()), kind, num_training, num_checks)
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(
        folder=folder,
        kind=kind,
        items=(*known, *items),
        files={name: file_sha256(folder / name) for name in {name for one in (*known, *items) for name in _names(one)}},
        raters=tuple(
            Rater(name=name, token=secrets.token_urlsafe(9), categories=tuple(categories))
            for name, categories in raters.items()
        ),
        num_raters=num_raters,
        extra_raters=extra_raters,
        disagreement=disagreement,
        seed=seed,
    )
    write_json(folder / "study.json", study.to_json())
    return study, warnings


def _raters_of(items: Sequence[Item], raters: Mapping[str, Sequence[str]], num_raters: int) -> list[str]:
    """Warns of items that too few raters may rate.

    Raises:
        ValueError: a rater's category that no item has.
    """
    known = {category for item in items for category in item.categories}
    for name, categories in raters.items():
        if unknown := [category for category in categories if category not in known]:
            there_are = ", ".join(sorted(known)) or "none"
            raise ValueError(
                f"{name} may rate {', '.join(unknown)}: no prompt has that category; there are {there_are}"
            )
    few = [
        item.id
        for item in items
        if sum(not allowed or bool(set(allowed) & set(item.categories)) for allowed in raters.values()) < num_raters
    ]
    text = f"{len(few)} of {len(items)} prompts have fewer raters than the {num_raters} ratings that each is to get"
    return [f"{text} ({few[0]}, ...): add raters, or lower --num-raters"] if few else []


def _clip_differences(by_run: Mapping[str, Mapping[str, Video]], ids: Sequence[str]) -> list[str]:
    """Reads a frame of every video; tells where clips of one prompt differ in length or size."""
    lengths = sizes = 0
    for one in ids:
        probed = [probe_video(videos[one].path) for videos in by_run.values()]
        seconds = [found[2] for found in probed]
        lengths += max(seconds) - min(seconds) > 0.1
        sizes += len({found[:2] for found in probed}) > 1
    counts = {"lengths": lengths, "sizes": sizes}
    return [f"{n} prompts have videos of different {what}; raters may notice" for what, n in counts.items() if n]


def _item(folder: Path, run: Run, videos: Sequence[Video], models: Sequence[str]) -> StudyItem:
    item = videos[0].item
    image = ""
    if item.image:
        image = f"images/{item.id}.png"
        if not (folder / image).exists():
            write_image(folder / image, run.suite.image(item))
    return StudyItem(
        id=secrets.token_urlsafe(9),
        role="rating",
        item=item.id,
        categories=item.categories,
        prompt=item.prompt,
        videos=tuple(_relative(video.path, folder) for video in videos),
        models=tuple(models),
        dimensions=tuple(dimension.id for dimension in dimensions_of(item.task)),
        image=image,
    )


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path.resolve(), folder.resolve())


def _known_items(
    folder: Path, videos: Sequence[Video], kind: Kind, num_training: int, num_checks: int
) -> list[StudyItem]:
    """Training items, then checks. The faulty clip is the second of a pair, where -1 means that it is better."""
    answers = known_answers(videos, folder / "known", num_training + num_checks, pairs=kind == "pairwise")
    items = []
    for place, answer in enumerate(answers):
        faulty = _relative(answer.video, folder)
        files = (faulty,) if kind == "absolute" else (_relative(answer.source.path, folder), faulty)
        items.append(
            StudyItem(
                id=secrets.token_urlsafe(9),
                role="training" if place < num_training else "check",
                item=answer.source.item.id,
                categories=(),
                prompt=answer.prompt,
                videos=files,
                models=("faulty",) if kind == "absolute" else ("clean", "faulty"),
                dimensions=tuple(dimension.id for dimension in dimensions_of("text-to-video")),
                expected={answer.dimension: (1, 2) if kind == "absolute" else (1, 1)},
                explanation=answer.explanation,
            )
        )
    return items
