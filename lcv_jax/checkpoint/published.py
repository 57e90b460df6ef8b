"""A published folder, opened: configs and headers are read and checked, and no weights.

It has dit/, vae/ and text_encoder/ with config.json and safetensors, tokenizer/, scheduler/, and in lora/ one
safetensors file an adapter. Every fault that can be seen without reading weights is found here.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lcv_jax.checkpoint import convert, names, store
from lcv_jax.checkpoint.adapter_formats import advice
from lcv_jax.checkpoint.comfyui_names import with_published_names
from lcv_jax.checkpoint.safetensors_files import SafetensorsFile, Tensor, open_folder, open_safetensors, shapes
from lcv_jax.checkpoint.scaled_fp8 import KINDS, with_scales_applied
from lcv_jax.config import DiTConfig, PublishedConfig, SchedulerConfig

COPIED = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
"""Folders that are taken as they are, each with a file that it must have."""
NETWORKS = ("dit", "vae", "text_encoder")
COMPONENTS = (*NETWORKS, *COPIED, "lora")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """One network or adapter: its files, and the table that they fit."""

    name: str
    files: Sequence[SafetensorsFile]
    table: names.Table
    aliases: Mapping[str, str]
    """Second names under which tensors are stored once more."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {tensor.name: tensor for file in self.files for tensor in file.tensors}

    @property
    def num_bytes(self) -> int:
        """The size of the files."""
        return sum(file.size for file in self.files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A published folder whose headers have been read and checked."""

    folder: Path
    configs: Mapping[str, PublishedConfig]
    networks: Mapping[str, Weights]
    adapters: Mapping[str, Weights]
    copied: Sequence[str]

    @property
    def weights(self) -> list[Weights]:
        """The networks and the adapters."""
        return [*self.networks.values(), *self.adapters.values()]


Fold = tuple[Weights, float]
"""An adapter with its multiplier."""


def choose(asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The components that were asked for; None: all that are known.

    Raises:
        ValueError: one that is not known.
    """
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise ValueError(f"no component {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if asked is None or name in asked]


def open_published(folder: Path, components: Sequence[str] | None = None) -> Published:
    """Reads the configs and headers of a published folder and checks them against one another.

    Args:
        folder: the published folder.
        components: which of `COMPONENTS`; None: all, of which adapters may be absent.

    Raises:
        ValueError: no published folder, or a component that is missing, damaged or does not fit its config.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; wanted a published checkpoint with {', '.join(COMPONENTS)}")
    if (folder / store.PROVENANCE).is_file():
        if "quantized" in store.read_provenance(folder)["components"].get("dit", {}):
            raise ValueError(f"{folder} is converted and quantized already: quantize the published checkpoint instead")
        raise ValueError(f"{folder} is converted already; --to-torch turns it back into a published checkpoint")
    wanted = choose(components, COMPONENTS)
    if components is None and not (folder / "lora").is_dir():
        wanted.remove("lora")
    absent = [name for name in wanted if not (folder / name).is_dir()]
    if absent:
        rest = [name for name in wanted if name not in absent]
        advice = f"--components {','.join(rest)} goes without" if rest else "is it the right folder?"
        raise ValueError(f"{folder} has no {', '.join(absent)}: {advice}")

    configs: dict[str, PublishedConfig] = {}
    networks, adapters = {}, {}
    for name in wanted:
        if name in NETWORKS:
            configs[name] = _read_config(folder / name / "config.json", convert.NETWORKS[name].config)
            networks[name] = _open_network(folder / name, configs[name])
        elif name in COPIED and not (folder / name / COPIED[name]).is_file():
            raise ValueError(f"{folder / name} has no {COPIED[name]}")
    if "scheduler" in wanted:
        configs["scheduler"] = _read_config(folder / "scheduler" / COPIED["scheduler"], SchedulerConfig)
    if "lora" in wanted:
        cfg: Any = configs.get("dit") or _read_config(folder / "dit" / "config.json", DiTConfig)
        adapters = {path.stem: open_adapter(path, cfg) for path in sorted((folder / "lora").glob("*.safetensors"))}
    copied = [name for name in wanted if name in COPIED]
    return Published(folder=folder, configs=configs, networks=networks, adapters=adapters, copied=copied)


def _read_config(path: Path, config: type[PublishedConfig]) -> Any:
    if not path.is_file():
        raise ValueError(f"{path.parent} has no {path.name}")
    return config.read(path)


def _open_network(folder: Path, cfg: PublishedConfig) -> Weights:
    network = convert.NETWORKS[folder.name]
    files, table = with_scales_applied(open_folder(folder, KINDS)), network.table(cfg)
    if folder.name == "dit":
        files = with_published_names(files)
    found = shapes(files)
    convert.check_names(f"{network.title} in {folder}", names.published_shapes(table), found, network.aliases)
    aliases = {alias: name for alias, name in network.aliases.items() if alias in found}
    return Weights(name=folder.name, files=files, table=table, aliases=aliases)


def open_adapter(path: Path, cfg: DiTConfig) -> Weights:
    """Reads the header of an adapter and checks it against the transformer that it is for.

    Raises:
        ValueError: no adapter of the published key format, one for another model, or a damaged file.
    """
    if not path.is_file():
        raise ValueError(f"adapter {path} does not exist")
    file = open_safetensors(path)
    found = shapes([file])
    try:
        table = names.lora_table(found, cfg)
        convert.check_names("the adapter", names.published_shapes(table), found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {advice(found)}") from None
    return Weights(name=path.stem, files=[file], table=table, aliases={})


def find_fold(published: Published, text: str) -> Fold:
    """An adapter and its multiplier from `ADAPTER[=MULTIPLIER]`: a name in lora/, or a file's path.

    Raises:
        ValueError: no such adapter, one for another model, or no number.
    """
    name, equals, tail = text.rpartition("=")
    try:
        name, multiplier = (name, float(tail)) if equals else (text, 1.0)
    except ValueError:
        raise ValueError(f"--fold {text}: wanted ADAPTER or ADAPTER=MULTIPLIER, and {tail!r} is no number") from None
    if not math.isfinite(multiplier):
        raise ValueError(f"--fold {text}: the multiplier must be finite")
    cfg = published.configs.get("dit")
    if not isinstance(cfg, DiTConfig):
        raise ValueError("--fold needs dit among the components: adapters are folded into it")
    inside = published.folder / "lora" / f"{name}.safetensors"
    if not inside.is_file() and not Path(name).is_file():
        there = ", ".join(sorted(path.stem for path in inside.parent.glob("*.safetensors"))) or "nothing"
        raise ValueError(f"--fold {text}: {name} is neither a file nor in {inside.parent}, which has {there}")
    return open_adapter(inside if inside.is_file() else Path(name), cfg), multiplier
