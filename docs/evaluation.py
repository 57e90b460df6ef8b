"""Simulated studies over two runs' scores: how often statistics find a difference that is there, or one that is not.

    python -m docs.evaluation outputs/evaluation/steps_16 outputs/evaluation/steps_4 outputs/evaluation/steps_4_again
    python -m docs.evaluation --pairs outputs/evaluation/tuned outputs/evaluation/pretrained ...

Raters follow the readers' alignment with noise: a rating is 1 + 4 x alignment + N(0, 0.8), rounded, from 1 to 5.
Prompts are drawn with replacement. The second and the third run are of one model with different seeds: for a model
against itself, each prompt's two clips are assigned to A and B by the toss of a coin.
"""

import sys
from pathlib import Path

import numpy as np

from docs.pages import DOCS, filled, table
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.scores import read_scores
from lcv_jax.evaluation.statistics import Difference, Preference, mean_estimate

STUDIES, NOISE = 400, 0.8


def alignment(folder: str) -> dict[str, float]:
    """The readers' alignment by prompt."""
    run = read_run(Path(folder))
    (scores,) = (one for one in read_scores(run) if one.name == "readers")
    return scores.by_item(run)["alignment"]


def opinions(rng: np.random.Generator, quality_N: np.ndarray, num_raters: int) -> np.ndarray:
    """Mean opinion scores of clips."""
    noise_RN = rng.normal(0, NOISE, (num_raters, len(quality_N)))
    return np.clip(np.round(1 + 4 * quality_N + noise_RN), 1, 5).mean(axis=0)


def study(rng: np.random.Generator, a_N: np.ndarray, b_N: np.ndarray, num_raters: int) -> tuple[int, int]:
    """Whether opinion scores, and the sign test, say that A is better (1), B is (-1), or see no difference (0)."""
    gain_N = opinions(rng, a_N, num_raters) - opinions(rng, b_N, num_raters)
    difference = Difference(estimate=mean_estimate(gain_N, draws=400, seed=int(rng.integers(2**31))))
    votes = Preference(good=int((gain_N > 0).sum()), same=int((gain_N == 0).sum()), bad=int((gain_N < 0).sum()))
    mean = int(np.sign(difference.estimate.mean)) if difference.is_clear else 0
    return mean, int(np.sign(votes.net)) if votes.p_value < 0.05 else 0


def main(better: str, worse: str, worse_again: str) -> None:
    """Fills the table of docs/evaluation.md."""
    a, b, again = map(alignment, (better, worse, worse_again))
    items = sorted(a)
    a_N, b_N, again_N = (np.array([one[item] for item in items]) for one in (a, b, again))
    rng, rows = np.random.default_rng(0), [["prompts", "raters", "true order", "wrong order", "true order, sign test",
                                            "itself: a difference", "itself, sign test"]]  # fmt: skip
    for num_prompts in (32, 64, 128, 256, 512):
        for num_raters in (1, 3):
            found = []
            for _ in range(STUDIES):
                drawn, swap = rng.integers(len(items), size=num_prompts), rng.integers(2, size=num_prompts)
                one, other = b_N[drawn], again_N[drawn]
                itself = np.where(swap, one, other), np.where(swap, other, one)
                found.append((*study(rng, a_N[drawn], b_N[drawn], num_raters), *study(rng, *itself, num_raters)))
            mean, votes, mean_null, votes_null = np.array(found).T
            shares = [(mean > 0), (mean < 0), (votes > 0), (mean_null != 0), (votes_null != 0)]
            rows.append([str(num_prompts), str(num_raters), *(f"{100 * share.mean():.1f} %" for share in shares)])
    path = DOCS / "evaluation.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), "studies", table(rows)), encoding="utf-8")


def pairs(*folders: str) -> None:
    """Fills the table of stages: pairs of runs, of which the first of each is the better one."""
    rng, rows = (
        np.random.default_rng(0),
        [["better", "worse", "points of 5", "64 prompts, 3 raters", "256 prompts, 3 raters"]],
    )
    for better, worse in zip(folders[::2], folders[1::2], strict=True):
        a, b = alignment(better), alignment(worse)
        items = sorted(a.keys() & b.keys())
        a_N, b_N = (np.array([one[item] for item in items]) for one in (a, b))
        row = [Path(better).name, Path(worse).name, f"{4 * (a_N - b_N).mean():.2f}"]
        for num_prompts in (64, 256):
            drawn = [rng.integers(len(items), size=num_prompts) for _ in range(STUDIES)]
            found = np.array([study(rng, a_N[one], b_N[one], 3)[0] for one in drawn])
            row.append(f"{100 * (found > 0).mean():.1f} % (wrong order: {100 * (found < 0).mean():.1f} %)")
        rows.append(row)
    path = DOCS / "evaluation.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), "pairs", table(rows)), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--pairs":
        pairs(*sys.argv[2:])
    else:
        main(*sys.argv[1:4])
