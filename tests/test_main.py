"""The one way in: the list of commands, and that it is complete, instant and runs them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lcv_jax
from lcv_jax.__main__ import COMMANDS, main
from lcv_jax.train import read_config

PACKAGE = Path(lcv_jax.__file__).parent
NOT_LISTED = {"lcv_jax.__main__", "lcv_jax.rewards.worker"}
"""The list itself, and what a trainer starts, not a person."""


def status(arguments):
    try:
        main(arguments, prog="lcv")
    except SystemExit as stop:
        return stop.code
    return 0


def modules_with_a_main():
    for path in PACKAGE.rglob("*.py"):
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def test_every_command_is_listed():
    assert {module for module, _ in COMMANDS.values()} == set(modules_with_a_main()) - NOT_LISTED


def test_the_list_needs_nothing_heavy():
    code = "import sys; from lcv_jax.__main__ import main; main([]); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert line in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_under_its_own_name(capsys, name):
    assert status([*name.split(), "--help"]) == 0
    assert f"usage: lcv {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["genrate", "text-to-video"], "unknown command 'genrate', did you mean 'generate'?"),
        (["toy", "mak", "out"], "unknown command 'toy mak', did you mean 'toy make'?"),
        (["--prompt"], "unknown command '--prompt'; `lcv` lists the commands"),
    ],
)
def test_an_unknown_command_is_one_line(capsys, arguments, wanted):
    assert status(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {wanted}")


def test_a_group_lists_its_own(capsys):
    assert status(["toy"]) == 0
    out = capsys.readouterr().out
    assert "toy make" in out
    assert "generate" not in out


def test_train_without_a_config_says_which_there_are(capsys):
    assert status(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "usage: lcv train CONFIG.py" in out
    assert "configs/longcat_13b/sft.py" in out


def test_a_config_elsewhere_builds_on_the_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from configs.longcat_13b.sft import get_config as sft\n"
        "def get_config():\n"
        "    return dataclasses.replace(sft(), steps=7)\n"
    )
    assert read_config(str(tmp_path / "mine.py")).steps == 7
