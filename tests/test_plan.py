"""The planner: its arithmetic, what it reads from compiled programs, that it plans what generation runs, its errors.

The compiler for GPUs is needed by the last tests alone; `make test-compile` runs them.
"""

import dataclasses
import importlib.util
import json
import re
import runpy
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from lcv_jax import gpus, pipeline, plan
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.flops import ForwardFlops, counted_flops, forward_flops
from lcv_jax.parallel.sharding import full_sharding
from lcv_jax.planning import compiling, requests, tables
from lcv_jax.planning.buffers import largest_buffers, short_name
from lcv_jax.planning.compiling import Stage
from lcv_jax.planning.hlo import (
    Collective,
    Instruction,
    _of_computation,
    collectives,
    sent_by_one,
    sent_to_other_hosts,
    shape_bytes,
)
from lcv_jax.planning.report import Plan, Setup, gigabytes
from lcv_jax.planning.requests import ContinueVideo, ImageToVideo, Refine, TextToVideo, programs_of
from lcv_jax.sampling.options import SamplingOptions

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None, reason="XLA's compiler for GPUs is not installed"
)

SMALL = DiTConfig(
    hidden_size=64, depth=3, num_heads=2, caption_channels=24, adaln_tembed_dim=16, frequency_embedding_size=12,
    bsa_params=BlockSparseConfig(sparsity=0.5, chunk_3d_shape_q=(2, 2, 2), chunk_3d_shape_k=(2, 2, 2)),
)  # fmt: skip


# Operations


@pytest.mark.parametrize(
    ("grid", "linear", "attention", "cross"),
    [((24, 30, 52), 848.0, 1102.4, 17), ((24, 44, 80), 1913.4, 5612.7, 36), ((48, 44, 80), 3826.8, 22450.7, 70)],
)
def test_a_forward_pass_of_the_released_model_has_the_known_operations(grid, linear, attention, cross):
    flops = forward_flops(DiTConfig(), grid=grid)
    assert flops.linear / 1e12 == pytest.approx(linear, abs=0.05)
    assert flops.attention / 1e12 == pytest.approx(attention, abs=0.05)
    assert flops.cross_attention / 1e12 == pytest.approx(cross, abs=0.7)
    assert flops.other < 0.01 * flops.total


def test_sparse_attention_has_a_sixteenth_of_the_operations_and_its_selection():
    sparse = dataclasses.replace(DiTConfig(), enable_bsa=True, bsa_params=BlockSparseConfig())
    attention = forward_flops(sparse, grid=(24, 44, 80)).attention / 1e12
    # 82 of 1320 blocks, and 1320 x 1320 scores of blocks of 32 heads of 128 in 48 layers.
    assert attention == pytest.approx(5612.7 * 82 / 1320 + 48 * 2 * 1320**2 * 4096 / 1e12, rel=1e-4)
    assert attention == pytest.approx(350.8, rel=0.01)


@pytest.mark.parametrize(
    ("condition", "cached", "text", "rank", "sparse"),
    [(0, 0, 7, 0, False), (2, 0, 7, 0, False), (0, 2, 7, 0, False), (4, 0, 0, 0, False), (2, 0, 7, 5, False),
     (0, 0, 7, 0, True), (2, 0, 7, 0, True)],
)  # fmt: skip
def test_the_formula_counts_what_the_model_multiplies(condition, cached, text, rank, sparse):
    cfg = dataclasses.replace(SMALL, enable_bsa=sparse)
    model = LongCatVideo(cfg, implementation="xla")
    networks = requests.Networks(dit=cfg)
    params = requests.parameter_shapes(networks, "dit", jnp.dtype("float32"))
    variables = {"params": params, **({"adapters": requests.adapter_shapes(params, rank)} if rank else {})}
    grid = (4, 4, 6)
    latents = jax.ShapeDtypeStruct((1, grid[0], 2 * grid[1], 2 * grid[2], 16), jnp.float32)
    if text == 0:
        traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, method="encode_condition"))(variables, latents)
    else:
        tokens = cached * grid[1] * grid[2]
        one = jax.ShapeDtypeStruct((cfg.depth, 1, tokens, cfg.num_heads, cfg.head_dim), jnp.float32)
        cache = {"k": one, "v": one} if cached else None
        given = (
            jax.ShapeDtypeStruct(latents.shape[:2], jnp.float32),
            jax.ShapeDtypeStruct((1, text, cfg.caption_channels), jnp.float32),
            jax.ShapeDtypeStruct((1, text), bool),
        )
        traced = jax.make_jaxpr(lambda v, x, *given: model.apply(v, x, *given[:3], condition, given[3]))(
            variables, latents, *given, cache
        )
    wanted = forward_flops(
        cfg, grid=grid, num_condition=condition, cached=cached, text_tokens=text, adapter_rank=rank
    ).total
    # Sparse attention in XLA pools blocks by a product where the formula counts scores alone.
    assert counted_flops(traced) == pytest.approx(wanted, rel=0.02 if sparse else 1e-9)


def test_counting_knows_loops_branches_and_convolutions():
    x = jnp.zeros((4, 8))

    def looped(x):
        return jax.lax.scan(lambda carry, _: (carry @ jnp.ones((8, 8)), None), x, length=5)[0]

    assert counted_flops(jax.make_jaxpr(looped)(x)) == 5 * 2 * 4 * 8 * 8

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ jnp.ones((8, 8)), lambda x: x, x)

    assert counted_flops(jax.make_jaxpr(branched)(x)) == 2 * 4 * 8 * 8

    def convolved(x):
        return jax.lax.conv(x[None, :, None], jnp.ones((6, 4, 1, 3)), (1, 1), "SAME")

    assert counted_flops(jax.make_jaxpr(jax.jit(convolved))(x)) == 2 * (6 * 8) * 4 * 3


@pytest.mark.parametrize(
    ("request_", "options", "petaflops", "seconds"),
    [
        (TextToVideo(), SamplingOptions(), 195.04, 197.2),
        (TextToVideo(), SamplingOptions(distilled=True), 31.21, 31.6),
        (TextToVideo(height=704, width=1280), SamplingOptions(), 752.61, 761.0),
        (TextToVideo(height=704, width=1280), SamplingOptions(distilled=True), 120.42, 121.8),
        (Refine(spatial_only=True), SamplingOptions(sparse=False), 68.84 - 31.21, 69.6 - 31.6),
        (Refine(), SamplingOptions(sparse=False), 162.59 - 31.21, 164.4 - 31.6),
    ],
)
def test_sampling_takes_the_known_floors(request_, options, petaflops, seconds):
    (known,) = (program.sampling for program in programs_of(request_, options) if program.sampling)
    flops = known.flops.linear + known.flops.attention
    assert flops / 1e15 == pytest.approx(petaflops, rel=2e-3)
    assert flops / gpus.described_gpu("h200").speed.bf16_flops == pytest.approx(seconds, rel=4e-3)


def test_a_cache_is_memory_for_time():
    def known(**options):
        programs = programs_of(ContinueVideo(), SamplingOptions(**options))
        return next(program.sampling for program in programs if program.sampling)

    cached, joint, guiding = known(), known(use_cache=False), known(guide_condition=True)
    # Keys and values of 4 latent frames of 30 x 52 tokens, in 48 layers, once for both halves of guidance.
    assert cached.cache_bytes == 2 * 48 * (4 * 30 * 52) * 4096 * 2
    assert joint.cache_bytes == guiding.cache_bytes == 0
    assert joint.flops == guiding.flops
    per_token = 2 * (4 * 4096**2 + 3 * 4096 * 11008) * 48
    saved = 6240 * per_token * (112 - 1)
    assert joint.flops.linear - cached.flops.linear == pytest.approx(saved)


# What generation runs


def call_of(function, arguments, options):
    """What of a call decides what is compiled."""
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)) if hasattr(x, "shape") else x, arguments)
    return function, shapes, {key: value for key, value in options.items() if key != "report"}


@pytest.mark.parametrize(
    ("planned", "method", "arguments", "options"),
    [
        (TextToVideo(height=32, width=48, num_frames=9, num_prompts=2), "text_to_video",
         {"prompt": ["a", "b"], "height": 32, "width": 48, "num_frames": 9}, {"num_steps": 3}),
        (TextToVideo(height=64, width=64, num_frames=13), "text_to_video",
         {"prompt": "a", "height": 64, "width": 64, "num_frames": 13}, {"distilled": True}),
        (ImageToVideo(image_size=(40, 70), size=(32, 48), num_frames=9), "image_to_video",
         {"image": (40, 70), "prompt": "a", "size": (32, 48), "num_frames": 9}, {"posterior": "sample"}),
        (ContinueVideo(video_size=(32, 48), size=(32, 48), num_cond_frames=5, num_frames=13, num_prompts=2),
         "continue_video", {"video": (6, 32, 48), "prompt": ["a", "b"], "size": (32, 48), "num_cond_frames": 5,
                            "num_frames": 13}, {"guide_condition": True}),
        (Refine(video_size=(32, 48), size=(64, 128), segment_frames=9), "refine",
         {"video": (9, 32, 48), "size": (64, 128)}, {"max_sequence_length": 16}),
        (Refine(video_size=(32, 48), size=(64, 64), segment_frames=9, overlap=2, spatial_only=True, later_segment=True),
         "refine", {"video": (9, 32, 48), "condition_video": (2, 64, 64), "num_cond_frames": 2, "size": (64, 64),
                    "spatial_only": True}, {"use_cache": False}),
    ],
)  # fmt: skip
def test_the_programs_are_those_that_generation_runs(planned, method, arguments, options, tiny_checkpoint, monkeypatch):
    calls = []

    def recorder(name, result):
        def record(*arguments, **options):
            calls.append(call_of(name, arguments, options))
            made = jnp.zeros(result(*arguments), jnp.float32)
            return (made, None) if name == "denoise" else made

        return record

    def latents(vae, params, video, *_):
        return 1, 1 + (video.shape[1] - 1) // 4, video.shape[2] // 8, video.shape[3] // 8, 16

    def denoised(model, variables, noise, condition, *_):
        frames = noise.shape[1] + (0 if condition is None else condition.shape[1])
        return noise.shape[0], frames, *noise.shape[2:]

    results = {
        "encode_text": lambda encoder, params, ids, mask: (*ids.shape, encoder.cfg.d_model),
        "encode_frames": latents,
        "denoise": denoised,
        "decode_latents": lambda vae, params, z, _: (1, 4 * z.shape[1] - 3, 8 * z.shape[2], 8 * z.shape[3], 3),
        "upsample_clip": lambda video, frames, height, width: (frames, height, width, 3),
    }
    for name, result in results.items():
        monkeypatch.setattr(pipeline, name, recorder(name, result))
    real = pipeline.load_pipeline(tiny_checkpoint, dtype="float32")
    frames = ("image", "video", "condition_video")
    given = {key: np.zeros((*value, 3), np.uint8) if key in frames else value for key, value in arguments.items()}
    getattr(real, method)(**given, **options)
    monkeypatch.undo()

    names = {"encode text": "encode_text", "encode": "encode_frames", "decode": "decode_latents"}
    names |= {"upsample": "upsample_clip"}
    found = programs_of(planned, SamplingOptions(**options), requests.networks_of(tiny_checkpoint), dtype="float32")
    expected = [
        call_of(names.get(program.name, program.name), program.arguments, program.options)
        for program in found
        for _ in range(program.times)
    ]
    assert [function for function, *_ in calls] == [function for function, *_ in expected]
    for call, wanted in zip(calls, expected, strict=True):
        assert call == wanted


def test_the_pipeline_is_left_as_it_was():
    before = pipeline.denoise, pipeline.encode_frames
    with pytest.raises(ValueError, match="multiples of 16"):
        programs_of(TextToVideo(height=33), SamplingOptions())
    assert (pipeline.denoise, pipeline.encode_frames) == before


def test_parameters_are_those_of_the_released_model():
    networks = requests.Networks()
    counts = {
        name: requests.parameter_count(requests.parameter_shapes(networks, name, jnp.dtype("bfloat16")))
        for name in ("dit", "vae", "text_encoder")
    }
    # The text encoder's table of embeddings is stored once.
    assert counts == {"dit": 13_581_071_424, "vae": 126_892_531, "text_encoder": 6_731_059_200 - 256_384 * 4096}


def test_what_lies_in_memory_depends_on_the_adapters():
    def resident(**settings):
        programs = programs_of(Refine(), SamplingOptions(), **settings)
        (denoising,) = (program for program in programs if program.name == "denoise")
        return {name: compiling._bytes(tree) / 1e9 for name, tree in denoising.resident.items()}

    folded = resident()
    assert list(folded) == ["vae", "text_encoder", "dit", "folded copy"]
    assert folded["folded copy"] == pytest.approx(25.9, abs=0.05)
    added = resident(fold_adapters=False)
    assert list(added) == ["vae", "text_encoder", "dit", "adapters"]
    # Rank 128: `down` of (4 + 4 + 2 ...) widths in bfloat16, `up` in float32.
    assert 1 < added["adapters"] < 4
    baked = plan.Networks(fold=("refinement_lora",)).load()
    programs = programs_of(Refine(), SamplingOptions(), baked)
    assert "folded copy" not in programs[-1].resident


@pytest.mark.parametrize("keep", ["host", "disk"])
def test_a_text_encoder_that_does_not_stay_is_in_memory_while_it_encodes(keep):
    programs = programs_of(Refine(), SamplingOptions(), keep_text_encoder=keep)
    having = {program.name: "text_encoder" in program.resident for program in programs}
    assert having == {"upsample": False, "encode": False, "encode text": True, "denoise": False, "decode": False}


def test_split_parameters_are_counted_in_parts():
    folded = programs_of(Refine(), SamplingOptions())[-1].resident
    eight = np.array(jax.devices("cpu")[:1] * 8).reshape(1, 1, 8)
    mesh = Mesh(eight, ("data", "fsdp", "seq"), axis_types=(AxisType.Auto,) * 3)
    whole = compiling.Machine(devices=(), mesh=mesh)
    split = compiling.Machine(devices=(), mesh=mesh, rules=full_sharding(("fsdp", "seq")))
    for name, share in (("dit", 0.126), ("folded copy", 0.125), ("text_encoder", 0.126), ("vae", 1)):
        assert split.bytes_each(folded[name], name) / whole.bytes_each(folded[name], name) == pytest.approx(
            share, rel=0.01
        )


# Reading compiled programs

PROGRAM = """HloModule jit_denoise, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%body (arg: (s32[], bf16[2,4])) -> (s32[], bf16[2,4]) {
  %collective-permute-start = (bf16[2,4]{1,0}, bf16[2,4]{1,0}) collective-permute-start(%p), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}, metadata={op_name="a(b)"}
  %attention.1 = (bf16[2,4]{1,0}, f32[2]{0}) custom-call(%p), custom_call_target="__cudnn$fmhaSoftmax"
  %collective-permute-done = bf16[2,4]{1,0} collective-permute-done(%collective-permute-start), metadata={op_name="x"}
  %all-to-all-start = ((bf16[8,16]{1,0}), bf16[8,16]{1,0}) all-to-all-start(%q), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %all-to-all-done = bf16[8,16]{1,0} all-to-all-done(%all-to-all-start)
  ROOT %tuple = (s32[], bf16[2,4]{1,0}) tuple(%i, %collective-permute-done)
}

%condition (arg: (s32[], bf16[2,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p0: bf16[2,4]) -> f32[8] {
  %while.1 = (s32[], bf16[2,4]{1,0}) while(%tuple.1), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"48"}}
  %all-gather-start = (f32[6,60]{1,0}, f32[24,60]{1,0}) all-gather-start(%z), channel_id=4, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  %fusion.1 = f32[8]{0} fusion(%w), kind=kLoop, calls=%fused
  %all-gather-done = f32[24,60]{1,0} all-gather-done(%all-gather-start)
  %all-gather.7 = f32[8]{0} all-gather(%w), channel_id=5, replica_groups=[2,4]<=[8], dimensions={0}
  %all-gather-start.2 = (f32[2]{0}, f32[8]{0}) all-gather-start(%w), channel_id=6, replica_groups=[2,4]<=[8], backend_config={"collective_backend_config":{"is_sync":true}}
  %fusion.2 = f32[8]{0} fusion(%w), kind=kLoop, calls=%fused
  %all-gather-done.2 = f32[8]{0} all-gather-done(%all-gather-start.2)
  ROOT %all-reduce.1 = f32[8]{0} all-reduce(%w), channel_id=7, replica_groups={{0,1}}, to_apply=%add
}
"""  # noqa: E501


def test_collectives_are_counted_through_loops():
    found = {(one.kind, one.asynchronous): one for one in collectives(PROGRAM)}
    assert found == {
        ("collective-permute", True): Collective(
            kind="collective-permute", group_size=4, asynchronous=True, count=48, sent_bytes=48 * 16
        ),
        ("all-to-all", False): Collective(
            kind="all-to-all", group_size=4, asynchronous=False, count=48, sent_bytes=48 * 256 * 3 // 4
        ),
        ("all-gather", True): Collective(
            kind="all-gather", group_size=4, asynchronous=True, count=1, sent_bytes=24 * 60 * 4 * 3 // 4
        ),
        ("all-gather", False): Collective(
            kind="all-gather", group_size=4, asynchronous=False, count=2, sent_bytes=2 * 24
        ),
        ("all-reduce", False): Collective(kind="all-reduce", group_size=2, asynchronous=False, count=1, sent_bytes=32),
    }
    assert [one.sent_bytes for one in collectives(PROGRAM)] == sorted(
        (one.sent_bytes for one in found.values()), reverse=True
    )


def groups_of(text):
    (found,) = (groups for _, groups, _, _ in _of_computation([Instruction("a", "all-to-all", "f32[8]", text)]))
    return found


def test_groups_in_all_their_spellings():
    assert groups_of("replica_groups={{0,1},{2,3}}, x={}") == [[0, 1], [2, 3]]
    assert groups_of("replica_groups=[2,4]<=[8]") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups_of("replica_groups=[4,2]<=[2,4]T(1,0)") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert groups_of("replica_groups=mesh['a'=2,'b'=2] {'a'}") == [[0, 2], [1, 3]]
    assert groups_of("replica_groups=@mesh.1['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}") == [[3, 2], [1, 0]]
    assert groups_of("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'c','a'}") == [[0, 4, 1, 5], [2, 6, 3, 7]]
    transposed = "replica_groups=mesh['a'=2,'b'=1,'c'=3], device_ids=([3,2]T(1,0)) "
    assert groups_of(transposed + "{'a'}") == [[0, 1], [2, 3], [4, 5]]
    assert groups_of(transposed + "{'c'}") == [[0, 2, 4], [1, 3, 5]]
    assert groups_of("source_target_pairs={{0,1},{1,0}}") == [[0, 1], [1, 0]]


def test_bytes_to_other_hosts():
    """Eight devices of two hosts; hosts share what came once, and sum up before they send."""
    group = list(range(8))
    assert sent_to_other_hosts("all-to-all", 800, group, 8) == 0
    assert sent_to_other_hosts("all-to-all", 800, group, 4) == 400
    assert sent_to_other_hosts("all-gather", 800, group, 4) == 100
    assert sent_to_other_hosts("reduce-scatter", 100, group, 4) == 100
    assert sent_to_other_hosts("all-reduce", 800, group, 4) == 200
    assert sent_to_other_hosts("all-gather", 800, [0, 4], 4) == 400
    assert [sent_to_other_hosts("collective-permute", 800, pair, 4) for pair in ([0, 1], [3, 4])] == [0, 800]
    by_kind = {(one.kind, one.asynchronous): one.network_bytes for one in collectives(PROGRAM, per_host=2)}
    assert by_kind == {
        ("collective-permute", True): 48 * 16,
        ("all-to-all", False): 48 * 256 * 2 // 4,
        ("all-gather", True): 24 * 60 * 4 // 2 // 2,
        ("all-gather", False): 2 * 32 // 2 // 2,
        ("all-reduce", False): 0,
    }
    assert all(one.network_bytes == 0 for one in collectives(PROGRAM))


def test_a_program_of_one_device_has_none():
    assert collectives("ENTRY %main (p: f32[2]) -> f32[2] {\n  ROOT %a = f32[2]{0} negate(%p)\n}\n") == []


@pytest.mark.parametrize(
    ("shape", "size"),
    [("bf16[2,3]{1,0}", 12), ("f32[]", 4), ("pred[5]", 5), ("(s32[2], u8[0]{0}, f8e4m3fn[7])", 15), ("token[]", 0)],
)
def test_bytes_of_shapes(shape, size):
    assert shape_bytes(shape) == size


def test_bytes_that_travel():
    assert sent_by_one("all-gather", 800, 8) == 700
    assert sent_by_one("reduce-scatter", 100, 8) == 700
    assert sent_by_one("all-reduce", 800, 8) == 1400
    assert sent_by_one("all-to-all", 800, 8) == 700
    assert sent_by_one("collective-permute", 800, 8) == 800


ASSIGNMENT = """BufferAssignment:
allocation 0: size 4096, parameter 0, shape |bf16[2048]| at ShapeIndex {}:
 value: <8 p0 @0> (size=4096,offset=0): bf16[2048]{0}
allocation 1: size 900, preallocated-temp:
 value: <11 fusion.1 @0> (size=400,offset=0): bf16[200]{0}
 value: <12 fusion.2 @0> (size=300,offset=100): bf16[150]{0}
 value: <13 call.3{0} @0> (size=200,offset=400): f32[50]{0}
 value: <14 late @0> (size=100,offset=800): f32[5,5]{1,0}
"""
MADE_BY = """  %fusion.1 = bf16[200]{0} fusion(%p0), metadata={op_name="jit(denoise)/while/body/LongCatVideo/blocks/ffn/w1/dot"}
  ROOT %call.3 = (f32[50]{0}) custom-call(%p0), metadata={op_name="jit(denoise)/while/body/attn"}
"""  # noqa: E501


def test_the_largest_buffers_do_not_overlap():
    found = [(buffer.num_bytes, buffer.shape, buffer.made_by) for buffer in largest_buffers(ASSIGNMENT, MADE_BY)]
    assert found == [(400, "bf16[200]", "ffn/w1/dot"), (200, "f32[50]", "attn"), (100, "f32[5,5]", "late")]
    assert len(largest_buffers(ASSIGNMENT, MADE_BY, count=1)) == 1
    assert largest_buffers("", MADE_BY) == []
    assert short_name("jit(f)/while/body/closed_call/a/checkpoint/b") == "a/b"


# What it adds up to


def stage(name="denoise", **changes):
    fields = {
        "name": name, "times": 1, "resident_bytes": {"text_encoder": int(11e9), "dit": int(27e9)},
        "argument_bytes": int(27e9), "input_bytes": int(1e9), "output_bytes": int(1e9), "temporary_bytes": int(9e9),
        "cache_bytes": int(5e9), "largest": [], "collectives": [], "flops": 2e15, "flops_by_part": {}, "shares": 2,
        "moved_bytes": int(48e9),
    }  # fmt: skip
    return Stage(**{**fields, **changes})


def plan_of(*stages, gpu="h200", num_gpus=1, reserve=0.08, per_host=None, **setup):
    return Plan(
        gpu=gpus.described_gpu(gpu),
        num_gpus=num_gpus,
        per_host=per_host,
        reserve=reserve,
        setup=Setup(**setup),
        stages=list(stages),
    )


def test_what_fits_is_the_peak_of_all_stages():
    made = plan_of(stage("encode text", temporary_bytes=0), stage())
    assert made.peak.name == "denoise"
    assert made.peak.peak_bytes == 49e9
    assert made.fits
    assert made.advice() == []
    assert not plan_of(stage(), gpu="l40s").fits
    needed = 49e9 / made.gpu.memory_bytes
    assert plan_of(stage(), reserve=1 - needed - 1e-6).fits
    assert not plan_of(stage(), reserve=1 - needed + 1e-6).fits


def test_the_floor_is_the_longest_of_three():
    sent = Collective(kind="all-to-all", group_size=2, asynchronous=True, count=1, sent_bytes=int(450e9))
    made = plan_of(stage(times=3), stage("decode", collectives=[sent]))
    first, second = (made.floor(one) for one in made.stages)
    assert first.compute == pytest.approx(1e15 / 989.4e12)
    assert first.memory == pytest.approx(0.01)
    assert (first.links, first.bound, second.bound) == (0, "compute", "compute")
    assert first.seconds == first.compute
    assert made.floor(stage(flops=0.0, collectives=[sent])).bound == "links"
    across = dataclasses.replace(sent, network_bytes=int(150e9))
    hosts = plan_of(stage(collectives=[across]), num_gpus=16, per_host=8)
    assert (hosts.floor(hosts.peak).network, hosts.floor(hosts.peak).bound) == (3.0, "network")
    faster = dataclasses.replace(hosts, network_bandwidth=100e9)
    assert faster.floor(hosts.peak).seconds == 1.5
    assert "within a host of 8, and 50.0 GB/s a GPU between hosts (assumed: 400 Gb/s" in hosts.assumptions()[1]
    assert "100.0 GB/s a GPU between hosts (as told)" in faster.assumptions()[1]
    assert tables.markdown([hosts, faster]).splitlines()[2].endswith("| 450.0 GB | 150.0 GB | 3.0 s |")
    assert made.floor(stage(flops=0.0)).bound == "memory"
    assert made.seconds == pytest.approx(4 * first.seconds)


def test_advice_names_options_and_what_they_save():
    advice = plan_of(stage(), gpu="l40s", guided=True).advice()
    assert advice[0] == "--weights stream (layers in host memory): saves about 25.6 GB, enough alone"
    assert "--parameters split on 2 GPUs, fetched layer by layer: saves about 19.0 GB, enough alone" in advice
    assert any(line.startswith("convert the checkpoint with --quantize int8") for line in advice)
    assert "--no-use-cache (the same video, slower): saves about 5.0 GB, enough alone" in advice
    assert any(line.startswith("--guidance-scale 1") and line.endswith("about 2.0 GB") for line in advice)
    resident = {"dit": int(27e9), "folded copy": int(26e9)}
    advice = plan_of(stage(resident_bytes=resident), gpu="l40s").advice()
    assert any("--no-fold-adapters: saves about 26.0 GB" in line for line in advice)
    advice = plan_of(stage(), gpu="l40s").advice()
    assert "--keep-text-encoder host (or disk): saves about 11.0 GB, enough alone" in advice
    encoding = stage("encode text", resident_bytes={"text_encoder": int(99e9)})
    for made in (plan_of(encoding, gpu="l40s"), plan_of(stage(), gpu="l40s", keep_text_encoder="disk")):
        assert not any("--keep-text-encoder" in line for line in made.advice())
    advice = plan_of(stage("decode"), gpu="rtx4090", dtype="float32", parameters="split", num_gpus=4).advice()
    assert any("--dtype bfloat16" in line for line in advice)
    assert any("--vae-tiles" in line for line in advice)
    assert any("--num-gpus 8, with smaller parts" in line for line in advice)
    tiled = plan_of(stage("decode"), gpu="rtx4090", vae_tiles=True).advice()
    assert not any("--vae-tiles" in line for line in tiled)
    assert any("one prompt" in line for line in plan_of(stage(), gpu="l40s", num_prompts=3).advice())


def test_assumptions_are_printed():
    lines = " ".join(plan_of(stage()).assumptions())
    for said in ("8% are left", "cuDNN's workspace", "989 TFLOP/s", "4.80 TB/s", "H200 data sheet"):
        assert said in lines
    assert "NVLink" not in lines
    assert "450 GB/s each way over NVLink 4" in " ".join(plan_of(stage(), num_gpus=8).assumptions())
    full = plan_of(stage(temporary_bytes=int(82e9)))
    assert full.fits
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.96" in " ".join(full.assumptions())
    assert "float32" in " ".join(plan_of(stage(), dtype="float32").assumptions())


def test_sizes_are_written_in_units_that_show_three_digits():
    assert [gigabytes(size) for size in (0, 4.2e6, 117e6, 999.4e6, 999.6e6, 43.21e9)] == [
        "0.0 MB", "4.2 MB", "117 MB", "999 MB", "1.0 GB", "43.2 GB",
    ]  # fmt: skip


def test_a_sweep_is_a_table_and_a_picture(tmp_path):
    plans = [plan_of(stage(), num_gpus=count) for count in (1, 2)]
    lines = tables.markdown(plans).splitlines()
    assert lines[2] == "| 1 x h200 | yes | denoise | 38.0 GB | 2.0 GB | 9.0 GB (cache 5.0 GB) | 49.0 GB |  | 1.0 s |"
    assert len(lines) == 4
    (one,) = [line for line in tables.markdown(plans[:1]).splitlines() if line.startswith("| denoise")]
    assert one.endswith("| 49.0 GB | 2,000.0 | 1.0 s |")
    pytest.importorskip("matplotlib")
    tables.draw(plans, tmp_path / "deep" / "plan.png")
    assert (tmp_path / "deep" / "plan.png").read_bytes().startswith(b"\x89PNG")


# The command

TINY = [
    "--checkpoint",
    "WEIGHTS",
    "--height",
    "32",
    "--width",
    "48",
    "--num-frames",
    "5",
    "--max-sequence-length",
    "16",
]


def run(arguments, capsys):
    try:
        plan.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code, capsys.readouterr()
    return 0, capsys.readouterr()


def test_the_command_prints_and_writes_a_plan(tiny_checkpoint, tmp_path, capsys, compiled_for_here):
    where = tmp_path / "new" / "plan.json"
    flags = [tiny_checkpoint if flag == "WEIGHTS" else flag for flag in TINY]
    code, said = run(["text-to-video", *flags, "--dtype", "float32", "--json", where], capsys)
    assert code == 0, said.err
    assert "1 x h200: fits" in said.out
    assert "Memory of one GPU" in said.out
    assert "Time at the least" in said.out
    read = json.loads(where.read_text())
    assert [one["name"] for one in read["stages"]] == ["encode text", "denoise", "decode"]
    assert [one["times"] for one in read["stages"]] == [2, 1, 1]
    text, denoising, decoding = read["stages"]
    assert list(text["resident_bytes"]) == ["text_encoder"]
    assert list(decoding["resident_bytes"]) == ["text_encoder", "dit", "vae"]
    for one in read["stages"]:
        parts = (sum(one["resident_bytes"].values()), one["input_bytes"], one["output_bytes"], one["temporary_bytes"])
        assert one["peak_bytes"] == sum(parts)
        assert one["flops"] > 0
        assert one["temporary_bytes"] > 0
    assert denoising["output_bytes"] == 2 * 4 * 6 * 16 * 4
    assert decoding["output_bytes"] == 5 * 32 * 48 * 3 * 4
    # Noise, two captions of 16 tokens with masks, 50 levels and the guidance scale; then all parameters.
    inputs = 2 * 4 * 6 * 16 * 4 + 2 * 16 * (32 * 4 + 1) + 51 * 4
    assert denoising["input_bytes"] == inputs
    assert denoising["argument_bytes"] == inputs + read["parameter_bytes"]["dit"]
    assert read["peak_bytes"] == max(one["peak_bytes"] for one in read["stages"])
    assert read["fits"] is True


def test_stages_can_be_chosen(tiny_checkpoint, capsys, compiled_for_here):
    flags = [tiny_checkpoint if flag == "WEIGHTS" else flag for flag in TINY]
    code, said = run(["text-to-video", *flags, "--only", "encode text", "--markdown"], capsys)
    assert code == 0, said.err
    assert [line.split(" | ")[0] for line in said.out.splitlines()[2:3]] == ["| encode text x 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text-to-video", "--gpu", "h300"], "no description of a GPU 'h300': have a100, b200, h100, h200, l40s, rtx4"),
        (["text-to-video", "--num-gpus", "0"], "num_gpus must lie in 1..65536, got 0"),
        (["text-to-video", "--num-gpus", "3", "--data", "2"], "the mesh data=2 x fsdp=1 x seq=-1 takes a"),
        (["text-to-video", "--num-gpus", "12"], "12 GPUs are no whole number of hosts of 8: gpus_per_host"),
        (["text-to-video", "--network-bandwidth", "0"], "network_bandwidth must be above 0, got 0.0"),
        (["text-to-video", "--reserve", "1"], "reserve must be at least 0 and below 1, got 1.0"),
        (["text-to-video", "--height", "481"], "height and width must be multiples of 16, got 481 x 832"),
        (["text-to-video", "--context", "ulysses_ring"], "needs a ring_size"),
        (["text-to-video", "--only", "decoding"], "no stage 'decoding': there are 'encode text', 'denoise', 'decode'"),
        (["text-to-video", "--num-steps", "0"], "num_steps must lie in 1"),
        (["text-to-video", "--num-prompts", "0"], "num_prompts must lie in 1"),
        (["text-to-video", "--checkpoint", "nowhere"], "nowhere is no folder"),
        (["continue-video", "--num-cond-frames", "12"], "num_cond_frames must be a multiple of 4 plus 1, got 12"),
        (["refine", "--distilled"], "refinement has a schedule and an adapter of its own"),
        (["stream", "--sink", "9", "--ring", "6"], "sink must not exceed ring, got sink=9 and ring=6 latent frames"),
        (["stream", "--height", "512", "--sparse", "True"], "needs chunk in multiples of 4 latent frames"),
        (["refine", "--segment-frames", "0"], "segment_frames must lie in 1..65536, got 0"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, message, capsys):
    code, said = run(arguments, capsys)
    assert code == 2
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_the_commands_of_the_page_are_understood(monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
    commands = re.findall(r"`?python -m lcv_jax\.plan (?!train |TASK )([^`\n]+)", page)
    understood = []
    monkeypatch.setattr(plan, "_run", understood.append)
    for command in commands:
        assert run(shlex.split(command), capsys)[0] == 0, command
    assert len(understood) == len(commands) > 10
    for chosen in understood:
        for count in chosen.output.sweep or (chosen.devices.num_gpus,):
            dataclasses.replace(chosen.devices, num_gpus=count).check()
        assert programs_of(chosen.request, chosen.sampling.checked(), chosen.networks.load())


def test_every_table_of_the_page_is_made_again():
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "scaling.md").read_text()
    scaling = runpy.run_path(str(docs / "scaling.py"))
    found = [" ".join(match["arguments"].split()) for match in scaling["TABLE"].finditer(page)]
    commands = [
        " ".join(command.split()) for command in re.findall(r"`python -m lcv_jax\.plan ([^`]*--markdown)`", page)
    ]
    assert found == [command for command in commands if not command.startswith("TASK")]
    assert len(found) > 40
    for name in ("tasks", "frames"):
        assert scaling["filled"](page, name, "new").count(f"<!-- {name} -->\nnew\n<!-- end -->") == 1


def test_a_missing_compiler_is_named(monkeypatch, capsys):
    def absent(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(gpus.topologies, "get_topology_desc", absent)
    code, said = run(["text-to-video"], capsys)
    assert code == 2
    assert 'pip install "lcv_jax[gpu-compile]"' in said.err


def test_flops_add_and_multiply():
    one = ForwardFlops(linear=1.0, attention=2.0, cross_attention=3.0, other=4.0)
    assert (one + one) == one * 2
    assert (one * 3).total == 30


# With the compiler


@needs_compiler
@pytest.mark.parametrize("name", gpus.names())
def test_a_tiny_plan_for_every_gpu(name, tiny_checkpoint):
    networks = plan.Networks(checkpoint=tiny_checkpoint)
    request = TextToVideo(height=64, width=96, num_frames=9)
    made = plan.make_plan(request, SamplingOptions(num_steps=2), networks, plan.Devices(gpu=name), ["denoise"])
    (denoising,) = made.stages
    assert made.fits
    assert denoising.temporary_bytes > 0
    assert len(denoising.largest) == 5
    assert denoising.largest[0].num_bytes <= denoising.temporary_bytes
    assert denoising.collectives == []


@needs_compiler
def test_a_tiny_plan_of_a_mesh(tiny_checkpoint):
    networks = plan.Networks(checkpoint=tiny_checkpoint)
    request = TextToVideo(height=64, width=96, num_frames=9)
    devices = plan.Devices(num_gpus=4, seq=2, fsdp=2, parameters="split", context="ring")
    options = SamplingOptions(num_steps=2)
    made = plan.make_plan(request, options, networks, devices, ["encode text", "denoise"])
    whole = plan.make_plan(request, options, networks, plan.Devices(), ["denoise"])
    (denoising,) = (one for one in made.stages if one.name == "denoise")
    assert denoising.shares == 4
    assert denoising.resident_bytes["dit"] < 0.5 * whole.stages[0].resident_bytes["dit"]
    kinds = {one.kind for one in denoising.collectives}
    assert {"collective-permute", "all-gather"} <= kinds
    assert denoising.sent_bytes > 0


@needs_compiler
def test_a_tiny_plan_of_two_hosts(tiny_checkpoint):
    networks = plan.Networks(checkpoint=tiny_checkpoint)
    devices = plan.Devices(num_gpus=4, gpus_per_host=2, data=2, seq=2)
    made = plan.make_plan(
        TextToVideo(height=64, width=96, num_frames=9), SamplingOptions(num_steps=2), networks, devices, ["denoise"]
    )
    (denoising,) = made.stages
    assert 0 < denoising.network_bytes < denoising.sent_bytes
    assert all(one.network_bytes == 0 for one in denoising.collectives if one.kind == "all-to-all")  # tokens


@needs_compiler
def test_the_released_model_takes_what_is_known():
    made = plan.make_plan(TextToVideo(), SamplingOptions(), plan.Networks(), plan.Devices(), ["denoise"])
    (denoising,) = made.stages
    assert denoising.argument_bytes / 1e9 == pytest.approx(27.2, abs=0.1)
    assert denoising.temporary_bytes / 1e9 == pytest.approx(4.9, abs=0.5)
