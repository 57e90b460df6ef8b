"""Orders of the tokens of a video, and the block order that block-sparse attention wants.

A token grid T x H x W is walked level by level: the first level is the outermost. One level is the plain order (frame,
row, column); two levels are blocks in (T, H, W) order and tokens in (T, H, W) order inside each; three levels nest the
smaller of two block sizes inside the larger, so that query blocks and key blocks are both contiguous in one order of
the tokens.

    plain order, 4 x 4            blocks of 2 x 2
     0  1  2  3                    0  1 |  4  5
     4  5  6  7                    2  3 |  6  7
     8  9 10 11                    ------+------
    12 13 14 15                    8  9 | 12 13
                                  10 11 | 14 15

Everything in the network but RoPE and the per-frame modulation is per token, so tokens are put into this order once, at
the model's entry (report section 3.4; the published code permutes in every layer).
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Int, Shaped

Shape3D = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class TokenOrder:
    """An order of the tokens of a grid; hashable, so it can be a static argument."""

    levels: tuple[Shape3D, ...]
    """(T, H, W) extents, outermost level first; their product along each axis is the grid."""

    @property
    def grid(self) -> Shape3D:
        t, h, w = (math.prod(extents) for extents in zip(*self.levels, strict=True))
        return t, h, w

    def apply(self, x: Shaped[Array, "*a"], axis: int = 1) -> Shaped[Array, "*a"]:
        """Tokens along `axis` from plain order into this order."""
        depth = len(self.levels)
        split = [level[dim] for dim in range(3) for level in self.levels]
        walk = [dim * depth + level for level in range(depth) for dim in range(3)]
        return _permute_axis(x, axis, split, walk)

    def undo(self, x: Shaped[Array, "*a"], axis: int = 1) -> Shaped[Array, "*a"]:
        """Tokens along `axis` from this order into plain order."""
        depth = len(self.levels)
        split = [extent for level in self.levels for extent in level]
        walk = [level * 3 + dim for dim in range(3) for level in range(depth)]
        return _permute_axis(x, axis, split, walk)

    def frames(self) -> Int[np.ndarray, " S"]:
        """The frame of every token."""
        frames = np.zeros(1, np.int32)
        for t, h, w in self.levels:
            frames = np.repeat((frames[:, None] * t + np.arange(t, dtype=np.int32)).reshape(-1), h * w)
        return frames

    def run_length(self) -> int:
        """Of how many tokens each the runs of one frame are."""
        return math.prod(self.levels[-1][1:])

    def frame_view(self, x_BSD: Shaped[Array, "B S D"]) -> Shaped[Array, "..."]:
        """Tokens with the axes of time apart, to be broadcast against `per_frame`; undo with a reshape."""
        split = [extent for t, h, w in self.levels for extent in (t, h * w)]
        return x_BSD.reshape(x_BSD.shape[0], *split, x_BSD.shape[-1])

    def per_frame(self, x_BTD: Shaped[Array, "B T D"]) -> Shaped[Array, "..."]:
        """One vector a frame, with axes that broadcast over the tokens of `frame_view`."""
        split = [extent for t, _, _ in self.levels for extent in (t, 1)]
        return x_BTD.reshape(x_BTD.shape[0], *split, x_BTD.shape[-1])


def _permute_axis(x: Array, axis: int, split: list[int], walk: list[int]) -> Array:
    axis %= x.ndim
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    lead = len(before)
    order = [*range(lead), *(lead + step for step in walk), *range(lead + len(split), lead + len(split) + len(after))]
    return jnp.transpose(x.reshape(*before, *split, *after), order).reshape(x.shape)


def plain_order(grid: Shape3D) -> TokenOrder:
    """Frame by frame, row by row."""
    return TokenOrder((grid,))


def block_order(grid: Shape3D, *blocks: Shape3D) -> TokenOrder:
    """The order in which the tokens of each block are contiguous, for one block size or several that nest.

    Raises:
        ValueError: the grid is not a multiple of a block, or no block size tiles the other.
    """
    levels: list[Shape3D] = []
    rest = grid
    for block in sorted(set(blocks), key=math.prod, reverse=True):
        if any(extent % side for extent, side in zip(rest, block, strict=True)):
            wanted = "a multiple of the block" if rest == grid else f"a multiple of the smaller block, got {rest} and"
            raise ValueError(f"block order of a {_by(grid)} token grid: every axis must be {wanted} {_by(block)}")
        levels.append((rest[0] // block[0], rest[1] // block[1], rest[2] // block[2]))
        rest = block
    return TokenOrder((*levels, rest))


def _by(shape: Shape3D) -> str:
    return " x ".join(map(str, shape))
