"""The folder of a run: who may write to it, what config it belongs to, and its checkpoints.

    RUN/config.json           the config that it was begun with
    RUN/begun.json            what else it was begun with: how many steps, and the content of its checkpoints
    RUN/data.jsonl.gz         the rows of its data, and the content of their files
    RUN/lock                  held by the process that trains
    RUN/checkpoints/STEP/     orbax: the train state and the place in the data, with checksums.json
    RUN/damaged/STEP/         a checkpoint that did not match its checksums
    RUN/metrics.jsonl  RUN/tensorboard/  RUN/samples/  RUN/profile/
    RUN/weights/              EMA weights to generate from, when it is done; RUN/weights_raw/, those of the last step

A checkpoint appears under its number only when it is complete, checksums included, so that a run killed at any moment,
or a full disk, leaves the one before. A checkpoint without checksums cannot be told from a damaged one, and is refused.
"""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.checksums import DamagedError, read_checksums, share, verify, write_checksums
from lcv_jax.data.batches import MakeRows
from lcv_jax.data.config import DataConfig
from lcv_jax.data.identity import Row, check_rows, write_rows
from lcv_jax.own_files import naming_write_errors, write_json
from lcv_jax.parallel.broadcast import from_first, gather
from lcv_jax.training.config import CheckpointsConfig, TrainConfig, differences
from lcv_jax.training.state import TrainState
from lcv_jax.user_files import read_json, reading

CONFIG, BEGUN, DATA, DAMAGED = "config.json", "begun.json", "data.jsonl.gz", "damaged"
CHECKPOINTS = "checkpoints"
WRITTEN_LAST = "_CHECKPOINT_METADATA", "commit_success.txt"
"""Files of a checkpoint that orbax writes after the checksums; nothing is restored from them."""
HASHING_S = 4 * 3600
"""How long processes wait for process 0 to finish a checkpoint."""


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Within, the run's folder exists and this process alone trains in it; of several processes, number 0 holds it.

    If the run ends with an error before `begin` wrote its config, what was created for it is removed.

    Raises:
        ValueError: a living process holds it.
    """
    if jax.process_index() != 0:
        yield
        return
    known = (run / CONFIG).is_file() and (run / "lock").is_file()
    made = [path for path in (run / "lock", run, *run.parents) if not path.exists()]
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(f"{run} is in use by {holder}: wait for it, stop it, or choose another --run") from None
        try:
            with naming_write_errors(run / "lock"):
                file.seek(0)
                file.truncate()
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
            yield
        except Exception:
            if not known and not (run / BEGUN).is_file():
                _remove(run, made)
            raise


def _remove(run: Path, made: list[Path]) -> None:
    """Removes the lock and the folders that were created for a run, as far as nothing else is in them."""
    for path in (run / CHECKPOINTS, *made):
        with contextlib.suppress(OSError):
            path.unlink() if path.is_file() else path.rmdir()


def content_of(cfg: TrainConfig) -> dict[str, str]:
    """What a run reads besides its data, by content: where files are, and what they are called, does not matter."""
    found = {f"checkpoint.{name}": content for name, content in store.content_identity(cfg.checkpoint).items()}
    found = {name: content for name, content in found.items() if not name.startswith("checkpoint.adapter ")}
    adapter = cfg.adapter
    named: dict[str, str | None] = {f"fold.{name}": name for name, _ in cfg.fold}
    named |= {} if adapter is None else {"adapter.start": adapter.start, "adapter.teacher": adapter.teacher}
    found |= {field: store.adapter_identity(cfg.checkpoint, name) for field, name in named.items() if name is not None}
    if isinstance(cfg.data, DataConfig) and cfg.data.tokenizer is not None:
        found["data.tokenizer"] = store.content_identity(cfg.data.tokenizer).get("tokenizer", "absent")
    return found


def check_config(cfg: TrainConfig) -> None:
    """Checks that the run, if it was begun, was begun with this config and with checkpoints of this content.

    Raises:
        ValueError: it was begun with others; the fields are named.
    """
    path = cfg.run / CONFIG
    now = cfg.to_json()
    if path.is_file():
        begun = read_json(path, advice=f"delete {cfg.run}, or choose another --run")
        with contextlib.suppress(ValueError):  # of another version: the comparison names what
            begun = TrainConfig.from_json(begun).to_json()
        if differing := [*differences(begun, now), *_other_content(cfg)]:
            raise ValueError(
                f"{cfg.run} was begun with another config: {'; '.join(differing)}. "
                "Set them back, or choose another --run"
            )


def _other_content(cfg: TrainConfig) -> list[str]:
    begun = _read_begun(cfg.run).get("content", {})
    now = content_of(cfg) if begun else {}
    return [
        f"{name} has other content (SHA-256 was {begun.get(name, 'absent')[:12]}, is {now.get(name, 'absent')[:12]})"
        for name in sorted({*begun, *now})
        if begun.get(name) != now.get(name)
    ]


def check_data(cfg: TrainConfig, make: MakeRows) -> list[Row]:
    """Checks that the run, if it was begun, was begun with these data.

    Args:
        cfg: the run's.
        make: makes the rows of the data; called in process 0 alone.

    Returns:
        What `begin` is to write of them.

    Raises:
        ValueError: it was begun with other data; rows, fields and their values are named.
    """
    found: list[Row] = []
    from_first(lambda: found.extend(check_rows(cfg.run / DATA, make, str(cfg.run))))
    return found


def begin(cfg: TrainConfig, rows: Sequence[Row]) -> None:
    """Writes down what the run is begun with, when everything has been checked and loaded."""
    if jax.process_index() != 0:
        return
    if rows:
        write_rows(cfg.run / DATA, rows)
    write_json(cfg.run / CONFIG, cfg.to_json())
    begun = {"run": uuid.uuid4().hex, "steps": cfg.steps, "content": content_of(cfg)}
    write_json(cfg.run / BEGUN, {**begun, **_read_begun(cfg.run)})


def with_warmup(cfg: TrainConfig) -> TrainConfig:
    """The config with a learning-rate warm-up that fits the run; prints a line where it had to be shortened.

    The run's length is the one that it was begun with, so that a run resumed with more steps keeps its schedule.
    """
    steps = _read_begun(cfg.run).get("steps", cfg.steps)
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


def _read_begun(run: Path) -> dict[str, Any]:
    path = run / BEGUN
    return read_json(path, advice=f"delete {run}, or choose another --run") if path.is_file() else {}


class Checkpoints:
    """The checkpoints of a run, written while training goes on, each with checksums of all that is restored from it."""

    def __init__(self, run: Path, cfg: CheckpointsConfig):
        """Touches nothing; the first `save` clears away what an interrupted one left.

        Raises:
            ValueError: something that is not a folder is in the place of checkpoints.
        """
        self._run, self._folder, self._cfg = run, run / CHECKPOINTS, cfg
        self._manager: Any = None
        self._saving: int | None = None
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"{self._folder} is not a folder: move it away")

    @property
    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, the latest first. None is verified yet."""
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted((int(path.name) for path in found if path.name.isdigit() and path.is_dir()), reverse=True)

    @property
    def latest(self) -> int | None:
        """The step of the latest one."""
        return next(iter(self.steps), None)

    def save(self, state: TrainState, data: dict[str, Any], step: int) -> None:
        """Begins to save; training may go on, and give the state's memory back.

        Raises:
            OSError: this one or the one before cannot be written.
        """
        import orbax.checkpoint as ocp  # seconds to import

        if self._saving == step:
            return
        with naming_write_errors(self._folder):
            if self._manager is None:
                self._manager = self._open_manager()
            self._manager.wait_until_finished()
            self._saving = step
            args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
            begun = self._manager.save(step, args=args)
        if not begun:
            raise ValueError(f"{self._folder} has checkpoints after step {step}: delete them, or choose another --run")

    def wait(self) -> None:
        """Until what was begun is saved."""
        if self._manager is not None:
            with naming_write_errors(self._folder):
                self._manager.wait_until_finished()

    def restore(self, shapes: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """A checkpoint that is verified first, each array in the place of its shape, on whatever mesh it was saved.

        Args:
            shapes: of the state, with shardings.
            step: which one; None: the latest.

        Raises:
            DamagedError: a file of it is not what was written.
            ValueError: it does not fit the shapes.
        """
        import orbax.checkpoint as ocp

        folder = self._folder / str(self.latest if step is None else step)
        self._verify(folder)
        with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as reader, reading(folder):
            state = reader.restore((folder / "state").resolve(), args=ocp.args.StandardRestore(shapes))
        return state, read_json(folder / "data" / "metadata")

    def resume(self, shapes: TrainState, *, move_damaged: bool = False) -> tuple[TrainState, dict[str, Any]]:
        """The latest checkpoint that is intact; a line on stderr names each damaged one that was passed over.

        Args:
            shapes: of the state, with shardings.
            move_damaged: to RUN/damaged, so that the steps can be saved anew.

        Raises:
            ValueError: no checkpoint is intact.
        """
        faults: dict[int, str] = {}
        for step in self.steps:
            try:
                restored = self.restore(shapes, step)
            except DamagedError as error:
                faults[step] = str(error)
                continue
            for damaged, fault in faults.items():
                moved = f"; moved to {self._move_away(damaged)}" if move_damaged else ""
                _say(f"warning: {fault}{moved}; resuming from the checkpoint before it, of step {step}")
            return restored
        raise ValueError(
            f"no checkpoint in {self._folder} is intact: {'; '.join(faults.values())}. Put a copy in its place, or "
            "delete the folder to train from the beginning"
        )

    def close(self) -> None:
        """Gives up what is not saved yet, and removes the files of a checkpoint that could not be written."""
        if self._manager is None:
            return
        try:
            with naming_write_errors(self._folder):
                self._manager.close()
        finally:
            if jax.process_index() == 0:
                for partial in self._folder.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(partial, ignore_errors=True)

    def _open_manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._cfg.keep,
            keep_period=self._cfg.keep_every,
            cleanup_tmp_directories=True,
            # Called by process 0 between the last write and the renaming that makes the checkpoint complete. The others
            # wait for it, longer than hashing takes.
            async_options=ocp.AsyncOptions(timeout_secs=HASHING_S, post_finalization_callback=self._write_checksums),
        )
        return ocp.CheckpointManager(self._folder.resolve(), options=options)

    def _write_checksums(self) -> None:
        (partial,) = self._folder.glob(f"{self._saving}.*tmp*")
        run = _read_begun(self._run).get("run")
        write_checksums(partial, without=WRITTEN_LAST.__contains__, step=self._saving, run=run)

    def _verify(self, folder: Path) -> None:
        """Each process verifies its share of the files, and all of them raise if one does."""
        fault = ""
        try:
            recorded = read_checksums(folder)
            if str(recorded["facts"].get("step")) != folder.name:
                raise DamagedError(f"it is the checkpoint of step {recorded['facts'].get('step')}")
            if recorded["facts"].get("run") not in (None, _read_begun(self._run).get("run")):
                raise DamagedError("it is the checkpoint of another run")
            verify(folder, share(recorded["files"], jax.process_index(), jax.process_count()))
        except DamagedError as error:
            fault = str(error)
        fault = next((one.decode() for one in gather(fault.encode()) if one), "")
        if fault:
            raise DamagedError(f"{folder} is damaged ({fault.removeprefix(f'{folder}/')})")

    def _move_away(self, step: int) -> Path:
        dest = self._run / DAMAGED / str(step)
        if jax.process_index() == 0:
            shutil.rmtree(dest, ignore_errors=True)
            dest.parent.mkdir(exist_ok=True)
            (self._folder / str(step)).rename(dest)
        gather(b"moved")
        return dest


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, file=sys.stderr)
