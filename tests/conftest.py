"""Eight CPU devices for all tests, and shared fixtures: the golden numbers, read once a session."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

# Tests of meshes have eight devices; whoever uses no mesh runs on the first of them, as fast as if it were alone.
jax.config.update("jax_num_cpu_devices", 8)
# Many tests compile the same small programs; a second run of the suite finds them compiled.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@functools.cache
def read_golden(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(Path(__file__).parent / "golden" / f"{name}.safetensors", framework="numpy") as file:
        config = json.loads((file.metadata() or {}).get("config", "{}"))
        return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="session")
def golden():
    """golden(name) -> (config, tensors) of tests/golden/NAME.safetensors, shaped as PyTorch has them."""
    return read_golden


@pytest.fixture(scope="module")
def few_optimisations():
    """For programs that run for milliseconds and would compile for many seconds; child processes do as their parent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """tests/tiny_checkpoint, converted once a session by the command that users run."""
    root = Path(__file__).parent.parent
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    command = [sys.executable, "convert_torch_weights.py", "tests/tiny_checkpoint", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def flip_bit():
    """flip_bit(path): changes one bit in the middle of a file, which is replaced: others may be linked to its bytes."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1 << (len(content) % 8)
        path.unlink()
        path.write_bytes(content)

    return flip
