"""Packages of the extras in pyproject.toml, imported where they are used."""

import importlib
from types import ModuleType


def import_extra(name: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module of a package that an extra installs.

    Args:
        name: of the module.
        extra: of pyproject.toml.
        purpose: what the package is needed for, the beginning of the message.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(f'{purpose} the package {package}: pip install "lcv_jax[{extra}]"') from error
