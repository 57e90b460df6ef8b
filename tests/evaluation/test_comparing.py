"""Scores of runs, judges, the comparison of runs, and its page."""

import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcv_jax.data import chat
from lcv_jax.evaluate import main
from lcv_jax.evaluation import comparing, openai_judge, report
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.scores import read_scores, score_run
from lcv_jax.evaluation.suite_sampling import Settings, sample_suite
from lcv_jax.evaluation.suites import Item, Suite
from lcv_jax.sampling.options import SamplingOptions
from tests.evaluation.clips import StubPipeline, make_run

pytest.importorskip("cv2")


@pytest.fixture
def runs(tmp_path):
    return [make_run(tmp_path / name, num, noise=noise) for name, num, noise in (("clean", 7, 0), ("grainy", 6, 40))]


def number(video, offset=0.0):
    return int(video.item.id[1:]) + offset


def scored(runs, a, b, name="judge", **made_by):
    """Both runs with scores that two functions give."""
    for run, function in zip(map(read_run, runs), (a, b), strict=True):
        score_run(run, name, made_by, lambda video, function=function: {"quality": function(video)})
    return comparing.compare_runs([read_run(run) for run in runs])


def test_runs_are_compared_on_prompts_that_both_have(runs):
    found = scored(runs, lambda video: number(video, 1.0), number)
    assert len(found.items) == 6
    assert found.notes == ("clean: 1 of 7 prompts are not in all runs and are left out",)
    estimates = found.estimates(("judge", "quality"))
    assert (estimates["clean"].mean, estimates["grainy"].mean) == (3.5, 2.5)
    difference = found.difference(("judge", "quality"), "clean", "grainy")
    assert (difference.estimate.low, difference.estimate.high) == (1, 1)  # far wider if prompts were not paired
    assert comparing.verdict(difference, ("judge", "quality"), "clean", "grainy") == "clean is better"
    by_category = found.by_category(("judge", "quality"))
    assert {name: by["grainy"].mean for name, by in by_category.items()} == {"a": 2.0, "b": 3.0}


def test_no_difference_is_said(runs):
    found = scored(runs, lambda video: (-1) ** number(video), lambda video: 0.0)
    text = "\n".join(comparing.lines_of_comparison(found))
    assert "no difference to be seen" in text
    assert "no difference to be seen" in report.markdown(found)


def test_a_failure_is_no_number_and_is_tried_again(runs):
    calls = []

    def fails_once(video):
        calls.append(video.id)
        if video.id == "p1-0" and len(calls) < 7:
            raise ValueError("the judge is away")
        return {"quality": np.nan if video.id == "p2-0" else 1.0}

    run = read_run(runs[1])
    scores = score_run(run, "judge", {}, fails_once)
    assert scores.failures == {"p1-0": "the judge is away", "p2-0": "quality not finite"}
    assert scores.by_item(run)["quality"].keys() == {"p0", "p3", "p4", "p5"}
    again = score_run(run, "judge", {}, fails_once)
    assert calls[6:] == ["p1-0", "p2-0"]
    assert again.by_item(run)["quality"]["p1"] == 1
    assert again.failures == {"p2-0": "quality not finite"}  # and not forgotten
    with pytest.raises(ValueError, match="choose another name"):
        score_run(run, "judge", {"factory": "another"}, fails_once)


def test_scores_of_replaced_videos_do_not_count(runs, tmp_path):
    scored(runs, number, number)
    clean = read_run(runs[0])
    first, second, third = (video.path for video in clean.videos[:3])
    first.write_bytes(third.read_bytes())
    second.touch()  # and a copy of the same content is no other video
    items = (runs[0] / "items.jsonl").read_text()
    for run in runs:
        (run / "items.jsonl").write_text(items.replace("prompt 2", "another prompt"))
    clean = read_run(runs[0])
    (left,) = read_scores(clean)
    assert left.outdated == ("p0-0", "p2-0")
    found = comparing.compare_runs([clean, read_run(runs[1])])
    assert "clean: 2 outdated scores of judge are left out " in "\n".join(found.notes)
    assert "| judge: quality (4 prompts) |" in report.markdown(found)
    assert found.values["judge", "quality"]["clean"].keys() == {"p1", "p3", "p4", "p5"}
    calls = []
    again = score_run(clean, "judge", {}, lambda video: calls.append(video.id) or {"quality": 9.0})
    assert calls == ["p0-0", "p2-0"] == list(again.outdated)
    assert again.by_item(clean)["quality"]["p0"] == 9
    first.write_bytes(b"not a video")
    broken = score_run(clean, "judge", {}, number)
    assert "p0-0" in broken.failures
    assert "p0-0" not in broken.by_video


def test_an_interrupted_judge_keeps_what_it_has_scored(runs):
    def interrupted(video):
        if video.id == "p3-0":
            raise KeyboardInterrupt
        return {"quality": 1.0}

    run = read_run(runs[0])
    with pytest.raises(KeyboardInterrupt):
        score_run(run, "judge", {}, interrupted)
    assert read_scores(run)[0].by_video.keys() == {"p0-0", "p1-0", "p2-0"}


def test_scores_of_different_judges_are_not_compared(runs, capsys):
    for run, factory in zip(runs, ("a:b", "c:d"), strict=True):
        score_run(read_run(run), "judge", {"factory": factory}, lambda video: {"quality": 1.0})
    with pytest.raises(
        ValueError, match=r'judge is not compared.*clean \{"factory": "a:b"\}; grainy \{"factory": "c:d"'
    ):
        comparing.compare_runs(list(map(read_run, runs)))
    found = scored(runs, number, number, "other")
    assert {name for name, _ in found.values} == {"other"}
    assert "judge is not compared" in report.markdown(found)
    assert "judge is not compared" in report.page(found)


def test_clips_that_differ_in_more_than_their_pictures_are_noted(tmp_path):
    items = [
        Item(id="text", prompt="a fox", translations={"zh": "狐狸"}),
        Item(id="image", prompt="it fades", task="image-to-video", image="12:30.png", translations={"zh": "褪色"}),
    ]
    runs = []
    for name, settings in (
        ("a", Settings(size=(32, 48), num_frames=5, fps=8.0)),
        ("b", Settings(size=(48, 32), num_frames=9, fps=4.0, num_samples=2, language="zh")),
    ):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((32, 48, 3), 90 + len(runs), np.uint8)).save(tmp_path / name / "12:30.png")
        suite = Suite(name="two", items=tuple(items), folder=tmp_path / name)
        sample_suite(StubPipeline(), suite, tmp_path / name / "run", settings, SamplingOptions())
        (tmp_path / name / "run").rename(tmp_path / f"run_{name}")
        runs.append(tmp_path / f"run_{name}")
    notes = scored(runs, lambda _: 1.0, lambda _: 1.0).notes
    wanted = [
        "length (text: run_a 5 frames; run_b 9 frames)",
        "size (text: run_a 32 x 48; run_b 48 x 32)",
        "frame rate (text: run_a 8 frames a second; run_b 4 frames a second)",
        "reference images (image: run_a ",
        "number (text: run_a 1 samples; run_b 2 samples)",
        "different languages (run_a en; run_b zh)",
    ]
    assert len(notes) == len(wanted)
    for note, text in zip(notes, wanted, strict=True):
        assert text in note
    assert notes[0].startswith("2 of 2 prompts have clips of different length")
    same = scored([runs[0], Path(shutil.copytree(runs[0], tmp_path / "copy"))], lambda _: 1.0, lambda _: 1.0, "other")
    assert same.notes == ()


def test_run_names_do_not_break_a_markdown_table(runs):
    named = runs[0].rename(runs[0].with_name("a|b"))
    table = report.markdown(scored([named, runs[1]], number, number))
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines() if line.startswith("|")} == {6}


def test_nothing_is_written_where_an_option_is_wrong(runs, tmp_path, capsys):
    scored(runs, number, number)
    card, page = tmp_path / "card.md", tmp_path / "page.html"
    common = ["compare", *map(str, runs), "--markdown", str(card)]
    for wrong, told in (
        (["--page", str(page), "--rank-by", "measures", "beauty"], "there is no score measures:beauty"),
        (["--page", str(page), "--num-prompts", "-1"], "num_prompts must lie in 0..1000, got -1"),
        (["--page", str(tmp_path)], "is a folder, and a file has to be written there"),
        (["--rank-by", "judge", "quality"], "--rank-by ranks the prompts of a --page"),
    ):
        with pytest.raises(SystemExit):
            main([*common, *wrong])
        assert told in capsys.readouterr().err
        assert not card.exists()


def test_measuring_judging_and_comparing_by_command(runs, tmp_path, capsys):
    clean, grainy = map(str, runs)
    main(["measure", clean, grainy])
    main(["judge", "sharp", clean, grainy, "--factory", "lcv_jax.toy.rewards:sharpness"])
    page, card = tmp_path / "page.html", tmp_path / "card.md"
    main(["compare", clean, grainy, "--page", str(page), "--markdown", str(card), "--rank-by", "measures", "flicker"])
    out = capsys.readouterr().out
    assert "sharp: 7 videos scored, 0 without a score" in out
    assert re.search(r"measures: warping_error \(lower is better\).*?: clean is better", out, re.DOTALL)
    assert "| measures: flicker | higher | 0." in card.read_text()
    text = page.read_text()
    assert text.count("<video ") == 2 * 6  # best and worst three, both runs
    assert text.count("data:video/mp4;base64,") == 12
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("<svg ") == len(read_scores(read_run(runs[0]))[0].by_video["p0-0"]) + 1
    main(["compare", grainy, clean])
    assert re.search(r"measures: warping_error .*?: clean is better", capsys.readouterr().out, re.DOTALL)
    assert text.count("<summary>by category</summary>") == text.count("<svg ")
    (runs[1] / "videos" / "p0-0.mp4").write_bytes(b"not a video")
    (runs[0] / "videos" / "p5-0.mp4").unlink()
    main(["measure", grainy, clean])
    captured = capsys.readouterr()
    assert "clean: 1 prompts have no video (p5)" in captured.err
    assert "measures: scored again 1 videos that were replaced since" in captured.out
    assert "warning: p0-0 has no score: " in captured.err
    assert "5 videos scored, 1 without" in captured.out


def test_prompts_are_escaped(runs):
    item = json.loads((runs[0] / "items.jsonl").read_text().splitlines()[0])
    for run in runs:
        text = (run / "items.jsonl").read_text()
        (run / "items.jsonl").write_text(text.replace(item["prompt"], "<script>alert(1)</script>"))
    found = scored(runs, number, number)
    assert "<script>alert" not in report.page(found)
    assert "&lt;script&gt;alert" in report.page(found)


def test_the_bars_show_means_and_intervals():
    one = comparing.Estimate(mean=2.0, low=1.0, high=4.0, count=9)
    drawn = report.bars({"a": one, "b": comparing.Estimate(mean=4.0, low=None, high=None, count=1)})
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn)]
    assert widths[1] == pytest.approx(2 * widths[0])
    assert drawn.count("<path ") == 1


class Endpoint(BaseHTTPRequestHandler):
    replies: list = []
    requests: list = []

    def do_POST(self):
        self.requests.append((dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        status, content = self.replies.pop(0)
        body = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    Endpoint.replies, Endpoint.requests = [], []
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


GOOD = {"text_alignment": 4, "visual_quality": 3, "motion_quality": 2, "overall": 3}


def test_a_judge_behind_an_openai_compatible_endpoint(endpoint, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    monkeypatch.setattr(chat.time, "sleep", lambda _: None)
    judge = openai_judge.judge(endpoint, "vlm", num_frames=4, side=32, key_variable="JUDGE_KEY")
    Endpoint.replies = [
        (500, ""), (200, f"Here it is:\n```json\n{json.dumps(GOOD)}\n```"),
        (200, json.dumps({**GOOD, "overall": 9})), (200, "no"), (200, "no"),
        (401, "no key"),
    ]  # fmt: skip
    clips = np.zeros((3, 9, 48, 64, 3), np.uint8)
    scores = judge.score(clips, ["a fox", "b", "c"], 8)
    assert {name: float(values[0]) for name, values in scores.values.items()} == GOOD
    assert np.isnan(scores.values["overall"][1:]).all()
    assert sorted(scores.failures) == [1, 2]
    assert "status 401" in scores.failures[2]
    headers, body = Endpoint.requests[1]
    assert headers["Authorization"] == "Bearer secret"
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 4 + ["text"]
    assert "a fox" in content[-1]["text"]
    assert "Frozen, or chaotic throughout" in content[-1]["text"]
    assert "secret" not in repr(judge)
