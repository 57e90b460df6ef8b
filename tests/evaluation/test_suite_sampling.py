"""Sampling a suite: seeds, resuming, parts, sizes; the layouts of VBench; its results."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from lcv_jax.data.media_reader import read_video
from lcv_jax.evaluate import main
from lcv_jax.evaluation import benchmarks, layouts
from lcv_jax.evaluation.runs import Video, read_run
from lcv_jax.evaluation.suite_sampling import Settings, sample_suite, video_seed
from lcv_jax.evaluation.suites import Item, Suite
from lcv_jax.sampling.options import SamplingOptions
from tests.evaluation.clips import SETTINGS, StubPipeline, make_run, moving, suite_of

OPTIONS = SamplingOptions(seed=3, num_steps=2)


def sample(pipeline, suite, folder, settings=SETTINGS, options=OPTIONS, **how):
    return sample_suite(pipeline, suite, folder, settings, options, **how)


def test_every_video_has_a_recorded_seed_of_its_own(tmp_path):
    sample(StubPipeline(), suite_of(5, num_samples=2), tmp_path / "one", batch=3)
    run = read_run(tmp_path / "one")
    assert [video.id for video in run.videos] == [f"p{n}-{k}" for n in range(5) for k in range(2)]
    sidecars = [json.loads(video.path.with_suffix(".json").read_text()) for video in run.videos]
    assert len({sidecar["seed"] for sidecar in sidecars}) == 10
    for video, sidecar in zip(run.videos, sidecars, strict=True):
        assert sidecar["seed"] == video_seed(3, video.item.id, video.sample)
        frames, fps = read_video(video.path)
        assert fps == 8
        assert np.abs(frames.astype(float) - moving(sidecar["seed"])).mean() < 12  # through a codec
    # Another batch size, order and split give the same seeds.
    for part in ((1, 2), (0, 2)):
        sample(StubPipeline(), suite_of(5, num_samples=2), tmp_path / "two", part=part)
    assert {(v.id, v.path.with_suffix(".json").read_text()) for v in read_run(tmp_path / "two").videos} == {
        (v.id, v.path.with_suffix(".json").read_text()) for v in run.videos
    }


def test_a_run_resumes_and_refuses_other_settings(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sample(StubPipeline(fail_after=2), suite_of(6), tmp_path, batch=2)
    assert len(read_run(tmp_path).videos) == 4
    (tmp_path / "videos" / "p0-0.mp4").write_bytes(b"")  # torn
    told = []
    again = StubPipeline()
    assert sample(again, suite_of(6), tmp_path, batch=2, on_video=lambda *count: told.append(count)) == 3
    assert [call["prompts"] for call in again.calls] == [["prompt 0", "prompt 4"], ["prompt 5", "prompt 5"]]
    assert told == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert sample(StubPipeline(), suite_of(6), tmp_path) == 0
    with pytest.raises(ValueError, match=r"begun with other settings: options was .*num_steps"):
        sample(StubPipeline(), suite_of(6), tmp_path, options=dataclasses.replace(OPTIONS, num_steps=3))
    with pytest.raises(ValueError, match="digest was"):
        sample(StubPipeline(), suite_of(5), tmp_path)


def test_sizes_follow_aspect_ratios_and_images(tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "wide.png")
    items = (
        Item(id="default", prompt="a"),
        Item(id="tall", prompt="b", aspect_ratio="9:16"),
        Item(id="image", prompt="c", task="image-to-video", image="wide.png"),
        Item(id="chinese", prompt="d", translations={"zh": "丁"}),
    )
    suite, pipeline = Suite(name="s", items=items[:3], folder=tmp_path), StubPipeline()
    settings = Settings(num_frames=1)
    sample(pipeline, suite, tmp_path / "run", settings)
    sizes = {call["prompts"][0]: call["size"] for call in pipeline.calls}
    assert sizes == {"a": (480, 832), "b": (832, 480), "c": None}
    assert pipeline.calls[-1].get("image") == (40, 60, 3) or pipeline.calls[0].get("image") == (40, 60, 3)
    # The run's own copy of the suite finds the image from another folder.
    copied = read_run(tmp_path / "run").suite
    assert copied.image(copied.items[2]).shape == (40, 60, 3)
    chinese = StubPipeline()
    sample(chinese, Suite(name="z", items=items[3:]), tmp_path / "zh", dataclasses.replace(SETTINGS, language="zh"))
    assert chinese.calls[0]["prompts"] == ["丁"]
    with pytest.raises(ValueError, match="default has no prompt in 'zh'"):
        sample(chinese, Suite(name="z", items=items[:1]), tmp_path / "no", dataclasses.replace(SETTINGS, language="zh"))


def test_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").touch()
    with pytest.raises(ValueError, match="is a study: choose another folder for the run"):
        make_run(tmp_path / "study", 2)
    with pytest.raises(ValueError, match=r"not a run, it has no items\.jsonl"):
        read_run(tmp_path)
    make_run(tmp_path / "run", 2)
    for video in (tmp_path / "run" / "videos").glob("*.mp4"):
        video.unlink()
    with pytest.raises(ValueError, match="no video of this suite"):
        read_run(tmp_path / "run")


def vbench_run(folder, benchmark):
    long = "x" * 200
    if benchmark == "vbench":
        items = [
            Item(id="v0", prompt="a cliff, static", dimensions=("temporal_flickering",), num_samples=25),
            Item(id="v1", prompt="a dog.", dimensions=("object_class",), num_samples=5, translations={"zh": "狗"}),
        ]
    else:
        items = [
            Item(id="v0", prompt=long, dimensions=("Camera_Motion",), num_samples=3),
            Item(id="v1", prompt="a dog", dimensions=("Diversity",), num_samples=20),
            Item(id="v2", prompt="a dog", dimensions=("Mechanics", "Material"), num_samples=3),
        ]
    (folder / "videos").mkdir(parents=True)
    (folder / "items.jsonl").write_text("\n".join(json.dumps(item.to_json()) for item in items))
    for item in items:
        for number in range(item.num_samples):
            (folder / "videos" / f"{item.id}-{number}.mp4").write_bytes(f"{item.id} {number}".encode())
    return read_run(folder)


def test_the_layout_of_vbench(tmp_path):
    count = layouts.write_layout(vbench_run(tmp_path / "run", "vbench"), tmp_path / "out", "vbench")
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == sorted([f"a cliff, static-{n}.mp4" for n in range(25)] + [f"a dog.-{n}.mp4" for n in range(5)])
    assert count == 30
    assert (tmp_path / "out" / "a dog.-4.mp4").read_bytes() == b"v1 4"


def test_the_layout_of_vbench_2(tmp_path):
    run = vbench_run(tmp_path / "run", "vbench2")
    assert layouts.write_layout(run, tmp_path / "out", "vbench2") == 3 + 20 + 6
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.mp4")}
    assert f"Camera_Motion/{'x' * 180}-2.mp4" in names
    assert "Diversity/a dog-19.mp4" in names
    assert {"Mechanics/a dog-0.mp4", "Material/a dog-0.mp4"} <= names


def test_a_layout_is_complete_and_without_doubles(tmp_path):
    run = vbench_run(tmp_path / "run", "vbench2")
    run.videos[0].path.unlink()
    with pytest.raises(ValueError, match=r"1 videos that vbench2 needs are missing \(v0-0"):
        layouts.write_layout(read_run(tmp_path / "run"), tmp_path / "out", "vbench2")
    assert not (tmp_path / "out").exists()
    items = [Item(id=f"v{n}", prompt="x" * 180 + str(n), dimensions=("Material",)) for n in range(2)]
    double = dataclasses.replace(run, suite=Suite(name="s", items=tuple(items)))
    with pytest.raises(ValueError, match="v1 and v0 have the same file name"):
        layouts.write_layout(double, tmp_path / "out", "vbench2")
    with pytest.raises(ValueError, match="it is no prompt of vbench"):
        layouts.layout_names(Item(id="a", prompt="a"), "vbench")
    with pytest.raises(ValueError, match="v0 is for Camera_Motion, which vbench does not have: of another benchmark"):
        layouts.write_layout(vbench_run(tmp_path / "2.0", "vbench2"), tmp_path / "out", "vbench")


def test_a_layout_whose_names_are_too_long_is_not_begun(tmp_path, monkeypatch):
    fits, too_long = "x" * 248 + "y", "狐" * 84  # with -0.mp4: 255 bytes, 258
    items = [Item(id=f"v{n}", prompt=prompt, dimensions=("scene",)) for n, prompt in enumerate((fits, too_long))]
    run = vbench_run(tmp_path / "run", "vbench")
    files = {"v0-0": run.videos[0].path, "v1-0": run.videos[1].path}
    videos = [Video(item=item, sample=0, path=files[f"{item.id}-0"]) for item in items]
    run = dataclasses.replace(run, suite=Suite(name="s", items=tuple(items)), videos=tuple(videos))
    with pytest.raises(ValueError, match="names of at most 255 bytes fit this file system, 1 are longer, such as '狐"):
        layouts.write_layout(run, tmp_path / "out", "vbench")
    assert not (tmp_path / "out").exists()
    run = dataclasses.replace(run, suite=Suite(name="s", items=(items[0],)))

    def another_disk(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(layouts.os, "link", another_disk)
    layouts.write_layout(run, tmp_path / "out", "vbench")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{fits}-0.mp4"]


def whole(benchmark, score=0.5):
    return {name.replace(" ", "_"): score for name in benchmarks.DIMENSIONS[benchmark]}


def test_vbench_aggregates_with_ranges_and_weights():
    scores = {
        **whole("vbench", 0.0), "subject_consistency": 1.0, "dynamic_degree": 1.0, "scene": 0.8222,
        "background_consistency": 0.2615, "temporal_flickering": 0.6293, "motion_smoothness": 0.706,
        "appearance_style": 0.0009,
    }  # fmt: skip
    found = benchmarks.aggregate("vbench", scores)
    # One of six whole dimensions is at its maximum and the one that counts half; of semantics one of nine.
    assert found.groups["quality"] == pytest.approx(1.5 / 6.5 + 0 * 6)
    assert found.groups["semantics"] == pytest.approx(1 / 9)
    assert found.total == pytest.approx((4 * 1.5 / 6.5 + 1 / 9) / 5)


def test_vbench_2_takes_the_mean_of_five_group_means():
    scores = whole("vbench2", 0.2)
    scores |= {"Composition": 0.9, "Diversity": 0.7, "Human_Anatomy": 0.5}
    found = benchmarks.aggregate("vbench2", scores)
    assert found.groups["creativity"] == pytest.approx(0.8)
    assert found.groups["human fidelity"] == pytest.approx(0.3)
    assert found.total == pytest.approx((0.8 + 0.2 + 0.2 + 0.3 + 0.2) / 5)


@pytest.mark.parametrize("benchmark", ["vbench", "vbench2"])
def test_a_missing_dimension_is_missing(benchmark):
    scores = whole(benchmark)
    name, _ = scores.popitem()
    found = benchmarks.aggregate(benchmark, scores)
    assert found.missing == (name.replace("_", " "),)
    assert found.total is None
    assert sum(value is None for value in found.groups.values()) == 1


def test_results_of_another_version_or_in_percent_are_refused():
    with pytest.raises(ValueError, match="results of vbench2; of another version"):
        benchmarks.aggregate("vbench", {"Human_Anatomy": 0.5})
    with pytest.raises(ValueError, match="in percent"):
        benchmarks.aggregate("vbench2", {"Human_Anatomy": 82.41})


def write_results(path, **scores):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: [score, [{"video_path": "a.mp4"}]] for name, score in scores.items()}))


def test_results_are_read_from_a_folder_and_printed(tmp_path, capsys):
    write_results(tmp_path / "a" / "r1_eval_results.json", Composition=0.5)
    write_results(tmp_path / "b" / "r2_eval_results.json", Diversity=0.25)
    main(["results", "vbench2", str(tmp_path)])
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["creativity"].strip() == "37.50 %"
    assert lines["total"].strip() == lines["physics"].strip() == "missing"
    write_results(tmp_path / "c" / "r3_eval_results.json", Diversity=0.3)
    with pytest.raises(ValueError, match=r"Diversity is 0\.25 in .*r2.*, but 0\.3"):
        benchmarks.read_results(tmp_path)
    (tmp_path / "odd_eval_results.json").write_text('{"Diversity": "good"}')
    with pytest.raises(ValueError, match="expected \\[score"):
        benchmarks.read_results(tmp_path / "odd_eval_results.json")
    for content, told in (
        ('{"Diversity": [1%s, []]}' % ("0" * 400), "odd_eval_results.json: Diversity: OverflowError"),
        ('{"Diversity": [0.1, []], "Diversity": [0.9, []]}', "the key 'Diversity' is there more than once"),
    ):
        (tmp_path / "odd_eval_results.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            benchmarks.read_results(tmp_path / "odd_eval_results.json")


def test_a_benchmark_runs_in_its_own_environment_and_resumes(tmp_path):
    script = tmp_path / "their_evaluate.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "videos, dimension, output = sys.argv[1:]\n"
        "assert dimension != 'Material', 'out of memory'\n"
        "pathlib.Path(output, 'r_eval_results.json').write_text(json.dumps({dimension: [0.5, []]}))\n"
    )
    command = f"{sys.executable} {script} {{videos}} {{dimension}} {{output}}"
    log: list[str] = []
    arguments = {"command": command, "dimensions": ("Mechanics", "Material"), "log": log.append}
    failed = benchmarks.run_benchmark("vbench2", tmp_path, tmp_path / "out", **arguments)
    assert failed == ["Material"]
    assert log[0] == "Mechanics: 0.5000"
    assert "out of memory" in log[1]
    benchmarks.run_benchmark("vbench2", tmp_path, tmp_path / "out", **arguments)
    assert log[2] == "Mechanics: done already"
    # A result that comes with a failure, or is of another dimension, is none the next time either.
    for ending in ("sys.exit(3)", "pathlib.Path(output, 'r_eval_results.json').write_text('{\"Diversity\": [1, []]}')"):
        script.write_text(script.read_text().replace("assert dimension != 'Material', 'out of memory'\n", "") + ending)
        for _ in range(2):
            again = arguments | {"dimensions": ("Material",)}
            assert benchmarks.run_benchmark("vbench2", tmp_path, tmp_path / "out", **again) == ["Material"]
        script.write_text(script.read_text().removesuffix(ending))
    assert benchmarks.read_results(tmp_path / "out") == {"Mechanics": 0.5}
    with pytest.raises(ValueError, match="command must have {output}"):
        benchmarks.run_benchmark("vbench2", tmp_path, tmp_path, command="run {videos} {dimension}")
    with pytest.raises(ValueError, match="No closing quotation, got"):
        benchmarks.run_benchmark("vbench2", tmp_path, tmp_path, command="run '{videos} {dimension} {output}")
    for folders in ((tmp_path / "no", None), (tmp_path, tmp_path / "no")):
        with pytest.raises(OSError, match="no: no such folder"):
            benchmarks.run_benchmark("vbench2", folders[0], tmp_path / "x", folder=folders[1])
    assert not (tmp_path / "x").exists()
    # Braces that are no places are the command's own.
    echo = f"{sys.executable} -c 'import sys; print(sys.argv)' {{x}} {{}} {{videos}} {{dimension}} {{output}}"
    benchmarks.run_benchmark(
        "vbench2", tmp_path, tmp_path / "echo", command=echo, dimensions=("Material",), log=log.append
    )
    assert "'{x}', '{}', " in (tmp_path / "echo" / "Material" / "log.txt").read_text()
    with pytest.raises(OSError, match="/no/such: cannot be run"):
        benchmarks.run_benchmark("vbench2", tmp_path, tmp_path / "x", command="/no/such {videos} {dimension} {output}")
