"""Data and the table of examples/curation_evidence.sh: what curation is worth, by training.

    python examples/curation_evidence.py blind FILMS OUT             # clips cut blindly, and manifest.jsonl
    python examples/curation_evidence.py caption FILMS LIBRARY MANIFEST OUT.jsonl
    python examples/curation_evidence.py table OUT [RESULT.json]

Captions of both are those of the planted films: what a perfect captioner says of the frame in a clip's middle.
"""

import datetime
import json
import math
import os
import platform
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lcv_jax.curation.clips import write_clip
from lcv_jax.curation.library import Library
from lcv_jax.own_files import write_json
from lcv_jax.toy.films import read_truth
from lcv_jax.toy.measures import wilson_interval

SECONDS = 1.25
MEASURES = ("all", "colour", "shape", "motion", "alignment_reward", "motion_reward", "visible", "sharpness", "flicker")


def caption_at(truth: dict[str, Any], frame: float) -> str:
    """The caption of the shot that a frame shows, or of the one nearest to it."""
    shots = [shot for shot in truth["shots"] if shot["caption"]]
    return min(shots, key=lambda shot: max(shot["start"] - frame, frame - shot["end"], 0))["caption"]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print(f"wrote {path}: {len(rows)} clips")


def blind(films: Path, out: Path) -> None:
    """Cuts every film into clips of one length, whatever they show."""
    (out / "clips").mkdir(parents=True)
    rows = []
    for film in sorted(films.glob("*.mp4")):
        truth = read_truth(film)
        length = math.ceil(SECONDS * Fraction(truth["fps"]))
        for start in range(0, truth["num_frames"] - length + 1, length):
            path = out / "clips" / f"{film.stem}_{start:05}.mp4"
            write_clip(film, path, start, start + length)
            rows.append(
                {"id": path.stem, "path": str(path.absolute()), "caption": caption_at(truth, start + length / 2)}
            )
    write_manifest(out / "manifest.jsonl", rows)


def caption(films: Path, library: Path, manifest: Path, out: Path) -> None:
    """Gives the clips that were selected the captions of the planted films."""
    found = Library(library).connect().execute('SELECT clip, path, start, "end" FROM clips').fetchall()
    places = {clip: (films / Path(path).name, (start + end) / 2) for clip, path, start, end in found}
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        film, middle = places[row["id"]]
        row["captions"] = [caption_at(read_truth(film), middle)]
    write_manifest(out, rows)


def pooled(out: Path) -> dict[str, dict[str, Any]]:
    """Every measure of every set over the seeds that are there, with 95 % intervals over all clips."""
    found: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((out / "scores").glob("*.json")):
        for name, value in json.loads(path.read_text(encoding="utf-8"))["measured"].items():
            found[path.stem.partition("_")[0]][name].append(value)
    order = ("start", "blind", "cut", "curated")
    names = [name for name in order if name in found] + sorted(found.keys() - set(order))
    return {name: {measure: _over_seeds(found[name][measure]) for measure in MEASURES} for name in names}


def _over_seeds(values: list[dict[str, float]]) -> dict[str, Any]:
    if "hits" in values[0]:
        hits, total = (int(sum(value[key] for value in values)) for key in ("hits", "total"))
        low, high = (100 * bound for bound in wilson_interval(hits, total))
        return {"seeds": [value["percent"] for value in values], "mean": 100 * hits / total, "low": low, "high": high}
    means = [value["mean"] for value in values]
    wide = math.sqrt(sum((value["high"] - value["mean"]) ** 2 for value in values)) / len(values)
    mean = float(np.mean(means))
    return {"seeds": means, "mean": mean, "low": mean - wide, "high": mean + wide}


def difference(ones: list[float], others: list[float]) -> str:
    """The mean over seeds with its interval by Student's t."""
    apart = np.subtract(ones, others)
    wide = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / math.sqrt(len(apart))
    return f"{apart.mean():+.3g} ± {wide:.2g}"


def table(out: Path, result: Path | None = None) -> None:
    """Prints the measures as Markdown; writes them and where they are from to a file, if one is given."""
    found = pooled(out)
    seeds = {name: len(found[name]["all"]["seeds"]) for name in found}
    print("| mean (95 % interval) | " + " | ".join(f"{name}, seeds: {seeds[name]}" for name in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for measure in MEASURES:
        cells = ["{mean:.3g} ({low:.3g}-{high:.3g})".format(**found[name][measure]) for name in found]
        print(f"| {measure} | " + " | ".join(cells) + " |")
    without = [name for name in found if name.startswith("without-") and seeds[name] == seeds["curated"] > 1]
    if without:
        print("\n| curated - without a rule, by seed (95 % interval) | " + " | ".join(without) + " |")
        print("|---" * (len(without) + 1) + "|")
    for measure in MEASURES if without else ():
        cells = [difference(found["curated"][measure]["seeds"], found[name][measure]["seeds"]) for name in without]
        print(f"| {measure} | " + " | ".join(cells) + " |")
    if result is not None:
        manifests = {name: out / f"{name}.jsonl" for name in found if name not in ("start", "blind")}
        if "blind" in found:
            manifests["blind"] = out / "blind" / "manifest.jsonl"
        clips = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in manifests.items()}
        about = {
            "date": datetime.date.today().isoformat(),
            "command": "bash examples/curation_evidence.sh",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        write_json(result, {**about, "training_clips": clips, "measured": found})


if __name__ == "__main__":
    {"blind": blind, "caption": caption, "table": table}[sys.argv[1]](*map(Path, sys.argv[2:]))
