"""Links of a chain: what is done is skipped, what was killed begins again, what failed stops the chain."""

import json
import subprocess
from pathlib import Path

LINK = Path(__file__).parents[2] / "examples" / "link.sh"
CHAIN = """
link first "$out/first" bash -c 'echo one; touch "$0"/first' "$out"
link second - bash -c 'echo "${OLD:-two}"; [ -e "$0"/go_on ] || kill -9 $PPID' "$out"
link third "$out/third" bash -c 'cp "$0"/first "$0"/third' "$out"
"""


def run(folder, chain=CHAIN):
    script = f'set -euo pipefail; out={folder}; source "{LINK}"; {chain}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)


def names(folder):
    return [json.loads(line)["name"] for line in (folder / "times.jsonl").read_text().splitlines()]


def test_a_chain_that_was_killed_goes_on_where_it_was(tmp_path):
    assert run(tmp_path).returncode == -9
    assert names(tmp_path) == ["first"]
    (tmp_path / "go_on").touch()
    found = run(tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["first: done already", "second: begins", "two", "third: begins"]
    assert names(tmp_path) == ["first", "second", "third"]
    assert (tmp_path / "logs" / "second.txt").read_text() == "two\n"
    assert run(tmp_path).stdout.splitlines() == [f"{name}: done already" for name in ("first", "second", "third")]
    assert names(tmp_path) == ["first", "second", "third"]


def test_an_output_that_is_deleted_is_made_again(tmp_path):
    (tmp_path / "go_on").touch()
    run(tmp_path)
    (tmp_path / "third").unlink()
    assert run(tmp_path).stdout.splitlines() == ["first: done already", "second: done already", "third: begins"]


def test_a_command_that_fails_ends_the_chain_and_is_not_done(tmp_path):
    found = run(tmp_path, 'link first "$out/first" bash -c "echo broken; exit 3"; link second - true')
    assert found.returncode == 3
    assert "second" not in found.stdout
    assert not (tmp_path / "times.jsonl").exists()
