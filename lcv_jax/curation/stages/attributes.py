"""Shot size, lens and visual style of a clip, by an OpenAI-compatible endpoint that is held to a JSON schema."""

import dataclasses
from pathlib import Path

from lcv_jax.curation.captions import ATTRIBUTE_PROMPT, ATTRIBUTES, attribute_format, parse_attributes
from lcv_jax.curation.stage import Cost, Row, Stage
from lcv_jax.curation.stages import captions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(captions.Settings):
    """The endpoint and what it is asked."""

    prompt: str = ATTRIBUTE_PROMPT
    """What is asked; the values to choose from are added to it as a JSON schema."""
    num_frames: int = 3
    """Of a clip, at even distances."""


def classify(row: Row, settings: Settings) -> Row:
    """A value of each attribute."""
    return captions.ask_about(row, settings, parse_attributes, attribute_format())


STAGE = Stage(
    name="attributes",
    version=1,
    run=classify,
    settings=Settings(),
    reads={"clip_path": Path, "clip_digest": str},
    writes=dict.fromkeys(ATTRIBUTES, str),
    cost=Cost(cores=0.0, calls=16, timeout=900.0),
)
