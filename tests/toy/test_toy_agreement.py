"""The small judge that is shipped agrees with people it never met, and says where; the command counts rightly."""

import json
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.data.preferences import Opinion
from lcv_jax.toy import agreement, judges

JUDGE = Path(__file__).parents[2] / "examples" / "toy_judge"
COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips and ratings of a seed that no judge was trained with."""
    out = tmp_path_factory.mktemp("judges") / "data"
    judges.main([str(out), "--num-captions", "2", "--num-held-out", str(COUNT), "--seed", "77"])
    return out


def test_it_fits_into_6_mb():
    assert sum(file.stat().st_size for file in JUDGE.rglob("*")) <= 6 * 2**20


def test_the_shipped_judge_agrees_with_people_it_never_met_and_a_random_one_does_not(folder, tmp_path, capsys):
    out = tmp_path / "agreement.json"
    begun = folder / "start"
    agreement.main([str(folder / "held_out_ratings.jsonl"), str(JUDGE), str(begun), "--json", str(out)])
    found = json.loads(out.read_text())
    assert list(found) == [str(JUDGE), str(begun), agreement.ENSEMBLE, agreement.TRUTH]
    assert found[str(JUDGE)]["VQ"]["count"] > COUNT
    for name in judges.DIMENSIONS:
        pearson = {row: each[name]["pearson"] for row, each in found.items()}
        assert pearson[str(JUDGE)] > 0.6, f"{name}: {pearson}"
        assert pearson[str(JUDGE)] > pearson[str(begun)] + 0.3, f"{name}: {pearson}"
        assert pearson[agreement.TRUTH] > 0.85, f"{name}: {pearson}"
    assert agreement.TRUTH in capsys.readouterr().out


def test_correlation_is_over_the_clips_that_have_a_rating():
    rng = np.random.default_rng(0)
    scores_ND, rated_ND = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    opinions = [
        Opinion(id=str(n), place="", prompt="", names=(), paths=(), values={"MQ": rated_ND[n, 1]} if n % 2 else {})
        for n in range(20)
    ]
    found = agreement.agreement(scores_ND, opinions)
    assert found.keys() == {"MQ"}
    assert found["MQ"].count == 10
    expected = np.corrcoef(scores_ND[1::2, 1], rated_ND[1::2, 1])[0, 1]
    np.testing.assert_allclose(found["MQ"].pearson, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "told"),
    [([], "at least one judge"), (["examples/toy_captioner"], "is no judge")],
)
def test_mistakes_are_one_line(folder, given, told, capsys):
    with pytest.raises(SystemExit):
        agreement.main([str(folder / "held_out_ratings.jsonl"), *given])
    assert told in capsys.readouterr().err
