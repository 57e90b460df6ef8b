"""Noise levels of the sampling steps (report section 3.6 for the coarse-to-fine start; the rest as published).

A schedule is a tuple of t in [0, 1], falling, one a step; the last step goes to 0. The network's timestep is 1000 t.
"""

import numpy as np

from lcv_jax.diffusion.flow import shift_time

Schedule = tuple[float, ...]

DISTILLED_GRID = 50
"""Steps of the grid that distilled schedules pick from."""
TAIL_START, TAIL_STEPS = 0.5, 10
"""The uniform tail that `with_fine_tail` puts in place of the shifted steps below it."""


def uniform(num_steps: int, shift: float) -> Schedule:
    """From 1 to 0.001 in even steps, shifted.

    Raises:
        ValueError: no steps, or a shift that is not above 0.
    """
    _check(num_steps, shift)
    return _shifted(np.linspace(1, 0.001, num_steps, dtype=np.float32), shift)


def distilled(num_steps: int, shift: float) -> Schedule:
    """Every (50 / num_steps)-th of 50 even steps from 1 to 0.02, shifted: what the distilled adapter was trained on.

    Raises:
        ValueError: no steps or more than 50, or a shift that is not above 0.
    """
    _check(num_steps, shift)
    if num_steps > DISTILLED_GRID:
        raise ValueError(f"a distilled schedule has at most {DISTILLED_GRID} steps, got {num_steps}")
    taken = np.floor(np.linspace(0, DISTILLED_GRID, num_steps, endpoint=False)).astype(int)
    return _shifted((1000 - taken * (1000 // DISTILLED_GRID)).astype(np.float32) / 1000, shift)


def refining(num_steps: int, shift: float, threshold: float) -> Schedule:
    """The end of a uniform schedule: from the noise level that refinement starts at.

    Raises:
        ValueError: as `uniform`, or a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the refinement's start t_thresh must lie in (0, 1], got {threshold}")
    return (threshold, *(t for t in uniform(num_steps, shift) if t < threshold))


def with_fine_tail(schedule: Schedule) -> Schedule:
    """A schedule with ten even steps from 0.5 down, where details form and a large shift leaves few ("enhance_hf")."""
    tail = np.linspace(TAIL_START, 0, TAIL_STEPS, endpoint=False, dtype=np.float32)
    return (*(t for t in schedule if t > TAIL_START), *map(float, tail))


def _check(num_steps: int, shift: float) -> None:
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
    if shift <= 0:
        raise ValueError(f"shift must be above 0 (0 makes every timestep 0), got {shift}")


def _shifted(t: np.ndarray, shift: float) -> Schedule:
    return tuple(float(shifted) for shifted in np.asarray(shift_time(t, float(shift))))
