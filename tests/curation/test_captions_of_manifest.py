"""Captions that `lcv caption` wrote come back into the library that the clips were selected from."""

import dataclasses
import json
from pathlib import Path

import pytest
from small_stages import CUT, MEASURE, RANK

from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.recipe import Recipe
from lcv_jax.curation.runs import list_sources, run_stages
from lcv_jax.curation.select import select
from lcv_jax.curation.stages import stage_named, with_needed
from lcv_jax.curation.stages.captions import Settings
from lcv_jax.data.manifest import read_manifest


def look(columns, settings):
    return {"clip_path": [Path(f"{one}.mp4") for one in columns["clip"]], "clip_digest": [*columns["clip"]]}


LOOK = dataclasses.replace(RANK, name="clips", run=look, writes={"clip_path": Path, "clip_digest": str})


@pytest.fixture
def library(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_text("2")  # four clips
    library = Library(tmp_path / "library")
    with library.writing():
        list_sources(library, tmp_path / "films")
        run_stages(library, (MEASURE, CUT, LOOK), Engine(engine="process"))
    return library


def take(library, manifest):
    with library.writing():
        stages = [stage_named("captions", Settings(manifest=manifest)), stage_named("distribution")]
        run_stages(library, stages, Engine(engine="process"))
    return dict(library.connect().execute("SELECT clip, caption_en FROM clips").fetchall())


def caption(library, folder, texts):
    """What `lcv caption` writes of the clips that `select` writes."""
    select(library, Recipe(default_caption="none yet"), folder / "selected.jsonl")
    rows = [{"id": one.id, "path": str(one.path)} for one in read_manifest(folder / "selected.jsonl")]
    lines = [json.dumps({**row, "caption": text}) for row, text in zip(rows, texts, strict=False)]
    (folder / "captioned.jsonl").write_text("\n".join(lines))
    return folder / "captioned.jsonl"


def test_captions_of_a_manifest_are_weighed_and_selected(library, tmp_path):
    texts = ["a red ball rolls", "a red ball rolls", "a red ball rolls", "a blue ship sails"]
    manifest = caption(library, tmp_path, texts)
    assert sorted(take(library, manifest).values()) == sorted(texts)
    select(library, Recipe(weight_column="weight"), tmp_path / "out.jsonl")
    weights = {one.captions[0]: dict(one.numbers)["weight"] for one in read_manifest(tmp_path / "out.jsonl")}
    assert weights["a blue ship sails"] > weights["a red ball rolls"]


def test_a_clip_without_a_caption_is_quarantined_until_the_manifest_has_it(library, tmp_path):
    texts = ["a red ball rolls", "a blue ship sails", "a fox"]
    found = take(library, caption(library, tmp_path, texts))
    assert sorted(map(str, found.values())) == sorted([*texts, "None"])
    ((stage, reason),) = library.connect().execute("SELECT stage, reason FROM quarantine").fetchall()
    assert stage == "captions"
    assert "captioned.jsonl has no caption of this clip" in reason
    found = take(library, caption(library, tmp_path, [*texts, "an owl"]))
    assert sorted(found.values()) == sorted([*texts, "an owl"])
    assert not library.connect().execute("SELECT * FROM quarantine").fetchall()


def test_a_manifest_that_is_missing_is_named_before_anything_runs(tmp_path):
    with pytest.raises(OSError, match=r"nowhere\.jsonl"):
        with_needed(["captions"], ["clips"], {"captions": Settings(manifest=tmp_path / "nowhere.jsonl")})
