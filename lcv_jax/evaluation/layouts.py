"""The file layouts that VBench and VBench 2.0 read, from a run of their prompts.

VBench: FOLDER/{prompt}-{0..4}.mp4, up to 24 where flicker is scored. VBench 2.0: {prompt}-{0..2}.mp4 in a folder for
each dimension, up to 19 for diversity, with the prompt cut after 180 characters. Names are made of the original English
prompt, also where a translation or an augmented prompt was sampled.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lcv_jax.evaluation.benchmarks import DIMENSIONS
from lcv_jax.evaluation.runs import Run
from lcv_jax.evaluation.suites import Item
from lcv_jax.own_files import naming_full_disk

VBENCH2_PROMPT_CHARACTERS = 180


def layout_names(item: Item, benchmark: str) -> list[str]:
    """Where the videos of a prompt go, relative to the folder, without number and suffix: one a dimension.

    Raises:
        ValueError: a benchmark without a layout here, an item that is none of its prompts.
    """
    if benchmark not in ("vbench", "vbench2"):
        raise ValueError(f"benchmark must be vbench or vbench2, got {benchmark!r}")
    if not item.dimensions:
        raise ValueError(f"{item.id} has no dimensions: it is no prompt of {benchmark}; import its prompts first")
    known = {name.replace(" ", "_") for name in DIMENSIONS[benchmark]}
    if strange := [name for name in item.dimensions if name not in known]:
        raise ValueError(
            f"{item.id} is for {', '.join(strange)}, which {benchmark} does not have: of another benchmark?"
        )
    prompt = item.prompt if benchmark == "vbench" else item.prompt[:VBENCH2_PROMPT_CHARACTERS]
    if "/" in prompt or "\0" in prompt:
        raise ValueError(f"{item.id}: a prompt with a slash or a null character cannot be a file name: {prompt!r}")
    return [prompt] if benchmark == "vbench" else [f"{dimension}/{prompt}" for dimension in item.dimensions]


def write_layout(run: Run, folder: Path, benchmark: str) -> int:
    """Links (or copies) a run's videos to where a benchmark looks for them; all are checked before the first.

    Returns:
        The number of files.

    Raises:
        ValueError: videos are missing, two prompts have the same file name, or a name is too long.
        OSError: a file cannot be written.
    """
    have = {(video.item.id, video.sample): video.path for video in run.videos}
    planned: dict[str, Path] = {}
    owners: dict[str, Item] = {}
    missing = []
    for item in run.suite.items:
        for name in layout_names(item, benchmark):
            if owners.setdefault(name, item) != item:
                raise ValueError(f"{item.id} and {owners[name].id} have the same file name {name!r}")
            for sample in range(item.num_samples):
                path = have.get((item.id, sample))
                if path is None:
                    missing.append(f"{item.id}-{sample}")
                elif path.suffix != ".mp4":
                    raise ValueError(f"{path}: {benchmark} reads .mp4")
                else:
                    planned[f"{name}-{sample}.mp4"] = path
    if missing:
        raise ValueError(
            f"{run.folder}: {len(missing)} videos that {benchmark} needs are missing ({', '.join(missing[:3])}, ...); "
            "sample them with the same command as the others"
        )
    _check_lengths(planned, folder)
    for name, path in planned.items():
        _link(path, folder / name)
    return len(planned)


def _check_lengths(names: Iterable[str], folder: Path) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    most = os.pathconf(existing, "PC_NAME_MAX")
    too_long = [name for name in names if any(len(os.fsencode(part)) > most for part in name.split("/"))]
    if too_long:
        raise ValueError(
            f"{folder}: names of at most {most} bytes fit this file system, {len(too_long)} are longer, such as "
            f"{too_long[0]!r}; nothing was written"
        )


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        partial = target.with_name(".partial")  # short, whatever the name
        with naming_full_disk(target):
            shutil.copyfile(source, partial)
        partial.replace(target)
