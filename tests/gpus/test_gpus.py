"""Descriptions of GPUs; `make test-compile` compiles for them."""

import pytest

from lcv_jax import gpus


@pytest.mark.parametrize(("name", "gigabytes"), [("h100", 80), ("h200", 141)])
def test_a_description_has_the_numbers_of_its_data_sheet(name, gigabytes):
    gpu = gpus.described_gpu(name)
    assert gigabytes * 1e9 <= gpu.memory_bytes <= 1.08 * gigabytes * 1e9
    assert (gpu.num_cores, gpu.registers_per_core, gpu.shared_memory_per_core) == (132, 65536, 228 * 1024)
    assert f"{gigabytes}GB" in gpu.description


def test_a_smaller_card_differs_in_its_memory_alone():
    whole, smaller = gpus.described_gpu("rtx4090"), gpus.described_gpu("rtx4090", memory=8)
    assert smaller.memory_bytes == 8_000_000_000
    size = "device_memory_size: {}".format
    assert smaller.description.replace(size(8000000000), size(whole.memory_bytes)) == whole.description


def test_names_are_those_of_the_files():
    assert gpus.names() == ("a100", "b200", "h100", "h200", "l40s", "rtx4090", "rtx5090")


def test_an_unknown_gpu_is_refused_by_name():
    with pytest.raises(ValueError, match="no description of a GPU 'h300': have a100, b200, h100, h200"):
        gpus.described_devices("h300")


def test_a_missing_compiler_is_named(monkeypatch):
    def absent(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(gpus.topologies, "get_topology_desc", absent)
    with pytest.raises(OSError, match=r"lcv_jax\[gpu-compile\].*JAX_PLATFORMS=cpu"):
        gpus.described_devices("h200", 8)


@pytest.mark.parametrize(
    ("name", "gigabytes", "cores", "terabytes_a_second", "teraflops", "gigabytes_a_second"),
    [
        ("a100", 80, 108, 2.039, 312, 300),
        ("b200", 180, 148, 7.7, 2250, 900),
        ("h100", 80, 132, 3.35, 989, 450),
        ("h200", 141, 132, 4.8, 989, 450),
        ("l40s", 48, 142, 0.864, 362, 32),
        ("rtx4090", 24, 128, 1.008, 165, 32),
        ("rtx5090", 32, 170, 1.792, 209, 64),
    ],
)
def test_all_are_as_published(name, gigabytes, cores, terabytes_a_second, teraflops, gigabytes_a_second):
    gpu = gpus.described_gpu(name)
    assert gigabytes * 1e9 <= gpu.memory_bytes <= 1.08 * gigabytes * 1e9
    assert gpu.num_cores == cores
    assert gpu.memory_bandwidth == pytest.approx(terabytes_a_second * 1e12)
    assert gpu.speed.bf16_flops // 1e12 == teraflops
    assert gpu.speed.link_bandwidth == gigabytes_a_second * 1e9
    assert "NVIDIA" in gpu.speed.source


def test_compute_capabilities():
    found = {name: gpus.described_gpu(name).compute_capability for name in gpus.names()}
    assert found == {
        "a100": "8.0", "b200": "10.0", "h100": "9.0", "h200": "9.0", "l40s": "8.9", "rtx4090": "8.9", "rtx5090": "12.0"
    }  # fmt: skip


def test_missing_speeds_are_named():
    with pytest.raises(ValueError, match=r"no speeds of a GPU 'toy': add a line to lcv_jax/gpus/speeds.py"):
        gpus.GPU("toy", "core_count: 1").speed  # noqa: B018


def test_a_missing_number_is_named():
    with pytest.raises(ValueError, match="'toy' has no device_memory_size: add it to toy.txtpb"):
        gpus.GPU("toy", "core_count: 1").memory_bytes  # noqa: B018
