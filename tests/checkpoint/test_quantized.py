"""Eight-bit weights: what is stored, what it costs in accuracy, what is read from float8 files, and what is refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from lcv_jax import convert, train
from lcv_jax.checkpoint import convert as convert_arrays
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.published import open_published
from lcv_jax.checkpoint.safetensors_files import open_folder
from lcv_jax.checkpoint.scaled_fp8 import KINDS, with_scales_applied
from lcv_jax.config import DiTConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.lora import fold
from lcv_jax.models.quantize import is_quantized_kernel, quantize, quantize_kernel
from lcv_jax.pipeline import load_pipeline
from lcv_jax.planning.requests import Networks, TextToVideo, parameter_count, programs_of
from lcv_jax.sampling.options import SamplingOptions

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "tests" / "tiny_checkpoint"
VIDEO = {"height": 32, "width": 48, "num_frames": 5, "num_steps": 2, "max_sequence_length": 16, "output": "latents"}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "weights"
    convert.main([str(PUBLISHED), str(folder), "--quantize", "int8"])
    return folder


def relative(got, want):
    return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


def test_kernels_are_the_nearest_integers_and_the_rest_is_as_published(quantized, tiny_checkpoint):
    plain = dict(store.convert.flatten(store.load_component(tiny_checkpoint, "dit")[1]))
    stored = dict(store.convert.flatten(store.load_component(quantized, "dit", "bfloat16")[1]))
    for path, kernel in plain.items():
        if is_quantized_kernel(path):
            scale = stored[(*path[:-1], "scale")]
            assert (stored[path].dtype, scale.dtype) == (jnp.int8, jnp.float32)
            assert scale.shape == (kernel.shape[0], kernel.shape[2])
            np.testing.assert_allclose(scale, np.abs(kernel).max(axis=1) / 127, rtol=1e-6)
            restored = np.float32(stored[path]) * np.asarray(scale)[:, None]
            assert np.abs(restored - kernel).max() <= 0.5001 * np.asarray(scale).max()
        else:
            np.testing.assert_array_equal(stored[path], kernel.astype(jnp.bfloat16))
    assert len(stored) == len(plain) + 8
    assert store.read_provenance(quantized)["components"]["dit"]["quantized"] == "int8"


def test_a_channel_of_zeros_stays_zero():
    kernel, scale = quantize_kernel(np.zeros((3, 2), np.float32))
    assert not kernel.any()
    assert scale.tolist() == [1, 1]


def test_videos_are_nearly_those_of_the_stored_weights(quantized, tiny_checkpoint):
    plain, eight = load_pipeline(tiny_checkpoint), load_pipeline(quantized)
    want = plain.text_to_video("a cat", **VIDEO)
    assert 0 < relative(eight.text_to_video("a cat", **VIDEO), want) < 0.02
    with_adapter = {**VIDEO, "distilled": True}
    want = plain.text_to_video("a cat", **with_adapter)
    assert relative(eight.text_to_video("a cat", **with_adapter), want) < 0.02
    assert "adapters" in eight._active[1]  # beside the weights, although folding is the default


def test_adapters_fold_before_quantizing(quantized, tiny_checkpoint, tmp_path):
    (name, *_) = store.list_adapters(quantized)
    convert.main([str(PUBLISHED), str(tmp_path / "w"), "--quantize", "int8", "--fold", name])
    cfg, params = store.load_component(tiny_checkpoint, "dit")
    adapter = store.load_adapter(tiny_checkpoint, name, cfg)
    want = quantize(fold(params, [(adapter, 1.0)]))
    got = store.load_component(tmp_path / "w", "dit")[1]
    off = jax.tree.map(lambda a, b: float(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).max()), got, want)
    assert max(off["blocks"]["ffn"]["w1"].values()) <= 1  # an integer at the edge may round either way
    with pytest.raises(ValueError, match="cannot be folded into quantized weights"):
        fold(got, [(adapter, 1.0)])


def block_error(cfg, tokens):
    model = LongCatVideo(dataclasses.replace(cfg, depth=1))
    latents = jax.random.normal(jax.random.key(1), (1, 1, *tokens, cfg.in_channels))
    text = jax.random.normal(jax.random.key(2), (1, 8, cfg.caption_channels))
    inputs = latents, jnp.full((1, 1), 500.0), text, jnp.ones((1, 8), bool)
    params = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
    apply = jax.jit(model.apply)
    want = apply({"params": params}, *inputs)
    return relative(apply({"params": quantize(params)}, *inputs), want)


@pytest.mark.slow
def test_a_block_of_the_released_size_is_off_by_less_than_15_in_1000():
    error = block_error(DiTConfig(), (16, 16))
    assert error < 0.015, error


def as_float8(tensors, convention):
    """The dit as other tools store it in float8."""
    made = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or ".blocks." not in f".{name}":
            made[name] = tensor
            continue
        largest = np.abs(tensor).max(axis=1, keepdims=True) if convention == "channels" else np.abs(tensor).max()
        scale = np.asarray(largest / 448, np.float32)
        made[name] = (tensor / scale).astype(ml_dtypes.float8_e4m3fn)
        module = name.removesuffix(".weight")
        made[f"{module}.scale_weight" if convention == "marker" else f"{module}.weight_scale"] = scale
        if convention == "quant":
            told = json.dumps({"format": "float8_e4m3fn"}).encode()
            made[f"{module}.comfy_quant"] = np.frombuffer(told, np.uint8)
    if convention == "marker":
        made["scaled_fp8"] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    return made


def write_file(path, tensors):
    kinds = {dtype: name for name, dtype in KINDS.items()}
    header, content = {}, b""
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).tobytes()
        offsets = [len(content), len(content) + len(data)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        content += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


WAN = {
    "x_embedder.proj": "patch_embedding", "y_embedder.y_proj": "text_embedding", "t_embedder": "time_embedding",
    "final_layer.linear": "head.head", "final_layer.adaLN_modulation": "head.modulation",
    "adaLN_modulation": "modulation", "pre_crs_attn_norm": "norm3", ".attn.": ".self_attn.", "q_norm": "norm_q",
    "k_norm": "norm_k", "attn.proj": "attn.o", "q_linear": "q",
}  # fmt: skip


def as_comfyui(tensors, prefix):
    """The dit's tensors under the names of ComfyUI's nodes."""
    made = {}
    for name, tensor in tensors.items():
        for published, wan in WAN.items():
            name = name.replace(published, wan)
        name = name.replace("self_attn.proj", "self_attn.o")
        split = {"qkv": "qkv", "kv_linear": "kv"}
        (joined,) = [each for each in split if f".{each}." in name] or [None]
        for number, letter in enumerate(split[joined] if joined else ""):
            size = len(tensor) // len(split[joined])
            made[prefix + name.replace(joined, letter)] = tensor[number * size : (number + 1) * size]
        if not joined:
            made[prefix + name] = tensor
    return made


@pytest.fixture
def published_float8(tmp_path):
    """published_float8(convention, rename) -> (folder, tensors of its dit as published)."""

    def make(convention, rename=lambda tensors: tensors):
        folder = tmp_path / "published"
        shutil.copytree(PUBLISHED, folder)
        tensors = {}
        for path in folder.glob("dit/*.safetensors*"):
            tensors |= load_file(path) if path.suffix == ".safetensors" else {}
            path.unlink()
        write_file(folder / "dit" / "model_fp8.safetensors", as_float8(rename(tensors), convention))
        return folder, tensors

    return make


@pytest.mark.parametrize("convention", ["marker", "quant", "channels"])
def test_float8_files_are_read_and_quantized_again(published_float8, quantized, convention, tmp_path):
    folder, tensors = published_float8(convention)
    (file,) = with_scales_applied(open_folder(folder / "dit", KINDS))
    assert {tensor.name for tensor in file.tensors} == set(tensors)
    for tensor in file.tensors:
        read, want = file.read(tensor).astype(np.float32), tensors[tensor.name].astype(np.float32)
        assert np.abs(read - want).max() <= np.abs(want).max() / 16
    convert.main([str(folder), str(tmp_path / "w"), "--quantize", "int8", "--dtype", "float32"])
    got, want = (store.load_component(path, "dit")[1]["blocks"]["ffn"]["w1"] for path in (tmp_path / "w", quantized))
    restored = [layer["kernel"] * layer["scale"][:, None] for layer in (got, want)]
    assert relative(*restored) < 0.04


@pytest.mark.parametrize(
    "rename",
    [
        lambda tensors: as_comfyui(tensors, ""),
        lambda tensors: as_comfyui(tensors, "model.diffusion_model."),
        lambda tensors: {f"diffusion_model.{name}": tensor for name, tensor in tensors.items()},
    ],
)
def test_names_of_comfyui_are_read(published_float8, rename, tmp_path):
    folder, tensors = published_float8("quant", rename)
    weights = open_published(folder, ["dit"]).networks["dit"]
    assert set(weights.tensors) == set(tensors)
    convert.main([str(folder), str(tmp_path / "w"), "--dtype", "float32", "--components", "dit"])
    got = store.load_component(tmp_path / "w", "dit")[1]
    want = convert_arrays.dit_params(tensors, store.load_config(tmp_path / "w", "dit"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=np.abs(b).max() / 16), got, want)


def refusal(command, arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        command([str(argument) for argument in arguments])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_what_is_refused(quantized, published_float8, tmp_path, capsys):
    convert_to = [tmp_path / "w", "--quantize", "int8"]
    assert "quantized already" in refusal(convert.main, [quantized, *convert_to], capsys)
    assert "needs dit" in refusal(convert.main, [PUBLISHED, *convert_to, "--components", "vae"], capsys)
    message = refusal(convert.main, [quantized, tmp_path / "w", "--to-torch"], capsys)
    assert "turning back into the published layout needs a conversion without --quantize" in message
    training = [
        "configs/toy/pretrain_2.py",
        "--checkpoint",
        quantized,
        "--data.path",
        tmp_path,
        "--run",
        tmp_path / "r",
    ]
    assert "training needs a conversion without --quantize" in refusal(train.main, training, capsys)
    folder, _ = published_float8("quant")
    assert re.search(r"in float8: give --dtype bfloat16", refusal(convert.main, [folder, tmp_path / "w"], capsys))
    assert not (tmp_path / "w").exists()


def test_the_planner_knows_them():
    plain, eight = (
        programs_of(TextToVideo(), SamplingOptions(), Networks(quantized=quantized))[-1].resident["dit"]
        for quantized in (False, True)
    )
    size = [sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for tree in (plain, eight)]
    assert size[0] == 2 * parameter_count(plain)
    assert 0.51 * size[0] < size[1] < 0.54 * size[0]
    distilled = SamplingOptions(distilled=True)
    resident = programs_of(TextToVideo(), distilled, Networks(quantized=True))[-1].resident
    assert resident["adapters"]["blocks"]["ffn"]["w1"]["down"].dtype == jnp.bfloat16
