"""Stage: the small model generates on the GPU what it generates on a CPU, from the checkpoint in examples/.

A process of its own samples on the CPU meanwhile. The bounds are the least PSNR of videos in [0, 1]: in float32 what
differs is the order of sums; sparse attention may choose another block where two score nearly the same, and bfloat16
rounds every product.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lcv_jax.checkpoint.conversion import convert_checkpoint
from lcv_jax.checkpoint.published import open_published
from lcv_jax.pipeline import load_pipeline

ROOT = Path(__file__).parents[2]
CHECKPOINT, TOY_CHECKPOINT = ROOT / "examples" / "toy_checkpoint", ROOT / "tests" / "tiny_checkpoint"
PROMPT = "a red circle moves quickly to the right over a striped grey background"
HOW = {
    "dense": {"dtype": "float32", "sparse": False},
    "sparse": {"dtype": "float32", "sparse": True},
    "bfloat16": {"dtype": "bfloat16", "sparse": False},
}
BOUNDS = {"dense": 50.0, "sparse": 35.0, "bfloat16": 30.0}
"""dB."""


def rows(toy: bool) -> Iterator[dict[str, Any]]:
    """A row for every way of HOW; the reference of all is float32 on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights"
        convert(weights, toy)
        command = [sys.executable, "-m", "benchmarks.gpu.small_model", str(weights), str(int(toy))]
        on_cpu = subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"})
        try:
            with jax.default_matmul_precision("highest"):
                found = videos(weights, toy, ("dense",) if toy else tuple(HOW))
            if on_cpu.wait():
                raise RuntimeError("sampling on the CPU failed: its error is above")
        finally:
            on_cpu.kill()
        expected = np.load(weights.with_name("cpu.npz"))
    for name, video in found.items():
        psnr = decibels(video, expected["sparse" if name == "sparse" else "dense"])
        row = {"how": name, "psnr_db": psnr, "bound_db": BOUNDS[name], "passed": psnr >= BOUNDS[name]}
        yield row if row["passed"] else row | {"error": "further from the CPU's video than the bound allows"}


def convert(weights: Path, toy: bool) -> None:
    """Writes the checkpoint as the pipeline reads it."""
    convert_checkpoint(open_published(TOY_CHECKPOINT if toy else CHECKPOINT), weights)


def videos(weights: Path, toy: bool, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A video for every way."""
    size = {"height": 32, "width": 32, "num_frames": 5} if toy else {"height": 64, "width": 64, "num_frames": 17}
    made = {}
    for name in names:
        how = HOW[name]
        pipeline = load_pipeline(weights, dtype=how["dtype"])
        given = {"num_steps": 2 if toy else 16, "max_sequence_length": 24, "sparse": how["sparse"]}
        made[name] = np.asarray(pipeline.text_to_video(PROMPT, **size, **given))
    return made


def decibels(video: np.ndarray, expected: np.ndarray) -> float:
    """PSNR of a video in [0, 1]; of the same bits 200."""
    error = float(np.mean((video.astype(np.float64) - expected) ** 2))
    return min(200.0, -10 * float(np.log10(max(error, 1e-20))))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    toy = bool(int(sys.argv[2]))
    made = videos(folder, toy, ("dense",) if toy else ("dense", "sparse"))
    np.savez(folder.with_name("cpu.npz"), **made)
