"""Measures of a clip from one decoding; curation/measures.py says what each means."""

import dataclasses
import math
from pathlib import Path

from lcv_jax.bounds import Count, Positive, check_fields
from lcv_jax.curation.measures import MEASURES, measure_file
from lcv_jax.curation.stage import Row, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How closely a clip is looked at."""

    samples_a_second: Positive = 2.0
    """Frames that are measured as single frames."""
    most_samples: Count = 64
    """Of them, about; longer clips are sampled at larger distances."""

    def __post_init__(self) -> None:
        check_fields(self)


def measure(row: Row, settings: Settings) -> Row:
    """All measures; those that a clip of one frame does not have are None."""
    found = measure_file(row["clip_path"], settings.samples_a_second, settings.most_samples)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}


STAGE = Stage(
    name="measures",
    version=3,
    run=measure,
    settings=Settings(),
    reads={"clip_path": Path, "clip_digest": str},
    writes={name: kind for name, (kind, _) in MEASURES.items()},
)
