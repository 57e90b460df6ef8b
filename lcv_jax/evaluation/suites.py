"""Suites: the prompts that a model is evaluated on. JSON Lines, one item a line; a doubled id is an error.

    {"id": "fox", "prompt": "A fox runs over snow", "categories": ["animal", "action"], "kind": "concise"}

Two suites come with the package: `general`, in English and Chinese, and `toy`, captions of the procedural world that
its training holds out. Prompts of public benchmarks are read by suite_readers.py.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.bounds import shown
from lcv_jax.data.media_reader import read_image
from lcv_jax.evaluation.packages import evaluation_package
from lcv_jax.own_files import write_text
from lcv_jax.user_files import parse_json, read_text

TASKS = ("text-to-video", "image-to-video")
KINDS = ("detailed", "concise", "contradictory", "empty")
"""The kinds of prompt of the report's section 5.1."""
SHIPPED = Path(__file__).parent / "shipped"
BUNDLED_IMAGES = "skimage:"
"""An image that scikit-image brings along, such as skimage:chelsea.png."""
MOST_SAMPLES = 10_000
_SHOWN_PROBLEMS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt of a suite.

    Raises:
        ValueError: a field with a value that it cannot have.
    """

    id: str
    """Part of file names: letters, digits, dots, hyphens and underscores."""
    prompt: str
    task: str = "text-to-video"
    categories: tuple[str, ...] = ()
    """What is tested; an item may count in several."""
    kind: str = ""
    """detailed, concise, contradictory or empty."""
    image: str = ""
    """The first frame of image-to-video: a file, relative to the suite's folder, or skimage:NAME."""
    style: str = ""
    content: str = ""
    """What is shown, such as animal or vehicle."""
    aspect_ratio: str = ""
    """width:height, such as 16:9. Empty: the sampler's own, or the image's."""
    translations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The prompt in other languages, by their code."""
    dimensions: tuple[str, ...] = ()
    """Of a public benchmark: what its videos are scored for."""
    num_samples: int = 1
    """Videos that the benchmark wants of this prompt."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.id):
            raise ValueError(f"id must be 1 to 100 letters, digits, dots, hyphens or underscores, got {self.id!r}")
        if self.task not in TASKS:
            raise ValueError(f"task must be {' or '.join(TASKS)}, got {self.task!r}")
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, or left out; got {self.kind!r}")
        if bool(self.image) != (self.task == "image-to-video"):
            raise ValueError(f"image belongs to image-to-video, which needs one; got {self.task} and {self.image!r}")
        if not self.prompt.strip() and self.kind != "empty":
            raise ValueError('the prompt is empty; if that is meant, give "kind": "empty"')
        if self.aspect_ratio and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", self.aspect_ratio):
            raise ValueError(f"aspect_ratio must be width:height, such as 16:9; got {self.aspect_ratio!r}")
        if not 1 <= self.num_samples <= MOST_SAMPLES:
            raise ValueError(f"num_samples must lie in 1..{MOST_SAMPLES}, got {shown(self.num_samples)}")

    def text(self, language: str = "en") -> str:
        """The prompt in a language.

        Raises:
            ValueError: it has no translation to it.
        """
        if language == "en":
            return self.prompt
        if language not in self.translations:
            known = ", ".join(["en", *self.translations])
            raise ValueError(f"{self.id} has no prompt in {language!r}; it has {known}")
        return self.translations[language]

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        default = {"id": None, "prompt": None, "task": TASKS[0], "num_samples": 1}
        kept = {name: value for name, value in fields.items() if value != default.get(name, type(value)())}
        return json.loads(json.dumps({**kept, "prompt": self.prompt}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """Items with different ids.

    Raises:
        ValueError: no item, or a doubled id.
    """

    name: str
    items: tuple[Item, ...]
    folder: Path = Path()
    """Image paths are relative to it."""

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError(f"suite {self.name}: holds no items")
        ids = [item.id for item in self.items]
        twice = sorted({one for one in ids if ids.count(one) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            raise ValueError(f"suite {self.name}: the id {', '.join(twice[:5])} comes more than once; ids must differ")

    @property
    def digest(self) -> str:
        """Of the items; changes with any of them."""
        lines = json.dumps([item.to_json() for item in self.items], sort_keys=True)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    def image(self, item: Item) -> np.ndarray:
        """The first frame of an image-to-video item, uint8 H W 3.

        Raises:
            OSError: it cannot be read.
            ImportError: scikit-image is not installed.
        """
        if not item.image.startswith(BUNDLED_IMAGES):
            return read_image(self.folder / item.image)
        package = Path(str(evaluation_package("skimage.data").__file__)).parent
        return read_image(package / item.image.removeprefix(BUNDLED_IMAGES))


def read_suite(source: str | Path) -> Suite:
    """A suite file (.jsonl), or one that comes with the package by its name.

    Raises:
        OSError: there is no such file.
        ValueError: lines that are wrong, all of them named, or a doubled id.
    """
    path = Path(source)
    if not path.suffix and (SHIPPED / f"{source}.jsonl").is_file():
        path = SHIPPED / f"{source}.jsonl"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.jsonl")))
        raise FileNotFoundError(f"{source}: no such suite file (.jsonl); the package has {shipped}")
    items: list[Item] = []
    problems: list[str] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = _item(parse_json(line, "the line"))
            if item.id in lines_of:
                raise ValueError(f"the id {item.id!r} is that of line {lines_of[item.id]} too; ids must differ")
            lines_of[item.id] = number
            items.append(item)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise ValueError(f"{path}: {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}")
    return Suite(name=path.stem, items=tuple(items), folder=path.parent)


def _item(row: dict[str, Any]) -> Item:
    names = [field.name for field in dataclasses.fields(Item)]
    for name, value in row.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise ValueError(f"unknown field {name!r}" + (f", did you mean {close[0]!r}?" if close else ""))
        row[name] = _checked(name, value)
    missing = [name for name in ("id", "prompt") if name not in row]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing")
    return Item(**row)


def _checked(name: str, value: Any) -> Any:
    """A field's value in its type."""
    if name == "num_samples":
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"num_samples must be a whole number, got {value!r}")
        return value
    if name in ("categories", "dimensions"):
        if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
            raise ValueError(f"{name} must be a list of texts, got {value!r}")
        return tuple(value)
    if name == "translations":
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise ValueError(f"translations must be texts by language, got {value!r}")
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r}")
    return value


def write_suite(items: Iterable[Item], path: Path) -> None:
    """A suite file.

    Raises:
        ValueError: no item, or a doubled id.
    """
    suite = Suite(name=path.stem, items=tuple(items))
    lines = [json.dumps(item.to_json(), ensure_ascii=False) for item in suite.items]
    write_text(path, "\n".join(lines) + "\n")
