"""Rewards by name: "module:factory", a function or class whose call gives a reward."""

import importlib
from collections.abc import Mapping
from typing import Any

from lcv_jax.user_files import running


def make_reward(factory: str, options: Mapping[str, Any] | None = None) -> Any:
    """What the factory gives, called with `options` as keywords.

    Raises:
        ValueError: the text is not of this form, the module has no such factory, what it gives is no reward, or one of
            them raises an exception; the line is named.
    """
    module_name, _, attribute = factory.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"a reward is named module:factory, such as lcv_jax.toy.rewards:alignment; got {factory!r}")
    with running(factory):
        made: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(made, part):
            known = ", ".join(sorted(name for name in vars(made) if not name.startswith("_"))[:20])
            raise ValueError(f"{factory}: no {part} there; it has {known}")
        made = getattr(made, part)
    if not callable(made):
        raise ValueError(f"{factory} is {type(made).__name__}; a factory is called and gives a reward")
    with running(factory):
        reward = made(**(options or {}))
    if not callable(getattr(reward, "score", None)) or not getattr(reward, "names", None):
        raise ValueError(f"{factory} gave {type(reward).__name__}; a reward has `names` and `score`")
    return reward
