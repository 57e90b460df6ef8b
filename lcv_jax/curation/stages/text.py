"""How much of a clip is covered by text, subtitles for example; curation/text.py says how it is found."""

import dataclasses
from pathlib import Path

from lcv_jax.bounds import Positive, check_fields
from lcv_jax.curation.stage import Cost, Row, Stage
from lcv_jax.curation.text import measure_text
from lcv_jax.data.media_reader import stream_video


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How closely a clip is looked at."""

    frames_a_second: Positive = 1.0
    """Frames that are looked at."""

    def __post_init__(self) -> None:
        check_fields(self)


def find_text(row: Row, settings: Settings) -> Row:
    """Shares of the frame that text covers, and its boxes, four numbers each."""
    found = measure_text(stream_video(row["clip_path"], settings.frames_a_second))
    return {**found, "text_boxes": [side for box in found["text_boxes"] for side in box]}


STAGE = Stage(
    name="text",
    version=1,
    run=find_text,
    settings=Settings(),
    reads={"clip_path": Path, "clip_digest": str},
    writes={"text_coverage": float, "text_coverage_most": float, "text_share": float, "text_boxes": list[float]},
    cost=Cost(cores=1.0),
)
