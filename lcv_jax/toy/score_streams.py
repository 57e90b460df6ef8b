"""Scores streams of the procedural world: `python -m lcv_jax.toy.score_streams CHECKPOINT`.

    python -m lcv_jax.toy.score_streams toy --distilled --num-steps 4 --json captions.json
    python -m lcv_jax.toy.score_streams toy --task switch --distilled --num-steps 4 --sheet switch.png
    python -m lcv_jax.toy.score_streams toy --task drift --num-streams 8 --num-chunks 1000 --distilled --num-steps 4

Captions are held out, and streams are those of `Pipeline.stream`; the last two tasks make clip after clip instead.

- captions: the first 17 frames of each stream, scored as lcv_jax.toy.score scores clips.
- switch: after 17 frames the prompt changes (`switched`). The first chunk after that is not read; the 16 frames that
  follow it are. A stream obeys if the readers find there what changed.
- drift: the mean colour and the sharpness of every ten chunks, in percent of the first ten's, and what the last 16
  frames show. Objects turn: whatever moves or grows would leave the frame.
- continuation: the same measure of videos that are continued clip by clip, 9 frames given and 8 made.
- interactive: the measure of switch of such videos: a clip of 17 frames, and 8 more under another prompt, all read.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from lcv_jax.array_types import Float
from lcv_jax.bounds import Bounds, Count, Finite, Fps, GuidanceScale, Pixels, SamplingSteps, Shift, Whole, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.generation.long_video import segment_seed
from lcv_jax.pipeline import Pipeline, load_pipeline
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.sampling.stream import Stream
from lcv_jax.sampling.streaming import StreamWindow
from lcv_jax.toy import score
from lcv_jax.toy.captions import parse
from lcv_jax.toy.changes import changed
from lcv_jax.toy.measures import Average, Share, average, caption_shares
from lcv_jax.toy.readers import read_clip, sharpness_of
from lcv_jax.toy.reports import Clip, Report, check_outputs, publish
from lcv_jax.toy.score import Model, captioned, held_out_scenes, prompts_of
from lcv_jax.toy.world import RATES, Scene, kind_of, render

TaskName = Literal["captions", "switch", "drift", "continuation", "interactive"]
CLIP = 17
"""Frames of a clip that the model was trained on, and of a stream before its prompt changes."""
READ = 16
"""Frames that are read after the prompt has changed, and at the end of a long stream."""
TOGETHER = 10
"""Chunks whose mean colour and sharpness are measured together."""
COLOUR_WITHIN, SHARPNESS_WITHIN = 3.0, 10.0
"""Percent: what counts as no drift."""
SHOWN = 10
"""Frames of a stream on a sheet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score streams of a model of the procedural world on captions it was never trained on."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Converted folder."""
    task: TaskName = "captions"
    """What to score."""
    num_streams: Annotated[int, Bounds(least=1, most=10**6)] = 64
    """How many."""
    num_chunks: Annotated[int, Bounds(least=TOGETHER, most=10**6)] = 1000
    """Of drift and continuation, chunks of every stream, a multiple of 10."""
    new: Literal["motion", "colour"] = "motion"
    """What a switch changes; colour: the colour and the motion, and the colour counts."""
    chunk: Annotated[int, Bounds(least=1, most=4)] = 1
    """Latent frames, four frames of video each, that are denoised together."""
    sink: Whole = 1
    """First latent frames of the stream, which every chunk sees."""
    ring: Count = 3
    """Last latent frames that a chunk sees."""
    height: Pixels = 64
    """In pixels."""
    width: Pixels = 64
    """Likewise."""
    fps: Fps = 8.0
    """Frames a second."""
    num_steps: SamplingSteps | None = None
    """Sampling steps. None: 50, or 16 when distilled."""
    guidance_scale: GuidanceScale | None = None
    """CFG-Zero scale. None: 4, or 1 when distilled."""
    distilled: bool = False
    """With the distilled adapter of streams, without guidance."""
    adapters: tuple[tuple[str, Finite], ...] = ()
    """More adapters, each with its multiplier."""
    shift: Shift | None = None
    """Time shift of the schedule. None: the checkpoint's."""
    seed: Annotated[int, Bounds(least=0, most=2**31 - 1)] = 0
    """Of scenes and noise."""
    json: Path | None = None
    """File to write all numbers to."""
    sheet: Path | None = None
    """Image to write: a row of frames for each of the first streams."""
    sheet_clips: Count = 8
    """Rows of it."""

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what cannot be."""
        _ = self.window
        if self.num_chunks % TOGETHER:
            raise ValueError(f"num_chunks must be a multiple of {TOGETHER}, got {self.num_chunks}")
        check_outputs(self.json, self.sheet)

    @property
    def window(self) -> StreamWindow:
        """What a chunk sees."""
        return StreamWindow(chunk=self.chunk, sink=self.sink, ring=self.ring)

    def options(self) -> dict[str, Any]:
        """Fields of SamplingOptions."""
        given = ("num_steps", "guidance_scale", "distilled", "adapters", "shift")
        return {**{name: getattr(self, name) for name in given}, "max_sequence_length": 32}


@dataclasses.dataclass(frozen=True)
class Streams:
    """Streams of a pipeline, and the clips of the same one."""

    pipeline: Pipeline
    arguments: Arguments
    advance: Callable[[], None] = lambda: None
    """Told of every stream."""

    @property
    def clips(self) -> Model:
        """What makes clips of the same size with the same options."""
        asked = self.arguments
        names = (
            "checkpoint",
            "height",
            "width",
            "fps",
            "num_steps",
            "guidance_scale",
            "distilled",
            "adapters",
            "shift",
        )
        return Model(self.pipeline, score.Arguments(**{name: getattr(asked, name) for name in names}))

    def open(self, prompt: str, number: int) -> Stream:
        """The stream with this number, from its first frame."""
        asked = self.arguments
        return self.pipeline.stream(
            prompt,
            height=asked.height,
            width=asked.width,
            window=asked.window,
            seed=asked.seed + number,
            **asked.options(),
        )


def take(stream: Iterator[np.ndarray], num_frames: int) -> Clip:
    """The next frames of a stream."""
    return np.stack([next(stream) for _ in range(num_frames)])


def score_captions(streams: Streams, scenes: Sequence[Scene]) -> Report:
    """Whether streams show what their captions say."""
    asked, prompts, clips = streams.arguments, prompts_of(scenes), []
    for number, prompt in enumerate(prompts):
        clips.append(take(streams.open(prompt, number), CLIP))
        streams.advance()
    return Report(measured=captioned(clips, prompts, asked.fps), clips=clips)


def switched(scene: Scene, new: str, seed: int, fps: float | int, num_frames: int) -> Scene:
    """What a scene turns into after `CLIP` frames: it moves in another way, and stays in the frame for so many frames.

    Args:
        scene: as it began.
        new: "motion", or "colour" for another colour as well.
        seed: chooses among all motions and speeds that are possible.
        fps: frames a second.
        num_frames: after the switch.
    """
    after = changed(scene, CLIP / fps, num_frames / fps, seed=seed, colour=new == "colour")
    assert after is not None
    return after


def score_switch(streams: Streams, scenes: Sequence[Scene]) -> Report:
    """Whether streams do what the prompt says that they are given midway."""
    skipped = 4 * streams.arguments.chunk

    def video(prompt: str, told: str, number: int) -> Clip:
        stream = streams.open(prompt, number)
        before = take(stream, CLIP)
        return np.concatenate([before, stream.send(told)[None], take(stream, skipped + READ - 1)])

    return _switch(streams, scenes, video, skipped=skipped, num_frames=READ)


def score_interactive(streams: Streams, scenes: Sequence[Scene]) -> Report:
    """The same of videos whose second segment has another prompt."""
    model, seed = streams.clips, streams.arguments.seed
    given = model.arguments.num_cond_frames

    def video(prompt: str, told: str, number: int) -> Clip:
        (clip,) = model.from_text([prompt], [seed + number])
        return np.concatenate([clip, model.onwards(clip, told, segment_seed(seed + number, 1))[given:]])

    return _switch(streams, scenes, video, skipped=0, num_frames=CLIP - given)


def _switch(
    streams: Streams, scenes: Sequence[Scene], video: Callable[[str, str, int], Clip], *, skipped: int, num_frames: int
) -> Report:
    """What videos show after their prompts changed.

    Args:
        video: makes one, of its first prompt, its second, and its number.
        skipped: frames after the change that are not read.
        num_frames: that follow, and are read.
    """
    asked = streams.arguments
    later = [switched(scene, asked.new, scene.seed, asked.fps, skipped + num_frames) for scene in scenes]
    first, second = prompts_of(scenes), prompts_of(later)
    clips = []
    for number, (prompt, told) in enumerate(zip(first, second, strict=True)):
        clips.append(video(prompt, told, number))
        streams.advance()
    after = [clip[CLIP + skipped :] for clip in clips]
    start = skipped / asked.fps
    true = [render(scene, asked.height, asked.width, num_frames, asked.fps, start=start) for scene in later]
    return Report(
        measured={
            **_shares("before", [clip[:CLIP] for clip in clips], first, asked),
            **_shares("after", after, second, asked),
            **_obeyed_by_kind(after, later, asked.fps),
        },
        true=_shares("after", true, second, asked),
        clips=clips,
    )


def _obeyed_by_kind(clips: Sequence[Clip], scenes: Sequence[Scene], fps: float) -> dict[str, Share]:
    """Of the scenes that move, grow or shrink, and turn now: how many of the clips show that motion."""
    obeyed = {kind: list[bool]() for kind in RATES}
    for clip, scene in zip(clips, scenes, strict=True):
        obeyed[kind_of(scene.motion)].append(read_clip(clip, fps).best("motion") == scene.motion)
    return {f"obeyed_{kind}": Share(hits=sum(each), total=len(each)) for kind, each in obeyed.items() if each}


def _shares(prefix: str, clips: Sequence[Clip], prompts: Sequence[str], asked: Arguments) -> dict[str, Share]:
    """What clips show of their captions; after a switch, whether what is new is obeyed."""
    readings, wanted = [read_clip(clip, asked.fps) for clip in clips], [parse(prompt) for prompt in prompts]
    shares = {f"{prefix}_{name}": share for name, share in caption_shares(readings, wanted).items()}
    return {"obeyed": shares[f"after_{asked.new}"], **shares} if prefix == "after" else shares


def score_drift(streams: Streams, scenes: Sequence[Scene]) -> Report:
    """Whether a long stream keeps its colours, its sharpness and its object."""
    asked = streams.arguments

    def chunks(prompt: str, number: int) -> Iterator[Clip]:
        stream = streams.open(prompt, number)
        yield take(stream, 4 * asked.chunk - 3)
        for _ in range(1, asked.num_chunks):
            yield take(stream, 4 * asked.chunk)

    return _drift(streams, scenes, chunks)


def score_continuation(streams: Streams, scenes: Sequence[Scene]) -> Report:
    """The same of videos that are continued clip by clip, cut into chunks as a stream's."""
    asked, model = streams.arguments, streams.clips

    def frames(prompt: str, number: int) -> Iterator[np.ndarray]:
        seed, segment = asked.seed + number, 0
        (clip,) = model.from_text([prompt], [seed])
        yield from clip
        while True:
            segment += 1
            clip = model.onwards(clip, prompt, segment_seed(seed, segment))
            yield from clip[model.arguments.num_cond_frames :]

    def chunks(prompt: str, number: int) -> Iterator[Clip]:
        video = frames(prompt, number)
        for chunk in range(asked.num_chunks):
            yield take(video, 4 * asked.chunk - 3 * (chunk == 0))

    return _drift(streams, scenes, chunks)


def _drift(streams: Streams, scenes: Sequence[Scene], chunks: Callable[[str, int], Iterable[Clip]]) -> Report:
    asked, prompts = streams.arguments, prompts_of(scenes)
    shown = np.linspace(0, asked.num_chunks - 1, SHOWN).round().astype(int)
    looks, true, ends, clips = [], [], [], []
    for number, (scene, prompt) in enumerate(zip(scenes, prompts, strict=True)):
        look, frames, end = [], [], np.empty((0, asked.height, asked.width, 3), np.uint8)
        for index, chunk in enumerate(chunks(prompt, number)):
            look.append(_look(chunk))
            end = np.concatenate([end, chunk])[-READ:]
            frames += [chunk[0]] * int(index in shown)
        looks.append(np.array(look))
        ends.append(end)
        clips.append(np.stack(frames))
        true.append(np.array([_look(chunk) for chunk in _true_chunks(scene, asked)]))
        streams.advance()
    colour, sharpness = (np.stack(each) for each in zip(*map(drifts, looks), strict=True))
    return Report(
        measured={**_stays(colour, sharpness), **_last(_shares("last", ends, prompts, asked))},
        true=_stays(*(np.stack(each) for each in zip(*map(drifts, true), strict=True))),
        curves={
            "colour_drift": np.mean(colour, axis=0).tolist(),
            "most_colour_drift": np.max(colour, axis=0).tolist(),
            "sharpness_drift": np.mean(sharpness, axis=0).tolist(),
            "most_sharpness_drift": np.max(np.abs(sharpness), axis=0).tolist(),
        },
        clips=clips,
    )


def _last(shares: Mapping[str, Share]) -> dict[str, Share]:
    return {f"last_{name}": shares[f"last_{name}"] for name in ("colour", "shape", "motion", "all")}


def _true_chunks(scene: Scene, asked: Arguments) -> Iterator[Clip]:
    """The scene itself for as long: a panning camera alone moves parts of the texture in and out of the frame."""
    for index in range(asked.num_chunks):
        begin, end = max(0, 4 * asked.chunk * index - 3), 4 * asked.chunk * (index + 1) - 3
        yield render(scene, asked.height, asked.width, end - begin, asked.fps, start=begin / asked.fps)


def _look(chunk: Clip) -> np.ndarray:
    """The mean of each channel, and the sharpness."""
    return np.array([*chunk.reshape(-1, 3).mean(axis=0), sharpness_of(chunk.mean(axis=-1, dtype=np.float32))])


def drifts(
    looks_N4: Float[np.ndarray, "chunks 4"],
) -> tuple[Float[np.ndarray, " tens"], Float[np.ndarray, " tens"]]:
    """How far every ten chunks are from the first ten, in percent: the channel that is farthest, and the sharpness.

    Args:
        looks_N4: of every chunk the mean of each channel and the sharpness.
    """
    tens_M4 = looks_N4.reshape(-1, TOGETHER, 4).mean(axis=1)
    change_M4 = 100 * (tens_M4 / np.maximum(tens_M4[0], 1e-3) - 1)
    return np.abs(change_M4[:, :3]).max(axis=1), change_M4[:, 3]


def _stays(colour_NM: np.ndarray, sharpness_NM: np.ndarray) -> dict[str, Share | Average]:
    """Of streams N and tens of chunks M."""
    near_NM = (colour_NM <= COLOUR_WITHIN) & (np.abs(sharpness_NM) <= SHARPNESS_WITHIN)
    total = len(colour_NM)
    return {
        "last_colour_drift": average(colour_NM[:, -1]),
        "most_colour_drift": average(colour_NM.max(axis=1)),
        "last_sharpness_drift": average(sharpness_NM[:, -1]),
        "most_sharpness_drift": average(np.abs(sharpness_NM).max(axis=1)),
        "last_within": Share(hits=int(near_NM[:, -1].sum()), total=total),
        "always_within": Share(hits=int(near_NM.all(axis=1).sum()), total=total),
    }


TASKS: Mapping[str, Callable[[Streams, Sequence[Scene]], Report]] = {
    "captions": score_captions,
    "switch": score_switch,
    "drift": score_drift,
    "continuation": score_continuation,
    "interactive": score_interactive,
}


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.score_streams") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    config = (tyro.conf.FlagCreatePairsOff,)
    with mistakes_in_one_line():
        run(parse_arguments(Arguments, arguments, prog=prog, config=config))


def run(arguments: Arguments) -> Report:
    """Scores, prints the table, and writes what is asked for.

    Raises:
        ValueError: arguments out of range, or a checkpoint that is none.
        OSError: a file that cannot be written.
    """
    arguments.check()
    pipeline = load_pipeline(arguments.checkpoint)
    long = arguments.task in ("drift", "continuation")
    options = SamplingOptions(**arguments.options())
    pipeline.check_adapters(options, streaming=arguments.task not in ("continuation", "interactive"))
    scenes = held_out_scenes(arguments.num_streams, arguments.seed, motion="turns" if long else None)
    begun = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        bar_task = bar.add_task(arguments.task, total=arguments.num_streams)
        report = TASKS[arguments.task](Streams(pipeline, arguments, lambda: bar.advance(bar_task)), scenes)
    seconds = time.monotonic() - begun
    publish(arguments, f"{arguments.task}, {arguments.num_streams} streams", report, prompts_of(scenes), seconds, SHOWN)
    return report


if __name__ == "__main__":
    main()
