"""A run: the videos of one model for one suite, in a folder that everything else reads.

    RUN/items.jsonl          the suite
    RUN/run.json             how it was sampled; absent where the videos came from elsewhere
    RUN/videos/ID-0.mp4      sample 0 of an item, and ID-0.json with its prompt and seed

Videos of other models become a run by that layout: a copy of the suite as items.jsonl, and files of these names.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lcv_jax.evaluation.suites import Item, Suite, read_suite
from lcv_jax.own_files import differences, write_json
from lcv_jax.user_files import read_json

VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """One sample of an item."""

    item: Item
    sample: int
    path: Path

    @property
    def id(self) -> str:
        return f"{self.item.id}-{self.sample}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is in a run's folder."""

    folder: Path
    suite: Suite
    videos: tuple[Video, ...]
    missing: tuple[str, ...]
    """Items without any video."""
    language: str = ""
    """Of the prompts that were sampled; empty where the videos came from elsewhere."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def read_run(folder: Path) -> Run:
    """The videos that a run has; an empty file is none.

    Raises:
        OSError: no such folder.
        ValueError: it has no items.jsonl, or no video of its items.
    """
    items = folder / "items.jsonl"
    if not items.is_file():
        raise ValueError(f"{folder}: not a run, it has no items.jsonl; make one with `evaluate sample`")
    suite = read_suite(items)
    found = {
        path.stem: path
        for path in sorted((folder / "videos").glob("*"))
        if path.suffix in VIDEO_SUFFIXES and not path.name.startswith(".") and path.stat().st_size
    }
    videos = []
    for item in suite.items:
        samples = [stem.removeprefix(f"{item.id}-") for stem in found if stem.startswith(f"{item.id}-")]
        numbers = sorted(int(sample) for sample in samples if sample.isdecimal() and sample == str(int(sample)))
        videos += [Video(item=item, sample=number, path=found[f"{item.id}-{number}"]) for number in numbers]
    if not videos:
        raise ValueError(f"{folder}/videos: no video of this suite; files are named ID-0.mp4")
    have = {video.item.id for video in videos}
    settings = folder / "run.json"
    return Run(
        folder=folder,
        suite=suite,
        videos=tuple(videos),
        missing=tuple(item.id for item in suite.items if item.id not in have),
        language=str(read_json(settings).get("language", "")) if settings.is_file() else "",
    )


def videos_of(folder: Path) -> list[Path]:
    """The videos of a run, or of any folder.

    Raises:
        OSError: no such folder.
        ValueError: there is no video in it.
    """
    if (folder / "items.jsonl").is_file():
        return [video.path for video in read_run(folder).videos]
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise ValueError(f"{folder}: no videos ({', '.join(VIDEO_SUFFIXES)})")
    return found


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Writes the settings of a folder, or raises where it was begun with others.

    Raises:
        ValueError: other settings; the fields that differ are named.
    """
    settings = json.loads(json.dumps(settings))
    if not path.is_file():
        write_json(path, settings)
        return
    if differing := differences(read_json(path), settings):
        raise ValueError(f"{path.parent} was begun with other settings: {differing}; choose another folder")
