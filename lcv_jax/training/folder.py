"""The folder of a run: who may write to it, what config it belongs to, and its checkpoints.

    RUN/config.json           the config that it was begun with
    RUN/begun.json            what else a resumed run must keep: how many steps it was begun with
    RUN/lock                  held by the process that trains
    RUN/checkpoints/STEP/     orbax: the train state and the place in the data
    RUN/metrics.jsonl  RUN/tensorboard/  RUN/samples/  RUN/profile/
    RUN/weights/              EMA weights to generate from, when it is done; RUN/weights_raw/, those of the last step

A checkpoint appears under its number only when it is whole, so that a run killed at any moment, or a disk that fills,
leaves the last good one.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from lcv_jax.training.config import CheckpointsConfig, TrainConfig, differences
from lcv_jax.training.state import TrainState

CONFIG, BEGUN = "config.json", "begun.json"


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Within, the run's folder exists and this process alone trains in it; of several processes, number 0 holds it.

    Raises:
        ValueError: a living process holds it.
    """
    if jax.process_index() != 0:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(f"{run} is in use by {holder}: wait for it, stop it, or choose another --run") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def check_config(cfg: TrainConfig) -> None:
    """Checks that the run was begun with this config, and writes it down where none was.

    Raises:
        ValueError: it was begun with another; the fields are named.
    """
    path = cfg.run / CONFIG
    now = cfg.to_json()
    if path.is_file():
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path} is damaged: delete {cfg.run}, or choose another --run") from None
        with contextlib.suppress(ValueError):  # of another version: the comparison names what
            begun = TrainConfig.from_json(begun).to_json()
        if differing := differences(begun, now):
            raise ValueError(
                f"{cfg.run} was begun with another config: {'; '.join(differing)}. "
                "Set them back, or choose another --run"
            )
    if jax.process_index() == 0:
        _write(path, now)
        if not (cfg.run / BEGUN).is_file():
            _write(cfg.run / BEGUN, {"steps": cfg.steps})


def with_warmup(cfg: TrainConfig) -> TrainConfig:
    """The config with a learning-rate warm-up that fits the run; prints a line where it had to be shortened.

    The run's length is the one that it was begun with, so that a run resumed with more steps keeps its schedule.
    """
    steps = _begun_steps(cfg)
    given = cfg.optimizer.warmup_steps
    if given <= steps:
        return cfg
    warmup = max(1, steps // 10)
    if jax.process_index() == 0:
        print(
            f"warning: optimizer.warmup_steps {given} exceeds the {steps} steps that the run was begun with: "
            f"the learning rate warms up over {warmup} instead",
            file=sys.stderr,
        )
    return dataclasses.replace(cfg, optimizer=dataclasses.replace(cfg.optimizer, warmup_steps=warmup))


def _begun_steps(cfg: TrainConfig) -> int:
    path = cfg.run / BEGUN
    if not path.is_file():
        return cfg.steps
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: delete {cfg.run}, or choose another --run") from None


def _write(path: Path, content: Any) -> None:
    work = path.with_suffix(".partial")
    work.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    work.replace(path)


class Checkpoints:
    """The checkpoints of a run, written while training goes on."""

    def __init__(self, run: Path, cfg: CheckpointsConfig):
        import orbax.checkpoint as ocp  # seconds to import

        self._ocp, self._folder = ocp, run / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=cfg.keep, keep_period=cfg.keep_every, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the last one."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: dict[str, Any], step: int) -> None:
        """Begins to save; training may go on, and give the state's memory back.

        Raises:
            OSError: this one or the one before cannot be written.
        """
        if self.latest == step:
            return
        save = self._ocp.args
        with self._naming_the_last_good():
            self._manager.save(step, args=save.Composite(state=save.StandardSave(state), data=save.JsonSave(data)))

    def wait(self) -> None:
        """Until what was begun is saved."""
        with self._naming_the_last_good():
            self._manager.wait_until_finished()

    def restore(self, shapes: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The last checkpoint, each array in the place that its shape has: another mesh than it was saved from will do.

        Raises:
            ValueError: it is damaged.
        """
        step = self.latest
        args = self._ocp.args
        try:
            found = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(shapes), data=args.JsonRestore())
            )
        except (ValueError, KeyError, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"{self._folder / str(step)} cannot be read: {reason}; delete it to go on from the one before"
            ) from None
        return found.state, found.data

    def close(self) -> None:
        """Gives up what is not saved yet."""
        self._manager.close()

    @contextlib.contextmanager
    def _naming_the_last_good(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # tensorstore reports what the system says in exceptions of other kinds.
            told = str(error)
            for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                if (isinstance(error, OSError) and error.errno == number) or os.strerror(number) in told:
                    last = f"the last good one is of step {self.latest}" if self.latest is not None else "there is none"
                    raise OSError(
                        number, f"a checkpoint cannot be written, {last}: make room and run again", str(self._folder)
                    ) from None
            raise
