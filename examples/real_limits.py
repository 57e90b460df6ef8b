"""What keeps an autoencoder from real clips: what its decoder makes of the best latents, what principal components do.

    python examples/real_limits.py CHECKPOINT outputs/real/train.jsonl outputs/real/test.jsonl

Latents of the first test clips are found by gradient descent, beginning with the encoder's: what is gained is what the
encoder misses. The components are those of the training clips' pieces of 4 x 8 x 8 pixels, as many as a latent has
channels: the best that a linear code can do.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lcv_jax.array_types import Array, Params
from lcv_jax.data.manifest import read_manifest
from lcv_jax.data.media_reader import read_video
from lcv_jax.models.vae import WanVAE
from lcv_jax.pipeline import load_pipeline

CLIPS, SIDE, STEPS = 6, 32, 150
"""Clips whose latents are searched for, their corner's side in pixels, and steps of Adam."""
TRAINED_ON, MOST_PIECES = 800, 20_000
"""Clips and pieces that the components are of."""


def main(checkpoint: Path, train: Path, test: Path) -> None:
    """Prints the three means over clips, in decibels."""
    pipeline = load_pipeline(checkpoint)
    vae, params = pipeline.vae, pipeline.params("vae")
    clips_BTHWC = np.stack([clip[:, :SIDE, :SIDE] for clip in clips_of(test, CLIPS)])
    encoded, best = decibels_of_latents(vae, params, jnp.asarray(clips_BTHWC, jnp.float32) / 127.5 - 1)
    print(f"encoded and decoded: {encoded.mean():.1f} dB: {np.round(encoded, 1)}")
    print(f"the decoder of the best latents: {best.mean():.1f} dB: {np.round(best, 1)}")
    linear = decibels_of_components(clips_of(train, TRAINED_ON), clips_of(test), vae.cfg.z_dim)
    print(f"{vae.cfg.z_dim} principal components, all frames of all clips but their first: {linear.mean():.1f} dB")


def clips_of(manifest: Path, count: int | None = None) -> list[np.ndarray]:
    """Frames of the first clips, uint8, THWC."""
    return [read_video(entry.path)[0] for entry in list(read_manifest(manifest))[:count]]


def decibels_of_latents(vae: WanVAE, params: Params, video_BTHWC: Array) -> tuple[np.ndarray, np.ndarray]:
    """Of each clip with the encoder's latents, and with those that the search ends at."""

    @jax.jit
    def errors_of(latents_BTHWC: Array) -> Array:
        decoded_BTHWC = vae.apply({"params": params}, latents_BTHWC, method="decode_unclipped")
        return jnp.mean(jnp.square(decoded_BTHWC - video_BTHWC), axis=(1, 2, 3, 4))

    adam = optax.adam(optax.cosine_decay_schedule(0.1, STEPS, 0.05))

    @jax.jit
    def search(start_BTHWC: Array) -> Array:
        def step(_: Array, carry: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
            latents_BTHWC, moments = carry
            updates, moments = adam.update(jax.grad(lambda x: jnp.sum(errors_of(x)))(latents_BTHWC), moments)
            return optax.apply_updates(latents_BTHWC, updates), moments

        return jax.lax.fori_loop(0, STEPS, step, (start_BTHWC, adam.init(start_BTHWC)))[0]

    encoded_BTHWC, _ = jax.jit(lambda x: vae.apply({"params": params}, x, method="encode"))(video_BTHWC)
    return decibels(errors_of(encoded_BTHWC)), decibels(errors_of(search(encoded_BTHWC)))


def decibels_of_components(train: list[np.ndarray], test: list[np.ndarray], count: int) -> np.ndarray:
    """Of each test clip as a mean piece and `count` components of the training clips' pieces."""
    pieces_NP = np.concatenate([pieces_of(clip) for clip in train])
    mean_P = pieces_NP.mean(axis=0)
    chosen = np.random.default_rng(0).permutation(len(pieces_NP))[:MOST_PIECES]
    basis_KP = np.linalg.svd(pieces_NP[chosen] - mean_P, full_matrices=False)[2][:count]
    errors = []
    for clip in test:
        true_NP = pieces_of(clip)
        coded_NP = (true_NP - mean_P) @ basis_KP.T @ basis_KP + mean_P
        errors.append(np.mean(np.square(np.clip(coded_NP, -1, 1) - true_NP)))
    return decibels(np.array(errors))


def pieces_of(clip_THWC: np.ndarray) -> np.ndarray:
    """4 x 8 x 8 pixels a row, in -1..1, without the first frame, which has latents of its own."""
    video_THWC = clip_THWC[1:].astype(np.float32) / 127.5 - 1
    T, H, W, C = video_THWC.shape
    return (
        video_THWC.reshape(T // 4, 4, H // 8, 8, W // 8, 8, C).transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, 4 * 8 * 8 * C)
    )


def decibels(error: Array) -> np.ndarray:
    """Of mean squared errors of values in -1..1."""
    return 10 * np.log10(4 / np.asarray(error))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
