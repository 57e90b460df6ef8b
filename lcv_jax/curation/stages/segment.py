"""Stage `segment`: which frames of a film make clips, and the picture within its black borders."""

from pathlib import Path

from lcv_jax.curation.segment import SegmentSettings, find_shots
from lcv_jax.curation.stage import Cost, Row, Stage


def segment(row: Row, settings: SegmentSettings) -> Row:
    """The clips of a source."""
    shots = find_shots(row["path"], settings.weights)
    clips, box = shots.clips(settings), shots.borders
    return {
        "clip_starts": [start for start, _ in clips],
        "clip_ends": [end for _, end in clips],
        "crop": [box.top, box.left, box.height, box.width],
        "transition_starts": [each.start for each in shots.transitions],
        "transition_ends": [each.end for each in shots.transitions],
        "transition_kinds": [each.kind for each in shots.transitions],
        "detectors": list(shots.detectors),
    }


STAGE = Stage(
    name="segment",
    version=3,
    run=segment,
    settings=SegmentSettings(),
    # Not None for a film that repeats another: those are not cut. A film that cannot be read has failed before.
    reads={"path": Path, "duplicate_of": str},
    writes={
        "clip_starts": list[int],
        "clip_ends": list[int],
        "crop": list[int],
        "transition_starts": list[int],
        "transition_ends": list[int],
        "transition_kinds": list[str],
        "detectors": list[str],
    },
    of="source",
    cost=Cost(cores=2.0, timeout=86400.0, memory=400),
)
