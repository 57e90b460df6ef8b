"""One file for each stage: a function of a row, and a value `STAGE` that describes it."""

import dataclasses
import importlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lcv_jax.curation.stage import GroupStage, Stage

ORDER = (
    *("probe", "fingerprint", "duplicates", "segment", "clips"),
    *("measures", "text", "staying_text", "logo", "aesthetic"),
    *("captions", "attributes", "augmentation", "embedding", "distribution"),
)
"""All stages, each after those whose columns it reads."""


def stage_named(name: str, settings: Any = None) -> Stage | GroupStage:
    """The stage of a name.

    Args:
        name: of `ORDER`.
        settings: others than the stage's own.

    Raises:
        ValueError: there is none.
    """
    if name not in ORDER:
        raise ValueError(f"unknown stage {name!r}; stages are {', '.join(ORDER)}")
    module = importlib.import_module(f"{__name__}.{name}")
    found: Stage | GroupStage = module.STAGE
    if settings is None or settings == found.settings:
        return found
    # A stage whose settings decide what it reads or costs has a function for that.
    adapt = getattr(module, "adapt", lambda stage: stage)
    return adapt(dataclasses.replace(found, settings=settings))


def all_settings() -> dict[str, Any]:
    """The settings of the stages that have some."""
    found = {name: stage_named(name).settings for name in ORDER}
    return {name: settings for name, settings in found.items() if dataclasses.fields(settings)}


def with_needed(names: Iterable[str], have: Collection[str], settings: Mapping[str, Any]) -> list[Stage | GroupStage]:
    """Stages in order, with all that write columns for them and are not there yet, or are with other settings.

    Args:
        names: that are wanted, in any order.
        have: stages of the library.
        settings: of stages.

    Raises:
        ValueError: an unknown name.
    """
    wanted = _needed(names, have, settings)
    # Settings may be given of a stage that has run, above all when a command is repeated.
    wanted |= {name for name in _needed(names, (), settings) if settings.get(name, _own(name)) != _own(name)}
    return [stage_named(name, settings.get(name)) for name in ORDER if name in wanted]


def _needed(names: Iterable[str], have: Collection[str], settings: Mapping[str, Any]) -> set[str]:
    writers = {column: name for name in ORDER for column in stage_named(name).writes}
    wanted, found = list(names), set[str]()
    while wanted:
        name = wanted.pop()
        found.add(name)
        needed = {writers[column] for column in stage_named(name, settings.get(name)).reads if column in writers}
        wanted += needed - found - set(have)
    return found


def _own(name: str) -> Any:
    return stage_named(name).settings
