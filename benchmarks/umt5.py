"""Time of the umT5 encoder: `python -m benchmarks.umt5 [--torch] [--dtype bfloat16] [--sizes small xxl]`.

Prints a table and asserts nothing. Weights are random and the depth is cut, so that it runs on a laptop: time grows
linearly with the number of layers, which the table states. `--torch` times transformers' UMT5EncoderModel beside it, in
the same process and with as many threads, where PyTorch can be imported.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.config import UMT5Config
from lcv_jax.models.umt5 import UMT5Encoder

SIZES = {
    "small": UMT5Config(vocab_size=1000, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6),
    "xxl": UMT5Config(vocab_size=1000, num_layers=2),
}


def jax_runner(cfg: UMT5Config, ids_BL: np.ndarray, mask_BL: np.ndarray, dtype: str) -> Callable[[], object]:
    """A compiled encoder with random weights."""
    model = UMT5Encoder(cfg, param_dtype=jnp.dtype(dtype))
    params = jax.jit(model.init)(jax.random.key(0), ids_BL, mask_BL)
    encode = jax.jit(model.apply)
    return lambda: encode(params, ids_BL, mask_BL).block_until_ready()


def torch_runner(cfg: UMT5Config, ids_BL: np.ndarray, mask_BL: np.ndarray, dtype: str) -> Callable[[], object]:
    """The same network in PyTorch, on the same kind of device."""
    import torch
    import transformers

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    published = transformers.UMT5Config(
        vocab_size=cfg.vocab_size, d_model=cfg.d_model, d_kv=cfg.d_kv, d_ff=cfg.d_ff, num_layers=cfg.num_layers,
        num_heads=cfg.num_heads, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    model = transformers.UMT5EncoderModel(published).eval().to(device, getattr(torch, dtype))
    ids, mask = torch.tensor(ids_BL, device=device), torch.tensor(mask_BL, device=device)

    @torch.inference_mode()
    def run() -> None:
        model(ids, mask)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Times every asked size and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, default=1, help="captions at once")
    parser.add_argument("--length", type=int, default=512, help="tokens of a caption, padding included")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torch", action="store_true", help="compare with transformers' UMT5EncoderModel")
    args = parser.parse_args()

    columns = {"lcv_jax": jax_runner} | ({"PyTorch": torch_runner} if args.torch else {})
    table = Table(title=f"umT5, {args.batch} x {args.length} tokens, {args.dtype}, {jax.devices()[0].device_kind}")
    for heading in ("size", "width", "layers", *(f"{name}, ms" for name in columns), "TFLOP/s"):
        table.add_column(heading, justify="right")
    ids_BL = np.random.default_rng(0).integers(2, 1000, (args.batch, args.length), dtype=np.int32)
    mask_BL = np.ones_like(ids_BL)
    for size in args.sizes:
        cfg = SIZES[size]
        runners = [make(cfg, ids_BL, mask_BL, args.dtype) for make in columns.values()]
        seconds = [best for _, best in seconds_of(*runners, repeats=args.repeats)]
        weights = cfg.num_layers * cfg.d_model * (4 * cfg.num_heads * cfg.d_kv + 3 * cfg.d_ff)
        scores = cfg.num_layers * 2 * args.length * cfg.num_heads * cfg.d_kv
        rate = 2 * ids_BL.size * (weights + scores) / seconds[0] / 1e12
        times = (f"{1000 * taken:.1f}" for taken in seconds)
        table.add_row(size, str(cfg.d_model), str(cfg.num_layers), *times, f"{rate:.2f}")
    rich.print(table)


if __name__ == "__main__":
    main()
