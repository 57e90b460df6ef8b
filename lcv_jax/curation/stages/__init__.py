"""One file for each stage: a function of a row, and a value `STAGE` that describes it."""

import importlib

from lcv_jax.curation.stage import GroupStage, Stage

ORDER = (
    *("probe", "duplicates", "segment", "clips"),
    *("measures", "text", "staying_text", "logo", "aesthetic", "captions", "attributes", "augmentation"),
)
"""All stages, each after those whose columns it reads."""


def stage_named(name: str) -> Stage | GroupStage:
    """The stage of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in ORDER:
        raise ValueError(f"unknown stage {name!r}; stages are {', '.join(ORDER)}")
    found: Stage | GroupStage = importlib.import_module(f"{__name__}.{name}").STAGE
    return found
