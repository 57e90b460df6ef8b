"""What a caller may ask of the sampler, whatever the task, and the checks that need no model."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Literal

from lcv_jax.bounds import Finite, GuidanceScale, SamplingSteps, Seed, Share, Shift, TextTokens, check_fields
from lcv_jax.diffusion import schedule
from lcv_jax.diffusion.schedule import Schedule
from lcv_jax.diffusion.step_cache import FEWEST_STEPS

DISTILLED_ADAPTER, REFINEMENT_ADAPTER = "cfg_step_lora", "refinement_lora"
"""The released adapters, by their file names."""
STREAM_ADAPTER = "stream_lora"
"""The adapter of self-forcing: of distilled streams, where the checkpoint has it, instead of the released one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to sample. Every task takes these as keywords.

    Raises:
        ValueError: a value out of range, or two that exclude each other.
    """

    negative_prompt: str = ""
    """What not to show. Without guidance (a scale of 1, or distilled) it is not used."""
    num_steps: SamplingSteps | None = None
    """Sampling steps. None: 50, or 16 when distilled."""
    guidance_scale: GuidanceScale | None = None
    """CFG-Zero scale; 1 is without guidance, at half the cost. None: 4, or 1 when distilled. Refinement has none."""
    distilled: bool = False
    """Few steps without guidance, with the checkpoint's distilled adapter."""
    enhance_hf: bool | None = None
    """Ten even steps at the end, for details. None: for continuation only, unless distilled."""
    sparse: bool | None = None
    """Block-sparse attention. None: for refinement only."""
    adapters: tuple[tuple[str, Finite], ...] = ()
    """Names in the checkpoint or .safetensors files, each with its multiplier. They join those that the task brings
    along (cfg_step_lora when distilled, refinement_lora for refinement), whose multiplier can be set here too."""
    shift: Shift | None = None
    """Time shift of the schedule. None: the checkpoint's."""
    max_sequence_length: TextTokens = 512
    """Tokens of a prompt; longer ones are cut."""
    seed: Seed | tuple[Seed, ...] = 0
    """Of the noise: the same one gives the same video, for a prompt alone or among others. Several: one a prompt."""
    use_cache: bool = True
    """Compute the condition's keys and values once. Without, at every step: slower, and the same video."""
    guide_condition: bool = False
    """Let condition frames count in the guidance's scale, as the published image-to-video does, to its numbers."""
    step_cache: Share = 0.0
    """Skip steps whose velocity is expected to change by less than this share, 0.05 for example: the velocity is
    extrapolated there (diffusion/step_cache.py). Nearly the same video in about half the evaluations. For one prompt at
    a time, 20 steps or more, and neither distilled nor refinement. 0: evaluate every step."""
    posterior: Literal["mode", "sample"] = "mode"
    """Of condition frames and refined videos: the latents' mean, or a draw around it."""

    def __post_init__(self) -> None:
        check_fields(self)
        names = [name for name, _ in self.adapters]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"adapters: {', '.join(twice)} more than once; add up the multipliers")
        if self.distilled and self.enhance_hf:
            raise ValueError("distilled and enhance_hf exclude each other: the distilled schedule is fixed; drop one")
        if self.step_cache and self.distilled:
            raise ValueError("distilled and step_cache exclude each other: the few distilled steps all count; drop one")
        if self.step_cache and (self.num_steps or FEWEST_STEPS) < FEWEST_STEPS:
            raise ValueError(
                f"step_cache needs num_steps of at least {FEWEST_STEPS}, got {self.num_steps}: "
                "use more steps, or leave step_cache out"
            )
        self.schedule(1.0)

    def check_batch(self, num_prompts: int) -> None:
        """Raises ValueError unless so many prompts can be sampled at once."""
        self.seeds(num_prompts)
        if self.step_cache and num_prompts > 1:
            raise ValueError(
                f"step_cache works for one prompt at a time, got {num_prompts}: which steps are skipped would depend "
                "on the other prompts; give one prompt, or leave step_cache out"
            )

    @property
    def scale(self) -> float:
        """The guidance scale, default filled in."""
        return self.guidance_scale if self.guidance_scale is not None else 1.0 if self.distilled else 4.0

    def schedule(self, shift: float, *, continuation: bool = False, t_thresh: float | None = None) -> Schedule:
        """The noise levels of the steps.

        Args:
            shift: the checkpoint's; this option's own goes first.
            continuation: of a clip, where `enhance_hf` applies.
            t_thresh: the noise level at which refinement starts; None: no refinement.
        """
        shift = self.shift if self.shift is not None else shift
        if t_thresh is not None:
            return schedule.refining(self.num_steps or 50, shift, t_thresh)
        if self.distilled:
            return schedule.distilled(self.num_steps or 16, shift)
        times = schedule.uniform(self.num_steps or 50, shift)
        enhance = continuation if self.enhance_hf is None else self.enhance_hf
        return schedule.with_fine_tail(times) if enhance else times

    @property
    def first_seed(self) -> int:
        """The seed of what all prompts share."""
        return self.seed if isinstance(self.seed, int) else self.seed[0]

    def seeds(self, batch: int) -> tuple[int, ...]:
        """One seed a prompt."""
        seeds = (self.seed,) * batch if isinstance(self.seed, int) else tuple(self.seed)
        if len(seeds) != batch:
            raise ValueError(f"give one seed, or one a prompt: got {len(seeds)} seeds for {batch} prompts")
        return seeds


def check_size(height: int, width: int, granularity: int) -> None:
    """Raises ValueError unless both are positive multiples, naming the nearest that are."""
    if height < 1 or width < 1 or height % granularity or width % granularity:
        near = [max(granularity, round(size / granularity) * granularity) for size in (height, width)]
        raise ValueError(
            f"height and width must be multiples of {granularity}, got {height} x {width}; "
            f"nearest is {near[0]} x {near[1]}"
        )


def whole_frames(num_frames: int, factor: int = 4) -> int:
    """The number of frames rounded down to 4k + 1, which is what latents decode to; warns when it rounds.

    Raises:
        ValueError: no frames.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    whole = (num_frames - 1) // factor * factor + 1
    if whole != num_frames:
        warnings.warn(
            f"num_frames must be a multiple of {factor} plus 1: rounded {num_frames} down to {whole}", stacklevel=3
        )
    return whole


def check_condition(num_cond_frames: int, num_frames: int, available: int | None = None, factor: int = 4) -> None:
    """Raises ValueError unless so many frames can be continued to so many."""
    if num_cond_frames < 1 or num_cond_frames % factor != 1 % factor:
        raise ValueError(f"num_cond_frames must be a multiple of {factor} plus 1, got {num_cond_frames}")
    if num_cond_frames >= num_frames:
        raise ValueError(f"num_frames = {num_frames} must exceed num_cond_frames = {num_cond_frames}: it includes them")
    if available is not None and available < num_cond_frames:
        raise ValueError(
            f"the clip has {available} frames, continuing needs at least num_cond_frames = {num_cond_frames}"
        )


def check_refinement(options: SamplingOptions) -> None:
    """Raises ValueError for options that mean nothing to refinement."""
    if options.negative_prompt or options.guidance_scale not in (None, 1) or options.distilled or options.enhance_hf:
        raise ValueError(
            "refinement has a schedule and an adapter of its own, and no guidance: "
            "leave out negative_prompt, guidance_scale, distilled and enhance_hf"
        )
    if options.step_cache:
        raise ValueError("refinement takes too few steps to skip any: leave out step_cache")


def check_stream(options: SamplingOptions) -> None:
    """Raises ValueError for options that a stream cannot serve."""
    if options.step_cache:
        raise ValueError("a stream evaluates every step of its short chunks: leave out step_cache")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def as_prompts(prompt: str | Sequence[str]) -> list[str]:
    """One prompt or several as a list.

    Raises:
        ValueError: no prompt at all (an empty one is fine).
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt must be a string or a list of strings, got {prompt!r}")
    return prompts
