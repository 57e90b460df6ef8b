"""Captions that are right of a clip in part are rated by what it shows: what was drawn, or what raters call it."""

import json

import pytest

from lcv_jax.toy import matches
from lcv_jax.toy.captions import parse
from lcv_jax.toy.world import CHOICES


def written(folder, *flags):
    matches.main([str(folder), *flags])
    return [json.loads(line) for line in (folder / "matches.jsonl").read_text().splitlines()]


def write(folder, rows):
    (folder / "names.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def names(**seen):
    return {name: {} for name in CHOICES} | seen


def test_a_named_clip_is_rated_by_how_many_say_so(tmp_path):
    seen = names(colour={"red": 1.0}, shape={"ring": 0.667, "circle": 0.333}, motion={"grows": 1.0})
    write(tmp_path, [{"path": "clips/a.mp4", "names": seen}])
    rows = written(tmp_path, "--num-captions", "200")
    assert len(rows) == 200
    for row in rows:
        asked = parse(row["prompt"])
        right = sum(seen[name].get(getattr(asked, name), 0.0) for name in matches.COMPARED)
        assert row["ratings"]["TA"] == pytest.approx(1 + 4 * right / 3)
        assert row["path"] == "clips/a.mp4"
    deserved = {round(row["ratings"]["TA"], 2) for row in rows}
    assert {1.0, 4.56} <= deserved  # none right; the colour, the motion, and the shape by two of three
    assert any(abs(one - 4.11) < 0.01 for one in deserved)  # the shape that one of three has named


def test_what_cannot_be_drawn_is_not_asked_for(tmp_path):
    """Raters may call something round that turns, and may see nothing at all."""
    write(
        tmp_path,
        [
            {"path": "a.mp4", "names": names(shape={"circle": 1.0}, motion={"turns": 1.0})},
            *({"path": f"{number}.mp4", "names": names(shape={"circle": 1.0})} for number in range(20)),
            {"path": "b.mp4", "names": names()},
        ],
    )
    rows = written(tmp_path, "--num-captions", "8")
    assert len(rows) == 22 * 8
    assert not any((parse(row["prompt"]).shape, parse(row["prompt"]).motion) == ("circle", "turns") for row in rows)


def test_no_clips_are_said_to_be_none(tmp_path, capsys):
    write(tmp_path, [])
    with pytest.raises(SystemExit):
        matches.main([str(tmp_path)])
    assert f"{tmp_path}: holds no clips" in capsys.readouterr().err
    (tmp_path / "names.jsonl").unlink()
    with pytest.raises(SystemExit):
        matches.main([str(tmp_path)])
    assert "scenes.jsonl: No such file" in capsys.readouterr().err
