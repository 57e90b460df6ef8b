"""Sources that repeat another: by their source id (report, section 2.1.1), or by their pictures, as a whole or in part.

Equal files are one source already. Of copies, such as downloads in different sizes, the one with the most pixels is
kept; a source that is cut out of a longer one is dropped for that.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from lcv_jax.bounds import Bounds, check_fields
from lcv_jax.curation.duplicates import find_originals
from lcv_jax.curation.fingerprints import read_fingerprint
from lcv_jax.curation.stage import GroupStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What counts as a copy."""

    least_share: Annotated[float, Bounds(above=0.5, most=1)] = 0.6
    """Of a source's frames, compared by perceptual hashes, that another must have too."""

    def __post_init__(self) -> None:
        check_fields(self)


def find_duplicates(columns: Mapping[str, Sequence[Any]], settings: Settings) -> dict[str, list[Any]]:
    """For every source the one that is kept in its place, and why; None: it is kept."""
    names = ("source_height", "source_width", "source_frames", "bytes")
    sizes = zip(*(columns[name] for name in names), columns["source"], strict=True)
    ranks = [(height * width, frames, size, source) for height, width, frames, size, source in sizes]
    films = [read_fingerprint(each) for each in columns["fingerprint"]]
    found = find_originals(films, columns["source_id"], ranks, settings.least_share)
    return {
        "duplicate_of": [each and columns["source"][each.film] for each in found],
        "duplicate_kind": [each and each.kind for each in found],
        "duplicate_share": [each and each.share for each in found],
    }


STAGE = GroupStage(
    name="duplicates",
    version=3,
    run=find_duplicates,
    settings=Settings(),
    of="source",
    reads={
        "source": str,
        "source_id": str,
        "source_height": int,
        "source_width": int,
        "source_frames": int,
        "bytes": int,
        "fingerprint": bytes,
    },
    writes={"duplicate_of": str, "duplicate_kind": str, "duplicate_share": float},
)
