"""The commands that write clips and a fresh checkpoint, and the checkpoint's text encoder."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from lcv_jax.checkpoint import store
from lcv_jax.data.manifest import read_manifest
from lcv_jax.data.media_reader import read_image, read_video
from lcv_jax.pipeline import load_pipeline
from lcv_jax.toy import make, matches, score, start
from lcv_jax.toy.captions import caption, parse
from lcv_jax.toy.measures import psnr
from lcv_jax.toy.readers import ATTRIBUTES, read_clip
from lcv_jax.toy.sizes import SIZES
from lcv_jax.toy.world import Scene, combination_share, is_held_out, kind_of, render, sample_scene


def scenes_of(folder):
    rows = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    return {row.pop("id"): Scene(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "clips"
    make.main([str(folder), "--num-clips", "12", "--num-images", "3", "--rough-share", "0.3", "--seed", "2"])
    return folder


def test_clips_and_captions_are_what_was_drawn(clips):
    entries, scenes = read_manifest(clips / "manifest.jsonl"), scenes_of(clips)
    assert len(entries) == 15
    assert len(set(scenes)) == 15
    for entry in entries:
        scene = scenes[entry.id]
        assert not is_held_out(scene)
        if entry.is_image:
            assert read_image(entry.path).shape == (64, 64, 3)
            assert all(parse(text).motion is None for text in entry.captions)
            continue
        frames, fps = read_video(entry.path)
        assert (fps, len(frames), entry.fps, entry.num_frames) == (8, 17, 8, 17)
        assert psnr(frames, render(scene, 64, 64, 17, 8)) > 28
        for text in entry.captions:
            asked = parse(text)
            assert all(getattr(asked, name) == getattr(scene, name) for name in ATTRIBUTES)
        reading = read_clip(frames, 8)
        assert reading.best("motion") == scene.motion
        assert reading.best("shape") == scene.shape


def test_objects_that_change_midway_go_on_from_where_they_are(tmp_path):
    flags = ["--num-clips", "6", "--num-frames", "25", "--change-after", "9", "--change-share", "0.5"]
    make.main([str(tmp_path / "x"), *flags])
    rows = [json.loads(line) for line in (tmp_path / "x" / "scenes.jsonl").read_text().splitlines()]
    for entry, row in zip(read_manifest(tmp_path / "x" / "manifest.jsonl"), rows, strict=True):
        frames, _ = read_video(entry.path)
        assert len(frames) == entry.num_frames == (25 if "changes_to" in row else 9)
        if "changes_to" not in row:
            assert entry.caption_start is None
            continue
        assert entry.caption_start == 9 / 8
        before, after = read_clip(frames[:9], 8), read_clip(frames[9:], 8)
        assert before.best("motion") == row["motion"]
        assert after.best("motion") == row["changes_to"]["motion"] == parse(entry.captions[0]).motion
        steps = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
        assert steps[8] < 1.5 * steps.max(where=np.arange(24) != 8, initial=0)
    assert sum("changes_to" in row for row in rows) == 3


def test_weights_undo_the_sampling_and_leave_out_rough_clips(clips):
    entries, scenes = read_manifest(clips / "manifest.jsonl"), scenes_of(clips)
    weights = {entry.id: entry.numbers["weight"] for entry in entries}
    assert np.mean(list(weights.values())) == pytest.approx(1, abs=1e-4)
    assert {weights[name] == 0 for name, scene in scenes.items() if scene.rough} == {True}
    products = [weights[name] * combination_share(scene.combination) for name, scene in scenes.items() if weights[name]]
    np.testing.assert_allclose(products, products[0], rtol=1e-4)


def test_kinds_of_motion_that_clips_change_to_weigh_as_much_as_one_another(tmp_path):
    scenes = list(
        make.all_scenes(
            make.Arguments(out=tmp_path, num_clips=90, num_frames=17, change_after=9, change_share=0.8, rough_share=0.1)
        )
    )
    amounts = dict.fromkeys(("moves", "scales", "turns"), 0.0)
    for (_, _, new), weight in zip(scenes, make.weights_of(scenes), strict=True):
        if new is not None:
            amounts[kind_of(new.motion)] += weight
    assert amounts["turns"] > 0
    np.testing.assert_allclose(list(amounts.values()), amounts["turns"])


def test_the_same_seed_gives_the_same_scenes_at_another_size(clips, tmp_path):
    large = ["--height", "32", "--width", "48", "--num-frames", "9", "--fps", "4", "--workers", "1"]
    make.main([str(tmp_path / "x"), "--num-clips", "4", "--rough-share", "0.3", "--seed", "2", *large])
    assert scenes_of(tmp_path / "x").items() <= scenes_of(clips).items()
    make.main([str(tmp_path / "y"), "--num-clips", "4", "--held-out"])
    assert all(map(is_held_out, scenes_of(tmp_path / "y").values()))


def test_plain_captions_are_always_worded_the_same(tmp_path):
    small = ["--num-clips", "6", "--num-images", "2", "--num-frames", "5", "--height", "16", "--width", "16"]
    make.main([str(tmp_path / "x"), *small, "--captions", "plain"])
    scenes = scenes_of(tmp_path / "x")
    for entry in read_manifest(tmp_path / "x" / "manifest.jsonl"):
        assert list(entry.captions) == [caption(scenes[entry.id], None, still=entry.is_image)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-clips", "0"], "give num_clips or num_images, got 0 of both"),
        (["--height", "63"], "height and width must be even, got 63 x 64"),
        (["--num-frames", "33"], "at 8 frames a second num_frames or change_after can be 17 at most, got 33"),
        (["--rough-share", "1.5"], "rough_share must lie in 0..1, got 1.5"),
        (["--crf", "60"], "crf must lie in 0..51"),
        (["--seed", "-1"], "seed must lie in 0"),
        (["--num-frames", "17", "--change-after", "17"], "change_after is for clips of more frames, without images"),
        (["--num-frames", "49", "--change-after", "33"], "num_frames or change_after can be 17 at most, got 33"),
        (["--fps", "0"], "fps must be above 0 and at most 1000"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        make.main([str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(clips, capsys):
    for command in (make, start):
        with pytest.raises(SystemExit, match="2"):
            command.main([str(clips)])
        assert "exists and is not empty" in capsys.readouterr().err


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "fresh"
    start.main([str(folder), "--size", "tiny", "--seed", "3"])
    return folder


def encode(fresh, *captions):
    text, mask = load_pipeline(fresh).encode_text(captions, 32)
    return np.asarray(text, np.float32), np.asarray(mask)


def cosine(one, other):
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def test_a_word_changes_its_own_embedding_most_and_its_neighbours_a_little(fresh):
    text = "a red circle moves slowly to the left over a striped grey background, the camera pans right"
    words = text.replace(",", " ,").split()
    for old, new in (("red", "blue"), ("circle", "square"), ("slowly", "quickly"), ("grey", "sage")):
        both, mask = encode(fresh, text, text.replace(old, new))
        same = cosine(both[0], both[1])[mask[0]]
        place = words.index(old)
        assert same.argmin() == place
        assert same[place] < 0.8
        far = np.abs(np.arange(len(same)) - place) > 4
        assert same[far].min() > 0.99


def test_directions_of_object_and_camera_can_be_told_apart(fresh):
    form = "a red circle moves slowly to the {} over a striped grey background, the camera pans {}"
    (one, other), _ = encode(fresh, form.format("left", "right"), form.format("right", "left"))
    words = form.replace(",", " ,").split()
    moves, pans = (place for place, word in enumerate(words) if word == "{}")
    # The same two words in both captions: only their neighbours say which is which.
    assert cosine(one[moves], other[pans]) < 0.85
    assert cosine(one[pans], other[moves]) < 0.85


def test_attributes_can_be_read_off_the_embeddings_linearly(fresh):
    scenes = [sample_scene([8, number]) for number in range(400)]
    text, mask = encode(fresh, *(caption(scene, number) for number, scene in enumerate(scenes)))
    pooled = np.c_[(text * mask[..., None]).sum(axis=1), np.ones(len(scenes))]
    for name in ("colour", "shape", "motion", "pan"):
        values = [getattr(scene, name) for scene in scenes]
        wanted = np.array([[value == each for each in sorted(set(values))] for value in values], float)
        fit = np.linalg.lstsq(pooled[:300], wanted[:300], rcond=1e-3)[0]
        assert ((pooled[300:] @ fit).argmax(1) == wanted[300:].argmax(1)).mean() > 0.97, name


def test_the_empty_caption_and_unknown_words_have_embeddings_of_their_own(fresh):
    both, mask = encode(fresh, "", "a zebra")
    assert mask.sum(axis=1).tolist() == [1, 3]
    assert np.abs(both[0, :1]).max() > 0.5
    assert cosine(both[0, 0], both[1, 0]) < 0.5


def test_the_seed_decides_all_weights(fresh, tmp_path):
    cfg = SIZES["tiny"].dit
    one, same, other = (start.random_transformer(cfg, np.random.default_rng([seed, 0])) for seed in (3, 3, 4))
    stored = store.load_component(fresh, "dit")[1]
    kernel = one["blocks"]["attn"]["qkv"]["kernel"]
    np.testing.assert_array_equal(kernel, same["blocks"]["attn"]["qkv"]["kernel"])
    np.testing.assert_array_equal(kernel, stored["blocks"]["attn"]["qkv"]["kernel"])
    assert np.abs(kernel - other["blocks"]["attn"]["qkv"]["kernel"]).max() > 0
    assert kernel.std() == pytest.approx(cfg.hidden_size**-0.5, rel=0.02)
    assert not np.any(stored["final_layer"]["linear"]["kernel"])
    assert not np.any(stored["blocks"]["adaLN_modulation_1"]["kernel"])


def test_the_published_layout_fits_into_16_megabytes(tmp_path, capsys):
    start.main([str(tmp_path / "torch"), "--layout", "published", "--dtype", "bfloat16"])
    size = sum(path.stat().st_size for path in (tmp_path / "torch").rglob("*"))
    assert size < 14.2e6  # two adapters are to come
    with pytest.raises(SystemExit, match="2"):
        start.main([str(tmp_path / "other"), "--seed", "-1"])
    assert "seed must lie in 0..4294967295, got -1" in capsys.readouterr().err


def test_a_fresh_checkpoint_is_scored(fresh, tmp_path, capsys):
    size = ["--height", "32", "--width", "32", "--num-frames", "5", "--num-steps", "1", "--guidance-scale", "1"]
    files = ["--json", str(tmp_path / "a" / "score.json"), "--sheet", str(tmp_path / "sheet.png")]
    score.main([str(fresh), "--num-clips", "2", "--batch", "2", *size, *files])
    content = json.loads((tmp_path / "a" / "score.json").read_text())
    assert content["measured"]["colour"]["total"] == 2
    assert content["arguments"]["num_steps"] == 1
    assert (tmp_path / "sheet.png").is_file()
    assert "held-out captions" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--task", "refine"], ["--distilled"]])
def test_a_missing_adapter_is_named_before_anything_is_made(fresh, capsys, monkeypatch, arguments):
    monkeypatch.setattr(score, "TASKS", {})
    with pytest.raises(SystemExit, match="2"):
        score.main([str(fresh), *arguments])
    assert "it has no adapters" in capsys.readouterr().err


def test_sizes_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SIZES["small"].dit = SIZES["tiny"].dit


def test_captions_are_rated_by_how_much_of_a_clip_they_have_right(clips, tmp_path, capsys):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    matches.main([str(folder), "--num-captions", "8"])
    lines = [json.loads(line) for line in (folder / "matches.jsonl").read_text().splitlines()]
    scenes = {f"clips/{name}.mp4": scene for name, scene in scenes_of(folder).items()}
    assert len(lines) == 12 * 8  # no images
    for line in lines:
        told, shown = parse(line["prompt"]), scenes[line["path"]]
        right = sum(getattr(told, name) == getattr(shown, name) for name in ("colour", "shape", "motion"))
        assert line["ratings"] == {"TA": pytest.approx(1 + 4 * right / 3)}
        others = ("speed", "texture", "background", "pan")
        assert all(getattr(told, name) == getattr(shown, name) for name in others)
    assert {round(line["ratings"]["TA"]) for line in lines} == {1, 2, 4, 5}
    with pytest.raises(SystemExit):
        matches.main([str(tmp_path)])
    assert "scenes.jsonl: No such file" in capsys.readouterr().err
