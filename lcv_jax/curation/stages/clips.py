"""Stage `clips`: writes the clips of a source, a file and a row each."""

import dataclasses
import hashlib
import json
from pathlib import Path

from lcv_jax.curation.clips import ClipSettings, write_clip
from lcv_jax.curation.crop import Box
from lcv_jax.curation.stage import FOLDER, Cost, Row, Stage
from lcv_jax.own_files import file_sha256


def clips(row: Row, settings: ClipSettings) -> list[Row]:
    """The clips of a source; a clip's name says what it is made of, so that the same one is written again."""
    top, left, height, width = row["crop"]
    recipe = json.dumps([row["crop"], dataclasses.asdict(settings)], sort_keys=True)
    suffix, made = hashlib.sha256(recipe.encode()).hexdigest()[:8], []
    box = Box(top=top, left=left, height=height, width=width)
    for start, end in zip(row["clip_starts"], row["clip_ends"], strict=True):
        name = f"{row['source'][:16]}_{start:07}_{end:07}_{suffix}"
        path = Path(row[FOLDER]) / f"{name}.mp4"
        write_clip(row["path"], path, start, end, box=box, settings=settings)
        made.append({"clip": name, "clip_path": path, "clip_digest": file_sha256(path), "start": start, "end": end})
    return made


STAGE = Stage(
    name="clips",
    version=1,
    run=clips,
    settings=ClipSettings(),
    reads={
        "source": str,
        "path": Path,
        FOLDER: Path,
        "clip_starts": list[int],
        "clip_ends": list[int],
        "crop": list[int],
    },
    writes={"clip": str, "clip_path": Path, "clip_digest": str, "start": int, "end": int},
    of="source",
    makes="clip",
    cost=Cost(timeout=86400.0),
)
