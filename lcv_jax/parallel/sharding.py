"""What lies where: tables of regular expressions over the paths of a whole train state.

A path is an array's place in its tree, joined by "/", and the first pattern found in it counts. Parameters, gradients,
moments, averages and adapters keep the model's names below their own ("opt/0/mu/blocks/attn/qkv/kernel"), so that one
table places all of them:

    state = {"params": params, "ema": params, "opt": optimiser.init(params)}
    shardings(state, mesh, zero_2())             parameters on every device, all else in parts
    shardings(state, mesh, full_sharding())      parameters in parts too
    load_component(folder, "dit", sharding=loading_rule(mesh, full_sharding()))

Whatever is cut is cut along its first axis that divides, but never along the axis of the layers, which a scan walks
over. Cut within the layers, a layer's slice is local and what travels is one layer, needed now and dropped after; cut
between them, every layer lies on one device and fetching it means gathering the whole stack. The first axis, because
parts of rows can be put together as they come: for parts of columns XLA keeps a transposed copy of the whole stack.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lcv_jax.array_types import Array, Float, PyTree, Shaped
from lcv_jax.parallel.mesh import AXES, batch_axes


@dataclasses.dataclass(frozen=True)
class Cut:
    """Cut along the first axis that divides; whole where none does."""

    mesh_axes: tuple[str, ...]
    """Into as many parts as these have devices together."""
    layer_axes: int = 0
    """Leading axes that are never cut."""

    def spec(self, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
        parts = math.prod(mesh.shape[axis] for axis in self.mesh_axes)
        for axis in range(self.layer_axes, len(shape)):
            if parts > 1 and shape[axis] % parts == 0:
                return PartitionSpec(*[None] * axis, self.mesh_axes)
        return PartitionSpec()


Rules = tuple[tuple[str, PartitionSpec | Cut], ...]
"""(pattern, where what it finds lies); the first that is found in a path counts."""

WHOLE = PartitionSpec()
REPLICATED: Rules = (("", WHOLE),)
"""Everything on every device."""

SMALL: Rules = (
    # Adapters; then what has as many numbers as a layer has channels; then the layers at the ends. Of the 13.6B model
    # these are 0.1 %, and cutting them would add collectives that are all latency.
    (r"/(down|up|alpha_scale)$", WHOLE),
    (r"(/bias|norm/weight|relative_attention_bias/weight)$", WHOLE),
    (r"(^|/)(x_embedder|t_embedder|final_layer)/", WHOLE),
)


def full_sharding(mesh_axes: Sequence[str] = ("fsdp",)) -> Rules:
    """Parameters in parts, and all that is shaped like them.

    Args:
        mesh_axes: cut over these; ("fsdp", "seq") also cuts over the devices that share a sample's tokens.
    """
    axes = tuple(mesh_axes)
    return (
        *SMALL,
        (r"(^|/)(blocks|layers|encoder/block)/.*/kernel$", Cut(axes, layer_axes=1)),
        (r"/kernel$|(^|/)(shared|embed_tokens)/weight$", Cut(axes)),
        ("", WHOLE),  # counters, keys
    )


def zero_2(mesh_axes: Sequence[str] = ("fsdp",)) -> Rules:
    """Parameters on every device; gradients, moments and averages in parts.

    Args:
        mesh_axes: as in `full_sharding`.
    """
    return ((r"^params/", WHOLE), *full_sharding(mesh_axes))


def find_spec(path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh, rules: Rules) -> PartitionSpec:
    """Where the array of this path and shape lies.

    Raises:
        ValueError: the table says nothing about it, or more axes than it has.
    """
    for pattern, place in rules:
        if re.search(pattern, path):
            spec = place.spec(shape, mesh) if isinstance(place, Cut) else place
            if len(spec) > len(shape):
                raise ValueError(f"the rule {pattern!r} gives {path} of shape {tuple(shape)} the axes {spec}")
            return spec
    raise ValueError(f'no rule for {path}: add one, or end the table with ("", PartitionSpec()) for all the rest')


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: Rules, under: str = "") -> PyTree:
    """A tree of NamedShardings for a tree of arrays or ShapeDtypeStructs.

    Args:
        tree: parameters, an optimiser's state, or a whole train state.
        mesh: of `make_mesh`, or an AbstractMesh to plan with.
        rules: a table.
        under: what the tree is, where it stands alone: "params" or "grads".

    Raises:
        ValueError: the table says nothing about an array.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, find_spec(f"{under}/{name}" if under else name, leaf.shape, mesh, rules))

    return jax.tree_util.tree_map_with_path(place, tree)


def loading_rule(
    mesh: Mesh, rules: Rules, under: str = "params"
) -> Callable[[tuple[str, ...], tuple[int, ...]], NamedSharding]:
    """A table as checkpoint/store.py takes it, so that every device reads its own part and nothing else."""

    def place(path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        return NamedSharding(mesh, find_spec("/".join((under, *path)), shape, mesh, rules))

    return place


def host_rule(mesh: Mesh | None) -> Callable[[tuple[str, ...], tuple[int, ...]], Sharding]:
    """Where parameters rest in the hosts' memory, as checkpoint/store.py takes it: one copy of them over all hosts.

    Args:
        mesh: whose devices fetch them from there with `onto_devices`; None: the default device.
    """
    if mesh is None:
        resting = SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
        return lambda path, shape: resting
    in_parts = loading_rule(mesh, full_sharding(mesh.axis_names))
    return lambda path, shape: in_parts(path, shape).with_memory_kind("pinned_host")


def onto_devices(resting: PyTree, rule: Callable[[tuple[str, ...], tuple[int, ...]], Sharding] | None = None) -> PyTree:
    """Copies of parameters that rest where `host_rule` says.

    Args:
        resting: nested dicts of arrays.
        rule: where the copies lie, of `loading_rule`; None: on the device that they belong to.
    """

    def fetch(path: tuple[Any, ...], leaf: Array) -> Array:
        # Each device its part over its own bus, and only then what the others have.
        part = jax.device_put(leaf, leaf.sharding.with_memory_kind("device"))
        if rule is None:
            return part
        return jax.device_put(part, rule(tuple(str(key.key) for key in path), leaf.shape))

    return jax.tree_util.tree_map_with_path(fetch, resting)


def batch_sharding(mesh: Mesh, batch: int) -> NamedSharding:
    """Arrays whose first axis is a batch of this size: split over "data" and "fsdp" as far as it divides."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh, batch)))


def constrain_tokens(x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """Splits the batch over "data" and "fsdp" and tokens over "seq", on the mesh that `jax.set_mesh` set.

    For the borders of blocks: what lies between follows from the two ends, and XLA's partitioner knows best. Without a
    mesh, and inside shard_map, it does nothing.
    """
    mesh = _auto_mesh()
    if mesh is None:
        return x_BSD
    return jax.lax.with_sharding_constraint(x_BSD, PartitionSpec(batch_axes(mesh, x_BSD.shape[0]), "seq", None))


def constrain_samples(x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Splits the batch over all axes of the mesh and keeps each sample on one device: for many short sequences.

    Like `constrain_tokens`, it does nothing without a mesh.
    """
    mesh = _auto_mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(batch_axes(mesh, x.shape[0], AXES)))


def over_samples(function: Callable[..., Array], *arrays: Array | None) -> Array:
    """`function` of arrays with a batch in front, where every device has its own samples (see `constrain_samples`)."""
    mesh = _auto_mesh()
    if mesh is None:
        return function(*arrays)
    (batch,) = {x.shape[0] for x in arrays if x is not None}
    split = PartitionSpec(batch_axes(mesh, batch, AXES))
    return jax.shard_map(function, in_specs=split, out_specs=split, check_vma=False)(*arrays)


@jax.custom_vjp
def gather_kernel(kernel: Shaped[Array, "in out"]) -> Shaped[Array, "in out"]:
    """One layer's kernel whole on every device, where it is used; its gradient goes back summed and in parts.

    Left to itself the partitioner multiplies parts of kernels, which takes the whole batch's activations on every
    device, and forms gradients from such; for videos activations are the larger. On the mesh that `jax.set_mesh` set;
    without one, and inside shard_map, it does nothing.
    """
    return kernel if _auto_mesh() is None else jax.lax.with_sharding_constraint(kernel, WHOLE)


def _gather_kernel(kernel: Array) -> tuple[Array, None]:
    return gather_kernel(kernel), None


def _scatter_gradient(_: None, d_kernel: Array) -> tuple[Array]:
    mesh = _auto_mesh()
    if mesh is None:
        return (d_kernel,)
    return (jax.lax.with_sharding_constraint(d_kernel, Cut(("fsdp",)).spec(d_kernel.shape, mesh)),)


gather_kernel.defvjp(_gather_kernel, _scatter_gradient)


def _auto_mesh() -> AbstractMesh | None:
    """The mesh to constrain on; inside shard_map there is nothing to constrain."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or any(kind == AxisType.Manual for kind in mesh.axis_types) else mesh
