"""Stage: how much the key lists of neighbouring query blocks overlap, in the small model and by chance."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.small_model import PROMPT, convert
from benchmarks.overlap import mean_of, sampled


def rows(toy: bool) -> Iterator[dict[str, Any]]:
    """A row for every size of group."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights"
        convert(weights, toy)
        side, num_frames, num_steps = (128, 13, 1) if toy else (128, 33, 16)
        found = sampled(weights, (side, side, num_frames), num_steps, max_sequence_length=24, prompt=PROMPT)
    for of_group in zip(*found, strict=True):
        yield {"size": [side, side, num_frames], "selections": len(of_group), **dataclasses.asdict(mean_of(of_group))}
