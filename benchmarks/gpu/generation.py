"""Stages: the parts of the report's Table 2, timed once warm at full size with random weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import jax

from benchmarks.facts import reason
from benchmarks.gpu.measuring import compile_here, measure, with_steps
from benchmarks.gpu.parts import PARTS, programs
from lcv_jax.gpus.speeds import peak_flops


def rows(toy: bool, *, parts: tuple[str, ...], steps: int = 1) -> Iterator[dict[str, Any]]:
    """A row for every program of the parts.

    Args:
        toy: at a size for a test.
        parts: names of PARTS, those that take the least memory first: of all in one process only the largest peak of
            memory is known.
        steps: of sampling loops.
    """
    peak = peak_flops(jax.devices()[0].device_kind)
    chosen = [
        (name, with_steps(program, steps))
        for name in (parts[:2] if toy else parts)
        for program in programs(PARTS[name], toy)
    ]
    # The autoencoder's programs compile for long. Nothing is timed meanwhile: the compiler tries kernels on the device.
    with ThreadPoolExecutor(len(chosen)) as pool:
        compiling = [pool.submit(compile_here, program) for _, program in chosen]
        wait(compiling)
    for (name, program), compiled in zip(chosen, compiling, strict=True):
        row: dict[str, Any] = {"part": name, "program": program.name, "steps": steps}
        try:
            row |= measure(compiled.result())
        except Exception as error:  # the other parts still count
            yield row | {"error": reason(error)}
            continue
        if program.sampling:
            flops = steps * program.sampling.flops.total / program.sampling.steps
            row |= {"teraflops": flops / row["seconds"] / 1e12, "evaluations": steps * program.sampling.batch}
            row["mfu"] = flops / row["seconds"] / peak if peak else None
        yield row
