"""Text, an image or a clip to a video file: `python -m lcv_jax.generate TASK CHECKPOINT ...`.

    python -m lcv_jax.generate text-to-video weights --prompt "a cat surfs a wave" --output cat.mp4
    python -m lcv_jax.generate image-to-video weights --image cat.png --prompt "it waves"
    python -m lcv_jax.generate --help

Beside every video lies NAME.json with everything needed to repeat it.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import logging
import operator
import os
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from tyro.conf import OmitArgPrefixes

from lcv_jax.data.frames import contact_sheet, to_uint8
from lcv_jax.data.media_writer import VideoWriter, write_frames, write_image
from lcv_jax.pipeline import Pipeline, load_pipeline
from lcv_jax.tasks import (
    TASKS,
    ContinueVideo,
    ImageToVideo,
    Listeners,
    Result,
    Task,
    TextToVideo,
    request_of,
    task_from_json,
)

SHEET_FRAMES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the networks come from and how they run."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder that convert_torch_weights.py wrote."""
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """What the networks compute in."""
    fold_adapters: bool = True
    """Fold adapters into a copy of the weights; otherwise add them at every step: slower, but no copy."""
    vae_tiles: bool = False
    """Encode and decode frames in overlapping tiles: less memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """What is written."""

    output: Path = Path("outputs/video.mp4")
    """The video; its folder is made if need be. Several videos get a number or name appended."""
    codec: str | None = None
    """Of the video, as FFmpeg names it. None: libx264, or VP9 in a webm."""
    crf: int | None = 18
    """Quality: lower is better and larger."""
    codec_options: tuple[tuple[str, str], ...] = ()
    """Further options of the codec, such as `preset slow`."""
    frames: bool = False
    """Also write every frame as a PNG, into NAME_frames/."""
    contact_sheet: bool = False
    """Also write NAME.png, a sheet of frames for the eye."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Make all videos of a JSON file; those that are done already are skipped."""

    prompts: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPTS.json")]
    """A list of objects. Keys are "task", "output", and a task's flags with underscores."""
    folder: Path = Path("outputs")
    """Where outputs go that are given by name."""


def _command(name: str, kind: type) -> Any:
    """A sub-command with the flags of a task, of the weights and of the files."""
    fields: list[Any] = [("weights", OmitArgPrefixes[Weights]), ("task", OmitArgPrefixes.__class_getitem__(kind))]
    if kind is not Batch:
        fields.append(("files", OmitArgPrefixes[Files], dataclasses.field(default_factory=Files)))
    command = dataclasses.make_dataclass(kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__})
    return Annotated[command, tyro.conf.subcommand(name=name)]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports its inner workings there
    commands = [_command(name, kind) for name, kind in {**TASKS, "batch": Batch}.items()]
    try:
        chosen: Any = tyro.cli(
            functools.reduce(operator.or_, commands),
            args=arguments,
            prog="python -m lcv_jax.generate",
            description="Text, an image or a clip to a video file. Every task has its own --help.",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        )
        if isinstance(chosen.task, Batch):
            run_batch(chosen.task, chosen.weights)
        else:
            chosen.task.check()
            _run(chosen.task, _load(chosen.weights), chosen.files)
    except (ValueError, OSError, ImportError, NotImplementedError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; finished segments are kept: repeat the command to go on", file=sys.stderr)
        sys.exit(130)


def _load(weights: Weights) -> Pipeline:
    """The pipeline; what it compiles is kept for the next run."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "lcv_jax" / "xla"))
    jax.config.update("jax_compilation_cache_dir", cache)
    dtype = None if weights.dtype == "stored" else weights.dtype
    return load_pipeline(
        weights.checkpoint, dtype=dtype, fold_adapters=weights.fold_adapters, vae_tiles=weights.vae_tiles
    )


def run_batch(batch: Batch, weights: Weights) -> None:
    """Makes all videos of a file that are not there yet. All entries are checked before the first is made.

    Raises:
        ValueError: a file that is no list of tasks; the entry is named.
    """
    try:
        entries = json.loads(batch.prompts.read_text())
    except ValueError as error:
        raise ValueError(f"{batch.prompts} is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{batch.prompts} must hold a list of objects, one a video")
    planned, outputs = [], set()
    for number, entry in enumerate(entries):
        try:
            file_names = {field.name for field in dataclasses.fields(Files)}
            output = batch.folder / entry.get("output", f"video_{number}.mp4")
            files = Files(**{**{key: entry[key] for key in file_names & entry.keys()}, "output": output})
            task = task_from_json({key: value for key, value in entry.items() if key not in file_names})
            if output in outputs:
                raise ValueError(f"output {output} is another entry's too")
            outputs.add(output)
            task.check()
        except (ValueError, OSError, TypeError) as error:
            raise ValueError(f"{batch.prompts}, entry {number}: {error}") from None
        planned.append((task, files))
    pipeline = _load(weights)
    for number, (task, files) in enumerate(planned):
        if _is_done(task, pipeline, files.output):
            print(f"{files.output}: done already")
        else:
            print(f"{files.output}: {number + 1} of {len(planned)}")
            _run(task, pipeline, files)


def _is_done(task: Task, pipeline: Pipeline, output: Path) -> bool:
    """Whether the last of a task's videos is there, made by the same request of the same weights."""
    batch = len(task.prompt) if isinstance(task, TextToVideo | ImageToVideo | ContinueVideo) else 1
    output = _named(output, str(batch - 1) if batch > 1 else "")
    try:
        sidecar = json.loads(output.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return False
    wanted = json.loads(json.dumps(request_of(task, pipeline)))
    return output.is_file() and sidecar.get("request") == wanted


def _named(output: Path, name: str) -> Path:
    return output.with_stem(f"{output.stem}_{name}") if name else output


def _run(task: Task, pipeline: Pipeline, files: Files) -> None:
    """Makes and writes the videos of a task."""
    started, folder = time.monotonic(), files.output.with_suffix(".segments")
    files.output.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar() as listeners:
        for result in task.run(pipeline, folder, listeners):
            output = _named(files.output, result.name)
            written = _write(result, output, files)
            sidecar = {
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "command": sys.argv,
                "request": request_of(task, pipeline),
                "provenance": pipeline.provenance,
                "video": {**written, "fps": str(result.fps), "codec": files.codec, "crf": files.crf},
                "seconds": round(time.monotonic() - started, 1),
                "device": jax.devices()[0].device_kind,
                "versions": {name: version(name) for name in ("lcv_jax", "jax", "jaxlib", "flax", "numpy", "av")},
            }
            output.with_suffix(".json").write_text(json.dumps(sidecar, indent=2) + "\n")
            result.finish()
            print(f"wrote {output}: {written['num_frames']} frames of {written['width']} x {written['height']}")


def _write(result: Result, output: Path, files: Files) -> dict[str, int]:
    """Writes the video, and the pictures if asked for, piece by piece."""
    shown = set(np.linspace(0, result.num_frames - 1, min(SHEET_FRAMES, result.num_frames)).round().astype(int))
    sheet, count, writer = [], 0, None
    with contextlib.ExitStack() as stack:
        for piece in map(to_uint8, result.pieces):
            if writer is None:
                height, width = piece.shape[1:3]
                options = dict(files.codec_options)
                writer = stack.enter_context(
                    VideoWriter(
                        output,
                        fps=result.fps,
                        height=height,
                        width=width,
                        codec=files.codec,
                        crf=files.crf,
                        options=options,
                    )
                )
            writer.write(piece)
            if files.frames:
                write_frames(output.with_name(f"{output.stem}_frames"), piece, start=count)
            sheet += [piece[i] for i in range(len(piece)) if count + i in shown]
            count += len(piece)
    if files.contact_sheet:
        write_image(output.with_suffix(".png"), contact_sheet(np.stack(sheet), len(sheet), numbers=sorted(shown)))
    return {"num_frames": count, "height": height, "width": width}


@contextlib.contextmanager
def progress_bar() -> Iterator[Listeners]:
    """A live bar of sampling steps with the time left, on a terminal."""
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with RichProgress(*columns, TextColumn("left:"), TimeRemainingColumn(), console=console) as bar:
        line, title = bar.add_task("starting", total=None), "sampling"

        def on_step(done: int, total: int) -> None:
            bar.update(line, completed=done, total=total, description=title)

        def on_segment(stage: str, number: int, count: int) -> None:
            nonlocal title
            title = f"{stage} segment {number + 1} of {count}"
            bar.reset(line, total=None, description=title)

        yield Listeners(on_step=on_step, on_segment=on_segment)


if __name__ == "__main__":
    main()
