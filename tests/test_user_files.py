import json
import os
from pathlib import Path

import pytest

from lcv_jax.checkpoint.safetensors_files import open_safetensors
from lcv_jax.data.media_reader import read_image, read_video
from lcv_jax.user_files import UnreadableError, parse_json, read_json, read_lines, read_text, reading, running

ERRORS = [KeyError("x"), RecursionError(), OverflowError("big"), AttributeError("a"), OSError()]


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_parser_raises_names_the_file(error):
    told = pytest.raises(UnreadableError, match="^clip.bin: .+; convert again$")
    with told as raised, reading("clip.bin", "convert again"):
        raise error
    assert raised.value.__cause__ is error


def test_what_is_no_fault_of_the_file_passes():
    for error in (FileNotFoundError(2, "No such file", "x"), ImportError("no pyarrow"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, reading("clip.bin"):
            raise error
        assert raised.value is error


def test_the_innermost_file_is_named_once():
    with pytest.raises(UnreadableError, match="^inner: x$"), reading("outer"), reading("inner"):
        raise ValueError("x")
    with pytest.raises(UnreadableError, match="^a.txt, line 2: x$"), reading("a.txt"):
        raise ValueError("a.txt, line 2: x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("aé\n".encode("utf-16"), "the encoding is UTF-16; save the file as UTF-8"),
        (b"first\ncaf\xe9\n", "a.txt, line 2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    ],
)
def test_another_encoding_is_named_with_its_line(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UnreadableError) as raised:
        read_text(tmp_path / "a.txt")
    assert message in str(raised.value)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes('{"a": "é"}'.encode("utf-8-sig"))
    assert read_json(tmp_path / "a.json") == {"a": "é"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON: Expecting value at column 1"),
        ('{"a": 1,\n "b": }', "a.json, line 2: not JSON: Expecting value at column 7"),
        ("[1]", "a.json: expected an object in JSON, got a list"),
        ("[" * 100_000, "a.json: nested too deeply"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"a": 1' + "0" * 5000 + "}", "a.json: Exceeds the limit"),
    ],
)
def test_json_that_is_none(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UnreadableError) as raised:
        read_json(tmp_path / "a.json")
    assert message in str(raised.value)
    assert str(tmp_path / "a.json") in str(raised.value)


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_json(json.dumps({"a": "\U0001f600"}), "here") == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\nraise RuntimeError('boom')\n", "line 2: RuntimeError: boom"),
        ("def f():\n    return {}['x']\nf()\n", "line 2: KeyError: 'x'"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
        ("def f():\n    return f()\nf()\n", "line 2: RecursionError"),
        ("raise ValueError('rank must be at least 1')", "line 1: rank must be at least 1"),
    ],
)
def test_a_python_file_that_raises_is_named_with_its_line(tmp_path, code, message):
    path = tmp_path / "config.py"
    path.write_text(code)
    with pytest.raises(UnreadableError) as raised, running(path):
        exec(compile(code, str(path), "exec"), {})
    assert f"{path}, {message}" in str(raised.value)


def test_a_syntax_error_is_named_with_its_line(tmp_path):
    path = tmp_path / "config.py"
    with pytest.raises(UnreadableError, match="config.py, line 2: SyntaxError"), running(path):
        compile("x = 1\ndef f(:\n", str(path), "exec")


def test_pipes_and_devices_are_no_files(tmp_path):
    """Reading them would wait for ever, or never end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for read in (read_text, lambda path: list(read_lines(path)), read_image, read_video, open_safetensors):
        for path in (pipe, Path("/dev/zero")):
            with pytest.raises(ValueError, match=f"{path}: not a regular file"):
                read(path)
