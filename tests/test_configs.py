"""Configs of the repository: they load, say what the report says, and follow from one another."""

import re
import sys
from pathlib import Path

import pytest

from lcv_jax.config import DiTConfig
from lcv_jax.data.buckets import buckets
from lcv_jax.kernels.block_order import block_order
from lcv_jax.planning.training import batch_shapes, on_devices
from lcv_jax.train import read_config

ROOT = Path(__file__).parents[1]
LONGCAT = ROOT / "configs" / "longcat_13b"
P256, P480, P720 = "256p", "480p", "720p"
ALL = {"t2i", "t2v", "i2v", "vc"}

STAGES = {
    # tasks, sizes, frames, learning rate, iterations: report, tables 3, 4, 6 and 7
    "pretrain_1": ({"t2i"}, {P256}, {1}, 1e-4, 285_000),
    "pretrain_2": ({"t2i", "t2v"}, {P256}, {1, 93}, 1e-4, 140_000),
    "pretrain_3": (ALL, {P256}, {1, 93}, 5e-5, 164_000),
    "pretrain_4": (ALL, {P480}, {1, 93}, 5e-5, 36_000),
    "pretrain_5": (ALL, {P480, P720}, {1, 93}, 2e-5, 53_000),
    "sft": (ALL, {P480, P720}, {1, 93}, 1e-5, 7_500),
    "cfg_distillation": (ALL, {P480, P720}, {1, 93}, 5e-5, 2_000),
    "consistency_distillation": (ALL, {P480, P720}, {1, 93}, 5e-5, 3_000),
    "refinement_dense": ({"refine"}, {P720}, {93, 189}, 5e-5, 500),
    "refinement_sparse": ({"refine"}, {P720}, {93, 189}, 5e-5, 500),
}
BEFORE = {
    "pretrain_2": "pretrain_1", "pretrain_3": "pretrain_2", "pretrain_4": "pretrain_3", "pretrain_5": "pretrain_4",
    "sft": "pretrain_5", "cfg_distillation": "sft", "consistency_distillation": "cfg_distillation",
    "refinement_dense": "sft", "refinement_sparse": "refinement_dense",
}  # fmt: skip


def config(name):
    return read_config(str(LONGCAT / f"{name}.py"))


def test_every_stage_has_a_config():
    assert {path.stem for path in LONGCAT.glob("*.py")} == {*STAGES, "grpo", "causal", "self_forcing", "published"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_the_reports_numbers(name):
    tasks, resolutions, frames, rate, steps = STAGES[name]
    cfg = config(name)
    assert set(cfg.data.tasks.positive()) == tasks
    assert (cfg.optimizer.learning_rate, cfg.steps) == (rate, steps)
    assert {size[0] for size in cfg.data.sizes} == frames
    granularity = 64 if "refinement" in name else 32
    published = {size for each in resolutions - {P256} for size in buckets(each, granularity)}
    if resolutions == {P256}:
        published = {(height, width) for _, height, width in cfg.data.sizes}
        assert all(abs(height * width / (256 * 448) - 1) < 0.05 for height, width in published)
    assert {size[1:] for size in cfg.data.sizes} == published


def test_adapters_are_the_published_ones():
    for name, adapter in (
        ("cfg_distillation", ("cfg_step_lora", None)),
        ("consistency_distillation", ("cfg_step_lora", "cfg_step_lora")),
        ("refinement_dense", ("refinement_lora", None)),
        ("refinement_sparse", ("refinement_lora", "refinement_lora")),
    ):
        cfg = config(name).adapter
        assert (cfg.name, cfg.start) == adapter
        assert (cfg.rank, cfg.alpha) == (128, 64)
    assert all(config(name).adapter is None for name in STAGES if "pretrain" in name or name == "sft")


def test_the_objectives_have_the_reports_numbers():
    guided, consistent = config("cfg_distillation").objective, config("consistency_distillation").objective
    assert (guided.guidance_scale, guided.shift) == (4.0, 12.0)
    assert (consistent.num_steps, consistent.shift) == (16, 12.0)
    dense, sparse = config("refinement_dense"), config("refinement_sparse")
    assert dense.objective == sparse.objective
    assert sparse.objective.t_thresh == 0.5
    assert dense.sparse is None
    assert (sparse.sparse.sparsity, sparse.sparse.chunk_3d_shape_q) == (0.9375, (4, 4, 4))


def test_grpo_has_the_reports_numbers():
    """Tables 5 and 9."""
    cfg = config("grpo")
    rollout, adapter = cfg.rollout, cfg.adapter
    assert (rollout.prompts, rollout.group_size, rollout.num_steps, rollout.critical_steps) == (64, 4, 16, 6)
    assert (rollout.shift, cfg.objective.guidance_scale, cfg.objective.kl_weight) == (12.0, 4.0, 3e-4)
    assert (cfg.optimizer.learning_rate, cfg.steps, cfg.batch_size) == (1e-4, 500, 64 * 4)
    assert (adapter.rank, adapter.alpha, cfg.checkpoint) == (128, 64, config("sft").run / "weights")
    assert rollout.rewards.weights == {"hpsv3_general": 1, "hpsv3_percentile": 1, "mq": 1, "ta": 1}
    assert set(cfg.data.sizes) == {(93, *size) for name in (P480, P720) for size in buckets(name, 32)}


def test_every_stage_starts_from_the_one_before():
    for name in STAGES:
        cfg = config(name)
        assert cfg.run.name == name
        if name == "pretrain_1":
            assert cfg.from_scratch
        else:
            assert cfg.checkpoint == config(BEFORE[name]).run / "weights"


def test_batches_divide_on_the_stated_hardware_and_on_other_numbers_of_hosts():
    for name in (*STAGES, "grpo", "causal", "self_forcing"):
        stated = int(re.search(r"Hardware: (\d+) x H200", (LONGCAT / f"{name}.py").read_text()).group(1))
        cfg = on_devices(config(name), stated, None)
        groups = cfg.devices.data * cfg.devices.fsdp
        at_a_time = cfg.batch_size // cfg.optimizer.accumulation // groups
        assert cfg.batch_size == at_a_time * groups * cfg.optimizer.accumulation
        for count in (8, 32, 128):
            samples = min(at_a_time, cfg.batch_size * cfg.devices.seq // 128)
            again = on_devices(config(name), count, samples)
            assert again.batch_size == cfg.batch_size
            assert DiTConfig().num_heads % again.devices.seq == 0


def test_sparse_stages_have_whole_blocks_only():
    cfg = config("refinement_sparse")
    block = cfg.sparse.chunk_3d_shape_q
    for batch in batch_shapes(cfg.data):
        assert batch.kind.num_cond_latents % block[0] == 0
    for frames, height, width in cfg.data.sizes:
        block_order(((frames - 1) // 4 + 1, height // 16, width // 16), block, block)


def test_a_config_finds_its_folder_and_leaves_the_path_as_it_was():
    before = list(sys.path)
    config("sft")
    assert sys.path == before


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.py")), ids=lambda path: path.parent.name + path.stem)
def test_every_config_loads_and_says_how_to_run_it(path):
    text = path.read_text()
    if "def get_config()" in text:
        assert read_config(str(path)).steps > 0
        assert f"python -m lcv_jax.train {path.relative_to(ROOT)}" in text
        assert "Hardware: " in text
