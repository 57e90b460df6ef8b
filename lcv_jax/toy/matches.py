"""Rates captions that are right of a clip, in part or not at all: `python -m lcv_jax.toy.matches FOLDER`.

    python -m lcv_jax.toy.make outputs/captioner/glances --num-clips 12000 --num-frames 2
    python -m lcv_jax.toy.matches outputs/captioner/glances
    python -m lcv_jax.toy.matches outputs/judges/toy_model

Writes FOLDER/matches.jsonl, a manifest of ratings of text alignment (TA), 1 to 5: how many of colour, shape and motion
a caption has right. What drawn clips show is known, so there can be as many ratings as a judge needs to learn to
compare, before it learns from people. Of other clips it is what simulated raters have called it (names.jsonl of
toy/judges.py): a third of what is right counts where one of three says so.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from lcv_jax.bounds import Bounds, Seed, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.own_files import write_rows
from lcv_jax.toy.captions import caption
from lcv_jax.toy.world import CHOICES, Scene, is_invisible, sample_scene
from lcv_jax.user_files import read_rows

COMPARED = ("colour", "shape", "motion")
"""What a caption can have right."""
NAMES = "names.jsonl"
"""What raters call the clips of a folder, written by toy/judges.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Rate captions that are right of the clips of a folder, in part or not at all."""

    folder: Annotated[tyro.conf.Positional[Path], positional("FOLDER")]
    """Of toy.make or toy.judges."""
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
        ValueError: the folder is none of toy.make or toy.judges, or holds no clips.
        OSError: a file that cannot be read or written.
    """
    folder = arguments.folder
    clips = named_clips(folder, arguments.seed) if (folder / NAMES).is_file() else drawn_clips(folder)
    lines = [
        rating
        for number, clip in enumerate(clips)
        if clip is not None
        for rating in ratings(clip, arguments.num_captions, (arguments.seed, number))
    ]
    if not lines:
        raise ValueError(f"{folder}: holds no clips, only images")
    out = folder / "matches.jsonl"
    write_rows(out, lines)
    print(f"wrote {len(lines)} ratings to {out}")


class Clip(NamedTuple):
    """What a clip shows."""

    path: str
    scene: Scene
    names: Mapping[str, Mapping[str, float]]
    """Of each of `COMPARED`: the share of people who call it by a value."""


def drawn_clips(folder: Path) -> Iterator[Clip | None]:
    """Those of toy.make, and None in the place of images: everybody sees what was drawn."""
    scenes = {row["id"]: _scene(row) for row in read_rows(folder / "scenes.jsonl")}
    for row in read_rows(folder / "manifest.jsonl"):
        scene = scenes[row["id"]]
        names = {name: {getattr(scene, name): 1.0} for name in COMPARED}
        yield Clip(row["path"], scene, names) if row["num_frames"] > 1 else None


def named_clips(folder: Path, seed: int) -> Iterator[Clip]:
    """Those of toy.judges, taken for scenes of what most raters call them."""
    for number, row in enumerate(read_rows(folder / NAMES)):
        scene = sample_scene((seed, 6, number))
        most = {name: max(shares, key=lambda value: shares[value]) for name, shares in row["names"].items() if shares}
        if is_invisible(most.get("shape", scene.shape), most.get("motion", scene.motion)):
            most["motion"] = "grows"
        yield Clip(row["path"], dataclasses.replace(scene, **most), row["names"])


def ratings(clip: Clip, count: int, seed: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Captions of a clip with none to three attributes wrong, as often each, and what they deserve."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        told = misdescribed(clip.scene, int(rng.integers(len(COMPARED) + 1)), rng)
        right = sum(clip.names[name].get(getattr(told, name), 0.0) for name in COMPARED)
        prompt = caption(told, int(rng.integers(2**31)))
        yield {"prompt": prompt, "path": clip.path, "ratings": {"TA": 1 + 4 * right / len(COMPARED)}}


def misdescribed(scene: Scene, wrong: int, rng: np.random.Generator) -> Scene:
    """The scene with so many of its attributes another."""
    while True:
        told: dict[str, Any] = {}
        for name in map(str, rng.choice(COMPARED, size=wrong, replace=False)):
            told[name] = str(rng.choice([one for one in CHOICES[name] if one != getattr(scene, name)]))
        shape, motion = (told.get(name, getattr(scene, name)) for name in ("shape", "motion"))
        if not is_invisible(shape, motion):
            return dataclasses.replace(scene, **told)


def _scene(row: dict[str, Any]) -> Scene:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    del fields["id"]
    return Scene(**fields)


if __name__ == "__main__":
    main()
