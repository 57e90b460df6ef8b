"""Scores a model of the procedural world on captions it was never trained on: `python -m lcv_jax.toy.score CHECKPOINT`.

    python -m lcv_jax.toy.score toy --task text-to-video --num-clips 64 --batch 16 --json t2v.json
    python -m lcv_jax.toy.score toy --task text-to-video --distilled --num-steps 8
    python -m lcv_jax.toy.score toy --task text-to-video --adapters grpo_lora 1
    python -m lcv_jax.toy.score toy --task long --num-clips 4 --num-segments 20 --sheet long.png

Shares come with Wilson's, means with normal 95 % confidence intervals. Beside the model's numbers stand those of true
clips of the same scenes, encoded and decoded by its autoencoder: no sampler could do better.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from lcv_jax.bounds import (
    Bounds,
    Count,
    Finite,
    Fps,
    FrameCount,
    GuidanceScale,
    NoiseLevel,
    Pixels,
    SamplingSteps,
    Shift,
    check_fields,
)
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.frames import to_uint8
from lcv_jax.generation.long_video import segment_seed
from lcv_jax.pipeline import Pipeline, load_pipeline
from lcv_jax.sampling.denoise import decode_latents, encode_frames, upsample_clip
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.toy.captions import caption, parse
from lcv_jax.toy.measures import (
    Average,
    Share,
    average,
    caption_shares,
    colour_drift,
    psnr,
    quality,
    seam_jump,
)
from lcv_jax.toy.readers import read_clip
from lcv_jax.toy.reports import Clip, Report, check_outputs, publish
from lcv_jax.toy.rewards import sure_of_caption, sure_of_motion
from lcv_jax.toy.world import COMBINATIONS, Scene, is_held_out, render, sample_scene

TaskName = Literal["text-to-video", "image-to-video", "continue-video", "long", "refine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a model of the procedural world on captions it was never trained on."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Converted folder."""
    task: TaskName = "text-to-video"
    """What to make."""
    num_clips: Annotated[int, Bounds(least=1, most=10**6)] = 64
    """How many."""
    batch: Count = 16
    """Clips at a time, of text-to-video; other tasks make one at a time."""
    height: Pixels = 64
    """In pixels; of refine, before it is refined."""
    width: Pixels = 64
    """Likewise."""
    num_frames: FrameCount = 17
    """Of a clip, given frames included."""
    fps: Fps = 8.0
    """Frames a second."""
    num_cond_frames: FrameCount = 9
    """Given frames of continuation, a multiple of 4 plus 1."""
    num_segments: Annotated[int, Bounds(least=1, most=10000)] = 20
    """Of a long video."""
    num_steps: SamplingSteps | None = None
    """Sampling steps. None: 50, or 16 when distilled."""
    guidance_scale: GuidanceScale | None = None
    """CFG-Zero scale. None: 4, or 1 when distilled."""
    distilled: bool = False
    """With the distilled adapter, without guidance."""
    adapters: tuple[tuple[str, Finite], ...] = ()
    """More adapters, each with its multiplier; not of refine."""
    sparse: bool | None = None
    """Block-sparse attention. Refine makes both and compares them."""
    enhance_hf: bool | None = None
    """Ten even steps at the end. None: for continuation only, unless distilled."""
    shift: Shift | None = None
    """Time shift of the schedule. None: the checkpoint's."""
    t_thresh: NoiseLevel | None = None
    """Noise level that refinement starts from. None: the checkpoint's."""
    negative_prompt: str = ""
    """Of guidance."""
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """What the networks compute in."""
    trained: bool = False
    """Score on combinations that were trained, to see how much is lost on those that were not."""
    seed: Annotated[int, Bounds(least=0, most=2**31 - 1)] = 0
    """Of scenes and noise."""
    json: Path | None = None
    """File to write all numbers to."""
    sheet: Path | None = None
    """Image to write: a row of frames for each of the first clips."""
    sheet_clips: Count = 8
    """Rows of it."""

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what cannot be."""
        if self.num_frames % 4 != 1:
            raise ValueError(f"num_frames must be a multiple of 4 plus 1, got {self.num_frames}")
        check_outputs(self.json, self.sheet)
        if self.task in ("continue-video", "long") and not 1 <= self.num_cond_frames < self.num_frames:
            raise ValueError(
                f"num_cond_frames must lie in 1..{self.num_frames - 1}, for num_frames holds them; "
                f"got {self.num_cond_frames}"
            )

    def options(self) -> dict[str, Any]:
        """Fields of SamplingOptions, those that are given."""
        given = ("num_steps", "guidance_scale", "distilled", "adapters", "sparse", "enhance_hf", "shift")
        fields = {name: getattr(self, name) for name in given}
        return {**fields, "negative_prompt": self.negative_prompt, "max_sequence_length": 32}


@dataclasses.dataclass(frozen=True)
class Model:
    """A pipeline whose clips are uint8, and its autoencoder alone."""

    pipeline: Pipeline
    arguments: Arguments
    advance: Callable[[], None] = lambda: None
    """Told of every clip."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.arguments.height, self.arguments.width

    def from_text(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Clip]:
        """Clips of prompts, in batches of one size."""
        asked, batch = self.arguments, min(self.arguments.batch, len(prompts))
        clips: list[Clip] = []
        for first in range(0, len(prompts), batch):
            places = [min(place, len(prompts) - 1) for place in range(first, first + batch)]
            videos = self.pipeline.text_to_video(
                [prompts[place] for place in places],
                height=asked.height,
                width=asked.width,
                num_frames=asked.num_frames,
                seed=tuple(seeds[place] for place in places),
                **asked.options(),
            )
            for video in videos[: len(prompts) - first]:
                clips.append(to_uint8(video))
                self.advance()
        return clips

    def from_image(self, image_HWC: np.ndarray, prompt: str, seed: int) -> Clip:
        """A clip that begins with an image."""
        frames, options = self.arguments.num_frames, self.arguments.options()
        return to_uint8(
            self.pipeline.image_to_video(image_HWC, prompt, size=self.size, num_frames=frames, seed=seed, **options)[0]
        )

    def onwards(self, clip: Clip, prompt: str, seed: int) -> Clip:
        """A clip that begins with the last frames of another."""
        asked = self.arguments
        return to_uint8(
            self.pipeline.continue_video(
                clip,
                prompt,
                num_cond_frames=asked.num_cond_frames,
                size=self.size,
                num_frames=asked.num_frames,
                seed=seed,
                **asked.options(),
            )[0]
        )

    def refined(self, clip: Clip, prompt: str, seed: int, sparse: bool) -> Clip:
        """A clip at twice the size and rate."""
        asked = self.arguments
        return to_uint8(
            self.pipeline.refine(
                clip,
                prompt,
                size=(2 * asked.height, 2 * asked.width),
                t_thresh=asked.t_thresh,
                sparse=sparse,
                num_steps=asked.num_steps,
                shift=asked.shift,
                max_sequence_length=32,
                seed=seed,
            )[0]
        )

    def autoencoded(self, clip: Clip) -> Clip:
        """A clip encoded and decoded again; as many frames as that leaves."""
        vae, params = self.pipeline.vae, self.pipeline.params("vae")
        video = jax.numpy.asarray(clip, jax.numpy.float32)[None] / 255
        latents = encode_frames(vae, params, video, None, "encode")
        return to_uint8(np.asarray(decode_latents(vae, params, latents, "decode")[0]))


def held_out_scenes(num: int, seed: int, *, trained: bool = False, motion: str | None = None) -> list[Scene]:
    """Scenes that were never trained, every combination as often as any other.

    Args:
        num: how many.
        seed: of all.
        trained: from the other combinations.
        motion: of one motion only.
    """
    pool = [one for one in COMBINATIONS if is_held_out(one) != trained and motion in (None, one[2])]
    order = np.random.default_rng([seed, 77]).permutation(len(pool))
    return [sample_scene((seed, 77, number), combination=pool[order[number % len(pool)]]) for number in range(num)]


def prompts_of(scenes: Sequence[Scene], *, still: bool = False) -> list[str]:
    """A caption of each; still: as of images."""
    return [caption(scene, scene.seed, still=still) for scene in scenes]


def _draw(arguments: Arguments, scene: Scene) -> Clip:
    return render(scene, arguments.height, arguments.width, arguments.num_frames, arguments.fps)


def captioned(clips: Sequence[Clip], prompts: Sequence[str], fps: float | int) -> dict[str, Share | Average]:
    """What clips show of their captions, and their quality."""
    readings, asked = [read_clip(clip, fps) for clip in clips], [parse(prompt) for prompt in prompts]
    rewards = {"alignment_reward": average(map(sure_of_caption, readings, asked))}
    if all(each.motion is not None for each in asked):
        rewards["motion_reward"] = average(map(sure_of_motion, readings, asked))
    return {**caption_shares(readings, asked), **rewards, **quality(readings)}


def score_text_to_video(model: Model, scenes: Sequence[Scene]) -> Report:
    """Whether clips, or images, show what captions say."""
    asked = model.arguments
    prompts = prompts_of(scenes, still=asked.num_frames == 1)
    clips = model.from_text(prompts, [asked.seed + number for number in range(len(scenes))])
    true = [model.autoencoded(_draw(asked, scene)) for scene in scenes]
    return Report(measured=captioned(clips, prompts, asked.fps), true=captioned(true, prompts, asked.fps), clips=clips)


def score_image_to_video(model: Model, scenes: Sequence[Scene]) -> Report:
    """Whether the image is kept and the caption followed."""
    asked, prompts = model.arguments, prompts_of(scenes)
    true = [_draw(asked, scene) for scene in scenes]
    clips = []
    for number, (clip, prompt) in enumerate(zip(true, prompts, strict=True)):
        clips.append(model.from_image(clip[0], prompt, asked.seed + number))
        model.advance()
    decoded = [model.autoencoded(clip) for clip in true]
    first = [psnr(clip[0], other[0]) for clip, other in zip(clips, decoded, strict=True)]
    image = [psnr(clip[0], other[0]) for clip, other in zip(clips, true, strict=True)]
    kept = {
        "first_frame_psnr": average(first),
        "first_frame_psnr_to_image": average(image),
        "first_seam": average(seam_jump(clip, 1) for clip in clips),
    }
    return Report(
        measured={**captioned(clips, prompts, asked.fps), **kept},
        true={
            **captioned(decoded, prompts, asked.fps),
            "first_seam": average(seam_jump(clip, 1) for clip in decoded),
        },
        clips=clips,
    )


def score_continue_video(model: Model, scenes: Sequence[Scene]) -> Report:
    """Whether a motion goes on smoothly, and as it truly would."""
    asked, prompts = model.arguments, prompts_of(scenes)
    seam = asked.num_cond_frames
    true = [_draw(asked, scene) for scene in scenes]
    clips = []
    for number, (clip, prompt) in enumerate(zip(true, prompts, strict=True)):
        clips.append(model.onwards(clip[:seam], prompt, asked.seed + number))
        model.advance()
    decoded = [model.autoencoded(clip) for clip in true]
    frozen = [np.repeat(clip[seam - 1 : seam], len(clip), axis=0) for clip in true]

    def goes_on(videos: Sequence[Clip]) -> dict[str, Share | Average]:
        read = [read_clip(video[seam - 1 :], asked.fps) for video in videos]
        kept = [reading.best("motion") == scene.motion for reading, scene in zip(read, scenes, strict=True)]
        return {
            "motion_kept": Share(hits=sum(kept), total=len(kept)),
            "seam_jump": average(seam_jump(video, seam) for video in videos),
            "psnr_to_true": average(psnr(video[seam:], clip[seam:]) for video, clip in zip(videos, true, strict=True)),
        }

    still = {"psnr_of_last_frame": average(psnr(a[seam:], b[seam:]) for a, b in zip(frozen, true, strict=True))}
    return Report(
        measured={**captioned(clips, prompts, asked.fps), **goes_on(clips), **still},
        true={**captioned(decoded, prompts, asked.fps), **goes_on(decoded)},
        clips=clips,
    )


def score_long(model: Model, scenes: Sequence[Scene]) -> Report:
    """Whether colours stay as they are over many segments, continued from clips and from single frames.

    Scenes are of turning objects: whatever moves or grows would leave the frame.
    """
    asked, prompts = model.arguments, prompts_of(scenes)
    starts = model.from_text(prompts, [asked.seed + number for number in range(len(scenes))])
    curves: dict[str, list[list[float]]] = {"continued": [], "from_single_frames": []}
    sharp: dict[str, list[list[float]]] = {name: [] for name in curves}
    measured: dict[str, Share | Average] = {}
    clips = []
    for number, (start, prompt) in enumerate(zip(starts, prompts, strict=True)):
        for way in curves:
            segments, last = [start], start
            for segment in range(1, asked.num_segments):
                seed = segment_seed(asked.seed + number, segment)
                if way == "continued":
                    last = model.onwards(last, prompt, seed)
                    segments.append(last[asked.num_cond_frames :])
                else:
                    last = model.from_image(last[-1], prompt, seed)
                    segments.append(last[1:])
            curves[way].append(colour_drift(segments))
            sharp[way].append([read_clip(each, asked.fps).sharpness for each in segments])
            # The first frame of a segment each: what a sheet can show of a long video.
            clips.append(np.stack([each[0] for each in segments]))
            model.advance()
    for way, drifts in curves.items():
        measured[f"{way}_last_drift"] = average(drift[-1] for drift in drifts)
        measured[f"{way}_most_drift"] = average(max(drift) for drift in drifts)
        within = [max(drift) <= 3 for drift in drifts]
        measured[f"{way}_within_3"] = Share(hits=sum(within), total=len(within))
    # A panning camera alone moves parts of the texture in and out of the frame.
    new = asked.num_frames - asked.num_cond_frames
    edges = [0, *range(asked.num_frames, asked.num_frames + new * asked.num_segments, new)]
    true: dict[str, list[float]] = {"last": [], "most": []}
    for scene in scenes:
        video = render(scene, asked.height, asked.width, edges[-1], asked.fps)
        drift = colour_drift([video[first:last] for first, last in itertools.pairwise(edges)][: asked.num_segments])
        true["last"].append(drift[-1])
        true["most"].append(max(drift))
    truly = {f"continued_{name}_drift": average(values) for name, values in true.items()}
    lines = {f"{way}_drift": np.mean(drifts, axis=0).tolist() for way, drifts in curves.items()}
    lines |= {f"{way}_sharpness": np.mean(each, axis=0).tolist() for way, each in sharp.items()}
    return Report(measured=measured, true=truly, curves=lines, clips=clips)


def score_refine(model: Model, scenes: Sequence[Scene]) -> Report:
    """Whether a refined clip is closer to the true large one than a plainly upsampled one is; sparse against dense.

    What is refined is a true small clip through the autoencoder: what a perfect sampler would give.
    """
    asked, prompts = model.arguments, prompts_of(scenes)
    found: dict[str, list[Clip]] = {"sparse": [], "dense": [], "upsampled": [], "true": [], "decoded": []}
    for number, (scene, prompt) in enumerate(zip(scenes, prompts, strict=True)):
        small = model.autoencoded(_draw(asked, scene))
        for way in ("sparse", "dense"):
            found[way].append(model.refined(small, prompt, asked.seed + number, way == "sparse"))
        height, width, frames = 2 * asked.height, 2 * asked.width, 2 * len(small)
        large = upsample_clip(jax.numpy.asarray(small, jax.numpy.float32) / 255, frames, height, width)
        found["upsampled"].append(to_uint8(np.asarray(large)))
        # The first and the last frame of both are of the same moments.
        rate = asked.fps * (frames - 1) / (len(small) - 1)
        found["true"].append(render(scene, height, width, frames, rate))
        found["decoded"].append(model.autoencoded(found["true"][-1]))
        model.advance()
    count = min(len(clips[0]) for clips in found.values())
    found = {way: [clip[:count] for clip in clips] for way, clips in found.items()}
    near = {way: [psnr(clip, true) for clip, true in zip(found[way], found["true"], strict=True)] for way in found}
    measured: dict[str, Share | Average] = {
        f"{way}_psnr": average(near[way]) for way in ("sparse", "dense", "upsampled", "decoded")
    }
    for way, clips in found.items():
        measured[f"{way}_sharpness"] = average(read_clip(clip, 2 * asked.fps).sharpness for clip in clips)
    for way in ("upsampled", "dense"):
        measured[f"sparse_gain_over_{way}"] = average(np.subtract(near["sparse"], near[way]))
    shown = [clip for trio in zip(found["upsampled"], found["sparse"], found["true"], strict=True) for clip in trio]
    return Report(measured=measured, clips=shown)


TASKS: Mapping[str, Callable[[Model, Sequence[Scene]], Report]] = {
    "text-to-video": score_text_to_video,
    "image-to-video": score_image_to_video,
    "continue-video": score_continue_video,
    "long": score_long,
    "refine": score_refine,
}


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.score") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    config = (tyro.conf.FlagCreatePairsOff,)
    with mistakes_in_one_line():
        chosen = parse_arguments(Arguments, arguments, prog=prog, config=config)
        run(chosen)


def run(arguments: Arguments) -> Report:
    """Scores, prints the table, and writes what is asked for.

    Raises:
        ValueError: arguments out of range, or a checkpoint that is none.
        OSError: a file that cannot be written.
    """
    arguments.check()
    dtype = None if arguments.dtype == "stored" else arguments.dtype
    options = SamplingOptions(**arguments.options())
    pipeline = load_pipeline(arguments.checkpoint, dtype=dtype)
    if arguments.t_thresh is None:
        arguments = dataclasses.replace(arguments, t_thresh=pipeline.t_thresh)
    pipeline.check_adapters(options, refining=arguments.task == "refine")
    scenes = held_out_scenes(
        arguments.num_clips,
        arguments.seed,
        trained=arguments.trained,
        motion="turns" if arguments.task == "long" else None,
    )
    begun = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        bar_task = bar.add_task(arguments.task, total=arguments.num_clips * (3 if arguments.task == "long" else 1))
        report = TASKS[arguments.task](Model(pipeline, arguments, lambda: bar.advance(bar_task)), scenes)
    seconds = time.monotonic() - begun
    split = "trained" if arguments.trained else "held-out"
    publish(arguments, f"{arguments.task}, {split} captions", report, prompts_of(scenes), seconds)
    return report


if __name__ == "__main__":
    main()
