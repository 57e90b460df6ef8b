"""Sources that are copies of another by their source id (report, section 2.1.1). Equal files are one source already.

Of several files with the same id, such as downloads in different sizes, the one with the most pixels is kept.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lcv_jax.curation.stage import GroupStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """None."""


def find_duplicates(columns: Mapping[str, Sequence[Any]], settings: Settings) -> dict[str, list[Any]]:
    """For every source, the better one of the same id; None: it is the only one or the best."""
    names = ("source", "source_id", "source_height", "source_width", "source_frames", "bytes")
    best: dict[str, tuple[Any, ...]] = {}
    found = list(zip(*(columns[name] for name in names), strict=True))
    for source, identity, height, width, frames, size in found:
        if identity is not None:
            rank = (height * width, frames, size, source)
            best[identity] = max(best.get(identity, rank), rank)
    kept = {identity: rank[-1] for identity, rank in best.items()}
    originals = [kept.get(identity, source) for source, identity, *_ in found]
    return {
        "duplicate_of": [
            None if original == source else original for original, (source, *_) in zip(originals, found, strict=True)
        ]
    }


STAGE = GroupStage(
    name="duplicates",
    version=1,
    run=find_duplicates,
    settings=Settings(),
    of="source",
    reads={"source_id": str, "source_height": int, "source_width": int, "source_frames": int, "bytes": int},
    writes={"duplicate_of": str},
)
