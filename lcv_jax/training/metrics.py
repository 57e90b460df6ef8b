"""What is measured while training: lines of metrics.jsonl, curves in TensorBoard, a line on the console.

Numbers of a step stay on the device until a line is due, so that nothing waits for them.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from lcv_jax.data.media_writer import write_image
from lcv_jax.own_files import naming_write_errors, write_json, write_text
from lcv_jax.training.board import TensorBoard
from lcv_jax.training.config import LoggingConfig
from lcv_jax.training.console import PARTS, REWARD, ConsoleLines
from lcv_jax.training.step import Measured

JSONL = "metrics.jsonl"
RISES, RISES_OVER_FIRST = 10.0, 2.0
"""A run has diverged when the loss is so many times its lowest, and so many times its first. The loss on held-out clips
has the same noise each time, so that a multiple of its first is enough. It is what finds adapters that diverge: norms
of the frozen network bound their output, and their training loss stays near that of a random guess."""
RISES_AT_ONCE, LEAST_FIRST = 100.0, 1e-3
"""A run has also diverged when its first line's loss is so many times that of its first step: many, as a step's loss is
noisy. Below `LEAST_FIRST` it is of a network that begins as what it is compared with."""


@dataclasses.dataclass
class Work:
    """What a step cost besides its numbers."""

    task: str
    tokens: int
    flops: float
    waited: float
    """Seconds until its batch was there."""
    told: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What there is to say of its batch."""


class Metrics:
    """Collects steps, and writes a line for every `cfg.every` of them. Only process 0 writes."""

    def __init__(self, run: Path, cfg: LoggingConfig, *, first_step: int, last_step: int, peak_flops: float | None):
        """Opens the files of a run that goes on after `first_step`; lines of later steps, of a run that was killed, go.

        Args:
            peak_flops: of all devices a second; None: unknown, and no utilisation is told.
        """
        self._cfg, self._peak = cfg, peak_flops
        self._pending: list[tuple[int, Measured, Work]] = []
        self._since = time.perf_counter()
        self._compiled: set[Any] = set()
        self._paused = 0.0
        self._lowest = self._first_loss = math.inf
        self._first_validation: float | None = None
        self._good, self._begins = 0, first_step == 0
        self._writes = jax.process_index() == 0
        self._file = run / JSONL
        if self._file.is_file():
            kept = [line for line in _whole_lines(self._file) if line["step"] <= first_step]
            for line in kept:
                if (loss := line.get("validation_loss")) is not None:
                    self._remember_validation(loss, line["step"])
            if self._writes:
                write_text(self._file, "".join(json.dumps(line) + "\n" for line in kept))
        if not self._writes:
            return
        self._board = TensorBoard(run / "tensorboard", first_step + 1)
        self._console = ConsoleLines(first_step, last_step)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._writes:
            self._console.close()
            self._board.close()

    def add(self, step: int, measured: Measured, work: Work) -> dict[str, Any] | None:
        """Takes a step in; returns the line if one is due."""
        self._pending.append((step, measured, work))
        return self.flush() if step % self._cfg.every == 0 else None

    def flush(self) -> dict[str, Any] | None:
        """Writes a line about the steps since the last."""
        if not self._pending:
            return None
        steps, measured, work = zip(*self._pending, strict=True)
        self._pending = []
        fetched: list[dict[str, Any]] = jax.device_get(list(measured))
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        line: dict[str, Any] = {"step": steps[-1], **self._summary(fetched, work)}
        line["step_seconds"] = seconds / len(steps)
        line["tokens_per_second"] = sum(one.tokens for one in work) / seconds
        line["tflops_per_second"] = sum(one.flops for one in work) / seconds / 1e12
        if self._peak:
            line["mfu"] = sum(one.flops for one in work) / seconds / self._peak
        line["data_wait"] = sum(one.waited for one in work) / seconds
        if parts := [value for name, value in line.items() if name.startswith(PARTS)]:
            line[f"{PARTS}update"] = line["step_seconds"] - sum(parts)
        memory = jax.local_devices()[0].memory_stats()
        if memory:
            line["device_gb"] = memory.get("peak_bytes_in_use", 0) / 1e9
        if self._writes:
            self._append(line)
            for name, value in line.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, line["step"])
            self._console.show(line)
        self._check_diverged(line, first=float(fetched[0]["loss"]))
        return line

    def _check_diverged(self, line: Mapping[str, Any], *, first: float) -> None:
        """Raises FloatingPointError where the loss has exploded; before a checkpoint of such weights is written.

        Args:
            line: of the steps since the last.
            first: the loss of the first of them.
        """
        loss = line["loss"]
        if loss is None or any(name.startswith(REWARD) for name in line):
            return
        if math.isinf(self._first_loss):
            self._first_loss = loss
            if self._begins and first > LEAST_FIRST and loss > RISES_AT_ONCE * first:
                raise FloatingPointError(
                    f"training diverged: at step {line['step']} the loss is {loss:.3g} on average, after {first:.3g} "
                    "at the first step; start another --run with a lower optimizer.learning_rate"
                )
        self._lowest = min(self._lowest, loss)
        if loss > max(RISES * self._lowest, RISES_OVER_FIRST * self._first_loss) > 0:
            raise FloatingPointError(
                f"training diverged: at step {line['step']} the loss is {loss:.3g}, after {self._lowest:.3g} at its "
                "lowest. The last checkpoint in the run's folder is from before; lower optimizer.learning_rate"
            )

    def check_validation(self, loss: float, step: int) -> None:
        """Raises FloatingPointError where the loss on held-out clips is far above the one before the first step."""
        first = self._first_validation
        if first is not None and first > 0 and not loss <= RISES_OVER_FIRST * first:
            good = f"Checkpoints up to step {self._good} are good" if self._good else "There is no good checkpoint"
            raise FloatingPointError(
                f"training diverged: at step {step} the validation loss is {loss:.3g}, after {first:.3g} before the "
                f"first step. {good}; start another --run with a lower optimizer.learning_rate"
            )
        self._remember_validation(loss, step)

    def _remember_validation(self, loss: float, step: int) -> None:
        if self._first_validation is None:
            self._first_validation = loss
        if loss <= RISES_OVER_FIRST * self._first_validation:
            self._good = step

    def add_image(self, name: str, image_HWC: np.ndarray, step: int) -> None:
        """A picture, in RUN/NAME/STEP.png and for TensorBoard."""
        if self._writes:
            write_image(self._folder(name) / f"{step:08d}.png", image_HWC)
            self._board.add_image(name, image_HWC, step)

    def add_probes(self, found: Mapping[str, Mapping[str, float]], step: int) -> None:
        """What was found in the samples of several models, in RUN/samples/STEP.json and for TensorBoard."""
        if not self._writes:
            return
        write_json(self._folder("samples") / f"{step:08d}.json", found)
        for model, values in found.items():
            for name, value in values.items():
                self._board.add_scalar(f"probe/{name}/{model}", value, step)

    def _append(self, line: Mapping[str, Any]) -> None:
        with naming_write_errors(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _folder(self, name: str) -> Path:
        folder = self._file.parent / name
        folder.mkdir(exist_ok=True)
        return folder

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within, time does not count: what is done is no part of a step, such as sampling."""
        began, before = time.perf_counter(), self._paused
        yield
        seconds = time.perf_counter() - began - (self._paused - before)  # less what was paused within
        self._paused += seconds
        self._since += seconds
        if self._writes:
            self._console.pause(seconds)

    @contextlib.contextmanager
    def compiling(self, name: str, key: Any) -> Iterator[None]:
        """Within, what is done for the first time with this key compiles; the console says so, and time does not count.

        Args:
            name: of what compiles, for the console.
            key: the program.
        """
        if key in self._compiled:
            yield
            return
        self._compiled.add(key)
        self.note(f"compiling {name} ...")
        began = time.perf_counter()
        with self.paused():
            yield
        self.note(f"compiled {name} in {time.perf_counter() - began:.0f} s")

    def note(self, text: str) -> None:
        """A line on the console."""
        if self._writes:
            self._console.note(text)

    def add_values(self, values: Mapping[str, float], step: int) -> None:
        """Numbers besides a step, such as a validation loss, in metrics.jsonl, for TensorBoard and on the console."""
        if not self._writes:
            return
        self._append({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        told = ", ".join(f"{name.rpartition('/')[2].replace('_', ' ')} {value:.4g}" for name, value in values.items())
        self.note(f"step {step}: {told}")

    def _summary(self, fetched: list[dict[str, Any]], work: tuple[Work, ...]) -> dict[str, float | None]:
        """Means over steps; errors by task and by time. None is a value that is not finite: JSON has no word for it."""
        scalars = [name for name, value in fetched[0].items() if np.ndim(value) == 0 and name != "finite"]
        line = {name: float(np.mean([one[name] for one in fetched if name in one])) for name in scalars}
        told = sorted({name for one in work for name in one.told})
        line |= {name: float(np.mean([one.told[name] for one in work if name in one.told])) for name in told}
        line["not_finite"] = sum(not one["finite"] for one in fetched)
        for task in sorted({one.task for one in work}):
            losses = [one["loss"] for one, its in zip(fetched, work, strict=True) if its.task == task]
            line[f"loss/{task}"] = float(np.mean(losses))
        if "t_B" in fetched[0]:
            line |= self._errors_by_time(fetched)
        return {name: value if math.isfinite(value) else None for name, value in line.items()}

    def _errors_by_time(self, fetched: list[dict[str, Any]]) -> dict[str, float]:
        errors = np.concatenate([one["error_B"] for one in fetched])
        times = np.concatenate([one["t_B"] for one in fetched])
        bins = np.clip((times * self._cfg.timestep_bins).astype(int), 0, self._cfg.timestep_bins - 1)
        line = {}
        for number in np.unique(bins):
            low, high = number / self._cfg.timestep_bins, (number + 1) / self._cfg.timestep_bins
            line[f"error/t_{low:.2f}-{high:.2f}"] = float(errors[bins == number].mean())
        return line


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file whose last one may be cut off."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
