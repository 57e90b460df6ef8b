"""Planted films: the truth beside a film is what its frames show."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from lcv_jax.data.media_reader import read_video
from lcv_jax.toy.film_frames import frame
from lcv_jax.toy.film_plans import DUPLICATES, plan_duplicate, plan_film
from lcv_jax.toy.films import Arguments, _truth, make_films, read_truth

pytest.importorskip("cv2")


def _plain(film):
    """Without anything that is drawn anew in each frame, or over it."""
    shots = tuple(dataclasses.replace(shot, defect="none", frozen=(0, 0)) for shot in film.shots)
    return dataclasses.replace(film, grain=0.0, border_noise=0.0, logo=None, subtitles=(), shots=shots)


def _plans(count=60, num_shots=4):
    return [plan_film(3, number, num_shots=num_shots) for number in range(count)]


def test_the_frames_of_shots_and_transitions_add_up_to_the_film():
    for film in _plans():
        truth = _truth(film)
        rows = sorted(truth["shots"] + truth["transitions"], key=lambda row: (row["start"], row["end"]))
        assert rows[0]["start"] == 0
        assert rows[-1]["end"] == truth["num_frames"] == film.num_frames
        assert all(before["end"] == after["start"] for before, after in itertools.pairwise(rows))


@pytest.mark.parametrize("kind", ["cut", "dissolve", "fade"])
def test_transitions_change_what_is_seen_where_the_truth_says_so(kind):
    film, row = next(
        (_plain(film), row) for film in _plans() for row in _truth(film)["transitions"] if row["kind"] == kind
    )
    start, end = row["start"], row["end"]
    before, after = frame(film, start - 1).astype(float), frame(film, end).astype(float)
    if kind == "cut":
        change = np.abs(before - after).mean()
        steady = np.abs(before - frame(film, start - 2)).mean()
        assert change > 10
        assert change > 2 * steady
    if kind == "dissolve":
        middle = frame(film, (start + end) // 2).astype(float)
        # The mean brightness of a mix lies between those of what it mixes, and its details are weaker.
        low, high = sorted((before.mean(), after.mean()))
        assert low - 3 < middle.mean() < high + 3
        assert np.abs(middle - before).mean() > 3
        assert np.abs(middle - after).mean() > 3
    if kind == "fade":
        levels = np.array([frame(film, index).mean() for index in range(start - 1, end + 1)])
        assert levels.min() < 0.02 * max(levels[0], levels[-1]) + 1
        assert min(levels[0], levels[-1]) > 10
        assert (np.diff(levels[: levels.argmin()]) < 0).mean() > 0.9


def test_defects_and_overlays_are_where_the_truth_says():
    seen = set()
    for film in _plans():
        truth = _truth(film)
        for shot in truth["shots"]:
            if shot["frozen"] and not film.grain and "frozen" not in seen:
                start, end = shot["frozen"]
                quiet = dataclasses.replace(film, border_noise=0.0, subtitles=())
                assert shot["start"] <= start < end <= shot["end"]
                assert (frame(quiet, start) == frame(quiet, end - 1)).all()
                assert (frame(quiet, start) != frame(quiet, start - 1)).any()
                seen.add("frozen")
        if any(film.borders) and "borders" not in seen:
            top, bottom, left, right = film.borders
            picture = frame(dataclasses.replace(film, logo=None, subtitles=()), truth["shots"][0]["start"])
            inside = np.zeros(picture.shape[:2], bool)
            inside[top : film.height - bottom, left : film.width - right] = True
            assert picture[~inside].max() < 8
            seen.add("borders")
        if film.subtitles and "subtitles" not in seen:
            line = truth["subtitles"][0]
            x, y, width, height = line["box"]
            bare = dataclasses.replace(film, subtitles=())
            changed = (frame(film, line["start"]) != frame(bare, line["start"])).any(axis=2)
            rows, columns = np.nonzero(changed)
            assert y <= rows.min() <= rows.max() < y + height < rows.max() + 5
            assert x <= columns.min() <= columns.max() < x + width < columns.max() + 5
            assert (frame(film, line["end"]) == frame(bare, line["end"])).all()
            seen.add("subtitles")
        if film.logo and "logo" not in seen:
            x, y, width, height = truth["logo"]["box"]
            index = truth["shots"][0]["start"]
            changed = (frame(film, index) != frame(dataclasses.replace(film, logo=None), index)).any(axis=2)
            assert changed[y : y + height, x : x + width].mean() > 0.15
            changed[y : y + height, x : x + width] = False
            assert not changed.any()
            seen.add("logo")
    assert seen == {"frozen", "borders", "subtitles", "logo"}


def test_cameras_move_what_is_seen_the_other_way():
    cv2 = pytest.importorskip("cv2")
    window = cv2.createHanningWindow((100, 60), cv2.CV_32F)
    found = {}
    for film in map(_plain, _plans(120)):
        for index, shot in enumerate(film.shots):
            if shot.camera in found or shot.scene is not None or shot.num_objects:
                continue
            start, _ = film.alone(index)
            grey = [frame(film, start + 10 + step).mean(axis=2).astype(np.float32) for step in (0, 2)]
            y, x = film.height // 2 - 30, film.width // 2 - 50
            one, two = (picture[y : y + 60, x : x + 100] for picture in grey)
            found[shot.camera] = cv2.phaseCorrelate(one, two, window)[0]
    assert found["pan_right"][0] < -0.5 < 0.5 < found["pan_left"][0]
    assert found["tilt_down"][1] < -0.2 < 0.2 < found["tilt_up"][1]


def test_films_are_written_with_their_truth_and_duplicates_repeat_their_originals(tmp_path):
    arguments = Arguments(out=tmp_path / "films", num_films=6, num_shots=1, seed=4, duplicate_share=0.6)
    truths = make_films(arguments)
    kinds = {truth["duplicate"]["kind"] for truth in truths if truth["duplicate"]}
    assert len(kinds) >= 2
    for truth in truths:
        path = tmp_path / "films" / "films" / f"{truth['id']}.mp4"
        assert read_truth(path) == json.loads(json.dumps(truth))
        frames, rate = read_video(path)
        assert frames.shape == (truth["num_frames"], truth["height"], truth["width"], 3)
        assert str(rate) == truth["fps"]
        if truth["duplicate"]:
            start, end = truth["duplicate"]["start"], truth["duplicate"]["end"]
            original, _ = read_video(path.with_name(f"{truth['duplicate']['of']}.mp4"))
            levels = original[start:end].mean(axis=(1, 2, 3)) - frames.mean(axis=(1, 2, 3))
            assert np.abs(levels).max() < 3
            if truth["duplicate"]["kind"] == "exact":
                assert path.read_bytes() == path.with_name(f"{truth['duplicate']['of']}.mp4").read_bytes()


def test_plans_depend_on_seed_and_number_alone():
    assert plan_film(1, 5) == plan_film(1, 5) != plan_film(2, 5)
    duplicates = [plan_duplicate(0, number, 0.5, 4, 0.5) for number in range(100)]
    assert {each.kind for each in duplicates if each} == set(DUPLICATES)
    assert all(duplicates[each.of] is None for each in duplicates if each)
