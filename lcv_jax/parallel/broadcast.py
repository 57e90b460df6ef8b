"""What the first process decides and reads, known to all: so that all of them run the same programs.

Only process 0 looks at files beside the checkpoint and writes any. Processes on other machines may see no such files,
or other ones, and one that went another way would wait in a collective that nobody else runs.
"""

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")

PIECE_BYTES = 1 << 26
"""Sent at a time: every device holds a few copies of a piece."""
ERRORS = (ValueError, OSError, ImportError, NotImplementedError)
"""What a user can cause."""


def is_first() -> bool:
    """Whether this is process 0, or the only one."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in process 0, the only one that calls it; all processes must come here, in the same order.

    What it gives is pickled. It must run nothing over the mesh, for the others wait.

    Raises:
        ValueError, OSError, ImportError, NotImplementedError: it did, on every process with the same message.
    """
    if jax.process_count() == 1:
        return make()
    value: Any = None
    failed: Exception | None = None
    if is_first():
        try:
            value = make()
        except ERRORS as error:
            failed = error
    kind = None if failed is None else next(kind for kind in ERRORS if isinstance(failed, kind))
    told = _broadcast(pickle.dumps((kind, str(failed), value)) if is_first() else b"")
    if is_first():
        if failed is not None:
            raise failed
        return value
    kind, message, value = pickle.loads(told)
    if kind is not None:
        raise kind(message)
    return value


def gather(message: bytes) -> list[bytes]:
    """The messages of all processes, in their order; all processes must come here, in the same order."""
    if jax.process_count() == 1:
        return [message]
    lengths = multihost_utils.process_allgather(np.int32(len(message)))
    padded = np.frombuffer(message.ljust(max(1, int(lengths.max()))), np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row.tobytes()[:length] for row, length in zip(rows, lengths, strict=True)]


def _broadcast(message: bytes) -> bytes:
    """Process 0's message."""
    high, low = multihost_utils.broadcast_one_to_all(np.array(divmod(len(message), PIECE_BYTES), np.int32))
    length, pieces = int(high) * PIECE_BYTES + int(low), []
    for start in range(0, length, PIECE_BYTES):
        size = min(PIECE_BYTES, length - start)
        piece = np.zeros(1 << (size - 1).bit_length(), np.uint8)  # few sizes, as each is a program
        if is_first():
            piece[:size] = np.frombuffer(message, np.uint8, size, start)
        pieces.append(np.asarray(multihost_utils.broadcast_one_to_all(piece))[:size].tobytes())
    return b"".join(pieces)
