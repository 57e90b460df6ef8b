"""Where a result comes from: device, versions, date, command."""

import datetime
import importlib.metadata
import platform
from typing import Any

import jax

VERSIONS_TOLD = ("jax", "flax", "nvidia-cuda-nvcc", "nvidia-cudnn", "triton")


def facts(command: str) -> dict[str, Any]:
    """Of this process and its first device."""
    device = jax.devices()[0]
    installed = {package.name: package.version for package in importlib.metadata.distributions()}
    versions = {name: version for name, version in sorted(installed.items()) if name.startswith(VERSIONS_TOLD)}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "device": device.device_kind,
        "platform": " ".join(device.client.platform_version.split()),
        "machine": platform.processor() or platform.machine(),
        "versions": {"python": platform.python_version(), **versions},
    }


def reason(error: BaseException) -> str:
    """The part of an error that fits a table."""
    text = str(error).strip()
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:160]
