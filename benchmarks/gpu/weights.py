"""Stage: a step with resident weights against the same step with streamed and with int8 weights."""

from collections.abc import Iterator
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from benchmarks.facts import reason
from benchmarks.gpu.arrays import random_arrays
from benchmarks.gpu.measuring import compile_here, peak_bytes, timed, with_steps
from benchmarks.gpu.parts import PARTS, programs
from lcv_jax.array_types import Array, Params
from lcv_jax.checkpoint.streamed import STACKS
from lcv_jax.models.quantize import quantize
from lcv_jax.models.streamed import ALIGNMENT, PackedLayers, fields_of, replace_stack, resting_place

PART = "step_480p"
STEPS = 2
"""Two, so that a streamed step begins with its first layer under way, as all but the first of a loop do."""


def rows(toy: bool) -> Iterator[dict[str, Any]]:
    """Rows of resident, streamed, int8, and streamed int8 weights, with their distance from the first one's result."""
    (program,) = programs(PARTS[PART], toy)
    arguments = random_arrays(with_steps(program, STEPS).arguments)
    expected = None
    for quantized in (False, True):
        if quantized:
            arguments = _with_params(arguments, jax.jit(quantize)(_params(arguments)))
        for streamed in (False, True):
            row: dict[str, Any] = {"part": PART, "weights": "int8" if quantized else "bfloat16", "streamed": streamed}
            try:
                given = _with_params(arguments, stream(_params(arguments))) if streamed else arguments
                how = {"weights": "stream"} if streamed else {}
                (program,) = programs(PARTS[PART], toy, quantized=quantized, **how)
                compiled = compile_here(with_steps(program, STEPS), given)
                (found, _), times = timed(compiled.call)
            except Exception as error:  # the other ways still count
                yield row | {"error": reason(error)}
                continue
            expected = found if expected is None else expected
            yield row | {
                **times,
                "seconds_per_step": times["seconds"] / STEPS,
                "compile_seconds": compiled.compile_seconds,
                "relative_difference": relative_difference(found, expected),
                "planned_bytes": compiled.planned_bytes,
                "peak_bytes_so_far": peak_bytes(),
            }


def stream(params: Params) -> Params:
    """The transformer's parameters with its layers in pinned host memory, from arrays on the device."""
    resting = resting_place()
    if resting is None:
        raise NotImplementedError(f"{jax.devices()[0].device_kind} has no pinned host memory")

    def packed(stack: Params) -> PackedLayers:
        return PackedLayers(jax.device_put(rows_of(stack), resting), fields_of(stack))

    return replace_stack(params, STACKS["dit"], packed)


@jax.jit
def rows_of(stack: Params) -> Array:
    """A row of bytes a layer, as models/streamed.py packs them, made one layer at a time: there is no second copy."""

    def row(layer: Params) -> Array:
        parts = []
        for _, leaf in sorted(flax.traverse_util.flatten_dict(layer).items()):
            bytes_N = jax.lax.bitcast_convert_type(leaf, jnp.uint8).reshape(-1)
            parts.append(jnp.pad(bytes_N, (0, -bytes_N.size % ALIGNMENT)))
        return jnp.concatenate(parts)

    return jax.lax.map(row, stack)


@jax.jit
def _norms(got: Array, expected: Array) -> tuple[Array, Array]:
    return jnp.linalg.norm(got.astype(jnp.float32) - expected), jnp.linalg.norm(expected.astype(jnp.float32))


def relative_difference(got: Array, expected: Array) -> float:
    """The norm of the difference by the norm of what is expected."""
    difference, size = _norms(got, expected)
    return float(difference / size)


def _params(arguments: tuple[Any, ...]) -> Params:
    return arguments[1]["params"]


def _with_params(arguments: tuple[Any, ...], params: Params) -> tuple[Any, ...]:
    return (arguments[0], {**arguments[1], "params": params}, *arguments[2:])
