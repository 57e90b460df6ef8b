"""What the command lines share: a user's mistake is one line and exit status 2; a bug keeps its traceback.

This is where the two are told apart. Mistakes are ValueError (a value, or a file: see user_files.py), OSError (the
system), ImportError (a package that is not installed), NotImplementedError, FloatingPointError (training diverged) and
memory that does not suffice. Everything else is a bug.
"""

import _thread
import contextlib
import functools
import io
import logging
import operator
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from lcv_jax.own_files import DiskFullError, full_disk

_MISTAKES = (ValueError, OSError, ImportError, NotImplementedError, FloatingPointError)
# How the connections of Gloo and NCCL break when the process at the other end is gone.
_CONNECTION_ENDED = re.compile("closed by peer|reset by peer|Broken pipe|remote process exited")


@contextlib.contextmanager
def mistakes_in_one_line(interrupted: str = "interrupted") -> Iterator[None]:
    """Within, an error that a user can do something about is one line and exit status 2; so is each warning one line.

    Args:
        interrupted: message after Ctrl-C, whose exit status is 130.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it logs each failed write of a checkpoint that fails
    try:
        with _warnings_in_one_line(), _interrupts_kept():
            yield
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = mistake(error)
        if message is None:
            raise
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


def positional(metavar: str) -> Any:
    """How a command's help calls an argument without a flag."""
    import tyro

    return tyro.conf.arg(metavar=metavar)


def show_progress(text: str, *, last: bool) -> None:
    """A line on a terminal that the next one, or an error, is written over; in a log only the last."""
    if last or sys.stderr.isatty():
        print(text, end="\n" if last else "\r", file=sys.stderr, flush=True)


def mistake(error: Exception) -> str | None:
    """The message of a user's mistake; None for a bug."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}): choose a smaller size, fewer frames or a smaller batch"
    if _is_jax_error(error) and "RESOURCE_EXHAUSTED" in str(error):
        told = next(iter(str(error).splitlines()), "")
        return (
            f"not enough device memory ({told}): choose a smaller size, fewer frames, a smaller batch, or more devices"
        )
    if _is_jax_error(error) and _CONNECTION_ENDED.search(str(error)):
        return f"another process of this run has ended, and says why ({str(error).splitlines()[0]})"
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error, DiskFullError):
        error = full_disk(error, Path(os.fsdecode(error.filename2 or error.filename))) or error
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) if isinstance(error, _MISTAKES) else None


def _is_jax_error(error: Exception) -> bool:
    """Whether it is of JAX's runtime, without an import of JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError)


def parse_arguments(kind: Any, arguments: list[str] | None, *, prog: str, **options: Any) -> Any:
    """`tyro.cli`, whose errors are one line and exit status 2 instead of a box."""
    import tyro

    with io.StringIO() as box:
        try:
            with contextlib.redirect_stderr(box), _wide_terminal(arguments):
                return tyro.cli(kind, args=arguments, prog=prog, **options)
        except SystemExit as stop:
            if stop.code != 2:
                raise
        print(f"error: {_one_line(box.getvalue(), kind)}", file=sys.stderr)
    sys.exit(2)


def parse_command(
    commands: Mapping[str, type], arguments: list[str] | None, *, prog: str, description: str, nested: bool = False
) -> Any:
    """One of several commands, each a dataclass whose fields are its flags, by their names.

    Args:
        commands: dataclasses by name.
        arguments: of the command line; None: the process's.
        prog: the program, as help names it.
        description: what help says about it.
        nested: flags of a dataclass within another carry the field's name, such as --segment.trim.
    """
    import tyro

    kinds: list[Any] = [Annotated[kind, tyro.conf.subcommand(name=name)] for name, kind in commands.items()]
    config = [tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff]
    config += [] if nested else [tyro.conf.OmitArgPrefixes]
    chosen = functools.reduce(operator.or_, kinds)
    return parse_arguments(chosen, arguments, prog=prog, description=description, config=config)


def _one_line(box: str, kind: Any) -> str:
    """The contents of a box of tyro's, without its title."""
    lines = [" ".join(line.strip("│| ").split()) for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.search("[-─]{3,}", line)]  # the first ends the title
    told = " ".join(line for i, line in enumerate(lines) if line and i not in rules and i > rules[0])
    told = told.removeprefix("Error parsing ").removeprefix(f"{getattr(kind, '__name__', '')}: ")
    told = re.sub(r"^__tyro-dummy-inner__\.\w+: ", "", told)  # a group of a sub-command's flags
    return told.replace("For full helptext, run", "; see").replace("For full helptext, see", "; see").replace(" ;", ";")


@contextlib.contextmanager
def _wide_terminal(arguments: list[str] | None) -> Iterator[None]:
    """A terminal so wide that no word of an error is broken; help keeps the real one."""
    if {"-h", "--help"} & set(sys.argv[1:] if arguments is None else arguments):
        yield
        return
    with environment(COLUMNS="2000"):
        yield


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Within, these variables have these values, for child processes too."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Within, signals call `handler(number, frame)`; only for the main thread."""
    before = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Repeats a Ctrl-C that came within a finalizer or a callback of the garbage collector.

    Python drops exceptions there, KeyboardInterrupt included, and reports them to `sys.unraisablehook`. So does
    tensorstore with each write of a checkpoint that ends after orbax raised an exception for another and closed its
    event loop; these are not printed, at the process's exit neither.
    """
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            print_dropped(dropped)
            return
        # A moment later, when this hook, which would drop it again, has returned.
        repeat = threading.Timer(0.05, _thread.interrupt_main)
        repeat.daemon = True
        repeat.start()

    def print_dropped(dropped: Any) -> None:
        if str(dropped.exc_value) != "Event loop is closed":
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = print_dropped if before is sys.__unraisablehook__ else before


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
