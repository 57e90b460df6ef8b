import dataclasses
import gc
import signal
import subprocess
import sys
import time
import types
import warnings

import jax
import pytest

from lcv_jax.bounds import Count, Positive, check_fields
from lcv_jax.command_line import mistakes_in_one_line, parse_arguments, show_progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner."""

    rate: Positive = 1.0
    """A rate."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Something."""

    steps: Count = 1
    """Steps of it."""
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        check_fields(self)


MISTAKES = [
    (ValueError("rank must be\nat least 1"), "rank must be at least 1"),
    (FileNotFoundError(2, "No such file or directory", "a.png"), "a.png: No such file or directory"),
    (ImportError("no grain"), "no grain"),
    (FloatingPointError("not finite"), "not finite"),
    (MemoryError("3 GB"), "not enough memory (3 GB): choose a smaller size"),
    *(
        (jax.errors.JaxRuntimeError(f"UNKNOWN: {told}"), "another process of this run has ended")
        for told in (
            "Gloo: Connection closed by peer [::1]",
            "Gloo AllGather failed: gloo/transport/tcp/pair.cc:538 Read error [::1]:63128: Connection reset by peer",
            "Gloo AllReduce failed: writev: Broken pipe",
            "NCCL operation ncclGroupEnd() failed: remote process exited or there was a network error",
        )
    ),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"), "allocating 9 bytes."),
]


@pytest.mark.parametrize(("error", "message"), MISTAKES)
def test_a_mistake_is_one_line(capsys, error, message):
    with pytest.raises(SystemExit) as raised, mistakes_in_one_line():
        raise error
    assert raised.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert told.count("\n") == 1


INTERNAL = jax.errors.JaxRuntimeError("INTERNAL: x")
BUGS = [KeyError("x"), AttributeError("x"), AssertionError(), RecursionError(), INTERNAL]


@pytest.mark.parametrize("error", BUGS)
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)) as raised, mistakes_in_one_line():
        raise error
    assert raised.value is error


def test_an_interrupt_has_its_own_status(capsys):
    with pytest.raises(SystemExit) as raised, mistakes_in_one_line("the same command resumes"):
        raise KeyboardInterrupt
    assert raised.value.code == 130
    assert capsys.readouterr().err == "the same command resumes\n"


def test_a_warning_is_one_line_once(capsys):
    with mistakes_in_one_line():
        for _ in range(2):
            warnings.warn("rounded\ndown", stacklevel=1)
    assert capsys.readouterr().err == "warning: rounded down\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "error: steps must be at least 1, got 0; see prog --help\n"),
        (["--steps", "many"], "error: --steps: invalid literal for int() with base 10: 'many'"),
        (["--inner.rate", "nan"], "error: inner: rate must be above 0 and finite, got nan; see prog --help\n"),
        (["--stesp", "1"], "error: Unrecognized options: --stesp, 1 Perhaps you meant: --steps INT Steps of it."),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        parse_arguments(Arguments, arguments, prog="prog")
    assert raised.value.code == 2
    told = capsys.readouterr()
    assert told.err.startswith(message)
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_help_is_printed_as_it_is(capsys):
    with pytest.raises(SystemExit) as raised:
        parse_arguments(Arguments, ["--help"], prog="prog")
    assert raised.value.code == 0
    assert "Steps of it." in capsys.readouterr().out


@pytest.fixture
def interrupts():
    """Python's own answer to SIGINT: what is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_within_a_garbage_collector_callback_is_not_lost(capsys):
    def interrupt(phase, info):
        gc.callbacks.remove(interrupt)
        raise KeyboardInterrupt

    def run():
        with mistakes_in_one_line("stopped; the same command resumes"):
            gc.callbacks.append(interrupt)
            gc.collect()
            for _ in range(6000):
                time.sleep(0.01)

    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command resumes\n"


def test_what_follows_a_checkpoint_that_failed_is_not_printed(monkeypatch):
    """tensorstore's threads report exceptions to this hook."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_value))
    errors = [RuntimeError("Event loop is closed"), RuntimeError("a bug")]
    with mistakes_in_one_line():
        for error in errors:
            sys.unraisablehook(types.SimpleNamespace(exc_type=RuntimeError, exc_value=error))
    assert seen == errors[1:]


def test_progress_is_written_over_on_a_terminal_and_absent_from_a_log(monkeypatch, capsys):
    for terminal, shown in ((True, "0 of 1\r1 of 1\n"), (False, "1 of 1\n")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        show_progress("0 of 1", last=False)
        show_progress("1 of 1", last=True)
        assert capsys.readouterr().err == shown


AT_EXIT = """
from lcv_jax.command_line import mistakes_in_one_line
class Dropped:
    def __init__(self, message):
        self.message = message
    def __del__(self):
        raise RuntimeError(self.message)
kept = []
with mistakes_in_one_line():
    kept += [Dropped("Event loop is closed"), Dropped("a bug")]
    raise KeyboardInterrupt
"""


def test_late_writes_are_not_printed_at_the_exit_either():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted\n")
    assert "a bug" in done.stderr
    assert "Event loop" not in done.stderr
