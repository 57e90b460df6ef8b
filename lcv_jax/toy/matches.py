"""Rates captions that are right of a clip, in part or not at all: `python -m lcv_jax.toy.matches FOLDER`.

    python -m lcv_jax.toy.make outputs/captioner/glances --num-clips 12000 --num-frames 2
    python -m lcv_jax.toy.matches outputs/captioner/glances

Writes FOLDER/matches.jsonl, a manifest of ratings of text alignment (TA), 1 to 5: how many of colour, shape and motion
a caption has right. What is right is known, as the clips were drawn: no rater and no reader is needed, so there can be
as many as a judge needs to learn to compare, before it learns from people.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from lcv_jax.bounds import Bounds, Seed, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.own_files import write_rows
from lcv_jax.toy.captions import caption
from lcv_jax.toy.world import CHOICES, ROUND, Scene
from lcv_jax.user_files import read_rows

COMPARED = ("colour", "shape", "motion")
"""What a caption can have right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Rate captions that are right of the clips of a folder, in part or not at all."""

    folder: Annotated[tyro.conf.Positional[Path], positional("FOLDER")]
    """Of toy.make."""
    num_captions: Annotated[int, Bounds(least=1, most=1000)] = 3
    """For each clip."""
    seed: Seed = 0
    """Of what is wrong."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.matches") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    with mistakes_in_one_line():
        write(parse_arguments(Arguments, arguments, prog=prog))


def write(arguments: Arguments) -> None:
    """Writes FOLDER/matches.jsonl.

    Raises:
        ValueError: the folder is none of toy.make.
        OSError: a file that cannot be read or written.
    """
    manifest, scenes = (arguments.folder / name for name in ("manifest.jsonl", "scenes.jsonl"))
    shown = {row["id"]: _scene(row) for row in read_rows(scenes)}
    lines = [
        rating
        for number, row in enumerate(read_rows(manifest))
        if row["num_frames"] > 1
        for rating in ratings(row["path"], shown[row["id"]], arguments.num_captions, (arguments.seed, number))
    ]
    if not lines:
        raise ValueError(f"{manifest}: holds no clips, only images")
    out = arguments.folder / "matches.jsonl"
    write_rows(out, lines)
    print(f"wrote {len(lines)} ratings to {out}")


def ratings(path: str, scene: Scene, count: int, seed: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Captions of a clip with none to three attributes wrong, as often each, and what they deserve."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        told = misdescribed(scene, int(rng.integers(len(COMPARED) + 1)), rng)
        right = sum(getattr(told, name) == getattr(scene, name) for name in COMPARED)
        prompt = caption(told, int(rng.integers(2**31)))
        yield {"prompt": prompt, "path": path, "ratings": {"TA": 1 + 4 * right / len(COMPARED)}}


def misdescribed(scene: Scene, wrong: int, rng: np.random.Generator) -> Scene:
    """The scene with so many of its attributes another."""
    while True:
        told: dict[str, Any] = {}
        for name in map(str, rng.choice(COMPARED, size=wrong, replace=False)):
            told[name] = str(rng.choice([one for one in CHOICES[name] if one != getattr(scene, name)]))
        shape, motion = (told.get(name, getattr(scene, name)) for name in ("shape", "motion"))
        if motion != "turns" or shape not in ROUND:  # there is no such scene
            return dataclasses.replace(scene, **told)


def _scene(row: dict[str, Any]) -> Scene:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    del fields["id"]
    return Scene(**fields)


if __name__ == "__main__":
    main()
