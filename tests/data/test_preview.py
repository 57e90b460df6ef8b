"""What encoding says of a data set: round trips, unknown words, clips that are too short."""

import numpy as np
import pytest
from small_clips import write_clips, write_manifest

from lcv_jax import encode
from lcv_jax.data.captions import load_tokenizer
from lcv_jax.data.media_reader import read_image
from lcv_jax.data.preview import beside, decibels, poor_round_trips, too_short_clips, unknown_words
from lcv_jax.toy.start import write_tokenizer


def test_decibels():
    clip = np.full((2, 8, 8, 3), 100, np.uint8)
    assert decibels(clip, clip + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert decibels(clip, clip) == np.inf


def test_a_poor_round_trip_is_named_with_its_decibels():
    told = poor_round_trips({"good": 30.0, "poor": 15.96, "worse": 12.04}, "weights", "out/preview.png")
    assert "weights reproduces 2 of 3 previewed clips badly: worse at 12.0 dB, expected at least 22" in told
    assert "out/preview.png" in told
    assert poor_round_trips({"good": 30.0}, "weights", "x") is None


def test_unknown_words_are_counted(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    told = unknown_words(*tokenizer.unknown(["a red circle", "a cat surfs", "一只猫"]), "weights")
    assert "the tokenizer of weights does not know 43% of the captions' words, such as cat, surfs, 一只猫" in told
    assert unknown_words(*tokenizer.unknown(["a red circle moves to the left", ""]), "weights") is None


def test_what_a_clip_would_need():
    told = too_short_clips([[(17, 64, 64), (33, 64, 64)]], {"a": 12, "b": 9}, 8.0)
    assert "2 clips are too short" in told
    assert "a, has 12 frames at 8 per second (1.50 s); the shortest bucket needs 17 (2.12 s)" in told


def test_large_frames_are_made_smaller():
    assert beside(*np.zeros((2, 3, 480, 832, 3), np.uint8)).shape == (3, 192, 2 * 333, 3)


@pytest.mark.usefixtures("stub_networks")
def test_encoding_writes_a_preview_and_warns(tmp_path, capsys):
    manifest = write_manifest(tmp_path, write_clips(tmp_path, [6, 6, 3]))
    encode.main([str(manifest), "none", str(tmp_path / "out"), "--sizes", "5,16,16", "--fps", "8", "--preview", "1"])
    err = capsys.readouterr().err
    picture = read_image(tmp_path / "out" / "preview.png")
    assert picture.shape[0] > 16
    assert picture.shape[1] == 3 * 2 * 16
    assert "preview.png: c0 " in err
    assert "c2, has 3 frames at 8 per second (0.38 s); the shortest bucket needs 5 (0.62 s)" in err
