"""Captions that begin later than their clips: in seconds in a manifest, in latent frames in batches."""

from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_clips import number_of, write_clips, write_manifest

from lcv_jax import encode
from lcv_jax.data.batches import open_batches
from lcv_jax.data.clips import first_described
from lcv_jax.data.config import DataConfig
from lcv_jax.data.manifest import Entry, read_manifest

TINY = Path(__file__).parents[2] / "tests" / "tiny_checkpoint"


@pytest.fixture
def manifest(tmp_path):
    """Clips of 9 frames at 8 a second; of every other one the caption begins with the sixth frame."""
    rows = write_clips(tmp_path, [9] * 6, first=1)
    for row in rows[::2]:
        row["caption_start"] = 0.625
    return write_manifest(tmp_path, rows)


def starts(cfg):
    """The numbers of the clips of some batches, each with where its caption begins."""
    with closing(open_batches(cfg, batch_size=2, seed=0)) as batches:
        assert batches.late_captions
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
    files = {"mode": "clips", "sizes": ((9, 16, 16),), "fps": 8.0, "tokenizer": TINY, "max_sequence_length": 24}
    assert starts(DataConfig(path=manifest, **files)) == wanted
    with closing(open_batches(DataConfig(path=tmp_path / "out"), batch_size=1, seed=0)) as batches:
        assert batches.num_clips[1, 16, 16] == 3  # the first frame of the others is not described


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
    files = {"mode": "clips", "sizes": ((9, 16, 16),), "fps": 8.0, "tokenizer": TINY, "max_sequence_length": 24}
    cfg = DataConfig(path=write_manifest(tmp_path, rows), **files)
    with pytest.warns(UserWarning, match="1 of 2 clips are left out: c1: captions describe it from 1 s on"):
        open_batches(cfg, batch_size=1, seed=0).close()


def test_others_batches_do_not_mention_it(encoded):
    with closing(open_batches(DataConfig(path=encoded, max_sequence_length=24), batch_size=2, seed=0)) as batches:
        assert not batches.late_captions
        assert "caption_start_B" not in next(batches).arrays
