"""GPUs that are described, not present: what XLA needs to compile a program for them on a machine without one.

    device, = described_devices("h200")
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=jax.sharding.SingleDeviceSharding(device))
    jax.jit(jnp.dot).trace(x, x).lower().compile().memory_analysis()

A description is a text file beside this one, `NAME.txtpb`: XLA's GpuTargetConfigProto in protobuf text format, with the
data sheet's numbers; what XLA has no field for is in speeds.py. To describe another GPU, add a file, and a line there.
"""

import dataclasses
import re
from importlib import resources

import jax
from jax.experimental import topologies

from lcv_jax.gpus.speeds import SPEEDS, Speed


@dataclasses.dataclass(frozen=True)
class GPU:
    """A kind of GPU."""

    name: str
    description: str
    """XLA's GpuTargetConfigProto as text."""

    def _number(self, field: str) -> int:
        found = re.search(rf"^\s*{field}: (\d+)$", self.description, re.MULTILINE)
        if found is None:
            raise ValueError(f"the description of GPU {self.name!r} has no {field}: add it to {self.name}.txtpb")
        return int(found.group(1))

    @property
    def memory_bytes(self) -> int:
        """All of its memory; what a program can have is a few percent less."""
        return self._number("device_memory_size")

    @property
    def memory_bandwidth(self) -> int:
        """Bytes a second between the GPU and its memory."""
        return self._number("memory_bandwidth")

    @property
    def compute_capability(self) -> str:
        """What its programs are compiled for, such as 9.0."""
        found = re.search(r"cuda_compute_capability \{ major: (\d+)(?: minor: (\d+))?", self.description)
        if found is None:
            raise ValueError(f"the description of GPU {self.name!r} has no cuda_compute_capability")
        return f"{found.group(1)}.{found.group(2) or 0}"

    @property
    def speed(self) -> Speed:
        """How fast it multiplies matrices and talks to its neighbours.

        Raises:
            ValueError: nobody wrote that down.
        """
        if self.name not in SPEEDS:
            raise ValueError(f"no speeds of a GPU {self.name!r}: add a line to lcv_jax/gpus/speeds.py")
        return SPEEDS[self.name]

    @property
    def num_cores(self) -> int:
        """Streaming multiprocessors."""
        return self._number("core_count")

    @property
    def registers_per_core(self) -> int:
        return self._number("registers_per_core_limit")

    @property
    def shared_memory_per_core(self) -> int:
        return self._number("shared_memory_per_core")

    @property
    def threads_per_core(self) -> int:
        return self._number("threads_per_core_limit")


def names() -> tuple[str, ...]:
    """The GPUs that have a description."""
    files = (file.name for file in resources.files(__package__).iterdir())
    return tuple(sorted(file.removesuffix(".txtpb") for file in files if file.endswith(".txtpb")))


def described_gpu(name: str, memory: int | float | None = None) -> GPU:
    """The GPU of that name.

    Args:
        name: of a description.
        memory: GB, of a card of the same family that differs in nothing else; None: as described.

    Raises:
        ValueError: nobody described it.
    """
    if name not in names():
        raise ValueError(f"no description of a GPU {name!r}: have {', '.join(names())}")
    description = resources.files(__package__).joinpath(f"{name}.txtpb").read_text()
    if memory is not None:
        description = re.sub(r"(device_memory_size: )\d+", rf"\g<1>{int(1e9 * memory)}", description)
    return GPU(name, description)


def described_devices(
    name: str, num_devices: int = 1, per_host: int | None = None, memory: int | float | None = None
) -> list[jax.Device]:
    """GPUs to compile for: as a sharding of ShapeDtypeStructs, or as a mesh. They cannot run anything.

    Args:
        name: of a described GPU.
        num_devices: of all hosts together, numbered host by host.
        per_host: GPUs of a host; None: all are of one.
        memory: as for `described_gpu`.

    Raises:
        ValueError: nobody described the GPU, or they are no whole number of hosts.
        OSError: XLA's compiler for GPUs is not there.
    """
    gpu = described_gpu(name, memory)
    per_host = num_devices if per_host is None else min(per_host, num_devices)
    if num_devices % per_host:
        raise ValueError(f"{num_devices} GPUs are no whole number of hosts of {per_host}")
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=gpu.description, topology=f"1x{num_devices // per_host}x{per_host}"
        )
    except NotImplementedError as error:
        raise OSError(
            f"cannot compile for a GPU {name!r} here: install XLA's compiler for GPUs (0.6 GB, no driver needed) with "
            'pip install "lcv_jax[gpu-compile]", and on a machine without a GPU set JAX_PLATFORMS=cpu'
        ) from error
    return list(topology.devices)
