"""What splitting over devices costs: `XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.context`.

Times the transformer and its gradient on one device and on all, with tokens split by each strategy. On a CPU the
devices share its cores, so that all that is more than one device's time is the machinery: copies, collectives, smaller
products. Prints a table and asserts nothing.
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.config import DiTConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.parallel.context import ContextParallel
from lcv_jax.parallel.mesh import make_mesh

CFG = DiTConfig(hidden_size=512, depth=4, num_heads=8, caption_channels=512, adaln_tembed_dim=128)


def main() -> None:
    """Times every strategy and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="8x16x16", help="tokens: frames x rows x columns")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    T, H, W = map(int, args.grid.split("x"))
    latents, timesteps = jnp.ones((1, T, 2 * H, 2 * W, 16)), jnp.full((1, T), 500.0)
    text, mask = jnp.ones((1, 64, CFG.caption_channels)), jnp.ones((1, 64), bool)
    params = jax.jit(LongCatVideo(CFG).init)(jax.random.key(0), latents[:, :1, :2, :2], timesteps[:, :1], text, mask)

    devices = jax.devices()
    table = Table(title=f"{T * H * W} tokens, 4 layers of width 512, float32, {len(devices)} {devices[0].device_kind}")
    for heading in ("devices", "strategy", "forward, s", "gradient, s", "gradient against one device"):
        table.add_column(heading, justify="right")
    one = None
    settings: list[tuple[int, Any]] = [(1, "ulysses"), *((len(devices), name) for name in ("ulysses", "ring"))]
    for count, strategy in settings:
        model = LongCatVideo(CFG, context=ContextParallel(strategy=strategy))
        with jax.set_mesh(make_mesh(seq=count, devices=devices[:count])):
            forward = jax.jit(model.apply)

            def loss(params: Any, model: LongCatVideo = model) -> jax.Array:
                return jnp.sum(model.apply(params, latents, timesteps, text, mask) ** 2)

            runs = (
                functools.partial(forward, params, latents, timesteps, text, mask),
                functools.partial(jax.jit(jax.grad(loss)), params),
            )
            times = seconds_of(*(lambda run=run: jax.block_until_ready(run()) for run in runs), repeats=args.repeats)
        one = one or times[1][1]
        table.add_row(
            str(count), strategy if count > 1 else "-", *(f"{t[1]:.2f}" for t in times), f"{times[1][1] / one:.2f}"
        )
    rich.print(table)


if __name__ == "__main__":
    main()
