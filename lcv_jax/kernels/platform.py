"""The platform that a program is traced for: the default device's, unless it is compiled for one that is not here."""

import jax

compiling_for = jax.make_user_context(default_value=None)
"""`with compiling_for("gpu"):` traces for a GPU on a machine without one; jit caches know the difference.

"gpu:8.9" is one of that compute capability; without, it is taken to be Hopper, "gpu:9.0"."""

HOPPER = (9, 0)


def target_platform() -> str:
    """One of cpu, gpu, tpu."""
    if compiling_for.value is not None:
        return compiling_for.value.partition(":")[0]
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def compute_capability() -> tuple[int, int]:
    """Of the NVIDIA GPU that a program is traced for; Hopper's where there is none to ask."""
    if compiling_for.value is not None:
        number = compiling_for.value.partition(":")[2]
    elif target_platform() in ("gpu", "cuda"):
        number = getattr(jax.local_devices(backend="gpu")[0], "compute_capability", "")
    else:
        number = ""
    major, _, minor = str(number).partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() else HOPPER


def has_large_shared_memory() -> bool:
    """Whether a program can have 227 KiB of it, as on the data centre GPUs since Hopper; others have 99 or 163."""
    return compute_capability()[0] in (9, 10)
