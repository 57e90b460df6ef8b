"""Reconstruction, differences and divergence, restated in float64; a linear autoencoder learns a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.objectives.networks import AutoencoderNetworks

VIDEO = np.random.default_rng(0).integers(0, 256, size=(3, 5, 9, 12, 3), dtype=np.uint8)


def charbonnier(d, width):
    return np.sqrt(d**2 + width**2) - width


def test_restated():
    rng = np.random.default_rng(1)
    mean, logvar = rng.normal(size=(3, 2, 4, 4, 2)), rng.normal(size=(3, 2, 4, 4, 2))
    decoded = rng.normal(size=VIDEO.shape)
    objective = Autoencoder(kl_weight=0.01, difference_weight=0.5, num_scales=2, charbonnier_width=0.1)

    @jax.jit
    def run(batch):
        seen = []

        def encode(video):
            seen.append(video)
            return jnp.asarray(mean, jnp.float32), jnp.asarray(logvar, jnp.float32)

        def decode(latents):
            seen.append(latents)
            return jnp.asarray(decoded, jnp.float32)

        return objective(AutoencoderNetworks(encode, decode), batch, jax.random.key(0)), seen

    losses, seen = run({"video_BTHWC": VIDEO})

    video = VIDEO / 127.5 - 1
    np.testing.assert_allclose(seen[0], video, atol=1e-6)
    drawn = (np.asarray(seen[1], np.float64) - mean) / np.exp(logvar / 2)
    assert abs(drawn.mean()) < 0.3
    assert abs(drawn.std() - 1) < 0.2

    pixels, differences = [], []
    for scale in (1, 2):
        H, W = 9 // scale, 12 // scale
        small = [
            clip[:, :, : H * scale, : W * scale].reshape(3, 5, H, scale, W, scale, 3).mean(axis=(3, 5))
            for clip in (decoded, video)
        ]
        pixels.append(charbonnier(small[0] - small[1], 0.1).mean())
        for axis in (1, 2, 3):
            differences.append(charbonnier(np.diff(small[0], axis=axis) - np.diff(small[1], axis=axis), 0.1).mean())
    # KL of N(mean, exp(logvar)) from N(0, 1).
    kl = np.mean((np.exp(logvar) + mean**2 - 1 - logvar) / 2)
    want = np.mean(pixels) + 0.5 * np.mean(differences) + 0.01 * kl
    np.testing.assert_allclose(losses.loss, want, rtol=1e-5)
    np.testing.assert_allclose(losses.metrics["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(losses.error_B, np.mean((decoded - video) ** 2, axis=(1, 2, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(losses.metrics["psnr"], np.mean(10 * np.log10(4 / losses.error_B)), rtol=1e-5)


def test_a_perfect_autoencoder_has_no_loss(evaluate):
    """Exact, with latents that are a unit normal whatever the video."""
    video = jnp.asarray(VIDEO, jnp.float32) / 127.5 - 1
    networks = AutoencoderNetworks(lambda _: (jnp.zeros((3, 1, 2, 2, 4)),) * 2, lambda _: video)
    losses = evaluate(Autoencoder(num_scales=6), networks, {"video_BTHWC": VIDEO}, jax.random.key(0))
    assert float(losses.loss) < 1e-6
    image = AutoencoderNetworks(networks.encode, lambda _: video[:, :1])
    assert float(evaluate(Autoencoder(), image, {"video_BTHWC": VIDEO[:, :1]}, jax.random.key(0)).loss) < 1e-6


def test_latents_of_known_clips_stay():
    """Squared distance from the start's latents of the clips that are known; the others may move."""
    rng = np.random.default_rng(4)
    now, began = rng.normal(size=(2, 3, 2, 4, 4, 2)).astype(np.float32)
    zeros, video = jnp.zeros_like(now), jnp.asarray(VIDEO, jnp.float32) / 127.5 - 1
    networks = AutoencoderNetworks(lambda _: (now, zeros), lambda _: video, start=lambda _: (began, zeros))

    @functools.partial(jax.jit, static_argnums=0)
    def run(objective, keep_B):
        return objective(networks, {"video_BTHWC": VIDEO, "keep_B": keep_B}, jax.random.key(0))

    free = run(Autoencoder(), jnp.ones(3)).loss
    for keep in ((1.0, 0.0, 1.0), (0.0, 0.0, 0.0)):
        losses = run(Autoencoder(keep_weight=3.0), jnp.array(keep))
        moved = sum(np.mean((now[i] - began[i]) ** 2) for i in range(3) if keep[i]) / 3
        np.testing.assert_allclose(losses.metrics["moved"], moved, rtol=1e-5)
        np.testing.assert_allclose(losses.loss - free, 3 * moved, rtol=1e-4, atol=1e-6)
    assert Autoencoder(keep_weight=3.0).needs == {"teacher"}
    assert not Autoencoder().needs


def test_the_decoder_sees_latents_with_noise_of_another_deviation_for_each_clip():
    """Evenly spaced deviations below the most, in units of each channel's own."""
    seen = []

    def decode(latents):
        seen.append(np.asarray(latents))
        return jnp.zeros(VIDEO.shape)

    shape = (3, 2, 64, 64, 2)
    still = jnp.zeros(shape), jnp.full(shape, -60.0)
    networks = AutoencoderNetworks(lambda _: still, decode, std_C=jnp.array((1.0, 3.0)))
    for most in (0.0, 0.6):
        Autoencoder(latent_noise=most)(networks, {"video_BTHWC": VIDEO}, jax.random.key(0))
    assert np.abs(seen[0]).max() < 1e-9
    deviation_BC = seen[1].std(axis=(1, 2, 3))
    np.testing.assert_allclose(deviation_BC[:, 1], 3 * deviation_BC[:, 0], rtol=0.05)
    levels = np.sort(deviation_BC[:, 0])
    np.testing.assert_allclose(np.diff(levels), 0.2, atol=0.02)
    assert levels[-1] < 0.62


def test_a_blurred_edge_costs_more_than_its_pixels():
    """Two errors of one size, the one smooth, the other jumping between neighbours."""
    video = np.zeros((1, 4, 8, 8, 3), np.float32)
    smooth, jumping = np.full_like(video, 0.1), np.full_like(video, 0.1)
    jumping[:, :, :, ::2] *= -1
    reconstruction = jax.jit(Autoencoder().reconstruction)
    _, none = reconstruction(smooth, video)
    _, much = reconstruction(jumping, video)
    assert float(none[0]) < 1e-6
    assert float(much[0]) > 0.01


def test_overfits_a_batch():
    """Patches of 4 x 4 pixels to 48 latents and back, by two matrices."""
    video = np.random.default_rng(2).integers(0, 256, size=(2, 2, 2, 2, 3), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    objective = Autoencoder()
    rng = np.random.default_rng(3)
    params = {"in": rng.normal(size=(48, 16)) * 0.05, "out": rng.normal(size=(8, 48)) * 0.05}
    params = {name: value.astype(np.float32) for name, value in params.items()}
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 600))

    def loss(params, key):
        def encode(video):
            patches = video.reshape(2, 2, 2, 4, 2, 4, 3).swapaxes(3, 4).reshape(2, 2, 2, 2, 48)
            mean, logvar = jnp.split(patches @ params["in"], 2, axis=-1)
            return mean, logvar - 4

        def decode(latents):
            patches = (latents @ params["out"]).reshape(2, 2, 2, 2, 4, 4, 3)
            return patches.swapaxes(3, 4).reshape(2, 2, 8, 8, 3)

        losses = objective(AutoencoderNetworks(encode, decode), {"video_BTHWC": video}, key)
        return losses.loss, losses.metrics["psnr"]

    def step(carry, key):
        params, moments = carry
        measured, gradient = jax.value_and_grad(loss, has_aux=True)(params, key)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), measured

    keys = jax.random.split(jax.random.key(0), 600)
    _, (losses, psnr) = jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), keys))()
    assert losses[-20:].mean() < losses[0] / 10, (losses[0], losses[-20:].mean())
    assert psnr[-20:].mean() > 25


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kl_weight", -1.0, "kl_weight must be at least 0"),
        ("difference_weight", -1.0, "difference_weight must be at least 0"),
        ("num_scales", 0, "num_scales must lie in 1"),
        ("charbonnier_width", 0.0, "charbonnier_width must be above 0"),
        ("keep_weight", -1.0, "keep_weight must be at least 0"),
    ],
)
def test_bad_settings(field, value, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder(**{field: value})
