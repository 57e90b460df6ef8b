"""Descriptions of GPUs; `make test-compile` compiles for them."""

import pytest

from lcv_jax import gpus


@pytest.mark.parametrize(("name", "gigabytes"), [("h100", 80), ("h200", 141)])
def test_a_description_has_the_numbers_of_its_data_sheet(name, gigabytes):
    gpu = gpus.described_gpu(name)
    assert gigabytes * 1e9 <= gpu.memory_bytes <= 1.08 * gigabytes * 1e9
    assert (gpu.num_cores, gpu.registers_per_core, gpu.shared_memory_per_core) == (132, 65536, 228 * 1024)
    assert f"{gigabytes}GB" in gpu.description


def test_names_are_those_of_the_files():
    assert gpus.names() == ("h100", "h200")


def test_an_unknown_gpu_is_refused_by_name():
    with pytest.raises(ValueError, match="no description of a GPU 'h300': have h100, h200"):
        gpus.described_devices("h300")


def test_a_missing_compiler_is_named(monkeypatch):
    def absent(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(gpus.topologies, "get_topology_desc", absent)
    with pytest.raises(OSError, match=r"lcv_jax\[gpu-compile\].*JAX_PLATFORMS=cpu"):
        gpus.described_devices("h200", 8)


def test_a_missing_number_is_named():
    with pytest.raises(ValueError, match="'toy' has no device_memory_size: add it to toy.txtpb"):
        gpus.GPU("toy", "core_count: 1").memory_bytes  # noqa: B018
