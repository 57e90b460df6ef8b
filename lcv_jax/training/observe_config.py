"""What a run shows of itself along the way: samples, the loss on held-out clips, scores of a suite."""

import dataclasses
from pathlib import Path

from lcv_jax.bounds import Count, Fps, FrameCount, GuidanceScale, Pixels, SamplingSteps, Seed, check_fields
from lcv_jax.rewards.config import RewardSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Videos made along the way, always of the same prompts and noise."""

    every: Count | None = None
    """Steps between two grids in RUN/samples; a run also begins with one, and makes one at a quarter of the first
    `every` steps. None: no samples."""
    prompts: tuple[str, ...] = ()
    """One video each; they are made as one batch."""
    num_frames: FrameCount = 93
    """Of each, 4k + 1."""
    size: tuple[Pixels, Pixels] = (480, 832)
    """Height and width."""
    num_steps: SamplingSteps = 50
    """Sampling steps."""
    guidance_scale: GuidanceScale = 4.0
    """Of CFG-Zero; 1 is without."""
    distilled: bool = False
    """Use the schedule of distilled models, without guidance."""
    seed: Seed = 0
    """Of the noise."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.every is not None and not self.prompts:
            raise ValueError("samples.every needs samples.prompts, got none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The loss on clips that are not trained on: the same clips, noise and times each time, so that values compare."""

    every: Count | None = None
    """Steps between two validations; one comes before the first step too. None: no validation."""
    path: Path | None = None
    """Its clips, of the same kind as data.path. None: those that data.held_out keeps back."""
    batches: Count = 4
    """How many batches it is averaged over; clips repeat where there are fewer, with other noise."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Scores of a suite's videos along the way.

    Videos are sampled as `samples` says (size, frames, steps, guidance, seed), always with the same noise: that of
    `lcv_jax.evaluate sample` with this seed.
    """

    every: Count | None = None
    """Steps between two evaluations; one comes before the first step too. None: no evaluation."""
    suite: str = "toy"
    """A suite file (.jsonl), or `general` or `toy`, which come with the package. Its text-to-video prompts count."""
    num_prompts: Count = 16
    """So many of them, evenly over the suite."""
    batch: Count = 4
    """Videos at once."""
    fps: Fps = 15.0
    """Frames a second that measures and judges are told."""
    judges: tuple[RewardSource, ...] = ()
    """Rewards that score the videos besides the measures, which need no weights. Their weights count nothing here."""

    def __post_init__(self) -> None:
        check_fields(self)
