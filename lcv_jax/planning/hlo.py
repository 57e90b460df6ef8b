"""Collectives in the text of a compiled program: which, how large, how often, and hidden behind what.

The text is of one device's program, scheduled: instructions stand in the order that they run in.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "ragged-all-to-all")
BITS = {"pred": 8, "token": 0, "opaque": 0}

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:body|calls|to_apply|called_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

COMPUTES = ("fusion", "custom-call", "while", "dot", "convolution", "call", "conditional", "reduce", "sort", "scatter")
"""What a collective can hide behind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """All collectives of one kind, group size and manner."""

    kind: str
    group_size: int
    asynchronous: bool
    """Started in one place and awaited in another, with something computed in between."""
    count: int
    """Of one run of the program, loops counted out."""
    sent_bytes: int
    """By one device in one run."""


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    shape: str
    rest: str


def collectives(text: str) -> list[Collective]:
    """Those of a program, most bytes first."""
    computations, entry = _computations(text)
    times = _times(computations, entry)
    found: dict[tuple[str, int, bool], list[int]] = {}
    for name, instructions in computations.items():
        for kind, group_size, hidden, sent in _of_computation(instructions):
            total = found.setdefault((kind, group_size, hidden), [0, 0])
            total[0] += times.get(name, 0)
            total[1] += times.get(name, 0) * sent
    made = [
        Collective(kind=kind, group_size=size, asynchronous=hidden, count=count, sent_bytes=sent)
        for (kind, size, hidden), (count, sent) in found.items()
        if count and size > 1
    ]
    return sorted(made, key=lambda collective: -collective.sent_bytes)


def shape_bytes(shape: str) -> int:
    """Of a shape such as bf16[2,3]{1,0}, or of all in a tuple."""
    total = 0
    for kind, sizes in SHAPE.findall(shape):
        digits = re.search(r"\d+", kind)
        bits = BITS.get(kind, int(digits.group()) if digits else 0)
        total += math.prod(int(size) for size in sizes.split(",") if size) * bits // 8
    return total


def sent_by_one(kind: str, result_bytes: int, group_size: int) -> int:
    """Bytes that a device sends, by algorithms that send the least."""
    others = group_size - 1
    if kind == "collective-permute":
        return result_bytes
    if kind == "reduce-scatter":
        return result_bytes * others
    return result_bytes * others * (2 if kind == "all-reduce" else 1) // group_size


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, instructions = "", []
    for line in text.splitlines():
        if header := HEADER.match(line):
            instructions = computations.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
        elif found := INSTRUCTION.match(line):
            opcode = OPCODE.search(found.group(2))
            if opcode:
                shape, rest = found.group(2)[: opcode.start(1)], found.group(2)[opcode.end() :]
                instructions.append(_Instruction(found.group(1), opcode.group(1), shape, rest))
    return computations, entry


def _times(computations: dict[str, list[_Instruction]], entry: str) -> dict[str, int]:
    """How often each computation runs in one run of the program; loops of unknown length count once."""
    times: dict[str, int] = {}

    def visit(name: str, count: int) -> None:
        times[name] = times.get(name, 0) + count
        for instruction in computations.get(name, ()):
            if instruction.opcode == "fusion" or instruction.opcode.endswith("-done"):
                continue
            trips = TRIPS.search(instruction.rest) if instruction.opcode == "while" else None
            for one, several in CALLED.findall(instruction.rest):
                for callee in [one] if one else re.findall(r"[\w.\-]+", several):
                    visit(callee, count * int(trips.group(1)) if trips else count)

    visit(entry, 1)
    return times


def _of_computation(instructions: list[_Instruction]) -> Iterable[tuple[str, int, bool, int]]:
    """(kind, group size, hidden, bytes sent) of each collective."""
    started: dict[str, tuple[int, _Instruction]] = {}
    for at, instruction in enumerate(instructions):
        kind = instruction.opcode.removesuffix("-start").removesuffix("-done")
        if kind not in KINDS:
            continue
        if instruction.opcode.endswith("-start"):
            started[instruction.name] = at, instruction
            continue
        begun, source = at, instruction
        if instruction.opcode.endswith("-done"):
            awaited = re.search(r"%?([\w.\-]+)\)", instruction.rest)
            if awaited is None or awaited.group(1) not in started:
                continue
            begun, source = started[awaited.group(1)]
        between = instructions[begun + 1 : at]
        hidden = '"is_sync":true' not in source.rest and any(other.opcode in COMPUTES for other in between)
        group_size = _group_size(source.rest)
        yield kind, group_size, hidden, sent_by_one(kind, shape_bytes(instruction.shape), group_size)


def _group_size(rest: str) -> int:
    """Devices of a group, in any of the ways that groups are written."""
    if "source_target_pairs=" in rest:
        return len(re.findall(r"\{\d+,\d+\}", rest.split("source_target_pairs=", 1)[1]))
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found.group(1).split(","))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found.group(2))
    if found := re.search(r"replica_groups=@?mesh[\w.]*\[([^\]]*)\](?:, device_ids=\([^)]*\))? \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found.group(2)) if axis in sizes)
    return 1
