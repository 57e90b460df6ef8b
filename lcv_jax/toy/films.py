"""Writes long procedural films whose cuts, borders, logos and faults are known: `python -m lcv_jax.toy.films OUT ...`.

    python -m lcv_jax.toy.films films --num-films 200 --seed 1

The folder has films/film_00000.mp4 ... and beside each its truth, film_00000.json. Frames are counted from 0, intervals
[start, end] leave `end` out, boxes are [left, top, width, height] in pixels:

    id, seed, fps ("24000/1001"), height, width, num_frames
    shots        start, end: the frames that show nothing else. content: world or texture. camera: static, pan_left,
                 pan_right, tilt_up, tilt_down, zoom_in, zoom_out or shake. moving: whether anything but the camera
                 moves. defect: none, still (nothing moves at all), frozen, blur, flicker, dark or spotlight, and its
                 strength. frozen: an interval of repeated frames, or null. caption and scene of the procedural world,
                 or null.
    transitions  kind: cut, dissolve, fade (out to black and in again), fade_in (at the beginning), fade_out (at the
                 end). start, end: the frames that belong to no shot; of a cut both are the first frame after it.
    borders      top, bottom, left, right: black rows and columns
    logo         box and opacity, or null
    subtitles    start, end, text, box
    duplicate    of (id of the original), kind (exact, reencoded, resized, excerpt), start, end (frames of the
                 original); null for an original

A film is a function of the seed, its number and the options. Its frames are drawn one at a time.
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from lcv_jax.bounds import Bounds, Count, Seed, Share, check_fields
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.extras import import_extra
from lcv_jax.toy.captions import caption
from lcv_jax.toy.film_frames import frame, subtitle_box
from lcv_jax.toy.film_plans import Duplicate, Film, Shot, plan_duplicate, plan_film

_WORST_DUPLICATE_CRF = 8  # above the original's
_BYTES_A_SHOT = 1_000_000  # of a film, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write procedural films, each with its truth in a JSON file beside it."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder to write: it must not exist, or be empty."""
    num_films: Annotated[int, Bounds(least=1, most=10**6)] = 8
    """How many."""
    seed: Seed = 0
    """Of all films."""
    num_shots: Annotated[int, Bounds(least=1, most=10**6)] = 16
    """Of a film, at most; at least half as many."""
    world_share: Share = 0.5
    """Of the shots that show a captioned scene of the procedural world; the others show textures."""
    duplicate_share: Share = 0.15
    """Of the films that repeat another one."""
    workers: Count = 1
    """Processes that draw and write."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.films") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    with mistakes_in_one_line("interrupted; nothing was left behind"):
        make_films(parse_arguments(Arguments, arguments, prog=prog))


def make_films(arguments: Arguments) -> list[dict[str, Any]]:
    """Writes the folder, which appears when it is complete; gives back the truth of every film.

    Raises:
        ValueError: OUT is there already.
        OSError: a file that cannot be written.
    """
    with workspace(arguments.out, arguments.num_films * arguments.num_shots * _BYTES_A_SHOT) as work:
        (work / "films").mkdir()
        write = functools.partial(_write_film, arguments, work / "films")
        with contextlib.ExitStack() as stack:
            done: Iterable[dict[str, Any]] = map(write, range(arguments.num_films))
            if arguments.workers > 1:
                # A fork would take over the locks of this process's threads.
                pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(arguments.workers))
                done = pool.imap(write, range(arguments.num_films))
            truths = list(done)
    print(f"wrote {len(truths)} films ({sum(truth['num_frames'] for truth in truths)} frames) to {arguments.out}")
    return truths


def read_truth(path: str | Path) -> dict[str, Any]:
    """The truth of a film, given the path of either file."""
    return json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))


def _write_film(arguments: Arguments, folder: Path, number: int) -> dict[str, Any]:
    options = (arguments.num_shots, arguments.world_share)
    duplicate = plan_duplicate(arguments.seed, number, arguments.duplicate_share, *options)
    film = plan_film(arguments.seed, duplicate.of if duplicate else number, *options)
    truth = {"id": _name(number), "seed": arguments.seed, **_truth(film), "duplicate": None}
    if duplicate is not None:
        truth = _truth_of_duplicate(truth, duplicate)
    write_film(folder / f"{_name(number)}.mp4", film, duplicate)
    (folder / f"{_name(number)}.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return truth


def write_film(path: Path, film: Film, duplicate: Duplicate | None = None) -> None:
    """Draws a film, or what a duplicate repeats of it, into a file."""
    start, end, height, width, crf = 0, film.num_frames, film.height, film.width, film.crf
    if duplicate is not None:
        start, end, height, width = duplicate.start, duplicate.end, duplicate.height, duplicate.width
        crf += _WORST_DUPLICATE_CRF if duplicate.kind == "reencoded" else 0 if duplicate.kind == "exact" else 2
    options = {"preset": "veryfast", "threads": "1"}
    with VideoWriter(path, fps=film.fps, height=height, width=width, crf=crf, options=options) as video:
        for index in range(start, end):
            picture = frame(film, index)
            if picture.shape[:2] != (height, width):
                cv2 = import_extra("cv2", "curate", "drawing films needs")
                picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            video.write(picture[None])


def _name(number: int) -> str:
    return f"film_{number:05}"


def _truth(film: Film) -> dict[str, Any]:
    return {
        "fps": str(film.fps),
        "height": film.height,
        "width": film.width,
        "num_frames": film.num_frames,
        "shots": [_shot_truth(shot, *film.alone(index)) for index, shot in enumerate(film.shots)],
        "transitions": _transitions(film),
        "borders": dict(zip(("top", "bottom", "left", "right"), film.borders, strict=True)),
        "logo": film.logo and {"box": list(film.logo.box), "opacity": film.logo.opacity},
        "subtitles": [
            {**dataclasses.asdict(line), "box": list(subtitle_box(film, line.text))} for line in film.subtitles
        ],
    }


def _shot_truth(shot: Shot, start: int, end: int) -> dict[str, Any]:
    first, last = shot.frozen
    return {
        "start": start,
        "end": end,
        "content": "texture" if shot.scene is None else "world",
        "camera": shot.camera,
        "moving": shot.num_objects > 0,
        "defect": shot.defect,
        "strength": shot.strength,
        "frozen": [start + first, start + last] if last > first else None,
        "caption": shot.scene and caption(shot.scene),
        "scene": shot.scene and dataclasses.asdict(shot.scene),
    }


def _transitions(film: Film) -> list[dict[str, Any]]:
    """The frames between the shots."""
    ends = [0, *(film.alone(index)[1] for index in range(len(film.shots)))]
    starts = [*(film.alone(index)[0] for index in range(len(film.shots))), film.num_frames]
    return [
        {"kind": transition.kind, "start": start, "end": end}
        for transition, start, end in zip(film.transitions, ends, starts, strict=True)
        if transition.kind != "none"
    ]


def _truth_of_duplicate(truth: dict[str, Any], duplicate: Duplicate) -> dict[str, Any]:
    """The truth of the original, cut and scaled."""
    first, count = duplicate.start, duplicate.end - duplicate.start

    def moved(row: dict[str, Any]) -> dict[str, Any]:
        start, end = (int(np.clip(row[name] - first, 0, count)) for name in ("start", "end"))
        return {**row, "start": start, "end": end}

    def seen(row: dict[str, Any]) -> bool:
        return row["start"] < row["end"] or (row.get("kind") == "cut" and 0 < row["start"] < count)

    def frozen(shot: dict[str, Any]) -> dict[str, Any]:
        if shot["frozen"] is None:
            return shot
        start, end = (int(np.clip(place - first, 0, count)) for place in shot["frozen"])
        return {**shot, "frozen": [start, end] if start < end else None}

    def scaled(box: list[int]) -> list[int]:
        x, y = duplicate.width / truth["width"], duplicate.height / truth["height"]
        return [round(side * factor) for side, factor in zip(box, (x, y, x, y), strict=True)]

    factors = {"top": duplicate.height / truth["height"], "left": duplicate.width / truth["width"]}
    factors |= {"bottom": factors["top"], "right": factors["left"]}
    return {
        **truth,
        "height": duplicate.height,
        "width": duplicate.width,
        "num_frames": count,
        "shots": [row for row in map(moved, map(frozen, truth["shots"])) if seen(row)],
        "transitions": [row for row in map(moved, truth["transitions"]) if seen(row)],
        "borders": {name: round(side * factors[name]) for name, side in truth["borders"].items()},
        "logo": truth["logo"] and {**truth["logo"], "box": scaled(truth["logo"]["box"])},
        "subtitles": [{**row, "box": scaled(row["box"])} for row in map(moved, truth["subtitles"]) if seen(row)],
        "duplicate": {
            "of": _name(duplicate.of),
            "kind": duplicate.kind,
            "start": duplicate.start,
            "end": duplicate.end,
        },
    }


if __name__ == "__main__":
    main()
