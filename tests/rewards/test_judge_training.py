"""Runs that train judges: from manifests to folders that load_judge reads, resumed, on several devices, and refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from lcv_jax import export, train
from lcv_jax.checkpoint import convert, store
from lcv_jax.checkpoint.judge_conversion import load_judge_params
from lcv_jax.checkpoint.judge_names import judge_table
from lcv_jax.checkpoint.new_judge import write_judge
from lcv_jax.convert import main as convert_main
from lcv_jax.data.media_writer import VideoWriter, write_image
from lcv_jax.data.patches import normalise
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.objectives.preferences import PairPreference, RatingRegression
from lcv_jax.rewards.judge import load_judge
from lcv_jax.rewards.videoreward import video_patches
from lcv_jax.toy import captioner as toy_captioner
from lcv_jax.toy import judges as toy_judges
from lcv_jax.toy.captions import caption
from lcv_jax.toy.qwen2_vl import random_params, see_differences
from lcv_jax.toy.world import render, sample_scene
from lcv_jax.train import read_config
from lcv_jax.training.config import (
    DevicesConfig,
    OptimizerConfig,
    SamplesConfig,
    TrainConfig,
    ValidationConfig,
)
from tests.training_runs import adapter_run, lines_of

pytestmark = pytest.mark.usefixtures("few_devices")
ROOM = 2 * 28 * 28
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small_judge(judge, converted_judge, tmp_path_factory):
    """small_judge(kind): the golden judge, of two visual tokens a picture."""

    def make(kind):
        folder = tmp_path_factory.getbasetemp() / f"small_{kind}"
        if not folder.exists():
            cfg = dataclasses.replace(judge(kind).cfg, min_pixels=ROOM // 2, max_pixels=ROOM, num_frames=2)
            tokenizer = (store.tokenizer_folder(converted_judge(kind)) / "tokenizer.json").read_text()
            write_judge(folder, cfg, tokenizer, judge(kind).params, folder)
        return folder

    return make


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight videos and their manifests: brighter ones are better."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(8):
        frames = np.full((4, 28, 56, 3), 30 * number, np.uint8)
        with VideoWriter(folder / f"{number}.mp4", fps=4, height=28, width=56, crf=4) as writer:
            writer.write(frames)
        write_image(folder / f"{number}.png", frames[0])
    pairs, pictures, ratings = [], [], []
    for number in range(12):
        a, b = number % 8, (3 * number + 1) % 8
        label = "same" if abs(a - b) == 1 else "a" if a > b else "b"
        labels = {"MQ": label, "VQ": None, "TA": "a"} if number % 2 else {"MQ": label}
        pairs.append({"prompt": f"clip {number % 6}", "a": f"{a}.mp4", "b": f"{b}.mp4", "labels": labels})
        decided = "a" if a > b else "b"
        pictures.append({"prompt": "a clip", "a": f"{a}.png", "b": f"{b}.png", "labels": {"preference": decided}})
        ratings.append({"prompt": f"clip {number % 6}", "path": f"{a}.mp4", "ratings": {"TA": a / 2 + 1, "VQ": 3}})
    for name, lines in (("pairs", pairs), ("pictures", pictures), ("ratings", ratings)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def config(small_judge, videos, tmp_path):
    def make(**fields):
        given = {
            "run": tmp_path / "run",
            "checkpoint": small_judge("videoreward"),
            "objective": PairPreference(),
            "data": PreferencesConfig(path=videos / "pairs.jsonl", dimensions=("MQ",), held_out=0.3, prefetch=1),
            "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=2, ema_decay=None, weight_decay=0.5),
        }
        return adapter_run(**(given | fields))

    return make


def weights_of(folder):
    judge = load_judge(folder)
    return dict(convert.flatten(load_judge_params(folder, judge.cfg)))


def test_a_run_resumes_to_the_bit_and_its_folder_is_a_judge(config, small_judge, tmp_path):
    """Trained: the text model by an adapter, the tower, the head, and the rows of the reward tokens alone."""
    cfg = config()
    train.train(cfg)
    lines = lines_of(cfg.run)
    steps = [line for line in lines if "grad_norm" in line]
    assert [line["learning_rate"] for line in steps] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])
    assert "loss/pairs" in steps[0]
    assert "accuracy" in steps[0]
    assert not any(name.startswith("error/t_") for name in steps[0])
    validated = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in validated] == [0, 2, 4]
    assert "validation/MQ_accuracy" in validated[0]

    stopped = dataclasses.replace(cfg, run=tmp_path / "stopped", steps=2)
    train.train(stopped)
    train.train(dataclasses.replace(stopped, steps=4))
    before, whole = weights_of(cfg.checkpoint), weights_of(cfg.run / "weights")
    again = weights_of(stopped.run / "weights")
    for path, leaf in whole.items():
        np.testing.assert_array_equal(leaf, again[path])
    moved = {path for path in whole if not np.array_equal(before[path], whole[path])}
    assert {path[0] for path in whole} == {path[0] for path in moved}
    assert ("model", "norm", "weight") not in moved
    assert all(path[-1] == "kernel" for path in moved if path[:2] == ("model", "layers"))
    table = "model", "embed_tokens", "weight"
    rows = np.flatnonzero(np.any(before[table] != whole[table], axis=1))
    assert set(rows) <= set(load_judge(cfg.checkpoint).conversation.reward_ids)
    assert len(rows) >= 2  # TA's token comes after those of MQ and sees nothing of its loss
    video = np.zeros((4, 28, 56, 3), np.uint8)
    assert np.isfinite(load_judge(cfg.run / "weights").score_videos([video], [4.0], ["a clip"])).all()

    export.main([str(cfg.run), str(tmp_path / "exported")])
    for path, leaf in weights_of(tmp_path / "exported").items():
        np.testing.assert_array_equal(leaf, whole[path])
    assert store.read_provenance(cfg.run / "weights")["components"]["judge"]["kind"] == "videoreward"


@pytest.mark.parametrize("vision", [None, False])
def test_the_state_has_no_moments_of_frozen_parameters(config, vision):
    from lcv_jax.parallel.mesh import make_mesh
    from lcv_jax.training import networks
    from lcv_jax.training.base import network_of, open_base, start_of

    cfg = config(train_vision=vision)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    base = open_base(cfg, mesh)
    with jax.set_mesh(mesh):
        start = start_of(cfg, networks.learner_of(cfg, network_of(cfg, base), mesh))
        shapes = start.shapes()
    assert jax.tree.structure(shapes.params) == jax.tree.structure(start.state().params)
    assert shapes.params["token_rows"]["weight"].shape == (3, 64)
    table = base.conversation.cfg.num_embeddings, base.conversation.cfg.network.hidden_size
    assert table not in {leaf.shape for leaf in jax.tree.leaves((shapes.params, shapes.opt_state))}
    frozen = start.frozen()
    assert ("visual" in shapes.params["network"], "visual" in frozen.params) == (vision is None, vision is False)
    held = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), start.frozen_shapes())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), frozen) == held


@pytest.mark.slow
def test_devices_and_parts_of_a_batch_change_nothing_but_rounding(config, tmp_path):
    """One device, and two with a batch in two parts and parameters in parts."""
    losses = []
    for name, parts, devices in (
        ("one", 1, DevicesConfig(data=1)),
        ("two", 2, DevicesConfig(data=1, fsdp=2, sharding="full")),
    ):
        cfg = config(
            run=tmp_path / name,
            devices=devices,
            steps=2,
            optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=None, accumulation=parts),
        )
        train.train(cfg)
        losses.append([(line["loss"], line["grad_norm"]) for line in lines_of(cfg.run) if "grad_norm" in line])
    np.testing.assert_allclose(*losses, rtol=2e-4)


@pytest.mark.slow
def test_pictures_train_a_mean_and_a_standard_deviation(config, small_judge, videos):
    """All of HPSv3 but its table, on grey pictures; the loss falls on what it is trained on."""
    cfg = config(
        checkpoint=small_judge("hpsv3"),
        objective=PairPreference(model="uncertainty", num_draws=50),
        data=PreferencesConfig(path=videos / "pictures.jsonl", grayscale=True, prefetch=1),
        adapter=None,
        steps=8,
        batch_size=12,
        validation=ValidationConfig(),
        optimizer=OptimizerConfig(learning_rate=2e-3, ema_decay=None),
    )
    train.train(cfg)
    lines = lines_of(cfg.run)
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["accuracy"] > 0.75
    before, after = weights_of(cfg.checkpoint), weights_of(cfg.run / "weights")
    assert all(not np.array_equal(before[path], after[path]) for path in after if path[-1] == "kernel")


def test_ratings_of_several_dimensions(config, videos):
    cfg = config(
        objective=RatingRegression(),
        data=PreferencesConfig(path=videos / "ratings.jsonl", held_out=0.3, prefetch=1),
        steps=2,
    )
    train.train(cfg)
    validated = [line for line in lines_of(cfg.run) if "validation_loss" in line][-1]
    assert {"validation/TA_correlation", "validation/TA_rmse", "validation/VQ_rmse"} <= set(validated)
    assert "validation/MQ_rmse" not in validated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"MQ": "better"}}, "label of MQ must be one of a, b, same or null, got 'better'"),
        ({"labels": {"speed": "a"}}, "labels of speed: the judge has VQ, MQ, TA"),
        ({"labels": {"MQ": None}}, "labels are all missing"),
        ({"labels": "a"}, "labels must be an object of dimensions"),
        ({"b": "0.mp4"}, "a and b are the same video, 0.mp4"),
        ({"b": "none.mp4"}, "no such file"),
        ({"prompt": " "}, "prompt must be a text"),
        ({"ratings": {"MQ": 3}}, "rating in a manifest of pairs"),
        ({"weight": 1}, "unknown fields weight"),
        ({"b": "pairs.jsonl"}, "pairs.jsonl"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_loaded(config, videos, tmp_path, change, message, capsys):
    line = {"prompt": "a clip", "a": "0.mp4", "b": "1.mp4", "labels": {"MQ": "a"}}
    manifest = videos / f"wrong_{tmp_path.name}.jsonl"
    manifest.write_text(json.dumps(line) + "\n" + json.dumps(line | change) + "\n")
    with pytest.raises(ValueError, match="line 2: ") as error:
        train.train(config(data=PreferencesConfig(path=manifest), validation=ValidationConfig()))
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_configs_that_make_no_sense_are_refused(config, small_judge, videos):
    pairs = PreferencesConfig(path=videos / "pairs.jsonl", dimensions=("speed",))
    with pytest.raises(ValueError, match=r"data.dimensions has speed: this judge is videoreward, of VQ, MQ, TA"):
        train.train(config(data=pairs, validation=ValidationConfig()))
    with pytest.raises(ValueError, match="uncertainty needs a judge with"):
        train.train(config(objective=PairPreference(model="uncertainty")))
    with pytest.raises(ValueError, match="data and objective must agree"):
        config(objective=FlowMatching())
    with pytest.raises(ValueError, match="makes no videos"):
        config(samples=SamplesConfig(every=1, prompts=("a",)))
    with pytest.raises(ValueError, match="devices.seq must be 1"):
        config(devices=DevicesConfig(seq=2))
    with pytest.raises(ValueError, match="starts from the weights of checkpoint"):
        config(adapter=None, from_scratch=True)
    with pytest.raises(ValueError, match="validation needs data"):
        config(data=PreferencesConfig(path=videos / "pairs.jsonl"))


def test_a_config_is_read_back_as_it_was_written(config):
    for cfg in (config(), config(objective=RatingRegression(centre=2.0))):
        assert TrainConfig.from_json(json.loads(json.dumps(cfg.to_json()))) == cfg


@pytest.mark.parametrize("kind", ["videoreward", "hpsv3"])
def test_a_judge_begins_from_a_converted_qwen2_vl(published_judges, templates, tmp_path, kind, capsys):
    """Its towers and words are Qwen2-VL's, the head is new, and it scores."""
    qwen, folder = tmp_path / "qwen", tmp_path / "judge"
    convert_main([str(published_judges / "videoreward" / "Qwen2-VL-2B-Instruct"), str(qwen), "--dtype", "float32"])
    convert_main([str(qwen), str(folder), "--judge", kind, "--templates", str(templates)])
    assert "a judge with a random head, to be trained" in capsys.readouterr().out
    made = load_judge(folder)
    _, params = store.load_component(qwen, "qwen2_vl")
    jax.tree.map(np.testing.assert_array_equal, made.params["visual"], params["visual"])
    table, before = made.params["model"]["embed_tokens"]["weight"], params["model"]["embed_tokens"]["weight"]
    np.testing.assert_array_equal(table, before[: len(table)])
    assert len(table) == max(made.conversation.reward_ids) + 1 == made.cfg.num_embeddings
    video = np.random.default_rng(0).integers(0, 256, (4, 28, 56, 3), np.uint8)
    scores = made.score_videos([video], [4.0], ["a"]) if kind == "videoreward" else made.score_images(video, ["a"] * 4)
    assert np.isfinite(scores).all()


@pytest.mark.slow
@pytest.mark.usefixtures("some_optimizations")
def test_the_toy_judge_learns_from_simulated_raters(tmp_path, monkeypatch):
    """A few captions by heart: the loss falls, and scores follow ratings."""
    monkeypatch.chdir(tmp_path)
    toy_judges.main(["outputs/judges/toy_data", "--num-captions", "8", "--num-held-out", "2"])
    cfg = read_config(str(ROOT / "configs" / "judges" / "toy.py"))
    ratings = Path("outputs/judges/toy_data/ratings.jsonl")
    cfg = dataclasses.replace(
        cfg,
        checkpoint=Path("outputs/judges/toy_data/start"),
        data=dataclasses.replace(cfg.data, path=ratings),
        steps=40,
        batch_size=16,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=5, ema_decay=None),
        validation=ValidationConfig(every=40, path=ratings, batches=1),
        devices=DevicesConfig(data=1),
    )
    train.train(cfg)
    losses = [line["loss"] for line in lines_of(cfg.run) if "grad_norm" in line]
    assert losses[-1] < 0.5 * losses[0]
    validated = [line for line in lines_of(cfg.run) if "validation_loss" in line]
    assert min(validated[-1][f"validation/{name}_correlation"] for name in ("VQ", "MQ")) > 0.5


def test_a_toy_judge_begins_with_the_towers_of_the_captioner(tmp_path, capsys):
    toy_captioner.main(["start", str(tmp_path / "captioner")])
    sizes = ["--num-captions", "2", "--num-held-out", "2"]
    toy_judges.main([str(tmp_path / "data"), "--captioner", str(tmp_path / "captioner"), *sizes])
    begun = weights_of(tmp_path / "data" / "start")
    captioner = dict(convert.flatten(store.load_component(tmp_path / "captioner", "qwen2_vl")[1]))
    shared = {path for path in begun if path[0] in ("model", "visual")}
    assert shared == {path for path in captioner if path[0] != "lm_head"}
    for path in shared:
        np.testing.assert_array_equal(begun[path], captioner[path])
    with pytest.raises(SystemExit):
        toy_judges.main([str(tmp_path / "other"), "--captioner", str(tmp_path / "data" / "start"), *sizes])
    assert "qwen2_vl" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_simulated_raters_agree_with_the_truth_and_not_quite_with_one_another():
    scene = sample_scene(3)
    clean = render(scene, 64, 64, 17, 8.0)
    text = caption(scene)
    best = toy_judges.truth(clean, text)
    assert (best > 0.9).all()
    faulty = [toy_judges.truth(toy_judges.faulty_clip(scene, np.random.default_rng(n)), text) for n in range(12)]
    assert (np.min(faulty, axis=0) < 0.6).all()
    assert toy_judges.vote([1.0, 0.7, -2.0], 0.5) == "a"
    assert toy_judges.vote([1.0, -0.7, 0.1], 0.5) == "same"
    assert toy_judges.vote([-1.0, -0.7, 0.1], 0.5) == "b"


def test_the_toy_judge_begins_with_features_that_vary_alike():
    cfg, _ = toy_judges.judge_config()
    params, rng = random_params(judge_table(cfg), np.random.default_rng(0), {}), np.random.default_rng(1)
    clips, others = (
        [toy_judges.faulty_clip(sample_scene(seed), rng) for seed in seeds] for seeds in (range(100, 108), range(48))
    )
    seen_NC = normalise(np.concatenate([video_patches(clip, 8.0, cfg).reshape(-1, 1176) for clip in clips]))

    def spread():
        """How many features of the embedding carry its variance."""
        size_F = np.linalg.eigvalsh(np.cov(seen_NC @ params["visual"]["patch_embed"]["proj"]["kernel"], rowvar=False))
        return size_F.sum() ** 2 / (size_F**2).sum()

    assert spread() < 8
    see_differences(params, others, 8.0, cfg, rng)
    assert spread() > 30


def test_a_tint_tells_the_motion_to_those_who_see_colour_alone():
    scene = sample_scene(3)
    frames = render(scene, 64, 64, 5, 8.0)
    cold, warm = (toy_judges.tint(frames, warmth).astype(float) for warmth in (0.0, 1.0))
    assert (warm - cold)[..., 0].min() > 60
    assert (warm - cold)[..., 1].max() < -30
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(warm @ luma - cold @ luma).max() < 1.5  # of rounding; nothing is clipped


def test_a_run_notices_other_data(config, videos, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(videos, folder)
    cfg = config(data=PreferencesConfig(path=folder / "pairs.jsonl", dimensions=("MQ",)), validation=ValidationConfig())
    train.train(dataclasses.replace(cfg, steps=2))
    shutil.copyfile(folder / "5.mp4", folder / "4.mp4")
    with pytest.raises(ValueError, match=r"begun with other data: the file of video 4.mp4 has other content"):
        train.train(cfg)
