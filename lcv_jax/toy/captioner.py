"""Writes a tiny captioner to train, or scores its captions: `python -m lcv_jax.toy.captioner start|score ...`.

    python -m lcv_jax.toy.captioner start outputs/captioner/start
    python -m lcv_jax.toy.captioner score outputs/captioner/captioned.jsonl outputs/captioner/held_out/scenes.jsonl

A caption is right in an attribute if it names the one that the clip was drawn with, as toy/captions.py reads it. Shares
come with Wilson's 95 % confidence intervals.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from lcv_jax.bounds import Bounds, Seed, check_fields
from lcv_jax.captioning.prompts import STOPS, Views
from lcv_jax.checkpoint.judge_names import captioner_table
from lcv_jax.checkpoint.new_qwen2_vl import write_new
from lcv_jax.checkpoint.qwen2_vl import COMPONENT
from lcv_jax.checkpoint.workspace import check_free
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.own_files import write_json
from lcv_jax.toy.captions import parse
from lcv_jax.toy.measures import Share
from lcv_jax.toy.qwen2_vl import (
    NUM_SEEN,
    SEEN_FRAMES,
    SEEN_SIDE,
    look_around,
    random_params,
    see_differences,
    tiny_config,
    word_tokenizer,
)
from lcv_jax.toy.tower import drawn_glances, learn_to_see
from lcv_jax.toy.world import render, sample_scene
from lcv_jax.user_files import read_rows

SIDE, FRAMES, FPS = 64, 17, 8.0
"""Of clips, as toy.make draws them."""
ATTRIBUTES = ("colour", "shape", "motion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Write a Qwen2-VL of 1.3 million random weights, whose tokens are the words of the procedural world."""

    out: Annotated[tyro.conf.Positional[Path], positional("OUT")]
    """The folder to write: it must not exist, or be empty."""
    tower_steps: Annotated[int, Bounds(least=0, most=10**6)] = 0
    """Training of the vision tower alone before: it learns to name what two frames show."""
    seed: Seed = 0
    """Of all weights."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Print the shares of captions that name the colour, shape and motion of their clips."""

    captions: Annotated[tyro.conf.Positional[Path], positional("CAPTIONED.jsonl")]
    """What `lcv caption` wrote."""
    scenes: Annotated[tyro.conf.Positional[Path], positional("SCENES.jsonl")]
    """Of the same clips, as toy.make wrote it."""
    json: Path | None = None
    """A file for the numbers. None: they are printed only."""


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.captioner") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line("interrupted; nothing was left behind"):
        chosen = parse_arguments(Start | Score, arguments, prog=prog)  # type: ignore[arg-type]
        if isinstance(chosen, Start):
            start(chosen)
        else:
            score(chosen)


def start(arguments: Start) -> None:
    """Writes the folder.

    Raises:
        ValueError: OUT is there already.
        OSError: a file that cannot be written.
    """
    check_free(arguments.out)
    tokenizer = word_tokenizer(("<|im_start|>", *STOPS))
    cfg = tiny_config(tokenizer)
    table = captioner_table(cfg)
    params = random_params(table, np.random.default_rng(arguments.seed), {"lm_head": 0.1})
    rng = np.random.default_rng([arguments.seed, 1])
    clips = [render(sample_scene(int(rng.integers(2**31))), SIDE, SIDE, FRAMES, FPS) for _ in range(NUM_SEEN)]
    views = Views(num_frames=SEEN_FRAMES, min_pixels=SEEN_SIDE**2, max_pixels=SEEN_SIDE**2)
    see_differences(params, clips, FPS, views, rng)
    look_around(params, cfg.vision_config)
    if arguments.tower_steps:
        seen = [drawn_glances(views, arguments.seed)]
        params["visual"] = learn_to_see(
            params["visual"], cfg.vision_config, seen, arguments.tower_steps, arguments.seed
        )
    write_new(arguments.out, COMPONENT, cfg.to_json(), table, params, tokenizer.to_str(), arguments.out)
    print(f"wrote a captioner to {arguments.out}")


def score(arguments: Score) -> None:
    """Prints a line for each attribute, and one for all three.

    Raises:
        ValueError: a clip whose scene is not given, or no clip.
        OSError: a file that cannot be read or written.
    """
    scenes = {row["id"]: row for row in read_rows(arguments.scenes)}
    right = [
        _right(row["caption"], _scene(scenes, row["id"], arguments.scenes)) for row in read_rows(arguments.captions)
    ]
    if not right:
        raise ValueError(f"{arguments.captions}: holds no captions")
    found = {
        name: Share(hits=sum(each[place] for each in right), total=len(right)).to_json()
        for place, name in enumerate(ATTRIBUTES)
    }
    found["all three"] = Share(hits=sum(map(all, right)), total=len(right)).to_json()
    for name, share in found.items():
        print(f"{name:10} {share['percent']:5.1f} % right (95 %: {share['low']:.1f} to {share['high']:.1f})")
    if arguments.json is not None:
        write_json(arguments.json, found)


def _right(caption: str, scene: dict[str, str]) -> Sequence[bool]:
    said = parse(caption)
    return [getattr(said, name) == scene[name] for name in ATTRIBUTES]


def _scene(scenes: dict[str, dict[str, str]], identity: str, path: Path) -> dict[str, str]:
    if identity not in scenes:
        raise ValueError(f"{path} has no scene {identity}: give the scenes.jsonl of the captioned clips")
    return scenes[identity]


if __name__ == "__main__":
    main()
