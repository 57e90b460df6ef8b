import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint.convert import vae_params, vae_table
from lcv_jax.config import VAEConfig
from lcv_jax.models.vae import WanVAE, denormalise_latents, normalise_latents, sample_posterior
from lcv_jax.models.vae_layers import CausalConv, ChannelNorm, Downsample, FrameAttention, Upsample
from lcv_jax.models.vae_tiling import over_tiles

# Half of the released network's levels, so that it compiles fast: 2 frames and 2 x 2 pixels a latent.
CFG = VAEConfig(
    latents_mean=(0.5, -1.0), latents_std=(2.0, 4.0), base_dim=8, z_dim=2, dim_mult=(1, 2), num_res_blocks=1,
    temperal_downsample=(True,),
)  # fmt: skip


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@functools.partial(jax.jit, static_argnames=("vae", "method", "tile", "stride"))
def apply(vae, params, x, method, **options):
    return vae.apply({"params": params}, x, method=method, **options)


@functools.cache
def random_params():
    """Parameters of CFG, biases and norms included, as random numbers that keep the size of what flows through."""
    shapes = jax.eval_shape(WanVAE(CFG).init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    values = [np.asarray(random(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)]
    scaled = [v / np.sqrt(np.prod(v.shape[:-1])) if v.ndim > 1 else 1 + 0.1 * v for v in values]
    return tree.unflatten([jnp.asarray(v, jnp.float32) for v in scaled])


def encode(x, params=None, **fields):
    return apply(WanVAE(CFG, **fields), random_params() if params is None else params, x, "encode")


def decode(z, params=None, **fields):
    return apply(WanVAE(CFG, **fields), random_params() if params is None else params, z, "decode")


# -- parity with the published code


@pytest.fixture(scope="module")
def published(golden):
    """The autoencoder, its parameters, tile and stride, and the golden arrays, channels last."""
    config, tensors = golden("vae_small")
    *sizes, cfg = (
        *np.split(np.array(config["tile"]), 2),
        VAEConfig.from_json({name: value for name, value in config.items() if name != "tile"}),
    )
    params = vae_params({name[2:]: value for name, value in tensors.items() if name.startswith("w.")}, cfg)
    arrays = {name: np.moveaxis(value, 1, -1) for name, value in tensors.items() if not name.startswith("w.")}
    return WanVAE(cfg), params, [tuple(map(int, size)) for size in sizes], arrays


def assert_close(got, wanted, relative=1e-4):
    assert got.shape == wanted.shape
    assert np.abs(np.asarray(got) - wanted).max() <= relative * np.abs(wanted).max()


def test_encode_gives_the_published_posterior(published):
    vae, params, _, arrays = published
    mean, logvar = apply(vae, params, arrays["in.video"], "encode")
    assert_close(mean, arrays["out.mean"])
    assert_close(logvar, arrays["out.logvar"])


def test_decode_gives_the_published_video(published):
    vae, params, _, arrays = published
    assert_close(apply(vae, params, arrays["in.latents"], "decode"), arrays["out.video"])


def test_an_image_is_a_clip_of_one_frame(published):
    vae, params, _, arrays = published
    assert_close(apply(vae, params, arrays["in.video"][:, :1], "encode")[0], arrays["out.image_mean"])
    assert_close(apply(vae, params, arrays["in.latents"][:, :1], "decode"), arrays["out.image"])


def test_tiled_encode_gives_the_published_mean(published):
    vae, params, (tile, stride), arrays = published
    mean, _ = apply(vae, params, arrays["in.video"], "tiled_encode", tile=tile, stride=stride)
    assert_close(mean, arrays["out.tiled_mean"])


def test_tiled_decode_gives_the_published_video(published):
    vae, params, (tile, stride), arrays = published
    video = apply(vae, params, arrays["in.latents"], "tiled_decode", tile=tile, stride=stride)
    assert_close(video, arrays["out.tiled_video"])


# -- layers against their definitions


def conv3d(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


@pytest.mark.parametrize("kernel_size", [(3, 3, 3), (3, 1, 1)])
def test_causal_conv_in_pieces_is_one_conv_padded_in_front(kernel_size):
    x = random(2, 6, 5, 4, 3)
    conv = CausalConv(features=7, kernel_size=kernel_size)
    variables = conv.init(jax.random.key(1), x[:, :1])
    pieces, cache = [], None
    for start, stop in [(0, 1), (1, 2), (2, 6)]:
        piece, cache = conv.apply(variables, x[:, start:stop], cache)
        pieces.append(piece)
    sides = [(size // 2, size // 2) for size in kernel_size[1:]]
    wanted = conv3d(x, variables["params"]["kernel"], (1, 1, 1), [(2, 0), *sides])
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), wanted, atol=1e-5)


def test_downsampling_keeps_the_first_frame_and_then_sees_one_frame_back():
    x = random(2, 5, 6, 4, 3)
    layer = Downsample(over_time=True)
    variables = layer.init(jax.random.key(1), x[:, :1])
    first, cache = layer.apply(variables, x[:, :1])
    second, cache = layer.apply(variables, x[:, 1:3], cache)
    third, cache = layer.apply(variables, x[:, 3:], cache)
    params = variables["params"]
    half = conv3d(x, params["resample_1"]["kernel"][None], (1, 2, 2), [(0, 0), (0, 1), (0, 1)])
    later = conv3d(half, params["time_conv"]["kernel"], (2, 1, 1), [(0, 0)] * 3)
    np.testing.assert_allclose(
        jnp.concatenate([first, second, third], 1), jnp.concatenate([half[:, :1], later], 1), atol=1e-5
    )


def test_upsampling_keeps_the_first_frame_and_never_looks_back_on_it():
    x = random(2, 4, 3, 5, 4)
    layer = Upsample(over_time=True)
    variables = layer.init(jax.random.key(1), x[:, :1])
    first, cache = layer.apply(variables, x[:, :1])
    second, cache = layer.apply(variables, x[:, 1:2], cache)
    rest, cache = layer.apply(variables, x[:, 2:], cache)
    params = variables["params"]
    both = conv3d(x[:, 1:], params["time_conv"]["kernel"], (1, 1, 1), [(2, 0), (0, 0), (0, 0)])
    frames = [x[:, :1], *(both[:, t : t + 1, ..., c : c + 4] for t in range(3) for c in (0, 4))]
    large = jnp.concatenate(frames, 1).repeat(2, axis=2).repeat(2, axis=3)
    wanted = conv3d(large, params["resample_1"]["kernel"][None], (1, 1, 1), [(0, 0), (1, 1), (1, 1)])
    np.testing.assert_allclose(jnp.concatenate([first, second, rest], 1), wanted, atol=1e-5)


def test_channel_norm_is_the_unit_vector_times_root_of_channels_and_gamma():
    x, gamma = random(2, 3, 8), random(8, seed=1)
    wanted = x / jnp.linalg.norm(x, axis=-1, keepdims=True) * np.sqrt(8) * gamma
    np.testing.assert_allclose(ChannelNorm().apply({"params": {"gamma": gamma}}, x), wanted, rtol=1e-5)
    assert not ChannelNorm().apply({"params": {"gamma": gamma}}, jnp.zeros((1, 8))).any()


def test_attention_does_not_mix_frames():
    x = random(2, 3, 4, 2, 8)
    variables = FrameAttention().init(jax.random.key(1), x)
    y = FrameAttention().apply(variables, x)
    for b, t in itertools.product(range(2), range(3)):
        alone = FrameAttention().apply(variables, x[b : b + 1, t : t + 1])
        np.testing.assert_allclose(y[b, t], alone[0, 0], atol=1e-5)


# -- properties of the whole


def test_results_do_not_depend_on_the_chunk():
    x, z = random(1, 9, 4, 6, 3), random(1, 5, 2, 3, 2)
    wanted_mean, wanted_video = encode(x)[0], decode(z)
    # Of the 4 latent frames after the first, 3 and a remainder.
    np.testing.assert_allclose(encode(x, chunk=3)[0], wanted_mean, atol=1e-5)
    np.testing.assert_allclose(decode(z, chunk=3), wanted_video, atol=1e-5)


def test_no_frame_sees_a_later_one():
    x, z = random(1, 9, 4, 6, 3), random(1, 5, 2, 3, 2)
    later_x, later_z = x.at[:, 5:].add(1.0), z.at[:, 3:].add(1.0)
    changed = encode(later_x, chunk=4)[0] - encode(x, chunk=4)[0]  # earlier and later frames in one chunk
    assert not changed[:, :3].any()
    assert changed[:, 3].any()
    changed = decode(later_z, chunk=4) - decode(z, chunk=4)
    assert not changed[:, :5].any()
    assert changed[:, 5].any()


def test_frames_that_do_not_fill_a_latent_are_dropped():
    x = random(1, 10, 4, 6, 3)
    np.testing.assert_array_equal(encode(x)[0], encode(x[:, :9])[0])


def test_a_batch_is_its_clips_one_by_one():
    x, z = random(2, 5, 4, 6, 3), random(2, 3, 2, 3, 2)
    for b in range(2):
        np.testing.assert_allclose(encode(x)[1][b], encode(x[b : b + 1])[1][0], atol=1e-5)
        np.testing.assert_allclose(decode(z)[b], decode(z[b : b + 1])[0], atol=1e-5)


@pytest.mark.parametrize(("method", "shape"), [("encode", (2, 1, 8, 12, 3)), ("decode", (2, 1, 2, 3, 2))])
def test_memory_does_not_grow_with_the_clip(method, shape):
    def memory(latent_frames):
        frames = 1 + (latent_frames - 1) * (CFG.temporal_factor if method == "encode" else 1)
        x = jax.ShapeDtypeStruct((shape[0], frames, *shape[2:]), jnp.float32)
        return apply.lower(WanVAE(CFG), random_params(), x, method).compile().memory_analysis()

    short, long = memory(5), memory(101)
    growth = long.temp_size_in_bytes - short.temp_size_in_bytes
    # Mean and log-variance are one array before they are two; nothing else may be there for all frames at once.
    copies = 1 if method == "encode" else 0
    assert growth <= (copies + 0.01) * (long.output_size_in_bytes - short.output_size_in_bytes)


@pytest.mark.parametrize("fields", [{}, {"dtype": jnp.bfloat16}])
def test_bfloat16_stays_close_to_float32(fields):
    x, z, params = random(1, 5, 4, 6, 3), random(1, 3, 2, 3, 2), random_params()
    if not fields:  # without a dtype, that of the kernels
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    for got, wanted in [(encode(x, params, **fields)[0], encode(x)[0]), (decode(z, params, **fields), decode(z))]:
        assert got.dtype == jnp.float32
        error = jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted)
        assert 1e-4 < error < 0.03


def test_gradient_is_the_slope():
    x, direction, weights = (random(1, 5, 4, 6, 3, seed=seed) for seed in range(3))

    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(x, params):
        return jnp.vdot(weights, WanVAE(CFG).apply({"params": params}, x))

    loss_and_grad, step = jax.jit(loss), 1e-2 * direction
    _, (by_x, by_params) = loss_and_grad(x, random_params())
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(by_params))
    slope = loss_and_grad(x + step, random_params())[0] - loss_and_grad(x - step, random_params())[0]
    np.testing.assert_allclose(2 * jnp.vdot(by_x, step), slope, rtol=0.05)


def test_init_gives_the_tree_that_conversion_gives():
    shapes = jax.eval_shape(WanVAE(CFG).init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 3)))["params"]
    flat = {tuple(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    assert flat == {leaf.path: leaf.shape for leaf in vae_table(CFG)}


def test_posterior_and_normalisation():
    mean, logvar = random(20000, 2), jnp.full((20000, 2), np.log(4.0), jnp.float32)
    np.testing.assert_array_equal(sample_posterior(mean, logvar), mean)
    drawn = sample_posterior(mean, logvar, jax.random.key(7)) - mean
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 2], atol=0.05)
    latents = normalise_latents(mean, CFG)
    np.testing.assert_allclose(latents[:, 1], (mean[:, 1] + 1) / 4, rtol=1e-5)
    np.testing.assert_allclose(denormalise_latents(latents, CFG), mean, atol=1e-5)


# -- tiles


def tiles_in_a_loop(function, x, tile, stride, scale):
    """The published procedure, pixel by pixel: blended above, then to the left, with neighbours blended before."""
    rows, out = {}, []
    for i in range(0, x.shape[2], stride[0]):
        parts = []
        for j in range(0, x.shape[3], stride[1]):
            b = rows[i, j] = np.array(function(x[:, :, i : i + tile[0], j : j + tile[1]]))
            if i:
                a = rows[i - stride[0], j]
                margin = min((tile[0] - stride[0]) * scale, a.shape[2], b.shape[2])
                for y in range(margin):
                    b[:, :, y] = a[:, :, y - margin] * (1 - y / margin) + b[:, :, y] * (y / margin)
            if j:
                a = rows[i, j - stride[1]]
                margin = min((tile[1] - stride[1]) * scale, a.shape[3], b.shape[3])
                for y in range(margin):
                    b[:, :, :, y] = a[:, :, :, y - margin] * (1 - y / margin) + b[:, :, :, y] * (y / margin)
            parts.append(b[:, :, : stride[0] * scale, : stride[1] * scale])
        out.append(np.concatenate(parts, axis=3))
    return np.concatenate(out, axis=2)


@pytest.mark.parametrize(
    ("height", "width", "tile", "stride"),
    [(12, 16, (8, 8), (6, 6)), (13, 6, (8, 8), (6, 6)), (9, 17, (4, 6), (2, 5)), (8, 8, (4, 4), (4, 4))],
)
def test_tiles_are_blended_as_published(height, width, tile, stride):
    def function(x):  # what it makes of a pixel depends on the tile
        return (x + x.mean(axis=(2, 3), keepdims=True)).repeat(2, axis=2).repeat(2, axis=3)

    x = np.asarray(random(1, 2, height, width, 1))
    got = over_tiles(function, x, tile, stride, *(tuple(2 * n for n in size) for size in (tile, stride)))
    np.testing.assert_allclose(got, tiles_in_a_loop(function, x, tile, stride, 2), atol=1e-6)


def test_a_clip_of_one_tile_is_not_cut():
    x = random(1, 5, 4, 6, 3)
    mean, _ = apply(WanVAE(CFG), random_params(), x, "tiled_encode", tile=(6, 6), stride=(2, 2))
    np.testing.assert_array_equal(mean, encode(x)[0])
    z = 10 * random(1, 3, 2, 3, 2)
    video = apply(WanVAE(CFG), random_params(), z, "tiled_decode", tile=(6, 6), stride=(2, 2))
    np.testing.assert_array_equal(video, decode(z))


def test_tiles_that_do_not_fit_the_latents_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 2 .* got \(9, 8\) and \(8, 8\)"):
        apply(WanVAE(CFG), random_params(), random(1, 1, 16, 16, 3), "tiled_encode", tile=(9, 8), stride=(8, 8))
