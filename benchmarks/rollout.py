"""GRPO's rollout against plain sampling: `python -m benchmarks.rollout WEIGHTS [--size 64x64x17] [--num-steps 8]`.

Prints a table and asserts nothing: seconds for the latents of the same videos, and milliseconds a model evaluation of
one video. Plain sampling evaluates every video at every step, and so does a rollout with noise at all steps; one with a
critical step samples each group once up to it. Nothing is decoded or scored.
"""

import argparse
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.array_types import Params
from lcv_jax.diffusion import schedule as schedules
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.pipeline import load_pipeline
from lcv_jax.sampling.denoise import denoise
from lcv_jax.training.rollout import rollout
from lcv_jax.training.rollout_config import SDEConfig


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What groups start from, on the device."""

    noise_PTHWC: jax.Array
    text_PLD: jax.Array
    mask_PL: jax.Array
    negative: tuple[jax.Array, jax.Array]
    """Embedding and mask of the negative prompt."""


Ways = dict[str, tuple[int, Callable[[], object]]]


def ways_of(
    model: LongCatVideo,
    variables: Params,
    prompts: Prompts,
    schedule: jax.Array,
    scale: float,
    *,
    group_size: int,
    critical: int,
) -> Ways:
    """By name how many samples a way evaluates, and the call."""
    negative, groups, num_steps = prompts.negative, prompts.noise_PTHWC.shape[0], schedule.shape[0]
    videos = groups * group_size

    def plain() -> object:
        def of_all(x: jax.Array, empty: jax.Array) -> jax.Array:
            asked = jnp.repeat(x, group_size, axis=0)
            return jnp.concatenate([jnp.repeat(empty, videos, axis=0), asked]) if scale > 1 else asked

        text, mask = of_all(prompts.text_PLD, negative[0]), of_all(prompts.mask_PL, negative[1])
        noise = jnp.repeat(prompts.noise_PTHWC, group_size, axis=0)
        return denoise(model, variables, noise, None, text, mask, schedule, jnp.float32(scale))[0]

    def rolled(noise: SDEConfig) -> object:
        return rollout(
            model,
            variables,
            prompts.noise_PTHWC,
            prompts.text_PLD,
            prompts.mask_PL,
            *(negative if scale > 1 else (None, None)),
            schedule,
            jnp.float32(scale),
            jnp.int32(critical),
            jax.random.key(1),
            group_size=group_size,
            noise=noise,
        )

    once = critical + 1  # up to the critical step, and that step's own
    return {
        "plain sampling": (videos * num_steps, plain),
        "rollout, noise at all steps": (videos * num_steps, lambda: rolled(SDEConfig(noisy_steps="all"))),
        "rollout, a critical step": (groups * once + videos * (num_steps - once), lambda: rolled(SDEConfig())),
    }


def main() -> None:
    """Times both, in turns, with and without guidance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("--size", default="64x64x17", help="height x width x frames")
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--critical", type=int, default=2, help="which step is noisy, from 0")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=None)
    parser.add_argument("--max-sequence-length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    pipeline = load_pipeline(args.weights, dtype=args.dtype)
    model = LongCatVideo(pipeline.dit_config)
    height, width, num_frames = map(int, args.size.split("x"))
    shape = pipeline.latent_shape(num_frames, height, width)
    groups, videos = args.groups, args.groups * args.group_size
    schedule = jnp.asarray(schedules.uniform(args.num_steps, 1.0), jnp.float32)
    text_PLD, mask_PL = pipeline.encode_text(["a cat surfs a wave"] * groups, args.max_sequence_length)
    negative = pipeline.encode_text([""], args.max_sequence_length)
    noise_PTHWC = jax.random.normal(jax.random.key(0), (groups, *shape))

    variables = {"params": pipeline.params("dit")}
    prompts = Prompts(noise_PTHWC, text_PLD, mask_PL, negative)

    title = f"{videos} videos of {args.size}, {args.num_steps} steps, {jax.devices()[0].device_kind}"
    table = Table(title=title)
    for heading in ("guidance", "", "evaluations", "seconds", "ms an evaluation"):
        table.add_column(heading, justify="right")
    for scale in (1.0, 4.0):
        ways = ways_of(model, variables, prompts, schedule, scale, group_size=args.group_size, critical=args.critical)
        runs = [lambda run=run: jax.block_until_ready(run()) for _, run in ways.values()]
        passes = 2 if scale > 1 else 1
        for (label, (count, _)), (_, seconds) in zip(
            ways.items(), seconds_of(*runs, repeats=args.repeats), strict=True
        ):
            each = 1000 * seconds / (passes * count)
            table.add_row(f"{scale:g}", label, str(passes * count), f"{seconds:.3f}", f"{each:.3f}")
    rich.print(table)


if __name__ == "__main__":
    main()
