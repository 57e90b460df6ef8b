"""Captions clips with a captioner in this process, section 2.1.2 of the report: `python -m lcv_jax.caption`.

    python convert_torch_weights.py Qwen2-VL-7B-Instruct captioner --dtype bfloat16
    python -m lcv_jax.caption captioner clips.jsonl captioned.jsonl

Stopped at any time, the same command resumes.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lcv_jax.bounds import Axis, Count, Seed, check_fields
from lcv_jax.captioning.prompts import QUESTION, Views
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, positional
from lcv_jax.sampling.text import TextSampling
from lcv_jax.user_files import check_writable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Caption the clips of a manifest; stopped at any time, the same command resumes."""

    captioner: Annotated[tyro.conf.Positional[Path], positional("CAPTIONER")]
    """Converted folder of Qwen2-VL."""
    manifest: Annotated[tyro.conf.Positional[Path], positional("MANIFEST")]
    """Clips and pictures to caption: .jsonl, .csv or .parquet; captions in it are not used."""
    out: Annotated[tyro.conf.Positional[Path], positional("OUT.jsonl")]
    """The manifest to write, for `encode` and the trainer."""
    question: str = QUESTION
    """What the captioner is asked."""
    views: Annotated[Views, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Views)
    sampling: Annotated[TextSampling, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TextSampling)
    seed: Seed = 0
    """Of the draws."""
    batch_size: Count = 4
    """Clips of one call, on each device."""
    data: Axis = 1
    """Devices of this process that each caption a part of the clips; each has all weights. -1: all of them."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of weights and arithmetic."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.out.suffix != ".jsonl":
            raise ValueError(f"OUT.jsonl must end in .jsonl, got {self.out}")


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.caption") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2, clips that failed are status 1."""
    with mistakes_in_one_line("interrupted; the same command resumes"):
        config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
        run(parse_arguments(Arguments, arguments, prog=prog, config=config))


def run(arguments: Arguments) -> None:
    """Captions what is left.

    Raises:
        ValueError: a user's mistake.
        OSError: a file that cannot be read or written.
    """
    import jax

    from lcv_jax.captioning.captioner import load_captioner
    from lcv_jax.captioning.files import write_captions
    from lcv_jax.checkpoint import store
    from lcv_jax.data.manifest import read_manifest
    from lcv_jax.parallel.mesh import make_mesh

    entries = read_manifest(arguments.manifest, captions=False)
    check_writable(arguments.out)
    settings = {
        "captioner": store.content_identity(arguments.captioner),
        "question": arguments.question,
        "views": dataclasses.asdict(arguments.views),
        "sampling": dataclasses.asdict(arguments.sampling),
        "seed": arguments.seed,
        "dtype": arguments.dtype,
    }
    views, size = arguments.views, arguments.batch_size
    local = jax.local_devices()
    mesh = make_mesh(data=arguments.data, devices=local[: arguments.data] if arguments.data > 0 else local)
    captioner = load_captioner(
        arguments.captioner,
        dtype=arguments.dtype,
        views=views,
        batch_size=size,
        mesh=None if mesh.size == 1 else mesh,
    )
    caption = functools.partial(
        captioner.caption, question=arguments.question, sampling=arguments.sampling, seed=arguments.seed
    )
    faults: tuple[str, ...] = ()
    for progress in write_captions(entries, arguments.out, caption, settings, views, captioner.batch_size):
        for fault in progress.faults[len(faults) :]:
            print(f"warning: {fault}; left out", file=sys.stderr)
        faults = progress.faults
        print(f"{progress.done} of {progress.total} clips", file=sys.stderr, flush=True)
    print(f"wrote {arguments.out}: {progress.done} of {progress.total} clips")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
