"""Weights in the host's memory: the same bits as on the device, what is refused, and XLA's schedule for a GPU."""

import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax import plan
from lcv_jax.checkpoint import store, streamed
from lcv_jax.models import dit
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.quantize import quantize
from lcv_jax.models.streamed import PackedLayers, _write_row, pack, packed_shapes, replace_stack, resting_place
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.pipeline import load_pipeline
from lcv_jax.planning import compiling
from lcv_jax.planning.requests import Networks, TextToVideo, parameter_shapes, programs_of
from lcv_jax.sampling.options import SamplingOptions

TINY = {"num_frames": 5, "max_sequence_length": 16, "output": "latents"}
runs_longer = pytest.mark.usefixtures("some_optimizations")


def layers_of(stack):
    depth = jax.tree.leaves(stack)[0].shape[0]
    return [jax.tree.map(lambda leaf, number=number: np.asarray(leaf[number]), stack) for number in range(depth)]


def test_layers_come_out_of_their_rows_as_they_went_in():
    key = jax.random.key(0)
    kernel = jax.random.normal(key, (3, 5, 7))
    stack = {"a": {"kernel": kernel, "bias": kernel[:, 0].astype(jnp.bfloat16)}, "b": (10 * kernel).astype(jnp.int8)}
    packed = pack(layers_of(stack), 3, resting_place())
    assert packed.rows_PN.sharding.memory_kind == "pinned_host"
    assert packed_shapes(stack).rows_PN.shape == packed.rows_PN.shape
    for number in range(3):
        layer = packed.layer(jnp.asarray(np.asarray(packed.rows_PN)[number]))
        want = jax.tree.map(lambda leaf, number=number: leaf[number], stack)
        jax.tree.map(lambda got, leaf: np.testing.assert_array_equal(got, leaf, strict=True), layer, want)


@pytest.fixture(scope="module")
def both(tiny_checkpoint):
    resident = load_pipeline(tiny_checkpoint, fold_adapters=False)
    streaming = load_pipeline(tiny_checkpoint, weights="stream", keep_text_encoder="host")
    return resident, streaming


def assert_equal_runs(both, method, *arguments, **options):
    want, got = (getattr(pipeline, method)(*arguments, **{**TINY, **options}) for pipeline in both)
    np.testing.assert_array_equal(got, want)


@runs_longer
def test_guided_continuation_with_a_step_cache_has_the_same_bits(both):
    clip = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)
    options = {"num_cond_frames": 1, "size": (32, 48), "num_steps": 20, "step_cache": 0.4}
    assert_equal_runs(both, "continue_video", clip, "a cat", **options)
    assert both[1].skipped_steps
    assert both[1].skipped_steps == both[0].skipped_steps
    for network, stack in streamed.STACKS.items():
        params = both[1].params(network)
        for name in stack:
            params = params[name]
        assert isinstance(params, PackedLayers)
        assert params.rows_PN.sharding.memory_kind == "pinned_host"


@runs_longer
def test_sparse_attention_with_adapters_has_the_same_bits(both):
    options = {"height": 64, "width": 64, "num_frames": 13, "sparse": True, "distilled": True, "num_steps": 2}
    assert_equal_runs(both, "text_to_video", ["a cat", "a dog"], **options)


@pytest.mark.parametrize("change", [lambda params: params, quantize])
def test_samples_in_turn_as_on_a_gpu(tiny_checkpoint, monkeypatch, change):
    cfg, params = store.load_component(tiny_checkpoint, "dit")
    params = change(params)
    model, key = LongCatVideo(cfg), jax.random.key(0)
    text = jax.random.normal(key, (2, 16, cfg.caption_channels))
    inputs = jax.random.normal(key, (2, 2, 4, 4, 16)), jnp.full((2, 2), 500.0), text, jnp.ones((2, 16), bool)
    condition = jax.random.normal(key, (1, 1, 4, 4, 16))

    @jax.jit
    def run(params):
        cache = model.apply({"params": params}, condition, method="encode_condition")
        return model.apply({"params": params}, *inputs, 0, cache)

    want = run(params)
    monkeypatch.setattr(dit, "target_platform", lambda: "gpu")
    layers = replace_stack(params, ("blocks",), lambda blocks: pack(layers_of(blocks), cfg.depth, resting_place()))
    np.testing.assert_allclose(run(layers), want, atol=1e-4)


def test_without_pinned_memory_it_says_so_and_works_resident(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("lcv_jax.pipeline.resting_place", lambda: None)
    with pytest.warns(UserWarning, match="has no pinned host memory; the weights stay on the device"):
        pipeline = load_pipeline(tiny_checkpoint, weights="stream")
    assert pipeline.weights == "resident"
    assert not isinstance(pipeline.params("dit")["blocks"], PackedLayers)


def test_too_little_host_memory_is_said_before_loading(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(store, "load_component", lambda *_: pytest.fail("weights were loaded"))
    monkeypatch.setattr(streamed, "available_host_bytes", lambda: 1000)
    with pytest.raises(ValueError, match=r"weights=stream needs \d+\.\d GB of host memory .* 0\.0 GB are available"):
        load_pipeline(tiny_checkpoint, weights="stream")
    monkeypatch.undo()
    sizes = [streamed.layer_bytes(tiny_checkpoint, network, None) for network in streamed.STACKS]
    everything = streamed.layer_bytes(tiny_checkpoint, "text_encoder", None, all_of_it=True)
    text_encoder = store.load_component(tiny_checkpoint, "text_encoder")[1]
    assert everything == sum(leaf.nbytes for leaf in jax.tree.leaves(text_encoder)) > sizes[1]
    loaded = store.load_component(tiny_checkpoint, "dit")[1]["blocks"]
    assert sizes[0] == sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    assert streamed.available_host_bytes() > sum(sizes)


LOADING = """
import resource
import sys
import jax
import numpy as np
from lcv_jax.models.streamed import pack, resting_place

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

depth, size, place = 40, 8_000_000, resting_place()
pack([{"a": np.zeros(size, np.uint8)}] * 2, 2, place)  # what compiling takes
begun = most()
packed = pack(({"a": np.full(size, number, np.uint8)} for number in range(depth)), depth, place)
assert np.asarray(packed.rows_PN)[:, -257].tolist() == list(range(depth))
print((most() - begun) / (depth * size))
"""


def test_loading_holds_the_layers_about_once():
    """As a share of the rows; a process of its own has the peak of its memory to itself."""
    done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.25


def test_several_devices_are_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match="weights=stream is for one device"):
        load_pipeline(tiny_checkpoint, weights="stream", mesh=make_mesh(data=2, devices=jax.devices()[:2]))


def streamed_program(**networks):
    programs = programs_of(
        TextToVideo(), SamplingOptions(), Networks(**networks), weights="stream", keep_text_encoder="host"
    )
    (program,) = [program for program in programs if program.name == "denoise"]
    return program


def test_the_planner_keeps_layers_in_the_host():
    machine = compiling.Machine(devices=jax.devices()[:1])
    shapes = parameter_shapes(Networks(), "dit", jnp.dtype("bfloat16"))
    blocks = compiling._bytes(shapes["blocks"])
    program = streamed_program()
    assert compiling._streamed_bytes(program.resident["dit"]) == pytest.approx(blocks, rel=1e-4)
    rest = sum(leaf.size * 2 for name, tree in shapes.items() if name != "blocks" for leaf in jax.tree.leaves(tree))
    assert machine.bytes_each(program.resident["dit"], "dit") == rest
    assert 13.5e9 < compiling._streamed_bytes(streamed_program(quantized=True).resident["dit"]) < 14.5e9
    text_encoder = parameter_shapes(Networks(), "text_encoder", jnp.dtype("bfloat16"))
    assert compiling.host_bytes(program) == pytest.approx(blocks + compiling._bytes(text_encoder), rel=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="no XLA compiler for GPUs")
@pytest.mark.parametrize("gpu", ["h200", "rtx4090"])
def test_each_layer_is_one_copy_that_spans_the_layer_before(gpu):
    machine = plan.Devices(gpu=gpu).machine()
    program = streamed_program()
    arguments = compiling.placed_arguments(program, machine)
    compiled = compiling.compile_program(program.function, arguments, program.options, machine)
    (body,) = [text for text in compiled.text.split("\n\n") if re.search(r"fusion-start\(.*kind=kCustom", text)]
    lines = body.splitlines()
    (start,) = [i for i, line in enumerate(lines) if "fusion-start(" in line]
    (done,) = [i for i, line in enumerate(lines) if "fusion-done(" in line]
    (layer,) = [i for i, line in enumerate(lines) if " while(" in line]
    assert start < layer < done  # the layer that computes lies between the start and the end of the next one's copy
    assert "S(5)" in lines[start]
    assert compiled.memory.host_argument_size_in_bytes > 27e9
    device = compiled.memory.argument_size_in_bytes + compiled.memory.temp_size_in_bytes
    assert device < 6e9


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="no XLA compiler for GPUs")
def test_a_gpu_writes_a_row_in_place():
    machine = plan.Devices(gpu="rtx4090").machine()
    rows_PN = machine.place(packed_shapes(parameter_shapes(Networks(), "dit", jnp.dtype("bfloat16"))["blocks"])).rows_PN
    row_N, index = machine.place(
        [jax.ShapeDtypeStruct(rows_PN.shape[1:], jnp.uint8), jax.ShapeDtypeStruct((), jnp.int32)]
    )
    memory = _write_row.trace(rows_PN, row_N, index).lower().compile().memory_analysis()
    assert memory.host_alias_size_in_bytes == rows_PN.size > 27e9
    assert memory.temp_size_in_bytes + memory.host_temp_size_in_bytes < 1e6
