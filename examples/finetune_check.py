"""Checks what examples/finetune.sh made in OUT, and puts it side by side in one picture.

python examples/finetune_check.py OUT
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np

from lcv_jax.data.media_reader import read_image, read_video
from lcv_jax.data.media_writer import write_image
from lcv_jax.toy.make import SEPIA
from lcv_jax.training.samples import grid


def frames_of(folder: Path) -> np.ndarray:
    """PNGs of a video."""
    return np.stack([read_image(path) for path in sorted(folder.glob("*.png"))])


def colour(frames: np.ndarray) -> float:
    """How far pixels are from the clips' style, in levels of 255: sepia has one tone, and no other colour."""
    untoned = frames / np.array(SEPIA)
    return float((untoned.max(axis=-1) - untoned.min(axis=-1)).mean())


def check(out: Path) -> None:
    """Raises AssertionError for what does not hold."""
    clip, _ = read_video(sorted((out / "clips" / "clips").glob("*.mp4"))[0], 8)
    names = ("without", "with_0", "with_0.5", "with_1", "exported")
    videos = {name: frames_of(out / f"{name}_frames") for name in names}
    rows = {
        "one of the clips": clip[:17],
        "without the adapter": videos["without"],
        "multiplier 0": videos["with_0"],
        "multiplier 0.5": videos["with_0.5"],
        "multiplier 1": videos["with_1"],
    }
    write_image(out / "difference.png", grid(np.stack(list(rows.values())), list(rows)))

    colours = {name: colour(video) for name, video in videos.items()} | {"clips": colour(clip)}
    print("distance from sepia:", ", ".join(f"{name} {value:.1f}" for name, value in colours.items()))
    assert np.array_equal(videos["with_0"], videos["without"]), "a multiplier of 0 must change nothing"
    assert np.abs(videos["exported"].astype(int) - videos["with_1"]).mean() < 1, "the exported adapter differs"
    assert colours["without"] > colours["with_0.5"] > colours["with_1"], "the style must grow with the multiplier"
    gained = (colours["without"] - colours["with_1"]) / (colours["without"] - colours["clips"])
    assert gained > 0.6, f"at 1 the adapter reaches {gained:.0%} of the clips' style, expected at least 60 %"

    samples = [read_image(path).astype(int) for path in sorted((out / "run" / "samples").glob("*.png"))]
    assert len(samples) == 4, f"expected samples of steps 0, 25, 100 and 200, got {len(samples)}"
    changes = [float(np.abs(after - before).mean()) for before, after in itertools.pairwise(samples)]
    assert min(changes) > 1, f"samples must change along the way, by {changes} of 255"
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps)), "a resumed run repeats no step"
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    print("validation loss:", ", ".join(f"{loss:.3f}" for loss in losses))
    assert min(losses) < losses[0], "the loss on held-out clips must fall"
    print(f"done: open {out / 'difference.png'}")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
