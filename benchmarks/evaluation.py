"""The evaluation's own costs, on a CPU: `python -m benchmarks.evaluation`.

Prints a table and asserts nothing: all measures without weights of a 93-frame clip of 480p against decoding it, the
bootstrap of 1,000 prompts, and the rating page's next item in a study of 1,000.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import rich
from rich.table import Table

from benchmarks.timing import seconds_of
from lcv_jax.data.media_reader import read_video
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.evaluation.measures import measure_clip
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.statistics import DRAWS, mean_estimate
from lcv_jax.evaluation.studies import create_study
from lcv_jax.evaluation.suites import Item, write_suite

FRAMES, HEIGHT, WIDTH = 93, 480, 832
ITEMS = 1000
ASKED = 200
"""Items that are asked for and rated."""


def main() -> None:
    """Measures and prints."""
    table = Table("what", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "clip.mp4"
        write_clip(video, FRAMES, HEIGHT, WIDTH)
        frames, fps = read_video(video)
        decoding, measuring = seconds_of(lambda: read_video(video), lambda: measure_clip(frames, float(fps)), repeats=3)
        table.add_row(f"decoding {FRAMES} x {HEIGHT} x {WIDTH}", f"{decoding[1]:.2f}")
        table.add_row("all measures without weights of it", f"{measuring[1]:.2f}")
        scores = np.random.default_rng(0).normal(size=1000)
        bootstrap = seconds_of(lambda: mean_estimate(scores), repeats=3)[0]
        table.add_row(f"bootstrap of 1,000 prompts, {DRAWS:,} draws", f"{bootstrap[1]:.2f}")
        median, longest = page_seconds(Path(folder))
        table.add_row(f"rating page: next of {ITEMS:,} items, median of {ASKED}", f"{median:.3f}")
        table.add_row("rating page: the slowest", f"{longest:.3f}")
    rich.print(table)
    print(f"{os.cpu_count()} cores")


def write_clip(path: Path, frames: int, height: int, width: int) -> None:
    """A smooth texture that moves."""
    coarse = np.random.default_rng(0).uniform(0, 255, (height // 16, (width + 2 * frames) // 16 + 1, 3))
    picture = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)
    with VideoWriter(path, fps=15.0, height=height, width=width) as file:
        for first in range(0, 2 * frames, 2):
            file.write(picture[None, :height, first : first + width])


def page_seconds(folder: Path) -> tuple[float, float]:
    """Seconds until the server has replied with the next item, median and longest."""
    run = folder / "run"
    (run / "videos").mkdir(parents=True)
    write_suite((Item(id=f"item{number}", prompt="a texture moves") for number in range(ITEMS)), run / "items.jsonl")
    write_clip(folder / "small.mp4", 5, 32, 48)
    for number in range(ITEMS):
        os.link(folder / "small.mp4", run / "videos" / f"item{number}-0.mp4")
    create_study(folder / "study", [read_run(run)], "absolute", {"ann": ()}, num_training=0, num_checks=0)
    command = [sys.executable, "-m", "lcv_jax.evaluate", "rate", str(folder / "study"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address, _, query = server.stdout.readline().strip().removeprefix("ann: ").partition("/?")
        rater = urllib.parse.parse_qs(query)["rater"][0]
        taken = []
        for _ in range(ASKED):
            begun = time.perf_counter()
            item = _ask(f"{address}/api/next?rater={rater}&item=")
            taken.append(time.perf_counter() - begun)
            for one in item["dimensions"]:
                _ask(f"{address}/api/rate", {"rater": rater, "item": item["item"], "dimension": one["id"], "score": 3})
        server.kill()
    return statistics.median(taken), max(taken)


def _ask(url: str, content: dict[str, object] | None = None) -> dict:
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})) as reply:
        return json.load(reply)


if __name__ == "__main__":
    main()
