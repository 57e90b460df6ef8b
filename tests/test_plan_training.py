"""Plans of training: which batches, what lies where, that it is the trainer's own step, advice, errors.

The compiler for GPUs is needed by the last tests alone; `make test-compile` runs them.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lcv_jax import gpus, plan
from lcv_jax.checkpoint import store
from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.data.batches import BatchKind
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.kernels.implementations import RESIDUALS
from lcv_jax.models.flops import forward_flops
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.pipeline import load_pipeline
from lcv_jax.planning import requests, rollouts, training, training_tables
from lcv_jax.planning.compiling import Machine, compile_program
from lcv_jax.planning.hlo import Collective
from lcv_jax.planning.report import Setup
from lcv_jax.planning.training import BatchShape, TrainingStage, batch_shapes, on_devices
from lcv_jax.planning.training_report import TrainingPlan, TrainingSetup
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.toy.sizes import SIZES as TOY_SIZES
from lcv_jax.training import networks
from lcv_jax.training.config import AdapterConfig, DevicesConfig, OptimizerConfig, TrainConfig
from lcv_jax.training.rollout_config import RolloutConfig
from lcv_jax.training.rollouts import Rollouts

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None, reason="XLA's compiler for GPUs is not installed"
)
ROOT = Path(__file__).parents[1]
SIZES = ((1, 32, 48), (9, 32, 32), (9, 32, 48))
SMALL = DiTConfig(
    hidden_size=256, depth=3, num_heads=2, caption_channels=24, adaln_tembed_dim=16, frequency_embedding_size=12,
    bsa_params=BlockSparseConfig(sparsity=0.5),
)  # fmt: skip


def make_config(**fields):
    cfg = TrainConfig(
        run=Path("run"),
        checkpoint=Path("nowhere"),
        objective=FlowMatching(),
        data=DataConfig(path=Path("nowhere"), sizes=SIZES, max_sequence_length=8),
        steps=10,
        batch_size=8,
    )
    return dataclasses.replace(cfg, **fields)


# Batches


def test_every_kind_of_batch_comes_in_its_largest_bucket():
    tasks = TaskShares(t2i=1.0, t2v=2.0, i2v=3.0, vc=4.0)
    data = DataConfig(path=Path("nowhere"), sizes=SIZES, tasks=tasks, condition_latents=((1, 3.0), (2, 1.0), (9, 1.0)))
    found = {(batch.kind.task, batch.kind.num_cond_latents): batch for batch in batch_shapes(data)}
    assert {key: batch.size for key, batch in found.items()} == {
        ("t2i", 0): SIZES[0], ("t2v", 0): SIZES[2], ("i2v", 1): SIZES[2], ("vc", 1): SIZES[2], ("vc", 2): SIZES[2],
    }  # fmt: skip
    shares = [batch.share for batch in found.values()]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4 * 0.75, 0.4 * 0.25])
    assert found["vc", 2].name == "vc+2 9x32x48"


def test_the_batch_is_computed_in_as_many_parts_as_its_samples_ask_for():
    cfg = make_config(batch_size=16, devices=DevicesConfig(data=-1, fsdp=2, seq=2))
    spread = on_devices(cfg, 8, samples=1)
    assert (spread.devices.data, spread.optimizer.accumulation) == (2, 4)
    assert on_devices(cfg, 8, samples=2).optimizer.accumulation == 2
    assert on_devices(cfg, 8, samples=None).optimizer.accumulation == 1
    with pytest.raises(ValueError, match="batch_size 16 is no multiple of 3 samples in 4 groups of GPUs: give --batch"):
        on_devices(cfg, 8, samples=3)
    with pytest.raises(ValueError, match="takes a multiple of 4 devices, but there are 6"):
        on_devices(cfg, 6, samples=1)


# What lies where


@pytest.mark.parametrize("sharding", ["zero_2", "full"])
@pytest.mark.parametrize("teaches", [False, True])
def test_frozen_weights_have_the_shapes_and_places_that_are_planned(tiny_checkpoint, sharding, teaches):
    mesh = make_mesh(2, fsdp=2, seq=2)
    cfg = make_config(
        checkpoint=tiny_checkpoint,
        objective=CFGDistillation() if teaches else FlowMatching(),
        adapter=AdapterConfig(name="new", rank=4, alpha=2.0),
        devices=DevicesConfig(fsdp=2, seq=2, sharding=sharding),
    )
    learner = networks.learner_of(cfg, store.load_config(tiny_checkpoint, "dit"), mesh)
    start = networks.Start(cfg, learner)

    def facts(tree):
        return jax.tree.map(lambda x: (x.shape, str(x.dtype), x.sharding.shard_shape(x.shape)), tree)

    assert facts(start.frozen_shapes()) == facts(start.frozen())
    assert facts(start.shapes()) == facts(start.state())


def arguments_of(cfg, num_devices):
    """What a small step is compiled with on so many devices."""
    cfg = on_devices(cfg, num_devices, None)
    mesh = training.training_mesh(cfg, jax.devices()[:num_devices])
    batch = BatchShape(kind=BatchKind("t2v", 0), size=(9, 32, 48), share=1.0)
    return training.step_arguments(cfg, batch, requests.Networks(dit=SMALL), mesh)


def test_bytes_are_those_of_the_state():
    count = requests.parameter_count(
        requests.parameter_shapes(requests.Networks(dit=SMALL), "dit", jnp.dtype("float32"))
    )

    def held(sharding):
        cfg = make_config(devices=DevicesConfig(data=1, fsdp=2, sharding=sharding))
        _, state, frozen, *_ = arguments_of(cfg, 2)
        return training.held_bytes(state, frozen)

    full, zero_2 = held("full"), held("zero_2")
    assert 0.5 * 4 * count < full["parameters"] < 0.6 * 4 * count  # small ones are whole
    assert full["moments"] == 2 * full["parameters"] + 8  # and their two counters of steps
    assert full["average"] == zero_2["average"] == full["parameters"]
    assert zero_2["parameters"] == 4 * count


def test_an_autoencoder_whose_latents_stay_has_its_start_beside_it():
    data = DataConfig(path=Path("clips.jsonl"), mode="autoencoder", sizes=((5, 16, 16),))
    batch = BatchShape(kind=BatchKind("autoencoder", 0), size=(5, 16, 16), share=1.0)
    mesh = training.training_mesh(make_config(), jax.devices()[:1])

    def planned(weight, column):
        kept = dataclasses.replace(data, keep_column=column)
        cfg = make_config(objective=Autoencoder(keep_weight=weight), data=kept)
        known = requests.Networks(vae=TOY_SIZES["tiny"].vae)
        learner, state, frozen, arrays, kind = training.step_arguments(cfg, batch, known, mesh)
        return training.held_bytes(state, frozen), training.step_flops(cfg, learner, arrays, kind)

    (free, (less, _)), (held, (more, computed)) = planned(0.0, None), planned(1.0, "known")
    assert 2 * held["frozen"] == held["parameters"] == free["parameters"]  # bfloat16, for it only computes
    assert less < more < 4 / 3 * less
    assert more <= computed


def test_an_adapter_has_a_small_state_and_frozen_weights():
    cfg = make_config(adapter=AdapterConfig(name="new", rank=4), optimizer=OptimizerConfig(ema_decay=None))
    _, state, frozen, *_ = arguments_of(cfg, 1)
    held = training.held_bytes(state, frozen)
    assert list(held) == ["parameters", "moments", "frozen"]
    assert held["parameters"] < 0.1 * held["frozen"]


@pytest.mark.parametrize("remat", ["none", "attention", "offload", "full"])
def test_operations_are_counted_with_and_without_what_is_computed_again(remat):
    forward = forward_flops(SMALL, grid=(3, 2, 3), text_tokens=8)
    cfg = make_config(remat=remat)
    learner, _, _, arrays, kind = arguments_of(cfg, 1)
    model_flops, computed = training.step_flops(cfg, learner, arrays, kind)
    assert model_flops == pytest.approx(8 * 3 * forward.total)
    again = {"none": 0.0, "full": forward.total}.get(remat, forward.total - forward.attention)
    assert (computed - model_flops) / 8 == pytest.approx(again)


# What it adds up to


def stage(name="t2v 93x480x832", **changes):
    fields = {
        "name": name, "task": "t2v", "share": 1.0, "times": 1, "argument_bytes": 0,
        "resident_bytes": {"parameters": int(54e9), "moments": int(14e9), "average": int(7e9)}, "input_bytes": int(1e8),
        "output_bytes": 0, "temporary_bytes": int(67e9), "gradient_bytes": int(7e9), "host_bytes": 0,
        "host_traffic_bytes": 0, "cache_bytes": 0, "largest": [], "collectives": [], "flops": 10e15,
        "model_flops": 8e15, "flops_by_part": {}, "shares": 8, "moved_bytes": int(1e11),
    }  # fmt: skip
    return TrainingStage(**{**fields, **changes})


def plan_of(*stages, gpu="h200", num_gpus=8, per_host=None, **setup):
    fields = {
        "config": "a.py", "network": "the model", "steps": 1000, "batch_size": 16, "accumulation": 2, "groups": 8,
        "mesh": "data=1 x fsdp=8 x seq=1", "fsdp": 8, "sharding": "zero_2", "remat": "attention", "dtype": "bfloat16",
        "adapted": False, "averaged": True,
    }  # fmt: skip
    return TrainingPlan(
        gpu=gpus.described_gpu(gpu),
        num_gpus=num_gpus,
        per_host=per_host,
        reserve=0.08,
        setup=Setup(),
        training=TrainingSetup(**{**fields, **setup}),
        stages=list(stages),
    )


def test_a_step_takes_the_mean_over_kinds_of_batches():
    made = plan_of(stage(share=0.75), stage("t2i 1x480x832", share=0.25, flops=0.0, model_flops=0.0, moved_bytes=0))
    one = 10e15 / 8 / 989.4e12
    assert made.seconds == pytest.approx(0.75 * one)
    assert made.usual_seconds == pytest.approx(0.75 * 0.8 * one / 0.35)
    slow = stage(host_traffic_bytes=int(640e9))
    assert (plan_of(slow).floor(slow).host, plan_of(slow).floor(slow).bound) == (10.0, "host")


def test_the_batch_is_said_in_words():
    setup = plan_of(stage(), groups=4, accumulation=4).training
    assert setup.describe(8) == "A batch of 16 in 4 parts: 1 at a time on each group of 2 GPUs"
    assert plan_of(stage(), accumulation=1).training.describe(8) == "A batch of 16: 2 at a time on each GPU"


def test_advice_names_flags_and_what_they_save():
    made = plan_of(stage(), accumulation=1)
    assert not made.fits
    advice = "\n".join(made.advice())
    assert "--devices.sharding full: saves about 47.2 GB, enough alone" in advice
    assert "--optimizer.accumulation 2: saves about 30.0 GB, enough alone" in advice
    assert "--remat full: a forward pass more: saves about 20.0 GB, enough alone" in advice
    assert "--remat offload: what is kept lies in the host's memory: saves about 30.0 GB" in advice
    assert "--optimizer.ema-decay None: no average of the weights: saves about 7.0 GB, enough alone" in advice
    assert "an adapter (another training" in advice
    advice = "\n".join(plan_of(stage(), sharding="full", remat="offload", adapted=True, averaged=False).advice())
    assert "--devices.seq 2, and --devices.fsdp or --devices.data half as many" in advice
    assert "--num-gpus 16 with --devices.fsdp 16: smaller parts of the state" in advice
    for absent in ("--remat", "sharding", "ema-decay", "adapter", "accumulation"):
        assert absent not in advice
    assert plan_of(stage(temporary_bytes=int(9e9))).advice() == []


def test_assumptions_tell_of_the_hosts_memory():
    made = plan_of(stage(host_bytes=int(30e9), temporary_bytes=int(9e9)), num_gpus=32, per_host=8)
    assert "A host needs 240.0 GB of its own memory" in " ".join(made.assumptions())
    assert "33 to 38 %" in " ".join(made.assumptions())


def test_tables_for_a_page():
    fitting = plan_of(stage(temporary_bytes=int(9e9)))
    lines = training_tables.markdown([fitting]).splitlines()
    assert lines[2].startswith("| t2v 93x480x832 | yes | 1, 2 times | 75.0 GB |  | 7.0 GB | 2.0 GB | 84.1 GB |")
    assert lines[-1] == "8 x h200 (data=1 x fsdp=8 x seq=1): fits; 84.1 GB a GPU of 139.3 GB."
    sent = Collective(kind="all-reduce", group_size=2, asynchronous=True, count=1, sent_bytes=2 * 10**9)
    lines = training_tables.markdown([fitting, plan_of(stage(collectives=[sent]))]).splitlines()
    assert lines[3].startswith("| 8 x h200, data=1 x fsdp=8 x seq=1 | no |")
    assert "| 2.0 GB |" in lines[3]
    assert lines[-1].startswith("8 x h200: ")
    assert lines[-1].endswith("enough alone.")


# The command

CONFIG = """
from pathlib import Path
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.training.config import DevicesConfig, TrainConfig


def get_config():
    return TrainConfig(
        run=Path("run"), checkpoint=Path(CHECKPOINT), objective=FlowMatching(), steps=10, batch_size=8, dtype="float32",
        data=DataConfig(
            path=Path("nowhere"), sizes=((1, 32, 48), (9, 32, 48)), max_sequence_length=8,
            tasks=TaskShares(t2i=1.0, t2v=3.0),
        ),
        devices=DevicesConfig(data=1, fsdp=-1),
    )
"""


@pytest.fixture
def config_file(tmp_path, tiny_checkpoint):
    path = tmp_path / "stage.py"
    path.write_text(CONFIG.replace("CHECKPOINT", repr(str(tiny_checkpoint))))
    return path


def run(arguments, capsys):
    try:
        plan.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code, capsys.readouterr()
    return 0, capsys.readouterr()


def test_the_command_prints_and_writes_a_plan(config_file, tmp_path, capsys, compiled_for_here):
    where = tmp_path / "plan.json"
    flags = [
        "--num-gpus",
        2,
        "--samples",
        2,
        "--remat",
        "full",
        "--devices.sharding",
        "full",
        "--json",
        where,
        "--only",
        "t2v",
    ]
    code, said = run(["train", config_file, *flags], capsys)
    assert code == 0, said.err
    for line in (
        "all parameters of",
        "A batch of 8 in 2 parts: 2 at a time on each GPU (data=1 x fsdp=2 x seq=1, sharding full, remat full)",
        "2 x h200: fits",
        "Memory of one GPU",
        "Time of a step at the least",
        "Largest temporary buffers",
    ):
        assert line in said.out
    read = json.loads(where.read_text())
    (one,) = read["stages"]
    assert (one["task"], one["share"], read["setup"]["samples"]) == ("t2v", 0.75, 2)
    assert one["peak_bytes"] == (
        sum(one["resident_bytes"].values()) + one["input_bytes"] + one["output_bytes"] + one["temporary_bytes"]
    )
    assert one["argument_bytes"] == sum(one["resident_bytes"].values()) + one["input_bytes"]
    assert one["output_bytes"] < 10_000  # the state takes the place of the one before; what is measured does not
    assert one["flops"] > one["model_flops"] > 0
    assert "all-gather" in {collective["kind"] for collective in one["collectives"]}


def test_tasks_can_be_chosen_and_counts_swept(config_file, tmp_path, capsys, compiled_for_here):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plan.png"
    flags = ["--only", "t2v", "--samples", 1, "--sweep", 1, 2, "--markdown", "--picture", picture]
    code, said = run(["train", config_file, *flags], capsys)
    assert code == 0, said.err
    rows = said.out.splitlines()[2:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| 1 x h200, data=1 x fsdp=1 x seq=1", "yes", "1, 8 times"],
        ["| 2 x h200, data=1 x fsdp=2 x seq=1", "yes", "1, 4 times"],
    ]
    assert picture.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "no such file: nowhere.py"),
        (["CONFIG", "--gpu", "h300"], "no description of a GPU 'h300'"),
        (["CONFIG", "--num-gpus", "12"], "12 GPUs are no whole number of hosts of 8"),
        (["CONFIG", "--only", "vc"], "no task 'vc': there are 't2i', 't2v'"),
        (
            ["CONFIG", "--samples", "3"],
            "batch_size 8 is no multiple of 3 samples in 1 groups of GPUs: give --batch-siz",
        ),
        (["CONFIG", "--devices.fsdp", "3", "--num-gpus", "2"], "the mesh data=1 x fsdp=3 x seq=1 takes 3 devices"),
        (
            ["CONFIG", "--num-gpus", "8", "--optimizer.accumulation", "2"],
            "batch_size 8 in 2 parts does not divide over",
        ),
        (["CONFIG", "--data.tasks.vc", "1"], "the task vc has a share, but no bucket serves it"),
    ],
)
def test_mistakes_are_one_line(arguments, message, config_file, capsys, compiled_for_here):
    code, said = run(["train", *[config_file if one == "CONFIG" else one for one in arguments]], capsys)
    assert code == 2
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_data_without_sizes_are_looked_at_and_missed(config_file, capsys):
    config_file.write_text(re.sub(r"sizes=\(\(.*?\)\), ", "", config_file.read_text()))
    code, said = run(["train", config_file], capsys)
    assert code == 2
    assert "names no sizes, and its data are not in nowhere: give --data.sizes FRAMES HEIGHT WIDTH" in said.err


def test_a_flag_that_is_mistyped_is_told_of(config_file, capsys):
    code, said = run(["train", config_file, "--optimizer.learning-rat", "1"], capsys)
    assert code == 2
    assert "--optimizer.learning-rate" in said.err + said.out


def test_the_commands_of_the_page_are_understood(monkeypatch, capsys):
    page = (ROOT / "docs" / "scaling.md").read_text()
    commands = re.findall(r"`?python -m lcv_jax\.plan (train configs[^`\n]+)", page)
    understood = []
    monkeypatch.setattr(plan, "_run", understood.append)
    monkeypatch.chdir(ROOT)
    for command in commands:
        assert run(shlex.split(command), capsys)[0] == 0, command
    assert len(understood) == len(commands) >= 10
    for chosen in understood:
        batches = batch_shapes(chosen.training.data)
        assert set(chosen.output.only) <= {batch.kind.task for batch in batches}
        for count in chosen.output.sweep or (chosen.gpus.num_gpus,):
            on_devices(chosen.training, count, chosen.request.samples)


# GRPO


def grpo(tiny_checkpoint, **fields):
    source = RewardSource(factory="lcv_jax.toy.rewards:sharpness", weights=(("sharpness", 1.0),))
    rewards = RewardsConfig(sources=(source,))
    rollout = {"prompts": 4, "group_size": 2, "prompts_at_once": 2, "num_steps": 4, "critical_steps": 3, **fields}
    return make_config(
        checkpoint=tiny_checkpoint,
        objective=GRPO(),
        data=PromptsConfig(path=ROOT / "examples" / "captions.txt", sizes=SIZES[1:], max_sequence_length=64),
        rollout=RolloutConfig(rewards=rewards, **rollout),
        adapter=AdapterConfig(name="new", rank=4, alpha=2.0),
        optimizer=OptimizerConfig(ema_decay=None),
    )


def test_a_batch_of_grpo_is_planned_as_it_is_made(tiny_checkpoint):
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    cfg = dataclasses.replace(grpo(tiny_checkpoint), batch_size=4, dtype="float32")
    pipeline = load_pipeline(tiny_checkpoint, mesh=mesh)
    learner = networks.learner_of(cfg, pipeline.dit_config, mesh)
    start = networks.Start(cfg, learner)
    with jax.set_mesh(mesh), contextlib.closing(Rollouts(cfg, mesh, pipeline, learner)) as made:
        made._prompts.sizes = SIZES[2:]  # the largest
        kind, batch = made.next(start.state(), start.frozen())
    (planned,) = batch_shapes(cfg.data)
    *_, arrays, planned_kind = training.step_arguments(cfg, planned, requests.networks_of(tiny_checkpoint), mesh)
    assert planned_kind == kind
    assert {name: array.shape for name, array in arrays.items()} == {name: x.shape for name, x in batch.items()}


def test_a_rollout_shares_its_beginning():
    cfg = make_config()
    for steps, most, size, count in ((4, 3, 2, 2 + 2 * 2), (16, 6, 4, 3.5 + 4 * 12.5)):
        rollout = RolloutConfig(
            rewards=RewardsConfig(sources=(RewardSource(factory="a:b", weights=(("a", 1.0),)),)),
            num_steps=steps, critical_steps=most, group_size=size,
        )  # fmt: skip
        planned = dataclasses.replace(rollout, sde=dataclasses.replace(rollout.sde, noisy_steps="all"))
        fields = {"rollout": rollout, "objective": GRPO(), "adapter": AdapterConfig(name="new")}
        data = PromptsConfig(path=Path("nowhere"), sizes=SIZES)
        assert rollouts.evaluations(dataclasses.replace(cfg, data=data, **fields)) == count
        fields["rollout"] = planned
        assert rollouts.evaluations(dataclasses.replace(cfg, data=data, **fields)) == steps * size


@pytest.mark.slow
def test_a_plan_of_grpo_has_its_rollout(tiny_checkpoint, compiled_for_here):
    devices = plan.GPUs(num_gpus=2)
    planned = plan.make_training_plan(grpo(tiny_checkpoint), "grpo", devices)
    step, sampling, text, decode = planned.stages
    assert [stage.task for stage in planned.stages] == ["grpo", "rollout", "rollout", "rollout"]
    # A batch of 8 is a rollout of 4 prompts, two at a time.
    assert [stage.share for stage in planned.stages] == [1, 2, 4, 8]
    assert sampling.gradient_bytes == 0 < step.gradient_bytes
    assert "encoders" in decode.resident_bytes
    assert text.name == "encode text"
    times = [planned.floor(stage).seconds for stage in planned.stages]
    assert planned.seconds == pytest.approx(times[0] + 2 * times[1] + 4 * times[2] + 8 * times[3])
    alone = plan.make_training_plan(grpo(tiny_checkpoint), "grpo", devices, only=["grpo"])
    assert alone.seconds == pytest.approx(times[0])


# With the compiler


@functools.cache  # by arguments as they are written: none has a default
def compiled_for_gpus(remat, sharding):
    """The text of a small step for four described GPUs, and what is planned of it."""
    cfg = on_devices(make_config(remat=remat, devices=DevicesConfig(data=1, fsdp=4, sharding=sharding)), 4, None)
    devices = gpus.described_devices("h200", 4)
    machine = Machine(devices=devices, platform="gpu:9.0", mesh=training.training_mesh(cfg, devices))
    batch = BatchShape(kind=BatchKind("t2v", 0), size=(93, 128, 128), share=1.0)  # two clips of 24 frames a GPU
    texts = []

    def compile_and_keep(*arguments):
        compiled = compile_program(*arguments)
        texts.append(compiled.text)
        return compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "compile_program", compile_and_keep)
        planned = training.compile_step(cfg, batch, requests.Networks(dit=SMALL), machine)
    return texts[0], planned


@needs_compiler
@pytest.mark.parametrize(("remat", "forwards"), [("none", 2), ("attention", 3), ("offload", 3), ("full", 4)])
def test_attention_is_not_computed_again_on_a_gpu_where_it_is_kept(remat, forwards):
    text, planned = compiled_for_gpus(remat, "zero_2")
    # Self- and cross-attention in the forward loop; in the backward loop those that are computed again.
    assert text.count('custom_call_target="__cudnn$fmhaSoftmax"') == forwards
    assert text.count('custom_call_target="__cudnn$fmhaSoftmaxBackward"') == 2
    assert RESIDUALS == "attention"
    kept = SMALL.depth * 2 * 24 * 8 * 8 * SMALL.hidden_size * 2
    # The blocks' inputs and attention's outputs, with its log-sum-exp.
    assert (kept * 2 <= planned.host_bytes <= kept * 2.1) if remat == "offload" else planned.host_bytes == 0


@needs_compiler
@pytest.mark.parametrize("sharding", ["zero_2", "full"])
def test_gradients_are_scattered_on_gpus(sharding):
    _, planned = compiled_for_gpus("attention", sharding)
    sent = {}
    for one in planned.collectives:
        sent[one.kind] = sent.get(one.kind, 0) + one.sent_bytes
    kernels = requests.parameter_count(
        requests.parameter_shapes(requests.Networks(dit=SMALL), "dit", jnp.dtype("float32"))["blocks"]
    )
    assert sent["reduce-scatter"] > 2 * kernels * 3 / 4
    assert sent.get("all-reduce", 0) < 0.2 * sent["reduce-scatter"]


@needs_compiler
def test_what_is_kept_costs_what_it_should():
    temporary = {
        remat: compiled_for_gpus(remat, "zero_2")[1].temporary_bytes for remat in ("offload", "full", "attention")
    }
    assert temporary["offload"] < temporary["full"] < temporary["attention"]
