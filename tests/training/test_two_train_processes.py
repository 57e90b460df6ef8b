"""Training in two real processes with two CPU devices each, and going on in one."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lcv_jax import train
from lcv_jax.checkpoint import store
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.training.config import DevicesConfig

ROOT = Path(__file__).parents[2]


def run_two(config, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "lcv_jax.train", str(config), *map(str, arguments)]
    command += ["--devices.coordinator", f"127.0.0.1:{port}", "--devices.num-processes", "2", "--devices.process-id"]
    both = [
        subprocess.Popen(
            [*command, str(process)], env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for process in range(2)
    ]
    try:
        said = [process.communicate(timeout=1200)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    return [(process.returncode, text) for process, text in zip(both, said, strict=True)]


@pytest.mark.slow
def test_two_processes_train_and_one_goes_on(config, write_config, tmp_path, monkeypatch, lines_of):
    """Parameters in parts over both; the weights at the end are those of one process on one device."""
    monkeypatch.setattr(train, "make_mesh", lambda *shape: make_mesh(*shape, jax.devices()[:1]))
    alone = config(run=tmp_path / "alone", devices=DevicesConfig(data=1))
    train.train(alone)
    cfg = config(steps=2, devices=DevicesConfig(data=2, fsdp=2, sharding="full"))
    ended = run_two(write_config(tmp_path / "config.py", cfg))
    assert [status for status, _ in ended] == [0, 0], "\n".join(said for _, said in ended)
    assert "done: weights" in ended[0][1]
    halfway = store.load_component(cfg.run / "weights", "dit")[1]
    train.train(dataclasses.replace(cfg, steps=4, devices=DevicesConfig(data=1)))
    losses = [[line["loss"] for line in lines_of(run)] for run in (cfg.run, alone.run)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    weights = [jax.device_get(store.load_component(run / "weights", "dit")[1]) for run in (cfg.run, alone.run)]
    for one, other, before in zip(*map(jax.tree.leaves, (*weights, halfway)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)
        assert not np.array_equal(one, before)


@pytest.mark.slow
def test_two_processes_roll_out_and_are_judged_together(grpo_config, write_config, tmp_path, monkeypatch, lines_of):
    """Each scores a half of the videos; means and largest spreads are over all, as on one device."""
    monkeypatch.setattr(train, "make_mesh", lambda *shape: make_mesh(*shape, jax.devices()[:1]))
    fields = {"prompts": 4, "group_size": 2, "prompts_at_once": 4}
    rollout = dataclasses.replace(grpo_config().rollout, **fields)
    alone = grpo_config(run=tmp_path / "alone", rollout=rollout, batch_size=4)
    train.train(alone)
    cfg = grpo_config(rollout=rollout, batch_size=4, devices=DevicesConfig(data=2, fsdp=2, sharding="full"))
    ended = run_two(write_config(tmp_path / "config.py", cfg))
    assert [status for status, _ in ended] == [0, 0], "\n".join(said for _, said in ended)
    told = [lines_of(run) for run in (cfg.run, alone.run)]
    for name in ("reward/hackable_sharpness", "reward_largest_spread/hackable_sharpness", "advantage_spread"):
        np.testing.assert_allclose(*([line[name] for line in lines] for lines in told), rtol=2e-3)
    np.testing.assert_allclose(*([line["grad_norm"] for line in lines] for lines in told), rtol=2e-2)


@pytest.mark.slow
def test_a_mistake_is_told_and_both_processes_end(config, write_config, tmp_path):
    cfg = config(devices=DevicesConfig(data=4), batch_size=6)
    ended = run_two(write_config(tmp_path / "config.py", cfg))
    assert all(status for status, _ in ended)
    for _, said in ended:
        assert "batch_size 6 in 1 parts does not divide over data x fsdp = 4 devices" in said
        assert "Traceback" not in said
