"""Stage: the attention kernels on the device, each implementation against float32.

The reference is kernels/reference.py with its gradients, in float32. In bfloat16 a kernel may be at most twice as far
from it as plain XLA is in the same dtype, in float32 at most BOUND. Every kernel must give the same bits twice.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.facts import reason
from lcv_jax.array_types import Array
from lcv_jax.kernels import reference
from lcv_jax.kernels.attention import attention, selected_attention_with_lse
from lcv_jax.kernels.block_select import choose_blocks, selection_of_mask

BOUND = 1e-4
"""Of float32, for arrays of normal numbers."""
NAMES = ("out", "dq", "dk", "dv")


@dataclasses.dataclass(frozen=True)
class Case:
    """Random attention; blocks of one mean dense."""

    num_blocks: tuple[int, int]
    blocks: tuple[int, int]
    width: int

    @property
    def is_dense(self) -> bool:
        return self.blocks == (1, 1)

    @property
    def tokens(self) -> tuple[int, int]:
        """Of queries and of keys."""
        queries, keys = (count * block for count, block in zip(self.num_blocks, self.blocks, strict=True))
        return queries, keys

    def mask(self) -> np.ndarray:
        """About 40 % of the pairs; one row is empty, one full."""
        mask = np.random.default_rng(0).random((2, 2, *self.num_blocks)) < 0.4
        mask[0, 0, 0], mask[-1, -1, -1] = True, False
        return mask

    def arrays(self, dtype: Any) -> tuple[Array, ...]:
        """Queries, keys, values and the output's gradient."""
        S, M = self.tokens
        keys = jax.random.split(jax.random.key(0), 4)
        shapes = [(2, length, 2, self.width) for length in (S, M, M, S)]
        return tuple(jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))

    def attend(self, implementation: str) -> Callable[..., Array]:
        """Of queries, keys and values."""
        if self.is_dense:
            return functools.partial(attention, implementation=implementation)
        selection = selection_of_mask(self.mask())

        def sparse(q: Array, k: Array, v: Array) -> Array:
            X, Y = self.blocks
            given = {"block_q": X, "block_k": Y, "implementation": implementation}
            return selected_attention_with_lse(q, k, v, selection, **given)[0]

        return sparse

    def define(self, q: Array, k: Array, v: Array) -> Array:
        """The same by its definition."""
        if self.is_dense:
            return reference.attention(q, k, v)
        return reference.block_sparse_attention(q, k, v, jnp.asarray(self.mask()))


SPARSE = (
    Case((6, 9), (64, 64), 128),
    Case((4, 3), (64, 128), 64),
    Case((3, 5), (24, 40), 48),
    Case((3, 6), (128, 64), 128),
)
DENSE = (Case((320, 448), (1, 1), 128), Case((100, 76), (1, 1), 64))
SPARSE_BY, DENSE_BY = ("pallas_triton", "jax_triton", "pallas_mosaic_gpu"), ("cudnn", "pallas_triton")
BOTH = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32))
TOY = ((BOTH[0], Case((2, 3), (16, 16), 16)), (BOTH[1], Case((20, 12), (1, 1), 16)))


def rows(toy: bool) -> Iterator[dict[str, Any]]:
    """A row for every case, dtype and implementation, and one for the choice of blocks."""
    yield _selection(toy)
    for dtype, case in TOY if toy else itertools.product(BOTH, (*SPARSE, *DENSE)):
        with jax.default_matmul_precision("highest"):
            expected = _results(case.define, case.arrays(dtype), jnp.float32)
        plain = errors(_results(case.attend("xla"), case.arrays(dtype)), expected)
        by = DENSE_BY if case.is_dense else SPARSE_BY
        for implementation in ("pallas_interpret",) if toy else by:
            row = {**dataclasses.asdict(case), "dtype": dtype.name, "implementation": implementation}
            try:
                yield row | _compared(case, implementation, dtype, expected, plain)
            except NotImplementedError as error:
                yield row | {"note": str(error)}
            except ImportError as error:
                yield row | {"note": reason(error)}
            except Exception as error:  # the other cases still count
                yield row | {"error": reason(error)}


def _compared(
    case: Case, implementation: str, dtype: Any, expected: dict[str, np.ndarray], plain: dict[str, float]
) -> dict[str, Any]:
    first, second = (_results(case.attend(implementation), case.arrays(dtype)) for _ in range(2))
    found = errors(first, expected)
    allowed = {name: BOUND if dtype == jnp.float32 else 2 * plain[name] + 1e-6 for name in NAMES}
    same_bits = all(np.array_equal(first[name], second[name]) for name in NAMES)
    # cuDNN's backward pass adds up in an order of its own.
    passed = all(found[name] <= allowed[name] for name in NAMES) and (same_bits or implementation == "cudnn")
    result = {"errors": found, "allowed": allowed, "same_bits_twice": same_bits, "passed": passed}
    return result if passed else result | {"error": "further from float32 than allowed, or other bits the second time"}


def _results(attend: Callable[..., Array], arrays: tuple[Array, ...], dtype: Any = None) -> dict[str, np.ndarray]:
    """Output and gradients, computed in another dtype if one is given."""

    @jax.jit
    def compute(*arrays: Array) -> tuple[Array, ...]:
        q, k, v, d_out = (x if dtype is None else x.astype(dtype) for x in arrays)
        out, pull_back = jax.vjp(attend, q, k, v)
        return out, *pull_back(d_out)

    return {name: np.asarray(x.astype(jnp.float32)) for name, x in zip(NAMES, compute(*arrays), strict=True)}


def errors(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest of each result; NaN counts as infinite."""
    return {name: float(np.nan_to_num(np.abs(got[name] - expected[name]), nan=np.inf).max()) for name in expected}


def _selection(toy: bool) -> dict[str, Any]:
    """Whether the kernel chooses the blocks that plain XLA chooses, of scores with many ties."""
    num_keys, top = (24, 3) if toy else (1320, 82)
    score = jnp.round(jax.random.normal(jax.random.key(2), (1, 2, 96, num_keys)) * 8) / 8
    implementation = "pallas_interpret" if toy else "pallas_triton"
    row = {"selection": [num_keys, top], "implementation": implementation}
    try:
        lists = [
            jax.jit(functools.partial(choose_blocks, top=top, implementation=name))(score)
            for name in ("xla", implementation)
        ]
        same = all(np.array_equal(x, y) for x, y in zip(*lists, strict=True))
        return row | {"passed": same} | ({} if same else {"error": "other blocks than plain XLA chooses"})
    except Exception as error:
        return row | {"error": reason(error)}
