"""The tables of docs/curation.md, on two tiny films."""

import pytest

from benchmarks import curation
from lcv_jax.toy.films import Arguments, make_films

pytest.importorskip("skimage")
pytest.importorskip("scenedetect")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    out = tmp_path_factory.mktemp("films") / "planted"
    make_films(Arguments(out=out, num_films=2, num_shots=2, duplicate_share=0.0, seed=11))
    return sorted((out / "films").glob("*.mp4"))


@pytest.mark.parametrize("stage", ["duplicates", "segment", "crop", "defects", "camera", "logo"])
def test_every_stage_has_a_table(films, stage):
    rows = curation.run(stage, films)
    assert curation.table(rows).count("\n") == len(rows) + 1


def test_copies_of_the_films_are_counted(films):
    by_kind = {row["copies"]: row for row in curation.run("duplicates", films)}
    assert by_kind["all"]["planted"] == 2
    assert by_kind["30 %, 15 fps"]["planted"] == by_kind["half size, crf 40"]["planted"] == 1
