"""The page of a chain: what its links wrote is on it, and a link that is missing is named."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.scores import score_run
from lcv_jax.evaluation.studies import create_study
from lcv_jax.toy import chain_page
from tests.evaluation.clips import make_run

MODELS = list(chain_page.MODELS)
FUNNEL = "       12 kept         0 dropped  all clips\n        9 kept         3 dropped  least_motion = 0.5\nwrote x\n"


def problems_of(page):
    """By examples/chain_check.py."""
    spec = importlib.util.spec_from_file_location("chain_check", Path(__file__).parents[2] / "examples/chain_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.problems(page)


def quality(run, video):
    """Better from model to model, so that every difference is known."""
    return MODELS.index(run.name) + int(video.item.id[1:]) / 10


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    (folder / "logs").mkdir()
    for name in chain_page.RECIPES:
        (folder / "logs" / f"select_{name}.txt").write_text(FUNNEL)
    for name in chain_page.TRAINED:
        (folder / name).mkdir()
        key = "reward/ta" if name == "grpo" else "loss"
        lines = [{"step": 0, "validation_loss": 2.0}, *({"step": step, key: 4.0 - step} for step in (1, 2, 3))]
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [read_run(make_run(folder / "evaluation" / name)) for name in chain_page.MODELS]
    for run in runs:
        for scorer, names in (("judge", chain_page.TRUTHS), ("readers", chain_page.TRUTHS.values())):
            score_run(run, scorer, {}, lambda video, run=run, names=names: dict.fromkeys(names, quality(run, video)))
    study, _ = create_study(folder / "study", runs, "absolute", {"ann": ()}, num_training=0, num_checks=0, num_raters=1)
    ratings, ann = Ratings(study), study.raters[0]
    while (item := ratings.next(ann)) is not None:
        for dimension in item.dimensions:
            ratings.add(item, ann, dimension, min(5, 1 + MODELS.index(item.models[0])))
    (folder / "refined.json").write_text('{"measured": {"psnr refined": {"mean": 31.5, "low": 30, "high": 33}}}')
    (folder / "times.jsonl").write_text('{"name": "films", "seconds": 60}\n{"name": "people", "seconds": 30}\n')
    return folder


def test_the_page_tells_what_every_link_did(chain, tmp_path, capsys):
    chain_page.main([str(chain), str(tmp_path / "page.html")])
    assert capsys.readouterr().out == f"wrote {tmp_path}/page.html\n"
    page = (tmp_path / "page.html").read_text()
    assert page.count("least_motion = 0.5: 9 kept, 3 dropped") == len(chain_page.RECIPES)
    assert "3 at first, 1 at last" in page
    assert page.count('class="curve"') == len(chain_page.TRAINED) * 2 - 1  # of the rollouts no validation
    assert "1.00 [1.00, 1.00], n = 36" in page  # the judge agrees with the readers
    assert page.count("tuned is better") == page.count("aligned_8 is better") == page.count("distilled is better") == 6
    assert "<td>tuned - pretrained</td><td>1 [1, 1] (n = 6): tuned is higher</td>" in page
    assert page.count("<video ") == 3 * len(chain_page.MODELS)
    assert "psnr refined</td><td>31.5 [30, 33]</td>" in page
    assert "1.5 minutes" in page
    assert "http" not in page


def test_what_a_link_has_not_written_is_named(chain, tmp_path, capsys):
    copied = shutil.copytree(chain, tmp_path / "chain")
    (copied / "tuned" / "metrics.jsonl").unlink()
    with pytest.raises(SystemExit):
        chain_page.main([str(copied), str(tmp_path / "page.html")])
    assert "tuned/metrics.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_the_check_finds_what_is_missing_and_what_is_no_number(chain):
    page = chain_page.page(chain)
    assert problems_of(page) == []
    assert problems_of(page.replace("<h2>Refinement</h2>", "<h2>Else</h2>")) == ["no section 'Refinement'"]
    assert problems_of(page.replace("<video", "<img")) == ["Clips: nothing about '<video'"]
    assert problems_of(page.replace("31.5 [30, 33]", "nan [30, 33]")) == ["Refinement: 'nan [30, 33]' is not finite"]
    (problem,) = problems_of(page.replace(" 10.0L", " nanL", 1))
    assert problem.startswith("Training: 'path d=M")
