"""How much the key lists of neighbouring query blocks overlap: `python -m benchmarks.overlap WEIGHTS`.

Samples a video with block-sparse attention and looks at the selection of every layer and step. A kernel could give
neighbouring query blocks one program that loads each key block of their merged list once. Printed for groups of 2 and 4
neighbours in block order:

    overlap    share of a list that its neighbours' lists all have too
    loads      key blocks that the merged list has, per entry of the lists: 1 is no gain, 1 / group is the most
    chance     the same for lists that are chosen independently of one another
    products   pairs of blocks to multiply when all blocks of the merged list are multiplied for all of the group, per
               pair that is selected

Prints a table and asserts nothing. WEIGHTS is a converted folder, such as the demo's outputs/demo/weights.
"""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import rich
from rich.table import Table

from lcv_jax.kernels import attention
from lcv_jax.kernels.block_select import Selection
from lcv_jax.pipeline import load_pipeline

GROUPS = (2, 4)
PROMPT = "a red circle moves quickly to the right over a striped grey background"


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Of the lists of groups of neighbouring query blocks, as the module's docstring has them."""

    group: int
    overlap: float
    loads: float
    chance: float
    products: float


def overlap_of(selection: Selection, group: int, num_keys: int) -> Overlap:
    """Of the lists of one layer, all heads together; query blocks that fill no group are left out.

    Args:
        selection: NumPy arrays B N I R and B N I.
        group: neighbours that are merged.
        num_keys: key blocks of all.
    """
    indices, counts = (np.asarray(x) for x in selection)
    chosen = np.zeros((*counts.shape, num_keys + 1), bool)
    listed = np.arange(indices.shape[-1]) < counts[..., None]
    np.put_along_axis(chosen, np.where(listed, indices, num_keys), True, axis=-1)
    if counts.shape[-1] < group:
        raise ValueError(f"overlap: a group of {group} query blocks needs as many, got {counts.shape[-1]}")
    whole = counts.shape[-1] // group * group
    grouped = chosen[..., :whole, :num_keys].reshape(*counts.shape[:-1], -1, group, num_keys)
    entries = grouped.sum()
    merged, shared = grouped.any(axis=-2).sum(), grouped.all(axis=-2).sum()
    density = grouped.mean()
    return Overlap(
        group=group,
        overlap=float(group * shared / entries),
        loads=float(merged / entries),
        chance=float((1 - (1 - density) ** group) / (group * density)),
        products=float(group * merged / entries),
    )


def mean_of(found: Sequence[Overlap]) -> Overlap:
    """Of selections that count alike."""
    means = np.mean([dataclasses.astuple(each)[1:] for each in found], axis=0)
    return Overlap(found[0].group, *map(float, means))


@contextlib.contextmanager
def watching(groups: Sequence[int] = GROUPS) -> Iterator[list[list[Overlap]]]:
    """Within, programs that are compiled add the overlaps, by group, of every selection that they make."""
    found: list[list[Overlap]] = []
    select = attention.select_blocks

    def watched(q_BINK: jax.Array, k_BJNK: jax.Array, **options: object) -> Selection:
        selection, num_keys = select(q_BINK, k_BJNK, **options), k_BJNK.shape[1]

        def note(*lists: np.ndarray) -> Selection:
            found.append([overlap_of(Selection(*lists), group, num_keys) for group in groups])
            return Selection(*lists)

        # Not jax.debug.callback: its effect is more than Flax's scan over layers takes in JAX 0.12.
        return jax.pure_callback(note, jax.eval_shape(lambda: selection), *selection)

    jax.clear_caches()  # programs that were traced before are not watched
    try:
        with mock.patch.object(attention, "select_blocks", watched):
            yield found
    finally:
        jax.clear_caches()


def sampled(
    weights: str | Path, size: tuple[int, ...], num_steps: int, max_sequence_length: int, prompt: str = PROMPT
) -> list[list[Overlap]]:
    """The overlaps, by group, of every selection while a video of height x width x frames is sampled."""
    height, width, num_frames = size
    pipeline = load_pipeline(weights)
    with watching() as found:
        pipeline.text_to_video(
            prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            num_steps=num_steps,
            max_sequence_length=max_sequence_length,
            sparse=True,
            output="latents",
        )
    return found


def main() -> None:
    """Samples, and prints a row for every size of group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("--size", default="128x128x17", help="height x width x frames")
    parser.add_argument("--num-steps", type=int, default=16)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--max-sequence-length", type=int, default=32)
    args = parser.parse_args()

    found = sampled(
        args.weights, tuple(map(int, args.size.split("x"))), args.num_steps, args.max_sequence_length, args.prompt
    )
    table = Table(title=f"{args.size}, {args.num_steps} steps, {len(found)} selections")
    for heading in ("group", "overlap", "loads", "chance", "products", "least overlap", "most"):
        table.add_column(heading, justify="right")
    for of_group in zip(*found, strict=True):
        mean, overlaps = mean_of(of_group), [each.overlap for each in of_group]
        numbers = (mean.overlap, mean.loads, mean.chance, mean.products, min(overlaps), max(overlaps))
        table.add_row(str(mean.group), *(f"{number:.3f}" for number in numbers))
    rich.print(table)


if __name__ == "__main__":
    main()
