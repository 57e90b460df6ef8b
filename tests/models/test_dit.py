"""The transformer against the published numbers: a ladder, so that the first rung that breaks names the fault."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint.convert import dit_params, lora_params
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.lora import combine, fold

FILES = ("dit_small", "dit_zeropad")


def load(golden, name):
    """(config of the model, parameters, the tensors with latents as B T H W C and text as B L D)."""
    published, tensors = golden(name)
    names = {field.name for field in dataclasses.fields(DiTConfig)}
    cfg = DiTConfig.from_json({key: value for key, value in published.items() if key in names})
    weights = {key[2:]: value for key, value in tensors.items() if key.startswith("w.")}
    ours = {key: np.moveaxis(value, 1, -1) if value.ndim == 5 else value for key, value in tensors.items()}
    ours["text"], ours["text_mask"] = (
        tensors["in.encoder_hidden_states"][:, 0],
        tensors.get("in.encoder_attention_mask"),
    )
    return cfg, dit_params(weights, cfg), ours, published


def close(got, want, tolerance=1e-4):
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


@functools.partial(jax.jit, static_argnames=("model", "num_cond_latents"))
def apply(model, variables, latents, timesteps, text, mask, num_cond_latents=0, cache=None):
    return model.apply(variables, latents, timesteps, text, mask, num_cond_latents, cache)


@functools.partial(jax.jit, static_argnames="model")
def encode_condition(model, params, latents):
    return model.apply({"params": params}, latents, method="encode_condition")


def per_frame(timesteps, frames):
    return jnp.broadcast_to(timesteps[:, None], (timesteps.shape[0], frames))


@pytest.mark.parametrize("name", FILES)
def test_text_to_video_then_condition_frames(golden, name):
    cfg, params, tensors, published = load(golden, name)
    latents, text, mask = tensors["in.hidden_states"], tensors["text"], tensors["text_mask"]
    condition = published["num_cond_latents"]
    run = lambda t, n: apply(LongCatVideo(cfg), {"params": params}, latents, t, text, mask, n)  # noqa: E731
    close(run(per_frame(tensors["in.timestep"], latents.shape[1]), 0), tensors["out.t2v"])
    close(run(tensors["in.timestep_per_frame"], 0), tensors["out.per_frame"])
    close(run(tensors["in.timestep_i2v"], 1), tensors["out.i2v"])
    close(run(tensors["in.timestep_vc"], condition), tensors["out.vc"])
    close(run(tensors["in.timestep_vc"], condition)[:, :condition], tensors["out.cond_pass"])


@pytest.mark.parametrize("name", FILES)
def test_cache_of_the_condition(golden, name):
    cfg, params, tensors, published = load(golden, name)
    condition = published["num_cond_latents"]
    clean, noisy = np.split(tensors["in.hidden_states"], [condition], axis=1)
    model = LongCatVideo(cfg)
    cache = encode_condition(model, params, clean)
    for layer in range(cfg.depth):
        for part in ("k", "v"):
            close(np.swapaxes(cache[part][layer], 1, 2), tensors[f"out.kv.{layer}.{part}"])
    timesteps = tensors["in.timestep_vc"][:, condition:]
    got = apply(model, {"params": params}, noisy, timesteps, tensors["text"], tensors["text_mask"], cache=cache)
    close(got, tensors["out.vc_kv_cache"])
    close(got, tensors["out.vc"][:, condition:])


def test_condition_ignores_noise_and_caption_and_cache_of_one_serves_all(golden):
    cfg, params, tensors, _ = load(golden, "dit_small")
    model = LongCatVideo(cfg)
    latents, text, mask = tensors["in.hidden_states"], tensors["text"], tensors["text_mask"]
    same = np.broadcast_to(latents[:1], latents.shape)
    timesteps = tensors["in.timestep_vc"]
    whole = apply(model, {"params": params}, same, timesteps, text, mask, num_cond_latents=2)
    other = np.concatenate([same[:, :2], 1 - same[:, 2:]], axis=1)
    changed = apply(model, {"params": params}, other, timesteps, text[::-1], mask[::-1], num_cond_latents=2)
    np.testing.assert_array_equal(whole[:, :2], changed[:, :2])
    assert jnp.abs(whole[:, 2:] - changed[:, 2:]).max() > 1e-3
    cache = encode_condition(model, params, same[:1, :2])
    close(apply(model, {"params": params}, same[:, 2:], timesteps[:, 2:], text, mask, cache=cache), whole[:, 2:])


@pytest.mark.parametrize(
    ("case", "implementation"), [(None, "auto"), (0, "auto"), (1, "auto"), (2, "auto"), (1, "pallas_interpret")]
)
def test_block_sparse(golden, case, implementation):
    cfg, params, tensors, published = load(golden, "dit_bsa")
    latents, text, mask = tensors["in.hidden_states"], tensors["text"], tensors["text_mask"]
    everywhere = per_frame(tensors["in.timestep"], latents.shape[1])
    if case is None:
        dense = LongCatVideo(dataclasses.replace(cfg, enable_bsa=False))
        close(apply(dense, {"params": params}, latents, everywhere, text, mask), tensors["out.dense"])
        return
    sparse = dataclasses.replace(cfg, bsa_params=BlockSparseConfig.from_json(published["bsa_cases"][case]))
    model, condition = LongCatVideo(sparse, implementation=implementation), published["num_cond_latents"]
    close(apply(model, {"params": params}, latents, everywhere, text, mask), tensors[f"out.bsa{case}"])
    if implementation != "auto":
        return  # the rest is the same kernels again
    arguments = {"params": params}, latents, tensors["in.timestep_cond"], text, mask, condition
    close(apply(model, *arguments), tensors[f"out.bsa{case}_cond"])
    cache = encode_condition(model, params, latents[:, :condition])
    noisy, timesteps = latents[:, condition:], tensors["in.timestep_cond"][:, condition:]
    cached = apply(model, {"params": params}, noisy, timesteps, text, mask, cache=cache)
    close(cached, tensors[f"out.bsa{case}_cond"][:, condition:])


@pytest.mark.parametrize("adapters", [(), ("a",), ("a", "b")])
def test_adapters_at_run_time_and_folded(golden, adapters):
    cfg, params, _, _ = load(golden, "dit_small")
    published, tensors = golden("lora_small_io")
    latents, text = np.moveaxis(tensors["in.hidden_states"], 1, -1), tensors["in.encoder_hidden_states"][:, 0]
    timesteps, mask = per_frame(tensors["in.timestep"], latents.shape[1]), np.ones(text.shape[:2], bool)
    active = [(lora_params(golden(f"lora_small_{name}")[1], cfg), published["multipliers"][name]) for name in adapters]
    want = tensors[{(): "out.base", ("a",): "out.a", ("a", "b"): "out.a+0.7b"}[adapters]]
    want = np.moveaxis(want, 1, -1)
    model = LongCatVideo(cfg)
    at_run_time = {"params": params, "adapters": combine(active)} if active else {"params": params}
    close(apply(model, at_run_time, latents, timesteps, text, mask), want)
    kept = jax.tree.map(np.copy, params)
    close(apply(model, {"params": fold(params, active)}, latents, timesteps, text, mask), want)
    jax.tree.map(np.testing.assert_array_equal, params, kept)


def test_one_pair_for_all_of_qkv_joins_three_pairs(golden):
    cfg, params, _, _ = load(golden, "dit_small")
    three = lora_params(golden("lora_small_a")[1], cfg)["blocks"]["attn"]["qkv"]
    key = jax.random.split(jax.random.key(0))
    width = three["up"].shape[1] * three["up"].shape[3]
    one = {
        "down": jax.random.normal(key[0], (cfg.depth, cfg.hidden_size, 1, 4)),
        "up": jax.random.normal(key[1], (cfg.depth, 1, 4, width)),
        "alpha_scale": jnp.array([0.5, 2.0]),
    }
    both = fold(params, [({"blocks": {"attn": {"qkv": adapter}}}, 1.0) for adapter in (three, one)])
    first = fold(params, [({"blocks": {"attn": {"qkv": three}}}, 1.0)])
    for layer in range(cfg.depth):
        added = one["alpha_scale"][layer] * one["down"][layer, :, 0] @ one["up"][layer, 0]
        got = both["blocks"]["attn"]["qkv"]["kernel"][layer] - first["blocks"]["attn"]["qkv"]["kernel"][layer]
        np.testing.assert_allclose(got, added, atol=1e-4)


def test_an_adapter_of_another_model_is_refused(golden):
    cfg, params, _, _ = load(golden, "dit_small")
    adapter = lora_params(golden("lora_small_a")[1], cfg)
    wide = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf], axis=1) if leaf.ndim == 4 else leaf, adapter)
    with pytest.raises(ValueError, match=r"for another model: blocks\.attn"):
        fold(params, [(wide, 1.0)])
    with pytest.raises(ValueError, match="no layer blocks.mlp.up"):
        fold(params, [({"blocks": {"mlp": {"up": adapter["blocks"]["attn"]["qkv"]}}}, 1.0)])


def test_bfloat16_follows_float32(golden):
    cfg, params, tensors, _ = load(golden, "dit_small")
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
    latents, text, mask = tensors["in.hidden_states"], tensors["text"], tensors["text_mask"]
    timesteps, want = per_frame(tensors["in.timestep"], latents.shape[1]), tensors["out.t2v"]
    got = apply(LongCatVideo(cfg), {"params": narrow}, latents, timesteps, text, mask)
    assert got.dtype == jnp.float32
    assert np.sqrt(np.mean((got - want) ** 2)) < 0.02 * want.std()
    mixed = apply(LongCatVideo(cfg, dtype=jnp.bfloat16), {"params": params}, latents, timesteps, text, mask)
    assert np.sqrt(np.mean((mixed - want) ** 2)) < 0.02 * want.std()


def test_init_makes_the_converted_tree(golden):
    cfg, params, tensors, _ = load(golden, "dit_small")
    latents = tensors["in.hidden_states"]
    arguments = latents, tensors["in.timestep_vc"], tensors["text"], tensors["text_mask"]
    made = jax.eval_shape(LongCatVideo(cfg).init, jax.random.key(0), *arguments)["params"]
    shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)  # noqa: E731
    assert shapes(dict(made)) == shapes(params)


@pytest.mark.parametrize(
    ("shape", "condition", "message"),
    [
        ((1, 4, 8, 12, 8), 0, "C = 16"),
        ((1, 4, 7, 12, 16), 0, "multiples of 2 and 2"),
        ((1, 8, 12, 24, 16), 0, "6 x 12 token grid: every axis must be a multiple of the block 4 x 4 x 4"),
        ((1, 8, 16, 24, 16), 2, "multiples of 4 latent frames, got 2"),
    ],
)
def test_shapes_off_the_grid(golden, shape, condition, message):
    cfg, params, _, _ = load(golden, "dit_bsa")
    with pytest.raises(ValueError, match=message):
        LongCatVideo(cfg).apply(
            {"params": params},
            jnp.zeros(shape),
            jnp.zeros(shape[:2]),
            jnp.zeros((1, 3, 32)),
            jnp.ones((1, 3), bool),
            num_cond_latents=condition,
        )
