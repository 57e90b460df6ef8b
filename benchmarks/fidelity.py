"""How close videos stay to plain sampling: `python -m benchmarks.fidelity WEIGHTS --step-cache 0.05`.

Samples the small model's prompts by itself (50 steps with guidance), then with every step cache, and from every other
converted folder, and prints evaluations and PSNR. WEIGHTS is a converted folder of examples/toy_checkpoint in float32
(bfloat16 rounds by about 58 dB), such as the demo's outputs/demo/weights.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich
from rich.table import Table

from lcv_jax.pipeline import Pipeline, load_pipeline

PROMPTS = (
    "a red circle moves quickly to the right over a striped grey background",
    "a blue square turns slowly over a dotted brown background",
    "a green triangle grows quickly over a plain sage background",
    "a white cross moves down slowly in front of a striped mauve wall",
)
SIZE: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 17, "max_sequence_length": 32}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("--step-cache", type=float, nargs="*", default=[], metavar="THRESHOLD")
    parser.add_argument("--other", nargs="*", default=[], metavar="FOLDER", help="a quantized one, for example")
    parser.add_argument("--num-steps", type=int, default=50)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    args = parser.parse_args()

    pipeline = load_pipeline(args.weights)
    plain = videos(pipeline, args.prompts, num_steps=args.num_steps)
    table = Table(title=f"{len(args.prompts)} videos against plain sampling, {args.num_steps} steps with guidance")
    for heading in ("", "evaluations", "PSNR, dB: mean", "worst"):
        table.add_column(heading, justify="right" if heading else "left")
    for threshold in args.step_cache:
        pipeline.skipped_steps.clear()
        got = videos(pipeline, args.prompts, num_steps=args.num_steps, step_cache=threshold)
        counts = [args.num_steps - len(skipped) for skipped in pipeline.skipped_steps]
        table.add_row(f"step cache {threshold:g}", f"{min(counts)} to {max(counts)}", *_decibels(got, plain))
    for folder in args.other:
        got = videos(load_pipeline(folder), args.prompts, num_steps=args.num_steps)
        table.add_row(str(folder), str(args.num_steps), *_decibels(got, plain))
    rich.print(table)


def videos(pipeline: Pipeline, prompts: Sequence[str], **options: Any) -> np.ndarray:
    """One video a prompt, sampled one by one with seeds 0, 1, ..."""
    made = [pipeline.text_to_video(prompt, seed=seed, **SIZE, **options)[0] for seed, prompt in enumerate(prompts)]
    return np.stack(made)


def psnr(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each video of a stack; values in [0, 1]."""
    squared = np.mean((got.astype(np.float64) - wanted) ** 2, axis=tuple(range(1, got.ndim)))
    return -10 * np.log10(np.maximum(squared, 1e-12))


def _decibels(got: np.ndarray, wanted: np.ndarray) -> tuple[str, str]:
    each = psnr(got, wanted)
    return f"{each.mean():.1f}", f"{each.min():.1f}"


if __name__ == "__main__":
    main()
