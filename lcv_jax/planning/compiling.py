"""A program compiled for GPUs that are only described, and what can be read from it."""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lcv_jax.array_types import PyTree
from lcv_jax.kernels.platform import compiling_for
from lcv_jax.models.flops import counted_flops
from lcv_jax.models.streamed import PINNED, PackedLayers
from lcv_jax.parallel.mesh import batch_axes
from lcv_jax.parallel.sharding import REPLICATED, Rules, loading_rule
from lcv_jax.planning.buffers import Buffer, largest_buffers, read_assignment
from lcv_jax.planning.hlo import Collective, collectives
from lcv_jax.planning.requests import Program


class InHostMemory(NamedSharding):
    """Pinned host memory next to a described device.

    Described devices list no memories, so that NamedSharding would drop `memory_kind`; this one keeps it.
    """

    @property
    def memory_kind(self) -> str:
        """Where the array lies."""
        return PINNED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InHostMemory) and (self.mesh, self.spec) == (other.mesh, other.spec)

    def __hash__(self) -> int:
        return hash((InHostMemory, self.mesh, self.spec))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Where arrays lie: on one device, or on a mesh."""

    devices: Sequence[jax.Device]
    per_host: int | None = None
    """Devices of a host; None: there is one host."""
    platform: str = "gpu"
    """As kernels/platform.py's `compiling_for` takes it."""
    mesh: Mesh | None = None
    rules: Rules = REPLICATED
    """Of the transformer's and the text encoder's parameters."""

    def place(self, tree: PyTree, component: str | None = None) -> PyTree:
        """Shapes with the sharding that they have on the machine; without a component they lie whole everywhere.

        Streamed layers lie in the host's memory.
        """

        def place(path: tuple[Any, ...], leaf: Any) -> Any:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                return leaf
            if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
                place = InHostMemory(Mesh(np.array(self.devices[:1]), ("x",)), PartitionSpec())
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding(component, path, leaf.shape))

        return jax.tree_util.tree_map_with_path(place, tree)

    def _sharding(self, component: str | None, path: tuple[Any, ...], shape: tuple[int, ...]) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(self.devices[0])
        if component is None:
            return NamedSharding(self.mesh, PartitionSpec())
        rule = loading_rule(self.mesh, REPLICATED if component == "vae" else self.rules)
        return rule(tuple(str(key.key) for key in path), shape)

    def bytes_each(self, tree: PyTree, component: str | None = None) -> int:
        """Of a tree of shapes, on one device; what rests in the host's memory is not counted."""
        placed = jax.tree.leaves(self.place(tree, component))
        return sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in placed
            if _is_shape(x) and not isinstance(x.sharding, InHostMemory)
        )

    def shares(self, program: Program) -> int:
        """Into how many parts a program's work is split."""
        if self.mesh is None:
            return 1
        if program.sampling:
            axes = (*batch_axes(self.mesh, program.sampling.batch), "seq")
            return math.prod(self.mesh.shape[axis] for axis in axes)
        return self.mesh.size if program.rows_split else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A compiled program: its memory on one device, and its work."""

    name: str
    times: int
    resident_bytes: dict[str, int]
    """Parameters in memory while it runs, by component."""
    argument_bytes: int
    """Arguments of the program as XLA counts them; parameters that it does not use are not among them."""
    input_bytes: int
    """Arguments beside parameters."""
    output_bytes: int
    temporary_bytes: int
    cache_bytes: int
    """Of the temporary ones, the condition's keys and values."""
    largest: list[Buffer]
    """Of the temporary ones."""
    collectives: list[Collective]
    flops: float
    """Of one run, all devices together."""
    flops_by_part: dict[str, float]
    shares: int
    """Into how many parts the work is split."""
    host_bytes: int = 0
    """Of parameters in the host's memory while it runs: streamed layers, and the text encoder if it is kept there."""
    fetched_bytes: int = 0
    """Copied from the host's memory in one run."""
    moved_bytes: int
    """Between a device and its memory in one run, at the least: parameters, caches, inputs, outputs."""

    @property
    def peak_bytes(self) -> int:
        """In memory while it runs, on one device."""
        return sum(self.resident_bytes.values()) + self.input_bytes + self.output_bytes + self.temporary_bytes

    @property
    def sent_bytes(self) -> int:
        """By one device in one run."""
        return sum(collective.sent_bytes for collective in self.collectives)

    @property
    def network_bytes(self) -> int:
        """Of these to other hosts."""
        return sum(collective.network_bytes for collective in self.collectives)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler made, and says about it."""

    text: str
    memory: Any
    """As JAX's memory_analysis() gives it."""
    largest: list[Buffer]
    jaxpr: Any


def compile_program(function: Any, arguments: Sequence[Any], options: dict[str, Any], machine: Machine) -> Compiled:
    """Compiles a jitted function for the machine, from shapes with their places.

    Raises:
        ValueError: it cannot be split so.
        jax.errors.JaxRuntimeError: the compiler refuses it.
    """
    on_mesh = contextlib.nullcontext() if machine.mesh is None else jax.set_mesh(machine.mesh)
    with compiling_for(machine.platform), on_mesh, _nothing_cached(), tempfile.TemporaryDirectory() as folder:
        traced = function.trace(*arguments, **options)
        compiled = traced.lower().compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        assignment = read_assignment(Path(folder))
    text, memory = compiled.as_text(), compiled.memory_analysis()
    if memory is None or text is None:
        raise ValueError("the compiler says nothing about memory: it needs the plugin of JAX 0.10.2 or later")
    return Compiled(text=text, memory=memory, largest=largest_buffers(assignment, text), jaxpr=traced.jaxpr)


def compile_stage(program: Program, machine: Machine) -> Stage:
    """Compiles a program for the machine, which takes seconds (the transformer) to minutes (the autoencoder).

    Raises:
        ValueError: it cannot be split so.
        jax.errors.JaxRuntimeError: the compiler refuses it.
    """
    compiled = compile_program(program.function, placed_arguments(program, machine), program.options, machine)
    memory = compiled.memory
    inputs = sum(
        machine.bytes_each(argument)
        for place, argument in enumerate(program.arguments)
        if not _is_parameters(place, argument, program)
    )
    # What is written over an argument, a stream's cache, takes no memory of its own.
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    resident = {name: machine.bytes_each(tree, name) for name, tree in program.resident.items()}
    whole = {name: _bytes(program.resident[name]) for name in program.own}
    in_host = {name: _streamed_bytes(tree) for name, tree in program.resident.items()}
    known = program.sampling
    rounds = known.steps if known else 1
    # A stream's cache is read at every step.
    carried = sum(machine.bytes_each(program.arguments[place]) for place in program.carried)
    cache_bytes = known.cache_bytes // _tokens_split(machine) if known else 0
    return Stage(
        name=program.name,
        times=program.times,
        resident_bytes=resident,
        argument_bytes=memory.argument_size_in_bytes,
        input_bytes=inputs,
        output_bytes=outputs,
        temporary_bytes=memory.temp_size_in_bytes,
        cache_bytes=cache_bytes,
        largest=compiled.largest,
        collectives=collectives(compiled.text, machine.per_host),
        flops=known.flops.total if known else counted_flops(compiled.jaxpr),
        flops_by_part=dataclasses.asdict(known.flops) if known else {},
        shares=machine.shares(program),
        host_bytes=host_bytes(program),
        fetched_bytes=rounds * sum(in_host[name] for name in program.own),
        moved_bytes=rounds * (sum(whole.values()) + cache_bytes + carried) + inputs - carried + outputs,
    )


@contextlib.contextmanager
def _nothing_cached() -> Iterator[None]:
    """Programs for devices that are not here can be put into JAX's cache but not taken out."""
    kept = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    try:
        _use_cache(False)
        yield
    finally:
        _use_cache(kept)


def _use_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # it looks at the setting once


def _is_parameters(place: int, argument: Any, program: Program) -> bool:
    return isinstance(argument, dict) and place not in program.carried


def placed_arguments(program: Program, machine: Machine) -> list[Any]:
    """Arguments with shardings; dicts are parameters, or a transformer's parameters beside adapters, or carried."""

    def place(number: int, argument: Any) -> Any:
        if not _is_parameters(number, argument, program):
            return machine.place(argument)
        if program.sampling:
            return {name: machine.place(tree, "dit") for name, tree in argument.items()}
        return machine.place(argument, program.own[0])

    return [place(number, argument) for number, argument in enumerate(program.arguments)]


def _tokens_split(machine: Machine) -> int:
    return 1 if machine.mesh is None else machine.mesh.shape["seq"]


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def host_bytes(program: Program) -> int:
    """Of parameters in the host's memory while a program runs: streamed layers, and what is kept there whole."""
    streamed = {name: _streamed_bytes(tree) for name, tree in program.resident.items()}
    return sum((streamed | {name: _bytes(tree) for name, tree in program.in_host.items()}).values())


def _streamed_bytes(tree: PyTree) -> int:
    """Of layers that rest in the host's memory."""
    found = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, PackedLayers))
    return sum(_bytes(leaf) for leaf in found if isinstance(leaf, PackedLayers))


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
