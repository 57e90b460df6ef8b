"""Reading and writing safetensors against the safetensors library, and every way in which a file can be wrong."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lcv_jax.checkpoint import safetensors_files as files


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((5, 3)).astype(np.float32),
        "b": rng.standard_normal((2, 3, 4)).astype(ml_dtypes.bfloat16),
        "c": rng.standard_normal((7,)).astype(np.float16),
        "scale": np.array(0.5, np.float32),
        "table": rng.standard_normal((100, 8)).astype(np.float32),
    }


def test_reads_what_the_library_writes(tmp_path, tensors):
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = files.open_safetensors(tmp_path / "x.safetensors")
    assert files.shapes([file]) == {name: tensor.shape for name, tensor in tensors.items()}
    for entry in file.tensors:
        got = file.read(entry)
        assert got.dtype == tensors[entry.name].dtype
        np.testing.assert_array_equal(got, tensors[entry.name])


def test_streams_every_byte_once_and_large_tables_in_blocks(tmp_path, tensors, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 32 * 17)
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    digest, seen = hashlib.sha256(), {}
    for entry, row, block in files.open_safetensors(path).stream(digest, {"table", "a"}):
        seen.setdefault(entry.name, []).append((row, block))
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [row for row, _ in seen["table"]] == list(range(0, 100, 16))  # the largest power of two that fits
    for name, tensor in tensors.items():
        got = seen[name][0][1] if tensor.ndim == 0 else np.concatenate([block for _, block in seen[name]])
        np.testing.assert_array_equal(got, tensor)


def test_writes_what_the_library_reads(tmp_path, tensors):
    plan = [files.Planned(name=name, dtype=tensor.dtype, shape=tensor.shape) for name, tensor in tensors.items()]
    blocks = [tensors["a"].T.copy().T, *(tensors[name] for name in "bc"), tensors["scale"]]
    blocks += [tensors["table"][:60], tensors["table"][60:]]
    files.write_safetensors(tmp_path / "x.safetensors", plan, blocks)
    got = load_file(tmp_path / "x.safetensors")
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert got[name].dtype == tensor.dtype
        np.testing.assert_array_equal(got[name], tensor)


def test_shards_stay_below_their_limit():
    plan = [
        files.Planned(name=f"{n}", dtype=np.dtype(np.float32), shape=(size,)) for n, size in enumerate([4, 4, 9, 1])
    ]
    assert list(files.plan_shards(plan, "m", 100)) == ["m.safetensors"]
    shards = files.plan_shards(plan, "m", 32)
    assert {name: [tensor.name for tensor in group] for name, group in shards.items()} == {
        "m-00001-of-00003.safetensors": ["0", "1"],
        "m-00002-of-00003.safetensors": ["2"],  # larger than the limit alone
        "m-00003-of-00003.safetensors": ["3"],
    }


def header_of(data):
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(header, body):
    return with_text(json.dumps(header).encode(), body)


def with_text(text, body):
    return len(text).to_bytes(8, "little") + text + body


def changed(name, **entry):
    def change(data):
        header, body = header_of(data)
        header[name] |= entry
        return with_header(header, body)

    return change


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        (lambda data: data[:-5], "is truncated: its header describes"),
        (lambda data: data[:40], "is truncated: its header alone has"),
        (lambda data: data[:4], "is no safetensors file"),
        (lambda data: b"", "is no safetensors file"),
        (lambda data: b"PK\x03\x04 a zip file of pickles", "is no safetensors file"),
        (lambda data: data + b"x", "is corrupt: its header describes"),
        (lambda data: data[:20] + b"\xff" + data[21:], "is corrupt: its header cannot be read"),
        (lambda data: with_header([1], b""), "is corrupt: its header cannot be read"),
        (lambda data: with_header({"__metadata__": []}, b""), "is corrupt: its header cannot be read"),
        (lambda data: with_text("{}".encode("utf-16"), b""), "is corrupt: its header cannot be read"),
        (lambda data: with_text("{}".encode("utf-8-sig"), b""), "is corrupt: its header cannot be read"),
        (changed("a", shape=[2.5, 3]), "of a must be lists of whole numbers"),
        (changed("a", shape={"2": 1, "3": 1}), "of a must be lists of whole numbers"),
        (changed("a", shape=[-2, -3]), "of a must be lists of whole numbers"),
        (changed("a", data_offsets=["0", "64"]), "of a must be lists of whole numbers"),
        (lambda data: with_header({"a": {"dtype": "F32"}}, b""), "is corrupt: its header cannot be read"),
        (changed("a", shape=[5, 4]), r"is corrupt: a of shape \(5, 4\) and type F32 takes 80 bytes"),
        (changed("a", data_offsets=[4, 64]), "is corrupt: .* its header says"),
        (changed("a", dtype="I64"), "holds tensors of type I64; weights are of F32, F16, BF16"),
    ],
)
def test_damaged_files(tmp_path, tensors, damage, wanted):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=wanted) as caught:
        files.open_safetensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def sharded(tmp_path, tensors):
    where = {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}
    for shard in ("m-1.safetensors", "m-2.safetensors"):
        save_file({name: tensors[name] for name in where if where[name] == shard}, tmp_path / shard)
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return tmp_path


def rewrite_index(folder, change):
    path = folder / "m.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_reads_shards(sharded):
    assert files.shapes(files.open_folder(sharded)) == {"a": (5, 3), "b": (2, 3, 4), "c": (7,)}


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        (lambda folder: (folder / "m-2.safetensors").unlink(), "lacks m-2.safetensors, which m.safetensors.index.json"),
        (
            lambda folder: rewrite_index(folder, lambda where: where.pop("b")),
            "disagrees with its shards on 1 tensors: b in m-1",
        ),
        (
            lambda folder: rewrite_index(folder, lambda where: where.update(d="m-2.safetensors")),
            "disagrees with its shards on 1 tensors: d in m-2",
        ),
        (
            lambda folder: rewrite_index(folder, lambda where: where.update(a="m-2.safetensors")),
            "disagrees with its shards on 2 tensors: a in m-1.safetensors, a in m-2",
        ),
        (lambda folder: (folder / "m.safetensors.index.json").write_text("{"), "index.json: not JSON"),
        (lambda folder: (folder / "m.safetensors.index.json").write_text("[]"), "expected an object"),
        (lambda folder: (folder / "m.safetensors.index.json").unlink(), "got 2 of them and no index"),
        (lambda folder: (folder / "old.safetensors").write_bytes(b""), "has old.safetensors, which .* does not name"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "or shards with an index; got none"),
        (lambda folder: (folder / "n.safetensors.index.json").write_text("{}"), "has more than one index"),
    ],
)
def test_damaged_folders(sharded, damage, wanted):
    damage(sharded)
    with pytest.raises(ValueError, match=wanted):
        files.open_folder(sharded)
