"""Stage: a training step at 480 x 832 x 93 with few layers and with as many as fit, and utilisation by layer.

Embeddings, the final layer and the optimizer of a model of two layers weigh more than in one of 48, so that the time of
a layer is the difference between two depths.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.facts import reason
from benchmarks.gpu.measuring import memory_limit, peak_bytes
from benchmarks.train import SETTINGS, Setting, config, time_step
from lcv_jax.config import DiTConfig
from lcv_jax.gpus.speeds import peak_flops
from lcv_jax.toy.sizes import SIZES

FEW = (2, 4)
"""Layers of the first two rows: from their memory follows how many fit."""
KEPT_FREE = 0.94
"""Share of the memory that is planned for."""
REMAT = "attention"


def rows(toy: bool) -> Iterator[dict[str, Any]]:
    """A row for every depth."""
    setting = SETTINGS["13b-layer"]
    if toy:
        setting = Setting(network=SIZES["tiny"].dit, grid="2x4x4", batch=1, dtype="float32", remat=REMAT, text_tokens=8)
    found: list[dict[str, Any]] = []
    for depth in FEW[:1] if toy else FEW:
        found.append(_row(setting, depth))
        yield _with_layer(found)
    if not toy and (most := layers_that_fit(found, DiTConfig().depth)) > FEW[-1]:
        try:
            found.append(_row(setting, most))
        except Exception as error:  # the first two still count
            yield {"depth": most, "error": reason(error)}
            return
        yield _with_layer(found)


def _row(setting: Setting, depth: int) -> dict[str, Any]:
    setting = dataclasses.replace(setting, network=dataclasses.replace(setting.network, depth=depth))
    cfg = config(batch=setting.batch, dtype=setting.dtype, remat=setting.remat)
    tokens, flops, first, step = time_step(cfg, setting, setting.grid, repeats=2)
    peak = peak_flops(jax.devices()[0].device_kind)
    return {
        "depth": depth,
        "tokens": tokens,
        "remat": setting.remat,
        "first_seconds": first,
        "seconds": step,
        "flops": flops,
        "mfu": flops / step / peak if peak else None,
        "peak_bytes": peak_bytes(),
    }


def _with_layer(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The last row, with a layer's time and utilisation where there are two depths."""
    *before, last = found
    if not before:
        return last
    first, peak = found[0], peak_flops(jax.devices()[0].device_kind)
    layers = last["depth"] - first["depth"]
    seconds, flops = (last[name] - first[name] for name in ("seconds", "flops"))
    mfu = flops / seconds / peak if peak and seconds > 0 else None
    return last | {"seconds_per_layer": seconds / layers, "mfu_of_layers": mfu}


def layers_that_fit(found: list[dict[str, Any]], most: int) -> int:
    """How many layers the device holds, by the peaks of two depths; 0 where it does not say."""
    limit, (first, second) = memory_limit(), found[:2]
    if limit is None or first["peak_bytes"] is None or second["peak_bytes"] <= first["peak_bytes"]:
        return 0
    each = (second["peak_bytes"] - first["peak_bytes"]) / (second["depth"] - first["depth"])
    return min(most, math.floor(first["depth"] + (KEPT_FREE * limit - first["peak_bytes"]) / each))
