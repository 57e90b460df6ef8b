"""Simulated raters answer studies as people do, and find what the readers see."""

import numpy as np
import pytest

from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.studies import create_study, read_study
from lcv_jax.evaluation.study_results import rating_rows, study_findings
from lcv_jax.evaluation.suites import Item, write_suite
from lcv_jax.toy import raters
from lcv_jax.toy.captions import caption
from lcv_jax.toy.world import render, sample_scene

SCENES = [sample_scene(seed) for seed in range(6)]


def make_run(folder, change):
    """True clips of six prompts, changed."""
    (folder / "videos").mkdir(parents=True)
    write_suite([Item(id=f"p{n}", prompt=caption(scene)) for n, scene in enumerate(SCENES)], folder / "items.jsonl")
    for number, scene in enumerate(SCENES):
        with VideoWriter(folder / "videos" / f"p{number}-0.mp4", fps=8, height=64, width=64, crf=8) as video:
            video.write(change(render(scene, 64, 64, 9, 8)))
    return read_run(folder)


def jumbled(frames):
    return frames[np.random.default_rng(0).permutation(len(frames))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rated")
    return [make_run(folder / "true", lambda frames: frames), make_run(folder / "jumbled", jumbled)]


def study_of(folder, runs, kind):
    create_study(folder, runs, kind, {"ann": (), "bob": (), "eve": ()}, num_training=2, num_checks=1)
    return folder


def test_raters_find_which_model_is_better_in_what(tmp_path, runs, capsys):
    folder = study_of(tmp_path / "study", runs, "absolute")
    raters.main([str(folder)])
    assert "3 simulated raters answered" in capsys.readouterr().out
    study = read_study(folder)
    found = study_findings(study, rating_rows(Ratings(study)))
    assert found.num_ratings >= 2 * 6 * 3 * 4
    means = {key: one.mean for key, one in found.scores.items()}
    assert means["true", "motion_quality"] > means["jumbled", "motion_quality"] + 1
    assert means["true", "visual_quality"] == pytest.approx(means["jumbled", "visual_quality"], abs=0.6)
    assert not any(known.flag for known in found.known_answers.values())
    raters.main([str(folder)])  # nothing is left, and nothing is answered again
    assert "answered 0 items" in capsys.readouterr().out
    assert study_findings(study, rating_rows(Ratings(study))) == found


def test_raters_of_pairs_prefer_the_better_one(tmp_path, runs):
    folder = study_of(tmp_path / "study", runs, "pairwise")
    raters.main([str(folder)])
    study = read_study(folder)
    (found,) = [
        one
        for (*_, dimension), one in study_findings(study, rating_rows(Ratings(study))).preferences.items()
        if dimension == "motion_quality"
    ]
    assert found.good > found.bad


def test_a_study_of_other_prompts_is_refused(tmp_path, runs, capsys):
    write_suite([Item(id=f"p{n}", prompt="a cat surfs a wave") for n in range(6)], runs[0].folder / "items.jsonl")
    folder = study_of(tmp_path / "study", [read_run(runs[0].folder)], "absolute")
    with pytest.raises(SystemExit):
        raters.main([str(folder)])
    assert "asks for nothing of the procedural world" in capsys.readouterr().err
