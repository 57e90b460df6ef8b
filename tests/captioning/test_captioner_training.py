"""Fine-tuning of a captioner: the loss, its gradients, the data, and whole runs.

tests/golden/captioner_training.npz is of transformers 4.49 (PyTorch 2.13, float64) on the Qwen2-VL of
golden/rewards/videoreward: losses and gradients for the clips, questions and captions below; `ids_1` is what its
tokenizer makes of the second caption with its special token as letters.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax import export, train
from lcv_jax.captioning.captioner import load_captioner
from lcv_jax.captioning.pairs import CaptionsConfig
from lcv_jax.captioning.prompts import CaptionPrompts, Views, pack, shape_of
from lcv_jax.checkpoint import convert, store
from lcv_jax.checkpoint.judge_names import captioner_table
from lcv_jax.convert import main as convert_main
from lcv_jax.data.media_writer import VideoWriter, write_image
from lcv_jax.data.preferences import PreferencesConfig
from lcv_jax.models.captioner import Captioner
from lcv_jax.objectives.flow_matching import FlowMatching
from lcv_jax.objectives.next_token import CaptionerNetworks, NextToken
from lcv_jax.training.caption_inputs import open_captions
from lcv_jax.training.captioners import CaptionerModel
from lcv_jax.training.config import (
    CheckpointsConfig,
    DevicesConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)
from lcv_jax.training.state import Frozen
from tests.training_runs import adapter_run, lines_of

GOLDEN = Path(__file__).parent.parent / "golden"
pytestmark = pytest.mark.usefixtures("few_devices")
VIEWS = Views(min_pixels=4 * 28 * 28, max_pixels=12 * 28 * 28)
SMALL = Views(min_pixels=28 * 28, max_pixels=2 * 28 * 28, num_frames=2)
_RNG = np.random.default_rng(0)
CLIPS = [_RNG.integers(0, 255, shape, dtype=np.uint8) for shape in ((9, 60, 90, 3), (1, 80, 60, 3), (14, 50, 50, 3))]
QUESTIONS = ("What is this?", "A picture. Describe!", "Tell me about this video, in some more words.")
CAPTIONS = (
    "A red ball rolls.",
    "A picture of <|im_end|> letters.",
    "Something moves slowly to the left, then it is gone.",
)


@pytest.fixture(scope="module")
def prompts(folder):
    return CaptionPrompts(store.load_config(folder, "qwen2_vl"), store.tokenizer_folder(folder) / "tokenizer.json")


def test_the_loss_is_the_mean_over_answer_tokens():
    """Restated by hand: of two answers of 3 and 1 tokens, the mean of four numbers."""
    rng = np.random.default_rng(1)
    logits_BAV = rng.normal(0, 3, (2, 4, 7)).astype(np.float32)
    target_BA = np.array([[2, 0, 6, -1], [5, -1, -1, -1]], np.int32)
    exact = logits_BAV.astype(np.float64)
    numbers = [
        np.log(np.exp(exact[b, a]).sum()) - exact[b, a, target_BA[b, a]] for b, a in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]
    networks = CaptionerNetworks(logits=lambda batch: jnp.asarray(logits_BAV))
    losses = NextToken()(networks, {"target_BA": jnp.asarray(target_BA)}, jax.random.key(0))
    assert float(losses.loss) == pytest.approx(np.mean(numbers), rel=1e-6)
    np.testing.assert_allclose(losses.error_B, [np.mean(numbers[:3]), numbers[3]], rtol=1e-6)
    assert float(losses.weight) == 4
    right = sum(int(exact[b, a].argmax() == target_BA[b, a]) for b, a in ((0, 0), (0, 1), (0, 2), (1, 0)))
    assert float(losses.metrics["token_accuracy"]) == right / 4


def test_the_loss_and_its_gradients_are_the_published_ones(folder, prompts):
    golden = np.load(GOLDEN / "captioner_training.npz")
    clips = [
        prompts.answered(prompts.clip(number, clip, 4.0, question, VIEWS), caption)
        for number, (clip, question, caption) in enumerate(zip(CLIPS, QUESTIONS, CAPTIONS, strict=True))
    ]
    assert clips[1].ids[clips[1].begin :] == tuple(golden["ids_1"])
    shape = shape_of(clips[0])._replace(pictures=4, patches=24, length=96)
    asked, _, _ = pack(clips, 3, prompts, shape)
    places_BA, target_BA = np.zeros((3, 28), np.int32), np.full((3, 28), -1, np.int32)
    for row, clip in enumerate(clips):
        answer = clip.ids[clip.begin :]
        places_BA[row, : len(answer)] = clip.begin - 1 + np.arange(len(answer))
        target_BA[row, : len(answer)] = answer
    batch = {**asked._asdict(), "places_BA": places_BA, "target_BA": target_BA}
    cfg, params = store.load_component(folder, "qwen2_vl", jnp.float32)
    model = CaptionerModel(network=Captioner(cfg, jnp.float32, remat="full"), adapted=False, vision=True)

    def loss(network):
        losses = NextToken()(
            model.bound(model.variables({"network": network}, Frozen(params={}))), batch, jax.random.key(0)
        )
        return losses.loss, losses.error_B

    (got, error_B), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert float(got) == pytest.approx(float(golden["loss"]), rel=1e-5)
    np.testing.assert_allclose(error_B, golden["losses"], rtol=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(grads)))
    assert norm == pytest.approx(float(golden["norm"]), rel=1e-4)
    rows = grads["model"]["embed_tokens"]["weight"][golden["rows"]]
    np.testing.assert_allclose(rows, golden["grad.rows"], atol=1e-4 * np.abs(golden["grad.rows"]).max())
    found = 0
    for leaf in captioner_table(cfg):
        for name, index in leaf.slices():
            if f"grad.{name}" in golden:
                tree = grads
                for part in leaf.path:
                    tree = tree[part]
                wanted = golden[f"grad.{name}"]
                turned = leaf.turn_back(np.asarray(tree[index])).reshape(leaf.published)
                np.testing.assert_allclose(turned, wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)
                found += 1
    assert found == 4


def test_no_logits_of_the_whole_sequence(prompts):
    """Nothing in the step has both the sequence and the vocabulary as axes."""
    cfg = prompts.cfg
    model = CaptionerModel(network=Captioner(cfg, jnp.float32), adapted=False, vision=False)
    clip = prompts.answered(prompts.clip(0, CLIPS[0], 4.0, "What?", VIEWS), "A ball.")
    asked, _, _ = pack([clip], 1, prompts, shape_of(clip)._replace(length=72))
    batch = {**asked._asdict(), "places_BA": np.zeros((1, 16), np.int32), "target_BA": np.zeros((1, 16), np.int32)}
    shapes: dict = {}
    for leaf in model.table:
        convert.place(shapes, leaf.path, jax.ShapeDtypeStruct(leaf.shape, jnp.float32))

    def loss(network):
        return NextToken()(model.bound({"params": network}), batch, jax.random.key(0)).loss

    text = str(jax.make_jaxpr(jax.grad(loss))(shapes))
    assert f"f32[1,16,{cfg.vocab_size}]" in text
    assert f"72,{cfg.vocab_size}]" not in text


def coloured(number):
    """A clip of one of eight colours."""
    colour = 200 * np.array([number & 1, number >> 1 & 1, number >> 2], np.uint8)
    return np.broadcast_to(colour, (4, 28, 56, 3))


def said(number):
    """Its caption; they differ in length."""
    return f"clip {number}" + " again" * number


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Clips and a picture; two captions of the first, a question of the second's own."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        with VideoWriter(folder / f"{number}.mp4", fps=4, height=28, width=56) as video:
            video.write(coloured(number))
    write_image(folder / "6.png", np.full((28, 56, 3), 200, np.uint8))
    rows = [
        {"path": "0.mp4", "captions": ["a grey clip", "a dark clip"]},
        {"video": "1.mp4", "prompt": "How bright?", "caption": "rather dark"},
        *({"video": f"{number}.mp4", "caption": said(number)} for number in range(2, 6)),
        {"image": "6.png", "caption": "light grey"},
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "captions.jsonl"


@pytest.fixture
def config(folder, manifest, tmp_path):
    def make(**fields):
        given = {
            "run": tmp_path / "run",
            "checkpoint": folder,
            "objective": NextToken(),
            "data": CaptionsConfig(path=manifest, question="What is it?", views=SMALL, held_out=0.3, prefetch=1),
        }
        return adapter_run(**(given | fields))

    return make


def weights_of(folder):
    return dict(convert.flatten(store.load_component(folder, "qwen2_vl")[1]))


def test_a_run_resumes_to_the_bit_and_its_folder_is_a_captioner(config, tmp_path):
    """With an adapter: the linear layers of the text model alone change, and go back to the published layout."""
    cfg = config()
    train.train(cfg)
    lines = lines_of(cfg.run)
    assert "loss/captions" in next(line for line in lines if "grad_norm" in line)
    validated = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in validated] == [0, 2, 4]
    assert "validation/token_accuracy" in validated[0]
    assert validated[-1]["validation_loss"] != validated[0]["validation_loss"]

    stopped = dataclasses.replace(cfg, run=tmp_path / "stopped", steps=2)
    train.train(stopped)
    train.train(dataclasses.replace(stopped, steps=4))
    before, whole = weights_of(cfg.checkpoint), weights_of(cfg.run / "weights")
    again = weights_of(stopped.run / "weights")
    for path, leaf in whole.items():
        np.testing.assert_array_equal(leaf, again[path])
    moved = {path for path in whole if not np.array_equal(before[path], whole[path])}
    assert moved == {path for path in whole if path[:2] == ("model", "layers") and path[-1] == "kernel"}

    video = np.zeros((4, 28, 56, 3), np.uint8)
    captioner = load_captioner(cfg.run / "weights", dtype="float32", views=SMALL)
    assert isinstance(captioner.caption([video], [4.0])[0], str)
    convert_main([str(cfg.run / "weights"), str(tmp_path / "published"), "--to-torch"])
    convert_main([str(tmp_path / "published"), str(tmp_path / "again")])
    for path, leaf in weights_of(tmp_path / "again").items():
        np.testing.assert_array_equal(leaf, whole[path])
    export.main([str(cfg.run), str(tmp_path / "exported")])
    for path, leaf in weights_of(tmp_path / "exported").items():
        np.testing.assert_array_equal(leaf, whole[path])


@pytest.mark.slow
def test_all_weights_learn_captions_by_heart(config):
    """Full training with the tower, on two devices: the averaged weights say the captions."""
    cfg = config(
        adapter=None,
        train_vision=True,
        steps=80,
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=5, ema_decay=0.9),
        validation=ValidationConfig(),
        checkpoints=CheckpointsConfig(every=80),
        devices=DevicesConfig(data=1, fsdp=2, sharding="full"),
    )
    train.train(dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, held_out=0.0)))
    before, after = weights_of(cfg.checkpoint), weights_of(cfg.run / "weights")
    assert all(not np.array_equal(before[path], after[path]) for path in after)
    captioner = load_captioner(cfg.run / "weights", dtype="float32", views=SMALL)
    clips = [coloured(2), coloured(5)]
    assert captioner.caption(clips, [4.0] * 2, "What is it?") == [said(2), said(5)]


def test_devices_and_parts_of_a_batch_change_nothing_but_rounding(config, tmp_path):
    """One device; and two with parameters in parts and a batch in two parts, whose captions differ in length."""
    losses = []
    for name, parts, devices in (
        ("one", 1, DevicesConfig(data=1)),
        ("two", 2, DevicesConfig(data=1, fsdp=2, sharding="full")),
    ):
        cfg = config(
            run=tmp_path / name,
            devices=devices,
            steps=2,
            validation=ValidationConfig(),
            optimizer=OptimizerConfig(learning_rate=1e-3, ema_decay=None, accumulation=parts),
        )
        train.train(cfg)
        losses.append([(line["loss"], line["grad_norm"]) for line in lines_of(cfg.run) if "grad_norm" in line])
    np.testing.assert_allclose(*losses, rtol=2e-4)


def batches_of(cfg, prompts, **options):
    return open_captions(cfg, prompts, **{"batch_size": 3, "seed": 5, **options})


def answers(prompts, arrays):
    """Texts of the answers of a batch, each of which its end follows."""
    found = []
    for ids_L, places_A, target_A in zip(arrays["ids_BL"], arrays["places_BA"], arrays["target_BA"], strict=True):
        counted = target_A >= 0
        np.testing.assert_array_equal(ids_L[places_A[counted] + 1], target_A[counted])
        assert target_A[counted][-1] == prompts.stops[0]
        found.append(prompts.text_of(target_A[counted].tolist()))
    return found


def test_a_clip_comes_with_one_of_its_captions(manifest, prompts):
    """Drawn by seed, step and row; questions of a line's own; a picture's token."""
    cfg = CaptionsConfig(path=manifest, question="What is it?", views=SMALL, threads=0)
    batches = batches_of(cfg, prompts)
    assert len(batches.kinds) <= 3
    batch_list = [next(batches).arrays for _ in range(24)]
    texts = [answers(prompts, arrays) for arrays in batch_list]
    seen = {text for batch in texts for text in batch}
    assert seen == {"a grey clip", "a dark clip", "rather dark", "light grey", *(said(n) for n in range(2, 6))}
    again = batches_of(cfg, prompts)
    again.set_state({**again.get_state(), "step": 20})
    assert answers(prompts, next(again).arrays) == texts[20]
    ids = [row for arrays in batch_list for row in arrays["ids_BL"]]
    own = prompts.asked(lambda: None, (1, 2, 4), "How bright?", is_picture=False).ids
    dark = [row for row in ids if tuple(row[: len(own)]) == own]
    assert len(dark) == sum(batch.count("rather dark") for batch in texts) > 0
    pictures = [row for row in ids if prompts.cfg.image_token_id in row]
    assert len(pictures) == sum(batch.count("light grey") for batch in texts) > 0
    halves = [next(batches_of(cfg, prompts, batch_size=4, process_index=n, process_count=2)).arrays for n in range(2)]
    whole = next(batches_of(cfg, prompts, batch_size=4)).arrays
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), array)


def test_what_cannot_be_trained_on_is_left_out_with_its_reason(manifest, prompts, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(manifest.parent, folder)
    (folder / "broken.mp4").write_bytes(b"no video")
    long = {"video": "1.mp4", "id": "long", "caption": "very " * 200}
    rows = [
        {"video": "broken.mp4", "caption": "a"},
        long,
        {"video": "2.mp4", "id": "empty", "caption": " "},
        {"video": "3.mp4", "image": "6.png", "caption": "a"},
        {"video": "3.mp4", "id": "asked", "caption": "a", "prompt": 3},
        {"caption": "a"},
        {"video": "4.mp4", "caption": "fits"},
    ]
    (folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = CaptionsConfig(path=folder / "bad.jsonl", views=SMALL, max_length=256, threads=1)
    with pytest.warns(UserWarning, match="6 lines or clips are left out"):
        batches = batches_of(cfg, prompts)
    reasons = batches.quarantined
    assert "cannot be read as a video" in reasons["broken.mp4"]
    assert "data.max_length is 256: shorten the caption" in reasons["long"]
    assert "a caption is empty" in reasons["line 3"]
    assert "give one of video, image" in reasons["line 4"].replace("path, ", "")
    assert "prompt must be a text, got 3" in reasons["line 5"]
    assert "path is missing" in reasons["line 6"]
    assert set(answers(prompts, next(batches).arrays)) == {"fits"}
    (folder / "bad.jsonl").write_text(json.dumps(long) + "\n")
    with pytest.raises(ValueError, match=r"no clip to train on, all are left out: long: \d+ tokens \(2 of the clip"):
        batches_of(cfg, prompts)


def test_configs_that_make_no_sense_are_refused(config, manifest):
    with pytest.raises(ValueError, match="NextToken is trained on a CaptionsConfig, got PreferencesConfig"):
        config(data=PreferencesConfig(path=manifest))
    with pytest.raises(ValueError, match="data and objective must agree: FlowMatching"):
        config(objective=FlowMatching())
    with pytest.raises(ValueError, match="the tokens of a captioner are not split"):
        config(devices=DevicesConfig(seq=2))
    with pytest.raises(ValueError, match="a captioner takes no sparse"):
        config(adapter=None, from_scratch=True)
    with pytest.raises(ValueError, match="validation needs data"):
        config(data=CaptionsConfig(path=manifest))


def test_a_config_is_read_back_as_it_was_written(config):
    cfg = config(train_vision=True)
    assert TrainConfig.from_json(json.loads(json.dumps(cfg.to_json()))) == cfg
