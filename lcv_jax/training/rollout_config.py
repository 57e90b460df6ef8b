"""What GRPO samples, with which noise, and how it is judged."""

import dataclasses
import math
from typing import Literal

from lcv_jax.diffusion import schedule as schedules
from lcv_jax.rewards.config import RewardsConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SDEConfig:
    """Where noise comes in, and how much."""

    noisy_steps: Literal["critical", "all"] = "critical"
    """Of one step alone; or of all but the last, as plain flow-GRPO has it, where the critical one is that which is
    learnt from."""
    amplitude: float = 1.0
    """Of the diffusion coefficient."""
    threshold: float | None = 0.45
    """A step's deviation is at most this. None: it is not cut."""

    def __post_init__(self) -> None:
        if not 0 < self.amplitude < math.inf:
            raise ValueError(f"amplitude must be above 0, got {self.amplitude}")
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold must be above 0, or None, got {self.threshold}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What is sampled, and how it is judged (report, table 9)."""

    rewards: RewardsConfig
    """Who scores the videos, and with which weights."""
    prompts: int = 64
    """Captions of a rollout, a group each, over all devices."""
    group_size: int = 4
    """Videos of a group."""
    prompts_at_once: int = 8
    """Captions that are sampled together; each such part has a critical step of its own."""
    num_steps: int = 16
    """Of sampling."""
    critical_steps: int = 6
    """The first so many steps are those that the critical one is drawn from."""
    shift: float = 12.0
    """Time shift of the sampling schedule."""
    sde: SDEConfig = SDEConfig()
    """Where noise comes in."""
    spread: Literal["largest", "group"] = "largest"
    """What advantages are divided by: the largest standard deviation of all groups, or each group's own."""
    passes: int = 1
    """How often each video is learnt from before the next rollout."""
    fps: float = 15.0
    """Frames a second that rewards are told."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(
                f"group_size must be at least 2: a video is compared with its group; got {self.group_size}"
            )
        if min(self.prompts, self.prompts_at_once, self.passes) < 1 or self.prompts % self.prompts_at_once:
            raise ValueError(
                "prompts, prompts_at_once and passes must be at least 1, and prompts a multiple of prompts_at_once; "
                f"got {self.prompts}, {self.prompts_at_once} and {self.passes}"
            )
        if not 1 <= self.critical_steps < self.num_steps:
            raise ValueError(
                f"critical_steps must lie in 1..num_steps - 1 = {self.num_steps - 1}: the last step has no noise; "
                f"got {self.critical_steps}"
            )
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be above 0, got {self.fps}")
        schedules.uniform(self.num_steps, self.shift)  # refuses what is out of range
