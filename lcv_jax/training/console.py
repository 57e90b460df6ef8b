"""What a run prints: each line of metrics, what it is waiting for, and the time left, in which nothing once counts."""

import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

REWARD = "reward/"
"""Names of rewards begin so."""
PARTS = "seconds/"
"""Names of what a step's time went to begin so, where its batch tells."""


def note(text: str) -> None:
    """A line on the console of the first process."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


class ConsoleLines:
    """A line for each line of metrics; in a terminal, a bar below them."""

    def __init__(self, first_step: int, last_step: int):
        self._last, self._first, self._started, self._paused = last_step, first_step, time.monotonic(), 0.0
        console = Console(file=sys.stderr)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", total=last_step, completed=first_step)

    def pause(self, seconds: float) -> None:
        """Takes time that was no part of a step out of the time left."""
        self._paused += seconds

    def note(self, text: str) -> None:
        """A line, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, line: Mapping[str, Any]) -> None:
        """A line of metrics."""
        spent = time.monotonic() - self._started - self._paused
        left = (self._last - line["step"]) * spent / max(1, line["step"] - self._first)
        self.note(f"step {line['step']} of {self._last}: {_text_of(line)}, {_duration(left)} left")
        if self._bar:
            self._bar.update(self._task, completed=line["step"], description=f"{_duration(left)} left")

    def close(self) -> None:
        """Ends the bar."""
        if self._bar:
            self._bar.stop()


def _text_of(line: Mapping[str, Any]) -> str:
    loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
    text = f"loss {loss}, {line['step_seconds']:.3g} s a step"
    rewards = {name.removeprefix(REWARD): value for name, value in line.items() if name.startswith(REWARD)}
    if rewards:  # the loss of GRPO says little: it is near 0 throughout
        text = text.replace(f"loss {loss}", ", ".join(f"{name} {value:.3f}" for name, value in rewards.items()))
    parts = {name.removeprefix(PARTS): value for name, value in line.items() if name.startswith(PARTS)}
    if parts:
        told = (f"{name} {seconds / line['step_seconds']:.0%}" for name, seconds in parts.items())
        text += f" ({', '.join(told)})"
    return text


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
