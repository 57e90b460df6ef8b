"""Adapters of other tools: what each layout adds to a layer is the same number, and nothing is lost on the way back."""

import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lcv_jax import convert_adapter
from lcv_jax.checkpoint import convert, store
from lcv_jax.checkpoint.adapter_formats import STACKED, advice, read_pairs, weighted_sum, write_pairs
from lcv_jax.checkpoint.names import adapted_linears
from lcv_jax.config import DiTConfig

CFG = DiTConfig(depth=2, hidden_size=8, num_heads=2, caption_channels=8, adaln_tembed_dim=8)
LAYOUTS = ("kohya", "comfyui", "diffusers", "peft")
JOIN = "___lorahyphen___"


def published(rank=4, scale=0.5, blocks=(0, 1), dtype=np.float32):
    rng, tensors = np.random.default_rng(0), {}
    for block in blocks:
        for (module, linear), (width_in, width_out) in adapted_linears(CFG).items():
            count = STACKED.get(linear, 1)
            stem = JOIN.join(("lora", "blocks", str(block), module, linear))
            tensors[f"{stem}.lora_down.weight"] = rng.normal(size=(count * rank, width_in)).astype(dtype)
            for number in range(count):
                up = rng.normal(size=(width_out // count, rank)).astype(dtype)
                tensors[f"{stem}.lora_up.weight" if count == 1 else f"{stem}.lora_up.blocks.{number}.weight"] = up
            tensors[f"{stem}.alpha_scale"] = np.array(scale, np.float32)
    return tensors


def deltas(tensors):
    """What is added to each layer, by this test's own reading of the published layout."""
    found = {}
    for name in tensors:
        if name.endswith(".lora_down.weight"):
            stem = name.removesuffix(".lora_down.weight")
            ups = [tensors[up] for up in sorted(tensors) if up.startswith(f"{stem}.lora_up")]
            downs = np.split(tensors[name].astype(np.float64), len(ups))
            scale = float(tensors[f"{stem}.alpha_scale"])
            found[stem] = scale * np.concatenate([up @ down for up, down in zip(ups, downs, strict=True)])
    return found


def letters(stem):
    """A layer's name from its block on, without what separates its parts."""
    return re.sub(r"[^a-z0-9]", "", stem[stem.index("blocks") :].replace(JOIN, ""))


def same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_another_tool_reads_is_what_was_trained(layout):
    """Restated from the tools' definitions: scale * up @ down, with the scale alpha / rank, or 1 without alpha."""
    tensors = published(scale=0.3)
    written = write_pairs(read_pairs(tensors, CFG), layout, CFG)
    down = ".lora_down.weight" if layout == "kohya" else ".lora_A.weight"
    wanted = {letters(name): delta for name, delta in deltas(tensors).items()}
    stems = [name.removesuffix(down) for name in written if name.endswith(down)]
    assert len(stems) == len(wanted) == 16
    for stem in stems:
        low = written[stem + down].astype(np.float64)
        alpha = written.get(f"{stem}.alpha", np.float32(low.shape[0]))
        up = written[stem + down.replace("down", "up").replace("_A", "_B")]
        np.testing.assert_allclose(float(alpha) / low.shape[0] * up @ low, wanted[letters(stem)], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_the_same_file(layout, dtype):
    tensors = published(dtype=dtype, scale=1.0 if layout in ("diffusers", "peft") else 0.5)
    back = write_pairs(read_pairs(write_pairs(read_pairs(tensors, CFG), layout, CFG), CFG), "published", CFG)
    same(tensors, back)
    convert.lora_params(back, CFG)


def test_a_scale_without_alpha_goes_into_the_factor_exactly_if_it_can():
    tensors = published(scale=0.5, dtype=ml_dtypes.bfloat16)
    written = write_pairs(read_pairs(tensors, CFG), "peft", CFG)
    assert written["base_model.model.blocks.0.attn.proj.lora_B.weight"].dtype == ml_dtypes.bfloat16
    back = deltas(write_pairs(read_pairs(written, CFG), "published", CFG))
    for name, delta in deltas(tensors).items():
        np.testing.assert_array_equal(back[name], delta)
    odd = write_pairs(read_pairs(published(scale=0.3, dtype=ml_dtypes.bfloat16), CFG), "peft", CFG)
    assert odd["base_model.model.blocks.0.attn.proj.lora_B.weight"].dtype == np.float32


def test_some_layers_and_ranks_that_differ_are_filled_with_zeros():
    rng = np.random.default_rng(1)
    tensors = {}
    for block, rank in ((0, 2), (1, 3)):
        stem = f"lora_unet_blocks_{block}_attn_qkv"
        tensors[f"{stem}.lora_down.weight"] = rng.normal(size=(rank, 8)).astype(np.float32)
        tensors[f"{stem}.lora_up.weight"] = rng.normal(size=(24, rank)).astype(np.float32)
        tensors[f"{stem}.alpha"] = np.array(4.0, np.float32)
    only = {name: tensor for name, tensor in tensors.items() if "blocks_1" in name}
    for given, covered in ((tensors, (0, 1)), (only, (1,))):
        made = write_pairs(read_pairs(given, CFG), "published", CFG)
        convert.lora_params(made, CFG)
        for block, delta in enumerate(deltas(made).values()):
            stem = f"lora_unet_blocks_{block}_attn_qkv"
            wanted = 0.0
            if block in covered:
                low, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
                wanted = 4.0 / low.shape[0] * up.astype(np.float64) @ low
            np.testing.assert_allclose(delta, np.broadcast_to(wanted, (24, 8)), rtol=1e-6)


def test_alpha_in_a_published_layout_is_divided_by_the_rank():
    """What one trainer writes: published names, with alpha instead of the scale."""
    tensors = {name.replace("alpha_scale", "alpha"): value for name, value in published(rank=4, scale=4.0).items()}
    pairs = read_pairs(tensors, CFG)
    assert pairs[0, "attn", "proj"].scale == 1.0


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["lora_unet_blocks_0_attn_qkv.dora_scale"], "DoRA"),
        (["lora_unet_blocks_0_attn_qkv.lokr_w1"], "LoKr"),
        (["lora_unet_blocks_0_attn_qkv.hada_w1_a"], "LoHa"),
        (["diffusion_model.blocks.0.attn.qkv.diff"], "full differences"),
        (["lora_te1_text_model.lora_down.weight"], "text encoder"),
        (["transformer.blocks.0.attn.qkv.lora_A.weight"], r"layout of diffusers: `lcv convert-adapter"),
        (["weights"], "unknown"),
    ],
)
def test_formats_are_recognised_by_name(names, wanted):
    assert wanted in advice(names)


def test_tensors_without_a_place_are_listed():
    tensors = {"transformer.blocks.0.attn.to_q.lora_A.weight": np.zeros((2, 8), np.float32)}
    with pytest.raises(ValueError, match=r"1 tensors have no place in this transformer: .*to_q"):
        read_pairs(tensors, CFG)
    wide = {
        f"transformer.blocks.0.attn.proj.{half}.weight": np.zeros((2, 2), np.float32) for half in ("lora_A", "lora_B")
    }
    with pytest.raises(ValueError, match="for another model: block 0, attn.proj"):
        read_pairs(wide, CFG)


def test_a_weighted_sum_adds_what_each_adds_times_its_weight():
    one, other = published(rank=4, scale=0.5), published(rank=2, scale=0.25, blocks=(1,))
    pairs = weighted_sum([(read_pairs(one, CFG), 0.25), (read_pairs(other, CFG), -2.0)])
    written = write_pairs(pairs, "published", CFG)
    first, second, found = deltas(one), deltas(other), deltas(written)
    assert found.keys() == first.keys()
    for stem, delta in found.items():
        np.testing.assert_allclose(delta, 0.25 * first[stem] - 2 * second.get(stem, 0), atol=1e-6)
    # Slices keep their own pairs: the rank of a slice is the sum of two, not three times that.
    (down,) = {
        tensor.shape for name, tensor in written.items() if "1___lorahyphen___attn___lorahyphen___qkv.lora_down" in name
    }
    assert down == (3 * 6, CFG.hidden_size)


def test_the_command(tiny_checkpoint, tmp_path, capsys):
    cfg = store.load_config(tiny_checkpoint, "dit")
    name = store.list_adapters(tiny_checkpoint)[0]
    adapter = store.load_adapter(tiny_checkpoint, name, cfg)
    state = {key: np.asarray(value) for key, value in convert.lora_torch_state(adapter, cfg).items()}
    save_file(state, tmp_path / "mine.safetensors")
    flags = ["--checkpoint", str(tiny_checkpoint)]
    convert_adapter.main([str(tmp_path / "mine.safetensors"), str(tmp_path / "k.safetensors"), "--to", "kohya", *flags])
    assert "published to kohya" in capsys.readouterr().out
    with pytest.raises(ValueError, match="layout of kohya: `lcv convert-adapter"):
        store.check_adapter(tiny_checkpoint, tmp_path / "k.safetensors", cfg)
    both = [str(tmp_path / "mine.safetensors"), str(tmp_path / "both.safetensors"), "--weight", "0.5", *flags]
    convert_adapter.main([*both, "--add", str(tmp_path / "k.safetensors"), "0.25"])
    with pytest.raises(SystemExit):
        convert_adapter.main([*both, "--add", str(tmp_path / "k.safetensors"), "nan"])
    assert "got nan" in capsys.readouterr().err
    summed, once = deltas(load_file(tmp_path / "both.safetensors")), deltas(state)
    for stem, delta in summed.items():
        np.testing.assert_allclose(delta, 0.75 * once[stem], atol=1e-5)
    convert_adapter.main([str(tmp_path / "k.safetensors"), str(tmp_path / "back.safetensors"), *flags])
    same(load_file(tmp_path / "back.safetensors"), state)
    store.check_adapter(tiny_checkpoint, tmp_path / "back.safetensors", cfg)
    with pytest.raises(SystemExit):
        convert_adapter.main([str(tmp_path / "k.safetensors"), str(tmp_path / "back.safetensors"), *flags])
    assert "not exist yet" in capsys.readouterr().err
