"""Writes clips of the procedural world with their captions: `python -m lcv_jax.toy.make OUT ...`.

    python -m lcv_jax.toy.make clips --num-clips 4000 --num-images 1000
    python -m lcv_jax.toy.make held_out --num-clips 64 --held-out
    python -m lcv_jax.toy.make large --num-clips 4000 --height 128 --width 128 --num-frames 33 --fps 16
    python -m lcv_jax.toy.make changing --num-clips 4000 --num-frames 37 --change-after 17

The folder has clips/, images/, the manifest.jsonl that lcv_jax.data reads, and scenes.jsonl, which says all about every
clip. The same seed gives the same scenes at any size, under the same ids.

With `--num-frames 37 --change-after 17` half of the clips have 17 frames; in the others the object moves in another way
after those. Their captions tell of that alone, and the manifest's column `caption_start` from when on they hold: what
streams learn from to follow a prompt that changes.

Column `weight` of the manifest is for fine-tuning on the best clips: 0 for those that are filmed badly, else the
inverse of how often the clip's colour, shape and motion are drawn; 1 on average. Of clips that change, those that go on
to move, to grow or shrink, and to turn weigh as much as one another: few shapes can turn, and it is hard to learn.
"""

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from lcv_jax.bounds import Bounds, Count, Fps, FrameCount, Seed, Share, check_fields
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.media_writer import VideoWriter, write_image
from lcv_jax.own_files import write_rows
from lcv_jax.toy.captions import caption
from lcv_jax.toy.changes import changed, render_change
from lcv_jax.toy.world import DURATION, Scene, combination_share, kind_of, render, sample_scene

SEPIA = (1.1, 0.95, 0.75)
"""Red, green and blue of a pixel in this style, in its brightness."""
_BYTES_A_PIXEL = 0.5  # of a file, at most; measured about 0.1


Side = Annotated[int, Bounds(least=16, most=16384)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write clips of the procedural world with their captions."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder to write: it must not exist, or be empty."""
    num_clips: Annotated[int, Bounds(least=0, most=10**7)] = 4000
    """How many videos."""
    num_images: Annotated[int, Bounds(least=0, most=10**7)] = 0
    """How many images beside them."""
    height: Side = 64
    """In pixels, even."""
    width: Side = 64
    """In pixels, even."""
    num_frames: FrameCount = 17
    """Of each clip."""
    fps: Fps = 8.0
    """Frames a second."""
    num_captions: Annotated[int, Bounds(least=1, most=100)] = 2
    """Paraphrases for each clip, of captions that vary."""
    captions: Literal["varied", "plain"] = "varied"
    """Plain ones are always worded the same, one for each clip: easier to learn from."""
    rough_share: Share = 0.2
    """Of clips that are soft, grainy and flickering."""
    held_out: bool = False
    """Of the combinations of colour, shape and motion that are never to be trained."""
    seed: Seed = 0
    """Of all scenes."""
    crf: Annotated[int, Bounds(least=0, most=51)] = 8
    """Quality of the videos, lower is better."""
    change_after: Count | None = None
    """Frames after which the object moves in another way, or in the same again. None: it does not change."""
    change_share: Share = 0.5
    """Of clips that change, with `change_after`; the others end there."""
    style: Literal["none", "sepia"] = "none"
    """Of all pixels: sepia is a style that the small model was never trained on. Captions do not mention it."""
    workers: Annotated[int, Bounds(least=1, most=1024)] = 1
    """Processes that draw and write."""

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises ValueError for what cannot be."""
        if self.num_clips + self.num_images < 1:
            raise ValueError("give num_clips or num_images, got 0 of both")
        if self.height % 2 or self.width % 2:
            raise ValueError(f"height and width must be even, got {self.height} x {self.width}")
        if self.change_after is not None and (self.num_images or self.change_after >= self.num_frames):
            raise ValueError(
                f"change_after is for clips of more frames, without images; got change_after={self.change_after}, "
                f"num_frames={self.num_frames} and num_images={self.num_images}"
            )
        if ((self.change_after or self.num_frames) - 1) / self.fps > DURATION:
            most = int(DURATION * self.fps) + 1
            raise ValueError(
                f"scenes last {DURATION:g} s: at {self.fps:g} frames a second num_frames or change_after can be {most} "
                f"at most, got {self.change_after or self.num_frames}"
            )


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.make") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    config = (tyro.conf.FlagCreatePairsOff,)
    with mistakes_in_one_line("interrupted; nothing was left behind"):
        make(parse_arguments(Arguments, arguments, prog=prog, config=config))


def make(arguments: Arguments) -> None:
    """Writes the folder, which appears when it is complete.

    Raises:
        ValueError: arguments out of range, or OUT is there already.
        OSError: a file that cannot be written.
    """
    arguments.check()
    pixels = arguments.num_clips * arguments.num_frames + arguments.num_images
    with workspace(arguments.out, int(pixels * arguments.height * arguments.width * _BYTES_A_PIXEL)) as work:
        scenes = list(all_scenes(arguments))
        _draw_all(arguments, work, scenes)
        lines = [_line(arguments, drawn, weight) for drawn, weight in zip(scenes, weights_of(scenes), strict=True)]
        write_rows(work / "manifest.jsonl", lines)
        write_rows(work / "scenes.jsonl", (_facts(*each) for each in scenes))
    print(f"wrote {arguments.num_clips} clips and {arguments.num_images} images to {arguments.out}")


Drawn = tuple[str, Scene, Scene | None]
"""The path of a file, in the folder, what it shows, and what that turns into."""


def all_scenes(arguments: Arguments) -> Iterator[Drawn]:
    """Of each file."""
    options: dict[str, Any] = {"held_out": arguments.held_out, "rough_share": arguments.rough_share}
    files = [f"clips/clip_{number:06}.mp4" for number in range(arguments.num_clips)]
    images = [f"images/image_{number:06}.png" for number in range(arguments.num_images)]
    for kind, names in enumerate((files, images)):
        for number, name in enumerate(names):
            seed = arguments.seed, int(arguments.held_out), kind, number
            changes = arguments.change_after is not None and number < arguments.change_share * arguments.num_clips
            if not changes:
                yield name, sample_scene(seed, **options), None
            else:
                yield name, *_sample_change(arguments, seed, options)


def _sample_change(arguments: Arguments, seed: Sequence[int], options: Mapping[str, Any]) -> tuple[Scene, Scene]:
    """The first scene of this seed that can go on in some way."""
    assert arguments.change_after is not None
    after, rest = arguments.change_after / arguments.fps, arguments.num_frames - arguments.change_after
    scenes = (sample_scene((*seed, attempt), **options) for attempt in itertools.count())
    for scene in scenes:
        new = changed(scene, after, rest / arguments.fps, seed=scene.seed, may_stay=True, held_out=arguments.held_out)
        if new is not None:
            return scene, new
    raise AssertionError


def weights_of(scenes: Sequence[Drawn]) -> list[float]:
    """How often each should be trained on, 1 on average; see this module's docstring."""
    told = [new or scene for _, scene, new in scenes]
    weights = np.array([0 if scene.rough else 1 / combination_share(scene.combination) for scene in told])
    kinds = np.array(["" if new is None else kind_of(new.motion) for _, _, new in scenes])
    amounts = {kind: weights[kinds == kind].sum() for kind in set(kinds.tolist()) - {""}}
    for kind, amount in amounts.items():
        weights[kinds == kind] *= sum(amounts.values()) / len(amounts) / max(amount, 1e-9)
    return (weights / max(weights.mean(), 1e-9)).tolist()


def _facts(name: str, scene: Scene, new: Scene | None) -> dict[str, Any]:
    changes = {} if new is None else {"changes_to": dataclasses.asdict(new)}
    return {"id": Path(name).stem, **dataclasses.asdict(scene), **changes}


def _line(arguments: Arguments, drawn: Drawn, weight: float) -> dict[str, Any]:
    name, before, new = drawn
    scene = new or before
    still = name.endswith(".png")
    varied = arguments.captions == "varied"
    wordings = [scene.seed + number for number in range(arguments.num_captions)] if varied else [None]
    captions = [caption(scene, wording, still=still) for wording in wordings]
    return {
        "id": Path(name).stem,
        "path": name,
        "captions": list(dict.fromkeys(captions)),
        "weight": round(weight, 6),
        "height": arguments.height,
        "width": arguments.width,
        "num_frames": _num_frames(arguments, drawn),
        **({} if still else {"fps": arguments.fps}),
        **({"caption_start": arguments.change_after / arguments.fps} if arguments.change_after and new else {}),
    }


def _num_frames(arguments: Arguments, drawn: Drawn) -> int:
    name, _, new = drawn
    whole = arguments.num_frames if new else arguments.change_after or arguments.num_frames
    return 1 if name.endswith(".png") else whole


def _draw_all(arguments: Arguments, folder: Path, scenes: list[Drawn]) -> None:
    write = functools.partial(_write_one, arguments, folder)
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    with contextlib.ExitStack() as stack:
        done: Iterable[None] = map(write, scenes)
        if arguments.workers > 1:
            # A fork would take over the locks of this process's threads.
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(arguments.workers))
            done = pool.imap_unordered(write, scenes, chunksize=16)
        stack.enter_context(bar)
        for _ in bar.track(done, total=len(scenes)):
            pass


def _write_one(arguments: Arguments, folder: Path, drawn: Drawn) -> None:
    name, scene, new = drawn
    size: dict[str, Any] = {"height": arguments.height, "width": arguments.width}
    still = name.endswith(".png")
    num_frames = _num_frames(arguments, drawn)
    if new is not None:
        assert arguments.change_after is not None
        frames = render_change(
            scene, new, **size, num_frames=num_frames, fps=arguments.fps, change=arguments.change_after
        )
    else:
        left = DURATION - (num_frames - 1) / arguments.fps
        start = left * np.random.default_rng([scene.seed, 2]).random()
        frames = render(scene, **size, num_frames=num_frames, fps=arguments.fps, start=start)
    if still:
        write_image(folder / name, styled(frames[0], arguments.style))
        return
    # One thread: a clip is too small to share, and other workers have the other cores.
    with VideoWriter(folder / name, fps=arguments.fps, **size, crf=arguments.crf, options={"threads": "1"}) as video:
        video.write(styled(frames, arguments.style))


def styled(pixels: np.ndarray, style: str) -> np.ndarray:
    """Frames or an image, uint8, in a style."""
    if style == "none":
        return pixels
    toned = (pixels @ np.array((0.299, 0.587, 0.114)))[..., None] * np.array(SEPIA)
    return np.clip(np.rint(toned), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
