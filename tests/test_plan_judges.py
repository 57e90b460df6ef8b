"""What the reward models of a GRPO config cost: rows, operations, memory, on the policy's GPUs and apart."""

import dataclasses
from pathlib import Path

import jax
import pytest

from lcv_jax import gpus
from lcv_jax.config import Qwen2VisionConfig, Qwen2VLConfig
from lcv_jax.models.flops import counted_flops, qwen2_vl_flops
from lcv_jax.models.judges import JudgeNetwork
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.planning import judges
from lcv_jax.planning.compiling import Machine
from lcv_jax.rewards.judge import score_packed
from lcv_jax.train import read_config
from lcv_jax.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
SIZE = (93, 480, 832)
TINY = Qwen2VLConfig(
    vision_config=Qwen2VisionConfig(hidden_size=512, depth=2, embed_dim=256, num_heads=4),
    hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    mrope_section=(16, 24, 24),
)  # fmt: skip


@pytest.fixture
def cfg(monkeypatch, tmp_path) -> TrainConfig:
    """The report's config, where no reward model is converted."""
    monkeypatch.chdir(tmp_path)
    return read_config(str(ROOT / "configs" / "longcat_13b" / "grpo.py"))


def test_the_reports_rewards_are_planned_at_their_released_sizes(cfg):
    hps, video = judges.judgings(cfg, SIZE)
    assert (hps.rows, hps.shape.ends) == (256 * 93, 2)
    assert hps.shape.patches == 4 * 256  # 252 tokens, in their bucket
    # Motion quality on grey videos, alignment in colour.
    assert (video.rows, video.shape.pictures, video.shape.ends) == (2 * 256, 6, 1)
    # Released files: 16.59 GB with lm_head, which is not loaded; 5.03 GB with the unmerged LoRA and lm_head twice.
    assert hps.weight_bytes == pytest.approx(16.59e9 - 2 * 151658 * 3584, rel=1e-3)
    assert 4.2e9 < video.weight_bytes < 4.6e9


def test_the_shared_prefix_saves_nearly_half(cfg):
    hps, video = judges.judgings(cfg, SIZE)
    assert 0.5 < hps.flops / hps.unshared_flops < 0.6
    assert video.flops == video.unshared_flops
    gpu = gpus.described_gpu("h200")
    told = " ".join(judges.costs(cfg, SIZE, gpu, 32))
    seconds = hps.flops / gpu.speed.bf16_flops
    assert f"{seconds / 32:.3g} s on these 32 GPUs, {seconds:,.0f} s on one GPU apart" in told
    assert f"{hps.unshared_flops / gpu.speed.bf16_flops:,.0f} s on one GPU" in told


def test_judges_apart_take_no_memory_of_the_policy(cfg):
    assert cfg.rollout is not None
    rewards = cfg.rollout.rewards
    apart = dataclasses.replace(rewards.sources[0], options=(("folder", "judges/hpsv3"), ("devices", "6,7")))
    sources = (apart, rewards.sources[1])
    rollout = dataclasses.replace(cfg.rollout, rewards=dataclasses.replace(rewards, sources=sources))
    other = dataclasses.replace(cfg, rollout=rollout)
    assert [work.here for work in judges.judgings(other, SIZE)] == [False, True]
    assert "on these" not in judges.costs(other, SIZE, gpus.described_gpu("h200"), 32)[0]


def test_operations_by_formula_are_those_of_the_program(cfg, monkeypatch):
    """All but attention's, which on a CPU is not cut at the diagonal, and is small here; and the head's."""
    tiny = {kind: dataclasses.replace(judge, network=TINY) for kind, judge in judges.RELEASED.items()}
    monkeypatch.setattr(judges, "RELEASED", tiny)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    for work in judges.judgings(cfg, SIZE):
        small = dataclasses.replace(work, batch=1, shape=work.shape._replace(pictures=1, patches=64, begun=32, end=16))
        params, arguments = judges._shapes(small, mesh)
        network = JudgeNetwork(small.judge)
        counted = counted_flops(jax.make_jaxpr(score_packed, static_argnums=0)(network, params, arguments))
        shape = small.shape
        own = {"begun": shape.begun, "ends": shape.ends, "end": shape.end}
        assert qwen2_vl_flops(small.judge.network, pictures=1, patches=64, **own) == pytest.approx(counted, rel=0.05)


def test_a_scoring_program_is_compiled_for_the_policys_mesh(cfg, monkeypatch):
    tiny = {kind: dataclasses.replace(judge, network=TINY) for kind, judge in judges.RELEASED.items()}
    monkeypatch.setattr(judges, "RELEASED", tiny)
    monkeypatch.setattr(judges, "TEMPLATE_TOKENS", dict.fromkeys(tiny, 32))
    mesh = make_mesh(1, 2, 1, jax.devices()[:2])
    machine = Machine(devices=jax.devices()[:2], platform="cpu", mesh=mesh)
    work = dataclasses.replace(judges.judgings(cfg, SIZE)[1], batch=1)
    stage = judges._compiled(work, machine, 1.0, {"frozen": 1})
    assert stage.share == work.rows / 2
    assert stage.flops * stage.share == pytest.approx(work.flops)
    assert stage.temporary_bytes > 0
    assert stage.argument_bytes == pytest.approx(work.weight_bytes + stage.input_bytes, rel=0.01)
