"""Time of whole calls, prompt to video: `python -m benchmarks.sampling WEIGHTS [--sizes 96x160x9] [--num-steps 4]`.

Prints a table and asserts nothing. WEIGHTS is a converted folder, such as the demo's outputs/demo/weights.
"""

import argparse

import jax
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.pipeline import load_pipeline


def main() -> None:
    """Times text-to-video at every asked size and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("--sizes", nargs="+", default=["96x160x9", "256x448x17"], help="height x width x frames")
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=None)
    parser.add_argument("--distilled", action="store_true")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()

    pipeline = load_pipeline(args.weights, dtype=args.dtype)
    mode = "distilled" if args.distilled else "guided"
    table = Table(title=f"text to video, {args.num_steps} steps, {mode}, {jax.devices()[0].device_kind}")
    for heading in ("size", "frames", "first call, s", "latents, s", "video, s"):
        table.add_column(heading, justify="right")
    for size in args.sizes:
        height, width, num_frames = map(int, size.split("x"))

        def call(output: str, given: tuple[int, int, int] = (height, width, num_frames)) -> object:
            height, width, num_frames = given
            return pipeline.text_to_video(
                "a cat surfs a wave",
                height=height,
                width=width,
                num_frames=num_frames,
                num_steps=args.num_steps,
                distilled=args.distilled,
                output=output,
            )

        runs = [lambda call=call, output=output: call(output) for output in ("video", "latents")]
        (first, video), (_, latents) = seconds_of(*runs, repeats=args.repeats)
        table.add_row(f"{height} x {width}", str(num_frames), f"{first:.2f}", f"{latents:.2f}", f"{video:.2f}")
    rich.print(table)


if __name__ == "__main__":
    main()
