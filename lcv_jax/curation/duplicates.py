"""Films that show the same, found in their fingerprints: encoded again, resized, or cut out of a longer one.

1. An index finds candidates. A hash of eight bands of 8 bits has 56 keys, of three bands each: two hashes that differ
   in at most five bits have one in common, and one in five of those that differ in twelve. Of libraries too large for
   that it has six keys, of two of four bands. Equal keys vote for a pair of films and the time by which one is later.
2. For the times with most votes frames are compared. A film is a copy if most of its frames are as in the other.

No film is compared with all others: a key that many films have pairs each with a few. The index takes at most
`MOST_KEYS` keys; of more, a part is left out that is the same for all films.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import Int, Shaped
from lcv_jax.curation.fingerprints import VALID

MOST_KEYS = 20_000_000
"""Of 16 bytes each, which are copied once to be sorted."""
_FINE, _COARSE = (8, 3), (4, 2)
"""Bands of a hash, and how many of them make a key: 56 keys of 24 bits, where the index has room for them all, and 6 of
32 bits."""
_PAIRINGS = 16
"""Films that a key pairs each one with, at most."""
_LEAST_VOTES = 2
"""Of a time, with the times next to it."""
_TRIED = 3
"""Times that are compared for a pair, besides their beginnings."""
_SAME_BITS = 16
"""In which the hashes of two frames that show the same may differ, of 63; those of others differ in 31 or so. Strong
compression changes 12 and more."""
_SAME_COLOUR = 4.0
"""Levels of 256, by which the colours of two frames that show the same may differ in the mean."""
_SHORTEST = 3
"""Hashes that a film needs to be compared by its pictures."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_TIMES = 1 << 20
"""More than the hashes of a film of three days."""


@dataclasses.dataclass(frozen=True)
class Match:
    """Two films that show the same."""

    first: int
    second: int
    first_share: float
    """Of the first film's frames that the second has too."""
    second_share: float
    offset: int
    """What the first film shows at a hash, the second shows so many hashes later."""


Fingerprint = Shaped[np.ndarray, "_ 2"]
"""Hashes and colours, uint64, as fingerprints.py reads them."""


def find_matches(films: Sequence[Fingerprint], least_share: float) -> list[Match]:
    """Pairs of films of which one has at least `least_share` of its frames in common with the other.

    Args:
        films: their fingerprints.
        least_share: of the frames that have a hash.
    """
    matches = []
    for first, second, offsets in _candidates(films):
        found = max((_compare(films, first, second, offset) for offset in offsets), key=_larger_share)
        if _larger_share(found) >= least_share:
            matches.append(found)
    return matches


def _larger_share(match: Match) -> float:
    return max(match.first_share, match.second_share)


def _compare(films: Sequence[Fingerprint], first: int, second: int, offset: int) -> Match:
    """How much two films have in common at a time; frames may be a quarter of a second off."""
    shares = []
    for one, other, shift in ((films[first], films[second], offset), (films[second], films[first], -offset)):
        places_T = np.flatnonzero(one[:, 0] & VALID)
        same_T = np.zeros(len(places_T), bool)
        for near in (shift - 1, shift, shift + 1):
            there_T = places_T + near
            within_T = (there_T >= 0) & (there_T < len(other))
            same_T[within_T] |= _alike(one[places_T[within_T]], other[there_T[within_T]])
        shares.append(float(same_T.mean()) if len(same_T) else 0.0)
    return Match(first, second, shares[0], shares[1], offset)


def _alike(one_T2: np.ndarray, other_T2: np.ndarray) -> np.ndarray:
    """Whether frames show the same."""
    bits_T = np.bitwise_count(one_T2[:, 0] ^ other_T2[:, 0])
    bytes_T8 = (np.ascontiguousarray(each[:, 1]).view(np.uint8).reshape(-1, 8) for each in (one_T2, other_T2))
    apart_T = np.abs(np.subtract(*bytes_T8, dtype=int)).mean(axis=1)
    return (bits_T <= _SAME_BITS) & ((other_T2[:, 0] & VALID) > 0) & (apart_T <= _SAME_COLOUR)


def _candidates(films: Sequence[Fingerprint]) -> Iterator[tuple[int, int, list[int]]]:
    """Pairs of films, and the times at which they may show the same, those with most votes."""
    keys, film, time = _index(films)
    votes = [np.zeros((0, 2), np.int64)]
    for step in range(1, _PAIRINGS + 1):
        places = np.flatnonzero(keys[step:] == keys[:-step])
        if not len(places):
            break
        # The index is in order of films within a key, so that the first film of a pair is always the lower one.
        pair = film[places].astype(np.int64) * len(films) + film[places + step]
        vote = pair * (2 * _TIMES) + time[places + step] - time[places] + _TIMES
        votes.append(np.stack(np.unique(vote, return_counts=True), axis=1))
    all_votes = np.concatenate(votes)
    all_votes = all_votes[np.argsort(all_votes[:, 0], kind="stable")]
    for pair, rows in itertools.groupby(all_votes.tolist(), key=lambda row: row[0] // (2 * _TIMES)):
        counts: dict[int, int] = {}
        for value, count in rows:
            offset = value % (2 * _TIMES) - _TIMES
            counts[offset] = counts.get(offset, 0) + count
        near = {offset: sum(counts.get(offset + by, 0) for by in (-1, 0, 1)) for offset in counts}
        if max(near.values()) < _LEAST_VOTES:
            continue
        best = sorted(near, key=lambda offset: (-near[offset], -counts[offset], offset))[:_TRIED]
        # Copies begin together; where little moves, the votes may say otherwise.
        yield *divmod(pair, len(films)), sorted({*best, 0})


def _index(
    films: Sequence[Fingerprint],
) -> tuple[Shaped[np.ndarray, " K"], Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """Keys in order, each once for a film, with the film and the time at which it comes first."""
    chosen = [_changes(film[:, 0]) for film in films]
    count = sum(map(len, chosen))
    bands, of_them = _FINE if math.comb(*_FINE) * count <= MOST_KEYS else _COARSE
    total = math.comb(bands, of_them) * count
    part = np.uint64(-(-total // MOST_KEYS) or 1)
    keys, owners, times = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for number, (film, places) in enumerate(zip(films, chosen, strict=True)):
        found = _keys(film[places, 0], bands, of_them)
        place = np.tile(places, math.comb(bands, of_them))
        kept = (found * _MIX >> np.uint64(32)) % part == 0
        values, first = np.unique(found[kept], return_index=True)
        keys.append(values)
        owners.append(np.full(len(values), number, np.int32))
        times.append(place[kept][first].astype(np.int32))
    all_keys = np.concatenate(keys)
    order = np.argsort(all_keys, kind="stable")
    return all_keys[order], np.concatenate(owners)[order], np.concatenate(times)[order]


def _changes(hashes: np.ndarray) -> np.ndarray:
    """Places of the hashes that differ from the one before; none of a film too short to be compared."""
    if np.count_nonzero(hashes & VALID) < _SHORTEST:
        return np.zeros(0, np.int64)
    changed = np.concatenate([[True], hashes[1:] != hashes[:-1]])
    return np.flatnonzero(changed & ((hashes & VALID) > 0))


def _keys(hashes: np.ndarray, bands: int, of_them: int) -> np.ndarray:
    """All keys of each hash, one after the other: the number of a choice of `of_them` bands, and their bits."""
    width = np.uint64(64 // bands)
    band = (np.uint64(1) << width) - np.uint64(1)
    parts = [hashes >> (width * np.uint64(number)) & band for number in range(bands)]
    keys = []
    for number, choice in enumerate(itertools.combinations(parts, of_them)):
        key = np.full(len(hashes), number, np.uint64)
        for part in choice:
            key = key << width | part
        keys.append(key)
    return np.concatenate(keys)


@dataclasses.dataclass(frozen=True)
class Original:
    """What is kept in the place of a film."""

    film: int
    kind: str
    """Why: id, copy (the same from beginning to end) or part."""
    share: float
    """Of the film's frames that are in another one; 1 where only the id says so."""


def find_originals(
    films: Sequence[Fingerprint], groups: Sequence[object], ranks: Sequence[tuple[Any, ...]], least_share: float
) -> list[Original | None]:
    """For each film the one that is kept in its place; None: it is kept itself.

    Of copies the one of the highest rank is kept. A film that is a part of another is dropped for it.

    Args:
        films: their fingerprints.
        groups: films of the same group are copies, such as those of one source id; None: in no group.
        ranks: of films: the greater, the better.
        least_share: of a film's frames that another must have for it to be a part of that.
    """
    within: list[dict[int, float]] = [{} for _ in films]
    for match in find_matches(films, least_share):
        within[match.first][match.second] = match.first_share
        within[match.second][match.first] = match.second_share
    # The longest first: what a film is a part of comes before it.
    lengths = [int(np.count_nonzero(film[:, 0] & VALID)) for film in films]
    order = sorted(range(len(films)), key=lambda film: (lengths[film], ranks[film], -film), reverse=True)
    heads: dict[object, int] = {}
    found: dict[int, Original] = {}
    for film in order:
        head = heads.setdefault(groups[film], film) if groups[film] is not None else film
        parts = {other: share for other, share in within[film].items() if other in found and share >= least_share}
        if head != film:
            found[film] = Original(found[head].film, "id" if found[head].kind != "part" else "part", 1.0)
        elif parts:
            other = max(parts, key=lambda each: (parts[each], -each))
            is_copy = within[other][film] >= least_share and found[other].kind != "part"
            found[film] = Original(found[other].film, "copy" if is_copy else "part", parts[other])
        else:
            found[film] = Original(film, "", 1.0)
    return _best_kept(found, ranks)


def _best_kept(found: Mapping[int, Original], ranks: Sequence[tuple[Any, ...]]) -> list[Original | None]:
    """The best copy stands for the longest one, which all others were found to be copies or parts of."""
    best = {film: film for film, each in found.items() if each.film == film}
    for film, each in found.items():
        if each.kind != "part":
            best[each.film] = max(best[each.film], film, key=lambda one: ranks[one])
    kept: list[Original | None] = []
    for film in range(len(found)):
        each, keeper = found[film], best[found[film].film]
        if keeper == film:
            kept.append(None)
        else:  # the longest one itself may be kept in no other way than as a copy
            kept.append(Original(keeper, each.kind or found[keeper].kind, each.share))
    return kept
