"""Batches: pure functions of (seed, step), whoever reads them; shares, epochs, weights, conditions; bad input."""

import collections
import dataclasses
import json
import shutil
import warnings
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_clips import STEP, number_of, write_clips, write_manifest

from lcv_jax.data.batches import BatchKind, open_batches
from lcv_jax.data.captions import load_tokenizer
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.data.plans import CHUNK, Choice, Plans

ALL = TaskShares(t2i=1.0, t2v=2.0, i2v=1.0, vc=1.0, refine=1.0)
TINY = Path(__file__).parents[2] / "tests" / "tiny_checkpoint"


def config(path, **fields):
    return DataConfig(**{"path": path, "max_sequence_length": 24, "condition_latents": ((1, 1.0),), **fields})


def read(cfg, count, batch_size=4, seed=0, **process):
    with closing(open_batches(cfg, batch_size=batch_size, seed=seed, **process)) as batches:
        return list(islice(batches, count))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.kind == other.kind
        assert list(one.arrays) == list(other.arrays)
        for name, array in one.arrays.items():
            assert array.dtype == other.arrays[name].dtype
            np.testing.assert_array_equal(array, other.arrays[name])


def test_arrays_of_every_task(encoded):
    batches = read(config(encoded, tasks=ALL), 60)
    seen = {batch.kind.task: batch for batch in batches}
    assert set(seen) == {"t2i", "t2v", "i2v", "vc", "refine"}
    for task, batch in seen.items():
        arrays = batch.arrays
        shape = arrays["latents_BTHWC"].shape
        assert shape in ([(4, 1, 2, 2, 3), (4, 1, 2, 4, 3)] if task == "t2i" else [(4, 2, 2, 2, 3), (4, 3, 2, 4, 3)])
        assert arrays["latents_BTHWC"].dtype == np.float32
        assert arrays["text_BLD"].shape == (4, 24, 6)
        assert arrays["text_BLD"].dtype.name == "bfloat16"
        assert arrays["text_mask_BL"].dtype == bool
        assert ("upsampled_BTHWC" in arrays) == (task == "refine")
        assert batch.kind.num_cond_latents == (1 if task in ("i2v", "vc") else 0)
    refined = seen["refine"].arrays
    assert refined["upsampled_BTHWC"].shape == refined["latents_BTHWC"].shape
    for row in range(4):
        assert abs(number_of(refined["upsampled_BTHWC"][row]) - number_of(refined["latents_BTHWC"][row])) <= 1


def test_captions_belong_to_their_clips_and_are_dropped_at_the_share_asked_for(encoded):
    dropped = total = 0
    for batch in read(config(encoded, caption_dropout=0.25), 150):
        for row in range(4):
            length = int(batch.arrays["text_mask_BL"][row].sum())
            number = number_of(batch.arrays["latents_BTHWC"][row])
            text_LD = batch.arrays["text_BLD"][row].astype(np.float32)
            assert not text_LD[length:].any()
            if length == 1:
                dropped += 1
                assert not text_LD.any()  # the stub's embedding of nothing
            else:
                assert length == number + 2
                assert (text_LD[:length] == np.float32(len("word " * number + "end"))).all()
            total += 1
    assert abs(dropped / total - 0.25) < 0.06


def test_an_epoch_has_every_clip_once(encoded):
    """13 clips in batches of 4: an epoch ends inside a batch."""
    batches = read(config(encoded, sizes=((5, 16, 16),)), 13)
    numbers = [number_of(latents) for batch in batches for latents in batch.arrays["latents_BTHWC"]]
    epochs = [numbers[start : start + 13] for start in range(0, 52, 13)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_epochs_of_buckets_that_take_turns(encoded):
    numbers = collections.defaultdict(list)
    for batch in read(config(encoded), 60):
        shape = batch.arrays["latents_BTHWC"].shape[1:]
        numbers[shape] += [number_of(latents) for latents in batch.arrays["latents_BTHWC"]]
    assert len(numbers) == 2
    for count, seen in zip((13, 7), (numbers[2, 2, 2, 3], numbers[3, 2, 4, 3]), strict=True):
        # As often as there are clips.
        assert abs(len(seen) / 240 - count / 20) < 0.15
        for start in range(0, len(seen) - count, count):
            assert len(set(seen[start : start + count])) == count


def plans(**fields):
    choices = [Choice("t2v", 0, 0), Choice("vc", 1, 0), Choice("vc", 2, 1), Choice("t2i", 0, 2)]
    given = {"weights": None, "batch_size": 8, "seed": 3, **fields}
    return Plans(choices, [0.5, 0.125, 0.125, 0.25], [100, 50, 7], **given)


def test_steps_can_be_asked_for_in_any_order():
    steps = np.random.default_rng(0).permutation(3 * CHUNK)
    in_order, at_random = plans(), plans()
    wanted = {step: (in_order.choice(step), in_order.records(step)) for step in range(3 * CHUNK)}
    for step in map(int, steps[::3]):
        assert at_random.choice(step) == wanted[step][0]
        np.testing.assert_array_equal(at_random.records(step), wanted[step][1])
    far = plans().records(1_000_000)  # from nothing
    assert len(far) == 8


def test_shares_of_choices():
    made = plans()
    counts = collections.Counter(made.choice(step) for step in range(8000))
    for choice, share in zip(made.choices, [0.5, 0.125, 0.125, 0.25], strict=True):
        assert abs(counts[choice] / 8000 - share) < 0.02
    others = [plans(seed=4).choice(step) for step in range(50)]
    assert others != [made.choice(step) for step in range(50)]


def test_weights_are_drawn_in_proportion():
    weights = [np.array([0.0, 1, 2, 5]), np.ones(1), np.ones(1)]
    made = Plans([Choice("t2v", 0, 0)], [1.0], [4, 1, 1], weights, 8, 0)
    counts = np.bincount(np.concatenate([made.records(step) for step in range(1000)]), minlength=4)
    np.testing.assert_allclose(counts / 8000, weights[0] / 8, atol=0.02)
    assert counts[0] == 0


def test_a_weight_column(encoded):
    """Weights are the clips' numbers: buckets and clips in them come in proportion."""
    batches = read(config(encoded, weight_column="weight"), 300, batch_size=2)
    numbers = [number_of(latents) for batch in batches for latents in batch.arrays["latents_BTHWC"]]
    shares = np.bincount(numbers, minlength=20) / len(numbers)
    np.testing.assert_allclose(shares, np.arange(20) / 190, atol=0.04)


def test_lengths_of_conditions(encoded):
    cfg = config(encoded, tasks=TaskShares(t2v=0.0, vc=1.0), condition_latents=((1, 3.0), (2, 1.0), (9, 5.0)))
    counts = collections.Counter(
        (batch.arrays["latents_BTHWC"].shape[1], batch.kind.num_cond_latents) for batch in read(cfg, 200, batch_size=1)
    )
    # Two latent frames leave room for one of condition only; none has room for nine.
    assert set(counts) == {(2, 1), (3, 1), (3, 2)}
    assert abs(counts[3, 1] / (counts[3, 1] + counts[3, 2]) - 0.75) < 0.15


def test_processes_make_parts_of_one_batch(encoded):
    cfg = config(encoded, tasks=ALL)
    whole = read(cfg, 12, batch_size=6)
    parts = [read(cfg, 12, batch_size=6, process_index=index, process_count=3) for index in range(3)]
    for step, batch in enumerate(whole):
        assert {part[step].kind for part in parts} == {batch.kind}
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(np.concatenate([part[step].arrays[name] for part in parts]), array)


def test_threads_and_workers_change_nothing(encoded):
    cfg = config(encoded, tasks=ALL)
    alone = read(dataclasses.replace(cfg, threads=0), 12)
    assert_same(alone, read(dataclasses.replace(cfg, threads=3), 12))
    assert_same(alone, read(dataclasses.replace(cfg, workers=2, threads=1), 12))


def test_resuming(encoded):
    cfg = config(encoded, tasks=ALL)
    with closing(open_batches(cfg, batch_size=4, seed=0)) as first:
        list(islice(first, 5))
        state = json.loads(json.dumps(first.get_state()))
        wanted = list(islice(first, 6))
    with closing(open_batches(dataclasses.replace(cfg, threads=0), batch_size=4, seed=0)) as second:
        next(second)
        second.set_state(state)
        assert second.get_state() == state
        assert_same(wanted, list(islice(second, 6)))


@pytest.mark.parametrize("name", ["seed", "batch_size"])
def test_resuming_something_else_is_refused(encoded, name):
    given = {"batch_size": 4, "seed": 0}
    state = open_batches(config(encoded), **given).get_state()
    with pytest.raises(ValueError, match=f"the run to resume had {name} = {given[name]}, this one has 2"):
        open_batches(config(encoded), **{**given, name: 2}).set_state(state)


def test_constants_and_what_can_come(encoded):
    with closing(open_batches(config(encoded, tasks=ALL), batch_size=4, seed=0)) as batches:
        assert batches.constants["negative_text_1LD"].shape == (1, 24, 6)
        assert batches.constants["negative_mask_1L"].sum() == 4  # three words and the end
        assert batches.num_clips == {(1, 16, 16): 13, (1, 16, 32): 7, (5, 16, 16): 13, (9, 16, 32): 7}
        assert (BatchKind("vc", 1), (5, 16, 16)) in batches.kinds
        assert len(batches.kinds) == 10


def test_a_bucket_smaller_than_a_batch_repeats_and_says_so_once(encoded):
    cfg = config(encoded, sizes=((9, 16, 32),))
    with pytest.warns(UserWarning, match=r"fewer clips than the 16 of a batch, .*: 9x16x32 \(7\)") as caught:
        (batch,) = read(cfg, 1, batch_size=16)
    assert len(caught) == 1
    numbers = collections.Counter(map(number_of, batch.arrays["latents_BTHWC"]))
    assert set(numbers) == set(range(13, 20))
    assert set(numbers.values()) == {2, 3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": ((17, 16, 16),)}, r"has no clips of 17x16x16; it has .*5x16x16 \(13 clips\)"),
        ({"tasks": TaskShares(t2i=1.0), "sizes": ((5, 16, 16),)}, "the task t2i has a share.*--images-from-clips"),
        ({"tasks": TaskShares(vc=1.0), "condition_latents": ((4, 1.0),)}, r"the task vc .* condition_latents = \[4\]"),
        ({"max_sequence_length": 20}, "captions of 21 tokens: max_sequence_length must be at least that, got 20"),
        ({"weight_column": "quality"}, "weight_column 'quality' is not given for .* numbers of the manifest: weight"),
    ],
)
def test_what_the_folder_has_not(encoded, fields, message):
    with pytest.raises(ValueError, match=message):
        open_batches(config(encoded, **fields), batch_size=2, seed=0)


@pytest.mark.parametrize(
    ("batch_size", "count", "works"), [(6, 4, "take 4 or 8"), (3, 8, "take 8"), (0, 1, "take 1"), (9, 2, "8 or 10")]
)
def test_batches_that_processes_cannot_share(encoded, batch_size, count, works):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} cannot be shared by {count} processes: .*{works}"):
        open_batches(config(encoded), batch_size=batch_size, seed=0, process_count=count)


def test_folders_that_are_not_encoded(encoded, tmp_path):
    for path, message in (
        (tmp_path / "none", "no such folder"),
        (tmp_path, "holds no encoded clips"),
    ):
        with pytest.raises(ValueError, match=message):
            open_batches(config(path), batch_size=2, seed=0)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(encoded, unfinished)
    (unfinished / "index.json").unlink()
    with pytest.raises(ValueError, match="not encoded to its end: run the same"):
        open_batches(config(unfinished), batch_size=2, seed=0)
    (unfinished / "index.json").write_text('{"format": "lcv_jax encoded clips", "version": 0}')
    with pytest.raises(ValueError, match="got lcv_jax encoded clips 0, wanted lcv_jax encoded clips 1"):
        open_batches(config(unfinished), batch_size=2, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": ((16, 64, 64),)}, "multiple of 4 plus 1 frames, got 16; nearest is 17"),
        ({"sizes": ((17, 0, 64),)}, "must lie in 1..16384, got 0"),
        ({"caption_dropout": 1.5}, "caption_dropout must lie in 0..1"),
        ({"fps": 0.0}, "fps must be above 0"),
        ({"workers": -1}, "workers must lie in 0"),
        ({"resolutions": ("480p",)}, "encoded data have their sizes"),
        ({"mode": "clips"}, "the mode 'clips' needs sizes"),
        ({"mode": "clips", "resolutions": ("1080p",)}, "resolutions must be of 480p, 720p; got '1080p'"),
        ({"condition_latents": ()}, "condition_latents must be lengths of at least 1"),
        ({"condition_latents": ((0, 1.0),)}, "condition_latents must be lengths of at least 1"),
        ({"max_sequence_length": 1}, "max_sequence_length must lie in 2"),
    ],
)
def test_bad_configs(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**{"path": tmp_path, **fields})


@pytest.mark.parametrize("shares", [{"t2v": 0.0}, {"t2v": 1.0, "t2i": -1.0}])
def test_bad_shares(shares):
    with pytest.raises(ValueError, match="at least 0"):
        TaskShares(**shares)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Nine clips, one image, one clip that is too short, one that is none."""
    folder = tmp_path_factory.mktemp("clips")
    rows = write_clips(folder, [10] * 9) + write_clips(folder, [1, 3], first=9)
    (folder / "none.mp4").write_bytes(b"none")
    rows.append({"id": "none", "path": "none.mp4", "caption": "none", "weight": 1})
    return write_manifest(folder, rows)


def clips(manifest, **fields):
    given = {"mode": "clips", "sizes": ((5, 16, 16), (9, 16, 16)), "fps": 8.0, "tokenizer": TINY, "refine": ("8,8,4",)}
    given["max_sequence_length"] = 64
    return config(manifest, **{**given, **fields})


def read_quietly(*arguments, **fields):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return read(*arguments, **fields)


def test_clips_as_files(manifest):
    cfg = clips(manifest, tasks=ALL, images_from_clips=True)
    with pytest.warns(UserWarning, match="2 of 12 clips are left out: none: .*; c10: too short: 3 frames, the"):
        batches = open_batches(cfg, batch_size=4, seed=0)
    assert set(batches.quarantined) == {"c10", "none"}
    assert "none.mp4: cannot be read as a video" in batches.quarantined["none"]
    assert batches.num_clips == {(1, 16, 16): 10, (9, 16, 16): 9}
    tokenizer = load_tokenizer(TINY / "tokenizer")
    seen = {}
    with closing(batches):
        for batch in islice(batches, 40):
            seen[batch.kind.task] = batch
            for row, video in enumerate(batch.arrays["video_BTHWC"]):
                caption = "word " * number_of(video) + "end"
                ids, _ = tokenizer.tokenize([caption], 64)
                empty, _ = tokenizer.tokenize([""], 64)
                got = batch.arrays["ids_BL"][row].tolist()
                assert got in (ids[0].tolist(), empty[0].tolist())
        assert batches.constants["negative_ids_1L"].tolist() == empty.tolist()
    assert set(seen) == {"t2i", "t2v", "i2v", "vc", "refine"}
    assert seen["t2i"].arrays["video_BTHWC"].shape == (4, 1, 16, 16, 3)
    refined = seen["refine"].arrays
    assert refined["video_BTHWC"].shape == refined["upsampled_video_BTHWC"].shape == (4, 9, 16, 16, 3)
    assert refined["upsampled_video_BTHWC"].dtype == np.uint8
    np.testing.assert_allclose(
        refined["upsampled_video_BTHWC"].mean((1, 2, 3, 4)), refined["video_BTHWC"].mean((1, 2, 3, 4)), atol=4
    )


def test_a_clip_that_breaks_in_the_middle_of_a_run_is_replaced(tmp_path):
    rows = write_clips(tmp_path, [5] * 6)
    manifest = write_manifest(tmp_path, rows)
    cfg = clips(manifest, sizes=((5, 16, 16),))
    whole = read(cfg, 6, batch_size=3)
    with (
        closing(open_batches(cfg, batch_size=3, seed=0)) as first,
        closing(open_batches(dataclasses.replace(cfg, threads=0), batch_size=3, seed=0)) as second,
    ):
        (tmp_path / "2.mp4").write_bytes(b"gone bad")
        batches = list(islice(first, 6))
        assert_same(batches, list(islice(second, 6)))
        assert list(first.quarantined) == list(first.get_state()["quarantined"]) == ["c2"]
        assert "2.mp4: cannot be read as a video" in first.quarantined["c2"]
    for batch, before in zip(batches, whole, strict=True):
        numbers = [number_of(video) for video in batch.arrays["video_BTHWC"]]
        assert 2 not in numbers
        for number, old in zip(numbers, map(number_of, before.arrays["video_BTHWC"]), strict=True):
            assert number == old or old == 2


def test_when_no_clip_can_be_read_any_more(tmp_path):
    cfg = clips(write_manifest(tmp_path, write_clips(tmp_path, [5] * 3)), sizes=((5, 16, 16),), threads=0)
    with closing(open_batches(cfg, batch_size=3, seed=0)) as batches:
        for number in range(3):
            (tmp_path / f"{number}.mp4").unlink()
        with pytest.raises(ValueError, match="hardly a clip of the bucket 5x16x16 can be read any more"):
            next(batches)


def test_files_are_functions_of_seed_and_step_too(manifest):
    cfg = clips(manifest, tasks=ALL, images_from_clips=True)
    whole = read_quietly(cfg, 6)
    assert_same(whole, read_quietly(dataclasses.replace(cfg, workers=1), 6))
    parts = [read_quietly(cfg, 6, process_index=index, process_count=2) for index in range(2)]
    for step, batch in enumerate(whole):
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(np.concatenate([part[step].arrays[name] for part in parts]), array)


def test_crops_for_an_autoencoder(tmp_path):
    """Frames in a row, from a moment and a place that are drawn: brightness tells the moment, a ramp the place."""
    from lcv_jax.data.media_writer import VideoWriter

    ramp_HW = (np.arange(48)[:, None] + np.arange(64)[None]).astype(np.uint8)
    with VideoWriter(tmp_path / "a.mkv", fps=8, height=48, width=64, codec="ffv1", crf=None) as video:
        for number in range(20):
            video.write(np.repeat((ramp_HW + STEP // 3 * number)[None, ..., None], 3, 3))
    manifest = write_manifest(tmp_path, [{"path": "a.mkv"}])
    cfg = config(manifest, mode="autoencoder", sizes=((5, 16, 24), (9, 96, 32)), fps=8.0)
    with pytest.warns(UserWarning, match="fewer clips than the 4"):
        batches = read(cfg, 12)
    shapes = {batch.arrays["video_BTHWC"].shape for batch in batches}
    assert shapes == {(4, 5, 16, 24, 3), (4, 9, 96, 32, 3)}
    corners = set()
    for batch in batches:
        assert batch.kind == BatchKind("autoencoder", 0)
        assert list(batch.arrays) == ["video_BTHWC"]
        for video in batch.arrays["video_BTHWC"].astype(float):
            assert abs(np.diff(video.mean((1, 2, 3))) - STEP // 3).max() < 1
            if video.shape[1] == 16:
                assert abs(np.diff(video, axis=2).mean() - 1) < 0.1  # not resized
                corners.add(round(float(video.mean())))
    assert len(corners) > 8


def test_crops_tell_whose_latents_are_to_stay(tmp_path):
    """By the clip that each is of, also where another stands in for one that cannot be read."""
    known = {"width": 16, "height": 16, "num_frames": 9, "fps": 8}  # so that no file is opened before it is read
    rows = [{**row, **known, "known": number % 2} for number, row in enumerate(write_clips(tmp_path, [9] * 6))]
    (tmp_path / rows[0]["path"]).write_bytes(b"bad")
    cfg = config(write_manifest(tmp_path, rows), mode="autoencoder", sizes=((5, 16, 16),), fps=8.0, keep_column="known")
    for batch in read_quietly(cfg, 6):
        shown = [number_of(video) for video in batch.arrays["video_BTHWC"]]
        np.testing.assert_array_equal(batch.arrays["keep_B"], [number % 2 for number in shown])
    for value, message in (
        (0, "must be 1 for some clips and 0"),
        (2, "must be 1 for some"),
        (None, "is not given for"),
    ):
        write_manifest(tmp_path, [{**row, "known": value} for row in rows])
        with pytest.raises(ValueError, match=f"keep_column 'known' {message}"):
            open_batches(cfg, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="keep_column is of the mode 'autoencoder', got 'encoded'"):
        config(tmp_path, keep_column="known")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": ((17, 16, 16),), "weight_column": None}, "all clips are too short: the longest, c.*, has 10 frames"),
        ({"weight_column": "quality"}, "weight_column 'quality' is not given for 9 clips"),
        ({"tokenizer": None}, "needs data.tokenizer"),
        ({"fps": 12.0}, "clips of 5 frames at 12 a second cannot be had from 8 a second"),
    ],
)
def test_what_a_manifest_has_not(tmp_path, fields, message):
    path = write_manifest(tmp_path, write_clips(tmp_path, [10] * 9))
    if fields.get("fps"):
        fields = {**fields, "refine": ("8,8,8",)}
    with pytest.raises(ValueError, match=message):
        open_batches(clips(path, **fields), batch_size=2, seed=0)


def test_captions_that_are_cut_are_told_of_once(tmp_path):
    cfg = clips(write_manifest(tmp_path, write_clips(tmp_path, [9] * 9)), max_sequence_length=12, tasks=TaskShares())
    with pytest.warns(
        UserWarning, match=r"5 captions are cut; of the first, the caption does not fit into 12 .*end"
    ) as w:
        (batch,) = read(cfg, 1)
    assert len(w) == 1
    assert batch.arrays["ids_BL"].shape == (4, 12)


def test_no_clip_can_be_read(tmp_path):
    rows = [{"id": str(number), "path": f"{number}.mp4", "caption": "a"} for number in range(3)]
    with pytest.raises(ValueError, match="no clip can be read: 3 are quarantined, such as 0: .*No such file"):
        open_batches(clips(write_manifest(tmp_path, rows)), batch_size=2, seed=0)
