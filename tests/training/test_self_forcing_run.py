"""Self-forcing as the trainer runs it: two adapters in one step, resuming, streams of the result, what is warned of."""

import contextlib
import dataclasses
import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax import train
from lcv_jax.config import BlockSparseConfig
from lcv_jax.data.config import TaskShares
from lcv_jax.models.stream_window import StreamWindow
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.pipeline import load_pipeline
from lcv_jax.training import networks
from lcv_jax.training.config import AdapterConfig, CheckpointsConfig, DevicesConfig, OptimizerConfig, ValidationConfig
from lcv_jax.training.inputs import Inputs
from lcv_jax.training.start_check import check_sizes, check_start
from lcv_jax.training.state import with_scale
from lcv_jax.training.step import _in_parts, _whole, train_step

WINDOW = StreamWindow(chunk=1, sink=0, ring=1)
FORCED = SelfForcing(num_steps=4, window=WINDOW, shift=3.0, guidance_scale=2.0, fake_updates=2)
SMALL = AdapterConfig(name="cfg_step_lora", rank=2, alpha=2.0)


@pytest.fixture
def forced(config, monkeypatch):
    """forced(**fields): two steps, each saved."""
    monkeypatch.setattr(train, "make_mesh", lambda *_: make_mesh(1, devices=jax.devices()[:1]))

    def make(**fields):
        shared = {
            "objective": FORCED,
            "adapter": SMALL,
            "data": dataclasses.replace(config().data, tasks=TaskShares(t2v=1.0), caption_dropout=0.0),
            "devices": DevicesConfig(data=1),
            "steps": 2,
            "batch_size": 2,
            "remat": "none",
            "checkpoints": CheckpointsConfig(every=1),
            "optimizer": OptimizerConfig(learning_rate=1e-3, ema_decay=0.5),
        }
        return config(**(shared | fields))

    return make


def state_at(run, step):
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the places are not told
        return reader.restore((run / "checkpoints" / str(step) / "state").resolve())


def test_a_run_resumes_to_the_same_bits_and_its_adapter_streams_in_4_and_2_steps(forced, lines_of, tmp_path):
    cfg = forced()
    with pytest.warns(UserWarning, match="never trained on causal chunks"):
        train.train(cfg)
    assert {"matching", "gap", "fake_loss", "fake_grad_norm"} <= set(lines_of(cfg.run)[0])
    for steps in (1, 2):
        with pytest.warns(UserWarning, match="never trained on causal chunks"):
            train.train(forced(run=tmp_path / "parts", steps=steps))
    jax.tree.map(np.testing.assert_array_equal, state_at(cfg.run, 2), state_at(tmp_path / "parts", 2))

    stream = {"height": 32, "width": 32, "max_sequence_length": 16, "window": WINDOW, "distilled": True}
    pipeline, frames = load_pipeline(cfg.run / "weights"), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was trained on causal chunks
        for num_steps in (4, 2):
            frames.append(next(pipeline.stream("clip", num_steps=num_steps, shift=3.0, **stream)))
    assert frames[0].shape == (32, 32, 3)
    assert not np.array_equal(*frames)


@pytest.mark.parametrize("teacher", ["clips", "chunks"])
def test_a_step_updates_the_student_and_the_fake_score_and_nothing_else(forced, tiny_checkpoint, teacher):
    cfg = forced(objective=dataclasses.replace(FORCED, teacher=teacher))
    mesh = make_mesh(1, devices=jax.devices()[:1])
    base = load_pipeline(tiny_checkpoint, mesh=mesh)
    with jax.set_mesh(mesh), contextlib.closing(Inputs(cfg, mesh, base)) as inputs:
        learner = networks.learner_of(cfg, base.dit_config, mesh)
        start = networks.Start(cfg, learner)
        state, frozen, (kind, batch) = start.state(), start.frozen(), inputs.next()
        if teacher == "chunks":
            batch["caption_start_B"] = jnp.array([0, 1], jnp.int32)
        begun, network = jax.device_get(state), jax.device_get(frozen)
        state, measured = train_step(learner, state, frozen, batch, kind)
        assert measured["finite"]
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(frozen), network)
        for found, before in ((state.params, begun.params), (state.fake.params, begun.fake.params)):
            assert (
                np.abs(found["blocks"]["ffn"]["w2"]["up"]).max()
                > 0
                == np.abs(before["blocks"]["ffn"]["w2"]["up"]).max()
            )
            assert not np.array_equal(found["blocks"]["attn"]["qkv"]["down"], before["blocks"]["attn"]["qkv"]["down"])
        # Each with AdamW of its own: one update, and two.
        assert [int(part.opt_state[1][0].count) for part in (state, state.fake)] == [1, 2]
        kept, broken = jax.device_get(state), {**batch, "text_BLD": jnp.full_like(batch["text_BLD"], jnp.nan)}
        state, measured = train_step(learner, state, frozen, broken, kind)
        assert not measured["finite"]
        for name in ("params", "opt_state", "fake"):
            jax.tree.map(np.testing.assert_array_equal, getattr(jax.device_get(state), name), getattr(kept, name))


def test_a_batch_in_parts_is_put_together_again():
    mesh = make_mesh(1, devices=jax.devices()[:1])
    rows = jnp.arange(12).reshape(6, 2)
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(_whole(_in_parts(rows, 3, mesh)), rows)


def test_the_teacher_has_its_own_adapter_or_none(forced):
    assert networks.teacher_of(forced(adapter=dataclasses.replace(SMALL, start="causal_lora"))) is None
    assert networks.teacher_of(forced(adapter=dataclasses.replace(SMALL, start="a", teacher="b"))) == "b"


def test_the_fake_score_begins_as_the_teachers_adapter(forced, tiny_checkpoint, monkeypatch):
    cfg = forced(adapter=dataclasses.replace(SMALL, start="student", teacher="teacher"))
    learner = networks.learner_of(
        cfg, load_pipeline(tiny_checkpoint).dit_config, make_mesh(1, devices=jax.devices()[:1])
    )
    start = networks.Start(cfg, learner)
    pairs = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 2.0), start._trained_shapes())
    scales = {"student": 1.0, "teacher": 3.0}
    monkeypatch.setattr(networks.Start, "_adapter", lambda _, name: with_scale(pairs, scales[name]))
    fake = start._fake()["blocks"]["ffn"]["w2"]
    np.testing.assert_array_equal(fake["up"], jnp.full(fake["up"].shape, 6.0))  # it learns with the student's scale
    np.testing.assert_array_equal(fake["down"], jnp.full(fake["down"].shape, 2.0))


def test_those_who_know_late_captions_are_told_where_they_begin(config, tiny_checkpoint, tmp_path):
    cfg = config()
    shutil.copytree(cfg.data.path, tmp_path / "late")
    index = tmp_path / "late" / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "late_captions": True}))
    late = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, path=tmp_path / "late"))
    mesh = make_mesh(1, devices=jax.devices()[:1])
    base = load_pipeline(tiny_checkpoint, mesh=mesh)
    with jax.set_mesh(mesh), contextlib.closing(Inputs(late, mesh, base)) as inputs:
        assert "caption_start_B" not in inputs.next()[1]
    only_clips = dataclasses.replace(late.data, tasks=TaskShares(t2v=1.0))
    knows = dataclasses.replace(late, objective=CausalFlowMatching(chunk=1), data=only_clips)
    with jax.set_mesh(mesh), contextlib.closing(Inputs(knows, mesh, base)) as inputs:
        _, batch = inputs.next()
    np.testing.assert_array_equal(batch["caption_start_B"], jnp.zeros(len(batch["text_BLD"]), jnp.int32))


def test_what_is_refused_and_what_is_warned_of(forced, tiny_checkpoint):
    cfg = forced()
    for wrong, message in (
        ({"adapter": None}, "the model without it is the teacher; set adapter.name"),
        ({"sparse": BlockSparseConfig(sparsity=0.5)}, "self-forcing has dense attention only: leave sparse out"),
        ({"data": dataclasses.replace(cfg.data, tasks=TaskShares(t2i=1.0))}, "set data.tasks.t2i to 0, and t2v only"),
        ({"validation": ValidationConfig(every=1)}, "SelfForcing has no validation loss"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(cfg, **wrong)
    pipeline = load_pipeline(tiny_checkpoint)
    wide = dataclasses.replace(FORCED, window=StreamWindow(chunk=2, sink=0, ring=2))
    with pytest.raises(ValueError, match=r"9x32x32: 3 latent frames are no whole chunks of 2; set objective.window"):
        check_sizes(dataclasses.replace(cfg, objective=wide), pipeline, [((9, 32, 32), 0)])

    def trained(adapter):
        config = {"objective": {"kind": "CausalFlowMatching"}, "adapter": adapter and {"name": adapter}}
        pipeline.provenance["training"] = [{"config": config}]

    chunks = dataclasses.replace(cfg, objective=dataclasses.replace(FORCED, teacher="chunks"))
    with pytest.raises(ValueError, match=r"train causal.py as an adapter first .* set adapter.teacher"):
        check_start(chunks, pipeline)
    trained(None)
    with pytest.warns(UserWarning, match="trained on causal chunks in full"):
        check_start(cfg, pipeline)
    trained("cfg_step_lora")
    name = next(iter(pipeline.provenance["components"].get("lora", {"cfg_step_lora": None})))
    trained(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_start(dataclasses.replace(cfg, adapter=dataclasses.replace(SMALL, start=name)), pipeline)
