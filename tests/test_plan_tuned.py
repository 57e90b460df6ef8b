"""Plans of training judges and captioners: the trainer's own step takes what is planned, at the released sizes."""

import dataclasses
import importlib.util
import math
from pathlib import Path

import jax
import pytest

from lcv_jax import plan
from lcv_jax.config import Qwen2VisionConfig, Qwen2VLConfig
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.planning import judges, training, tuned
from lcv_jax.train import read_config
from lcv_jax.training.step import train_step

ROOT = Path(__file__).parents[1]
CONFIGS = ("judges/motion_quality", "judges/text_alignment", "judges/evaluation", "captioner")
TINY = Qwen2VLConfig(
    vision_config=Qwen2VisionConfig(hidden_size=64, depth=1, embed_dim=32, num_heads=2),
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    mrope_section=(4, 6, 6), vocab_size=152064,
)  # fmt: skip


def config_of(name):
    return read_config(str(ROOT / "configs" / f"{name}.py"))


@pytest.fixture(autouse=True)
def nothing_converted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny(monkeypatch):
    released = {kind: dataclasses.replace(judge, network=TINY) for kind, judge in judges.RELEASED.items()}
    monkeypatch.setattr(judges, "RELEASED", released)
    monkeypatch.setattr(judges, "SEVEN_B", TINY)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_trainers_step_takes_what_is_planned(name, tiny):
    cfg = config_of(name)
    cfg = dataclasses.replace(cfg, batch_size=2, optimizer=dataclasses.replace(cfg.optimizer, accumulation=1))
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    arguments = tuned.tuned_step(cfg).arguments(cfg, mesh)
    with jax.set_mesh(mesh):
        changed, measured = train_step.trace(*arguments).out_info
    assert jax.tree.map(lambda x: x.shape, changed) == jax.tree.map(lambda x: x.shape, arguments[1])
    assert measured["loss"].shape == ()
    learner, _, _, arrays, kind = arguments
    model, computed = training.step_flops(cfg, learner, arrays, kind)
    assert computed == pytest.approx(model * (1.5 if name == "captioner" else 4 / 3))


def test_a_judge_is_planned_at_the_released_size():
    cfg = config_of("judges/motion_quality")
    step = tuned.tuned_step(cfg)
    assert (step.known, step.task) == ("the released VideoReward", "pairs")
    pictures, patches = step.arrays["patches_BTSC"][0][1:3]
    assert (pictures, patches) == judges.judgings(config_of("longcat_13b/grpo"), tuned.CLIP)[1].shape[:2]
    _, state, frozen, _, _ = step.arguments(cfg, make_mesh(1, 1, 1, jax.devices()[:1]))
    # In full the vision tower of 665 M parameters; of the text model of 1,544 M an adapter of rank 64.
    network = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params["network"]))
    adapter = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params["pairs"]))
    held = sum(math.prod(x.shape) for x in jax.tree.leaves(frozen.params))
    assert network == pytest.approx(665e6, rel=0.01)
    assert adapter == pytest.approx(64 * 28 * (4 * 1536 + 2 * (1536 + 256) + 3 * (1536 + 8960)), rel=0.01)
    assert held == pytest.approx(1544e6, rel=0.01)
    assert training.held_bytes(state, frozen)["moments"] == pytest.approx(8 * (network + adapter), rel=0.01)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="XLA's compiler is not installed")
@pytest.mark.parametrize("name", ["judges/evaluation", "captioner"])
def test_the_step_is_compiled_for_a_described_gpu(name, tiny, capsys):
    plan.main(
        [
            "train",
            str(ROOT / "configs" / f"{name}.py"),
            "--gpu",
            "h200",
            "--batch-size",
            "2",
            "--optimizer.accumulation",
            "1",
        ]
    )
    assert "1 x NVIDIA H200" in capsys.readouterr().out
