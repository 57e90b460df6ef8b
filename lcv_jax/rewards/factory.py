"""Rewards by name: "module:factory", a function or class whose call gives a reward."""

import importlib
from collections.abc import Mapping
from typing import Any

from lcv_jax.user_files import running


def make_reward(factory: str, options: Mapping[str, Any] | None = None) -> Any:
    """The reward that the factory gives, called with `options` as keywords.

    Raises:
        ValueError: as `call_factory`, or what it gives is no reward.
    """
    reward = call_factory(factory, options, "a reward", "lcv_jax.toy.rewards:alignment")
    if not callable(getattr(reward, "score", None)) or not getattr(reward, "names", None):
        raise ValueError(f"{factory} gave {type(reward).__name__}; a reward has `names` and `score`")
    return reward


def call_factory(factory: str, options: Mapping[str, Any] | None, what: str, example: str) -> Any:
    """What "module:factory" gives, called with `options` as keywords.

    Args:
        what, example: for messages: what is named so, and such a name.

    Raises:
        ValueError: the text is not of this form, the module has no such factory, or one of them raises an exception;
            the line is named.
    """
    module_name, _, attribute = factory.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{what} is named module:factory, such as {example}; got {factory!r}")
    with running(factory):
        made: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(made, part):
            known = ", ".join(sorted(name for name in vars(made) if not name.startswith("_"))[:20])
            raise ValueError(f"{factory}: no {part} there; it has {known}")
        made = getattr(made, part)
    if not callable(made):
        raise ValueError(f"{factory} is {type(made).__name__}; a factory is called and gives {what}")
    with running(factory):
        return made(**(options or {}))
