"""Draws docs/block_order.svg: `python docs/block_order.py` (needs matplotlib)."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from lcv_jax.kernels.block_order import block_order
from lcv_jax.kernels.block_patterns import block_mask, space_and_time

plt.switch_backend("svg")
plt.rcParams["svg.hashsalt"] = "the same file every time"

GRID, BLOCK = (2, 4, 8), (2, 2, 2)


def main() -> None:
    """Where tokens go, and which pairs of blocks are computed."""
    order = block_order(GRID, BLOCK)
    tokens, size = math.prod(GRID), math.prod(BLOCK)
    place = np.asarray(order.undo(np.arange(tokens), axis=0)).reshape(GRID)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(2, 2, 1.3), layout="constrained")
    colours = plt.get_cmap("tab10")
    for frame, panel in enumerate(axes[:2]):
        panel.imshow(colours(place[frame] // size), alpha=0.55)
        for (row, column), number in np.ndenumerate(place[frame]):
            panel.text(column, row, number, ha="center", va="center", fontsize=9)
        panel.set(title=f"frame {frame}", xticks=[], yticks=[])
    video = {"query_shape": GRID, "key_shape": GRID, "query_block": (1, 2, 2), "key_block": (1, 2, 2)}
    mask = block_mask(space_and_time, **video)
    axes[2].imshow(mask, cmap="Greys", vmax=1.6)
    axes[2].set(title="block-wise 2D+1D", xlabel="key block", ylabel="query block", xticks=[], yticks=[])
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
