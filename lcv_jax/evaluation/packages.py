"""Packages of the `evaluate` extra, imported where they are used."""

from types import ModuleType

from lcv_jax.extras import import_extra


def evaluation_package(name: str) -> ModuleType:
    """Imports a package of the `evaluate` extra.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    return import_extra(name, "evaluate", "evaluation needs")
