"""Collectives in the text of a compiled program: which, how large, how often, and hidden behind what.

The text is of one device's program, scheduled: instructions stand in the order that they run in.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter", "ragged-all-to-all")
BITS = {"pred": 8, "token": 0, "opaque": 0}

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
CALLED = re.compile(r"(?:body|calls|to_apply|called_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
MESH_GROUPS = re.compile(
    r"replica_groups=@?mesh[\w.]*\[([^\]]*)\](?:, device_ids=\(((?:\[[\d,]+\](?:T\([\d,]+\))?)?[\d,]*)\))? \{([^}]*)\}"
)
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
    network_bytes: int = 0
    """Of these to other hosts, at the least and in the group that sends the most."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program's text."""

    name: str
    opcode: str
    shape: str
    rest: str
    """Operands and attributes, behind the opening parenthesis."""


def collectives(text: str, per_host: int | None = None) -> list[Collective]:
    """Those of a program, most bytes first.

    Args:
        text: of the compiled program.
        per_host: devices of a host, which are numbered host by host; None: there is one host.
    """
    computations, entry = computations_of(text)
    times = _times(computations, entry)
    found: dict[tuple[str, int, bool], list[int]] = {}
    for name, instructions in computations.items():
        for kind, groups, hidden, result_bytes in _of_computation(instructions):
            size = len(groups) if kind == "collective-permute" else len(groups[0])
            total = found.setdefault((kind, size, hidden), [0, 0, 0])
            total[0] += times.get(name, 0)
            total[1] += times.get(name, 0) * sent_by_one(kind, result_bytes, size)
            if per_host:
                across = max(sent_to_other_hosts(kind, result_bytes, group, per_host) for group in groups)
                total[2] += times.get(name, 0) * across
    made = [
        Collective(kind=kind, group_size=size, asynchronous=hidden, count=count, sent_bytes=sent, network_bytes=across)
        for (kind, size, hidden), (count, sent, across) in found.items()
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


def sent_to_other_hosts(kind: str, result_bytes: int, group: Sequence[int], per_host: int) -> int:
    """Bytes that a device sends over the network, where hosts first do among themselves what they can.

    Args:
        group: devices of the collective, or of a permutation the one that sends and the one that receives.
    """
    members = collections.Counter(device // per_host for device in group)
    size, hosts, own = len(group), len(members), min(members.values())
    if hosts == 1:
        return 0
    if kind == "collective-permute":
        return result_bytes
    if kind == "all-gather":  # a host needs what others have once, and shares it
        return result_bytes * (size - own) // size // own
    if kind == "reduce-scatter":  # sums over a host, of what belongs to others
        return result_bytes * (size - own) // own
    if kind == "all-reduce":
        return 2 * result_bytes * (hosts - 1) // hosts // own
    return result_bytes * (size - own) // size


def computations_of(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation, and the name of the one that is the program's entry."""
    computations: dict[str, list[Instruction]] = {}
    entry, instructions = "", []
    for line in text.splitlines():
        if header := HEADER.match(line):
            instructions = computations.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
        elif found := INSTRUCTION.match(line):
            opcode = OPCODE.search(found.group(2))
            if opcode:
                shape, rest = found.group(2)[: opcode.start(1)], found.group(2)[opcode.end() :]
                instructions.append(Instruction(found.group(1), opcode.group(1), shape, rest))
    return computations, entry


def _times(computations: dict[str, list[Instruction]], entry: str) -> dict[str, int]:
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


def _of_computation(instructions: list[Instruction]) -> Iterable[tuple[str, list[list[int]], bool, int]]:
    """(kind, groups, hidden, bytes of the result) of each collective."""
    started: dict[str, tuple[int, Instruction]] = {}
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
        yield kind, _groups(source.rest), hidden, shape_bytes(instruction.shape)


def _groups(rest: str) -> list[list[int]]:
    """Devices of each group, in any of the ways that groups are written; of a permutation the pairs."""
    if found := re.search(r"(?:source_target_pairs|replica_groups)=\{(\{[\d,{}]*\})\}", rest):
        return [[int(device) for device in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found.group(1))]
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, extents, order = ([int(x) for x in part.split(",")] if part else None for part in found.groups())
        devices = np.arange(math.prod(extents or ())).reshape(extents or ())
        return devices.transpose(order).reshape(shape or ()).tolist()
    if found := MESH_GROUPS.search(rest):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", found.group(1))}
        devices = _listed(found.group(2) or "", math.prod(sizes.values())).reshape(tuple(sizes.values()))
        of_group = [axis for axis in re.findall(r"'(\w+)'", found.group(3)) if axis in sizes]
        order = [place for place, axis in enumerate(sizes) if axis not in of_group]
        order += [list(sizes).index(axis) for axis in of_group]
        return devices.transpose(order).reshape(-1, math.prod(sizes[axis] for axis in of_group)).tolist()
    return [[0]]


def _listed(listed: str, count: int) -> np.ndarray:
    """Devices as they are listed: 3,2,1,0; or [2,2]T(1,0), those from 0 on in that shape, transposed; or all."""
    if found := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", listed):
        extents, order = ([int(x) for x in part.split(",")] if part else None for part in found.groups())
        return np.arange(count).reshape(extents or ()).transpose(order)
    return np.array([int(device) for device in listed.split(",")] if listed else range(count))
