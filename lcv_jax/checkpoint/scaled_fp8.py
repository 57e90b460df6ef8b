"""Published weights in float8 with scales, as files for ComfyUI have them: read as the float32 numbers they stand for.

A tensor `X.weight` in float8 is accompanied by `X.scale_weight` or `X.weight_scale`: one number, or one for each output
channel, that the weights are multiplied by. (Scales that were chosen as max|W| / 448 come under the same names.) Also
there may be markers (`scaled_fp8`, `X.comfy_quant`) and scales of activations, which are not used here. Float8 without
scales is read as it is.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from lcv_jax.checkpoint.safetensors_files import DTYPES, SafetensorsFile, Tensor
from lcv_jax.user_files import reading

FLOAT8: Mapping[str, np.dtype] = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
KINDS: Mapping[str, np.dtype] = {**DTYPES, **FLOAT8, "U8": np.dtype(np.uint8)}
"""What files with scales may hold."""
SCALES = ("scale_weight", "weight_scale")
IGNORED = ("scale_input", "input_scale", "comfy_quant")
MARKER = "scaled_fp8"
FORMATS = ("float8_e4m3fn", "float8_e5m2")


def is_float8(tensor: Tensor) -> bool:
    """Whether a tensor is stored in float8."""
    return tensor.dtype in FLOAT8.values()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledFile(SafetensorsFile):
    """A file whose float8 tensors are given as float32, multiplied by their scales."""

    scales: Mapping[str, np.ndarray]
    """Of weights, by their names: of one element, or (out, 1)."""

    def read(self, tensor: Tensor) -> np.ndarray:
        """One tensor of this file."""
        return self._scaled(tensor, 0, super().read(tensor))

    def stream(self, digest: Any, in_blocks: Any) -> Iterator[tuple[Tensor, int, np.ndarray]]:
        """All tensors in the file's order; see `SafetensorsFile.stream`."""
        for tensor, row, block in super().stream(digest, in_blocks):
            yield tensor, row, self._scaled(tensor, row, block)

    def _scaled(self, tensor: Tensor, row: int, block: np.ndarray) -> np.ndarray:
        if not is_float8(tensor):
            return block
        scale = self.scales.get(tensor.name, np.ones((1, 1), np.float32))
        rows = scale if scale.shape[0] == 1 else scale[row : row + len(block)]
        return block.astype(np.float32) * (rows if block.ndim == 2 else rows.reshape(()))


def with_scales_applied(files: Sequence[SafetensorsFile]) -> list[SafetensorsFile]:
    """The files with their scales and markers taken out of the tensors and applied where they belong.

    Files without float8 stay as they are.

    Raises:
        ValueError: scales that belong to no weight or do not fit it, or a format other than float8.
    """
    if not any(is_float8(tensor) or tensor.dtype == np.uint8 for file in files for tensor in file.tensors):
        return list(files)
    weights = {tensor.name: tensor for file in files for tensor in file.tensors}
    scales: dict[str, np.ndarray] = {}
    kept: list[tuple[Tensor, ...]] = []
    for file in files:
        own = []
        for tensor in file.tensors:
            module, _, kind = tensor.name.rpartition(".")
            if kind in SCALES:
                name = f"{module}.weight"
                scales[name] = _scale(file.path, tensor.name, file.read(tensor), weights.get(name))
            elif kind == "comfy_quant":
                _check_format(file.path, tensor.name, file.read(tensor))
            elif kind not in IGNORED and kind != MARKER:
                own.append(tensor)
        kept.append(tuple(own))
    return [
        ScaledFile(path=file.path, size=file.size, tensors=tensors, scales=scales)
        for file, tensors in zip(files, kept, strict=True)
    ]


def _scale(path: Path, name: str, scale: np.ndarray, weight: Tensor | None) -> np.ndarray:
    if weight is None:
        raise ValueError(f"{path}: {name} scales a weight that is not there")
    if scale.size not in (1, weight.shape[0]):
        raise ValueError(
            f"{path}: {name} must be one number or {weight.shape[0]}, one per output channel of {weight.name}; "
            f"got shape {scale.shape}"
        )
    return scale.astype(np.float32).reshape(-1, 1)


def _check_format(path: Path, name: str, content: np.ndarray) -> None:
    with reading(path, f"{name} cannot be read"):
        found = json.loads(content.tobytes().decode())["format"]
    if found not in FORMATS:
        raise ValueError(f"{path}: {name} says {found!r}; weights can be read from {', '.join(FORMATS)}")
