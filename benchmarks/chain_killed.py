"""A chain that is killed once in every link, against one that is not: what both have written, compared bit by bit.

    python -m benchmarks.chain_killed outputs/chain outputs/chain_killed

Runs examples/chain.sh into the first folder, unless it is done, and then into the second: there every link's processes
are killed (SIGKILL) about halfway, by the seconds that the link took in the first folder, and the same command is given
again. SIZE and what else the chain reads from its environment holds for both.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

_TIMES = {
    *("times.jsonl", "page.html", "library.html", "logs", "tensorboard", "metrics.jsonl", "begun.json", "lock"),
    *("checkpoints", "checksums.json", "lcv_jax.json", "_CHECKPOINT_METADATA"),
}
"""Files and folders that tell how long something took or when, or that have other names each time. Of a training's
checkpoints the weights that are made of them are compared."""
_ABOUT = re.compile(rb'"(seconds|date|time|started|made|created|wall|elapsed|[a-z_]*_seconds)": ?("[^"]*"|[-+.0-9e]+)')


def run_chain(out: Path) -> subprocess.Popen[bytes]:
    """The chain in a process group of its own."""
    log = out.with_suffix(".log").open("ab")
    command = ["bash", str(Path(__file__).parents[1] / "examples" / "chain.sh")]
    environment = {**os.environ, "OUT": str(out.absolute())}
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def link_seconds(out: Path) -> dict[str, int]:
    """How long every link took."""
    lines = (out / "times.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["name"]: row["seconds"] for row in map(json.loads, lines)}


def run_killed(out: Path, seconds: dict[str, int]) -> list[str]:
    """Runs the chain to its end, killed once in every link that lasts; gives back the links in which it was."""
    killed: list[str] = []
    while True:
        process, begun = run_chain(out), time.time()
        seen: dict[str, float] = {}
        while process.poll() is None:
            time.sleep(0.2)
            link = _link_after(out, begun)
            if link is None or link in killed:
                continue
            if time.time() - seen.setdefault(link, time.time()) > seconds.get(link, 0) / 2:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed.append(link)
                print(f"killed in {link}", flush=True)
                break
        else:
            if process.returncode:
                raise SystemExit(f"the chain stopped with {process.returncode}; see {out.with_suffix('.log')}")
            return killed


def _link_after(out: Path, begun: float) -> str | None:
    """The link that runs: the one whose log was begun last."""
    logs = [path for path in (out / "logs").glob("*.txt") if path.stat().st_mtime >= begun]
    done = link_seconds(out) if (out / "times.jsonl").exists() else {}
    running = [path for path in logs if path.stem not in done]
    return max(running, key=lambda path: path.stat().st_mtime).stem if running else None


def compare(first: Path, second: Path) -> list[str]:
    """Files that differ, beyond the folder's name and times."""
    files = [_files(folder) for folder in (first, second)]
    differing = sorted(f"only in one: {name}" for name in files[0].keys() ^ files[1].keys())
    return differing + sorted(name for name in files[0].keys() & files[1].keys() if files[0][name] != files[1][name])


def _files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and _TIMES.isdisjoint(path.relative_to(folder).parts)]
    return {str(path.relative_to(folder)): _without_times(path, folder) for path in paths}


def _without_times(path: Path, folder: Path) -> bytes:
    data = path.read_bytes()
    for name in (str(folder.absolute()), str(folder)):
        data = data.replace(name.encode(), b"OUT")
    return _ABOUT.sub(b"", data) if path.suffix in (".json", ".jsonl") else data


def main() -> None:
    """Runs both chains and prints what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    args = parser.parse_args()
    if not (args.first / "page.html").exists() and run_chain(args.first).wait():
        raise SystemExit(f"the chain stopped; see {args.first.with_suffix('.log')}")
    killed = run_killed(args.second, link_seconds(args.first))
    differing = compare(args.first, args.second)
    total = len(_files(args.first))
    print(f"killed in {len(killed)} links; {len(differing)} of {total} files differ")
    print("\n".join(differing))


if __name__ == "__main__":
    main()
