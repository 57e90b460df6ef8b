"""Which rewards a run uses, how each is reached, and how much each counts."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from lcv_jax.bounds import Bounds, Finite, Seconds, Whole, check_fields
from lcv_jax.rewards.collect import FailurePolicy, Scorer
from lcv_jax.rewards.local import LocalConfig, LocalReward
from lcv_jax.rewards.process import ProcessConfig, ProcessReward
from lcv_jax.rewards.protocol import Reward
from lcv_jax.rewards.remote import RemoteConfig, RemoteReward

_NEEDS = {"local": "factory", "process": "command", "http": "urls"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardSource:
    """One place that rewards come from."""

    where: Literal["local", "process", "http"] = "local"
    """In this process, in one that is started, or behind HTTP."""
    weights: tuple[tuple[str, Finite], ...] = ()
    """Names of rewards and what each counts in the sum of advantages; others that the source gives count nothing."""
    factory: str = ""
    """local: module:factory."""
    options: tuple[tuple[str, bool | int | float | str], ...] = ()
    """local: keywords of the factory."""
    command: tuple[str, ...] = ()
    """process: its Python, -m lcv_jax.rewards.worker, module:factory."""
    environment: tuple[tuple[str, str], ...] = ()
    """process: variables that differ from this process's."""
    urls: tuple[str, ...] = ()
    """http: the replicas."""
    media: Literal["npz", "mp4"] = "npz"
    """process, http: how clips are sent; mp4 is smaller and lossy."""

    def __post_init__(self) -> None:
        check_fields(self)
        for where, field in _NEEDS.items():
            if where == self.where and not getattr(self, field):
                raise ValueError(f"a reward that is {where} needs {field}")
            if where != self.where and getattr(self, field):
                raise ValueError(f"{field} is of a reward that is {where}, this one is {self.where}")

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.factory or " ".join(self.command) or ", ".join(self.urls)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardsConfig:
    """All rewards of a run."""

    sources: tuple[RewardSource, ...]
    """Their rewards have different names."""
    on_failure: Literal["drop", "stop"] = "drop"
    """Where a score lacks: drop the clip's group, or end the run."""
    max_failed: Whole = 10
    """Batches in a row in which no clip has all its scores; one more ends the run."""
    timeout: Seconds = 600.0
    """Seconds for a reward to score one batch, each time it is asked."""
    start_timeout: Seconds = 600.0
    """Seconds for a process to be ready, or a server to tell its names."""
    retries: Annotated[int, Bounds(least=0, most=1000)] = 2
    """How often a process or server that failed is asked again before the batch is given up."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sources:
            raise ValueError("rewards.sources is empty: give at least one")
        names = [name for source in self.sources for name, _ in source.weights]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"weights name {', '.join(twice)} more than once")
        total = math.fsum(self.weights.values())
        if total == 0:
            told = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items()) or "none"
            raise ValueError(f"weights must not sum to zero, got {told}")

    @property
    def weights(self) -> dict[str, float]:
        """Of all rewards that have one."""
        return {name: weight for source in self.sources for name, weight in source.weights}


def open_rewards(cfg: RewardsConfig) -> Scorer:
    """Starts and reaches everything.

    Raises:
        ValueError: a weight is for a reward that its source does not give, two rewards have the same name, or a source
            cannot be reached (`RewardError`).
        ImportError: the module of a local reward cannot be imported.
    """
    rewards: list[Reward] = []
    try:
        for source in cfg.sources:
            rewards.append(
                open_reward(source, timeout=cfg.timeout, start_timeout=cfg.start_timeout, retries=cfg.retries)
            )
        _check_provided(cfg.sources, rewards)
        return Scorer(rewards, FailurePolicy(on_failure=cfg.on_failure, max_failed=cfg.max_failed))
    except BaseException:
        for reward in rewards:
            getattr(reward, "close", lambda: None)()
        raise


def open_reward(
    source: RewardSource, *, timeout: float = 600.0, start_timeout: float = 600.0, retries: int = 2
) -> Reward:
    """Starts or reaches one source; the arguments are those of `RewardsConfig`.

    Raises:
        ValueError: the source cannot be reached (`RewardError`), or its factory gives no reward.
        ImportError: the module of a local reward cannot be imported.
    """
    if source.where == "local":
        return LocalReward(LocalConfig(factory=source.factory, options=source.options, timeout=timeout))
    common: dict[str, Any] = {
        "timeout": timeout,
        "start_timeout": start_timeout,
        "retries": retries,
        "media": source.media,
    }
    if source.where == "process":
        return ProcessReward(ProcessConfig(command=source.command, environment=source.environment, **common))
    return RemoteReward(RemoteConfig(urls=source.urls, **common))


def _check_provided(sources: Sequence[RewardSource], rewards: Sequence[Reward]) -> None:
    for source, reward in zip(sources, rewards, strict=True):
        unknown = [name for name, _ in source.weights if name not in reward.names]
        if unknown:
            provided = "; ".join(
                f"{other.place}: {', '.join(given.names)}" for other, given in zip(sources, rewards, strict=True)
            )
            raise ValueError(f"{source.place} gives no reward {', '.join(unknown)}; there are {provided}")
