"""Writes what a judge of the procedural world is trained on: `python -m lcv_jax.toy.judges OUT ...`.

    python -m lcv_jax.toy.judges outputs/judges/toy_data
    python -m lcv_jax.train configs/judges/toy.py

The folder has clips of captions, some of them soft, uneven or of something else than the caption says; the opinions of
simulated raters on them, ratings.jsonl and pairs.jsonl; what they call what they see, names.jsonl; the same of held-out
captions; and start/, a judge that begins with random weights or, as VideoReward with Qwen2-VL's, with those of the tiny
captioner. The truth is the readers': sharpness of edges (VQ), evenness of the motion (MQ), and how sure they are of the
caption's colour, shape and motion (TA). A rater sees it through a bias of their own and noise, calls small differences
the same, and leaves some dimensions out.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from lcv_jax.array_types import Params, UInt8
from lcv_jax.bounds import Bounds, Seed, Share, check_fields
from lcv_jax.checkpoint import qwen2_vl, store
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.new_judge import judge_params, write_judge
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.models.judges import DIMENSIONS, REWARD_TOKENS, VIDEOREWARD, JudgeConfig
from lcv_jax.own_files import write_rows
from lcv_jax.toy.captions import caption, parse
from lcv_jax.toy.matches import COMPARED, NAMES
from lcv_jax.toy.model_clips import model_clips
from lcv_jax.toy.qwen2_vl import (
    NUM_SEEN,
    SEEN_FRAMES,
    SEEN_SIDE,
    VISION_TOKENS,
    look_around,
    random_params,
    see_differences,
    tiny_config,
    word_tokenizer,
)
from lcv_jax.toy.readers import Reading, read_clip
from lcv_jax.toy.rewards import edge_sharpness
from lcv_jax.toy.world import CHOICES, Scene, is_invisible, render, sample_scene

SIDE, FRAMES, FPS = 64, 17, 8.0
FINER = 4
"""Moments of a clip that its frames are taken from, for each frame."""
_BYTES_A_CLIP = 40_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Raters:
    """People who do not quite agree."""

    count: Annotated[int, Bounds(least=1, most=100)] = 3
    bias: Annotated[float, Bounds(least=0, most=4)] = 0.25
    """Standard deviation of a rater's own, of a scale from 1 to 5."""
    noise: Annotated[float, Bounds(least=0, most=4)] = 0.4
    """Likewise of every single opinion."""
    same: Annotated[float, Bounds(least=0, most=4)] = 0.5
    """Differences below this are called the same."""
    silent: Share = 0.1
    """Of the dimensions of a clip that nobody has an opinion on."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write clips of the procedural world, opinions of simulated raters on them, and a judge to train."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder to write: it must not exist, or be empty."""
    num_captions: Annotated[int, Bounds(least=2, most=10**6)] = 1500
    """Of two clips each, to train on."""
    num_held_out: Annotated[int, Bounds(least=2, most=10**6)] = 150
    """Likewise to validate on."""
    tinted: bool = False
    """Colour gives the motion away, but only to train on: those clips are the warmer the more evenly they move;
    held-out ones are warm or cold at random. Luma stays, so that grey videos tell nothing (figure 20 of the report)."""
    captioner: Path | None = None
    """A folder of the tiny captioner's weights that the judge begins with. None: random weights."""
    model: Path | None = None
    """A converted model of that world whose clips are rated, as a judge that rewards it sees them. None: drawn ones."""
    raters: Raters = Raters()
    seed: Seed = 0
    """Of everything."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.judges") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line("interrupted; nothing was left behind"):
        make(parse_arguments(Arguments, arguments, prog=prog))


def make(arguments: Arguments) -> None:
    """Writes the folder, which appears when it is complete.

    Raises:
        ValueError: OUT is there already, or the captioner is not the tiny one.
        OSError: a file that cannot be written.
    """
    captioner = None if arguments.captioner is None else read_captioner(arguments.captioner)
    count = 2 * (arguments.num_captions + arguments.num_held_out)
    with workspace(arguments.out, count * _BYTES_A_CLIP) as work:
        (work / "clips").mkdir()
        for part, (prefix, number) in enumerate((("", arguments.num_captions), ("held_out_", arguments.num_held_out))):
            lines: dict[str, list[dict[str, Any]]] = {"ratings.jsonl": [], "pairs.jsonl": [], NAMES: []}
            shown = _shown(arguments, part, number)
            rng = np.random.default_rng([arguments.seed, part])
            bias_RD = rng.normal(0, arguments.raters.bias, (arguments.raters.count, len(DIMENSIONS)))
            for place in range(number):
                name = f"clips/{prefix}{place:06}"
                _caption(arguments, work, name, (arguments.seed, part, place), bias_RD, shown, lines)
            for file, rows in lines.items():
                write_rows(work / f"{prefix}{file}", rows)
        cfg, tokenizer = judge_config()
        params = new_params(cfg, arguments.seed) if captioner is None else judge_params(cfg, captioner, arguments.seed)
        write_judge(work / "start", cfg, tokenizer, params, arguments.out)
    print(f"wrote {count} clips, opinions of {arguments.raters.count} raters and a judge to {arguments.out}")


Shown = Callable[[Scene, np.random.Generator], UInt8[np.ndarray, "T H W 3"]]
"""A clip for a scene's caption."""


def _shown(arguments: Arguments, part: int, number: int) -> Shown:
    """What raters see in one part of the data: drawn clips, or those of a model."""
    if arguments.model is None:
        return faulty_clip
    scenes = [sample_scene((arguments.seed, part, place)) for place in range(number)]
    prompts = [caption(scene, scene.seed) for scene in scenes]
    seed = int(np.random.default_rng([arguments.seed, part, 4]).integers(2**30))
    clips = model_clips(arguments.model, prompts, side=SIDE, seed=seed)
    return lambda scene, rng: next(clips)


def _caption(
    arguments: Arguments,
    work: Path,
    name: str,
    seed: tuple[int, int, int],
    bias_RD: np.ndarray,
    shown: Shown,
    lines: dict[str, list[dict[str, Any]]],
) -> None:
    """Two clips of a caption; adds lines of ratings, pairs and names."""
    rng, rng_of_names = np.random.default_rng([*seed, 1]), np.random.default_rng([*seed, 5])
    scene = sample_scene(seed)
    prompt = caption(scene, scene.seed)
    paths, opinions_VRD = [f"{name}_a.mp4", f"{name}_b.mp4"], []
    for path in paths:
        frames = shown(scene, rng)
        reading = read_clip(frames, FPS)
        truth_D = _truth(reading, frames, prompt)
        lines[NAMES].append({"path": path, "names": names(reading, arguments.raters.count, rng_of_names)})
        noise_RD = rng.normal(0, arguments.raters.noise, bias_RD.shape)
        opinions_VRD.append(1 + 4 * truth_D + bias_RD + noise_RD)
        if arguments.tinted:
            trained_on = seed[1] == 0  # the first part of the data
            frames = tint(frames, truth_D[DIMENSIONS.index("MQ")] if trained_on else rng.random())
        with VideoWriter(work / path, fps=FPS, height=SIDE, width=SIDE, crf=8, options={"threads": "1"}) as video:
            video.write(frames)
    said_D = rng.random(len(DIMENSIONS)) >= arguments.raters.silent
    if not said_D.any():
        return
    named = list(zip(DIMENSIONS, said_D, strict=True))
    lines["ratings.jsonl"] += [
        {
            "prompt": prompt,
            "path": path,
            "ratings": {
                one: round(float(np.clip(np.rint(opinion_RD[:, place]), 1, 5).mean()), 3) if said else None
                for place, (one, said) in enumerate(named)
            },
        }
        for path, opinion_RD in zip(paths, opinions_VRD, strict=True)
    ]
    differences_RD = opinions_VRD[0] - opinions_VRD[1]
    labels = {
        one: vote(differences_RD[:, place], arguments.raters.same) if said else None
        for place, (one, said) in enumerate(named)
    }
    lines["pairs.jsonl"].append({"prompt": prompt, "a": paths[0], "b": paths[1], "labels": labels})


def vote(differences_R: Sequence[float] | np.ndarray, same: float) -> str:
    """What most raters say of a pair; where none has most, the same."""
    votes = ["same" if abs(difference) < same else "a" if difference > 0 else "b" for difference in differences_R]
    return next((label for label in ("a", "b") if 2 * votes.count(label) > len(votes)), "same")


def names(reading: Reading, raters: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Which values of each attribute raters say they see, and the share of them.

    Each names one, as likely as the reader is sure of it, or none.
    """
    found = {}
    for attribute in CHOICES:
        values = list(reading.scores[attribute])
        sure_V = np.array([*reading.scores[attribute].values()])
        none = max(0.0, 1 - sure_V.sum())
        chosen_R = rng.choice(len(values) + 1, raters, p=np.append(sure_V, none) / (sure_V.sum() + none))
        said = [values[one] for one in chosen_R if one < len(values)]
        found[attribute] = {value: round(said.count(value) / raters, 3) for value in sorted(set(said))}
    return found


def truth(frames_THWC: UInt8[np.ndarray, "T H W 3"], prompt: str) -> np.ndarray:
    """VQ, MQ and TA of a clip, each 0..1, as the readers see it."""
    return _truth(read_clip(frames_THWC, FPS), frames_THWC, prompt)


def _truth(reading: Reading, frames_THWC: UInt8[np.ndarray, "T H W 3"], prompt: str) -> np.ndarray:
    asked = parse(prompt)
    attributes = {"colour": asked.colour, "shape": asked.shape, "motion": asked.motion}
    sure = [reading.score(name, value) for name, value in attributes.items() if value is not None]
    return np.array([edge_sharpness(frames_THWC), reading.evenness, np.mean(sure)])


def faulty_clip(scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """A clip of a scene, or of one that differs from it, perhaps uneven and soft."""
    shown = _other(scene, rng) if rng.random() < 0.6 else scene
    fine = render(shown, SIDE, SIDE, FINER * (FRAMES - 1) + 1, FPS * FINER)
    uneven = rng.choice([0.0, rng.uniform(0.5, 3.0)], p=[0.4, 0.6])
    moments = FINER * (np.arange(FRAMES) + rng.normal(0, uneven, FRAMES))
    frames = fine[np.clip(np.rint(moments).astype(int), 0, len(fine) - 1)]
    soft = rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.4, 0.6])
    if not soft:
        return frames
    small = frames.reshape(FRAMES, SIDE // 4, 4, SIDE // 4, 4, 3).mean(axis=(2, 4))
    large = np.repeat(np.repeat(small, 4, axis=1), 4, axis=2)
    padded = np.pad(large, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    smooth = sum(padded[:, y : y + SIDE, x : x + SIDE] for y in range(5) for x in range(5)) / 25
    return np.clip(np.rint((1 - soft) * frames + soft * smooth), 0, 255).astype(np.uint8)


def tint(frames_THWC: UInt8[np.ndarray, "T H W 3"], warmth: float) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames of less contrast, cold at a warmth of 0 and warm at 1: chroma (BT.601) moves, luma does not."""
    chroma = 50 * (warmth - 0.5)
    shift_C = chroma * np.array([1.402, -1.402 * 0.299 / 0.587, 0.0])
    return np.rint(40 + frames_THWC * (175 / 255) + shift_C).astype(np.uint8)


def _other(scene: Scene, rng: np.random.Generator) -> Scene:
    """A scene with one to three of colour, shape and motion changed."""
    choices = {name: CHOICES[name] for name in COMPARED}
    changed = rng.choice(list(choices), size=rng.integers(1, 4), replace=False)
    wanted = {name: getattr(scene, name) for name in choices}
    for name in changed:
        wanted[name] = str(rng.choice([value for value in choices[name] if value != wanted[name]]))
    if is_invisible(wanted["shape"], wanted["motion"]):
        wanted["shape"] = "square"
    combination = wanted["colour"], wanted["shape"], wanted["motion"]
    return sample_scene(int(rng.integers(2**31)), combination=combination)


def judge_config() -> tuple[JudgeConfig, str]:
    """A tiny judge of the kind of VideoReward, and its tokenizer: a token for every word of the grammar."""
    tokenizer = word_tokenizer(REWARD_TOKENS[VIDEOREWARD])
    network = tiny_config(tokenizer)
    quality, motion, alignment = REWARD_TOKENS[VIDEOREWARD]
    cfg = JudgeConfig(
        kind=VIDEOREWARD,
        network=network,
        num_embeddings=network.vocab_size,
        head_widths=(len(DIMENSIONS),),
        before_picture=VISION_TOKENS[0],
        before_caption=f"{VISION_TOKENS[1]}{quality}{motion}",
        after_caption=alignment,
        min_pixels=SEEN_SIDE**2,
        max_pixels=SEEN_SIDE**2,
        num_frames=SEEN_FRAMES,
    )
    return cfg, tokenizer.to_str()


def new_params(cfg: JudgeConfig, seed: int) -> Params:
    """Random weights, and an embedding of patches that sees differences."""
    params = random_params(judge_table(cfg), np.random.default_rng([seed, 2]), {"rm_head": 0.1})
    rng = np.random.default_rng([seed, 3])
    clips = [faulty_clip(sample_scene(int(rng.integers(2**31))), rng) for _ in range(NUM_SEEN)]
    see_differences(params, clips, FPS, cfg, rng)
    look_around(params, cfg.network.vision_config)
    return params


def read_captioner(folder: Path) -> Params:
    """The parameters of a tiny captioner.

    Raises:
        ValueError: the folder has no captioner, or another one.
    """
    cfg, params = store.load_component(folder, qwen2_vl.COMPONENT, "float32")
    wanted = judge_config()[0].network
    if dataclasses.replace(cfg, vocab_size=wanted.vocab_size) != wanted:
        raise ValueError(f"{folder} is not the tiny captioner of configs/toy/captioner.py: its config differs")
    return params


if __name__ == "__main__":
    main()
