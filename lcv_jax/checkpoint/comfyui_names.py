"""The transformer under the tensor names of files for ComfyUI, given under the published ones.

Such files may put a prefix before all names. Those for WanVideoWrapper, ComfyUI's nodes for LongCat-Video, also follow
Wan's names, in which q, k and v are three layers: here they are joined again.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.checkpoint.safetensors_files import SafetensorsFile, Tensor

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.")
WAN = "patch_embedding.weight"
"""A name that only Wan's has."""
RENAMED = {
    r"^patch_embedding\.": "x_embedder.proj.",
    r"^text_embedding\.": "y_embedder.y_proj.",
    r"^time_embedding\.": "t_embedder.",
    r"^head\.head\.": "final_layer.linear.",
    r"^head\.modulation\.": "final_layer.adaLN_modulation.",
    r"^(blocks\.\d+)\.modulation\.": r"\1.adaLN_modulation.",
    r"^(blocks\.\d+)\.norm3\.": r"\1.pre_crs_attn_norm.",
    r"^(blocks\.\d+)\.self_attn\.[qkv]\.": r"\1.attn.qkv.",
    r"^(blocks\.\d+)\.cross_attn\.q\.": r"\1.cross_attn.q_linear.",
    r"^(blocks\.\d+)\.cross_attn\.[kv]\.": r"\1.cross_attn.kv_linear.",
    r"^(blocks\.\d+)\.self_attn\.norm_([qk])\.": r"\1.attn.\2_norm.",
    r"^(blocks\.\d+)\.cross_attn\.norm_([qk])\.": r"\1.cross_attn.\2_norm.",
    r"^(blocks\.\d+)\.self_attn\.o\.": r"\1.attn.proj.",
    r"^(blocks\.\d+)\.cross_attn\.o\.": r"\1.cross_attn.proj.",
}
"""Wan's names, and the published ones; where two or three have the same, they are its rows in the order q, k, v."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenamedFile(SafetensorsFile):
    """A file whose tensors are those of another one, renamed and joined."""

    inner: SafetensorsFile
    parts: Mapping[str, tuple[Tensor, ...]]
    """What each tensor is made of, from the first row on."""

    def read(self, tensor: Tensor) -> np.ndarray:
        """One tensor of this file."""
        return _join([self.inner.read(part) for part in self.parts[tensor.name]])

    def stream(self, digest: Any, in_blocks: Collection[str]) -> Iterator[tuple[Tensor, int, np.ndarray]]:
        """All tensors in the order in which they are complete; see `SafetensorsFile.stream`."""
        whole_of = {part.name: tensor for tensor in self.tensors for part in self.parts[tensor.name]}
        inner_blocks = {parts[0].name for name, parts in self.parts.items() if name in in_blocks and len(parts) == 1}
        waiting: dict[str, dict[str, np.ndarray]] = {}
        for part, row, block in self.inner.stream(digest, inner_blocks):
            tensor = whole_of[part.name]
            parts = self.parts[tensor.name]
            if len(parts) == 1:
                yield tensor, row, block
                continue
            found = waiting.setdefault(tensor.name, {})
            found[part.name] = block
            if len(found) == len(parts):
                del waiting[tensor.name]
                yield tensor, 0, _join([found[each.name] for each in parts])


def with_published_names(files: Sequence[SafetensorsFile]) -> list[SafetensorsFile]:
    """The transformer's files with published names; files that have them already stay as they are."""
    names = [tensor.name for file in files for tensor in file.tensors]
    prefix = next((each for each in PREFIXES if names and all(name.startswith(each) for name in names)), "")
    wan = f"{prefix}{WAN}" in names
    return [_renamed(file, prefix, wan=wan) for file in files] if prefix or wan else list(files)


def _renamed(file: SafetensorsFile, prefix: str, *, wan: bool) -> RenamedFile:
    parts: dict[str, tuple[Tensor, ...]] = {}
    for tensor in sorted(file.tensors, key=_q_k_v):
        name = _published(tensor.name.removeprefix(prefix)) if wan else tensor.name.removeprefix(prefix)
        parts[name] = (*parts.get(name, ()), tensor)
    tensors = []
    for name, found in parts.items():
        rows = sum(part.shape[0] for part in found) if len(found) > 1 else None
        shape = found[0].shape if rows is None else (rows, *found[0].shape[1:])
        tensors.append(dataclasses.replace(found[0], name=name, shape=shape))
    return RenamedFile(path=file.path, size=file.size, tensors=tuple(tensors), inner=file, parts=parts)


def _q_k_v(tensor: Tensor) -> str:
    return re.sub(r"\.q\.", ".j.", tensor.name)  # sorts before k


def _published(name: str) -> str:
    for pattern, replacement in RENAMED.items():
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
