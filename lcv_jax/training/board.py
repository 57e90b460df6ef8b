"""Scalars and images for TensorBoard, written by the thread that adds them.

tensorboardX's own SummaryWriter writes in a thread, which a full disk ends with a traceback, and later calls then wait
for that thread for ever.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.own_files import naming_write_errors

FLUSH_SECONDS = 30
"""Between two times that what was added goes to the disk, for those who watch."""


class TensorBoard:
    """The events of a run from a step on; a reader ignores earlier ones of that step and later.

    Args:
        folder: a file is added to it.
        first_step: the first that is going to be written.
    """

    def __init__(self, folder: Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        self._folder, self._flushed = folder, time.monotonic()
        with naming_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = EventsWriter(str(folder.resolve() / "events"))
        self._write(first_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: float | int, step: int) -> None:
        """A point of a curve."""
        from tensorboardX.summary import scalar

        self._write(step, summary=scalar(name, value))

    def add_image(self, name: str, image_HWC: np.ndarray, step: int) -> None:
        """A picture."""
        from tensorboardX.summary import image

        self._write(step, summary=image(name, image_HWC, dataformats="HWC"))

    def close(self) -> None:
        """Ends the file."""
        with naming_write_errors(self._folder):
            self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with naming_write_errors(self._folder):
            self._file.write_event(Event(wall_time=time.time(), step=step, **content))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._file.flush()
                self._flushed = time.monotonic()
