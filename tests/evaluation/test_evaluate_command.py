"""The command line with a real pipeline: a suite is sampled, resumed, and its run is read by the other commands."""

import json

import numpy as np
import pytest
from PIL import Image

from lcv_jax import evaluate
from lcv_jax.evaluation.runs import read_run

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
