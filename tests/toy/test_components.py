"""Autoencoders that begin with principal components of clips."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.models.vae import WanVAE
from lcv_jax.toy import start
from lcv_jax.toy.components import begin_with_components
from lcv_jax.toy.make import Arguments, all_scenes, make
from lcv_jax.toy.measures import psnr
from lcv_jax.toy.sizes import SIZES
from lcv_jax.toy.start import random_autoencoder
from lcv_jax.toy.world import render

CFG = dataclasses.replace(SIZES["tiny"].vae, base_dim=8, z_dim=8, latents_mean=(0.0,) * 8, latents_std=(1.0,) * 8)


@functools.cache
def clips_of(seed: int) -> np.ndarray:
    """Six clips of the procedural world, uint8."""
    scenes = all_scenes(Arguments(out=Path("unused"), num_clips=6, rough_share=0.0, seed=seed))
    return np.stack([render(scene, 32, 32, 9, 8.0) for _, scene, _ in scenes])


def in_range(clips: np.ndarray) -> np.ndarray:
    return clips.astype(np.float32) / 127.5 - 1


@functools.cache
def begun():
    params = random_autoencoder(CFG, np.random.default_rng(0))
    begin_with_components(params, CFG, in_range(clips_of(0)))
    return params


@functools.partial(jax.jit, static_argnames="branches")
def both_halves(params, video, branches=True):
    vae, variables = WanVAE(CFG, branches=branches), {"params": params}
    mean, _ = vae.apply(variables, video, method="encode")
    return mean, vae.apply(variables, mean, method="decode")


def round_trip(params, clips) -> float:
    _, decoded = both_halves(params, jnp.asarray(in_range(clips)))
    return psnr(np.asarray((decoded + 1) * 127.5).round().astype(np.uint8), clips)


def test_clips_that_were_not_looked_at_come_out_better_than_blurred():
    blur = round_trip(random_autoencoder(CFG, np.random.default_rng(0)), clips_of(1))
    assert round_trip(begun(), clips_of(1)) > blur + 5


def test_latents_are_components_of_mean_0_and_deviation_1():
    latents, _ = both_halves(begun(), jnp.asarray(in_range(clips_of(0))))
    later = np.asarray(latents)[:, 1:].reshape(-1, CFG.z_dim)
    assert np.allclose(later.mean(axis=0), 0, atol=1e-3)
    # The norm before the last convolution is not quite the constant's: what came before it was uncorrelated.
    assert np.allclose(np.cov(later.T), np.eye(CFG.z_dim), atol=1e-3)


def test_branches_add_nothing_yet_and_have_no_gradient_where_they_are_left_out():
    video = jnp.asarray(in_range(clips_of(1)))
    for whole, without in zip(both_halves(begun(), video), both_halves(begun(), video, branches=False), strict=True):
        assert np.array_equal(whole, without)

    def loss(params):
        return jnp.sum(jnp.square(both_halves(params, video, branches=False)[1]))

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(begun()))
    moved = {jax.tree_util.keystr(path) for path, leaf in grads if np.any(leaf)}
    assert any("upsamplers_0" in name for name in moved)
    assert not [name for name in moved if "conv1" in name or "conv2" in name or "attentions" in name]


def test_networks_that_are_too_narrow_are_told():
    cfg = SIZES["tiny"].vae
    with pytest.raises(ValueError, match="33 channels before its latents and 7 at its pixels, got 12 and 4"):
        begin_with_components(random_autoencoder(cfg, np.random.default_rng(0)), cfg, in_range(clips_of(0)))


def test_clips_of_a_manifest_are_taken_once_each_in_the_size_of_the_small_model(tmp_path):
    make(Arguments(out=tmp_path / "clips", num_clips=3, num_images=1, height=96, width=128))
    clips = start.clips_of(tmp_path / "clips" / "manifest.jsonl")
    assert clips.shape == (3, 17, 64, 64, 3)
    assert -1 <= clips.min() < -0.2 < 0.2 < clips.max() <= 1
    assert not np.array_equal(clips[0], clips[1])


def test_start_wants_clips_in_the_manifest(tmp_path, capsys):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"id": "a", "path": "a.png", "caption": "an image"}\n')
    with pytest.raises(SystemExit):
        start.main([str(tmp_path / "out"), "--clips", str(manifest)])
    assert "has no clips: the components are those of videos" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
