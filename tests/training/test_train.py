"""The command line: runs that go on, runs that are killed, and what users get wrong."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from jax.flatten_util import ravel_pytree

from lcv_jax import export, train
from lcv_jax.checkpoint import store
from lcv_jax.command_line import parse_arguments
from lcv_jax.config import BlockSparseConfig
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.data.identity import read_rows
from lcv_jax.models.lora import combine
from lcv_jax.objectives.autoencoder import Autoencoder
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.cfg_distillation import CFGDistillation
from lcv_jax.objectives.consistency_distillation import ConsistencyDistillation
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.pipeline import load_pipeline
from lcv_jax.sampling.streaming import StreamWindow
from lcv_jax.toy import start
from lcv_jax.training import networks
from lcv_jax.training.config import (
    AdapterConfig,
    CheckpointsConfig,
    DevicesConfig,
    LoggingConfig,
    OptimizerConfig,
    SamplesConfig,
    TrainConfig,
)
from lcv_jax.training.folder import begin, check_config, check_data, locked, with_warmup
from lcv_jax.training.state import split_scale

ROOT = Path(__file__).parent.parent.parent
ONE = DevicesConfig(data=1)
RUN_ALWAYS_THE_SAME = ("loss", "grad_norm", "learning_rate", "error/t_0.50-0.75")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Runs in this process use the first CPU device unless they say how many."""
    make_mesh = train.make_mesh
    monkeypatch.setattr(
        train, "make_mesh", lambda data, fsdp, seq: make_mesh(data, fsdp, seq, jax.devices()[: abs(data) * fsdp * seq])
    )


def weights_of(run, name="weights"):
    return store.load_component(run / name, "dit")[1]


def assert_same_weights(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


def told(lines):
    return [{name: line[name] for name in line if name in ("step", *RUN_ALWAYS_THE_SAME)} for line in lines]


@pytest.fixture(scope="module")
def whole(config_of, tmp_path_factory):
    """A run of four steps that nobody disturbed."""
    cfg = config_of(
        tmp_path_factory.mktemp("whole") / "run",
        samples=SamplesConfig(every=2, prompts=("clip 1", "clip 2"), num_frames=5, size=(32, 32), num_steps=2),
        devices=ONE,
    )
    patch = pytest.MonkeyPatch()
    make_mesh = train.make_mesh
    patch.setattr(train, "make_mesh", lambda data, fsdp, seq: make_mesh(data, fsdp, seq, jax.devices()[:1]))
    train.train(cfg)
    patch.undo()
    return cfg


def test_a_run_writes_metrics_samples_and_weights_to_generate_from(whole, lines_of):
    lines = lines_of(whole.run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "grad_norm", "learning_rate", "step_seconds", "tokens_per_second", "data_wait"} <= set(lines[0])
    assert {name for line in lines for name in line if name.startswith("loss/")} == {"loss/t2v", "loss/i2v"}
    assert [line["learning_rate"] for line in lines] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])
    assert sorted(path.name for path in (whole.run / "samples").iterdir()) == [f"{step:08}.png" for step in (0, 2, 4)]
    assert list((whole.run / "tensorboard").iterdir())
    video = load_pipeline(whole.run / "weights").text_to_video(
        "clip 1", height=32, width=32, num_frames=5, num_steps=2, max_sequence_length=16
    )
    assert video.shape == (1, 5, 32, 32, 3)
    provenance = store.read_provenance(whole.run / "weights")
    assert provenance["training"][-1]["steps"] == 4
    assert provenance["training"][-1]["weights"] == "ema"
    assert provenance["training"][-1]["config"]["objective"]["kind"] == "FlowMatching"
    # What was not trained is the same file.
    a, b = (
        next((folder / "vae" / "params").rglob("zarr.json")) for folder in (whole.checkpoint, whole.run / "weights")
    )
    assert os.path.samefile(a, b)


def test_checkpoints_and_weights_leave_in_both_layouts(whole, tmp_path):
    """A checkpoint of the run as a folder; that in the published layout; and that converted again."""
    export.main([str(whole.run), str(tmp_path / "halfway")])
    assert_same_weights(store.load_component(tmp_path / "halfway", "dit")[1], weights_of(whole.run))
    for arguments in ([whole.run / "weights", "published", "--to-torch"], ["published", "back"]):
        convert = [sys.executable, str(ROOT / "convert_torch_weights.py"), *map(str, arguments)]
        subprocess.run(convert, cwd=tmp_path, check=True, capture_output=True)
    assert_same_weights(store.load_component(tmp_path / "back", "dit")[1], weights_of(whole.run))


def test_a_run_leaves_averaged_and_raw_weights_and_exports_either(whole, tmp_path, capsys):
    for which, folder in (("ema", "weights"), ("raw", "weights_raw")):
        assert store.read_provenance(whole.run / folder)["training"][-1]["weights"] == which
    folders = (whole.checkpoint, whole.run / "weights", whole.run / "weights_raw")
    trees = [weights_of(folder.parent, folder.name) for folder in folders]
    start, ema, raw = (ravel_pytree(tree)[0] for tree in trees)
    # Most of what was trained is in the average; without a warm-up of the average, less would be.
    assert 0.7 < float(jnp.linalg.norm(ema - start) / jnp.linalg.norm(raw - start)) < 1
    export.main([str(whole.run), str(tmp_path / "raw"), "--weights", "raw"])
    assert "raw weights of step 4 of 4" in capsys.readouterr().out
    assert_same_weights(weights_of(tmp_path, "raw"), weights_of(whole.run, "weights_raw"))


def test_a_warm_up_fits_the_run_that_was_begun(config, capsys):
    cfg = config(steps=20, optimizer=OptimizerConfig(warmup_steps=100))
    assert with_warmup(cfg).optimizer.warmup_steps == 2
    assert "warmup_steps 100 exceeds the 20 steps that the run was begun with" in capsys.readouterr().err
    cfg.run.mkdir()
    begin(cfg, [])
    assert with_warmup(dataclasses.replace(cfg, steps=1000)).optimizer.warmup_steps == 2  # the schedule stays
    fits = dataclasses.replace(cfg, run=cfg.run / "other", steps=100)
    capsys.readouterr()
    assert with_warmup(fits) == fits
    assert not capsys.readouterr().err


def test_a_run_that_is_stopped_and_goes_on_is_the_run_that_was_not(whole, tmp_path, lines_of):
    cfg = dataclasses.replace(whole, run=tmp_path / "run", steps=2)
    train.train(cfg)
    assert (cfg.run / "weights").is_dir()
    train.train(dataclasses.replace(cfg, steps=4))
    assert told(lines_of(cfg.run)) == told(lines_of(whole.run))
    assert_same_weights(weights_of(cfg.run), weights_of(whole.run))


def test_a_damaged_checkpoint_makes_a_run_resume_from_the_one_before(whole, tmp_path, capsys, flip_bit):
    shutil.copytree(whole.run, tmp_path / "run", ignore=shutil.ignore_patterns("weights*"))
    run = tmp_path / "run"
    flip_bit(max((run / "checkpoints" / "4").rglob("d/*"), key=lambda path: path.stat().st_size))
    train.train(dataclasses.replace(whole, run=run))
    told = capsys.readouterr().err
    assert f"{run / 'checkpoints' / '4'} is damaged" in told
    assert "resuming from the checkpoint before it, of step 2" in told
    assert_same_weights(weights_of(run), weights_of(whole.run))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "4"]


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(whole, tmp_path, lines_of):
    cfg = dataclasses.replace(whole, run=tmp_path / "run", steps=2, samples=SamplesConfig())
    train.train(cfg)
    train.train(dataclasses.replace(cfg, steps=4, devices=DevicesConfig(data=1, fsdp=2, sharding="full")))
    losses = [[line["loss"] for line in lines_of(run)] for run in (cfg.run, whole.run)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing(whole, tmp_path, write_config):
    """Killed again and again, while it computes or saves, a run ends with the weights of one that was left alone."""
    cfg = dataclasses.replace(
        whole, run=tmp_path / "run", checkpoints=CheckpointsConfig(every=1), samples=SamplesConfig()
    )
    config = write_config(tmp_path / "config.py", cfg)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    command = [sys.executable, "-m", "lcv_jax.train", str(config)]
    for kills in (1, 2):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        while _saved(tmp_path / "run", partial=True) < kills and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_weights(weights_of(tmp_path / "run"), weights_of(whole.run))


def _saved(run, *, partial):
    """Checkpoints, those that are being written counted or not."""
    folder = run / "checkpoints"
    return sum(partial or path.name.isdigit() for path in folder.iterdir()) if folder.is_dir() else 0


def test_sigterm_saves_and_the_command_succeeds(config, monkeypatch, capsys):
    cfg = config(steps=50, devices=ONE, checkpoints=CheckpointsConfig(every=40))
    step = train.train_step

    def third_is_interrupted(*arguments):
        if int(arguments[1].step) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(train, "train_step", third_is_interrupted)
    train.train(cfg)
    assert "saved at step 3" in capsys.readouterr().err
    assert [path.name for path in (cfg.run / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]
    assert not (cfg.run / "weights").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(config, lines_of):
    cfg = config(optimizer=OptimizerConfig(learning_rate=1.0, max_skipped=1), devices=ONE, steps=20)
    object.__setattr__(cfg.optimizer, "learning_rate", 1e30)  # the config would refuse it
    with pytest.raises(FloatingPointError, match=r"not finite at step \d+: loss nan.*2 in a row.*max-skipped"):
        train.train(cfg)
    assert any(line["not_finite"] for line in lines_of(cfg.run))


def test_a_causal_run_streams_without_the_warning(config):
    """An adapter of causal training: with it a stream is what was trained, without it the warning stays."""
    cfg = config(
        objective=CausalFlowMatching(chunk=1),
        adapter=AdapterConfig(name="causal_lora", rank=4, alpha=2.0),
        data=dataclasses.replace(config().data, tasks=TaskShares(t2v=1.0)),
        devices=ONE,
        steps=2,
    )
    train.train(cfg)
    pipeline = load_pipeline(cfg.run / "weights")
    size = {"height": 32, "width": 32, "num_steps": 2, "max_sequence_length": 16}
    size["window"] = StreamWindow(chunk=1, sink=1, ring=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = pipeline.stream("clip", adapters=(("causal_lora", 1.0),), **size)
    assert next(stream).shape == (32, 32, 3)
    with pytest.warns(UserWarning, match="not trained on causal chunks"):
        pipeline.stream("clip", **size)
    for wrong, message in (
        ({"data": config().data}, "no condition frames: set data.tasks.i2v to 0"),
        ({"sparse": BlockSparseConfig(sparsity=0.5)}, "dense attention only"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(cfg, **wrong)


def test_adapters_train_export_and_teach(config, tmp_path):
    """CFG distillation, then consistency distillation on its adapter."""
    data = dataclasses.replace(config().data, caption_dropout=0.0)
    small = AdapterConfig(name="cfg_step_lora", rank=4, alpha=2.0)
    cfg = config(objective=CFGDistillation(shift=3.0), adapter=small, devices=ONE, data=data, steps=2)
    train.train(cfg)
    assert "cfg_step_lora" in store.list_adapters(cfg.run / "weights")
    video = load_pipeline(cfg.run / "weights").text_to_video(
        "clip", height=32, width=32, num_frames=5, distilled=True, num_steps=2, max_sequence_length=16
    )
    assert np.isfinite(video).all()
    after = dataclasses.replace(
        cfg,
        run=tmp_path / "after",
        checkpoint=cfg.run / "weights",
        objective=ConsistencyDistillation(num_steps=4, shift=3.0),
        adapter=dataclasses.replace(small, start="cfg_step_lora"),
    )
    train.train(after)
    config_ = store.load_config(after.run / "weights", "dit")
    before, now = (store.load_adapter(run / "weights", "cfg_step_lora", config_) for run in (cfg.run, after.run))
    up = [tree["blocks"]["attn"]["qkv"] for tree in (before, now)]
    assert up[0]["alpha_scale"].tolist() == up[1]["alpha_scale"].tolist() == [0.5, 0.5]
    assert not np.array_equal(up[0]["up"], up[1]["up"])

    # A student of a student, with the first one as teacher.
    further = dataclasses.replace(
        after,
        checkpoint=cfg.run / "weights",
        adapter=dataclasses.replace(
            small, start=str(after.run / "weights" / "adapters" / "cfg_step_lora"), teacher="cfg_step_lora"
        ),
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        start = networks.Start(further, networks.learner_of(further, config_, mesh))
        jax.tree.map(np.testing.assert_array_equal, start.frozen().adapters, combine([(before, 1.0)]))
        jax.tree.map(np.testing.assert_array_equal, start.state().params, split_scale(now)[0])


@pytest.mark.parametrize("flags", [["--adapter.name", "style"], ["--adapter.rank", "8", "--adapter.name=style"]])
def test_flags_give_any_config_an_adapter(config, flags):
    how = (tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed)
    begun = train.with_adapter(config(), flags)
    cfg = parse_arguments(TrainConfig, flags, default=begun, prog="train", description="", config=how)
    assert cfg.adapter.name == "style"
    assert cfg.adapter.rank == (8 if "8" in flags else AdapterConfig(name="x").rank)


def test_an_adapter_of_flags_needs_a_name(config):
    with pytest.raises(ValueError, match=r"give the adapter a name: --adapter\.name NAME"):
        train.with_adapter(config(), ["--adapter.rank", "8"])


@pytest.mark.slow
def test_an_autoencoder_trains_and_its_latents_are_measured(config, encoded, monkeypatch):
    monkeypatch.setattr(train, "STATISTICS_BATCHES", 2)
    data = DataConfig(path=encoded.parent / "manifest.jsonl", mode="autoencoder", sizes=((5, 16, 16),), fps=8.0)
    samples = SamplesConfig(every=2, prompts=("",), num_frames=5, size=(16, 16))
    cfg = config(objective=Autoencoder(), data=data, steps=2, devices=ONE, samples=samples)
    train.train(cfg)
    before, after = (store.load_config(folder, "vae") for folder in (cfg.checkpoint, cfg.run / "weights"))
    assert before.latents_mean != after.latents_mean
    assert min(after.latents_std) > 0
    assert (cfg.run / "samples" / "00000002.png").is_file()
    assert store.load_config(cfg.run / "weights_raw", "vae").latents_mean != after.latents_mean
    load_pipeline(cfg.run / "weights").params("vae")


@pytest.mark.slow
def test_branches_that_are_left_out_stay_as_they_are(config, encoded, tmp_path):
    start.main([str(tmp_path / "start"), "--size", "tiny"])
    data = DataConfig(path=encoded.parent / "manifest.jsonl", mode="autoencoder", sizes=((5, 16, 16),), fps=8.0)
    optimizer = OptimizerConfig(learning_rate=1e-2, ema_decay=None, weight_decay=0.0)
    fields = {"checkpoint": tmp_path / "start", "data": data, "steps": 2, "devices": ONE, "optimizer": optimizer}
    cfg = config(objective=Autoencoder(branches=False), **fields)
    train.train(cfg)
    before, after = (load_pipeline(folder).params("vae") for folder in (cfg.checkpoint, cfg.run / "weights"))
    changed = jax.tree.map(lambda x, y: bool(np.any(np.asarray(x) != np.asarray(y))), before, after)
    names = {jax.tree_util.keystr(path) for path, yes in jax.tree_util.tree_leaves_with_path(changed) if yes}
    assert any("resample_1" in name for name in names)
    assert not [name for name in names if any(part in name for part in ("conv1", "conv2", "attentions", "norm1"))]


def test_branches_that_add_something_are_not_left_out(config, encoded):
    data = DataConfig(path=encoded.parent / "manifest.jsonl", mode="autoencoder", sizes=((5, 16, 16),), fps=8.0)
    for scratch, whose in ((False, "tiny"), (True, "random weights")):
        cfg = config(objective=Autoencoder(branches=False), data=data, devices=ONE, from_scratch=scratch)
        with pytest.raises(ValueError, match=f"only where they add nothing yet, and those of .*{whose}.* do"):
            train.train(cfg)
        assert not cfg.run.exists()


@pytest.mark.slow
def test_a_decoder_alone_learns_and_latents_stay(config, encoded):
    data = DataConfig(path=encoded.parent / "manifest.jsonl", mode="autoencoder", sizes=((5, 16, 16),), fps=8.0)
    optimizer = OptimizerConfig(learning_rate=1e-2, ema_decay=None, weight_decay=0.0)
    fields = {"data": data, "steps": 2, "devices": ONE}
    cfg = config(objective=Autoencoder(encoder=False), optimizer=optimizer, **fields)
    train.train(cfg)
    assert store.load_config(cfg.checkpoint, "vae") == store.load_config(cfg.run / "weights", "vae")
    before, after = (load_pipeline(folder).params("vae") for folder in (cfg.checkpoint, cfg.run / "weights"))
    changed = jax.tree.map(lambda x, y: bool(np.any(np.asarray(x) != np.asarray(y))), before, after)
    moved = {part: any(jax.tree.leaves(changed[part])) for part in changed}
    assert moved == {"encoder": False, "quant_conv": False, "post_quant_conv": True, "decoder": True}
    with pytest.raises(ValueError, match=r"wants keep_weight 0, .* weight_decay 0.01"):
        config(objective=Autoencoder(encoder=False), optimizer=OptimizerConfig(weight_decay=0.01), **fields)


@pytest.mark.slow
def test_latents_that_stay_are_normalised_as_before(config, encoded, tmp_path):
    """The distance is from the start: nothing at the first step, and then more."""
    lines = [{"path": str(encoded.parent / f"{number}.mp4"), "known": 1} for number in range(16)]
    (tmp_path / "known.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    sizes = ((5, 16, 16),)
    data = DataConfig(path=tmp_path / "known.jsonl", mode="autoencoder", sizes=sizes, fps=8.0, keep_column="known")
    optimizer = OptimizerConfig(learning_rate=1e-2, ema_decay=None)
    cfg = config(objective=Autoencoder(keep_weight=1.0), data=data, steps=3, devices=ONE, optimizer=optimizer)
    train.train(cfg)
    before, after = (store.load_config(folder, "vae") for folder in (cfg.checkpoint, cfg.run / "weights"))
    assert before == after
    rows = [json.loads(line) for line in (cfg.run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["moved"] < 1e-9 < 1e-6 < rows[-1]["moved"]


@pytest.mark.parametrize(
    ("weight", "column", "scratch", "message"),
    [
        (1.0, None, False, "belong together"),
        (0.0, "known", False, "belong together"),
        (1.0, "known", True, "not from_scratch"),
    ],
)
def test_latents_that_stay_need_to_be_named(config, encoded, weight, column, scratch, message):
    data = DataConfig(path=encoded, mode="autoencoder", sizes=((5, 16, 16),), keep_column=column)
    with pytest.raises(ValueError, match=message):
        config(objective=Autoencoder(keep_weight=weight), data=data, from_scratch=scratch)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"seed": 7, "optimizer": {"learning_rate": 0.1}},
            "optimizer.learning_rate was 0.001, is 0.1; seed was 0, is 7",
        ),
    ],
)
def test_another_config_is_refused_and_what_differs_is_named(whole, tmp_path, changed, message):
    cfg = dataclasses.replace(whole, run=tmp_path / "run", steps=1, samples=SamplesConfig())
    train.train(cfg)
    changed = {
        name: dataclasses.replace(getattr(cfg, name), **value) if isinstance(value, dict) else value
        for name, value in changed.items()
    }
    with pytest.raises(ValueError, match="was begun with another config") as raised:
        train.train(dataclasses.replace(cfg, **changed))
    assert message in str(raised.value)


def test_a_run_goes_with_the_content_of_its_checkpoint_and_not_with_its_path(whole, tmp_path, monkeypatch):
    cfg = dataclasses.replace(whole, run=tmp_path / "run")
    cfg.run.mkdir()
    begin(cfg, [])
    monkeypatch.chdir(whole.checkpoint.parent)
    check_config(dataclasses.replace(cfg, checkpoint=Path(whole.checkpoint.name)))
    copy = shutil.copytree(whole.checkpoint, tmp_path / "copy")
    check_config(dataclasses.replace(cfg, checkpoint=copy))
    with pytest.raises(
        ValueError, match=r"checkpoint.dit has other content \(SHA-256 was \w{12}, is \w{12}\)"
    ) as raised:
        check_config(dataclasses.replace(cfg, checkpoint=whole.run / "weights"))
    assert "checkpoint.vae" not in str(raised.value)


def test_a_run_goes_on_with_its_data_and_names_what_differs(whole, tmp_path):
    cfg = dataclasses.replace(whole, run=tmp_path / "run")
    cfg.run.mkdir()
    rows = [{"id": "a", "captions": ["one"]}, {"id": "b", "captions": ["two"]}]
    begin(cfg, check_data(cfg, lambda known: rows))
    assert check_data(cfg, lambda known: rows) == []
    with pytest.raises(ValueError, match=r'captions of b was \["two"\], is \["three"\]; c is new'):
        check_data(cfg, lambda known: [rows[0], {"id": "b", "captions": ["three"]}, {"id": "c", "captions": ["four"]}])
    index = json.loads((whole.data.path / "index.json").read_text())
    recorded = read_rows(whole.run / "data.jsonl.gz")
    assert [row["id"] for row in recorded] == ["the encoding", *(str(number) for number in range(16))]
    assert recorded[0]["fps"] == index["config"]["fps"]
    assert recorded[1]["captions"] == ["clip 0"]
    assert len(recorded[1]["sha256"]) == 64


def test_a_run_that_is_done_is_not_taken_for_one_of_other_data(whole, tmp_path):
    other = tmp_path / "data"
    shutil.copytree(whole.data.path, other)
    for path in (other / "shards").glob("*.json"):
        path.write_text(path.read_text().replace('"clip 0"', '"a cat"'))
    with pytest.raises(ValueError, match=r'captions of 0 was \["clip 0"\], is \["a cat"\]'):
        train.train(dataclasses.replace(whole, data=dataclasses.replace(whole.data, path=other)))


def test_a_run_in_use_is_refused(config):
    cfg = config(devices=ONE)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"""
import pathlib, sys, time
from lcv_jax.training.folder import locked
with locked(pathlib.Path({str(cfg.run)!r})):
    print("held", flush=True); time.sleep(60)
"""],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )  # fmt: skip
    with contextlib.closing(holder.stdout):
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"in use by process {holder.pid} on .*choose another --run"),
            locked(cfg.run),
        ):
            pass
        holder.kill()
        holder.wait()
    with locked(cfg.run):  # a dead process holds nothing
        pass


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(whole, tmp_path, write_config):
    """Files may not grow beyond a limit that the first checkpoint keeps and later ones do not."""
    cfg = dataclasses.replace(whole, run=tmp_path / "run", steps=2, samples=SamplesConfig())
    train.train(cfg)
    program = f"""
import dataclasses, resource, signal, pathlib
from lcv_jax import train
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.training import folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = folder.Checkpoints.save
def full(self, *arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
    return save(self, *arguments)
folder.Checkpoints.save = full
train.main([{str(tmp_path / "config.py")!r}, "--steps", "4"])
"""
    write_config(tmp_path / "config.py", cfg)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert [path.name for path in (cfg.run / "checkpoints").iterdir()] == ["2"]
    assert "checkpoints: file too large: the disk mounted at " in done.stderr
    assert "Traceback" not in done.stderr
    train.train(dataclasses.replace(cfg, steps=4))
    assert_same_weights(weights_of(cfg.run), weights_of(whole.run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config was given; usage: python -m lcv_jax.train CONFIG.py"),
        (["nothing.py"], "no such file: nothing.py"),
        (["empty.py"], "empty.py must define get_config()"),
        (["small.py", "--checkpoint", "nowhere"], "nowhere is no folder"),
        (["small.py", "--data.path", "nowhere"], "nowhere"),
        (["small.py", "--devices.data", "3"], "the mesh data=3"),
    ],
)
def test_mistakes_are_one_line(config, tmp_path, write_config, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "make_mesh", lambda *shape: make_mesh(*shape, jax.devices()[:2]))
    Path("empty.py").write_text("")
    write_config(Path("small.py"), config())
    with pytest.raises(SystemExit) as raised:
        train.main(arguments)
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimzer.learning-rate", "1"], "--optimizer.learning-rate"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--batch-size", "7", "--optimizer.accumulation", "2"], "7 is not divisible by optimizer.accumulation 2"),
    ],
)
def test_wrong_flags_are_told_with_the_right_ones(config, tmp_path, write_config, capsys, arguments, message):
    write_config(tmp_path / "small.py", config())
    with pytest.raises(SystemExit) as raised:
        train.main([str(tmp_path / "small.py"), *arguments])
    assert raised.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_config_comes_back_from_json(whole):
    cfg = dataclasses.replace(
        whole, adapter=AdapterConfig(name="a", start="b"), objective=ConsistencyDistillation(), fold=(("c", 0.5),)
    )
    fields = json.loads(json.dumps(cfg.to_json()))
    assert type(cfg).from_json(fields) == cfg
    assert type(cfg).from_json({name: fields[name] for name in fields if name not in ("seed", "rollout")}) == cfg
    with pytest.raises(ValueError, match="another version of lcv_jax: .*'batch_size'"):
        type(cfg).from_json({name: fields[name] for name in fields if name != "batch_size"})
    with pytest.raises(ValueError, match="another version of lcv_jax: .*'batches'"):
        type(cfg).from_json({**fields, "batches": 2})


def test_a_run_goes_on_with_a_version_that_has_more_fields(whole, tmp_path):
    cfg = dataclasses.replace(whole, run=tmp_path)
    path = tmp_path / "config.json"
    fields = cfg.to_json()
    path.write_text(json.dumps({name: fields[name] for name in fields if name != "rollout"}))
    check_config(cfg)
    begin(cfg, [])
    assert json.loads(path.read_text()) == fields
    path.write_text(json.dumps({**fields, "batches": 2}))
    with pytest.raises(ValueError, match="batches was 2, is absent"):
        check_config(cfg)


def test_metrics_of_steps_that_were_lost_go(whole, tmp_path, lines_of):
    from lcv_jax.training.metrics import Metrics

    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": n}) + "\n" for n in range(1, 6)) + '{"step": 6, "lo')
    with Metrics(run, LoggingConfig(), first_step=3, last_step=9, peak_flops=None):
        pass
    assert [line["step"] for line in lines_of(run)] == [1, 2, 3]
