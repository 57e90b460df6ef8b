"""What XLA's descriptions have no field for: how fast the GPUs are, as their makers publish it.

Peaks, which nothing reaches: for floors of time, not for guesses of it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """Published speeds of a GPU."""

    bf16_flops: float
    """Multiplications and additions a second, bfloat16 with float32 sums, dense (data sheets like to print the double,
    for sparse matrices)."""
    link: str
    """What connects it to the other GPUs of its machine."""
    link_bandwidth: float
    """Bytes a second that it sends while it receives as many (data sheets like to print the sum)."""
    source: str
    network: "Network"
    """What connects its machine to others."""
    host_bandwidth: float = 64e9
    """Bytes a second that it sends to its machine's memory while it receives as many: PCIe 5 x16."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What machines of such GPUs usually have between them: an assumption, no property of the GPU."""

    name: str
    bandwidth: float
    """Bytes a second that each GPU's share of it sends while it receives as many."""


INFINIBAND_200 = Network(name="200 Gb/s InfiniBand for each", bandwidth=25e9)
INFINIBAND_400 = Network(name="400 Gb/s InfiniBand for each", bandwidth=50e9)
ETHERNET_100 = Network(name="100 Gb/s Ethernet for eight", bandwidth=100e9 / 8 / 8)

SPEEDS = {
    "a100": Speed(
        bf16_flops=312e12,
        link="NVLink 3",
        link_bandwidth=300e9,
        source="NVIDIA A100 data sheet (SXM4 80 GB)",
        network=INFINIBAND_200,
        host_bandwidth=32e9,
    ),
    "h100": Speed(
        bf16_flops=989.4e12,
        link="NVLink 4",
        link_bandwidth=450e9,
        source="NVIDIA H100 data sheet (SXM5)",
        network=INFINIBAND_400,
    ),
    "h200": Speed(
        bf16_flops=989.4e12,
        link="NVLink 4",
        link_bandwidth=450e9,
        source="NVIDIA H200 data sheet (SXM)",
        network=INFINIBAND_400,
    ),
    "b200": Speed(
        bf16_flops=2250e12,
        link="NVLink 5",
        link_bandwidth=900e9,
        source="NVIDIA HGX B200 data sheet",
        network=INFINIBAND_400,
    ),
    "l40s": Speed(
        bf16_flops=362.05e12,
        link="PCIe 4 x16",
        link_bandwidth=32e9,
        source="NVIDIA L40S data sheet",
        network=INFINIBAND_200,
        host_bandwidth=32e9,
    ),
    "rtx4090": Speed(
        bf16_flops=165.2e12,
        link="PCIe 4 x16",
        link_bandwidth=32e9,
        source="NVIDIA Ada architecture white paper",
        network=ETHERNET_100,
        host_bandwidth=32e9,
    ),
    "rtx5090": Speed(
        bf16_flops=209.5e12,
        link="PCIe 5 x16",
        link_bandwidth=64e9,
        source="NVIDIA RTX Blackwell white paper",
        network=ETHERNET_100,
    ),
}


def peak_flops(device_kind: str) -> float | None:
    """Published bfloat16 operations a second of a device that is present, by what JAX calls it; None: not known."""
    called = device_kind.lower().replace(" ", "")
    return next((speed.bf16_flops for name, speed in SPEEDS.items() if name in called), None)
