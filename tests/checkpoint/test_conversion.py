"""The conversion from end to end: the tiny checkpoint there and back, adapters folded, everything that goes wrong."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file, save_file

import convert_torch_weights
from lcv_jax.checkpoint import convert, safetensors_files, store, streaming
from lcv_jax.checkpoint.conversion import convert_checkpoint
from lcv_jax.checkpoint.export import export_checkpoint, open_converted
from lcv_jax.checkpoint.published import find_fold, open_published
from lcv_jax.checkpoint.workspace import workspace
from lcv_jax.models import lora

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "tests" / "tiny_checkpoint"
NETWORKS = ("dit", "vae", "text_encoder")


def weights_of(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_equal_trees(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def assert_same_folder(got, wanted, dtype=None):
    """The same published checkpoint, however it is cut into shards."""
    for name in (*NETWORKS, "lora"):
        new, old = weights_of(got / name), weights_of(wanted / name)
        assert new.keys() == old.keys()
        for key, tensor in old.items():
            tensor = tensor if dtype is None else tensor.astype(dtype)
            assert (new[key].dtype, new[key].shape) == (tensor.dtype, tensor.shape)
            assert new[key].tobytes() == tensor.tobytes(), key
    for path in wanted.rglob("*"):
        if path.is_file() and not path.name.endswith((".safetensors", ".index.json")):
            assert (got / path.relative_to(wanted)).read_bytes() == path.read_bytes()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "tiny"
    convert_checkpoint(open_published(TINY), folder)
    return folder


@pytest.fixture
def published(tmp_path):
    """A copy of the tiny checkpoint to break."""
    return shutil.copytree(TINY, tmp_path / "published")


@pytest.mark.parametrize("name", NETWORKS)
def test_loads_what_was_published(converted, name):
    cfg, params = store.load_component(converted, name)
    assert cfg == convert.NETWORKS[name].config.from_json(json.loads((TINY / name / "config.json").read_text()))
    assert_equal_trees(params, convert.NETWORKS[name].params(weights_of(TINY / name), cfg))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_plain_orbax_restores_it(converted):
    wanted = convert.NETWORKS["dit"].params(weights_of(TINY / "dit"), store.load_config(converted, "dit"))
    with ocp.PyTreeCheckpointer() as checkpointer:
        assert_equal_trees(checkpointer.restore(converted / "dit" / "params"), wanted)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), wanted)
    with ocp.StandardCheckpointer() as checkpointer:
        assert_equal_trees(checkpointer.restore(converted / "dit" / "params", target), wanted)


def test_casts_while_loading(converted):
    cfg, params = store.load_component(converted, "dit", dtype=ml_dtypes.bfloat16)
    wanted = convert.dit_params(weights_of(TINY / "dit"), cfg)
    assert_equal_trees(params, jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), wanted))


def test_loads_onto_shardings(converted):
    """Four devices, each with its quarter of the widest axis; in a process of its own, for the number of devices."""
    program = f"""
import jax, numpy as np
from lcv_jax.checkpoint import store
mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
def rule(path, shape):
    axes = [axis for axis, size in enumerate(shape) if size % 4 == 0]
    spec = [None] * len(shape)
    if axes:
        spec[max(axes, key=lambda axis: shape[axis])] = "x"
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
_, params = store.load_component({str(converted)!r}, "dit", sharding=rule)
_, whole = store.load_component({str(converted)!r}, "dit")
qkv = params["blocks"]["attn"]["qkv"]["kernel"]
assert qkv.addressable_shards[0].data.shape == (*qkv.shape[:2], qkv.shape[2] // 4), qkv.sharding
jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), params, whole)
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
_, copies = store.load_component({str(converted)!r}, "vae", sharding=everywhere)
assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(copies))
"""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, check=True, timeout=1200)


def test_adapters_load_from_the_folder_and_from_a_file(converted):
    cfg = store.load_config(converted, "dit")
    assert store.list_adapters(converted) == ["cfg_step_lora", "refinement_lora"]
    for name in store.list_adapters(converted):
        path = TINY / "lora" / f"{name}.safetensors"
        wanted = convert.lora_params(load_file(path), cfg)
        assert_equal_trees(store.load_adapter(converted, name, cfg), wanted)
        assert_equal_trees(store.load_adapter(converted, path, cfg), wanted)
        assert_equal_trees(store.load_adapter("elsewhere", converted / "adapters" / name, cfg), wanted)


def test_the_rest_is_there(converted):
    assert store.load_scheduler_config(converted).shift == 12
    assert (store.tokenizer_folder(converted) / "tokenizer.json").read_bytes() == (
        TINY / "tokenizer" / "tokenizer.json"
    ).read_bytes()


def test_says_where_it_came_from(converted):
    provenance = store.read_provenance(converted)
    assert provenance["source"] == str(TINY)
    assert provenance["dtype"] == "source"
    assert provenance["components"]["dit"]["dtypes"] == ["float32"]
    assert {"jax", "orbax-checkpoint"} <= provenance["versions"].keys()
    for name in (*NETWORKS, "tokenizer"):
        files = provenance["components"][name]["files"]
        assert files
        for file in files:
            content = (TINY / name / file["name"]).read_bytes()
            assert (file["size"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_there_and_back_is_bit_equal(converted, tmp_path):
    export_checkpoint(open_converted(converted), tmp_path / "again")
    assert_same_folder(tmp_path / "again", TINY)


def test_streams_in_slices_blocks_and_shards(published, tmp_path, monkeypatch):
    """The ways of a large checkpoint: nothing gathered, tiles, an embedding in blocks and twice, several shards."""
    monkeypatch.setattr(streaming, "SMALL_BYTES", 0)
    monkeypatch.setattr(streaming, "TILE_BYTES", 1 << 10)
    monkeypatch.setattr(streaming, "IN_FLIGHT_BYTES", 1 << 14)
    monkeypatch.setattr(safetensors_files, "BLOCK_BYTES", 1 << 13)
    file = published / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].copy()}, file)

    seen = []
    convert_checkpoint(open_published(published), tmp_path / "c", progress=lambda name, size: seen.append((name, size)))
    assert sum(size for _, size in seen) == sum(path.stat().st_size for path in published.rglob("*.safetensors"))
    layers = tmp_path / "c" / "dit" / "params" / "blocks.attn.qkv.kernel" / "c"
    assert sorted(path.name for path in layers.iterdir()) == ["0", "1"]  # a file a layer
    embedding = tmp_path / "c" / "text_encoder" / "params" / "shared.weight" / "c"
    assert len(list(embedding.iterdir())) == 800 // 64 + 1
    with ocp.PyTreeCheckpointer() as checkpointer:
        assert_equal_trees(
            checkpointer.restore(tmp_path / "c" / "text_encoder" / "params"),
            convert.umt5_params(tensors, store.load_config(tmp_path / "c", "text_encoder")),
        )

    written = []
    export_checkpoint(
        open_converted(tmp_path / "c"),
        tmp_path / "again",
        max_shard_bytes=200_000,
        progress=lambda name, size: written.append(size),
    )
    assert len(list((tmp_path / "again" / "dit").glob("*-of-*.safetensors"))) > 3
    assert sum(written) == sum(open_converted(tmp_path / "c").sizes.values())
    assert_same_folder(tmp_path / "again", published)
    open_published(tmp_path / "again")  # its index agrees with its shards


def test_stores_bfloat16(tmp_path):
    convert_checkpoint(open_published(TINY), tmp_path / "c", dtype=ml_dtypes.bfloat16)
    assert store.read_provenance(tmp_path / "c")["dtype"] == "bfloat16"
    assert store.read_provenance(tmp_path / "c")["components"]["dit"]["dtypes"] == ["bfloat16"]
    export_checkpoint(open_converted(tmp_path / "c"), tmp_path / "again")
    assert_same_folder(tmp_path / "again", TINY, ml_dtypes.bfloat16)
    convert_checkpoint(open_published(tmp_path / "again"), tmp_path / "c2")  # bfloat16 all the way
    assert_equal_trees(store.load_component(tmp_path / "c2", "dit")[1], store.load_component(tmp_path / "c", "dit")[1])


@pytest.mark.parametrize("dtype", [None, ml_dtypes.bfloat16])
def test_folds_adapters(tmp_path, dtype):
    """kernel += multiplier * alpha_scale * down @ up, pair by pair, restated here, and as the model's own `fold`."""
    source = open_published(TINY, ["dit", "lora"])
    folds = [
        find_fold(source, "cfg_step_lora"),
        find_fold(source, str(TINY / "lora" / "refinement_lora.safetensors=-0.5")),
    ]
    convert_checkpoint(source, tmp_path / "c", dtype=dtype, folds=folds)
    cfg, params = store.load_component(tmp_path / "c", "dit")
    base = convert.dit_params(weights_of(TINY / "dit"), cfg)
    files = [TINY / "lora" / f"{name}.safetensors" for name in ("cfg_step_lora", "refinement_lora")]
    adapters = [store.load_adapter(tmp_path / "c", file, cfg) for file in files]  # as published, not as stored

    kernel = base["blocks"]["cross_attn"]["kv_linear"]["kernel"].astype(np.float64)
    for adapter, multiplier in zip(adapters, (1.0, -0.5), strict=True):
        pairs = jax.tree.map(np.asarray, adapter["blocks"]["cross_attn"]["kv_linear"])
        for layer, pair in np.ndindex(cfg.depth, 2):
            half = slice(pair * cfg.hidden_size, (pair + 1) * cfg.hidden_size)
            delta = pairs["down"][layer, :, pair].astype(np.float64) @ pairs["up"][layer, pair]
            kernel[layer, :, half] += multiplier * pairs["alpha_scale"][layer] * delta
    got = np.asarray(params["blocks"]["cross_attn"]["kv_linear"]["kernel"])
    np.testing.assert_allclose(got.astype(np.float64), kernel, rtol=1e-5 if dtype is None else 2**-8, atol=1e-6)

    whole = lora.fold(jax.tree.map(np.asarray, base), list(zip(adapters, (1.0, -0.5), strict=True)))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        b = np.asarray(b) if dtype is None else np.asarray(b).astype(dtype)
        np.testing.assert_allclose(
            np.asarray(a, np.float32), b.astype(np.float32), rtol=2e-2 if dtype else 1e-6, atol=1e-7
        )
    folded = store.read_provenance(tmp_path / "c")["components"]["dit"]["folded"]
    assert [(fold["name"], fold["multiplier"]) for fold in folded] == [
        ("cfg_step_lora", 1.0),
        ("refinement_lora", -0.5),
    ]
    content = (TINY / "lora" / "cfg_step_lora.safetensors").read_bytes()
    assert folded[0]["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()


def run(monkeypatch, capsys, *arguments):
    """The command line in this process: exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["convert_torch_weights.py", *map(str, arguments)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        convert_torch_weights.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def assert_fails(monkeypatch, capsys, wanted, *arguments):
    status, _, stderr = run(monkeypatch, capsys, *arguments)
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 2, stderr
    assert len(lines) == 1
    assert stderr.endswith(lines[0] + "\n")
    assert "Traceback" not in stderr
    assert wanted in lines[0], lines[0]


def test_command_line(monkeypatch, capsys, tmp_path):
    status, out, _ = run(
        monkeypatch,
        capsys,
        TINY,
        tmp_path / "c",
        "--dtype",
        "bfloat16",
        "--components",
        "dit,vae",
        "--fold",
        "cfg_step_lora=0.5",
    )
    assert status == 0
    assert f"wrote {tmp_path / 'c'}" in out
    provenance = store.read_provenance(tmp_path / "c")
    assert list(provenance["components"]) == ["dit", "vae"]
    assert provenance["components"]["dit"]["folded"][0]["multiplier"] == 0.5
    assert run(monkeypatch, capsys, tmp_path / "c", tmp_path / "again", "--to-torch")[0] == 0
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["dit", "vae"]
    with pytest.raises(ValueError, match="converted without its text_encoder; it has dit, vae"):
        store.load_component(tmp_path / "c", "text_encoder")
    with pytest.raises(ValueError, match="without its tokenizer"):
        store.tokenizer_folder(tmp_path / "c")
    with pytest.raises(ValueError, match="without its scheduler"):
        store.load_scheduler_config(tmp_path / "c")


def test_adapters_may_be_absent(published, tmp_path):
    shutil.rmtree(published / "lora")
    convert_checkpoint(open_published(published), tmp_path / "c")
    assert store.list_adapters(tmp_path / "c") == []
    with pytest.raises(ValueError, match="it has no adapters"):
        store.load_adapter(tmp_path / "c", "cfg_step_lora", store.load_config(tmp_path / "c", "dit"))


def test_adapters_alone(tmp_path):
    convert_checkpoint(open_published(TINY, ["lora"]), tmp_path / "c")
    export_checkpoint(open_converted(tmp_path / "c"), tmp_path / "again")
    assert weights_of(tmp_path / "again" / "lora").keys() == weights_of(TINY / "lora").keys()
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["lora"]


def test_check_reads_and_writes_nothing(monkeypatch, capsys, published):
    before = sorted(published.parent.rglob("*"))
    status, out, _ = run(monkeypatch, capsys, published, "--check")
    assert status == 0
    assert "211,648" in out  # the transformer's parameters
    assert "nothing is missing" in out
    assert sorted(published.parent.rglob("*")) == before


def truncate(folder):
    path = folder / "dit" / "diffusion_pytorch_model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def change_config(folder, **fields):
    path = folder / "dit" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def second_embedding(folder):
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"] + 1}, path)


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        (truncate, "00002-of-00003.safetensors is truncated"),
        (lambda folder: next((folder / "dit").glob("*-00003-*")).unlink(), "lacks diffusion_pytorch_model-00003"),
        (lambda folder: shutil.rmtree(folder / "vae"), "has no vae: --components dit,text_encoder,tokenizer,"),
        (lambda folder: shutil.rmtree(folder), "is no folder; wanted a published checkpoint"),
        (lambda folder: (folder / "dit" / "config.json").unlink(), "dit has no config.json"),
        (lambda folder: (folder / "dit" / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda folder: (folder / "tokenizer" / "tokenizer_config.json").unlink(), "has no tokenizer_config.json"),
        (
            lambda folder: change_config(folder, hiden_size=3),
            "unknown field 'hiden_size' (did you mean 'hidden_size'?)",
        ),
        (lambda folder: change_config(folder, depth=3), "missing: blocks.2."),
        (lambda folder: change_config(folder, caption_channels=31), "misshapen: y_embedder.y_proj.0.weight"),
        (second_embedding, "encoder.embed_tokens.weight must equal shared.weight"),
        (lambda folder: (folder / "lora" / "x.safetensors").write_bytes(b"?"), "x.safetensors is no safetensors file"),
    ],
)
def test_bad_sources(monkeypatch, capsys, published, tmp_path, damage, wanted):
    damage(published)
    assert_fails(monkeypatch, capsys, wanted, published, tmp_path / "out" / "dest")
    # Nothing is left behind, not even a hidden folder.
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["DEST", "--components", "dit,clip"], "no component clip; there are dit, vae, text_encoder"),
        (["DEST", "--fold", "nope"], "nope is neither a file nor in"),
        (["DEST", "--fold", "cfg_step_lora=much"], "'much' is no number"),
        (["DEST", "--fold", "cfg_step_lora=nan"], "the multiplier must be finite"),
        (["DEST", "--components", "vae", "--fold", "cfg_step_lora"], "--fold needs dit among the components"),
        ([], "DEST is missing"),
        (["DEST", "--check"], "--check writes nothing: leave out"),
        (["DEST", "--to-torch"], "is a published checkpoint; convert it first: python convert_torch_weights.py"),
        (["DEST", "--to-torch", "--dtype", "float32"], "--to-torch writes what is stored"),
        (["--check", "--to-torch"], "give one of them"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path, arguments, wanted):
    filled = [str(tmp_path / "dest") if argument == "DEST" else argument for argument in arguments]
    assert_fails(monkeypatch, capsys, wanted, TINY, *filled)
    assert not list(tmp_path.iterdir())


def test_adapters_of_another_model_are_not_folded(monkeypatch, capsys, tmp_path):
    other = ROOT / "tests" / "golden" / "lora_small_a.safetensors"
    wanted = "the adapter is for another model: it has depth 2, hidden_size 128"
    assert_fails(monkeypatch, capsys, wanted, TINY, tmp_path / "c", "--fold", other)


def test_never_overwrites(monkeypatch, capsys, tmp_path):
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "precious").write_text("")
    assert_fails(monkeypatch, capsys, "exists and is not empty", TINY, tmp_path / "dest")
    (tmp_path / "dest" / "precious").unlink()
    assert run(monkeypatch, capsys, TINY, tmp_path / "dest")[0] == 0  # an empty folder is taken
    assert_fails(monkeypatch, capsys, "is converted already", tmp_path / "dest", tmp_path / "x")


def test_too_small_a_disk_is_seen_before(monkeypatch, capsys, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    assert_fails(
        monkeypatch,
        capsys,
        "dest: this needs up to 1.4 MB: the disk mounted at",
        TINY,
        tmp_path / "dest",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"),
        ValueError("RESOURCE_EXHAUSTED: Error writing local file [OS error 28: ENOSPC No space left on device]"),
    ],
)
def test_a_disk_that_fills_up(monkeypatch, capsys, tmp_path, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(streaming._Sink, "write", fail)
    assert_fails(monkeypatch, capsys, "dest: no space left on device: the disk mounted at", TINY, tmp_path / "dest")
    assert not list(tmp_path.iterdir())


SLOW = """
import signal, sys, time
import convert_torch_weights
from lcv_jax.checkpoint import conversion

parts = conversion._parts

def slowly(*args):
    for n, part in enumerate(parts(*args)):
        yield part
        if n == 5:
            print("half way", flush=True)
            time.sleep(60)

conversion._parts = slowly
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs tests in the background has it ignored
convert_torch_weights.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stop_half_way_leaves_no_checkpoint(tmp_path, number):
    command = [sys.executable, "-c", SLOW, str(TINY), str(tmp_path / "dest")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half way\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=1200)
    assert not (tmp_path / "dest").exists()
    if number == signal.SIGKILL:
        assert sorted(path.name for path in tmp_path.iterdir()) == [".dest.lock", ".dest.partial"]
        with workspace(tmp_path / "dest", 0) as work:
            assert not list(work.iterdir()), "what the killed process left is there"
        assert [path.name for path in tmp_path.iterdir()] == ["dest"]
    else:
        assert process.returncode == 130
        assert "interrupted" in stderr
        assert "Traceback" not in stderr
        assert not list(tmp_path.iterdir())


def test_folders_that_are_no_checkpoint(converted, tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        store.load_component(tmp_path / "nowhere", "dit")
    with pytest.raises(ValueError, match=r"is no checkpoint: it has no lcv_jax.json"):
        store.load_component(tmp_path, "dit")
    with pytest.raises(ValueError, match=f"convert it first: python convert_torch_weights.py {TINY} DEST"):
        store.load_component(TINY, "dit")
    shutil.copyfile(converted / "lcv_jax.json", tmp_path / "lcv_jax.json")
    provenance = json.loads((converted / "lcv_jax.json").read_text())
    (tmp_path / "lcv_jax.json").write_text(json.dumps(provenance | {"version": 7}))
    with pytest.raises(ValueError, match=r"another version: got lcv_jax checkpoint 7, wanted lcv_jax checkpoint 1"):
        store.load_component(tmp_path, "dit")
    (tmp_path / "lcv_jax.json").write_text("{}")
    with pytest.raises(ValueError, match="lcv_jax.json: 'format' is missing; convert again"):
        store.load_component(tmp_path, "dit")


def test_an_adapter_of_another_transformer_of_the_same_shape_warns(converted, tmp_path):
    cfg, adapter = store.load_config(converted, "dit"), converted / "adapters" / "cfg_step_lora"
    other = tmp_path / "other"
    shutil.copytree(converted, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.check_adapter(other, adapter, cfg)  # a copy
        store.check_adapter(other, "cfg_step_lora", cfg)
    provenance = json.loads((other / "lcv_jax.json").read_text())
    provenance["components"]["dit"]["files"][0]["sha256"] = "0" * 64
    for name in ("lcv_jax.json", "checksums.json"):
        (other / name).unlink()
    (other / "lcv_jax.json").write_text(json.dumps(provenance))
    store.write_checksums(other)
    with pytest.warns(UserWarning, match="has the same shape and other weights"):
        store.check_adapter(other, adapter, cfg)


def test_adapters_that_do_not_fit(converted):
    cfg = store.load_config(converted, "dit")
    with pytest.raises(ValueError, match=r"adapter nope: there is none in .*; it has cfg_step_lora, refinement_lora"):
        store.load_adapter(converted, "nope", cfg)
    with pytest.raises(ValueError, match="there is none in"):
        store.load_adapter("elsewhere", converted / "adapters" / "nope", cfg)
    deeper = dataclasses.replace(cfg, depth=3)
    with pytest.raises(ValueError, match=r"adapters/cfg_step_lora: the adapter is for another model: it has depth 2"):
        store.check_adapter("elsewhere", converted / "adapters" / "cfg_step_lora", deeper)  # before weights load
    with pytest.raises(ValueError, match=r"adapter cfg_step_lora: the adapter is for another model: it has depth 2"):
        store.load_adapter(converted, "cfg_step_lora", dataclasses.replace(cfg, depth=3))
    with pytest.raises(ValueError, match=r"the adapter is for another model: it has depth 2"):
        store.load_adapter(converted, TINY / "lora" / "cfg_step_lora.safetensors", dataclasses.replace(cfg, depth=3))
