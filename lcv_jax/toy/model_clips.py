"""Clips that a model of the procedural world makes, to be rated (toy/judges.py)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.frames import to_uint8
from lcv_jax.pipeline import load_pipeline

FRAMES, STEPS, PROMPTS = 9, (8, 4), 16
"""Of a clip; of sampling, in turn, so that some clips are worse; and in a batch."""


def model_clips(
    folder: Path, prompts: Sequence[str], *, side: int, seed: int
) -> Iterator[UInt8[np.ndarray, "T H W 3"]]:
    """Two clips of each prompt, one after the other, without guidance, as GRPO of the small model samples.

    Args:
        folder: a converted checkpoint.
        prompts: captions.
        side: height and width, in pixels.
        seed: of all noise.

    Raises:
        ValueError: no checkpoint, or none that makes clips of that size.
        OSError: it cannot be read.
    """
    pipeline = load_pipeline(folder)
    for number, first in enumerate(range(0, len(prompts), PROMPTS)):
        # The last batch is filled up, so that one program does for all.
        some = [prompts[min(place, len(prompts) - 1)] for place in range(first, first + PROMPTS)]
        videos = pipeline.text_to_video(
            [prompt for prompt in some for _ in "ab"],
            height=side,
            width=side,
            num_frames=FRAMES,
            num_steps=STEPS[number % len(STEPS)],
            guidance_scale=1.0,
            max_sequence_length=32,
            seed=tuple(seed + 2 * first + place for place in range(2 * PROMPTS)),
        )
        yield from map(to_uint8, videos[: 2 * (len(prompts) - first)])
