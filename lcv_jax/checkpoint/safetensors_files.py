"""Published weights on disk: folders of safetensors files, read a tensor at a time and written as a stream.

The safetensors library maps files into memory, which counts as this process's memory for as long as a file is open, and
writes only what is in memory as a whole. A conversion of 54 GB on a small machine needs neither: the format is a
length, a JSON header and the tensors end to end, so it is read here with plain reads, in the order of the file, and
each file's hash falls out on the way. The header is checked in full before any tensor is touched.
"""

import dataclasses
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lcv_jax.user_files import check_regular, read_json, reading

Shape = tuple[int, ...]

DTYPES: Mapping[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The kinds of numbers that weights come in, by their name in a header."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where one tensor lies in its file."""

    name: str
    dtype: np.dtype
    shape: Shape
    start: int
    """Its first byte, counted from the beginning of the file."""

    @property
    def num_bytes(self) -> int:
        """What its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class SafetensorsFile:
    """One file whose header has been read and checked; torch_files.py describes .pth files the same way."""

    path: Path
    size: int
    tensors: tuple[Tensor, ...]
    """In the order in which they lie in the file."""

    def read(self, tensor: Tensor) -> np.ndarray:
        """One tensor of this file."""
        with self.path.open("rb") as file:
            return _read(file, tensor.start, tensor.dtype, tensor.shape)

    def stream(self, digest: Any, in_blocks: Collection[str]) -> Iterator[tuple[Tensor, int, np.ndarray]]:
        """All tensors in the file's order.

        Args:
            digest: a hashlib object, given every byte of the file.
            in_blocks: names of tensors that come in blocks of rows where they are large.

        Yields:
            The tensor, the first row of the block, and the block.
        """
        with self.path.open("rb") as file:
            hashed = 0
            for tensor in self.tensors:
                if tensor.start < hashed:
                    raise ValueError(f"{self.path}: {tensor.name} shares its numbers with another tensor")
                # The header, or what lies between two tensors.
                file.seek(hashed)
                digest.update(file.read(tensor.start - hashed))
                hashed = tensor.start + tensor.num_bytes
                itemsize, start = tensor.dtype.itemsize, tensor.start
                blocks = row_blocks(tensor.shape, itemsize) if tensor.name in in_blocks else [(0, tensor.shape)]
                for row, shape in blocks:
                    block = _read(file, start, tensor.dtype, shape)
                    start += block.nbytes
                    digest.update(block.reshape(-1).view(np.uint8).data)
                    yield tensor, row, block
            file.seek(hashed)
            digest.update(file.read())


BLOCK_BYTES = 1 << 26
"""The size of a block of rows; arrays up to four times as large come whole."""


def block_rows(shape: Shape, itemsize: int) -> int:
    """How many rows of a large array of two axes, an embedding, come at once: a power of two; else all."""
    if len(shape) != 2 or math.prod(shape) * itemsize <= 4 * BLOCK_BYTES:
        return shape[0] if shape else 1
    return 1 << max(0, (BLOCK_BYTES // (shape[1] * itemsize)).bit_length() - 1)


def row_blocks(shape: Shape, itemsize: int) -> Iterator[tuple[int, Shape]]:
    """The blocks that an array comes in: first row and shape of each."""
    rows = block_rows(shape, itemsize)
    if not shape:
        yield 0, shape
        return
    for row in range(0, shape[0], max(rows, 1)):
        yield row, (min(rows, shape[0] - row), *shape[1:])


def _read(file: BinaryIO, start: int, dtype: np.dtype, shape: Shape) -> np.ndarray:
    buffer = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    file.seek(start)
    if file.readinto(buffer) != buffer.size:  # type: ignore[attr-defined]
        raise ValueError(f"{file.name} ended while it was read: it changed since its header was checked")
    return buffer.view(dtype).reshape(shape)


def open_safetensors(path: Path, kinds: Mapping[str, np.dtype] = DTYPES) -> SafetensorsFile:
    """Reads and checks the header of one file.

    Args:
        path: the file.
        kinds: of numbers that it may hold.

    Raises:
        ValueError: truncated, corrupt or no safetensors file, or one that holds something else than weights.
    """
    check_regular(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= _LONGEST_HEADER:
            raise ValueError(f"{path} is no safetensors file (or a corrupt one): it starts with no header length")
        if 8 + length > size:
            raise ValueError(f"{path} is truncated: its header alone has {8 + length} bytes, the file {size}")
        text = file.read(length)
    with reading(path, "the file is corrupt: its header cannot be read"):
        header = json.loads(text.decode())
        if not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("__metadata__ must be an object")
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ranges = {name: _whole_numbers(name, entry["data_offsets"]) for name, entry in entries.items()}
        found = {name: str(entry["dtype"]) for name, entry in entries.items()}
        shapes = {name: _whole_numbers(name, entry["shape"]) for name, entry in entries.items()}
    unknown = sorted({kind for kind in found.values() if kind not in kinds})
    if unknown:
        raise ValueError(f"{path} holds tensors of type {', '.join(unknown)}; weights are of {', '.join(DTYPES)}")

    end, tensors = 0, []
    for name, (start, stop) in sorted(ranges.items(), key=lambda item: item[1]):
        tensor = Tensor(name=name, dtype=kinds[found[name]], shape=shapes[name], start=8 + length + start)
        if start != end or stop - start != tensor.num_bytes:
            raise ValueError(
                f"{path} is corrupt: {name} of shape {tensor.shape} and type {found[name]} takes {tensor.num_bytes} "
                f"bytes from {end} on, its header says {start} to {stop}"
            )
        tensors.append(tensor)
        end = stop
    wanted = 8 + length + end
    if size != wanted:
        fault = "truncated" if size < wanted else "corrupt"
        raise ValueError(f"{path} is {fault}: its header describes {wanted} bytes, the file has {size}")
    return SafetensorsFile(path=path, size=size, tensors=tuple(tensors))


def _whole_numbers(name: str, numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"shape and data_offsets of {name} must be lists of whole numbers")
    return tuple(numbers)


def open_folder(folder: Path, kinds: Mapping[str, np.dtype] = DTYPES) -> list[SafetensorsFile]:
    """The weights of one published component: one file, or shards with an index.

    Args:
        folder: the component's.
        kinds: of numbers that they may be.

    Raises:
        ValueError: no weights, a missing shard, an index that disagrees with its shards, or a bad file.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    present = sorted(folder.glob("*.safetensors"))
    if len(indices) > 1:
        raise ValueError(f"{folder} has more than one index: {', '.join(index.name for index in indices)}; keep one")
    if not indices:
        if len(present) == 1:
            return [open_safetensors(present[0], kinds)]
        what = f"{len(present)} of them and no index (*.safetensors.index.json)" if present else "none"
        raise ValueError(f"{folder}: wanted one .safetensors file, or shards with an index; got {what}")

    index = indices[0]
    with reading(index, "expected a weight_map of tensor names and files"):
        where = {str(name): str(shard) for name, shard in read_json(index)["weight_map"].items()}
    shards = sorted(set(where.values()))
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise ValueError(f"{folder} lacks {', '.join(absent)}, which {index.name} names: fetch it again")
    extra = [path.name for path in present if path.name not in shards]
    if extra:
        raise ValueError(f"{folder} has {', '.join(extra)}, which {index.name} does not name: move it away")
    files = [open_safetensors(folder / shard, kinds) for shard in shards]
    found = {(tensor.name, file.path.name) for file in files for tensor in file.tensors}
    wrong = sorted(found.symmetric_difference(where.items()))
    if wrong:
        named = ", ".join(f"{name} in {shard}" for name, shard in wrong[:10])
        raise ValueError(
            f"{index} disagrees with its shards on {len(wrong)} tensors: {named}{', ...' if len(wrong) > 10 else ''}"
        )
    return files


def shapes(files: Iterable[SafetensorsFile]) -> dict[str, Shape]:
    """The names and shapes of all tensors."""
    return {tensor.name: tensor.shape for file in files for tensor in file.tensors}


def published_order(name: str) -> list[str | int]:
    """A key that sorts names with layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A tensor to be written."""

    name: str
    dtype: np.dtype
    shape: Shape

    @property
    def num_bytes(self) -> int:
        """What its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_shards(tensors: Sequence[Planned], stem: str, max_shard_bytes: int) -> dict[str, list[Planned]]:
    """Tensors grouped into files: STEM.safetensors, or several numbered ones, none above the limit if it can."""
    groups: list[list[Planned]] = [[]]
    for tensor in tensors:
        held = sum(planned.num_bytes for planned in groups[-1])
        if groups[-1] and held + tensor.num_bytes > max_shard_bytes:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return {f"{stem}.safetensors": groups[0]}
    return {f"{stem}-{n + 1:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups)}


def write_index(folder: Path, stem: str, shards: Mapping[str, Sequence[Planned]]) -> None:
    """The index of several shards; one file needs none."""
    if len(shards) > 1:
        where = {tensor.name: shard for shard, group in shards.items() for tensor in group}
        total = sum(tensor.num_bytes for group in shards.values() for tensor in group)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_safetensors(path: Path, tensors: Sequence[Planned], blocks: Iterable[np.ndarray]) -> None:
    """Writes one file as a stream.

    Args:
        path: the file.
        tensors: what it holds, in order.
        blocks: the tensors' values in the same order, each as a whole or in blocks of rows.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        offsets = [end, end + tensor.num_bytes]
        header[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in blocks:
            file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        if file.tell() != 8 + len(text) + end:
            raise AssertionError(f"{path}: wrote {file.tell()} bytes, planned {8 + len(text) + end}")
