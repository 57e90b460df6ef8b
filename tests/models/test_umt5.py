"""umT5: definition of the position buckets, padding properties, golden parity, bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint.convert import umt5_params
from lcv_jax.config import UMT5Config
from lcv_jax.models.umt5 import UMT5Encoder, relative_position_buckets

SMALL = UMT5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=3)


@functools.partial(jax.jit, static_argnames="encoder")
def encode(encoder, params, ids_BL, mask_BL):
    return encoder.apply({"params": params}, ids_BL, mask_BL)


@functools.partial(jax.jit, static_argnames="encoder")
def initialise(encoder):
    ids_BL = jnp.ones((1, 4), int)
    return encoder.init(jax.random.key(0), ids_BL, ids_BL)["params"]


@pytest.fixture
def published(golden):
    config, tensors = golden("umt5_small")
    cfg = UMT5Config.from_json(config)
    state = {name.removeprefix("w."): value for name, value in tensors.items() if name.startswith("w.")}
    return cfg, umt5_params(state, cfg), tensors


@pytest.fixture(scope="module")
def small_params():
    return initialise(UMT5Encoder(SMALL))


def test_position_buckets_follow_the_definition():
    """Offsets 0..7 exact, then log-spaced up to 128, shown for the released 32 buckets."""
    bucket_LM = relative_position_buckets(200, 32, 128)
    assert bucket_LM.shape == (200, 200)
    assert bucket_LM[100, 100] == 0
    for distance in range(1, 100):
        steps = int(np.log(distance / 8) / np.log(128 / 8) * 8 + 1e-6) if distance >= 8 else 0
        wanted = distance if distance < 8 else 8 + steps
        assert bucket_LM[100, 100 - distance] == wanted, distance  # looking back
        assert bucket_LM[100, 100 + distance] == 16 + wanted, distance  # looking ahead
    assert bucket_LM[199, 0] == 15
    assert bucket_LM[0, 199] == 31


def test_golden(published):
    cfg, params, tensors = published
    hidden_BLD = encode(UMT5Encoder(cfg), params, tensors["in.ids"], tensors["in.mask"])
    valid_BL = tensors["in.mask"].astype(bool)
    assert 0 < valid_BL.sum() < valid_BL.size
    wanted = tensors["out.hidden"][valid_BL]
    np.testing.assert_allclose(np.asarray(hidden_BLD)[valid_BL], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_initialised_parameters_have_the_published_tree(published):
    cfg, params, _ = published
    initialised = initialise(UMT5Encoder(cfg))
    assert jax.tree.map(jnp.shape, initialised) == jax.tree.map(jnp.shape, params)
    q_PDD = initialised["encoder"]["block"]["layer_0"]["SelfAttention"]["q"]["kernel"]
    assert np.abs(q_PDD[0] - q_PDD[1]).max() > 0.1, "layers start out alike"


def test_padding_does_not_reach_the_caption(small_params):
    """The same caption alone, with padding, and beside a longer one."""
    rng = np.random.default_rng(0)
    ids_BL = rng.integers(1, 50, (2, 12))
    mask_BL = np.ones((2, 12), int)
    mask_BL[0, 5:] = 0
    encoder = UMT5Encoder(SMALL)
    alone = encode(encoder, small_params, ids_BL[:1, :5], mask_BL[:1, :5])
    together = encode(encoder, small_params, ids_BL, mask_BL)
    np.testing.assert_allclose(together[:1, :5], alone, rtol=1e-5, atol=1e-5)
    everything_seen = encode(encoder, small_params, ids_BL, np.ones_like(mask_BL))
    assert np.abs(everything_seen[0, :5] - together[0, :5]).max() > 1e-2


def test_a_caption_of_padding_alone_is_finite(small_params):
    ids_BL, mask_BL = np.zeros((1, 6), int), np.zeros((1, 6), int)
    assert np.isfinite(encode(UMT5Encoder(SMALL), small_params, ids_BL, mask_BL)).all()


def test_bfloat16_stays_close_to_float32(published):
    cfg, params, tensors = published
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    ids_BL, mask_BL = tensors["in.ids"], tensors["in.mask"]
    valid_BL = mask_BL.astype(bool)
    hidden_BLD = encode(UMT5Encoder(cfg), narrow, ids_BL, mask_BL)
    assert hidden_BLD.dtype == jnp.bfloat16
    wide = tensors["out.hidden"][valid_BL]
    error = np.abs(np.asarray(hidden_BLD, np.float32)[valid_BL] - wide)
    assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(wide**2))

    computed_wide = encode(UMT5Encoder(cfg, dtype=jnp.float32), narrow, ids_BL, mask_BL)
    assert computed_wide.dtype == jnp.float32
