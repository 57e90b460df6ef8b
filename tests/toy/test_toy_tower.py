"""Simulated raters name what they see of clips, and a judge's tower learns those names; nothing else of it changes."""

import json

import numpy as np
import pytest

from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.judge_conversion import load_judge_config, load_judge_params
from lcv_jax.toy import judges, tower
from lcv_jax.toy.readers import read_clip
from lcv_jax.toy.world import CHOICES, render, sample_scene


def reading_of(seed):
    return read_clip(render(sample_scene(seed), 64, 64, 9, 8.0), 8.0)


def test_raters_name_what_the_reader_is_sure_of_in_its_proportions():
    reading, rng = reading_of(3), np.random.default_rng(0)
    found = judges.names(reading, 4000, rng)
    assert set(found) == set(CHOICES)
    for attribute, shares in found.items():
        sure = reading.scores[attribute]
        total = max(1.0, sum(sure.values()))
        for value in CHOICES[attribute]:
            assert shares.get(value, 0.0) == pytest.approx(sure[value] / total, abs=0.03)


def test_few_raters_agree_where_nothing_is_in_doubt():
    scene = sample_scene(3)
    found = judges.names(reading_of(3), 3, np.random.default_rng(1))
    assert found["colour"] == {scene.colour: 1.0}
    assert found["shape"] == {scene.shape: 1.0}


def test_names_become_a_number_for_every_value():
    names = {name: {} for name in CHOICES} | {"shape": {"ring": 1 / 3, "cross": 2 / 3}}
    values = [(name, value) for name, known in CHOICES.items() for value in known]
    sure = dict(zip(values, tower.sureness(names).tolist(), strict=True))
    assert {pair: number for pair, number in sure.items() if number} == pytest.approx(
        {("shape", "ring"): 1 / 3, ("shape", "cross"): 2 / 3}
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four clips to train on, what raters say of them, and a judge."""
    folder = tmp_path_factory.mktemp("tower") / "clips"
    judges.main([str(folder), "--num-captions", "2", "--num-held-out", "2"])
    return folder


def test_a_judge_learns_to_see_and_keeps_the_rest(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tower, "GLANCES", 40)
    monkeypatch.setattr(tower, "BATCH_SIZE", 8)
    rows = [json.loads(line) for line in (clips / "names.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    glances = tower.named_glances(clips, judges.judge_config()[0])
    assert len(glances.patches_NSC) == len(glances.names_NV) == tower.A_CLIP * len(rows)
    np.testing.assert_array_equal(glances.names_NV[0], tower.sureness(rows[0]["names"]))

    tower.main([str(clips / "start"), str(tmp_path / "seeing"), "--clips", str(clips), "--steps", "2"])
    assert "step 2 of 2: colour" in capsys.readouterr().out
    blind, seeing = (
        dict(convert.flatten(load_judge_params(folder, load_judge_config(folder))))
        for folder in (clips / "start", tmp_path / "seeing")
    )
    changed = {path for path in blind if not np.array_equal(blind[path], seeing[path])}
    assert changed
    assert {path[0] for path in changed} == {"visual"}


def test_what_is_wrong_is_said_before_anything_is_learnt_or_written(clips, tmp_path, capsys):
    full, free = tmp_path, tmp_path / "free"

    def refused(judge, out, folder):
        with pytest.raises(SystemExit):
            tower.main([str(judge), str(out), "--clips", str(folder), "--steps", "2"])
        return capsys.readouterr().err

    (full / "kept").touch()
    assert f"{full} exists and is not empty" in refused(clips / "start", full, clips)
    assert str(tmp_path / "nothing") in refused(tmp_path / "nothing", free, clips)
    assert str(tmp_path / "names.jsonl") in refused(clips / "start", free, tmp_path)
    (tmp_path / "names.jsonl").touch()
    assert "names no clips" in refused(clips / "start", free, tmp_path)
    assert not free.exists()
