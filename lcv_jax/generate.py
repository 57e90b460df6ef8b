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
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from lcv_jax.bounds import Axis, Bounds, Count, Whole, check_fields
from lcv_jax.checkpoint.store import list_adapters, package_versions
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.data.frames import contact_sheet, evenly, to_uint8
from lcv_jax.data.media_writer import VideoWriter, write_frames, write_image
from lcv_jax.generation import memory
from lcv_jax.generation.json_values import from_json
from lcv_jax.generation.results import FPS, Listeners, Result
from lcv_jax.generation.tasks import (
    TASKS,
    Task,
    captions_of,
    check_against,
    inputs_of,
    is_segmented,
    result_names,
    task_from_json,
    task_to_json,
)
from lcv_jax.own_files import partial_path, write_json
from lcv_jax.parallel.broadcast import from_first, is_first
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.launch import check_same_config, initialize, leaving_at_once
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.parallel.sharding import REPLICATED, full_sharding
from lcv_jax.pipeline import CAPTIONS_KEPT, Pipeline, load_pipeline
from lcv_jax.sampling.options import DISTILLED_ADAPTER, REFINEMENT_ADAPTER, STREAM_ADAPTER, SamplingOptions
from lcv_jax.user_files import check_writable, read_json

SHEET_FRAMES = 16
LOG_SECONDS = 30
"""Between two lines of progress, where there is no terminal for a live bar."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the networks come from and how they run."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder that convert_torch_weights.py wrote."""
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """What the networks compute in; "stored" is what the checkpoint was converted to."""
    fold_adapters: bool = True
    """Fold adapters into a copy of the weights. Without, they are added at every step: slower, but no copy."""
    weights: Literal["resident", "stream"] = "resident"
    """stream: keep the layers of the transformer and the text encoder in host memory, and copy each to the GPU as it
    runs, with the next one under way. The GPU then needs memory for two layers."""
    memory: Literal["8", "12", "16", "24", "48", "80", "auto"] | None = None
    """GB of the GPU: choose weights, keep_text_encoder and vae_tiles for it, and print what was chosen. auto: what the
    GPU has. None: they are as given."""
    vae_tiles: bool = False
    """Encode and decode frames in overlapping tiles: less memory, nearly the same result."""
    keep_text_encoder: Literal["device", "host", "disk"] = "device"
    """Where the text encoder stays between encodings: on the devices, in host memory (copied from there for each) or on
    disk alone (read again for each). The released one takes 11.4 GB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
    """Which devices work together; they are those of all processes. Products of data, fsdp and seq are their number."""

    data: Axis = 1
    """Devices, or groups of them, that share prompts and the two halves of guidance. -1: all that the others leave."""
    fsdp: Axis = 1
    """Likewise, and with `--parameters split` each keeps its part of the transformer and the text encoder."""
    seq: Axis = 1
    """Devices that share the tokens of a video."""
    parameters: Literal["whole", "split"] = "whole"
    """On every device, or in parts over fsdp and seq, fetched layer by layer."""
    context: Literal["ulysses", "ring", "ulysses_ring"] = "ulysses"
    """How attention is split over seq: heads are exchanged for tokens, or keys and values go round."""
    ring_size: Count | None = None
    """Devices of a ring, for ulysses_ring; the others exchange heads."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where there are several that SLURM, Open MPI or Kubernetes did not start."""
    num_processes: Count | None = None
    """How many there are."""
    process_id: Whole | None = None
    """Which one this is, from 0."""

    def __post_init__(self) -> None:
        check_fields(self)

    def join(self) -> None:
        """Joins the other processes, if there are any; before anything asks for devices."""
        initialize(self.coordinator, self.num_processes, self.process_id)

    def settings(self) -> dict[str, Any]:
        """What a pipeline is to know of them.

        Raises:
            ValueError: the devices do not fit, or a way to split that makes no sense.
        """
        context = ContextParallel(strategy=self.context, ring_size=self.ring_size)
        if (self.data, self.fsdp, self.seq) == (1, 1, 1) and jax.process_count() == 1:
            return {}
        rules = full_sharding(("fsdp", "seq")) if self.parameters == "split" else REPLICATED
        return {"mesh": make_mesh(self.data, self.fsdp, self.seq), "context": context, "rules": rules}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(SamplingOptions):
    """How to sample."""

    def __post_init__(self) -> None:
        """Not here: the parser would draw its box around the error. See `checked`."""

    def checked(self) -> SamplingOptions:
        """The options themselves, which raise ValueError for what makes no sense."""
        return SamplingOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """What is written."""

    output: Path = Path("outputs/video.mp4")
    """The video: .mp4, .mkv, .mov or .webm. Its folder is made if need be. Several get a number appended."""
    codec: str | None = None
    """Of the video, as FFmpeg names it, such as libx265. None: libx264, or VP9 in a webm."""
    crf: Annotated[int, Bounds(least=0, most=63)] | None = 18
    """Quality, from 0 (best, largest file) to 51. None: the codec's own."""
    codec_options: tuple[tuple[str, str], ...] = ()
    """Further options of the codec, such as `preset slow`."""
    frames: bool = False
    """Also write every frame as a PNG, into NAME_frames/."""
    contact_sheet: bool = False
    """Also write NAME.png: sixteen frames of the video side by side."""

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises what writing the video would raise, before hours of sampling rather than after."""
        if not self.output.name:
            raise ValueError(f"output must name a file, got {str(self.output)!r}")
        if self.codec is not None and not self.codec.strip():
            raise ValueError("codec must be FFmpeg's name of an encoder, such as libx264, got an empty text")
        made = [path for path in self.output.parents if not path.exists()]
        try:
            with contextlib.suppress(_NothingToWriteError), self.open_video(FPS, 64, 64):
                raise _NothingToWriteError
        finally:
            for folder in made:
                with contextlib.suppress(OSError):  # it was not made, or another process writes there already
                    folder.rmdir()

    def open_video(self, fps: Any, height: int, width: int, name: str = "") -> VideoWriter:
        """A writer of the video with this name."""
        options = dict(self.codec_options)
        path = self.named(name)
        return VideoWriter(path, fps=fps, height=height, width=width, codec=self.codec, crf=self.crf, options=options)

    def named(self, name: str) -> Path:
        """The video that has a name or number among several."""
        return self.output.with_stem(f"{self.output.stem}_{name}") if name else self.output

    def settings(self) -> dict[str, Any]:
        """How files are written, as it is in sidecars."""
        settings = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return {key: value for key, value in settings.items() if key != "output"}


class _NothingToWriteError(Exception):
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Make all videos of a JSON file; those that are done already are skipped."""

    prompts: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPTS.json")]
    """A list of objects, one a task. Keys are "task" (text-to-video if left out) and the task's flags with underscores
    instead of hyphens: [{"prompt": "a cat surfs", "num_steps": 30, "output": "cat.mp4"}]"""
    folder: Path = Path("outputs")
    """Where outputs go that are given by name."""


def _command(name: str, kind: Any) -> Any:
    """A sub-command with the flags of a task, of the weights and of the files."""
    fields: list[Any] = [("weights", Weights), ("task", kind), ("devices", Devices)]
    if kind is not Batch:
        fields = [("task", kind), ("files", Files), ("sampling", Sampling), ("weights", Weights), ("devices", Devices)]
    command = dataclasses.make_dataclass(kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__})
    return Annotated[command, tyro.conf.subcommand(name=name)]


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.generate") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports its inner workings there
    commands = [_command(name, kind) for name, kind in {**TASKS, "batch": Batch}.items()]
    config = tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed
    with (
        leaving_at_once(),
        mistakes_in_one_line("interrupted; a long video goes on after its last finished segment"),
    ):
        chosen = parse_arguments(
            functools.reduce(operator.or_, commands),
            arguments,
            prog=prog,
            description="Text, an image or a clip to a video file. Every task has its own --help.",
            config=config,
        )
        _run(chosen)


def _run(chosen: Any) -> None:
    chosen.devices.join()
    if jax.process_count() > 1:
        check_same_config(dataclasses.replace(chosen, devices=dataclasses.replace(chosen.devices, process_id=None)))
    if isinstance(chosen.task, Batch):
        run_batch(chosen.task, chosen.weights, chosen.devices)
    else:
        task = dataclasses.replace(chosen.task, options=chosen.sampling.checked())
        run_task(task, chosen.files, chosen.weights, chosen.devices)


def load(weights: Weights, devices: Devices, tasks: Sequence[Task] = ()) -> Pipeline:
    """The pipeline; what it compiles is kept for the next run, but for the loop that reports its steps.

    Args:
        tasks: what it is for, where `memory` decides how weights are held; none: 480p x 93 with guidance.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "lcv_jax" / "xla"))
    dtype = None if weights.dtype == "stored" else weights.dtype
    settings = {"dtype": dtype, "fold_adapters": weights.fold_adapters, **devices.settings()}
    held = {name: getattr(weights, name) for name in ("weights", "keep_text_encoder", "vae_tiles")}
    if weights.memory is not None:
        held = _held_within(weights, settings, held, tasks)
    return load_pipeline(weights.checkpoint, **settings, **held)


def _held_within(
    weights: Weights, settings: dict[str, Any], given: dict[str, Any], tasks: Sequence[Task]
) -> dict[str, Any]:
    """The settings that hold the weights within `memory`; tells what they are."""
    if given != {name: field.default for name, field in Weights.__dataclass_fields__.items() if name in given}:
        raise ValueError("--memory chooses weights, keep_text_encoder and vae_tiles: leave those out, or --memory")
    if "mesh" in settings:
        raise ValueError("--memory is for one GPU: on several use --parameters split instead")
    pipeline = load_pipeline(weights.checkpoint, **settings)
    works = [work for task in tasks for work in memory.works_of(task, pipeline)] or [memory.USUAL]
    chosen, needed = memory.choose(pipeline, works, weights.memory or "auto")
    print(f"--memory {weights.memory}: {chosen} (about {needed / 1e9:.1f} GB of the GPU)", file=sys.stderr)
    return dataclasses.asdict(chosen)


def run_task(task: Task, files: Files, weights: Weights, devices: Devices) -> None:
    """Makes the videos of a task, when all has been checked that can be without its weights."""

    def check() -> None:
        _check_files(task, files)
        task.check()

    from_first(check)
    pipeline = load(weights, devices, [task])
    from_first(lambda: check_against(task, pipeline))
    _encode_ahead([task], pipeline)
    _make(task, pipeline, files)


def run_batch(batch: Batch, weights: Weights, devices: Devices) -> None:
    """Makes all videos of a file that are not there yet. All entries are checked before the first is made.

    Raises:
        ValueError: a file that is no list of tasks; the entry is named.
    """
    planned = from_first(lambda: _read_batch(batch))
    pipeline = load(weights, devices, [task for task, _ in planned])

    def check() -> None:
        for number, (task, _) in enumerate(planned):
            with _naming(batch, number):
                check_against(task, pipeline)

    def is_done(task: Task, files: Files) -> bool:
        return from_first(lambda: _is_done(task, pipeline, files))

    from_first(check)
    _encode_ahead((task for task, files in planned if not is_done(task, files)), pipeline)
    for number, (task, files) in enumerate(planned):
        done = is_done(task, files)
        if is_first():
            print(f"{files.output}: {'done already' if done else f'{number + 1} of {len(planned)}'}")
        if not done:
            _make(task, pipeline, files)


def _encode_ahead(tasks: Iterable[Task], pipeline: Pipeline) -> None:
    """All prompts at once, where the text encoder would have to come for those of each video or segment again."""
    if pipeline.keep_text_encoder == "device":
        return
    captions: dict[int, list[str]] = {}
    for task in tasks:
        captions.setdefault(task.options.max_sequence_length, []).extend(captions_of(task))
    for length, prompts in captions.items():
        pipeline.encode_text(list(dict.fromkeys(prompts))[:CAPTIONS_KEPT], length)


def _read_batch(batch: Batch) -> list[tuple[Task, Files]]:
    entries = read_json(batch.prompts, list)
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{batch.prompts} must hold a list of objects, one a task")
    planned: list[tuple[Task, Files]] = []
    taken: dict[Path, int] = {}
    for number, entry in enumerate(entries):
        with _naming(batch, number):
            of_files = {field.name for field in dataclasses.fields(Files)} & entry.keys()
            files = from_json(Files, {"output": f"video_{number}.mp4", **{key: entry[key] for key in of_files}})
            files = dataclasses.replace(files, output=batch.folder / files.output)
            task = task_from_json({key: value for key, value in entry.items() if key not in of_files})
            if getattr(task, "num_frames", 0) is None:
                raise ValueError("a stream in a batch needs an end: give seconds")
            for path in _check_files(task, files, [batch.prompts]):
                if taken.setdefault(path, number) != number:
                    raise ValueError(f"{path} is written by entry {taken[path]} too; give one another output")
            task.check()
            planned.append((task, files))
    return planned


@contextlib.contextmanager
def _naming(batch: Batch, number: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{batch.prompts}, entry {number}: {error}") from None


def _check_files(task: Task, files: Files, read: Collection[Path] = ()) -> list[Path]:
    """What a task writes, resolved; raises where it cannot be written, or overwrites what is read."""
    files.check()
    suffixes = [files.output.suffix, ".json", *([".png"] if files.contact_sheet else [])]
    outputs = [files.named(name) for name in result_names(task)]
    written = [output.with_suffix(suffix).resolve() for output in outputs for suffix in suffixes]
    folders = [files.output.with_suffix(".segments")] if is_segmented(task) else []
    _check_places(written, [*folders, *(frames_folder(output) for output in outputs if files.frames)])
    if getattr(task, "num_frames", 0) is None and files.contact_sheet:
        raise ValueError("a contact sheet shows frames over the whole length: give seconds, or leave contact_sheet out")
    for path in (*read, *(getattr(task, name, None) for name in ("image", "video", "resume"))):
        if path is not None and path.resolve() in written:
            raise ValueError(f"{path} is read, and would be overwritten: choose another output than {files.output}")
    return written


def _check_places(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Raises ValueError where a folder or a read-only file is in the way of a file, or a file in that of a folder."""
    for path in files:
        check_writable(path)
    for path in folders:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file, and a folder has to be written there: choose another output")


def frames_folder(output: Path) -> Path:
    """Where the single frames of a video are written."""
    return output.with_name(f"{output.stem}_frames")


def _is_done(task: Task, pipeline: Pipeline, files: Files) -> bool:
    """Whether all videos of a task are there, made in the same way from the same inputs and weights."""
    wanted = json.loads(json.dumps(_made_by(task, pipeline, files)))
    for output in map(files.named, result_names(task)):
        try:
            sidecar = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if not output.is_file() or any(sidecar.get(key) != value for key, value in wanted.items()):
            return False
    return True


def _made_by(task: Task, pipeline: Pipeline, files: Files) -> dict[str, Any]:
    return {"task": task_to_json(task), "inputs": inputs_of(task, pipeline), "files": files.settings()}


def _make(task: Task, pipeline: Pipeline, files: Files) -> None:
    """Makes and writes the videos of a task."""
    started, made_by = time.monotonic(), from_first(lambda: _made_by(task, pipeline, files))
    pipeline.skipped_steps.clear()
    if is_first() and (told := _told_adapters(task, pipeline)):
        print(told, file=sys.stderr)
    with progress_bar() as listeners:
        for result in task.run(pipeline, files.output.with_suffix(".segments"), listeners):
            if not is_first():
                for _ in result.pieces:  # made by all processes together, written by the first
                    pass
                continue
            output = files.named(result.name)
            video = write_result(result, files)
            sidecar = {
                "video": {"file": output.name, **video, "fps": str(Fraction(result.fps).limit_denominator(100_000))},
                **made_by,
                **({"skipped_steps": pipeline.skipped_steps} if task.options.step_cache else {}),
                "provenance": pipeline.provenance,
                "versions": package_versions(),
                "device": jax.devices()[0].device_kind,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - started, 1),
                "command": sys.argv,
            }
            write_json(output.with_suffix(".json"), sidecar)
            result.finish()
            print(f"wrote {output}: {video['num_frames']} frames of {video['width']} x {video['height']}")


def _told_adapters(task: Task, pipeline: Pipeline) -> str:
    """The adapters that were asked for, or those of the checkpoint that could have been; not those of the tasks."""
    if task.options.adapters:
        return "adapters: " + ", ".join(f"{name} {multiplier:g}" for name, multiplier in task.options.adapters)
    of_tasks = DISTILLED_ADAPTER, REFINEMENT_ADAPTER, STREAM_ADAPTER
    unused = [name for name in list_adapters(pipeline.folder) if name not in of_tasks]
    if not unused:
        return ""
    return f"adapters: none; {pipeline.folder} has {', '.join(unused)}, which --adapters {unused[0]} 1 would add"


def write_result(result: Result, files: Files) -> dict[str, int]:
    """Writes a video, and the pictures if asked for, piece by piece."""
    shown: list[int] = []
    if result.num_frames is not None:
        shown = evenly(result.num_frames, SHEET_FRAMES).tolist()
    output, sheet, count, writer = files.named(result.name), [], 0, None
    frames = frames_folder(output)
    partial = partial_path(frames)
    with contextlib.ExitStack() as stack:
        for piece in map(to_uint8, result.pieces):
            if writer is None:
                height, width = piece.shape[1:3]
                writer = stack.enter_context(files.open_video(result.fps, height, width, result.name))
                shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
                stack.callback(shutil.rmtree, partial, ignore_errors=True)
            writer.write(piece)
            if files.frames:
                write_frames(partial, piece, start=count)
            sheet += [piece[i] for i in range(len(piece)) if count + i in shown]
            count += len(piece)
        if files.frames:
            _move_frames(partial, frames)
    if files.contact_sheet and sheet:
        write_image(output.with_suffix(".png"), contact_sheet(np.stack(sheet), len(sheet), numbers=shown[: len(sheet)]))
    return {"num_frames": count, "height": height, "width": width}


def _move_frames(partial: Path, frames: Path) -> None:
    """Replaces the frames of a video before by new ones, when all of them are written."""
    frames.mkdir(exist_ok=True)
    for path in frames.glob("frame_*.png"):
        path.unlink()
    for path in partial.iterdir():
        path.rename(frames / path.name)


@contextlib.contextmanager
def progress_bar() -> Iterator[Listeners]:
    """A live bar of sampling steps, over all segments; in a log, now and then a line.

    The time left is counted from the end of the first step, before which weights are loaded and programs compiled.
    """
    console = Console(stderr=True, quiet=not is_first())
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    columns += [TextColumn("left:"), TimeRemainingColumn()]
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task("loading and compiling", total=None)
        title, stage, number, count, logged = "sampling", "", 0, 1, time.monotonic()
        first: tuple[float, int] | None = None

        def log(text: str) -> None:
            nonlocal logged
            if not console.is_terminal and is_first():
                logged = time.monotonic()
                print(text, file=sys.stderr)

        def on_step(done: int, total: int) -> None:
            nonlocal first
            now, place, whole = time.monotonic(), number * total + done, count * total
            bar.update(line, description=title, completed=place, total=whole)
            if first is None:
                first = now, place
                log(f"{title}: step {done} of {total}, after {now - logged:.0f} s of loading and compiling")
            elif now - logged > LOG_SECONDS:
                left = (now - first[0]) / (place - first[1]) * (whole - place)
                log(f"{title}: step {done} of {total}, {left:.0f} s left")

        def on_segment(new_stage: str, new_number: int, new_count: int) -> None:
            nonlocal title, stage, number, count, first
            title = f"{new_stage} segment {new_number + 1} of {new_count}"
            if new_stage != stage:
                bar.reset(line, total=None)
                first = None
            stage, number, count = new_stage, new_number, new_count
            log(title)

        log("loading weights and compiling ...")
        yield Listeners(on_step=on_step, on_segment=on_segment)


if __name__ == "__main__":
    main()
