"""Captions that begin later than their clips: in seconds in a manifest, in latent frames in batches."""

import collections
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_clips import number_of, write_clips, write_manifest

from lcv_jax import encode
from lcv_jax.data.batches import open_batches
from lcv_jax.data.clips import first_described
from lcv_jax.data.config import DataConfig, TaskShares
from lcv_jax.data.manifest import Entry, read_manifest

TINY = Path(__file__).parents[2] / "tests" / "tiny_checkpoint"
FILES = {"mode": "clips", "sizes": ((9, 16, 16),), "fps": 8.0, "tokenizer": TINY}


@pytest.fixture
def manifest(tmp_path):
    """Clips of 9 frames at 8 a second; of every other one the caption begins with the sixth frame."""
    rows = write_clips(tmp_path, [9] * 6, first=1)
    for row in rows[::2]:
        row["caption_start"] = 0.625
    return write_manifest(tmp_path, rows)


def starts(cfg):
    """The numbers of the clips of some batches, each with where its caption begins."""
    with closing(open_batches(cfg, batch_size=2, seed=0, late_captions=True)) as batches:
        found = {}
        for batch in islice(batches, 6):
            latents = batch.arrays.get("latents_BTHWC", batch.arrays.get("video_BTHWC"))
            assert batch.arrays["caption_start_B"].dtype == np.int32
            found |= zip(map(number_of, latents), batch.arrays["caption_start_B"].tolist(), strict=True)
    return found


def test_seconds_become_the_first_latent_frame_that_is_described_whole():
    for frame, latent in enumerate([0, 1, 2, 2, 2, 2, 3]):  # latent frames are of frames 0; 1 to 4; 5 to 8
        entry = Entry(id="a", path=Path("a.mp4"), caption_start=frame / 8 or None)
        assert first_described(entry, (13, 16, 16), 8.0) == latent
    with pytest.raises(ValueError, match=r"describe it from 1 s on \(caption_start\), and its 9 frames last 1.125 s"):
        first_described(Entry(id="a", path=Path("a.mp4"), caption_start=1.0), (9, 16, 16), 8.0)


def test_batches_tell_where_captions_begin(manifest, stub_networks, tmp_path):
    assert [entry.caption_start for entry in read_manifest(manifest)] == [0.625, None] * 3
    flags = ("--sizes", "9,16,16", "--fps", "8", "--images-from-clips", "1")
    encode.main([str(manifest), "none", str(tmp_path / "out"), *flags])
    wanted = {number: 2 * (number % 2) for number in range(1, 7)}
    assert starts(DataConfig(path=tmp_path / "out", sizes=((9, 16, 16),), max_sequence_length=24)) == wanted
    assert starts(DataConfig(path=manifest, max_sequence_length=24, **FILES)) == wanted
    with closing(open_batches(DataConfig(path=tmp_path / "out"), batch_size=1, seed=0, late_captions=True)) as batches:
        assert batches.num_clips[1, 16, 16] == 3  # the first frame of the others is not described


def data(manifest, out, mode, **fields):
    """Both of the clips as files and encoded."""
    if mode == "clips":
        return DataConfig(path=manifest, max_sequence_length=24, **FILES, **fields)
    encode.main([str(manifest), "none", str(out), "--sizes", "9,16,16", "--fps", "8"])
    return DataConfig(path=out, max_sequence_length=24, **fields)


@pytest.mark.usefixtures("stub_networks")
@pytest.mark.parametrize("mode", ["clips", "encoded"])
@pytest.mark.parametrize("weight_column", [None, "weight"])
def test_elsewhere_what_comes_before_is_the_condition_of_continuation(manifest, tmp_path, mode, weight_column):
    """Clips 1, 3 and 5 have captions of their last latent frame alone; the others serve all tasks."""
    tasks = TaskShares(t2v=0.5, vc=0.5)
    cfg = data(
        manifest, tmp_path / "out", mode, tasks=tasks, condition_latents=((1, 1.0),), weight_column=weight_column
    )
    seen = collections.defaultdict(set)
    with closing(open_batches(cfg, batch_size=2, seed=0)) as batches:
        assert batches.num_clips == {(9, 16, 16): 6}
        assert {(kind.task, kind.num_cond_latents) for kind, _ in batches.kinds} == {("t2v", 0), ("vc", 1), ("vc", 2)}
        for batch in islice(batches, 60):
            clips = batch.arrays["latents_BTHWC" if mode == "encoded" else "video_BTHWC"]
            seen[batch.kind.task, batch.kind.num_cond_latents] |= set(map(number_of, clips))
            assert "caption_start_B" not in batch.arrays
    assert seen == {("t2v", 0): {2, 4, 6}, ("vc", 1): {2, 4, 6}, ("vc", 2): {1, 3, 5}}


@pytest.mark.usefixtures("stub_networks")
@pytest.mark.parametrize("mode", ["clips", "encoded"])
def test_without_continuation_they_are_left_out_and_that_is_told(manifest, tmp_path, mode):
    cfg = data(manifest, tmp_path / "out", mode)
    with pytest.warns(UserWarning, match=r"3 clips are left out: .* and data.tasks.vc is 0"):
        open_batches(cfg, batch_size=1, seed=0).close()


@pytest.mark.usefixtures("stub_networks")
def test_held_out_clips_are_of_both_kinds(manifest, tmp_path):
    cfg = data(manifest, tmp_path / "out", "encoded", tasks=TaskShares(t2v=0.5, vc=0.5), held_out=0.5)
    found = []
    for held_out in (False, True):
        with closing(open_batches(cfg, batch_size=1, seed=0, held_out=held_out)) as batches:
            found.append({number_of(batch.arrays["latents_BTHWC"][0]) for batch in islice(batches, 80)})
    assert found[0] | found[1] == set(range(1, 7))
    assert not found[0] & found[1]


def test_a_caption_that_begins_after_its_clip_is_left_out_with_the_reason(stub_networks, tmp_path, capsys):
    rows = write_clips(tmp_path, [9, 9])
    rows[1]["caption_start"] = 1.0
    encode.main(
        [str(write_manifest(tmp_path, rows)), "none", str(tmp_path / "out"), "--sizes", "9,16,16", "--fps", "8"]
    )
    assert "of 2 clips 1 quarantined" in capsys.readouterr().out
    assert "describe it from 1 s on" in (tmp_path / "out" / "quarantine-0.json").read_text()


def test_likewise_of_clips_as_files(tmp_path):
    rows = write_clips(tmp_path, [9, 9])
    rows[1]["caption_start"] = 1.0
    cfg = DataConfig(path=write_manifest(tmp_path, rows), max_sequence_length=24, **FILES)
    with pytest.warns(UserWarning, match="1 of 2 clips are left out: c1: captions describe it from 1 s on"):
        open_batches(cfg, batch_size=1, seed=0).close()


def test_others_batches_do_not_mention_it(encoded):
    with closing(open_batches(DataConfig(path=encoded, max_sequence_length=24), batch_size=2, seed=0)) as batches:
        assert "caption_start_B" not in next(batches).arrays
