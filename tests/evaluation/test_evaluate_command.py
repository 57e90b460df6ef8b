"""The command line with a real pipeline: a suite is sampled, resumed, and its run is read by the other commands."""

import json

import numpy as np
import pytest
from PIL import Image

from lcv_jax import evaluate
from lcv_jax.evaluation.runs import read_run
from tests.evaluation.clips import make_run

SMALL = ["--size", "32", "48", "--num-frames", "5", "--num-steps", "2", "--max-sequence-length", "16"]


def test_sampling_with_a_pipeline(tmp_path, tiny_checkpoint, capsys):
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    rows = [
        {"id": "text", "prompt": "a fox"},
        {"id": "image", "prompt": "it fades", "task": "image-to-video", "image": "grey.png"},
    ]
    suite = tmp_path / "two.jsonl"
    suite.write_text("\n".join(map(json.dumps, rows)))
    command = ["sample", str(tiny_checkpoint), str(suite), str(tmp_path / "run"), *SMALL]
    evaluate.main(command)
    assert "sampled 2 videos" in capsys.readouterr().out
    assert [video.id for video in read_run(tmp_path / "run").videos] == ["text-0", "image-0"]
    evaluate.main(command)
    assert "sampled 0 videos" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        evaluate.main([*command, "--seed", "1"])
    assert stop.value.code == 2
    assert "begun with other settings: options was" in capsys.readouterr().err


def test_a_field_out_of_range_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["sample", str(tmp_path), "toy", str(tmp_path / "run"), "--num-frames", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", 2)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["compare", "RUN"], "expected 2 runs at least, got 1"),
        (["compare", "RUN", "RUN"], "is given twice"),
        (["measure"], "expected 1 run at least, got 0"),
        (["measure-video"], "expected a video at least, got none"),
        (["compare", "RUN", "RUN2", "--page", "NEW", "--markdown", "NEW"], "give two files"),
        (["study", "NEW", "RUN", "--num-raters", "0"], "num_raters must lie in 1..1000, got 0"),
        (["study", "NEW", "RUN", "--training", "-1"], "training must lie in 0..1000, got -1"),
        (["study", "NEW", "RUN", "--raters", "ann", "ann"], "--raters names ann twice"),
        (["study", "NEW", "RUN", "--raters", ""], "--raters must be names, got ''"),
        (["study", "RUN", "RUN"], "is a run: choose another folder for the study"),
        (
            ["study", "NEW", "RUN", "--allow", "rater", "c"],
            "rater may rate c: no prompt has that category; there are a, b",
        ),
        (["rate", "NEW", "--port", "99999"], "port must lie in 0..65535, got 99999"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, tmp_path, capsys, command, message):
    places = {"RUN": str(run), "NEW": str(tmp_path / "new")}
    with pytest.raises(SystemExit) as stop:
        evaluate.main([places.get(word, word) for word in command])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_named(run, tmp_path, capsys):
    evaluate.main(["study", str(tmp_path / "study"), str(run), "--training", "0", "--checks", "0"])
    (tmp_path / "study" / "ratings.sqlite").write_bytes(b"no database" * 100)
    (run / "scores").mkdir()
    for content, command in (
        (None, ["study-results", str(tmp_path / "study")]),
        ({"made_by": {}}, ["compare", str(run), str(make_run(tmp_path / "other", 2))]),
        (
            {"made_by": {}, "scores": {"p0-0": {"x": "high"}}, "failures": {}},
            ["compare", str(run), str(tmp_path / "other")],
        ),
    ):
        (run / "scores" / "x.json").write_text(json.dumps(content or {"made_by": {}, "scores": {}, "failures": {}}))
        with pytest.raises(SystemExit) as stop:
            evaluate.main(command)
        assert stop.value.code == 2
        assert ("x.json" if content else "ratings.sqlite") in capsys.readouterr().err
