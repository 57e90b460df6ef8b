"""Rows of data and their files: what changed is named, and content alone decides."""

import os

import pytest

from lcv_jax.data.identity import changes, check_rows, file_facts, file_rows, read_rows, write_rows
from lcv_jax.data.manifest import read_manifest


@pytest.fixture
def manifest(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode() * 100)
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(f'{{"path": "{name}.mp4", "caption": "clip {name}", "start": 1}}\n' for name in "ab"))
    return path


def rows_of(manifest, known=None):
    return file_rows(read_manifest(manifest), known or {})


def test_what_differs_is_named_with_old_and_new_value(manifest):
    before = rows_of(manifest)
    manifest.write_text('{"path": "b.mp4", "caption": "clip b", "start": 2}\n{"path": "a.mp4", "caption": "else"}\n')
    (manifest.parent / "b.mp4").unlink()
    assert sorted(changes(before, rows_of(manifest))) == [
        'captions of a.mp4 was ["clip a"], is ["else"]',
        "start of a.mp4 was 1.0, is 0.0",
        "start of b.mp4 was 1.0, is 2.0",
        "the file of b.mp4 cannot be read any more",
        "the rows are in another order",
    ]
    assert list(changes(before, before[:1])) == ["b.mp4 is missing"]
    assert list(changes(before[:1], before)) == ["b.mp4 is new"]


def test_a_file_is_hashed_again_only_if_it_may_have_changed(manifest, monkeypatch):
    file = manifest.parent / "a.mp4"
    first = file_facts(file)
    stat = file.stat()
    file.write_bytes(b"b" * 100)  # as long, and with the time of before
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_facts(file, first)["sha256"] != first["sha256"]
    file.write_bytes(b"a" * 100)
    now = file_facts(file, first)
    assert now["sha256"] == first["sha256"]
    monkeypatch.setattr("hashlib.file_digest", None)
    assert file_facts(file, now) == now  # not read at all


def test_a_data_set_may_move(manifest, tmp_path_factory, monkeypatch):
    kept = tmp_path_factory.mktemp("run") / "data.jsonl.gz"
    write_rows(kept, check_rows(kept, lambda known: rows_of(manifest, known), "the run"))
    moved = manifest.parent.rename(manifest.parent.with_name("moved")) / manifest.name
    (manifest.parent.with_name("moved") / "a.mp4").touch()
    write_rows(kept, check_rows(kept, lambda known: rows_of(moved, known), "the run"))
    monkeypatch.setattr("hashlib.file_digest", None)  # nothing is hashed a third time
    assert check_rows(kept, lambda known: rows_of(moved, known), "the run") == []
    assert len(read_rows(kept)) == 2
    kept.write_bytes(kept.read_bytes()[:40])
    with pytest.raises(ValueError, match="data.jsonl.gz"):
        check_rows(kept, lambda known: rows_of(moved, known), "the run")
