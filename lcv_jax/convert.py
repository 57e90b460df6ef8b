"""Converts a published LongCat-Video checkpoint for lcv_jax, checks one, or turns a converted one back.

    lcv convert LongCat-Video weights
    lcv convert LongCat-Video weights --dtype bfloat16 --fold cfg_step_lora
    lcv convert LongCat-Video --check
    lcv convert weights LongCat-Video-again --to-torch
    lcv convert VideoReward judge --judge videoreward --templates prompt_template.py

In a checkout, `python convert_torch_weights.py` is the same command.
"""

import dataclasses
import logging
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from lcv_jax.command_line import mistakes_in_one_line, parse_arguments


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Convert a published LongCat-Video checkpoint for lcv_jax, check one, or turn a converted one back.

    The published folder has dit/, vae/, text_encoder/, tokenizer/, scheduler/ and lora/; a folder of Qwen2-VL, a
    captioner, is recognised by its config.json. Memory stays small whatever the size of the checkpoint; DEST appears
    only when it is complete.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """The published folder; with --to-torch a converted one."""
    dest: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="DEST")] = None
    """The folder to write: it must not exist, or be empty. Not given with --check."""
    dtype: Literal["source", "float32", "bfloat16"] = "source"
    """What the parameters are stored as; source keeps each as it is published."""
    components: Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME,...")] = None
    """Only some of dit, vae, text_encoder, tokenizer, scheduler, lora; all by default."""
    fold: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="ADAPTER[=MULTIPLIER]"),
    ] = ()
    """Add an adapter to the dit's weights for good: a name in SOURCE/lora, or a .safetensors file. May be repeated."""
    quantize: Literal["none", "int8"] = "none"
    """int8: store the linear layers of the dit's blocks in eight bits, with a scale per output channel; half the memory
    of bfloat16. To generate from; not for training."""
    check: bool = False
    """Only read names, shapes and dtypes, report them, and write nothing."""
    to_torch: bool = False
    """Write the published layout again from a converted folder, bit-equal in the stored dtype."""
    judge: Literal["hpsv3", "videoreward"] | None = None
    """SOURCE is a released reward model of this kind; or a converted Qwen2-VL, to train one with a new head."""
    templates: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --judge: its prompt templates, JSON or your copy of the published project's Python source."""
    base: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """With --judge: the base model, Qwen2-VL; by default the one in SOURCE or beside it."""


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.convert") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    # Orbax reports its inner workings through absl.
    logging.getLogger("absl").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _interrupt)
    config = (tyro.conf.FlagCreatePairsOff,)
    with mistakes_in_one_line("interrupted; nothing was left behind"):
        run(parse_arguments(Arguments, arguments, prog=prog, config=config))


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def run(arguments: Arguments) -> None:
    """Does what the command line asks for.

    Raises:
        ValueError: a user's mistake, or a checkpoint that is not right.
        OSError: a file that cannot be read or written, or a full disk.
    """
    from lcv_jax.checkpoint import conversion, export, published, qwen2_vl, store

    if arguments.judge is not None:
        _convert_judge(arguments)
        return
    if arguments.templates is not None or arguments.base is not None:
        raise ValueError("--templates and --base belong to the conversion of a reward model: give --judge too")
    components = arguments.components.split(",") if arguments.components else None
    is_captioner = qwen2_vl.is_qwen2_vl(arguments.source) or qwen2_vl.is_converted(arguments.source)
    if is_captioner and (components or arguments.fold):
        raise ValueError(
            f"{arguments.source} is Qwen2-VL: it is converted as a whole; leave out --components and --fold"
        )
    if arguments.check and arguments.to_torch:
        raise ValueError("--check reads a published folder and --to-torch a converted one: give one of them")
    if arguments.dest is not None and arguments.check:
        raise ValueError(f"--check writes nothing: leave out {arguments.dest}")

    def open_source() -> published.Published:
        if is_captioner:
            return qwen2_vl.open_qwen2_vl(arguments.source)
        return published.open_published(arguments.source, components)

    if arguments.check:
        source = open_source()
        for text in arguments.fold:
            published.find_fold(source, text)
        _report(source)
        return

    if arguments.dest is None:
        raise ValueError("DEST is missing: give the folder to write, or --check to only read")
    if arguments.to_torch:
        if arguments.fold or arguments.dtype != "source" or arguments.quantize != "none":
            raise ValueError(
                "--to-torch writes what is stored: --fold, --dtype and --quantize belong to the conversion"
            )
        if "judge" in store.read_provenance(arguments.source)["components"]:
            raise ValueError(f"{arguments.source} is a reward model: these are not turned back into a published layout")
        if is_captioner:
            stored, write = qwen2_vl.open_converted_qwen2_vl(arguments.source), qwen2_vl.export_qwen2_vl
        else:
            stored, write = export.open_converted(arguments.source, components), export.export_checkpoint
        with _ProgressBar(stored.sizes) as progress:
            write(stored, arguments.dest, progress=progress)
        print(f"wrote {arguments.dest} in the published layout")
        return

    quantize = arguments.quantize == "int8"
    if quantize and is_captioner:
        raise ValueError("--quantize is for the dit of LongCat-Video: leave it out for Qwen2-VL")
    source = open_source()
    if quantize and "dit" not in source.networks:
        raise ValueError("--quantize needs dit among the components: its linear layers are quantized")
    folds = [published.find_fold(source, text) for text in arguments.fold]
    dtype = None if arguments.dtype == "source" else np.dtype(arguments.dtype)
    sizes = {weights.name: weights.num_bytes for weights in source.weights}
    with _ProgressBar(sizes) as progress:
        if is_captioner:
            qwen2_vl.convert_qwen2_vl(source, arguments.dest, dtype=dtype, progress=progress)
        else:
            conversion.convert_checkpoint(
                source, arguments.dest, dtype=dtype, folds=folds, quantize=quantize, progress=progress
            )
    print(f"wrote {arguments.dest}")


def _convert_judge(arguments: Arguments) -> None:
    """Converts a reward model, or checks one."""
    from lcv_jax.checkpoint import judge_conversion, judge_source, new_judge, qwen2_vl

    if arguments.to_torch or arguments.fold or arguments.components or arguments.quantize != "none":
        raise ValueError(
            "--judge converts a whole reward model: leave out --to-torch, --fold, --quantize and --components"
        )
    if arguments.templates is None:
        raise ValueError("--judge needs --templates FILE, the reward model's prompt templates: see docs/judges.md")
    if (arguments.dest is None) != arguments.check:
        raise ValueError("give DEST, the folder to write, or --check to only read")
    if arguments.dest is not None and qwen2_vl.is_converted(arguments.source):
        dtype = None if arguments.dtype == "source" else np.dtype(arguments.dtype)
        new_judge.begin_judge(arguments.source, arguments.dest, arguments.judge or "", arguments.templates, dtype=dtype)
        print(f"wrote {arguments.dest}: a judge with a random head, to be trained")
        return
    published = judge_source.open_judge(arguments.source, arguments.judge or "", arguments.templates, arguments.base)
    if arguments.dest is None:
        print(f"{arguments.source} is complete: every tensor has its place, nothing is missing")
        return
    dtype = None if arguments.dtype == "source" else np.dtype(arguments.dtype)
    with _ProgressBar({judge_conversion.COMPONENT: published.num_bytes}) as progress:
        judge_conversion.convert_judge(published, arguments.dest, dtype=dtype, progress=progress)
    print(f"wrote {arguments.dest}")


class _ProgressBar:
    """A bar over all bytes: rate, time left, and what is under way."""

    def __init__(self, sizes: dict[str, int]):
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=sum(sizes.values()))

    def __enter__(self) -> Any:
        self.bar.start()
        return lambda name, num_bytes: self.bar.update(self.task, advance=num_bytes, description=name)

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()


def _report(source: Any) -> None:
    """What a published folder holds."""
    table = Table("component", "files", "tensors", "parameters", "dtypes", "size")
    for weights in source.weights:
        tensors = [tensor for name, tensor in weights.tensors.items() if name not in weights.aliases]
        table.add_row(
            weights.name,
            str(len(weights.files)),
            str(len(weights.tensors)),
            f"{sum(int(np.prod(tensor.shape)) for tensor in tensors):,}",
            ", ".join(sorted({tensor.dtype.name for tensor in tensors})),
            f"{weights.num_bytes / 1e9:.3f} GB",
        )
    Console().print(table)
    print(f"{source.folder} is complete: every tensor has its place, nothing is missing")


if __name__ == "__main__":
    main()
