"""Eight CPU devices for all tests, quick compilation, and shared fixtures: the golden numbers, read once a session."""

import contextlib
import ctypes
import functools
import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

# Tests of meshes have eight devices; whoever uses no mesh runs on the first of them, as fast as if it were alone.
jax.config.update("jax_num_cpu_devices", 8)
# Programs of tests run for milliseconds and compile for seconds: leave out what only makes them fast.
# In the environment, so that child processes do as their parent. XLA's compiler for GPUs, where it is installed,
# compiles as it would for users.
FEW_OPTIMIZATIONS = importlib.util.find_spec("jax_cuda12_plugin") is None
if FEW_OPTIMIZATIONS:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    flags = ["--xla_backend_optimization_level=1", "--xla_cpu_parallel_codegen_split_count=1"]
    if jax.__version_info__ < (0, 11):  # later ones have no other emitters
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
# Traces and what they annotate are many objects that live long: look for garbage less often.
gc.set_threshold(100_000, 20, 100)
# Many tests compile the same small programs; a second run of the suite finds them compiled.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Programs of one file are hardly ever those of the next, and all of a session's fill gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps what is freed unless it is asked
        trim(0)


@pytest.fixture
def some_optimizations():
    """For programs that run for longer than they compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", FEW_OPTIMIZATIONS)


@pytest.fixture
def few_devices(monkeypatch):
    """Training runs use as many CPU devices as their config says."""
    from lcv_jax import train

    make_mesh = train.make_mesh
    monkeypatch.setattr(
        train, "make_mesh", lambda data, fsdp, seq: make_mesh(data, fsdp, seq, jax.devices()[: abs(data) * fsdp * seq])
    )


@functools.cache
def read_golden(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(Path(__file__).parent / "golden" / f"{name}.safetensors", framework="numpy") as file:
        config = json.loads((file.metadata() or {}).get("config", "{}"))
        return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="session")
def golden():
    """golden(name) -> (config, tensors) of tests/golden/NAME.safetensors, shaped as PyTorch has them."""
    return read_golden


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


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium without a window; the log of its console is kept."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("the browser test needs chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The last two: tabs that nobody looks at go on at full speed.
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    ):  # fmt: skip
        options.add_argument(argument)
    service = importlib.import_module("selenium.webdriver.chrome.service").Service(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def compiled_for_here(monkeypatch):
    """The compiler for this machine stands in for that of GPUs, which are as many CPU devices."""
    from lcv_jax import gpus
    from lcv_jax.planning import compiling

    monkeypatch.setattr(gpus, "described_devices", lambda name, count, *_: jax.devices("cpu")[:count])
    monkeypatch.setattr(compiling, "compiling_for", lambda platform: contextlib.nullcontext())
