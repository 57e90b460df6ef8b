"""Manifests: the three kinds say the same, and every mistake is named with its line."""

import json

import pytest

from lcv_jax.data.manifest import read_manifest

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
        ({"path": "x.mp4", "caption": "a", "fps": "fast"}, "line 3: fps must be a number, got 'fast'"),
        ({"path": "x.mp4", "caption": "a", "fps": 0}, "line 3: fps must be above 0, got 0"),
        ({"path": "x.mp4", "caption": "a", "width": 4.5}, "line 3: width must be a whole number, got 4.5"),
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
    with pytest.raises(ValueError, match=r"line 1: .*line 5: caption is missing; and 3 more$"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jsonl", "", "holds no clips"),
        ("m.jsonl", '{"path": "a.mp4", "caption": "a"}\n{"path"', "m.jsonl: line 2: not JSON"),
        ("m.jsonl", "[1]", "line 1: wanted an object of columns"),
        ("m.csv", "path,caption\na.mp4,one\nb.mp4\n", "m.csv: line 3: wanted 2 cells"),
        ("m.csv", "path,caption,fps\na.mp4,one,quick\n", "line 2: fps must be a number, got 'quick'"),
        ("m.csv", "path,caption\n", "holds no clips"),
        ("m.txt", "", "a manifest is .jsonl, .csv or .parquet"),
    ],
)
def test_a_wrong_file(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / name)


def test_no_file(tmp_path):
    with pytest.raises(OSError, match="no such manifest"):
        read_manifest(tmp_path / "m.jsonl")


def test_a_parquet_file_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "m.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        read_manifest(tmp_path / "m.parquet")
    path = write(tmp_path, [{"path": "a.mp4", "caption": "a", "fps": "x"}], "parquet")
    with pytest.raises(ValueError, match="row 1: fps must be a number"):
        read_manifest(path)
