"""The file layouts that VBench and VBench 2.0 read, from a run of their prompts.

VBench: FOLDER/{prompt}-{0..4}.mp4, up to 24 where flicker is scored. VBench 2.0: {prompt}-{0..2}.mp4 in a folder for
each dimension, up to 19 for diversity, with the prompt cut after 180 characters. Names are made of the original English
prompt, also where a translation or an augmented prompt was sampled.
"""

import os
import shutil
from pathlib import Path

from lcv_jax.evaluation.runs import Run
from lcv_jax.evaluation.suites import Item
from lcv_jax.own_files import replacing

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
    prompt = item.prompt if benchmark == "vbench" else item.prompt[:VBENCH2_PROMPT_CHARACTERS]
    if "/" in prompt:
        raise ValueError(f"{item.id}: a prompt with a slash cannot be a file name: {prompt!r}")
    return [prompt] if benchmark == "vbench" else [f"{dimension}/{prompt}" for dimension in item.dimensions]


def write_layout(run: Run, folder: Path, benchmark: str) -> int:
    """Links (or copies) a run's videos to where a benchmark looks for them; all are checked before the first.

    Returns:
        The number of files.

    Raises:
        ValueError: videos are missing, or two prompts have the same file name.
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
    for name, path in planned.items():
        _link(path, folder / name)
    return len(planned)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        with replacing(target) as partial:
            shutil.copyfile(source, partial)
