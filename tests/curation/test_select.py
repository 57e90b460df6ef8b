import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_stages import CUT, MEASURE, RANK

from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.recipe import Recipe, read_recipe
from lcv_jax.curation.runs import list_sources, run_stages
from lcv_jax.curation.select import select
from lcv_jax.curation.weights import draw, mixed_weights
from lcv_jax.data.manifest import read_manifest


def look(columns, settings):
    first = columns["first"]
    return {
        "sharpness": [float(number) for number in first],
        "clip_path": [Path(f"{clip}.mp4") for clip in columns["clip"]],
        "captions": [["a cat", f"a small cat\nof {number} years"] if number else [] for number in first],
        "weight": [None if number == 3 else 1.0 + number for number in first],
        "camera": ["static" if number < 2 else "pan_left" for number in first],
        "camera_confidence": [0.9 for _ in first],
        "logo": [None if number == 2 else 0.1 * number for number in first],
    }


WRITES = {
    "sharpness": float, "clip_path": Path, "captions": list[str], "weight": float, "camera": str,
    "camera_confidence": float, "logo": float,
}  # fmt: skip
LOOK = dataclasses.replace(RANK, name="look", run=look, writes=WRITES)


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
    recipe = Recipe(least_sharpness=1.0, weight_column="weight")
    steps = select(library, recipe, tmp_path / "out.jsonl")
    assert [(step.kept, step.dropped) for step in steps] == [(4, 0), (3, 1), (3, 0), (2, 1)]
    entries = read_manifest(tmp_path / "out.jsonl")
    assert [entry.numbers["weight"] for entry in entries] == [0.8, 1.2]
    assert entries[0].captions == ("a cat", "a small cat\nof 1 years")


def test_prompts_are_one_caption_of_each_clip(library, tmp_path):
    recipe = Recipe(captions="one", most_clips=2, weight_column="weight")
    assert select(library, recipe, tmp_path / "prompts.txt")[-1].kept == 2
    select(library, dataclasses.replace(recipe, captions="all"), tmp_path / "all.txt")
    found, every = ((tmp_path / name).read_text().splitlines() for name in ("prompts.txt", "all.txt"))
    assert every == ["a cat", "a small cat of 1 years", "a small cat of 2 years"]
    assert set(found) <= set(every)
    assert len(found) <= 2


def test_a_clip_without_a_known_logo_passes(library, tmp_path):
    select(library, Recipe(most_logo=0.15), tmp_path / "out.jsonl")
    captions = [entry.captions[1] for entry in read_manifest(tmp_path / "out.jsonl")]
    assert captions == ["a small cat\nof 1 years", "a small cat\nof 2 years"]


def test_subsets_take_their_share_of_the_samples(library, tmp_path):
    select(library, Recipe(camera_share=0.4), tmp_path / "out.jsonl")
    weights = [entry.numbers["weight"] for entry in read_manifest(tmp_path / "out.jsonl")]
    assert weights == pytest.approx([3 * 0.2, 3 * (0.2 + 0.4 / 2), 3 * (0.2 + 0.4 / 2)], rel=1e-5)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (Recipe(least_sharpness=1.0, default_caption="a"), None),
        (Recipe(least_sharpness=9.0), "keeps nothing: least_sharpness = 9 dropped the last 4 of 4 clips"),
        (Recipe(most_text=0.1), "needs the column 'text_coverage', which no stage has written: run the stage text"),
        (Recipe(most_edge_width=0.4), "'edge_width', which no stage has written: run the stage measures"),
        (Recipe(least_side=64), "'clip_height', which no stage has written: run the stage measures"),
        (Recipe(styles=("anime",)), "'style', which no stage has written: run the stage attributes"),
        (Recipe(weight_column="density"), "weight_column = density needs the column 'density'"),
        (Recipe(weight_column="camera"), "weight_column: camera is no column of numbers"),
        (Recipe(style_share=0.1), "style_share needs the column 'style', which no stage has written: run the stage"),
        (Recipe(camera_share=0.1, least_camera_confidence=0.95), "camera_share = 0.1, but no clip"),
    ],
)
def test_rules_say_what_they_miss(library, tmp_path, recipe, told):
    if told is None:
        assert select(library, recipe, tmp_path / "out.jsonl")[-1].kept == 3
        return
    with pytest.raises(ValueError, match=told):
        select(library, recipe, tmp_path / "out.jsonl")


@pytest.mark.parametrize("path", sorted(Path("configs/curation").glob("*.py")), ids=lambda path: path.stem)
def test_recipes_of_the_project_are_read(path):
    assert read_recipe(path) != Recipe()
    assert f"curate select {path} LIBRARY" in path.read_text()


def test_weights_are_a_mixture_of_subsets():
    base = np.array([1.0, 1.0, 2.0, 4.0])
    weights = mixed_weights(base, [(0.2, ["a", "a", "b", None]), (0.3, [None, None, None, "c"])], most=10.0)
    expected = 0.5 * base / 8 + [0.05, 0.05, 0.1, 0.3]
    np.testing.assert_allclose(weights, expected * 4)
    np.testing.assert_allclose(mixed_weights(np.array([9.0, 1.0]), [], most=1.5), [1.5, 0.2])


def test_clips_are_drawn_in_proportion_to_their_weights():
    weights = np.array([0.0, 1.0, 1.0, 2.0])
    drawn = [tuple(draw(weights, 1, seed)) for seed in range(2000)]
    shares = [drawn.count((place,)) / 2000 for place in range(4)]
    np.testing.assert_allclose(shares, [0, 0.25, 0.25, 0.5], atol=0.04)
    assert draw(weights, 9, 0).tolist() == [1, 2, 3]
