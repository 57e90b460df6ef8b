"""The legend of dimension letters, and the array types that annotations use.

Names of arrays end in their dimensions: `x_BSD` is batch, video tokens, width. A file may add letters, never redefine
these:

    B  batch                      N  heads                    G  group
    T H W  the array's own grid   K  head width               I J  query blocks, key blocks
    S  video tokens (T*H*W)       F  feed-forward width       X Y  tokens of a query block, of a key block
    M  keys that are not S        C  channels                 R  LoRA rank
    L  text tokens                E  timestep embedding       P  depth (the scanned layer axis)
    D  model width

Arrays of pixels and latents are channels last, `B T H W C`, everywhere.
"""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Int8, PRNGKeyArray, PyTree, Shaped, UInt8

if TYPE_CHECKING:
    Array = jax.Array
else:
    Array = jax.Array | np.ndarray  # what a caller may hand in; inside it is always jax's

__all__ = [
    "Array",
    "Bool",
    "DTypeLike",
    "Float",
    "Int",
    "Int8",
    "PRNGKeyArray",
    "Params",
    "PyTree",
    "Shaped",
    "UInt8",
]

Params = dict  # a nested dict of arrays: one model's parameters, an adapter, a cache
