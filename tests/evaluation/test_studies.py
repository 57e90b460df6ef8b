"""Studies: what raters are shown, that nothing is lost, and what their ratings say. Requests go to a real server."""

import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import sqlite3
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from lcv_jax.evaluate import main
from lcv_jax.evaluation import ratings as ratings_module
from lcv_jax.evaluation.agreement import judge_agreement
from lcv_jax.evaluation.rating_server import is_swapped, rating_app
from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.scores import score_run
from lcv_jax.evaluation.studies import create_study, read_study
from lcv_jax.evaluation.study_results import rating_rows, study_findings, write_table
from lcv_jax.evaluation.suites import write_suite
from lcv_jax.own_files import DiskFullError
from tests.evaluation.clips import make_run
from tests.evaluation.served import Served

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("krippendorff")

NO_RATERS = dict.fromkeys(["ann", "bob", "eve"], ())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models' runs of six prompts."""
    folder = tmp_path_factory.mktemp("runs")
    return [read_run(make_run(folder / name, noise=noise)) for name, noise in (("clean", 0), ("grainy", 40))]


def make(folder, runs, kind="absolute", raters=NO_RATERS, **how):
    return create_study(folder, runs, kind, raters, **{"num_training": 0, "num_checks": 0, **how})[0]


def rate_everything(ratings, rater, answer):
    """Answers all that a rater is shown; gives the items in their order."""
    seen = []
    while (item := ratings.next(rater)) is not None:
        for dimension in item.dimensions:
            ratings.add(item, rater, dimension, answer(item, dimension))
        seen.append(item)
    return seen


def test_three_raters_and_two_more_where_they_differ(tmp_path, runs):
    raters = dict.fromkeys([f"r{n}" for n in range(7)], ())
    study = make(tmp_path, runs[:1], raters=raters)
    ratings = Ratings(study)
    disputed = study.items[0].id
    for number, rater in enumerate(study.raters):
        rate_everything(ratings, rater, lambda item, _, n=number: 5 if item.id == disputed and n % 2 else 3)
    counts = {item.id: 0 for item in study.items}
    for answer in ratings.answers():
        counts[answer.item] += answer.dimension == "overall"
    assert counts.pop(disputed) == 5
    assert set(counts.values()) == {3}


def test_the_order_is_each_raters_own_and_the_least_rated_come_first(tmp_path, runs):
    study = make(tmp_path, runs)
    ratings = Ratings(study)
    orders = [[item.id for item in rate_everything(ratings, rater, lambda *_: 3)] for rater in study.raters]
    assert len({tuple(order) for order in orders}) == 3
    assert all(set(order) == set(study.by_id) for order in orders)
    # Half-way through, no item has two ratings while another has none.
    second = Ratings(make(tmp_path / "second", runs))
    for step in range(12):
        item = second.next(second.study.raters[step % 2])
        for dimension in item.dimensions:
            second.add(item, second.study.raters[step % 2], dimension, 3)
    assert len({answer.item for answer in second.answers()}) == 12


def test_training_comes_first_checks_are_hidden_among_the_others(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(ratings_module, "CHECK_EVERY", 3)
    study = make(tmp_path, runs, num_training=3, num_checks=2)
    seen = rate_everything(Ratings(study), study.raters[0], lambda *_: 3)
    roles = [item.role for item in seen]
    assert roles[:3] == ["training"] * 3
    assert roles.count("check") == 2
    assert roles.index("check") > 3
    check = next(item for item in seen if item.role == "check")
    assert check.dimensions == next(item for item in seen if item.role == "rating").dimensions


def test_a_rater_may_see_some_categories_only(tmp_path, runs):
    study = make(tmp_path, runs[:1], raters={"ann": ("a",), "bob": ()}, num_training=1)
    ratings = Ratings(study)
    ann, bob = study.raters
    for rater, seen in ((ann, {("a",)}), (bob, {("a",), ("b",)})):
        items = rate_everything(ratings, rater, lambda *_: 3)
        assert {item.categories for item in items if item.role == "rating"} == seen
    other = next(item for item in study.items if item.categories == ("b",))
    with pytest.raises(ValueError, match="ann may not rate items of category b"):
        ratings.add(other, ann, "overall", 3)


def test_an_item_counts_in_all_of_its_categories(tmp_path, runs):
    first, *others = runs[0].suite.items
    copied = Path(shutil.copytree(runs[0].folder, tmp_path / "run"))
    write_suite([dataclasses.replace(first, categories=("a", "physics")), *others], copied / "items.jsonl")
    run = read_run(copied)
    study, warnings = create_study(
        tmp_path / "study",
        [run],
        "absolute",
        {"ann": ("physics",), "bob": ()},
        num_training=0,
        num_checks=0,
        num_raters=2,
    )
    ann = study.raters[0]
    assert [item.item for item in rate_everything(Ratings(study), ann, lambda *_: 3)] == ["p0"]
    assert warnings == [
        "5 of 6 prompts have fewer raters than the 2 ratings that each is to get (p1, ...): "
        "add raters, or lower --num-raters"
    ]


def test_only_what_was_shown_can_be_rated(tmp_path, runs):
    study = make(tmp_path, runs[:1], num_training=2)
    ratings, ann = Ratings(study), study.raters[0]
    training, later, item = study.items[:3]
    assert ratings.next(ann) == training
    for early in (later, item):
        with pytest.raises(ValueError, match="has not been shown to you"):
            ratings.add(early, ann, "overall", 3)
    rate_everything(ratings, ann, lambda *_: 3)
    ratings.add(item, ann, "overall", 4)  # they have answered it before


@pytest.fixture
def moved(tmp_path, runs):
    """A study and its run, moved after the study was made."""
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(runs[0].folder, before / "run")
    make(before / "study", [read_run(before / "run")], raters={"ann": (), "bob": ()}, num_training=1)
    before.rename(after)
    return read_study(after / "study")


def test_a_study_moves_with_its_runs_and_shows_nothing_that_is_gone(moved, capsys):
    ratings, (ann, bob) = Ratings(moved), moved.raters
    seen = [item.id for item in rate_everything(ratings, ann, lambda *_: 3)]
    assert len(seen) == 7
    shown = ratings.next(bob)
    gone = moved.folder / shown.videos[0]
    gone.unlink()
    with pytest.raises(ValueError, match="this item cannot be rated: its clip is gone"):
        ratings.add(shown, bob, "overall", 3)
    assert ratings.progress(bob) == (0, 6)
    skipped = ratings.next(bob)
    ratings.skip(skipped, bob)
    assert len(rate_everything(ratings, bob, lambda *_: 3)) == 5
    main(["study-results", str(moved.folder), "--exclude", "ann"])
    out = capsys.readouterr().out
    assert f"bob could not play {skipped.videos[0]}" in out
    assert "left out: ann" in out
    clip = moved.folder / skipped.videos[0]
    clip.write_bytes(clip.read_bytes() + b"more")
    with pytest.raises(SystemExit):
        main(["rate", str(moved.folder), "--port", "0"])
    assert "1 clips were replaced since the study was made" in capsys.readouterr().err
    main(["study-results", str(moved.folder)])
    assert "1 clips were replaced since the study was made; ratings may be of others" in capsys.readouterr().err
    for path in moved.folder.parent.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["rate", str(moved.folder), "--port", "0"])
    assert "the clips are gone" in capsys.readouterr().err


def test_raters_who_contradict_all_training_items_or_all_checks_are_flagged(tmp_path, runs, monkeypatch, capsys):
    monkeypatch.setattr(ratings_module, "CHECK_EVERY", 2)
    raters = ("careful", "corrected", "tired", "begun", "once")
    study = make(tmp_path, runs, raters=dict.fromkeys(raters, ()), num_training=2, num_checks=2)
    ratings = Ratings(study)
    by_name = {rater.name: rater for rater in study.raters}
    wrong_in = {"careful": (), "corrected": ("training",), "tired": ("check",), "once": ()}
    for name, roles in wrong_in.items():
        rate_everything(ratings, by_name[name], lambda item, _, roles=roles: 5 if item.role in roles else 2)
    for item in study.items[:2]:
        for dimension in item.dimensions:
            ratings.add(item, by_name["corrected"], dimension, 1)  # after the page showed what is right
    for dimension in study.items[0].dimensions:
        ratings.add(study.items[0], by_name["once"], dimension, 5)  # right at first
    first = ratings.next(by_name["begun"])
    for dimension in first.dimensions:
        ratings.add(first, by_name["begun"], dimension, 4)
    found = study_findings(study, rating_rows(ratings))
    assert {name: known.flag for name, known in found.known_answers.items() if known.flag} == {
        "corrected": "contradicts every training item",
        "tired": "contradicts every check",
        "begun": "contradicts every training item",
    }
    main(["study-results", str(tmp_path)])
    out = capsys.readouterr().out
    assert re.search("begun +right in 0 of 1 training items, 0 of 0 checks  FLAGGED: contradicts every training", out)
    assert re.search("tired +right in 2 of 2 training items, 0 of 2 checks  FLAGGED: contradicts every check", out)


def test_a_flag_is_shown_before_there_are_ratings(tmp_path, runs, capsys):
    study = make(tmp_path, runs, num_training=1)
    ratings, ann = Ratings(study), study.raters[0]
    item = ratings.next(ann)
    for dimension in item.dimensions:
        ratings.add(item, ann, dimension, 5)
    main(["study-results", str(tmp_path)])
    assert re.search("no ratings yet(.|\n)*FLAGGED", capsys.readouterr().out)


def test_ratings_out_of_range_are_refused(tmp_path, runs):
    study = make(tmp_path, runs[:1])
    ratings, (item, *_), (ann, *_) = Ratings(study), study.items, study.raters
    for score in (0, 6, -1):
        with pytest.raises(ValueError, match=r"score must be a whole number in 1\.\.5"):
            ratings.add(item, ann, "overall", score)
    with pytest.raises(ValueError, match="dimension must be one of text_alignment, .*, got 'beauty'"):
        ratings.add(item, ann, "beauty", 3)
    assert ratings.answers() == []


def test_a_full_disk_is_said_and_what_was_rated_stays(tmp_path, runs, monkeypatch):
    study = make(tmp_path, runs[:1], raters={"ann": ()})
    ratings, ann = Ratings(study), study.raters[0]
    item = ratings.next(ann)

    def connect(*arguments, **options):
        database = sqlite3.Connection(*arguments, **options)
        database.execute("PRAGMA max_page_count=1")  # as many as there are
        return database

    monkeypatch.setattr(ratings_module.sqlite3, "connect", connect)
    stored = 0

    def rate_until_full():
        nonlocal stored
        while True:
            ratings.add(item, ann, "overall", 3)
            stored += 1

    with pytest.raises(DiskFullError) as full:
        rate_until_full()
    reply = rating_app(study).exception_handlers[DiskFullError](None, full.value)
    assert reply.status_code == 507
    assert "ratings.sqlite: the answer is not stored: the disk mounted at " in json.loads(reply.body)["error"]
    monkeypatch.undo()
    with sqlite3.connect(ratings.path) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone()[0] == stored > 0
    ratings.add(item, ann, "overall", 5)
    assert ratings.answers()[0].score == 5


def test_going_back_keeps_what_was_answered_first(tmp_path, runs):
    study = make(tmp_path, runs[:1])
    ratings, ann = Ratings(study), study.raters[0]
    first = ratings.next(ann)
    for dimension in first.dimensions:
        ratings.add(first, ann, dimension, 2)
    second = ratings.next(ann)
    assert ratings.previous(ann, second.id) == first
    ratings.add(first, ann, "overall", 5)
    assert ratings.scores_of(first, ann) == {**dict.fromkeys(first.dimensions, 2), "overall": 5}
    assert ratings.next(ann) == second
    with sqlite3.connect(ratings.path) as database:
        assert database.execute("SELECT COUNT(*) FROM answers").fetchone() == (5,)
    database.close()


def test_a_study_does_not_change_once_it_is_rated(tmp_path, runs):
    study = make(tmp_path, runs[:1])
    Ratings(study)
    assert Ratings(read_study(tmp_path)).answers() == []
    content = json.loads((tmp_path / "study.json").read_text())
    content["num_raters"] = 4
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"study\.json was changed after ratings began"):
        Ratings(read_study(tmp_path))
    with pytest.raises(ValueError, match="has a study already"):
        make(tmp_path, runs[:1])
    content["format"] = 9
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="of another version"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("dimensions", ["beauty"], "unknown dimensions beauty"),
        ("expected", {"overall": [None, 2]}, r"expected\['overall'\]\[0\] must be a whole number, got None"),
        ("expected", 3, "expected must be a mapping, got 3"),
        ("videos", ["a", "b"], "of another kind of study: 2 videos"),
        ("role", "boss", "role must be 'rating' or 'training' or 'check', got 'boss'"),
    ],
)
def test_a_study_edited_by_hand_is_checked(tmp_path, runs, field, value, told):  # types by beartype, in tests
    make(tmp_path, runs[:1])
    path = tmp_path / "study.json"
    content = json.loads(path.read_text())
    content["items"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"study\.json: .*({told}|TypeCheckError)"):
        read_study(tmp_path)


def test_prompts_that_one_run_lacks_are_left_out_and_said(tmp_path, runs):
    longer = read_run(make_run(tmp_path / "longer", 8))
    study, warnings = create_study(tmp_path / "study", [runs[0], longer], "pairwise", NO_RATERS)
    assert sum(item.role == "rating" for item in study.items) == 6
    assert warnings == ["longer: 2 of 8 prompts are not in all runs and are left out"]
    shutil.copy(make_run(tmp_path / "tall", 1, size=(48, 32)) / "videos" / "p0-0.mp4", longer.videos[0].path)
    _, warnings = create_study(tmp_path / "sizes", [runs[0], longer], "pairwise", NO_RATERS)
    assert warnings[1:] == ["1 prompts have videos of different sizes; raters may notice"]
    longer.videos[0].path.write_bytes(b"no video")
    with pytest.raises(OSError, match="p0-0.mp4"):
        make(tmp_path / "other", [runs[0], longer], "pairwise")


def test_opinion_scores_agreement_and_flags(tmp_path, runs):
    study = make(tmp_path, runs, num_training=3)
    ratings, rng = Ratings(study), np.random.default_rng(0)
    quality = {"clean": 4, "grainy": 2}

    def answer(item, dimension, *, contrary):
        if item.role == "training":
            return 5 if contrary else 1
        return int(np.clip(quality[item.models[0]] + rng.integers(0, 2), 1, 5))

    for rater in study.raters:
        rate_everything(ratings, rater, lambda i, d, r=rater: answer(i, d, contrary=r.name == "eve"))
    found = study_findings(study, rating_rows(ratings))
    assert 4 <= found.scores["clean", "overall"].mean <= 5
    assert found.scores["clean", "overall"].count == 6
    assert found.differences["clean", "grainy", "overall"].verdict("clean", "grainy") == "clean is higher"
    alpha, icc = found.agreement["overall"]
    assert alpha > 0.7
    assert icc > 0.8
    assert {name: bool(known.flag) for name, known in found.known_answers.items()} == {
        "ann": False, "bob": False, "eve": True,
    }  # fmt: skip
    assert found.num_ratings == 3 * 12 * 4  # flagged, not dropped
    assert study_findings(study, rating_rows(ratings, ["eve"])).num_ratings == 2 * 12 * 4


def test_a_judge_against_people(tmp_path, runs):
    study = make(tmp_path, runs)
    ratings, order = Ratings(study), {item.id: place for place, item in enumerate(runs[0].suite.items)}
    for rater in study.raters:
        rate_everything(ratings, rater, lambda item, _: 1 + order[item.item] % 5)

    def judge(video):
        place = order[video.item.id] % 5
        return {"overall": 5.0 - place, "beauty": 10.0 * place}

    for run in runs:
        score_run(run, "vlm", {}, judge)
    found = judge_agreement(rating_rows(ratings), runs, "vlm", {"visual_quality": "beauty"})
    assert found.correlations["overall"].pearson == pytest.approx(-1)
    assert found.correlations["visual_quality"].spearman == pytest.approx(1)
    assert found.correlations["overall"].count == 12
    # People: 1 2 3 4 5 1, the judge: 5 4 3 2 1 5. Beauty is on another scale and has no common mean.
    assert {dimension for _, dimension in found.finals} == {"overall"}
    assert found.finals["clean", "overall"].mean == pytest.approx((2 * 16 / 6 + 20 / 6) / 3)
    with pytest.raises(ValueError, match="there are no ratings yet"):
        judge_agreement([], runs, "vlm", {})
    with pytest.raises(ValueError, match="has no scores 'hps'; it has vlm"):
        judge_agreement(rating_rows(ratings), runs, "hps", {})
    for run in runs:
        score_run(run, "mixed", {"factory": run.name}, judge)
    with pytest.raises(ValueError, match="scores 'mixed' of clean, grainy were made differently"):
        judge_agreement(rating_rows(ratings), runs, "mixed", {})


def test_preferences_count_prompts_in_the_models_order(tmp_path, runs, capsys):
    study = make(tmp_path, runs, "pairwise")
    ratings = Ratings(study)
    for rater in study.raters:
        rate_everything(ratings, rater, lambda *_: 1)
    found = study_findings(study, rating_rows(ratings))
    one = found.preferences["clean", "grainy", "overall"]
    assert (one.good, one.same, one.bad) == (6, 0, 0)
    main(["study-results", str(tmp_path), "--output", str(tmp_path / "ratings.csv")])
    assert "clean against grainy, overall: 6 0 0, net +1.00" in capsys.readouterr().out
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    write_table(rating_rows(ratings), tmp_path / "ratings.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "ratings.parquet").to_pylist()
    assert len(table) == 3 * 6 * 4
    assert {row["other_model"] for row in table} == {"grainy"}
    assert len((tmp_path / "ratings.csv").read_text().splitlines()) == len(table) + 1


def status_of(call):
    with pytest.raises(urllib.error.HTTPError) as refused:
        call()
    with refused.value as error:
        return error.code, json.loads(error.read())["error"]


def test_the_server_is_blind_and_strict(tmp_path, runs):
    study = make(tmp_path, runs, "pairwise", dict.fromkeys([f"r{n}" for n in range(20)], ()), num_training=1)
    # One of twenty raters at least sees the sides of the training pair swapped.
    rater = next(one for one in study.raters if is_swapped(study, one, study.items[0]))
    with Served(tmp_path) as server:
        token = server.links[rater.name].split("rater=")[1]
        page = server.ask("/").decode()
        assert "/page.js" in page
        shown = server.ask(f"/api/next?rater={token}")
        assert shown["training"]
        assert not {"clean", "grainy", "faulty"} & set(json.dumps(shown).replace("/", " ").replace('"', " ").split())
        # Both clips, whichever side they are on; and parts of them, as players ask for.
        training = study.items[0]
        whole = [server.ask(url) for url in shown["videos"]]
        files = [(tmp_path / name).read_bytes() for name in training.videos]
        assert whole == files[::-1]
        assert server.ask(shown["videos"][0], headers={"Range": "bytes=2-5"}.items()) == whole[0][2:6]
        better = -1  # the clean clip, on the right
        for dimension in ("text_alignment", "visual_quality", "motion_quality", "overall"):
            answer = {"rater": token, "item": shown["item"], "dimension": dimension, "score": better}
            reply = server.ask("/api/rate", answer)
        assert reply == {
            "complete": True,
            "feedback": {"right": True, "text": "Every frame is covered by strong noise."},
        }
        assert {one.score for one in Ratings(study).answers()} == {1}
        shown = server.ask(f"/api/next?rater={token}")
        assert (shown["training"], shown["done"]) == (False, 1)
        assert server.ask(f"/api/previous?rater={token}&item={shown['item']}")["scores"] == dict.fromkeys(
            reply_dimensions(shown), better
        )
        answer = {"rater": token, "item": shown["item"], "dimension": "overall", "score": 2}
        assert status_of(lambda: server.ask("/api/rate", answer))[0] == 400
        stored = len(Ratings(study).answers())
        for wrong in (True, 1.0, "1", None, [1], 10**400):
            for item in (shown["item"], training.id):  # the latter's sides are swapped
                body = {**answer, "item": item, "score": wrong}
                assert status_of(lambda body=body: server.ask("/api/rate", body))[0] == 400
        bodies = (b"[" * 5000 + b"]" * 5000, b"\xff", b'{"score": ' + b"9" * 5000 + b"}", b"[]", b'{"a": 1, "a": 2}')
        for body in bodies:
            assert status_of(lambda body=body: server.post("/api/rate", body))[0] == 400
        assert status_of(lambda: server.post("/api/rate", b" " * 100_000))[0] == 413
        assert len(Ratings(study).answers()) == stored
        for place in ("9" * 5000, "-1", "00", "²", "image"):
            assert status_of(lambda place=place: server.ask(f"/media/{shown['item']}/{quote(place)}"))[0] == 404
        for numbers in ("9" * 5000 + "-", "-" + "9" * 5000, "x-y", ",".join(["0-1"] * 2000)):
            code = server.status(shown["videos"][0], {"Range": f"bytes={numbers}"})
            assert code < 500, numbers[:20]
        assert status_of(lambda: server.ask("/api/rate", {**answer, "rater": "x"}))[0] == 403
        assert status_of(lambda: server.ask("/api/next?rater="))[0] == 403
        assert status_of(lambda: server.ask("/media/x/0"))[0] == 404
        assert status_of(lambda: server.ask(f"/media/{shown['item']}/7"))[0] == 404
        clip = tmp_path / study.by_id[shown["item"]].videos[0]
        before = clip.read_bytes()
        clip.write_bytes(before + b"more")
        code, reason = status_of(lambda: server.ask("/api/rate", {**answer, "score": 1}))
        clip.write_bytes(before)
        assert (code, reason.split(":")[0]) == (409, "a clip of this item was replaced while it is being rated")
        content = (tmp_path / "study.json").read_text()
        (tmp_path / "study.json").write_text(content.replace('"num_raters": 3', '"num_raters": 2'))
        code, reason = status_of(lambda: server.ask("/api/rate", {**answer, "score": 1}))
        assert code == 409
        assert "changed while it is being rated" in reason


def reply_dimensions(shown):
    return [dimension["id"] for dimension in shown["dimensions"]]


def test_ten_raters_at_once_lose_nothing_when_the_server_is_killed(tmp_path, runs):
    names = [f"rater{n}" for n in range(10)]
    study = make(tmp_path, runs, raters=dict.fromkeys(names, ()))
    accepted: dict[str, set] = {name: set() for name in names}

    def rate(name, server, most):
        token = server.links[name].split("rater=")[1]
        try:
            for _ in range(most):
                shown = server.ask(f"/api/next?rater={token}")
                if "item" not in shown:
                    return
                for dimension in reply_dimensions(shown):
                    if dimension not in shown["scores"]:
                        answer = {"rater": token, "item": shown["item"], "dimension": dimension, "score": 3}
                        server.ask("/api/rate", answer)
                        accepted[name].add((shown["item"], dimension))
        except (OSError, ValueError, http.client.HTTPException):
            return  # killed, perhaps in the midst of a reply

    def all_at_once(server, most):
        threads = [threading.Thread(target=rate, args=(name, server, most)) for name in names]
        for thread in threads:
            thread.start()
        return threads

    with Served(tmp_path) as server:
        threads = all_at_once(server, 100)
        while sum(map(len, accepted.values())) < 25:
            threads[0].join(0.01)
        os.kill(server.process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    stored = {name: set() for name in names}
    for answer in Ratings(study).answers():
        stored[answer.rater].add((answer.item, answer.dimension))
    assert all(accepted[name] <= stored[name] for name in names)
    with Served(tmp_path) as server:
        for thread in all_at_once(server, 100):
            thread.join()
    answers = Ratings(study).answers()
    complete: dict[str, set] = {}
    for answer in answers:
        if answer.dimension == "overall":
            complete.setdefault(answer.item, set()).add(answer.rater)
    # A claim keeps an item for its rater: three raters each, and not many more.
    assert {len(raters) for raters in complete.values()} == {3}
    assert len(complete) == 12
