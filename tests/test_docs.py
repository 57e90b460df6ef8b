"""What the pages say can be typed: Python compiles, command lines parse, links lead somewhere, messages exist."""

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro

from lcv_jax.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SOURCES = sorted([*ROOT.glob("lcv_jax/**/*.py"), *ROOT.glob("configs/**/*.py"), *ROOT.glob("*.py")])
SCRIPTS = sorted(ROOT.glob("examples/*.sh"))
BLOCK = re.compile(r"^ *```([a-z]*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


class ParsedError(Exception):
    """The command line was understood; nothing runs."""


@pytest.fixture(autouse=True)
def parsing_alone(monkeypatch):
    parse = tyro.cli

    def cli(*args, **kwargs):
        parse(*args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", cli)
    monkeypatch.chdir(ROOT)


def text_of(path):
    """What a reader sees of a file: a page, a script, or a module's docstring."""
    text = path.read_text()
    return ast.get_docstring(ast.parse(text)) or "" if path.suffix == ".py" else text


COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:lcv|python -m lcv_jax(?!\.rewards\.worker)\S*|python convert_torch_weights\.py) .*"
)
SKETCHED = re.compile(r"\.\.\.|\$\w*stage|\$@|COMMAND|VERB|TASK|CONFIG\b")


def commands_in(path):
    """Command lines of this project in blocks, inline code and scripts; those that are only sketched are left out."""
    text = re.sub(r"\\\n\s*", "", text_of(path))
    inline = re.findall(r"(?<!`)`([^`]+)`(?!`)", BLOCK.sub("", text))
    inline = [code for code in inline if re.search(r" --|\.py\b", code)]  # others name a command
    lines = (
        text.splitlines() if path.suffix != ".md" else "\n".join(block for _, block in BLOCK.findall(text)).splitlines()
    )
    for line in (" ".join(line.split()) for line in [*lines, *inline]):
        if COMMAND.fullmatch(line) and not SKETCHED.search(line):
            yield line


def arguments_of(line):
    """As lcv gets them."""
    words = shlex.split(line, comments=True)
    words = words[next(i for i, word in enumerate(words) if "=" not in word or word.startswith("-")) :]
    if words[0] == "lcv":
        return words[1:]
    if words[1] == "convert_torch_weights.py":
        return ["convert", *words[2:]]
    if words[2] == "lcv_jax":
        return words[3:]
    names = {module: name for name, (module, _) in COMMANDS.items()}
    return [*names.get(words[2], words[2]).split(), *words[3:]]


def problem_with(line):
    """What the parser says against a command line; None if it is understood."""
    arguments = arguments_of(line)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main(arguments, prog="lcv")
    except ParsedError:
        return None
    except SystemExit as stop:
        return said.getvalue() if stop.code else None
    return None


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_parse(path):
    problems = {line: problem for line in commands_in(path) if (problem := problem_with(line))}
    assert not problems, "\n".join(f"{line}\n{problem}" for line, problem in problems.items())


@pytest.mark.parametrize("size", ["tiny", "small", "full"])
def test_commands_of_the_chain_parse_as_the_shell_expands_them(size, tmp_path):
    """With a Python that writes down what it is given."""
    python, given = tmp_path / "python", tmp_path / "given"
    python.write_text('#!/bin/sh\nprintf "%s\\037" "$@" >> "$GIVEN"; echo >> "$GIVEN"\n')
    python.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "GIVEN": str(given), "OUT": str(tmp_path / "out"), "SIZE": size}
    subprocess.run(["bash", "examples/chain.sh"], cwd=ROOT, env=env, check=True, capture_output=True, timeout=300)
    words = [line.split("\037")[:-1] for line in given.read_text().splitlines()]
    lines = [shlex.join(["python", *line]) for line in words if line[0] == "-m"]
    assert len(lines) > 35
    problems = {line: problem for line in lines if (problem := problem_with(line))}
    assert not problems, "\n".join(f"{line}\n{problem}" for line, problem in problems.items())


def test_the_trainings_at_full_size_are_submitted_one_after_the_other(tmp_path):
    """With an sbatch that writes down what it is given."""
    (tmp_path / "sbatch").write_text(
        '#!/bin/sh\nprintf "%s\\037" "$@" >> "$GIVEN"; echo >> "$GIVEN"; echo "$(wc -l < "$GIVEN");cluster"\n'
    )
    (tmp_path / "sbatch").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GIVEN": str(tmp_path / "given")}
    subprocess.run(["bash", "examples/chain_slurm.sh"], cwd=ROOT, env=env, check=True, capture_output=True, timeout=60)
    jobs = [line.split("\037")[:-1] for line in (tmp_path / "given").read_text().splitlines()]
    dependencies = [next((word for word in job if word.startswith("--dependency")), "") for job in jobs]
    assert dependencies == ["", *(f"--dependency=afterok:{number}" for number in range(1, len(jobs)))]
    commands = [job[-1].removeprefix("--wrap=srun --kill-on-bad-exit=1 --unbuffered --label ") for job in jobs]
    problems = {line: problem for line in commands if (problem := problem_with(line))}
    assert not problems, "\n".join(f"{line}\n{problem}" for line, problem in problems.items())
    page = [re.sub(r"\s*#.*", "", line) for line in commands_in(ROOT / "docs" / "chain.md")]
    trained = [
        line
        for line in page
        if line.startswith("python -m lcv_jax.train ") or " --to-torch" in line or " --fold " in line
    ]
    assert commands == trained


def test_the_check_sees_commands_and_what_is_wrong_with_them():
    assert len(list(commands_in(ROOT / "README.md"))) > 20
    assert "unknown command" in problem_with("lcv genrate text-to-video weights")
    assert "Unrecognized" in problem_with("python -m lcv_jax.export run weights --dtipe bfloat16")
    assert "no such file" in problem_with("python -m lcv_jax.train configs/toy/nowhere.py --steps 3")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_compile(path):
    for language, block in BLOCK.findall(path.read_text()):
        if language == "python":
            compile(block, str(path), "exec")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_troubleshooting_is_of_messages_that_exist():
    said = "".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in SOURCES)
    headings = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert headings
    assert not [heading for heading in headings if heading not in said]


def test_before_a_commit_runs_what_ci_runs():
    assert "entry: make lint" in (ROOT / ".pre-commit-config.yaml").read_text()
    made = re.findall(r"^make (.*)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert {"lint", "docs"} <= {target for line in made for target in line.split()}
