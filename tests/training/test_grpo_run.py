"""GRPO as the trainer runs it: rollouts, rewards, updates, and resuming."""

import json

import jax
import numpy as np
import pytest

from lcv_jax import train
from lcv_jax.data.media_reader import read_image
from lcv_jax.data.prompts import Prompts, PromptsConfig
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.rewards.config import RewardsConfig, RewardSource
from lcv_jax.training.config import SamplesConfig
from lcv_jax.training.probes import probes
from lcv_jax.training.rollout_config import RolloutConfig
from lcv_jax.training.rollouts import judged

REWARDS = RewardsConfig(sources=(RewardSource(factory="lcv_jax.toy.rewards:alignment", weights=(("alignment", 1.0),)),))


@pytest.fixture
def on_one_device(monkeypatch):
    monkeypatch.setattr(train, "make_mesh", lambda data, fsdp, seq: make_mesh(data, fsdp, seq, jax.devices()[:1]))


@pytest.mark.slow
def test_a_run_rolls_out_learns_and_goes_on_to_the_same_bits(grpo_config, lines_of, tmp_path, on_one_device):
    samples = SamplesConfig(every=2, prompts=("a red circle",), num_frames=5, size=(32, 32), num_steps=2)
    train.train(grpo_config(samples=samples))
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    told = {
        "reward/hackable_sharpness",
        "reward_spread/hackable_sharpness",
        "advantage_spread",
        "groups/kept",
        "seconds/rollout",
        "seconds/reward",
        "seconds/update",
        "kl",
        "clipped",
        "grad_norm",
    }
    assert told <= set(lines[0])
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert lines[3]["kl"] > 0
    spent = [sum(line[f"seconds/{name}"] for name in ("rollout", "reward", "update")) for line in lines]
    assert spent == pytest.approx([line["step_seconds"] for line in lines])
    assert lines[1]["seconds/rollout"] == lines[3]["seconds/rollout"] == 0 < lines[2]["seconds/rollout"]
    probes = json.loads((tmp_path / "run" / "samples" / "00000004.json").read_text())
    assert probes["policy"].keys() == {"motion_energy", "saturation", "sharpness"}
    assert probes["policy"] != probes["reference"]
    assert read_image(tmp_path / "run" / "samples" / "00000004.png").shape[1:] == (32 * 5, 3)
    train.train(grpo_config(run=tmp_path / "parts", steps=2))
    train.train(grpo_config(run=tmp_path / "parts"))
    again = lines_of(tmp_path / "parts")
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]


def test_advantages_are_sums_over_rewards_and_a_group_without_a_score_counts_nothing():
    scores = {
        "a": np.array([1.0, 3.0, 0.0, 8.0, 5.0, 5.0], np.float32),
        "b": np.array([0.0, 1.0, 2.0, np.nan, 1.0, 1.0], np.float32),
    }
    total, kept, told = judged(scores, {"a": 1.0, "b": 2.0}, 2, "largest")
    assert kept.tolist() == [True, False, True]
    np.testing.assert_allclose(total, [[-1 - 2, 1 + 2], [0, 0], [0, 0]], rtol=1e-4)
    assert told["groups/dropped"] == 1
    assert told["reward/a"] == pytest.approx(3.5)
    assert told["reward_largest_spread/a"] == 1


def test_captions_come_once_an_epoch_whatever_the_batch(tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(f"caption {n}" for n in range(6)))
    prompts = Prompts(PromptsConfig(path=tmp_path / "c.txt", sizes=((5, 32, 32),)), 2, seed=1)
    epoch = [caption for number in range(3) for caption in prompts.at(number)[0]]
    assert sorted(epoch) == sorted(prompts.captions)
    assert prompts.at(1) == prompts.at(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group_size": 1}, "group_size must lie in 2"),
        ({"critical_steps": 16}, r"critical_steps must lie in 1\.\.num_steps - 1 = 15"),
        ({"prompts": 6, "prompts_at_once": 4}, "a multiple of prompts_at_once"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RolloutConfig(rewards=REWARDS, **fields)


def test_one_caption_is_refused(grpo_config, tmp_path, on_one_device):
    (tmp_path / "captions.txt").write_text("a red circle\n")
    with pytest.raises(ValueError, match="has one caption"):
        train.train(grpo_config())


def test_a_run_ends_with_a_rollout(grpo_config, on_one_device):
    with pytest.raises(ValueError, match="steps 3 is no multiple of the 2 that a rollout is learnt from in"):
        train.train(grpo_config(steps=3))


def test_probes_are_means_of_differences():
    video = np.zeros((1, 2, 4, 4, 3), np.uint8)
    video[0, 1] = 100
    video[0, :, 1, 1, 0] += 50
    found = probes(video)
    assert found["motion_energy"] == pytest.approx(100)
    assert found["saturation"] == pytest.approx(50 / 16)
    assert found["sharpness"] == pytest.approx((4 + 1 + 1 + 0) * 15 / 4)  # 50 of red are 15 of luma
