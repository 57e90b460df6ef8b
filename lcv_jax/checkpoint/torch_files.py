"""Tensors of a .pth file, found without PyTorch and without running what a pickle asks for.

A .pth file is a zip of a pickle, `data.pkl`, and of uncompressed storages, `data/N`. The unpickler here knows three
things: an ordered dict, a storage, and a tensor of one; every other name in the pickle is an error, so that nothing of
the file is ever called. What comes out is where each tensor lies, and it is read like one of a safetensors file.
"""

import collections
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lcv_jax.checkpoint.safetensors_files import SafetensorsFile, Tensor

STORAGES: Mapping[str, np.dtype] = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
}
LARGEST_PICKLE = 1 << 26
"""Bytes of a pickle that only says where tensors lie; a hundred thousand of them take a quarter of that."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")

_Storage = collections.namedtuple("_Storage", "dtype key length")
_Place = collections.namedtuple("_Place", "storage offset shape stride")


class _Dict(dict):
    """An ordered dict without the attributes that PyTorch gives it."""

    def __setstate__(self, state: Any) -> None:
        pass


def _place(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _Place:
    numbers = [offset, *shape, *stride] if isinstance(shape, tuple) and isinstance(stride, tuple) else [None]
    if not isinstance(storage, _Storage) or not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError("a tensor without a storage, an offset, a shape and a stride")
    return _Place(storage, offset, shape, stride)


class _Maker:
    """A function for the pickle to call, which it cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets attributes of a function")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, storages: Mapping[str, np.dtype]):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Maker(_Dict)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Maker(_place)
        if module == "torch" and name in self._storages:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}; only float tensors are read from it")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str() as kind, str() as key, str(), int() as length) if kind in self._storages:
                return _Storage(self._storages[kind], key, length)
        raise pickle.UnpicklingError("it refers to something that is no storage")


def open_torch_file(path: Path, storages: Mapping[str, np.dtype] = STORAGES) -> SafetensorsFile:
    """Finds the tensors of a .pth file: a dict of them, or one under "model".

    Args:
        path: of the file.
        storages: the kinds of numbers that it may hold.

    Raises:
        ValueError: no such file, a truncated one, or one with anything but float tensors in it.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = {entry.filename: entry for entry in archive.infolist()}
            folder = _folder(path, entries)
            tensors = _tensors(path, _unpickle(path, archive, entries[f"{folder}/data.pkl"], storages))
            order = entries.get(f"{folder}/byteorder")
            if order is not None and order.file_size < 16 and archive.read(order).strip() != b"little":
                raise ValueError(f"{path} is of a big-endian machine: save it again on another")
            starts = {
                storage.key: _start(path, file, entries.get(f"{folder}/data/{storage.key}"), storage)
                for storage in {place.storage for place in tensors.values()}
            }
    except (zipfile.BadZipFile, EOFError, struct.error) as error:
        raise ValueError(f"{path} is truncated, or no .pth file of PyTorch 1.6 or later: {error}") from None
    found = [
        Tensor(
            name=name,
            dtype=place.storage.dtype,
            shape=place.shape,
            start=starts[place.storage.key] + place.offset * place.storage.dtype.itemsize,
        )
        for name, place in tensors.items()
    ]
    return SafetensorsFile(
        path=path, size=path.stat().st_size, tensors=tuple(sorted(found, key=lambda tensor: tensor.start))
    )


def _folder(path: Path, entries: Mapping[str, zipfile.ZipInfo]) -> str:
    """The folder inside of the zip."""
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{path} is no .pth file: it has {len(pickles)} entries FOLDER/data.pkl, wanted one")
    return pickles[0].partition("/")[0]


def _unpickle(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, storages: Mapping[str, np.dtype]) -> Any:
    if entry.file_size > LARGEST_PICKLE:
        raise ValueError(f"{path} has a pickle of {entry.file_size} bytes: it holds more than tensors")
    try:
        with archive.open(entry) as file:
            return _Unpickler(file, storages).load()
    except zipfile.BadZipFile:
        raise
    # A broken pickle raises whatever the opcode that it breaks at raises.
    except Exception as error:
        raise ValueError(f"{path} holds something else than tensors, or is damaged: {error}") from None


def _tensors(path: Path, loaded: Any) -> dict[str, _Place]:
    """The tensors by name, of a dict that holds nothing else."""
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        extra = sorted(str(name) for name in loaded if name != "model")
        if extra:
            raise ValueError(f'{path} holds more than tensors: beside "model" there are {", ".join(extra[:20])}')
        loaded = loaded["model"]
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, wanted a dict of tensors by name")
    other = [str(name) for name, place in loaded.items() if not isinstance(name, str) or type(place) is not _Place]
    if other:
        raise ValueError(f"{path} holds more than tensors: {', '.join(other[:20])}")
    for name, place in loaded.items():
        stride, packed = [], 1
        for size in reversed(place.shape):
            stride.append(packed)
            packed *= size
        steps = zip(place.shape, place.stride, reversed(stride), strict=False)
        if len(place.shape) != len(place.stride) or any(size > 1 and got != want for size, got, want in steps):
            raise ValueError(f"{path}: {name} is a view of another tensor: save it with contiguous()")
        if place.offset + math.prod(place.shape) > place.storage.length:
            raise ValueError(f"{path} is damaged: {name} of shape {place.shape} is larger than its storage")
    return dict(loaded)


def _start(path: Path, file: Any, entry: zipfile.ZipInfo | None, storage: _Storage) -> int:
    """The first byte of a storage, counted from the beginning of the file."""
    if entry is None:
        raise ValueError(f"{path} is damaged: it has no storage {storage.key}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != storage.length * storage.dtype.itemsize:
        raise ValueError(
            f"{path} is damaged: storage {storage.key} has {entry.file_size} bytes, wanted "
            f"{storage.length * storage.dtype.itemsize} without compression"
        )
    file.seek(entry.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if magic != b"PK\x03\x04":
        raise ValueError(f"{path} is damaged: storage {storage.key} has no header")
    start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if start + entry.file_size > path.stat().st_size:
        raise ValueError(f"{path} is truncated: storage {storage.key} ends beyond the file")
    return start
