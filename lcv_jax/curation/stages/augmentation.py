"""Several captions of a clip: those of the model, and some with the camera's movement and the style mixed in."""

import dataclasses

from lcv_jax.bounds import Seed, Whole, check_fields
from lcv_jax.curation.captions import ATTRIBUTES, TEXTS, augment
from lcv_jax.curation.stage import Row, Stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How many captions are mixed."""

    num_captions: Whole = 4
    """With attributes, besides those without."""
    seed: Seed = 0
    """Of what is mixed."""

    def __post_init__(self) -> None:
        check_fields(self)


def mix(row: Row, settings: Settings) -> Row:
    """The captions that training draws from."""
    texts = {name: row[name] for name in TEXTS if row[name] is not None}
    attributes = {name: row[name] for name in ("camera", *ATTRIBUTES)}
    return {"captions": augment(texts, attributes, row["clip"], settings.num_captions, settings.seed)}


STAGE = Stage(
    name="augmentation",
    version=1,
    run=mix,
    settings=Settings(),
    reads={**dict.fromkeys(TEXTS, str), "camera": str, **dict.fromkeys(ATTRIBUTES, str)},
    writes={"captions": list[str]},
)
