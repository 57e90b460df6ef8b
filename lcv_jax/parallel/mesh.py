"""The one mesh of a program: axes "data", "fsdp" and "seq", in this order, over the devices of all hosts.

    with jax.set_mesh(make_mesh(seq=8)):
        ...

The batch is split over "data" and "fsdp", tokens over "seq", parameters and optimiser state over "fsdp" (sharding.py).
JAX numbers devices host by host and "seq" is the innermost axis, so a group that exchanges tokens in every layer is as
near to one another as the shape allows: within a machine while seq divides the number of its devices.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

AXES = ("data", "fsdp", "seq")
BATCH_AXES = ("data", "fsdp")
"""The axes that a batch is split over."""
SHOWN_SHAPES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """How many devices along each axis; one of them may be -1, for all that the others leave."""

    data: int = 1
    """Copies of the model, each with its part of the batch; the two halves of guidance can be two of them."""
    fsdp: int = 1
    """Likewise, but each with its part of the parameters or the optimiser state."""
    seq: int = 1
    """Devices that share a sample's tokens."""

    def __str__(self) -> str:
        return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, self.sizes, strict=True))

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.data, self.fsdp, self.seq

    def fit(self, num_devices: int) -> "MeshShape":
        """This shape with -1 replaced.

        Raises:
            ValueError: it does not take exactly so many devices, or makes no sense.
        """
        open_axes = [axis for axis, size in zip(AXES, self.sizes, strict=True) if size == -1]
        given = [size for size in self.sizes if size != -1]
        if len(open_axes) > 1 or any(size < 1 for size in given):
            raise ValueError(f"mesh axes are at least 1, and one of them may be -1 for the rest; got {self}")
        if open_axes and num_devices % math.prod(given) == 0:
            return dataclasses.replace(self, **{open_axes[0]: num_devices // math.prod(given)})
        if math.prod(self.sizes) == num_devices:
            return self
        needs = f"a multiple of {math.prod(given)}" if open_axes else str(math.prod(given))
        shapes = sorted(_factorisations(num_devices), key=self._unlike)
        shown = "; ".join(map(str, shapes[:SHOWN_SHAPES])) + ("; ..." if len(shapes) > SHOWN_SHAPES else "")
        verb = "is" if num_devices == 1 else "are"
        raise ValueError(
            f"the mesh {self} takes {needs} devices, but there {verb} {num_devices}; these shapes fit: {shown}"
        )

    def _unlike(self, other: "MeshShape") -> tuple[int, float]:
        """How many axes another shape changes, and by how much; what -1 stands for is no change."""
        pairs = [(want, got) for want, got in zip(self.sizes, other.sizes, strict=True) if want not in (-1, got)]
        return len(pairs), sum(abs(math.log(want / got)) for want, got in pairs)


def make_mesh(data: int = 1, fsdp: int = 1, seq: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of this shape, for `jax.set_mesh`.

    Args:
        data: devices along each axis, see `MeshShape`; fsdp, seq: likewise.
        devices: those to use; None: all devices of all hosts. Described ones (lcv_jax.gpus) will do, to compile for.

    Raises:
        ValueError: the shape does not take exactly the devices that there are.
    """
    devices = jax.devices() if devices is None else devices
    shape = MeshShape(data=data, fsdp=fsdp, seq=seq).fit(len(devices))
    # XLA's partitioner places what is not said; attention alone is split by hand (context.py).
    return jax.make_mesh(shape.sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def _factorisations(num_devices: int) -> Iterator[MeshShape]:
    for data in range(1, num_devices + 1):
        for fsdp in range(1, num_devices // data + 1) if num_devices % data == 0 else ():
            if num_devices % (data * fsdp) == 0:
                yield MeshShape(data=data, fsdp=fsdp, seq=num_devices // data // fsdp)


def batch_axes(mesh: Mesh | AbstractMesh, batch: int, among: Sequence[str] = BATCH_AXES) -> tuple[str, ...]:
    """The axes that a batch is split over: of those named as many as divide it, the first before the last."""
    axes: tuple[str, ...] = ()
    for axis in among:
        if axis in mesh.shape and batch % math.prod(mesh.shape[name] for name in (*axes, axis)) == 0:
            axes = (*axes, axis)
    return axes
