"""Captions: cleaning by example, the published token ids, the window, bad folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.data.captions import clean, load_tokenizer

FOLDER = Path(__file__).parents[2] / "tests" / "tiny_checkpoint" / "tokenizer"
# What the published pipeline makes of these two, in a window of 64.
GOLDEN = {
    "A skater ollies over a neon-lit urban staircase, slow-motion capture of wheels mid-air": (
        "47 3 4 51 101 16 163 19 164 52 286 14 383 86 26 164 9 3 198 48 58 3 66 10 220 39 10 93 5 3 4 200 26 "
        "22 17 127 544 3 24 121 8 19 4 229 12 13 26 10 220 1"
    ),
    "The woman picks up the glass of milk and takes a sip.": (
        "45 292 180 87 120 51 4 288 7 192 19 10 4 4 3 24 229 152 51 3 15 111 10 51 52 14 3 4 12 20 6 1"
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(FOLDER)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  a \t cat\n\nsits \u3000 here ", "a cat sits here"),
        ("1 < 2 &amp;amp; 3", "1 < 2 & 3"),  # ftfy leaves entities alone beside a "<"
        ("schÃ¶n, itâ€™s", "schön, it's"),
        ("一只猫", "一只猫"),
        (" \n ", ""),
    ],
)
def test_clean(raw, cleaned):
    assert clean(raw) == cleaned


def test_published_ids(tokenizer):
    ids_BL, mask_BL = tokenizer.tokenize(list(GOLDEN), max_length=64)
    assert ids_BL.shape == mask_BL.shape == (2, 64)
    assert ids_BL.dtype == mask_BL.dtype == np.int32
    for row, numbers in enumerate(GOLDEN.values()):
        wanted = [int(number) for number in numbers.split()]
        assert ids_BL[row].tolist() == wanted + [0] * (64 - len(wanted))
        assert mask_BL[row].tolist() == [1] * len(wanted) + [0] * (64 - len(wanted))


def test_captions_are_cleaned_first(tokenizer):
    messy, _ = tokenizer.tokenize(["the  cat &amp;amp; dog\n"], 20)
    tidy, _ = tokenizer.tokenize(["the cat & dog"], 20)
    assert (messy == tidy).all()


def test_an_empty_caption_is_the_end_of_sequence(tokenizer):
    ids_BL, mask_BL = tokenizer.tokenize([""], 5)
    assert ids_BL.tolist() == [[1, 0, 0, 0, 0]]
    assert mask_BL.tolist() == [[1, 0, 0, 0, 0]]


def test_a_long_caption_is_cut_and_the_cut_is_shown(tokenizer):
    caption = "the cat sits on the warm stone wall"
    whole, mask = tokenizer.tokenize([caption], 64)
    used = int(mask.sum())
    with pytest.warns(UserWarning, match="does not fit into 15 tokens") as caught:
        ids_BL, mask_BL = tokenizer.tokenize([caption], used - 4)
    assert ids_BL[0, :-1].tolist() == whole[0, : used - 5].tolist()
    assert ids_BL[0, -1] == 1, "the end of the sequence is kept"
    assert mask_BL.all()
    # Its pieces end in: w a r m sto n e w all </s>.
    assert str(caught[0].message).endswith(
        'is cut after "the cat sits on the warm sto" and loses "ne wall"; a larger max_sequence_length keeps it'
    )
    ids_BL, _ = tokenizer.tokenize([caption], used)  # fits exactly: no warning, which would be an error here
    assert ids_BL[0].tolist() == whole[0, :used].tolist()


@pytest.mark.parametrize(("captions", "length"), [("one string", 8), (["a"], 1), (["a"], 0)])
def test_bad_arguments(tokenizer, captions, length):
    with pytest.raises(ValueError, match=r"captions must be a list|max_length"):
        tokenizer.tokenize(captions, length)


def test_a_window_saved_with_the_tokenizer_is_ignored(tokenizer, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "t")
    saved = json.loads((tmp_path / "t" / "tokenizer.json").read_text())
    saved["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "t" / "tokenizer.json").write_text(json.dumps(saved))
    caption = ["the cat sits on the warm stone wall"]
    assert (load_tokenizer(tmp_path / "t").tokenize(caption, 64)[0] == tokenizer.tokenize(caption, 64)[0]).all()


def test_bad_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer here, wanted tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a readable tokenizer"):
        load_tokenizer(tmp_path)
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: "):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"content": "[NONE]"}}')
    with pytest.raises(ValueError, match=r"no padding token '\[NONE\]'"):
        load_tokenizer(tmp_path)


def test_an_older_format_goes_through_transformers(tmp_path, caplog, capfd):
    vocabulary = ["<pad>", "a", "b", "ab"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "pad_token": "<pad>"}')
    ids_BL, mask_BL = load_tokenizer(tmp_path).tokenize(["aba"], 4)
    assert ids_BL.tolist() == [[3, 1, 0, 0]]
    assert mask_BL.tolist() == [[1, 1, 0, 0]]
    assert not caplog.text
    assert not "".join(capfd.readouterr())
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(ValueError, match="transformers cannot read this tokenizer"):
        load_tokenizer(tmp_path)


def test_reading_the_released_layout_does_not_import_transformers():
    code = f"""
import sys
from lcv_jax.data.captions import load_tokenizer
load_tokenizer({str(FOLDER)!r}).tokenize(["a cat"], 8)
assert not {{"transformers", "torch", "av", "PIL"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parents[2])
    assert done.returncode == 0, done.stderr
    assert not done.stdout + done.stderr
