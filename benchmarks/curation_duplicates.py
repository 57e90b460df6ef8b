"""Copies that are found in planted films: those of lcv_jax.toy.films, and one more of every film, made here.

The films' own copies are exact, encoded again, resized or cut out. Those made here are encoded at half the size and low
quality, or are 30 % of a film at 15 frames a second.
"""

import collections
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.curation import Row, share
from lcv_jax.curation.duplicates import find_originals
from lcv_jax.curation.fingerprints import fingerprint, read_fingerprint
from lcv_jax.curation.stages.duplicates import Settings
from lcv_jax.data.media_reader import open_clip, stream_video
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.extras import import_extra
from lcv_jax.toy.films import read_truth

_EXCERPT = 0.3


def duplicates(films: Sequence[Path]) -> list[Row]:
    """Of a copy and its original one has to be kept, whichever; a dropped film must be of the other's family."""
    kinds, families, hashes, sizes = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, film in enumerate(films):
            truth = read_truth(film)
            copied = truth["duplicate"]
            kinds += [copied["kind"] if copied else "original", "half size, crf 40" if number % 2 else "30 %, 15 fps"]
            families += [copied["of"] if copied else truth["id"]] * 2
            copy = Path(folder) / "copy.mp4"
            _write_copy(film, copy, is_small=number % 2 == 1)
            for path in (film, copy):
                hashes.append(read_fingerprint(fingerprint(path)))
                sizes.append((truth["height"] * truth["width"] if path == film else 0, len(hashes[-1])))
    found = find_originals(hashes, [None] * len(hashes), sizes, Settings().least_share)
    kept = [place if each is None else each.film for place, each in enumerate(found)]
    originals = {family: kept[place] for place, family in enumerate(families) if kinds[place] == "original"}
    by_kind: dict[str, list[bool]] = collections.defaultdict(list)
    for place, kind in enumerate(kinds):
        if kind != "original":
            by_kind[kind].append(kept[place] == originals[families[place]])
    every = [is_found for each in by_kind.values() for is_found in each]
    right = [families[kept[place]] == families[place] for place, each in enumerate(found) if each is not None]
    rows: list[Row] = [
        {"copies": kind, "planted": len(each), "recall": share(sum(each), len(each)), "precision": "-"}
        for kind, each in sorted(by_kind.items())
    ]
    precision = share(sum(right), len(right))
    return [
        {"copies": "all", "planted": len(every), "recall": share(sum(every), len(every)), "precision": precision},
        *rows,
    ]


def _write_copy(film: Path, copy: Path, *, is_small: bool) -> None:
    cv2 = import_extra("cv2", "curate", "copies of films need")
    with open_clip(film) as clip:
        rate, seconds = clip.timeline.rate, float(clip.timeline.seconds)
        height, width, _ = next(clip.pictures([0])).shape
    fps = rate if is_small else 15
    frames = stream_video(film, fps, 0.0 if is_small else 0.41 * seconds)
    count = int(seconds * fps * (1 if is_small else _EXCERPT))
    size = (height // 4 * 2, width // 4 * 2) if is_small else (height, width)
    options = {"preset": "veryfast", "threads": "1"}
    with VideoWriter(
        copy, fps=fps, height=size[0], width=size[1], crf=40 if is_small else 26, options=options
    ) as video:
        for frame, _ in zip(frames, range(count), strict=False):
            video.write((frame if size == frame.shape[:2] else cv2.resize(frame, size[::-1]))[None])
