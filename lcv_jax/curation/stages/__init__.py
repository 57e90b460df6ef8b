"""One file for each stage: a function of a row, and a value `STAGE` that describes it."""

import importlib
from collections.abc import Collection, Iterable

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


def with_needed(names: Iterable[str], have: Collection[str]) -> list[str]:
    """Stages in order, with all that write columns for them and are not there yet.

    Args:
        names: that are wanted, in any order.
        have: stages of the library.

    Raises:
        ValueError: an unknown name.
    """
    writers = {column: name for name in ORDER for column in stage_named(name).writes}
    wanted, found = list(names), set()
    while wanted:
        name = wanted.pop()
        found.add(name)
        needed = {writers[column] for column in stage_named(name).reads if column in writers}
        wanted += needed - found - set(have)
    return sorted(found, key=ORDER.index)
