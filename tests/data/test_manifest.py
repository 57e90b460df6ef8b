"""Manifests: the three kinds say the same, and every mistake is named with its line."""

import json
import math
import re

import pytest

from lcv_jax.data.manifest import read_captions, read_manifest

ROWS = [
    {"id": "a", "path": "a.mp4", "caption": "a cat, surfing", "weight": 2.5, "fps": 24, "width": 96, "height": 64},
    {"id": "b", "path": "b.mp4", "caption": "42", "start": 1.5, "end": 3, "num_frames": 100, "scene": "beach"},
    {"path": "c.PNG", "caption": "an image"},
]


def write(folder, rows, kind="jsonl"):
    path = folder / f"clips.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif kind == "csv":
        import csv

        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=None), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_entries(tmp_path, kind):
    rows = ROWS if kind != "parquet" else [{**dict.fromkeys({k for r in ROWS for k in r}), **row} for row in ROWS]
    first, second, image = read_manifest(write(tmp_path, rows, kind))
    assert (first.id, first.path, first.captions) == ("a", tmp_path / "a.mp4", ("a cat, surfing",))
    assert (first.fps, first.width, first.height, first.num_frames) == (24, 96, 64, None)
    assert first.numbers == {"weight": 2.5}
    assert second.captions == ("42",)
    assert (second.start, second.end, second.num_frames, second.numbers) == (1.5, 3.0, 100, {})
    assert image.id == "c.PNG"
    assert image.is_image
    assert not first.is_image
    assert (image.start, image.end, image.fps) == (0.0, None, None)


def test_several_captions_and_none(tmp_path):
    path = write(tmp_path, [{"path": "a.mp4", "captions": ["one", "two"]}])
    assert read_manifest(path)[0].captions == ("one", "two")
    path = write(tmp_path, [{"path": "a.mp4"}])
    assert read_manifest(path, captions=False)[0].captions == ()


GOOD = {"path": "a.mp4", "caption": "a"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "x.mp4"}, "line 3: caption is missing"),
        ({"path": "x.mp4", "caption": " "}, "line 3: a caption is empty"),
        ({"path": "x.mp4", "caption": 7}, "line 3: caption must be a text, got 7"),
        ({"path": "x.mp4", "captions": "one"}, "line 3: captions must be a list of texts, got 'one'"),
        ({"path": "x.mp4", "caption": "a", "captions": ["a"]}, "line 3: give caption or captions"),
        ({"caption": "a"}, "line 3: path is missing"),
        ({"path": ["x"], "caption": "a"}, "line 3: path must be a text"),
        ({"path": "x.mp4", "caption": "a", "id": 1.5}, "line 3: id must be a text or a whole number, got 1.5"),
        ({"path": "x.mp4", "caption": "a", "fps": "fast"}, "line 3: fps must be a number, above 0, got 'fast'"),
        ({"path": "x.mp4", "caption": "a", "fps": 0}, "line 3: fps must be above 0, got 0"),
        ({"path": "x.mp4", "caption": "a", "width": 4.5}, "line 3: width must be a whole number, at least 1, got 4.5"),
        ({"path": "x.mp4", "caption": "a", "start": -1}, "line 3: start must be at least 0, got -1"),
        ({"path": "x.mp4", "caption": "a", "start": 2, "end": 2}, "line 3: end must lie after start"),
        ({"path": "b.mp4", "caption": "b"}, "line 3: the id 'b.mp4' is that of line 2 too; ids must differ"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, message):
    path = write(tmp_path, [GOOD, {**GOOD, "path": "b.mp4"}, row])
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def test_several_wrong_lines_are_told_at_once(tmp_path):
    path = write(tmp_path, [{"path": f"{number}.mp4"} for number in range(8)])
    with pytest.raises(ValueError, match=r"line 1: .*line 5: caption is missing; the columns are path; and 3 more$"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jsonl", "", "holds no clips"),
        ("m.jsonl", '{"path": "a.mp4", "caption": "a"}\n{"path"', "m.jsonl, line 2: not JSON"),
        ("m.jsonl", "[1]", "line 1: expected an object"),
        ("m.csv", "path,caption\na.mp4,one\nb.mp4\n", "m.csv, line 3: expected 2 cells"),
        ("m.csv", "path,caption,fps\na.mp4,one,quick\n", "line 2: fps must be a number, above 0, got 'quick'"),
        ("m.csv", "path,caption\n", "holds no clips"),
        ("m.txt", "", "a manifest is .jsonl, .csv or .parquet"),
    ],
)
def test_a_wrong_file(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / name)


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; a manifest is a \.jsonl, .* that lists clips"):
        read_manifest(tmp_path)
    with pytest.raises(OSError, match="no such manifest"):
        read_manifest(tmp_path / "m.jsonl")


def test_a_parquet_file_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "m.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a Parquet file"):
        read_manifest(tmp_path / "m.parquet")
    path = write(tmp_path, [{"path": "a.mp4", "caption": "a", "fps": "x"}], "parquet")
    with pytest.raises(ValueError, match="row 1: fps must be a number"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "path,caption\na.mp4,a café\n".encode("utf-16"), "the encoding is UTF-16; save the file as UTF-8"),
        ("m.csv", "path,caption\na.mp4,a\nb.mp4,café\n".encode("cp1252"), "m.csv, line 3: not UTF-8 (byte 0xe9)"),
        ("m.jsonl", '{"path": "a.mp4", "caption": "café"}\n'.encode("cp1252"), "m.jsonl, line 1: not UTF-8"),
        ("m.csv", b"path;caption\na.mp4;one\n", "m.csv, line 1: cells are separated by semicolons, expected commas"),
        ("m.csv", b"path\tcaption\na.mp4\tone\n", "m.csv, line 1: cells are separated by tabs, expected commas"),
        ("m.csv", b"video,prompt\na.mp4,one\n", "path is missing; the columns are video, prompt; rename video to path"),
        (
            "m.csv",
            b"path,prompt\na.mp4,one\n",
            "line 2: caption is missing; the columns are path, prompt; rename prompt",
        ),
        ("m.jsonl", b'{"path": "a.mp4", "text": "a"}\n', "columns are path, text; rename text to caption"),
        ("m.jsonl", b'{"path": "a.mp4", "caption": "\\ud800"}\n', "line 1: holds half a surrogate pair"),
        (
            "m.jsonl",
            b'{"path": "a\\u0000.mp4", "caption": "a"}\n',
            "line 1: path must be a file name, got 'a\\x00.mp4'",
        ),
        ("m.jsonl", b"[" * 100_000 + b"\n", "m.jsonl, line 1: nested too deeply"),
        (
            "m.jsonl",
            b'{"path": "a.mp4", "caption": "a", "width": 1e300}\n',
            "width must be above 0 and finite, got 1e+300",
        ),
        (
            "m.jsonl",
            b'{"path": "a.mp4", "caption": "a", "fps": NaN}\n',
            "line 1: fps must be above 0 and finite, got nan",
        ),
        (
            "m.jsonl",
            b'{"path": "a.mp4", "caption": "a", "fps": 1' + b"0" * 400 + b"}\n",
            "fps must be above 0 and finite",
        ),
        ("c.txt", "a café\n".encode("cp1252"), "c.txt, line 1: not UTF-8"),
    ],
)
def test_encodings_separators_and_columns_are_explained(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_captions(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "c.txt"])
def test_a_byte_order_mark_is_ignored(tmp_path, name):
    content = {"m.csv": "path,caption\na.mp4,é\n", "m.jsonl": '{"path": "a.mp4", "caption": "é"}\n', "c.txt": "é\n"}
    (tmp_path / name).write_bytes(content[name].encode("utf-8-sig"))
    assert read_captions(tmp_path / name) == ["é"]


def test_a_quoted_cell_may_hold_lines_and_commas(tmp_path):
    (tmp_path / "m.csv").write_bytes(b'path,caption\r\na.mp4,"a ""big"" circle,\nthen it grows"\r\n')
    assert read_captions(tmp_path / "m.csv") == ['a "big" circle,\nthen it grows']


def test_a_number_too_large_for_a_float_is_no_weight(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"path": "a.mp4", "caption": "a", "weight": 1' + "0" * 400 + "}\n")
    assert read_manifest(tmp_path / "m.jsonl")[0].numbers == {"weight": math.inf}
