"""What the command lines share: a user's mistake is one line and an exit status, never a traceback."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def mistakes_in_one_line(interrupted: str = "interrupted") -> Iterator[None]:
    """Within, an error that a user can do something about is one line and exit status 2; so is each warning one line.

    Args:
        interrupted: what is said after Ctrl-C, whose exit status is 130.
    """
    try:
        with _warnings_in_one_line():
            yield
    except (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Each warning once: what is checked before a model loads is checked again by the pipeline."""
    shown = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = f"warning: {' '.join(str(message).split())}"
        if line not in shown:
            print(line, file=sys.stderr)
        shown.add(line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
