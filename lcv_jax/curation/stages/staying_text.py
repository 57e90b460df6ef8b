"""Text that stays where it is over the clips of a source, in the boxes of the stage text: watermarks in writing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lcv_jax.curation.logos import Box, staying_text
from lcv_jax.curation.stage import GroupStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """None."""


def find_staying_text(columns: dict[str, list[Any]], settings: Settings) -> Mapping[str, Sequence[Any]]:
    """Whether most clips of a source have text in one place, and its box, the same for each clip."""
    box = staying_text([_boxes(sides) for sides in columns["text_boxes"]])
    number = len(columns["text_boxes"])
    return {"staying_text": [float(box is not None)] * number, "staying_text_box": [box and list(box)] * number}


def _boxes(sides: list[float] | None) -> list[Box]:
    """Boxes of four numbers each."""
    return [tuple(sides[place : place + 4]) for place in range(0, len(sides or ()), 4)]  # type: ignore[index,misc]


STAGE = GroupStage(
    name="staying_text",
    version=1,
    run=find_staying_text,
    settings=Settings(),
    reads={"clip": str, "text_boxes": list[float]},
    writes={"staying_text": float, "staying_text_box": list[float]},
    of="clip",
    by="source",
)
