"""The converted folder: what lies where in it, where it came from, and how its parameters are loaded.

    lcv_jax.json                    format and provenance (see `read_provenance`)
    dit/config.json  dit/params/    likewise vae/ and text_encoder/; params/ is an orbax checkpoint
    adapters/NAME/                  an orbax checkpoint each; adapters/config.json is the config of their transformer
    tokenizer/  scheduler/          as published
    checksums.json                  of all files but the arrays' own, in which every tile carries a CRC-32C

Whatever is read is verified first. A folder without checksums cannot be told from a damaged one, and is refused.

Writing it is conversion's business: see published.py and streaming.py.
"""

import contextlib
import dataclasses
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from lcv_jax.array_types import Params
from lcv_jax.bounds import shown
from lcv_jax.checkpoint import checksums, convert, names
from lcv_jax.checkpoint.adapter_formats import advice
from lcv_jax.checkpoint.checksums import DamagedError
from lcv_jax.checkpoint.safetensors_files import open_safetensors
from lcv_jax.config import DiTConfig, SchedulerConfig
from lcv_jax.models.quantize import is_quantized_kernel, scale_path
from lcv_jax.own_files import file_sha256
from lcv_jax.user_files import read_json, reading

PROVENANCE = "lcv_jax.json"
FORMAT = "lcv_jax checkpoint"
VERSION = 1
PACKAGES = ("lcv_jax", "jax", "jaxlib", "flax", "orbax-checkpoint", "tensorstore", "numpy", "tokenizers", "av")
"""Those that decide what comes out."""

ShardingRule = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]
"""The sharding of a parameter, from its path and shape."""


def package_versions() -> dict[str, str]:
    """What a folder or a video was made with; run from a checkout, this package itself need not be installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def write_checksums(folder: Path) -> None:
    """Completes a converted folder: checksums of everything that the arrays' own do not cover."""
    checksums.write_checksums(folder, without=_is_array_data)


def verify(folder: Path, *parts: str) -> None:
    """Verifies files of a converted folder before they are read.

    Args:
        folder: the converted folder.
        parts: files or folders in it; none: everything that has a checksum.

    Raises:
        ValueError: one is damaged; it is named.
    """
    try:
        recorded = checksums.read_checksums(folder)["files"]
        wanted = {
            name: facts
            for name, facts in recorded.items()
            if not parts or any(Path(name).is_relative_to(part) for part in parts)
        }
        for part in parts:
            if not any(Path(name).is_relative_to(part) for name in wanted):
                raise DamagedError(f"{checksums.CHECKSUMS} does not list {part}")
        checksums.verify(folder, wanted)
    except DamagedError as error:
        raise _damaged(folder, error) from None


def _is_array_data(name: str) -> bool:
    """Whether a file is of NETWORK/params/ARRAY/c/ or adapters/NAME/ARRAY/c/."""
    return Path(name).parts[3:4] == ("c",)


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """Where a converted folder came from.

    Returns:
        `format`, `version`, `created`, `source`, `dtype` (as asked for), `versions` of the packages that wrote it, and
        `components`: for each of them its source `files` (name, size, sha256), the stored `dtypes`, the `aliases` that
        the source had, and for the transformer the adapters `folded` into it.

    Raises:
        ValueError: no converted folder, or one of another version of the format.
    """
    folder = Path(folder)
    path = folder / PROVENANCE
    if not path.is_file():
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; wanted one written by convert_torch_weights.py")
        if any((folder / name / "config.json").is_file() for name in ("", *convert.NETWORKS)):
            raise ValueError(
                f"{folder} is a published checkpoint; convert it first: python convert_torch_weights.py {folder} DEST"
            )
        raise ValueError(f"{folder} is no checkpoint: it has no {PROVENANCE}; wanted one of convert_torch_weights.py")
    with reading(path, "convert again"):
        provenance = read_json(path, advice="convert again")
        found = provenance["format"], provenance["version"]
        if not isinstance(provenance["components"], dict):
            raise ValueError(f"components must be an object, got {shown(provenance['components'])}")
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{folder} is of another version: got {found[0]} {found[1]}, wanted {FORMAT} {VERSION}; convert it again"
        )
    verify(folder, PROVENANCE)
    return provenance


def content_identity(folder: str | Path) -> dict[str, str]:
    """What a converted folder contains: a SHA-256 for each component, of adapters for each as "adapter NAME".

    It depends neither on the folder's path nor on when it was written. Weights count by the hashes of the files that
    they were converted from, or of the arrays that training wrote; other files by their own.
    """
    folder = Path(folder)
    components = dict(read_provenance(folder)["components"])
    files = checksums.read_checksums(folder)["files"]
    adapters = {f"adapter {name}": record for name, record in components.pop("lora", {}).items()}
    found = {}
    for name, record in {**components, **adapters}.items():
        config = files.get(f"{name}/config.json", {}).get("sha256")
        found[name] = checksums.sha256_of({"record": record, "config": config})
    return found


def adapter_identity(folder: str | Path, name: str) -> str:
    """Likewise of an adapter, named as for `load_adapter`.

    Raises:
        ValueError: there is no such adapter.
    """
    if name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise ValueError(f"adapter {name}: there is no such file")
        return file_sha256(Path(name))
    place, inside = _place_of_adapter(folder, name)
    found = content_identity(place)
    if f"adapter {inside}" not in found:
        raise ValueError(
            f"adapter {inside}: there is none in {place}; it has {', '.join(list_adapters(place)) or 'none'}"
        )
    return found[f"adapter {inside}"]


def load_config(folder: str | Path, name: str) -> Any:
    """The config of a network ("dit", "vae" or "text_encoder") of a converted folder."""
    folder = Path(folder)
    components = read_provenance(folder)["components"]
    if name not in components:
        raise ValueError(f"{folder} was converted without its {name}; it has {', '.join(components)}: convert it again")
    verify(folder, f"{name}/config.json")
    return convert.NETWORKS[name].config.read(folder / name / "config.json")


def load_component(
    folder: str | Path,
    name: str,
    dtype: Any = None,
    sharding: jax.sharding.Sharding | ShardingRule | None = None,
) -> tuple[Any, Params]:
    """Loads a network's parameters onto devices.

    Args:
        folder: a converted folder.
        name: "dit", "vae" or "text_encoder".
        dtype: what to cast to while reading; None keeps what is stored.
        sharding: one for all parameters, or a function of path and shape that gives each its own; None: the default
            device. Each device reads its own part.

    Returns:
        The config and the parameters.

    Raises:
        ValueError: no converted folder, one without this network, or a damaged one.
    """
    table, cast = component_table(folder, name, dtype)
    return load_config(folder, name), load_params(Path(folder), f"{name}/params", lambda shapes: table, cast, sharding)


def component_table(folder: str | Path, name: str, dtype: Any) -> tuple[names.Table, Callable[[tuple[str, ...]], Any]]:
    """What is stored of a network of a converted folder, and what loading it with `dtype` casts each path to."""
    table, quantized = convert.NETWORKS[name].table(load_config(folder, name)), is_quantized(folder, name)
    if quantized:
        table = [*table, *(_scales_of(leaf) for leaf in table if is_quantized_kernel(leaf.path))]
    kept = {leaf.path for leaf in table if quantized and (is_quantized_kernel(leaf.path) or leaf.path[-1] == "scale")}
    return table, lambda path: None if path in kept else dtype


def is_quantized(folder: str | Path, name: str = "dit") -> bool:
    """Whether a network of a converted folder was quantized by the conversion."""
    return "quantized" in read_provenance(folder)["components"].get(name, {})


def check_unquantized(folder: str | Path, purpose: str) -> None:
    """Raises ValueError for a quantized transformer, whose rounded weights do not serve this purpose."""
    if is_quantized(folder):
        raise ValueError(
            f"{folder} was converted with --quantize: its rounded weights are for generation only; {purpose} needs a "
            "conversion without --quantize"
        )


def _scales_of(leaf: names.Leaf) -> names.Leaf:
    """Where the scales of a quantized kernel are; no published tensor has them."""
    return dataclasses.replace(leaf, path=scale_path(leaf.path), turned=leaf.turned[-1:])


def list_adapters(folder: str | Path) -> list[str]:
    """The names of the adapters in a converted folder."""
    return sorted(read_provenance(folder)["components"].get("lora", {}))


def load_adapter(
    folder: str | Path,
    name: str | Path,
    cfg: DiTConfig,
    dtype: Any = None,
    sharding: jax.sharding.Sharding | ShardingRule | None = None,
) -> Params:
    """Loads an adapter onto devices.

    Args:
        folder: a converted folder.
        name: one of its adapters, FOLDER/adapters/NAME of another converted folder, or the path of a .safetensors file
            in the published key format.
        cfg: the transformer that it is for.
        dtype: what to cast to; None keeps what is stored.
        sharding: as in `load_component`.

    Raises:
        ValueError: no such adapter, or one for another model.
    """
    check_adapter(folder, name, cfg)
    try:
        if str(name).endswith(".safetensors"):
            file = open_safetensors(Path(name))
            adapter = convert.lora_params({tensor.name: file.read(tensor) for tensor in file.tensors}, cfg)
            rule = _rule(sharding)
            placed: Params = {}
            for path, array in convert.flatten(adapter):
                array = array if dtype is None else array.astype(dtype)
                convert.place(placed, path, jax.device_put(array, rule(path, array.shape)))
            return placed
        folder, name = _place_of_adapter(folder, name)
        return load_params(folder, f"adapters/{name}", lambda shapes: names.adapter_table(shapes, cfg), dtype, sharding)
    except ValueError as error:
        raise ValueError(f"adapter {name}: {error}") from None


def check_adapter(folder: str | Path, name: str | Path, cfg: DiTConfig) -> None:
    """Checks that an adapter is there and fits the transformer, from its shapes alone.

    Warns of one in another converted folder with another transformer of the same shape; a file does not say which
    transformer it was trained on.

    Raises:
        ValueError: no such adapter, or one for another model.
    """
    if str(name).endswith(".safetensors"):
        if not Path(name).is_file():
            raise ValueError(f"adapter {name}: there is no such file")
        found = {tensor.name: tensor.shape for tensor in open_safetensors(Path(name)).tensors}
        try:
            convert.check_names("the adapter", names.published_shapes(names.lora_table(found, cfg)), found)
        except ValueError as error:
            raise ValueError(f"adapter {name}: {error}; {advice(found)}") from None
        return
    place, name = _place_of_adapter(folder, name)
    if name not in list_adapters(place):
        have = ", ".join(list_adapters(place)) or "no adapters"
        raise ValueError(f"adapter {name}: there is none in {place}; it has {have}")
    if place.resolve() != Path(folder).resolve():
        _check_adapter_of_another(place, name, Path(folder), cfg)


def _check_adapter_of_another(place: Path, name: str, folder: Path, cfg: DiTConfig) -> None:
    from lcv_jax.checkpoint import reading  # tensorstore: only where it is used

    path = place / "adapters" / name
    with damage_named(path):
        shapes = {key: array.shape for key, array in reading.open_arrays(path).items()}
    try:
        wanted = {"/".join(leaf.path): leaf.shape for leaf in names.adapter_table(shapes, cfg)}
        convert.check_names("the adapter", wanted, {"/".join(key): shape for key, shape in shapes.items()})
    except ValueError as error:
        raise ValueError(f"adapter {path}: {error}") from None
    own, other = _origin_of_transformer(folder), _origin_of_transformer(place)
    if own and other and own != other:
        warnings.warn(
            f"adapter {path} was trained on the transformer of {place}, and that of {folder} has the same shape and "
            f"other weights: expect a weaker or broken effect; the adapter is certain to work with {place}",
            stacklevel=2,
        )


def _origin_of_transformer(folder: Path) -> list[Any]:
    """What tells a folder's transformer from others, whatever dtype it was converted to; empty without one."""
    if not (folder / PROVENANCE).is_file():
        return []
    record = read_provenance(folder)["components"].get("dit", {})
    own = [file["sha256"] for file in record.get("files", ())] or record.get("sha256")
    return [own, record.get("folded", [])] if own else []


def _place_of_adapter(folder: str | Path, name: str | Path) -> tuple[Path, str]:
    """The converted folder, and the name in it."""
    path = Path(name)
    return (path.parent.parent, path.name) if path.parent.name == "adapters" else (Path(folder), str(name))


def tokenizer_folder(folder: str | Path) -> Path:
    """The tokenizer's folder, for transformers' `from_pretrained`."""
    folder = Path(folder)
    read_provenance(folder)
    path = folder / "tokenizer"
    if not path.is_dir():
        raise ValueError(f"{folder} was converted without its tokenizer: convert it again")
    verify(folder, "tokenizer")
    return path


def load_scheduler_config(folder: str | Path) -> SchedulerConfig:
    """The scheduler's config of a converted folder."""
    folder = Path(folder)
    read_provenance(folder)
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise ValueError(f"{folder} was converted without its scheduler: convert it again")
    verify(folder, "scheduler")
    return SchedulerConfig.read(path)


def load_params(
    folder: Path,
    part: str,
    table_of: Callable[[Mapping[tuple[str, ...], tuple[int, ...]]], names.Table],
    dtype: Any | Callable[[tuple[str, ...]], Any],
    sharding: jax.sharding.Sharding | ShardingRule | None,
    keep: Callable[[tuple[str, ...]], bool] = lambda path: True,
) -> Params:
    """Loads a checkpoint, a part of a converted folder, onto devices if it fits the table for its shapes.

    Args:
        folder: the converted folder.
        part: the checkpoint's folder in it.
        table_of: the table, from the shapes at the paths.
        dtype: what to cast to, or a function of the path that gives it; None keeps what is stored.
        sharding: as in `load_component`.
        keep: which arrays are read, by their paths.

    Raises:
        ValueError: it does not fit, or is damaged.
    """
    arrays = open_params(folder, part, table_of)
    with damage_named(folder / part):
        return read_params({path: array for path, array in arrays.items() if keep(path)}, dtype, sharding)


def open_params(
    folder: Path, part: str, table_of: Callable[[Mapping[tuple[str, ...], tuple[int, ...]]], names.Table]
) -> dict[tuple[str, ...], Any]:
    """The arrays of a checkpoint, a part of a converted folder, to be read within `damage_named`.

    Raises:
        ValueError: it does not fit the table for its shapes, or is damaged.
    """
    from lcv_jax.checkpoint import reading  # tensorstore: only where it is used

    verify(folder, part)
    with damage_named(folder / part):
        arrays = reading.open_arrays(folder / part)
    shapes = {path: array.shape for path, array in arrays.items()}
    wanted = {"/".join(leaf.path): leaf.shape for leaf in table_of(shapes)}
    convert.check_names(str(folder / part), wanted, {"/".join(path): shape for path, shape in shapes.items()})
    return arrays


def read_params(
    arrays: Mapping[tuple[str, ...], Any],
    dtype: Any | Callable[[tuple[str, ...]], Any],
    sharding: jax.sharding.Sharding | ShardingRule | None,
) -> Params:
    """Reads opened arrays onto devices; `dtype` and `sharding` are as in `load_params`."""
    from lcv_jax.checkpoint import reading  # tensorstore: only where it is used

    params: Params = {}
    for path, array in reading.read_onto_devices(arrays, dtype, _rule(sharding)):
        convert.place(params, path, array)
    return params


@contextlib.contextmanager
def damage_named(checkpoint: Path) -> Iterator[None]:
    """Within, a ValueError of what is read says that the checkpoint is damaged."""
    try:
        yield
    except ValueError as error:
        raise _damaged(checkpoint, error) from None


def _rule(sharding: jax.sharding.Sharding | ShardingRule | None) -> ShardingRule:
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if isinstance(sharding, jax.sharding.Sharding):
        one = sharding
        return lambda path, shape: one
    return sharding


def _damaged(checkpoint: Path, error: Exception) -> ValueError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ValueError(f"{checkpoint} is damaged: {reason}; convert again, or export it again if it was trained")
