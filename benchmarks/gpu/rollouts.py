"""Stage: GRPO's rollout against plain sampling, at 480 x 832 x 29 with random weights.

Two videos in two steps, of which the first is the critical one.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.facts import reason
from benchmarks.gpu.arrays import random_arrays
from benchmarks.gpu.measuring import peak_bytes
from benchmarks.gpu.parts import PARTS, programs
from benchmarks.rollout import Prompts, ways_of

GROUP_SIZE, NUM_STEPS = 2, 2


def rows(toy: bool) -> Iterator[dict[str, Any]]:
    """A row for every way to sample."""
    (program,) = programs(dataclasses.replace(PARTS["step_480p"], num_frames=29), toy)
    model, variables, noise, _, text, mask, *_ = random_arrays(program.arguments)
    prompts = Prompts(noise, text, mask, (text, mask))
    schedule = jnp.linspace(0.9, 0.5, NUM_STEPS, dtype=jnp.float32)
    for label, (evaluations, run) in ways_of(
        model, variables, prompts, schedule, 1.0, group_size=GROUP_SIZE, critical=0
    ).items():
        try:
            taken = []
            for _ in range(2):
                start = time.perf_counter()
                jax.block_until_ready(run())
                taken.append(time.perf_counter() - start)
        except Exception as error:  # the other ways still count
            yield {"way": label, "error": reason(error)}
            continue
        row = {"way": label, "evaluations": evaluations, "first_seconds": taken[0], "seconds": taken[1]}
        yield row | {"seconds_per_evaluation": taken[1] / evaluations, "peak_bytes_so_far": peak_bytes()}
