"""Time of the video autoencoder: `python -m benchmarks.vae [--torch] [--dtype bfloat16] [--sizes 9x64x96] [--chunk 4]`.

Prints a table and asserts nothing. Weights are random, widths are the released ones. `--torch` times diffusers'
AutoencoderKLWan beside it, in the same process and with as many threads, where it can be imported.
"""

import argparse
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.config import VAEConfig
from lcv_jax.models.vae import WanVAE

CFG = VAEConfig(latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16)
Runner = Callable[[], object]


def clip_and_latents(size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels T x H x W and as many latents as they make."""
    frames, height, width = size
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (1, frames, height, width, CFG.in_channels)).astype(np.float32)
    latents = (1, 1 + (frames - 1) // CFG.temporal_factor, height // 8, width // 8, CFG.z_dim)
    return video, rng.standard_normal(latents, dtype=np.float32)


def jax_runners(size: tuple[int, int, int], dtype: str, chunk: int) -> tuple[Runner, Runner]:
    """Encode and decode, compiled."""
    vae = WanVAE(CFG, chunk=chunk, param_dtype=jnp.dtype(dtype))
    variables = jax.jit(vae.init)(jax.random.key(0), jnp.zeros((1, 1, 16, 16, CFG.in_channels)))
    video, latents = map(jnp.asarray, clip_and_latents(size))
    encode, decode = (jax.jit(lambda v, x, m=method: vae.apply(v, x, method=m)) for method in ("encode", "decode"))
    return (
        lambda: jax.block_until_ready(encode(variables, video)),
        lambda: jax.block_until_ready(decode(variables, latents)),
    )


def torch_runners(size: tuple[int, int, int], dtype: str) -> tuple[Runner, Runner]:
    """The same in PyTorch, on the same kind of device."""
    import torch
    from diffusers import AutoencoderKLWan

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    vae = AutoencoderKLWan().eval().to(device, getattr(torch, dtype))
    video, latents = (
        torch.from_numpy(np.moveaxis(x, -1, 1).copy()).to(device, getattr(torch, dtype)) for x in clip_and_latents(size)
    )

    def finished(run: Runner) -> Runner:
        @torch.inference_mode()
        def timed() -> None:
            run()
            if device == "cuda":
                torch.cuda.synchronize()

        return timed

    return finished(lambda: vae.encode(video)), finished(lambda: vae.decode(latents))


def main() -> None:
    """Times encode and decode at every asked size and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["5x64x96", "17x128x192"], help="frames x height x width")
    parser.add_argument("--chunk", type=int, default=1, help="latent frames at a time")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torch", action="store_true", help="compare with diffusers' AutoencoderKLWan")
    args = parser.parse_args()

    compare = args.torch and importlib.util.find_spec("diffusers") is not None
    if args.torch and not compare:
        rich.print("diffusers is not installed: nothing to compare with")
    table = Table(title=f"Wan2.1 VAE, {args.dtype}, {jax.devices()[0].device_kind}")
    for heading in ("size", "", "first call, s", "lcv_jax, s", *(["PyTorch, s"] if compare else [])):
        table.add_column(heading, justify="right")
    for name in args.sizes:
        frames, height, width = map(int, name.split("x"))
        ours = jax_runners((frames, height, width), args.dtype, args.chunk)
        both = [ours, torch_runners((frames, height, width), args.dtype)] if compare else [ours]
        for i, what in enumerate(("encode", "decode")):
            times = seconds_of(*(runners[i] for runners in both), repeats=args.repeats)
            table.add_row(name, what, f"{times[0][0]:.2f}", *(f"{best:.2f}" for _, best in times))
    rich.print(table)


if __name__ == "__main__":
    main()
