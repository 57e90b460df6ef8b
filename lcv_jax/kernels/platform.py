"""The platform that a program is traced for: the default device's, unless it is compiled for one that is not here."""

import jax

compiling_for = jax.make_user_context(default_value=None)
"""`with compiling_for("gpu"):` traces for a GPU on a machine without one; jit caches know the difference."""


def target_platform() -> str:
    """One of cpu, gpu, tpu."""
    if compiling_for.value is not None:
        return compiling_for.value
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", device)
