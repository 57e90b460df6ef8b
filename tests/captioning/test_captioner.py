"""The captioner against the published code's numbers, and what must not change its texts.

tests/golden/captioner.npz is of transformers 4.49 (PyTorch 2.13, float32) on the Qwen2-VL of
golden/rewards/videoreward, for the clips of `CLIPS` and `QUESTIONS`: token ids, grids, logits of the last two tokens,
and 24 greedy tokens.
"""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lcv_jax.caption import main
from lcv_jax.captioning.captioner import load_captioner
from lcv_jax.captioning.prompts import Views, pack
from lcv_jax.convert import main as convert
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.sampling import text
from lcv_jax.sampling.text import TextSampling, write_text

GOLDEN = Path(__file__).parent.parent / "golden"
PUBLISHED = GOLDEN / "rewards" / "videoreward" / "Qwen2-VL-2B-Instruct"
VIEWS = Views(min_pixels=4 * 28 * 28, max_pixels=12 * 28 * 28)
_RNG = np.random.default_rng(0)
CLIPS = [_RNG.integers(0, 255, shape, dtype=np.uint8) for shape in ((9, 60, 90, 3), (1, 80, 60, 3), (14, 50, 50, 3))]
QUESTIONS = ("What is this?", "A picture. Describe!", "Tell me about this video, in some more words.")
FPS = 4.0


@pytest.fixture(scope="module")
def captioner(folder):
    return load_captioner(folder, dtype="float32", views=VIEWS)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "captioner.npz") as stored:
        return dict(stored)


def written(captioner, packed, sampling=TextSampling(max_tokens=24), seed=0):  # noqa: B008
    asked, length_B, position_B = packed
    keys = jax.vmap(jax.random.key)(np.full(len(length_B), seed, np.uint32))
    return np.asarray(
        write_text(captioner.network, sampling, captioner.params, asked, length_B, position_B, keys, stops=(0,))
    )


def test_prompts_logits_and_greedy_texts_are_the_published_ones(captioner, golden):
    for number, (clip, question) in enumerate(zip(CLIPS, QUESTIONS, strict=True)):
        asked = captioner.prompts.clip(number, clip, FPS, question, VIEWS)
        assert asked.ids == tuple(golden[f"ids_{number}"])
        assert asked.grid == tuple(golden[f"grid_{number}"])
        packed = pack([asked], 1, captioner.prompts)
        places_BA = len(asked.ids) + jnp.array([[-2, -1]])
        logits_BAV = jax.jit(captioner.network.apply)({"params": captioner.params}, packed[0], places_BA)
        wanted = golden[f"logits_{number}"]
        np.testing.assert_allclose(logits_BAV[0], wanted, atol=2e-4 * np.abs(wanted).max())
        np.testing.assert_array_equal(written(captioner, packed)[0], golden[f"written_{number}"])


def test_a_text_does_not_depend_on_its_batch(captioner):
    """Clips of other lengths beside it, other questions' paddings, and drawn tokens."""
    hot = TextSampling(max_tokens=8, temperature=1.5, top_p=0.9)
    clips = [CLIPS[0], CLIPS[0][::-1].copy(), CLIPS[0][:, ::-1].copy()]
    together = captioner.caption(clips, [FPS] * 3, "What?", hot, seed=3)
    assert together == [captioner.caption([clip], [FPS], "What?", hot, seed=3)[0] for clip in clips]
    assert captioner.caption(clips[:1], [FPS], "What?", hot, seed=4) != together[:1]
    assert captioner.caption(clips[:1], [FPS], "What?", TextSampling(max_tokens=8)) != together[:1]


def test_two_devices_write_what_one_writes(captioner, folder):
    """Three clips on a mesh of two: the fourth row is padding."""
    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    both = load_captioner(folder, dtype="float32", views=VIEWS, batch_size=2, mesh=mesh)
    hot = TextSampling(max_tokens=8, temperature=1.5, top_p=0.9)
    clips = [CLIPS[0], CLIPS[0][::-1].copy(), CLIPS[0][:, ::-1].copy()]
    assert both.caption(clips, [FPS] * 3, "What?", hot, seed=3) == captioner.caption(clips, [FPS] * 3, "What?", hot, 3)
    (kernel,) = {leaf.sharding.num_devices for leaf in jax.tree.leaves(both.params)}
    assert kernel == 2


def test_tokens_are_drawn_by_their_probability_among_the_most_probable():
    logits_V = jnp.log(jnp.array([0.15, 0.5, 0.05, 0.3]))
    sampling = TextSampling(temperature=1.0, top_p=0.7)  # 0.5 alone is below, so that 0.3 is drawn too
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(lambda key: text._draw(sampling, logits_V, key))(keys))
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, [0, 0.625, 0, 0.375], atol=0.03)


def test_a_head_of_its_own_and_newer_names_and_back(tmp_path, captioner):
    """The 7B model's layout, with the names that newer versions of transformers write."""
    source, converted, again = (tmp_path / name for name in ("source", "converted", "again"))
    shutil.copytree(PUBLISHED, source)
    settings = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": False}
    (source / "config.json").write_text(json.dumps(settings))
    weights = {name: value.astype(np.float32) for name, value in load_file(source / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][::-1].copy()
    nested = {
        f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1): value
        for name, value in weights.items()
    }
    save_file(nested, source / "model.safetensors")
    convert([str(source), str(converted)])
    reversed_head = load_captioner(converted, dtype="float32", views=VIEWS)
    packed = pack([captioner.prompts.clip(0, CLIPS[0], FPS, "What?", VIEWS)], 1, captioner.prompts)
    one = TextSampling(max_tokens=1)
    first, other = written(captioner, packed, one)[0, 0], written(reversed_head, packed, one)[0, 0]
    assert other == settings["vocab_size"] - 1 - first
    convert([str(converted), str(again), "--to-torch"])
    back = load_file(again / "model.safetensors")
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[name], weights[name]) for name in weights)
    assert (again / "tokenizer.json").read_bytes() == (PUBLISHED / "tokenizer.json").read_bytes()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number in range(3):
        with VideoWriter(folder / f"{number}.mp4", fps=8, height=48, width=48) as video:
            video.write(CLIPS[2][:, :48, :48])
        rows.append({"path": f"{number}.mp4", "weight": number + 1, "caption": "unused"})
    (folder / "broken.mp4").write_bytes(b"no video")
    rows.insert(1, {"path": "broken.mp4"})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "clips.jsonl"


FLAGS = ["--max-tokens", "4", "--min-pixels", "3136", "--max-pixels", "3136", "--dtype", "float32", "--batch-size", "1"]


def test_a_manifest_is_captioned_and_a_stopped_run_resumes(folder, manifest, tmp_path, capsys):
    out = tmp_path / "captioned.jsonl"
    with pytest.raises(SystemExit) as stopped:
        main([str(folder), str(manifest), str(out), *FLAGS])
    assert stopped.value.code == 1  # one clip is left out, and said
    assert "broken.mp4" in capsys.readouterr().err
    whole = out.read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in rows] == ["0.mp4", "1.mp4", "2.mp4"]
    assert [row["weight"] for row in rows] == [1, 2, 3]
    assert all(Path(row["path"]).is_file() and row["caption"] not in ("", "unused") for row in rows)
    # A process that dies leaves a part of a line.
    out.write_text(whole[: whole.rindex("{") + 9])
    with pytest.raises(SystemExit):
        main([str(folder), str(manifest), str(out), *FLAGS, "--data", "2"])
    assert out.read_text() == whole
    with pytest.raises(SystemExit) as stopped:
        main([str(folder), str(manifest), str(out), *FLAGS, "--question", "What?"])
    assert stopped.value.code == 2
    assert "captioned.jsonl was begun otherwise: question was" in capsys.readouterr().err


def test_what_cannot_be_captioned_is_refused(captioner, folder, manifest, tmp_path, capsys):
    for clip, message in (
        (CLIPS[0].astype(np.float32), "video 0 must be a uint8 array T H W 3, got float32"),
        (CLIPS[0][0], "video 0 must be a uint8 array T H W 3, got uint8 \\(60, 90, 3\\)"),
        (CLIPS[0][:0], "video 0 must be a uint8 array T H W 3, got shape"),
        (np.zeros((4, 2, 900, 3), np.uint8), "video 0: a picture of 2 x 900 pixels: one side is above 200"),
    ):
        with pytest.raises(ValueError, match=message):
            captioner.caption([clip], [FPS])
    with pytest.raises(ValueError, match="2 frame rates|as many frame rates in fps, got 2"):
        captioner.caption(CLIPS[:1], [FPS, FPS])
    with pytest.raises(SystemExit):
        main([str(PUBLISHED), str(manifest), str(tmp_path / "out.jsonl")])
    assert "convert it first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        convert([str(PUBLISHED), str(tmp_path / "x"), "--components", "dit"])
    assert "converted as a whole" in capsys.readouterr().err


def test_special_tokens_in_a_question_are_letters(captioner):
    asked = captioner.prompts.clip(0, CLIPS[0], FPS, "<|video_pad|> and <|im_end|>", VIEWS)
    plain = captioner.prompts.clip(0, CLIPS[0], FPS, "", VIEWS)
    pad = captioner.prompts.cfg.video_token_id
    assert asked.ids.count(pad) == plain.ids.count(pad) == asked.num_visual
