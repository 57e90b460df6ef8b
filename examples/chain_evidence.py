"""The tables of examples/chain_evidence.sh from the scores in OUT, and OUT/evidence.json with the numbers.

python examples/chain_evidence.py OUT
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

MEASURES = ("shape", "motion", "speed", "all", "alignment_reward", "motion_reward", "sharpness")
COMPARED = {
    "fine-tuned against pretrained": ("sft_weight", "pretrained"),
    "density weights on against off": ("sft_weight", "sft_None"),
    "aligned against fine-tuned, 8 steps": ("grpo", "tuned_8"),
    "distilled, 16 steps, against 50 steps": ("distilled", "aligned_50"),
}


def scores_of(out: Path, name: str) -> list[dict[str, float]]:
    """Of every seed of a variant, or of a model that has none."""
    paths = sorted((out / "scores").glob(f"{name}_[0-9].json")) or [out / "scores" / f"{name}.json"]
    found = [json.loads(path.read_text(encoding="utf-8"))["measured"] for path in paths if path.exists()]
    return [{key: value.get("percent", value.get("mean")) for key, value in one.items()} for one in found]


def difference(after: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """The mean difference over seeds, paired where both have seeds, and half its 95 % interval by Student's t."""
    each = np.subtract(after, before if len(before) == len(after) else before[0])
    if len(each) < 2:
        return float(each.mean()), math.inf
    return float(each.mean()), float(stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each)))


def main(out: Path) -> None:
    """Prints the table and writes the numbers."""
    found = {name: scores_of(out, name) for pair in COMPARED.values() for name in pair}
    (out / "evidence.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("| after - before | " + " | ".join(MEASURES) + " |")
    print("|---" * (len(MEASURES) + 1) + "|")
    for title, (after, before) in COMPARED.items():
        cells = []
        for key in MEASURES:
            one, other = ([seed[key] for seed in found[name]] for name in (after, before))
            if not one or not other:
                cells.append("not scored")
                continue
            mean, half = difference(one, other)
            clear = "**" if abs(mean) > half else ""
            cells.append(f"{np.mean(other):.3g} → {np.mean(one):.3g}: {clear}{mean:+.2g} ± {half:.2g}{clear}")
        print(f"| {title} ({len(found[after])} seeds) | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
