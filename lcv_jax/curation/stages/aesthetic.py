"""A learned aesthetic score of a clip, where the user has the weights; curation/aesthetic.py says which."""

import dataclasses
from pathlib import Path

import numpy as np

from lcv_jax.bounds import Count, check_fields
from lcv_jax.curation.aesthetic import load_scorer
from lcv_jax.curation.stage import Row, Stage
from lcv_jax.data.media_reader import open_clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Weights, and how closely a clip is looked at."""

    clip: Path = Path()
    """Folder of a CLIP model as transformers saves it, such as clip-vit-large-patch14."""
    head: Path = Path()
    """The layers on its embedding: a .pth or .safetensors file."""
    model: str = "clip-vit-large-patch14, laion"
    """A name for these weights: clips are scored again when it changes."""
    frames: Count = 4
    """Of a clip, at even distances; the score is their mean."""

    def __post_init__(self) -> None:
        check_fields(self)


def score(row: Row, settings: Settings) -> Row:
    """The mean score of some frames."""
    with open_clip(row["clip_path"]) as clip:
        middles = (np.arange(settings.frames) + 0.5) * len(clip.timeline) / settings.frames
        frames = list(clip.pictures(np.unique(middles.astype(int)).tolist()))
    return {"aesthetic": float(load_scorer(settings.clip, settings.head)(frames).mean())}


STAGE = Stage(
    name="aesthetic",
    version=1,
    run=score,
    settings=Settings(),
    reads={"clip_path": Path, "clip_digest": str},
    writes={"aesthetic": float},
)
