"""Time of one training step of the transformer: `python -m benchmarks.train [--model 13b-layer] [--remat attention]`.

Flow matching of text to video, with AdamW, clipping and the average of the weights: the trainer's own step, on random
weights and latents. Prints a table and asserts nothing. FLOPs are those that a step cannot do without, so that what is
computed again lowers the utilisation. What a run waits for its data is in its metrics.jsonl.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.config import DiTConfig
from lcv_jax.data.batches import BatchKind
from lcv_jax.data.config import DataConfig
from lcv_jax.gpus.speeds import peak_flops
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.parallel.sharding import batch_sharding
from lcv_jax.toy.sizes import SIZES
from lcv_jax.training import networks
from lcv_jax.training.config import DevicesConfig, OptimizerConfig, TrainConfig
from lcv_jax.training.cost import tokens_and_flops
from lcv_jax.training.step import train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, on what."""

    network: DiTConfig
    grid: str
    batch: int
    dtype: str
    remat: str
    text_tokens: int


SETTINGS = {
    "toy": Setting(network=SIZES["small"].dit, grid="5x4x4", batch=32, dtype="float32", remat="none", text_tokens=32),
    # Of 480 x 832 x 93; two layers, so that what is not a layer counts little.
    "13b-layer": Setting(
        network=DiTConfig(depth=2), grid="24x30x52", batch=1, dtype="bfloat16", remat="attention", text_tokens=512
    ),
}


def main() -> None:
    """Times a step of each asked rematerialisation and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SETTINGS, default="toy")
    parser.add_argument("--grid", help="tokens: frames x rows x columns")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", nargs="+", choices=("full", "attention", "offload", "none"))
    parser.add_argument("--seq", type=int, default=1, help="devices that share the tokens of a sample")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    usual = SETTINGS[args.model]
    grid, batch, dtype = args.grid or usual.grid, args.batch or usual.batch, args.dtype or usual.dtype

    devices = jax.devices()
    peak = peak_flops(devices[0].device_kind)
    table = Table(title=f"{args.model}, {batch} x {grid}, {dtype}, {len(devices)} {devices[0].device_kind}")
    for heading in ("remat", "tokens", "first step, s", "step, s", "tokens/s", "TFLOP/s", "MFU"):
        table.add_column(heading, justify="right")
    for remat in args.remat or [usual.remat]:
        cfg = config(batch=batch, dtype=dtype, remat=remat, seq=args.seq)
        tokens, flops, first, step = time_step(cfg, usual, grid, args.repeats)
        rate = flops / step / 1e12
        share = "" if peak is None else f"{rate * 1e12 / (peak * len(devices)):.1%}"
        table.add_row(
            remat, f"{tokens:,}", f"{first:.1f}", f"{step:.3g}", f"{tokens / step:,.0f}", f"{rate:.3g}", share
        )
    rich.print(table)


def config(*, batch: int, dtype: str, remat: str, seq: int = 1) -> TrainConfig:
    """Full training from scratch; data and checkpoint are not used."""
    return TrainConfig(
        run=Path("unused"),
        checkpoint=Path("unused"),
        objective=FlowMatching(),
        data=DataConfig(path=Path("unused")),
        steps=1,
        batch_size=batch,
        from_scratch=True,
        dtype=dtype,
        remat=remat,
        optimizer=OptimizerConfig(learning_rate=1e-5),
        devices=DevicesConfig(seq=seq, sharding="full"),
    )


def time_step(cfg: TrainConfig, setting: Setting, grid: str, repeats: int) -> tuple[int, float, float, float]:
    """Tokens and FLOPs of a step, and seconds of the first one, compilation included, and of the fastest other one."""
    T, H, W = map(int, grid.split("x"))
    B, L, D = cfg.batch_size, setting.text_tokens, setting.network.caption_channels
    rng = np.random.default_rng(0)
    batch: dict[str, Any] = {
        "latents_BTHWC": rng.standard_normal((B, T, 2 * H, 2 * W, setting.network.in_channels), np.float32),
        "text_BLD": rng.standard_normal((B, L, D), np.float32),
        "text_mask_BL": np.ones((B, L), bool),
    }
    mesh = make_mesh(cfg.devices.data, cfg.devices.fsdp, cfg.devices.seq)
    batch = jax.device_put(batch, batch_sharding(mesh, B))
    kind = BatchKind("t2v", 0)
    with jax.set_mesh(mesh):
        learner = networks.learner_of(cfg, setting.network, mesh)
        start = networks.Start(cfg, learner)
        state, frozen = start.state(), start.frozen()
        tokens, flops = tokens_and_flops(learner, batch, kind)

        def step() -> None:
            nonlocal state
            state, measured = train_step(learner, state, frozen, batch, kind)
            jax.block_until_ready((state, measured))

        ((first, best),) = seconds_of(step, repeats=repeats)
    return tokens, flops, first, best


if __name__ == "__main__":
    main()
