"""What a run says of itself: validation, labelled samples, what compiles, time left, divergence; and its schedule."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax import train
from lcv_jax.data.batches import open_batches
from lcv_jax.data.frames import to_uint8
from lcv_jax.data.held_out import clip_of, held_out_clips
from lcv_jax.evaluation.measures import measure_clip
from lcv_jax.evaluation.suite_sampling import video_seed
from lcv_jax.pipeline import load_pipeline
from lcv_jax.rewards.config import RewardSource
from lcv_jax.training.config import CheckpointsConfig, DevicesConfig, LoggingConfig, OptimizerConfig
from lcv_jax.training.console import ConsoleLines
from lcv_jax.training.metrics import Metrics, Work
from lcv_jax.training.observe_config import EvaluationConfig, SamplesConfig, ValidationConfig
from lcv_jax.training.samples import grid
from lcv_jax.training.state import learning_rate
from lcv_jax.training.validation import Validation


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    make_mesh = train.make_mesh
    monkeypatch.setattr(train, "make_mesh", lambda data, fsdp, seq: make_mesh(1, 1, 1, jax.devices()[:1]))


def test_validation_is_of_clips_that_are_not_trained_and_compares(config, lines_of, capsys):
    data = config().data
    cfg = config(
        devices=DevicesConfig(data=1),
        validation=ValidationConfig(every=2, batches=2),
        data=dataclasses.replace(data, held_out=0.25, tasks=dataclasses.replace(data.tasks, i2v=0.0)),
        optimizer=OptimizerConfig(learning_rate=1e-12, ema_decay=None),
        samples=SamplesConfig(every=4, prompts=("clip 1",), num_frames=5, size=(32, 32), num_steps=2),
    )
    train.train(cfg)
    assert sorted(path.stem for path in (cfg.run / "samples").iterdir()) == ["00000000", "00000001", "00000004"]
    values = {line["step"]: line["validation_loss"] for line in lines_of(cfg.run) if "validation_loss" in line}
    assert list(values) == [0, 2, 4]
    assert values[2] == pytest.approx(values[0], rel=1e-6)  # nothing was learnt, so nothing changes
    err = capsys.readouterr().err
    assert f"step 0: validation loss {values[0]:.4g}" in err
    assert err.index("loading") < err.index("compiling the step for t2v (2x4x4 latents) ...") < err.index("step 1 of 4")
    assert [f"step {step} of 4: loss" in err for step in (1, 2, 3, 4)] == [True] * 4


def test_a_suite_is_scored_along_the_way(config, lines_of, tmp_path):
    pytest.importorskip("cv2")
    suite = tmp_path / "suite.jsonl"
    prompts = [f"clip {number}" for number in range(5)]
    suite.write_text("".join(json.dumps({"id": f"i{n}", "prompt": one}) + "\n" for n, one in enumerate(prompts)))
    cfg = config(
        devices=DevicesConfig(data=1),
        steps=2,
        samples=SamplesConfig(num_frames=5, size=(32, 32), num_steps=2, seed=3),
        evaluation=EvaluationConfig(
            every=1, suite=str(suite), num_prompts=3, batch=2, fps=8.0,
            judges=(RewardSource(factory="tests.rewards.faulty:Brightness"),),
        ),
    )  # fmt: skip
    train.train(cfg)
    found = {line["step"]: line for line in lines_of(cfg.run) if "evaluation/judges/brightness" in line}
    assert list(found) == [0, 1, 2]
    assert found[0] != {**found[1], "step": 0}  # it learns

    # What step 0 was scored on is what sampling the suite with the checkpoint makes: prompts 0, 2 and 4.
    pipeline = load_pipeline(cfg.checkpoint, dtype=jnp.float32)
    seeds = tuple(video_seed(3, f"i{number}", 0) for number in (0, 2, 4))
    given = {"num_steps": 2, "num_frames": 5, "height": 32, "width": 32, "max_sequence_length": 16}
    videos = to_uint8(np.asarray(pipeline.text_to_video(prompts[::2], seed=seeds, **given)))
    assert found[0]["evaluation/judges/brightness"] == pytest.approx(videos.mean(), abs=0.2)
    flicker = np.mean([measure_clip(video, 8.0)["flicker"] for video in videos])
    assert found[0]["evaluation/measures/flicker"] == pytest.approx(flicker, abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluation": EvaluationConfig(every=1, suite="nothing")}, "nothing: no such suite"),
        ({"evaluation": EvaluationConfig(every=1), "samples": SamplesConfig(num_frames=1)}, "must be 5 or more, got 1"),
    ],
)
def test_a_suite_that_cannot_be_scored_is_refused(config, fields, message):
    with pytest.raises((ValueError, OSError), match=message):
        train.train(config(devices=DevicesConfig(data=1), **fields))


def test_held_out_clips_are_in_no_batch_of_training(encoded, config):
    data = dataclasses.replace(config().data, held_out=0.25)
    apart, others = (open_batches(data, batch_size=4, seed=0, held_out=held_out) for held_out in (True, False))
    assert (sum(apart.num_clips.values()), sum(others.num_clips.values())) == (4, 12)
    seen = [
        {row.tobytes() for _ in range(8) for row in next(batches).arrays["latents_BTHWC"]}
        for batches in (apart, others)
    ]
    assert not seen[0] & seen[1]
    assert (len(seen[0]), len(seen[1])) == (4, 12)


def test_the_share_is_of_clips_whatever_their_order():
    ids = [f"clip{number}{kind}" for number in range(20) for kind in ("", "#image0")]
    apart = held_out_clips(ids, 0.1)
    assert apart == held_out_clips(reversed(ids), 0.1)
    assert len(apart) == 2
    assert {clip_of(one) for one in ids} > apart
    assert len(held_out_clips(["a", "b"], 0.01)) == 1
    assert held_out_clips(["a"], 0.0) == frozenset()
    with pytest.raises(ValueError, match="leaves none to train on"):
        held_out_clips(["a"], 0.1)


def test_validation_without_clips_is_refused(config):
    with pytest.raises(ValueError, match=r"set data\.held_out"):
        config(validation=ValidationConfig(every=2))


def test_a_cosine_falls_to_a_tenth_after_the_warm_up():
    rate = learning_rate(OptimizerConfig(learning_rate=1e-3, warmup_steps=10, decay_steps=110))
    assert [float(rate(step)) for step in (4, 9)] == pytest.approx([5e-4, 1e-3])
    half = 1e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert [float(rate(step)) for step in (59, 109, 500)] == pytest.approx([half, 1e-4, 1e-4])
    with pytest.raises(ValueError, match="decay_steps must be above warmup_steps"):
        OptimizerConfig(warmup_steps=10, decay_steps=10)


def test_samples_are_labelled():
    videos = np.zeros((2, 5, 32, 32, 3), np.uint8)
    assert 64 + 2 * 14 <= grid(videos, ["one", "two"]).shape[0] < 64 + 3 * 17
    assert grid(videos, ["a caption of more than one line of this width, which is narrow"]).shape[0] > 64 + 2 * 14
    assert grid(videos, ["one"])[:14].max() == 255


def metrics(tmp_path):
    return Metrics(tmp_path, LoggingConfig(every=1), first_step=0, last_step=100, peak_flops=None)


def of_loss(loss):
    measured = {"loss": loss, "finite": True, "error_B": [1.0], "t_B": [0.0]}
    return {name: np.asarray(value) for name, value in measured.items()}


def test_an_exploding_loss_ends_the_run(tmp_path):
    work = Work(task="t2v", tokens=1, flops=1.0, waited=0.0)
    with metrics(tmp_path) as opened:
        for step, loss in enumerate([1.0, 0.2, 1.9], start=1):  # far above the lowest, but not above the first
            opened.add(step, of_loss(loss), work)
        with pytest.raises(FloatingPointError, match=r"diverged: at step 4 the loss is 30, after 0\.2 at its lowest"):
            opened.add(4, of_loss(30.0), work)


def first_line(tmp_path, losses, first_step=0):
    """The first line of a run, or of one that goes on."""
    work = Work(task="t2v", tokens=1, flops=1.0, waited=0.0)
    with Metrics(tmp_path, LoggingConfig(every=4), first_step=first_step, last_step=100, peak_flops=None) as opened:
        for step, loss in enumerate(losses, start=first_step + 1):
            opened.add(step, of_loss(loss), work)


def test_a_loss_that_explodes_before_the_first_line_ends_the_run(tmp_path):
    with pytest.raises(
        FloatingPointError, match="diverged: at step 4 the loss is 150 on average, after 1 at the first step"
    ):
        first_line(tmp_path, [1.0, 8.0, 91.0, 500.0])
    first_line(tmp_path, [0.1, 2.0, 1.0, 1.0])  # noise
    first_line(tmp_path, [0.0, 1e-6, 1e-4, 1e-2])  # a network that begins as what it is compared with
    first_line(tmp_path, [1.0, 8.0, 91.0, 500.0], first_step=4)  # it went on from a checkpoint that was good


def test_held_out_clips_tell_of_divergence_of_a_loss_that_is_bounded(tmp_path):
    lines = [{"step": 0, "validation_loss": 0.6}, {"step": 10, "validation_loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    resumed = {"first_step": 10, "last_step": 100, "peak_flops": None}
    with Metrics(tmp_path, LoggingConfig(every=1), **resumed) as opened:
        opened.check_validation(1.1, 20)
        for loss in (1.3, math.nan):
            with pytest.raises(FloatingPointError, match=r"diverged: at step 30 .* 0\.6 before .*to step 20 are good"):
                opened.check_validation(loss, 30)


def test_weights_that_diverged_take_no_good_checkpoint_s_place(config, monkeypatch):
    losses = iter([0.6, 2.0, 2.0])
    monkeypatch.setattr(Validation, "measure", lambda *_: {"validation_loss": next(losses)})
    cfg = config(
        data=dataclasses.replace(config().data, held_out=0.25),
        checkpoints=CheckpointsConfig(every=1),
        validation=ValidationConfig(every=3),
    )
    for _ in range(2):  # nor does the same command finish the run
        with pytest.raises(FloatingPointError, match=r"at step 3 the validation loss is 2, after 0\.6"):
            train.train(cfg)
        assert sorted(path.name for path in (cfg.run / "checkpoints").iterdir()) == ["1", "2"]
        assert not (cfg.run / "weights").exists()


def test_what_compiles_counts_neither_for_a_step_nor_for_the_time_left(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with metrics(tmp_path) as opened:
        for step in (1, 2):
            with opened.paused(), opened.compiling("the step", "key"):
                clock[0] += 50 if step == 1 else 0
            clock[0] += 2
            line = opened.add(step, of_loss(1.0), Work(task="t2v", tokens=1, flops=1.0, waited=0.0))
            assert line["step_seconds"] == pytest.approx(2)
    err = capsys.readouterr().err
    assert err.count("compiling the step ...") == err.count("compiled the step in 50 s") == 1
    assert "step 2 of 100: loss 1.0000, 2 s a step, 196 s left" in err.replace("3 min left", "196 s left")


def test_a_line_tells_rewards_instead_of_the_loss(capsys):
    ConsoleLines(0, 4).show({"step": 1, "loss": 0.0, "step_seconds": 2.0, "reward/ta": 0.5, "seconds/rollout": 1.0})
    assert "step 1 of 4: ta 0.500, 2 s a step (rollout 50%)" in capsys.readouterr().err
