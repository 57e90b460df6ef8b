import shutil

import numpy as np
import pytest

from lcv_jax import curate
from lcv_jax.curation.library import Library
from lcv_jax.curation.recipe import Recipe
from lcv_jax.curation.segment import SegmentSettings
from lcv_jax.curation.stages import ORDER, stage_named, with_needed
from lcv_jax.data.media_writer import VideoWriter


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    (folder / "films").mkdir()
    noise = np.random.default_rng(0)
    for name, height, width in (("large [abcdef1]", 64, 96), ("small [abcdef1]", 32, 48), ("other", 64, 64)):
        with VideoWriter(folder / "films" / f"{name}.mp4", fps=8, height=height, width=width) as file:
            file.write(noise.integers(0, 255, (9, height, width, 3), np.uint8))
    (folder / "films" / "zero.mp4").touch()
    curate.main(["run", str(folder / "films"), str(folder / "library"), "--engine", "process"])
    return folder


def ask(curated, capsys, sql):
    curate.main(["query", str(curated / "library"), sql])
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_facts_of_films_and_the_better_one_of_an_id(curated, capsys):
    columns = "source_height, source_width, source_frames, source_fps, source_seconds, duplicate_of IS NULL"
    found = ask(curated, capsys, f"SELECT {columns} FROM sources WHERE source_height > 0 ORDER BY bytes DESC")
    assert found == [
        ["64", "96", "9", "8.0", "1.125", "True"],
        ["64", "64", "9", "8.0", "1.125", "True"],
        ["32", "48", "9", "8.0", "1.125", "False"],
    ]


def test_a_file_without_video_is_quarantined_and_counted(curated, capsys):
    ((stage, path, reason),) = ask(curated, capsys, "SELECT stage, path, reason FROM quarantine")
    assert stage == "probe"
    assert path.endswith("zero.mp4")
    assert "cannot be read as a video" in reason
    curate.main(["status", str(curated / "library")])
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["probe", "3", "1", "0", "0"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["query", "library", "SELEC"], "query: Parser Error"),
        (["status", "nowhere"], "no library here"),
        (["run", "nowhere", "new"], "no such folder of videos"),
        (["run", "films", "films"], "holds other things"),
        (["run", "films", "library", "--stages", "prob"], "unknown stage 'prob'; stages are probe"),
        (["select", "nowhere.py", "library", "out.jsonl"], "nowhere.py: no such recipe"),
        (["run", "films", "library", "--segment.trim", "-1"], "trim must lie in 0..1000, got -1"),
        (["run", "films", "library", "--segment.trim", "1"], "--segment: settings of a stage that is not run"),
        (["run", "films", "library", "--workers", "-1"], "workers must lie in 0..4096"),
    ],
)
def test_mistakes_are_one_line(curated, capsys, monkeypatch, arguments, told):
    monkeypatch.chdir(curated)
    with pytest.raises(SystemExit) as stop:
        curate.main(arguments)
    assert stop.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_stages_bring_along_those_that_they_need():
    def names(*have):
        return [stage.name for stage in with_needed(["staying_text"], have, {})]

    cut = ["probe", "fingerprint", "duplicates", "segment", "clips"]
    assert names() == [*cut, "text", "staying_text"]
    assert names("clips") == ["text", "staying_text"]
    again = with_needed(["measures"], ORDER, {"segment": SegmentSettings(trim=5), "logo": stage_named("logo").settings})
    assert [stage.name for stage in again] == ["segment", "measures"]


def test_stages_that_are_needed_are_run_on_new_films_too(curated, tmp_path, capsys):
    films, library = tmp_path / "films", tmp_path / "library"
    films.mkdir()

    def done(film, stage):
        shutil.copy(curated / "films" / film, films)
        curate.main(["run", str(films), str(library), "--stages", stage, "--engine", "process"])
        return [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]]

    assert done("other.mp4", "duplicates") == [["probe", "1"], ["fingerprint", "1"], ["duplicates", "1"]]
    assert done("large [abcdef1].mp4", "duplicates") == [["probe", "2"], ["fingerprint", "2"], ["duplicates", "2"]]


def test_stages_of_other_settings_or_of_a_server_are_not_run_because_another_needs_them(curated, tmp_path, monkeypatch):
    shutil.copytree(curated / "library", tmp_path / "library")
    library = Library(tmp_path / "library")
    with library.writing():
        for name, settings in (("segment", SegmentSettings(trim=5)), ("clips", None), ("captions", None)):
            library.adopt(stage_named(name, settings))
    found = []
    monkeypatch.setattr(curate, "run_stages", lambda library, stages, *_, **__: found.extend(stages))
    curate.main(["run", str(curated / "films"), str(tmp_path / "library"), "--stages", "measures", "distribution"])
    assert [stage.name for stage in found] == ["clips", "measures", "distribution"]


def test_flags_set_what_a_stage_is_run_with(curated, monkeypatch):
    found = []
    monkeypatch.setattr(curate, "run_stages", lambda library, stages, *_, **__: found.extend(stages))
    arguments = [str(curated / "films"), str(curated / "library"), "--stages", "captions", "measures"]
    curate.main(["run", *arguments, "--segment.trim", "5", "--captions.url", "http://there", "--captions.model", "m"])
    settings = {stage.name: stage.settings for stage in found}
    assert [*settings] == ["probe", "fingerprint", "duplicates", "segment", "clips", "measures", "captions"]
    assert settings["segment"] == SegmentSettings(trim=5)
    assert (settings["captions"].url, settings["captions"].model) == ("http://there", "m")


def test_flags_change_the_fields_of_a_recipe(curated, capsys, monkeypatch):
    monkeypatch.chdir(curated)
    (curated / "recipe.py").write_text(
        "from lcv_jax.curation.recipe import Recipe\ndef get_recipe():\n    return Recipe(least_side=48, most_text=0.1)"
    )
    found = []
    monkeypatch.setattr(curate, "select", lambda library, recipe, out: found.append(recipe) or [])
    curate.main(["select", "recipe.py", "library", "out.jsonl", "--most-text", "None", "--least-seconds", "2"])
    assert found == [Recipe(least_side=48, least_seconds=2.0)]
