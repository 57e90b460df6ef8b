"""The largest buffers of a compiled program, from the buffer assignment that XLA leaves when asked to dump."""

import dataclasses
import itertools
import re
from pathlib import Path

ALLOCATION = re.compile(r"^allocation \d+: size \d+.*$", re.MULTILINE)
VALUE = re.compile(r"^ value: <\d+ (\S+?)(?:\{[^}]*\})? @\d+> \(size=(\d+),offset=(\d+)\): (.*)$", re.MULTILINE)
HOST_MEMORY = ":S(5)"
MADE_BY = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buffer:
    """A piece of memory that a program uses, for one array after another."""

    num_bytes: int
    shape: str
    """Of the largest array that lies there."""
    made_by: str
    """The operation that makes that array, as the model names it."""


def largest_buffers(assignment: str, program: str, count: int = 5) -> list[Buffer]:
    """The largest pieces of temporary memory that do not overlap.

    Args:
        assignment: text of XLA's buffer assignment.
        program: text of the compiled program.
    """
    made_by = dict(MADE_BY.findall(program))
    taken: list[tuple[int, int]] = []
    found = []
    for name, size, offset, shape in sorted(_temporaries(assignment), key=lambda value: -value[1]):
        if all(offset + size <= start or offset >= end for start, end in taken):
            taken.append((offset, offset + size))
            bare = re.sub(r"\{[\d,]*\}$", "", shape)
            found.append(Buffer(num_bytes=size, shape=bare, made_by=short_name(made_by.get(name, name))))
        if len(found) == count:
            break
    return found


def read_assignment(folder: Path) -> str:
    """The buffer assignment among what XLA dumped; empty if there is none."""
    files = sorted(folder.glob("*buffer-assignment.txt"), key=lambda path: path.stat().st_size)
    return files[-1].read_text() if files else ""


def short_name(op_name: str) -> str:
    """An operation's name without the loops and wrappers that it stands in."""
    wrappers = r"jit\([^)]*\)|while|body|cond|closed_call|checkpoint|rematted_computation|shard_map"
    parts = [part for part in op_name.split("/") if not re.fullmatch(wrappers, part)]
    return "/".join(parts[-3:])


def _temporaries(assignment: str) -> list[tuple[str, int, int, str]]:
    """(instruction, size, offset, shape) of all values in the device's temporary memory."""
    starts = [found.start() for found in ALLOCATION.finditer(assignment)] + [len(assignment)]
    pieces = [assignment[start:end] for start, end in itertools.pairwise(starts)]
    return [
        (name, int(size), int(offset), shape)
        for piece in pieces
        if "preallocated-temp" in piece.split("\n", 1)[0]
        for name, size, offset, shape in VALUE.findall(piece)
        if HOST_MEMORY not in shape
    ]
