"""Time of one forward pass of the transformer: `python -m benchmarks.dit [--torch] [--model 13b] [--dtype bfloat16]`.

Prints a table and asserts nothing. Weights are random. `--torch` times the same network in PyTorch beside it
(torch_dit.py), in the same process and with as many threads, where it can be imported.
"""

import argparse
import math

import jax
import jax.numpy as jnp
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.models.dit import LongCatVideo

MODELS = {
    "small": DiTConfig(hidden_size=1024, depth=4, num_heads=8, caption_channels=1024, adaln_tembed_dim=256),
    "13b-layer": DiTConfig(depth=1),
    "13b": DiTConfig(),
}


def flop(cfg: DiTConfig, tokens: int, sparsity: float) -> float:
    """Multiplications and additions of the matrix products that grow with the tokens."""
    linear = cfg.depth * (6 * cfg.hidden_size**2 + 3 * cfg.hidden_size * cfg.ffn_dim)
    return 2 * tokens * linear + 4 * cfg.depth * cfg.hidden_size * tokens**2 * (1 - sparsity)


def main() -> None:
    """Times every asked grid of tokens and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--grids", nargs="+", default=["3x15x26", "6x30x52"], help="tokens: frames x rows x columns")
    parser.add_argument("--sparse", action="store_true", help="block-sparse attention: grids of multiples of 4")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torch", action="store_true", help="compare with PyTorch (dense attention only)")
    args = parser.parse_args()

    blocks = BlockSparseConfig()
    cfg = MODELS[args.model]
    sparse_cfg = DiTConfig.from_json({**cfg.to_json(), "enable_bsa": args.sparse, "bsa_params": blocks.to_json()})
    model = LongCatVideo(sparse_cfg, param_dtype=jnp.dtype(args.dtype))
    text, mask = jnp.ones((1, 512, cfg.caption_channels)), jnp.ones((1, 512), bool)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 2, 2, 16)), jnp.zeros((1, 1)), text, mask)
    forward = jax.jit(model.apply)

    table = Table(title=f"transformer {args.model}, {args.dtype}, {jax.devices()[0].device_kind}")
    for heading in (
        "grid",
        "tokens",
        "first call, s",
        "lcv_jax, s",
        "TFLOP/s",
        *(["PyTorch, s"] if args.torch else []),
    ):
        table.add_column(heading, justify="right")
    for name in args.grids:
        T, H, W = map(int, name.split("x"))
        tokens = math.prod((T, H, W))
        latents = jax.random.normal(jax.random.key(1), (1, T, 2 * H, 2 * W, 16))
        timesteps = jnp.full((1, T), 500.0)

        def run(x: jax.Array = latents, t: jax.Array = timesteps) -> object:
            return forward(params, x, t, text, mask).block_until_ready()

        runs = [run]
        if args.torch:
            from benchmarks.torch_dit import torch_runner

            runs.append(torch_runner(cfg, (T, H, W), args.dtype))
        (first, best), *other = seconds_of(*runs, repeats=args.repeats)
        rate = flop(cfg, tokens, blocks.sparsity if args.sparse else 0.0) / best / 1e12
        row = [
            name,
            str(tokens),
            f"{first:.2f}",
            f"{best:.3f}",
            f"{rate:.3f}",
            *(f"{theirs:.3f}" for _, theirs in other),
        ]
        table.add_row(*row)
    rich.print(table)


if __name__ == "__main__":
    main()
