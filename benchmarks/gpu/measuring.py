"""How a program of the planner is timed on the device that is here, and what memory it takes."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.gpu.arrays import random_arrays
from lcv_jax.array_types import PyTree
from lcv_jax.planning.requests import Program

LONG = 15.0
"""Seconds of a call that is not repeated: what a first call does beside its work hardly counts there."""
SCHEDULE = 6
"""Place of the schedule among the arguments of a sampling loop."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program and its arguments, on the device."""

    call: Callable[[], PyTree]
    compile_seconds: float
    planned_bytes: int | None
    """Arguments, outputs and temporary arrays as XLA assigns them: what the planner adds up."""


def with_steps(program: Program, steps: int) -> Program:
    """A sampling loop with so many steps; other programs stay."""
    if program.sampling is None:
        return program
    arguments = list(program.arguments)
    arguments[SCHEDULE] = jnp.linspace(0.9, 0.5, steps, dtype=jnp.float32)
    return dataclasses.replace(program, arguments=tuple(arguments))


def compile_here(program: Program, arguments: tuple[Any, ...] | None = None) -> Compiled:
    """Compiles for the default device.

    Args:
        program: whose function and options are taken.
        arguments: instead of random ones of the program's shapes.
    """
    given = random_arrays(program.arguments) if arguments is None else arguments
    start = time.perf_counter()
    compiled = program.function.trace(*given, **program.options).lower().compile()
    seconds = time.perf_counter() - start
    dynamic = tuple(x for x in given if not _is_static(x))
    options = {name: x for name, x in program.options.items() if not _is_static(x)}
    memory = compiled.memory_analysis()
    planned = None
    if memory is not None:
        planned = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        planned += memory.temp_size_in_bytes
    return Compiled(lambda: compiled(*dynamic, **options), seconds, planned)


def timed(call: Callable[[], PyTree]) -> tuple[PyTree, dict[str, Any]]:
    """The results, and a row: seconds until they are there, of the second call unless the first took long."""
    for warm in (False, True):
        start = time.perf_counter()
        result = jax.block_until_ready(call())
        taken = time.perf_counter() - start
        if warm or taken > LONG:
            return result, {"seconds": taken, "warm": warm}
        del result
    raise AssertionError


def measure(compiled: Compiled) -> dict[str, Any]:
    """A row of results: seconds of a call, memory planned and taken."""
    _, row = timed(compiled.call)
    return {
        **row,
        "compile_seconds": compiled.compile_seconds,
        "planned_bytes": compiled.planned_bytes,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int | None:
    """Most memory of the device that this process ever held; None: the backend does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def memory_limit() -> int | None:
    """Memory of the device that this process may hold; None: the backend does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def _is_static(x: Any) -> bool:
    return isinstance(x, (bool, int, str, nn.Module))
