"""Models of the procedural world that move onto another autoencoder."""

import dataclasses

import jax
import numpy as np
import pytest

from lcv_jax.checkpoint import store
from lcv_jax.pipeline import load_pipeline
from lcv_jax.toy import make, move, start
from lcv_jax.toy.sizes import SIZES


def test_projections_of_latents_that_were_turned_see_what_they_saw():
    """Where the new latents are the old ones turned, tokens are the same, and velocities those of before, turned."""
    rng = np.random.default_rng(0)
    turn, shift = rng.standard_normal((8, 8)), rng.standard_normal(8)
    kernels = {"x_embedder/proj": (8, 6), "final_layer/linear": (6, 8)}
    params: dict = {}
    for name, shape in kernels.items():
        outer, inner = name.split("/")
        params[outer] = {inner: {"kernel": rng.standard_normal(shape), "bias": rng.standard_normal(shape[1])}}
    before = jax.tree.map(np.copy, params)
    old_NC = rng.standard_normal((100, 8))
    new_NC = old_NC @ turn + shift

    assert move.turn_projections(params, old_NC, new_NC) == pytest.approx(1)

    def project(params, outer, inner, x):
        return x @ params[outer][inner]["kernel"] + params[outer][inner]["bias"]

    tokens = project(before, "x_embedder", "proj", old_NC)
    np.testing.assert_allclose(project(params, "x_embedder", "proj", new_NC), tokens, atol=1e-9)
    velocity = project(before, "final_layer", "linear", tokens)
    np.testing.assert_allclose(project(params, "final_layer", "linear", tokens), velocity @ turn + shift, atol=1e-9)


def test_it_tells_how_much_of_the_old_latents_the_new_ones_tell():
    rng = np.random.default_rng(0)
    params = {
        outer: {inner: {"kernel": np.eye(2), "bias": np.zeros(2)}}
        for outer, inner in (("x_embedder", "proj"), ("final_layer", "linear"))
    }
    old_NC = rng.standard_normal((4000, 2))
    assert move.turn_projections(params, old_NC, old_NC * (1, 0)) == pytest.approx(0.5, abs=0.05)


def test_channels_vary_as_the_square_root_of_what_they_show(monkeypatch):
    """A decoder that only multiplies shows what it multiplies by."""
    gains = np.array((16.0, 4.0, 1.0, 1.0), np.float32)
    monkeypatch.setattr(move, "decode_latents", lambda vae, params, latents_BTHWC, method: latents_BTHWC * gains)
    stds = (1.0, 2.0, 3.0, 4.0)
    cfg = dataclasses.replace(SIZES["tiny"].vae, z_dim=4, latents_mean=(0.0,) * 4, latents_std=stds)
    latents_BTHWC = np.random.default_rng(0).standard_normal((2, 3, 16, 16, 4)).astype(np.float32)
    scale = np.array(stds) / move.scaled_channels(cfg, {}, latents_BTHWC).latents_std
    np.testing.assert_allclose(scale / scale[2], (4, 2, 1, 1), rtol=0.05)
    assert np.mean(np.square(latents_BTHWC * scale)) == pytest.approx(1)


@pytest.mark.slow
def test_the_folder_has_the_other_autoencoder_and_a_transformer_of_its_latents(tmp_path):
    make.main([str(tmp_path / "clips"), "--num-clips", "2"])
    for seed in ("0", "1"):
        start.main([str(tmp_path / seed), "--size", "tiny", "--seed", seed])
    clips = str(tmp_path / "clips" / "manifest.jsonl")
    move.main([*(str(tmp_path / name) for name in ("0", "1", "out")), "--clips", clips])
    old, other, moved = (load_pipeline(tmp_path / name) for name in ("0", "1", "out"))
    jax.tree.map(np.testing.assert_array_equal, moved.params("vae"), other.params("vae"))
    before, after = (store.load_config(tmp_path / name, "vae") for name in ("1", "out"))
    assert before.latents_mean == after.latents_mean
    assert len(set(after.latents_std)) == after.z_dim
    changed = jax.tree.map(
        lambda x, y: bool(np.any(np.asarray(x) != np.asarray(y))), old.params("dit"), moved.params("dit")
    )
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, yes in jax.tree_util.tree_leaves_with_path(changed)
        if yes
    }
    # The last kernel is zero in a fresh model, and stays so.
    assert names == {"x_embedder/proj/kernel", "x_embedder/proj/bias", "final_layer/linear/bias"}
