"""A run of four steps on encoded noise, small enough to train many times."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.data.prompts import PromptsConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    DevicesConfig,
    LoggingConfig,
    OptimizerConfig,
    TrainConfig,
)
from lcv_jax.training.rollout_config import RolloutConfig
from tests import training_runs

HACKABLE = RewardSource(factory="lcv_jax.toy.rewards:hackable_sharpness", weights=(("hackable_sharpness", 1.0),))
MODULES = (
    "pathlib",
    "lcv_jax.training.config",
    "lcv_jax.training.rollout_config",
    "lcv_jax.data.config",
    "lcv_jax.data.prompts",
    "lcv_jax.objectives.flow_matching",
    "lcv_jax.objectives.grpo",
    "lcv_jax.objectives.drawing",
    "lcv_jax.rewards.config",
)
"""Whose names a written config may use."""


@pytest.fixture(scope="session")
def encoded(tmp_path_factory, tiny_checkpoint):
    """Sixteen clips of 5 frames, 32 x 32, written as videos and encoded by the command that users run."""
    from lcv_jax import encode
    from lcv_jax.data.media_writer import VideoWriter

    folder = tmp_path_factory.mktemp("data")
    lines = []
    for number in range(16):
        frames = np.full((5, 32, 32, 3), 16 * number, np.uint8)
        frames[:, :, 4 * (number % 8) :] //= 2
        with VideoWriter(folder / f"{number}.mp4", fps=8, height=32, width=32, crf=4) as writer:
            writer.write(frames)
        lines.append(json.dumps({"id": str(number), "path": f"{number}.mp4", "caption": f"clip {number}"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    encode.main(
        [
            str(folder / "manifest.jsonl"),
            str(tiny_checkpoint),
            str(folder / "encoded"),
            "--sizes",
            "5,32,32",
            "--fps",
            "8",
        ]
    )
    return folder / "encoded"


@pytest.fixture(scope="session")
def config_of(encoded, tiny_checkpoint):
    """config_of(run=..., **fields): a run with these fields changed."""

    def make(run, **fields):
        cfg = TrainConfig(
            run=run,
            checkpoint=tiny_checkpoint,
            objective=FlowMatching(),
            data=DataConfig(path=encoded, max_sequence_length=16, tasks=TaskShares(t2v=1.0, i2v=1.0), prefetch=1),
            steps=4,
            batch_size=8,
            dtype="float32",
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=0.5),
            checkpoints=CheckpointsConfig(every=2),
            logging=LoggingConfig(every=1),
        )
        return dataclasses.replace(cfg, **fields)

    return make


@pytest.fixture
def config(config_of, tmp_path):
    """config(**fields): likewise, in tmp_path/run."""
    return functools.partial(config_of, run=tmp_path / "run")


@pytest.fixture
def grpo_config(tiny_checkpoint, tmp_path):
    """grpo_config(**fields): GRPO in tmp_path/run: two rollouts of two groups of two, each learnt from twice."""
    (tmp_path / "captions.txt").write_text("a red circle\na blue square\na green ring\n")

    def make(**fields):
        cfg = TrainConfig(
            run=tmp_path / "run",
            checkpoint=tiny_checkpoint,
            objective=GRPO(guidance_scale=2.0),
            data=PromptsConfig(path=tmp_path / "captions.txt", sizes=((5, 32, 32),), max_sequence_length=16),
            rollout=RolloutConfig(
                rewards=RewardsConfig(sources=(HACKABLE,)),
                prompts=2,
                group_size=2,
                prompts_at_once=1,
                num_steps=4,
                critical_steps=2,
                shift=3.0,
            ),
            steps=4,
            batch_size=2,
            dtype="float32",
            remat="none",
            adapter=AdapterConfig(name="grpo_lora", rank=4, alpha=2.0),
            optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=None),
            checkpoints=CheckpointsConfig(every=1),
            logging=LoggingConfig(every=1),
            devices=DevicesConfig(data=1),
        )
        return dataclasses.replace(cfg, **fields)

    return make


@pytest.fixture
def lines_of():
    """lines_of(run): what its metrics.jsonl says."""
    return training_runs.lines_of


@pytest.fixture
def write_config():
    """write_config(path, cfg): a file whose get_config() returns the config."""

    def write(path, cfg):
        imports = "".join(f"from {module} import *\n" for module in MODULES)
        path.write_text(f"{imports}def get_config():\n    return {_source(cfg)}\n")
        return path

    return write


def _source(value):
    """A config as the expression that makes it."""
    if isinstance(value, Path):
        return f"Path({str(value)!r})"
    if dataclasses.is_dataclass(value):
        fields = ", ".join(f"{f.name}={_source(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.init)
        return f"{type(value).__name__}({fields})"
    return repr(value)
