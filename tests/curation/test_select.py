import dataclasses
from pathlib import Path

import pytest
from small_stages import CUT, MEASURE, RANK

from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.recipe import Recipe
from lcv_jax.curation.runs import list_sources, run_stages
from lcv_jax.curation.select import select
from lcv_jax.data.manifest import read_manifest


def look(columns, settings):
    return {
        "sharpness": [float(first) for first in columns["first"]],
        "clip_path": [Path(f"{clip}.mp4") for clip in columns["clip"]],
        "captions": [["a cat", "a small cat"] if first else [] for first in columns["first"]],
    }


LOOK = dataclasses.replace(
    RANK, name="look", run=look, writes={"sharpness": float, "clip_path": Path, "captions": list[str]}
)


@pytest.fixture
def library(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_text("2")
    library = Library(tmp_path / "library")
    with library.writing():
        list_sources(library, tmp_path / "films")
        run_stages(library, (MEASURE, CUT, LOOK), Engine(engine="process"))
    return library


def test_the_manifest_has_captions_and_weights(library, tmp_path):
    recipe = Recipe(least_sharpness=2.0, weight_column="sharpness")
    steps = select(library, recipe, tmp_path / "out.jsonl")
    assert [(step.kept, step.dropped) for step in steps] == [(4, 0), (2, 2), (2, 0)]
    entries = read_manifest(tmp_path / "out.jsonl")
    assert [entry.numbers["weight"] for entry in entries] == [2.0, 3.0]
    assert entries[0].captions == ("a cat", "a small cat")


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (Recipe(least_sharpness=1.0, default_caption="a"), None),
        (Recipe(least_sharpness=9.0), "keeps nothing: least_sharpness = 9 dropped the last 4 of 4 clips"),
        (Recipe(most_text=0.1), "needs the column 'text_coverage', which no stage has written: run the stage text"),
        (Recipe(cameras=("static",)), "'camera', which no stage has written: run the stage measures"),
        (Recipe(least_side=64), "'clip_height', which no stage has written: run the stage measures"),
        (Recipe(styles=("anime",)), "'style', which no stage has written: run the stage attributes"),
        (Recipe(weight_column="density"), "weight_column needs the column 'density'"),
    ],
)
def test_rules_say_what_they_miss(library, tmp_path, recipe, told):
    if told is None:
        assert select(library, recipe, tmp_path / "out.jsonl")[-1].kept == 3
        return
    with pytest.raises(ValueError, match=told):
        select(library, recipe, tmp_path / "out.jsonl")
