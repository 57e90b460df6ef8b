"""A .pth file is read without PyTorch, and whatever is in it besides tensors is refused and never run."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.checkpoint.safetensors_files import open_safetensors
from lcv_jax.checkpoint.torch_files import open_torch_file

CHECKPOINT = Path(__file__).parent.parent / "golden" / "rewards" / "videoreward" / "lora_layout" / "checkpoint-9"
PUBLISHED = CHECKPOINT / "non_lora_state_dict.pth"


def with_pickle(path, data, source=PUBLISHED):
    """The published file with another pickle in it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return path


def published_pickle(source=PUBLISHED):
    with zipfile.ZipFile(source) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_tensors_have_their_values():
    file = open_torch_file(PUBLISHED)
    shapes = {tensor.name: tensor.shape for tensor in file.tensors}
    assert shapes["base_model.model.visual.patch_embed.proj.weight"] == (32, 3, 2, 14, 14)
    # Qwen2-VL's own weights are the base of what was tuned: those of norms keep their size, near one.
    by_name = {tensor.name: file.read(tensor) for tensor in file.tensors}
    base = open_safetensors(CHECKPOINT.parents[1] / "Qwen2-VL-2B-Instruct" / "model.safetensors")
    untuned = {tensor.name: base.read(tensor) for tensor in base.tensors}
    name = "visual.blocks.0.attn.qkv.weight"
    got, want = by_name[f"base_model.model.{name}"].astype(np.float32), untuned[name].astype(np.float32)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.5


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ({"weight": 1}, "holds more than tensors: weight"),
        ([1, 2], "holds a list, wanted a dict of tensors"),
        ({"model": {}, "epoch": 3}, 'beside "model" there are epoch'),
        ({"weight": Call(print, "ran")}, r"it names __builtin__\.print"),
        ({"weight": np.zeros(3)}, "it names numpy"),
        ({"weight": Path("x")}, "it names pathlib"),
    ],
)
def test_anything_but_tensors_is_refused_and_not_run(tmp_path, capfd, loaded, message):
    path = with_pickle(tmp_path / "model.pth", pickle.dumps(loaded, protocol=2))
    with pytest.raises(ValueError, match=message):
        open_torch_file(path)
    assert "ran" not in capfd.readouterr().out


def test_a_pickle_cannot_change_the_reader(tmp_path):
    """GLOBAL of the tensor's maker, then BUILD, which sets attributes of what it stands on."""
    attack = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00nameK\x01sb."
    with pytest.raises(ValueError, match="it sets attributes of a function"):
        open_torch_file(with_pickle(tmp_path / "model.pth", attack))


def test_damage_is_one_line(tmp_path):
    data = PUBLISHED.read_bytes()
    for size in (0, 100, len(data) // 2, len(data) - 10):
        path = tmp_path / "model.pth"
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="truncated, or no .pth file"):
            open_torch_file(path)
    with pytest.raises(ValueError, match="holds something else than tensors, or is damaged"):
        open_torch_file(with_pickle(tmp_path / "cut.pth", published_pickle()[:500]))
    # The first storage, of 37632 numbers, said to have one more.
    longer = published_pickle().replace(b"M\x00\x93", b"M\x01\x93", 1)
    with pytest.raises(ValueError, match="storage 0 has 75264 bytes, wanted 75266"):
        open_torch_file(with_pickle(tmp_path / "longer.pth", longer))


def test_every_flipped_byte_of_the_pickle_is_an_error_or_another_tensor(tmp_path):
    """No exception but ValueError comes out, whatever the pickle is."""
    rng = np.random.default_rng(0)
    whole = bytearray(published_pickle())
    for at in rng.integers(0, len(whole), 60):
        broken = bytes(whole[:at]) + bytes([whole[at] ^ int(rng.integers(1, 256))]) + bytes(whole[at + 1 :])
        try:
            file = open_torch_file(with_pickle(tmp_path / "model.pth", broken))
        except ValueError:
            continue
        assert all(isinstance(file.read(tensor), np.ndarray) for tensor in file.tensors)


def test_a_compressed_storage_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(PUBLISHED) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"wanted \d+ without compression"):
        open_torch_file(path)
