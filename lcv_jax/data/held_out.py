"""Which clips are held out of training for validation: a fixed share, by a hash of their ids, in whatever order."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def held_out_clips(record_ids: Iterable[str], share: float) -> frozenset[str]:
    """Ids of the clips that are held out, at least one; single frames of a clip go with it.

    Args:
        record_ids: of clips, and of single frames of them ("CLIP#image0").
        share: of all clips, in 0..1; 0 holds out none.

    Raises:
        ValueError: no clip would be left to train on.
    """
    clips = sorted({clip_of(identity) for identity in record_ids}, key=_hash)
    count = max(1, round(share * len(clips))) if share > 0 else 0
    if 0 < len(clips) <= count:
        raise ValueError(f"data.held_out {share:g} of {len(clips)} clips leaves none to train on: set it to 0")
    return frozenset(clips[:count])


def clip_of(record_id: str) -> str:
    """The clip that a record is of."""
    return record_id.split("#image", 1)[0]


def _hash(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()


class Chosen:
    """Some records of a source, by their places in it."""

    def __init__(self, source: Any, places: Sequence[int]):
        self._source, self._places = source, np.asarray(places, np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Any:
        return self._source[int(self._places[number])]
