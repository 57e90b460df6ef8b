"""Converts an adapter (LoRA) between this model's published layout and those of other tools: `lcv convert-adapter`.

    lcv convert-adapter other.safetensors mine.safetensors
    lcv convert-adapter mine.safetensors for_comfyui.safetensors --to comfyui
    lcv convert-adapter toy_style.safetensors out.safetensors --to kohya --checkpoint outputs/demo/weights
    lcv convert-adapter one.safetensors both.safetensors --weight 0.4 --add other.safetensors 0.6

The layouts are described in checkpoint/adapter_formats.py.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from lcv_jax.bounds import Finite, check_fields
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.adapter_formats import Layout, Pair, Place, layout_of, read_pairs, weighted_sum, write_pairs
from lcv_jax.checkpoint.safetensors_files import Planned, open_safetensors, published_order, write_safetensors
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.config import DiTConfig
from lcv_jax.own_files import replacing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Convert an adapter between the published layout and those of other tools. The layout of SOURCE is recognised."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """The adapter, a .safetensors file."""
    dest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DEST")]
    """The .safetensors file to write; it must not exist."""
    to: Layout = "published"
    """The layout to write. This project reads the published one."""
    weight: Finite = 1.0
    """What the adapter is multiplied by."""
    add: tuple[tuple[Path, Finite], ...] = ()
    """Further adapters to add, each FILE WEIGHT: DEST is the weighted sum, whose rank is the sum of theirs."""
    checkpoint: Path | None = None
    """Converted folder of the model that the adapter is for. None: the released 13.6B model."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.convert_adapter") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    with mistakes_in_one_line():
        convert(parse_arguments(Arguments, arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,)))


def convert(arguments: Arguments) -> None:
    """Writes the file.

    Raises:
        ValueError: no adapter that can be converted, one for another model, or DEST is there already.
        OSError: a file that cannot be read or written.
    """
    if arguments.dest.exists() or arguments.dest.suffix != ".safetensors":
        raise ValueError(f"{arguments.dest}: DEST must end in .safetensors, and not exist yet")
    cfg = DiTConfig() if arguments.checkpoint is None else store.load_config(arguments.checkpoint, "dit")
    layout, pairs = _read(arguments.source, cfg)
    if arguments.add or arguments.weight != 1:
        others = [(_read(path, cfg)[1], weight) for path, weight in arguments.add]
        pairs = weighted_sum([(pairs, arguments.weight), *others])
    written = write_pairs(pairs, arguments.to, cfg)
    names = sorted(written, key=published_order)
    plan = [Planned(name=name, dtype=written[name].dtype, shape=written[name].shape) for name in names]
    with replacing(arguments.dest) as partial:
        write_safetensors(partial, plan, (written[name] for name in names))
    ranks = sorted({pair.rank for pair in pairs.values()})
    print(
        f"wrote {arguments.dest}: {layout} to {arguments.to}, {len(pairs)} layers, "
        f"rank {' to '.join(map(str, dict.fromkeys((ranks[0], ranks[-1]))))}"
    )


def _read(path: Path, cfg: DiTConfig) -> tuple[Layout | None, dict[Place, Pair]]:
    """The layout of a file, and the adapter in it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    file = open_safetensors(path)
    tensors = {tensor.name: file.read(tensor) for tensor in file.tensors}
    try:
        return layout_of(tensors), read_pairs(tensors, cfg)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


if __name__ == "__main__":
    main()
