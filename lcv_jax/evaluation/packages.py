"""Packages of the `evaluate` extra, imported where they are used."""

import importlib
from types import ModuleType


def evaluation_package(name: str) -> ModuleType:
    """Imports a package of the `evaluate` extra.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'evaluation needs the package {name.split(".")[0]}: pip install "lcv_jax[evaluate]"'
        ) from error
