"""What GRPO samples, with which noise, and how it is judged."""

import dataclasses
from typing import Annotated, Literal

from lcv_jax.bounds import Bounds, Count, Fps, Positive, SamplingSteps, Shift, check_fields
from lcv_jax.rewards.config import RewardsConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SDEConfig:
    """Where noise comes in, and how much."""

    noisy_steps: Literal["critical", "all"] = "critical"
    """Of one step alone; or of all but the last, as plain flow-GRPO has it, where the critical one is that which is
    learnt from."""
    amplitude: Annotated[float, Bounds(above=0, most=100)] = 1.0
    """Of the diffusion coefficient."""
    threshold: Positive | None = 0.45
    """A step's deviation is at most this. None: it is not cut."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What is sampled, and how it is judged (report, table 9)."""

    rewards: RewardsConfig
    """Who scores the videos, and with which weights."""
    prompts: Count = 64
    """Captions of a rollout, a group each, over all devices."""
    group_size: Annotated[int, Bounds(least=2, most=2**16)] = 4
    """Videos of a group."""
    prompts_at_once: Count = 8
    """Captions that are sampled together; each such part has a critical step of its own."""
    num_steps: SamplingSteps = 16
    """Of sampling."""
    critical_steps: Count = 6
    """The first so many steps are those that the critical one is drawn from."""
    shift: Shift = 12.0
    """Time shift of the sampling schedule."""
    sde: SDEConfig = SDEConfig()
    """Where noise comes in."""
    spread: Literal["largest", "group"] = "largest"
    """What advantages are divided by: the largest standard deviation of all groups, or each group's own."""
    passes: Count = 1
    """How often each video is learnt from before the next rollout."""
    fps: Fps = 15.0
    """Frames a second that rewards are told."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.prompts % self.prompts_at_once:
            raise ValueError(
                f"prompts must be a multiple of prompts_at_once, got {self.prompts} and {self.prompts_at_once}"
            )
        if self.critical_steps >= self.num_steps:
            raise ValueError(
                f"critical_steps must lie in 1..num_steps - 1 = {self.num_steps - 1}: the last step has no noise; "
                f"got {self.critical_steps}"
            )
