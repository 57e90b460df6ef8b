"""Moves a model of the procedural world onto another autoencoder: `python -m lcv_jax.toy.move WEIGHTS OTHER OUT`.

    python -m lcv_jax.toy.move sft_long/weights vae_whole/weights moved --clips clips/manifest.jsonl

Training on the latents of another autoencoder from random weights costs all of pretraining again. What the transformer
knows of captions and motion does not depend on them, so only its first and its last projection change: patches of the
new latents are turned into those of the old by least squares over clips, and the other way round. Training goes on from
there, on clips that are encoded with OUT. Adapters come along as they are, and are to be trained anew.

Channels of the new latents are scaled by how much they show: where all have the same variance, as principal components
have, a small error in the first is a flicker, and most of the loss is of details. `latents_std` of OUT says how.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from einops import rearrange

from lcv_jax.array_types import Float, Params
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.save import save_trained
from lcv_jax.checkpoint.workspace import check_free
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments
from lcv_jax.config import DiTConfig, VAEConfig
from lcv_jax.models.vae import WanVAE
from lcv_jax.sampling.denoise import decode_latents, encode_frames
from lcv_jax.toy.start import clips_of

NUM_SHOWN, NOISE = 8, 0.3
"""Clips in whose latents noise shows what a channel does, and the noise's deviation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Move a model of the procedural world onto another autoencoder."""

    weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="WEIGHTS")]
    """Converted folder of the model."""
    other: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OTHER")]
    """Converted folder of the autoencoder to move to."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The folder to write: it must not exist, or be empty."""
    clips: Path
    """Manifest of clips that both autoencoders encode, to compare their latents."""


def main(arguments: list[str] | None = None, prog: str = "python -m lcv_jax.toy.move") -> None:
    """Runs the command line; a user's mistake is one line and exit status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with mistakes_in_one_line():
        move(parse_arguments(Arguments, arguments, prog=prog))


def move(arguments: Arguments) -> None:
    """Writes the folder: the model with the other autoencoder.

    Raises:
        ValueError: a folder that is missing or damaged, OUT is there already, latents of other numbers of channels,
            or clips that are too short.
        OSError: a file that cannot be read or written.
    """
    check_free(arguments.out)
    cfg, params = store.load_component(arguments.weights, "dit", jnp.float32)
    vae_cfg, vae = store.load_component(arguments.other, "vae", jnp.float32)
    if vae_cfg.z_dim != cfg.in_channels:
        raise ValueError(
            f"{arguments.other} makes latents of {vae_cfg.z_dim} channels, the transformer of {arguments.weights} "
            f"takes {cfg.in_channels}"
        )
    clips_BTHWC = (clips_of(arguments.clips) + 1) / 2
    old_cfg, old_vae = store.load_component(arguments.weights, "vae", jnp.float32)
    old_NC = patches_of(encoded(old_cfg, old_vae, clips_BTHWC), cfg)
    even_BTHWC, even_cfg = encoded(vae_cfg, vae, clips_BTHWC), vae_cfg
    vae_cfg = scaled_channels(even_cfg, vae, even_BTHWC)
    scale_C = np.divide(even_cfg.latents_std, vae_cfg.latents_std).astype(np.float32)
    new_NC = patches_of(even_BTHWC * scale_C, cfg)
    params = jax.tree.map(np.array, params)
    kept = turn_projections(params, old_NC, new_NC)
    save_trained(
        arguments.weights,
        arguments.out,
        networks={"dit": params, "vae": vae},
        configs={"vae": vae_cfg},
        adapters={},
        made_by={"moved_to": str(arguments.other), "kept": kept},
    )
    print(f"wrote {arguments.out}: {kept:.0%} of what the old latents tell is told by the new ones")


def encoded(
    cfg: VAEConfig, params: Params, clips_BTHWC: Float[np.ndarray, "B T H W 3"]
) -> Float[np.ndarray, "B t h w C"]:
    """Normalised latents of clips in 0..1."""
    vae = WanVAE(cfg)
    return np.concatenate(
        [np.asarray(encode_frames(vae, params, jnp.asarray(clip[None]), None, "encode")) for clip in clips_BTHWC]
    )


def scaled_channels(cfg: VAEConfig, params: Params, latents_BTHWC: Float[np.ndarray, "B t h w C"]) -> VAEConfig:
    """The config with a `latents_std` by which channels vary as the square root of how much they show.

    That is half way between equal variances and what the pixels say. All of them together vary by 1 on average.
    """
    vae, few_BTHWC = WanVAE(cfg), latents_BTHWC[:NUM_SHOWN]
    shown_BTHWC = np.asarray(decode_latents(vae, params, jnp.asarray(few_BTHWC), "decode"))
    noise_BTHWC = NOISE * np.random.default_rng(0).standard_normal(few_BTHWC.shape, np.float32)
    shows_C = np.zeros(cfg.z_dim)
    for channel in range(cfg.z_dim):
        moved_BTHWC = few_BTHWC + noise_BTHWC * (np.arange(cfg.z_dim) == channel)
        changed_BTHWC = np.asarray(decode_latents(vae, params, jnp.asarray(moved_BTHWC, jnp.float32), "decode"))
        shows_C[channel] = np.sqrt(np.mean(np.square(changed_BTHWC - shown_BTHWC)))
    scale_C = np.sqrt(shows_C)
    scale_C /= np.sqrt(np.mean(np.square(scale_C) * np.square(latents_BTHWC).mean(axis=(0, 1, 2, 3))))
    return dataclasses.replace(cfg, latents_std=tuple((np.array(cfg.latents_std) / scale_C).tolist()))


def patches_of(latents_BTHWC: Float[np.ndarray, "B T H W C"], cfg: DiTConfig) -> Float[np.ndarray, "N P"]:
    """The transformer's patches of latents."""
    _, h, w = cfg.patch_size
    return rearrange(latents_BTHWC, "B T (H h) (W w) C -> (B T H W) (h w C)", h=h, w=w)


def turn_projections(params: Any, old_NC: Float[np.ndarray, "N C"], new_NC: Float[np.ndarray, "N C"]) -> float:
    """Changes the first and the last projection of a transformer, in place, from old patches to new ones.

    Velocities are latents less noise: on average they are as latents are, and turn as these do.

    Returns:
        The share of the old patches' variance that a linear map of the new ones explains.
    """
    into_old, into_old_bias = _least_squares(new_NC, old_NC)
    into_new, into_new_bias = _least_squares(old_NC, new_NC)
    first, last = params["x_embedder"]["proj"], params["final_layer"]["linear"]
    first["bias"] = first["bias"] + into_old_bias @ first["kernel"]
    first["kernel"] = into_old @ first["kernel"]
    last["bias"] = last["bias"] @ into_new + into_new_bias
    last["kernel"] = last["kernel"] @ into_new
    error = old_NC - (new_NC @ into_old + into_old_bias)
    return float(1 - error.var(axis=0).sum() / old_NC.var(axis=0).sum())


def _least_squares(x_NC: np.ndarray, y_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map and the bias with which x comes nearest to y."""
    x_mean, y_mean = x_NC.mean(axis=0), y_NC.mean(axis=0)
    turned = np.linalg.lstsq(x_NC - x_mean, y_NC - y_mean, rcond=None)[0]
    return turned, y_mean - x_mean @ turned


if __name__ == "__main__":
    main()
