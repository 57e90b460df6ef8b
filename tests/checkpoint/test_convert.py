"""The name table: golden weights there and back, the released model's manifest, and what does not fit."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lcv_jax.checkpoint import convert, names
from lcv_jax.config import DiTConfig, UMT5Config, VAEConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.vae import WanVAE

MANIFEST = Path(__file__).parent.parent / "golden" / "manifest_13b.json"
DIT = (DiTConfig, convert.dit_params, convert.dit_torch_state)
VAE = (VAEConfig, convert.vae_params, convert.vae_torch_state)
UMT5 = (UMT5Config, convert.umt5_params, convert.umt5_torch_state)
JOIN = "___lorahyphen___"


def read(golden, name, config):
    """The config and the published weights of a golden file."""
    published, tensors = golden(name)
    known = {field.name for field in dataclasses.fields(config)}
    cfg = config.from_json({key: value for key, value in published.items() if key in known})
    return cfg, {key[2:]: value for key, value in tensors.items() if key.startswith("w.")}


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert (got[name].dtype, got[name].shape) == (wanted[name].dtype, wanted[name].shape), name
        assert got[name].tobytes() == wanted[name].tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize(
    ("name", "network"),
    [("dit_small", DIT), ("dit_zeropad", DIT), ("dit_bsa", DIT), ("vae_small", VAE), ("umt5_small", UMT5)],
)
def test_golden_weights_come_back_bit_equal(golden, name, network, dtype):
    config, params_of, torch_state_of = network
    cfg, weights = read(golden, name, config)
    weights = {key: value.astype(dtype) for key, value in weights.items()}
    params = params_of(weights, cfg)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    assert_same(torch_state_of(params, cfg), weights)
    assert_same(torch_state_of(jax.tree.map(jnp.asarray, params), cfg), weights)  # from device arrays too


@pytest.mark.parametrize("name", ["lora_small_a", "lora_small_b"])
def test_golden_adapters_come_back_bit_equal(golden, name):
    cfg, _ = read(golden, "dit_small", DiTConfig)
    weights = golden(name)[1]
    assert_same(convert.lora_torch_state(convert.lora_params(weights, cfg), cfg), weights)


def test_where_every_kind_of_tensor_goes(golden):
    """The layout restated element by element."""
    cfg, w = read(golden, "dit_small", DiTConfig)
    p = convert.dit_params(w, cfg)
    np.testing.assert_array_equal(p["t_embedder"]["mlp_2"]["kernel"], w["t_embedder.mlp.2.weight"].T)
    np.testing.assert_array_equal(p["final_layer"]["linear"]["bias"], w["final_layer.linear.bias"])
    for layer in range(cfg.depth):
        np.testing.assert_array_equal(
            p["blocks"]["attn"]["qkv"]["kernel"][layer], w[f"blocks.{layer}.attn.qkv.weight"].T
        )
        np.testing.assert_array_equal(
            p["blocks"]["attn"]["q_norm"]["weight"][layer], w[f"blocks.{layer}.attn.q_norm.weight"]
        )
    patches = w["x_embedder.proj.weight"]  # O C 1 h w
    _, channels, _, height, width = patches.shape
    rows = [patches[:, c, 0, y, x] for y in range(height) for x in range(width) for c in range(channels)]
    np.testing.assert_array_equal(p["x_embedder"]["proj"]["kernel"], np.stack(rows))

    cfg, w = read(golden, "vae_small", VAEConfig)
    p = convert.vae_params(w, cfg)
    published = w["decoder.up_blocks.0.resnets.1.conv1.weight"]
    turned = p["decoder"]["up_blocks_0"]["resnets_1"]["conv1"]["kernel"]
    assert turned.shape == (*published.shape[2:], published.shape[1], published.shape[0])
    assert turned[0, 1, 2, 3, 4] == published[4, 3, 0, 1, 2]
    published, turned = w["encoder.down_blocks.1.resample.1.weight"], p["encoder"]["down_blocks_1"]["resample_1"]
    assert turned["kernel"][0, 1, 2, 3] == published[3, 2, 0, 1]
    np.testing.assert_array_equal(p["encoder"]["norm_out"]["gamma"], w["encoder.norm_out.gamma"][:, 0, 0, 0])

    cfg, w = read(golden, "umt5_small", UMT5Config)
    p = convert.umt5_params(w, cfg)
    np.testing.assert_array_equal(p["shared"]["weight"], w["shared.weight"])
    layers = p["encoder"]["block"]
    for layer in range(cfg.num_layers):
        name = f"encoder.block.{layer}.layer"
        bias = "SelfAttention.relative_attention_bias.weight"
        np.testing.assert_array_equal(
            layers["layer_0"]["SelfAttention"]["relative_attention_bias"]["weight"][layer], w[f"{name}.0.{bias}"]
        )
        np.testing.assert_array_equal(
            layers["layer_1"]["DenseReluDense"]["wi_1"]["kernel"][layer], w[f"{name}.1.DenseReluDense.wi_1.weight"].T
        )


def test_where_the_parts_of_an_adapter_go(golden):
    cfg, _ = read(golden, "dit_small", DiTConfig)
    w = golden("lora_small_a")[1]
    adapter = convert.lora_params(w, cfg)["blocks"]
    rank, D = 8, cfg.hidden_size
    for layer in range(cfg.depth):
        prefix = f"lora{JOIN}blocks{JOIN}{layer}{JOIN}"
        qkv, w2 = adapter["attn"]["qkv"], adapter["ffn"]["w2"]
        assert qkv["down"].shape == (cfg.depth, D, 3, rank)
        assert qkv["up"].shape == (cfg.depth, 3, rank, D)
        for pair in range(3):
            down = w[f"{prefix}attn{JOIN}qkv.lora_down.weight"][pair * rank : (pair + 1) * rank]
            np.testing.assert_array_equal(qkv["down"][layer, :, pair], down.T)
            up = w[f"{prefix}attn{JOIN}qkv.lora_up.blocks.{pair}.weight"]
            np.testing.assert_array_equal(qkv["up"][layer, pair], up.T)
        np.testing.assert_array_equal(w2["up"][layer, 0], w[f"{prefix}ffn{JOIN}w2.lora_up.weight"].T)
        assert w2["alpha_scale"][layer] == w[f"{prefix}ffn{JOIN}w2.alpha_scale"]


def published_vae_config():
    return VAEConfig(latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16)


@pytest.mark.parametrize("part", ["dit", "vae", "text_encoder", "lora"])
def test_the_table_is_the_released_model(part):
    manifest = {name: tuple(shape) for name, shape in json.loads(MANIFEST.read_text())[part].items()}
    table = {
        "dit": lambda: names.dit_table(DiTConfig()),
        "vae": lambda: names.vae_table(published_vae_config()),
        "text_encoder": lambda: names.umt5_table(UMT5Config()),
        "lora": lambda: names.lora_table(manifest, DiTConfig()),
    }[part]()
    every = [name for leaf in table for name in leaf.names]
    assert len(every) == len(set(every))  # every tensor once
    found = names.published_shapes(table)
    if part == "text_encoder":
        found["encoder.embed_tokens.weight"] = found["shared.weight"]
    assert found == manifest


@pytest.mark.parametrize("part", ["dit", "vae", "text_encoder"])
def test_the_table_is_the_flax_module(golden, part):
    video = jax.ShapeDtypeStruct((1, 5, 16, 16, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    if part == "dit":
        cfg, _ = read(golden, "dit_small", DiTConfig)
        inputs = [
            jax.ShapeDtypeStruct((1, 2, 4, 4, cfg.in_channels), jnp.float32),
            jax.ShapeDtypeStruct((1, 2), jnp.float32),
            jax.ShapeDtypeStruct((1, 8, cfg.caption_channels), jnp.float32),
            ids,
        ]
        module, table = LongCatVideo(cfg), names.dit_table(cfg)
    elif part == "vae":
        cfg, _ = read(golden, "vae_small", VAEConfig)
        module, table, inputs = WanVAE(cfg), names.vae_table(cfg), [video]
    else:
        cfg, _ = read(golden, "umt5_small", UMT5Config)
        module, table, inputs = UMT5Encoder(cfg), names.umt5_table(cfg), [ids, ids]
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    found = {path: leaf.shape for path, leaf in convert.flatten(params)}
    assert found == {leaf.path: leaf.shape for leaf in table}


def test_every_misfit_is_in_one_error(golden):
    cfg, weights = read(golden, "dit_small", DiTConfig)
    bad = dict(weights)
    del bad["blocks.1.attn.qkv.weight"], bad["x_embedder.proj.bias"]
    bad["blocks.2.attn.qkv.weight"] = bad["blocks.0.attn.qkv.weight"]
    bad["final_layer.linear.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="transformer does not fit its config") as caught:
        convert.dit_params(bad, cfg)
    message = str(caught.value)
    assert "\n" not in message
    assert "2 missing: x_embedder.proj.bias, blocks.1.attn.qkv.weight" in message
    assert "1 unexpected: blocks.2.attn.qkv.weight" in message
    assert "1 misshapen: final_layer.linear.bias is (3,), wanted (64,)" in message


def test_a_long_list_is_cut(golden):
    cfg, weights = read(golden, "dit_small", DiTConfig)
    with pytest.raises(ValueError, match=r"56 missing: .* and 36 more; 1 unexpected: alien") as caught:
        convert.dit_params({"alien": weights["x_embedder.proj.bias"]}, cfg)
    assert len(str(caught.value)) < 2000


def test_the_wrong_way_is_strict_too(golden):
    cfg, weights = read(golden, "vae_small", VAEConfig)
    params = convert.vae_params(weights, cfg)
    del params["quant_conv"]["bias"]
    params["post_quant_conv"]["bias"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=r"1 missing: quant_conv/bias; 1 misshapen: post_quant_conv/bias is \(1,\)"):
        convert.vae_torch_state(params, cfg)


def test_layers_of_different_dtypes_are_refused(golden):
    cfg, weights = read(golden, "dit_small", DiTConfig)
    name = "blocks.0.ffn.w1.weight"
    with pytest.raises(ValueError, match=f"{name} and the same tensor of other layers are of bfloat16 and float32"):
        convert.dit_params(weights | {name: weights[name].astype(ml_dtypes.bfloat16)}, cfg)


def test_the_second_copy_of_the_embedding(golden):
    cfg, weights = read(golden, "umt5_small", UMT5Config)
    both = weights | {"encoder.embed_tokens.weight": weights["shared.weight"].copy()}
    params = convert.umt5_params(both, cfg)
    assert jax.tree.structure(params) == jax.tree.structure(convert.umt5_params(weights, cfg))
    assert_same(convert.umt5_torch_state(params, cfg, alias=True), both)
    both["encoder.embed_tokens.weight"][0, 0] += 1
    with pytest.raises(ValueError, match=r"embed_tokens.weight must equal shared.weight"):
        convert.umt5_params(both, cfg)


def adapter_of(cfg, linears, rank, rng):
    """An adapter trained elsewhere: {(module, linear): pairs}."""
    weights = {}
    for layer in range(cfg.depth):
        for (module, linear), pairs in linears.items():
            came, width = names.adapted_linears(cfg)[module, linear]
            prefix = f"lora{JOIN}blocks{JOIN}{layer}{JOIN}{module}{JOIN}{linear}"
            weights[f"{prefix}.lora_down.weight"] = rng.standard_normal((pairs * rank, came), np.float32)
            for pair in range(pairs):
                up = f"{prefix}.lora_up.weight" if pairs == 1 else f"{prefix}.lora_up.blocks.{pair}.weight"
                weights[up] = rng.standard_normal((width // pairs, rank), np.float32)
            weights[f"{prefix}.alpha_scale"] = np.array(0.5, np.float32)
    return weights


def test_adapters_of_other_ranks_pairs_and_linears_load(golden):
    cfg, _ = read(golden, "dit_small", DiTConfig)
    weights = adapter_of(cfg, {("attn", "qkv"): 1, ("ffn", "w2"): 1}, 3, np.random.default_rng(0))
    adapter = convert.lora_params(weights, cfg)
    assert adapter["blocks"].keys() == {"attn", "ffn"}
    assert adapter["blocks"]["attn"]["qkv"]["down"].shape == (cfg.depth, cfg.hidden_size, 1, 3)
    assert_same(convert.lora_torch_state(adapter, cfg), weights)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"hidden_size": 256}, "it has depth 2, hidden_size 128 and .* this model has depth 2, hidden_size 256"),
        ({"depth": 3}, "it has depth 2, hidden_size 128 and .* this model has depth 3, hidden_size 128"),
        ({"depth": 1}, "it has depth 2, hidden_size 128 and .* this model has depth 1, hidden_size 128"),
    ],
)
def test_an_adapter_for_another_model(golden, change, wanted):
    cfg, _ = read(golden, "dit_small", DiTConfig)
    with pytest.raises(ValueError, match=f"the adapter is for another model: {wanted}"):
        convert.lora_params(golden("lora_small_a")[1], dataclasses.replace(cfg, **change))
    adapter = convert.lora_params(golden("lora_small_a")[1], cfg)
    with pytest.raises(ValueError, match=f"the adapter is for another model: {wanted}"):
        convert.lora_torch_state(adapter, dataclasses.replace(cfg, **change))


def test_adapters_that_are_none(golden):
    cfg, weights = read(golden, "dit_small", DiTConfig)
    with pytest.raises(ValueError, match="no adapter of the published key format: wanted names such as"):
        convert.lora_params(weights, cfg)
    broken = adapter_of(cfg, {("ffn", "w1"): 1}, 4, np.random.default_rng(0))
    prefix = f"lora{JOIN}blocks{JOIN}1{JOIN}ffn{JOIN}w1"
    del broken[f"{prefix}.lora_up.weight"]
    broken[f"{prefix}.lora_mid.weight"] = broken[f"{prefix}.alpha_scale"]
    broken[f"lora{JOIN}final.lora_down.weight"] = broken[f"{prefix}.alpha_scale"]
    with pytest.raises(ValueError, match=f"1 missing: {prefix}.lora_up.weight; 2 unexpected: .*final"):
        convert.lora_params(broken, cfg)
