import dataclasses

import pytest
from small_stages import MEASURE

from lcv_jax.curation.engines import Engine
from lcv_jax.curation.stage import Cost


def rows(tmp_path, texts):
    folder = tmp_path / "films"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / str(number)).write_text(text)
    return [{"source": str(number), "path": folder / str(number)} for number in range(len(texts))]


def outcomes(engine, stage, given):
    found = {row["source"]: outcome for row, outcome in engine.run(stage, given)}
    return [found[row["source"]].rows or found[row["source"]].fault for row in given]


def test_a_worker_that_is_killed_late_or_greedy_loses_its_row_alone(tmp_path):
    given = rows(tmp_path, ["1", "kill", "2", "sleep", "bad", "greed", "3"])
    stage = dataclasses.replace(MEASURE, cost=Cost(timeout=6.0))
    found = outcomes(Engine(workers=2, worker_memory=400, rows_per_worker=2), stage, given)
    assert [found[place] for place in (0, 2, 6)] == [[{"number": 2}], [{"number": 4}], [{"number": 6}]]
    assert "was killed by signal 9 (SIGKILL)" in found[1]
    assert "took longer than 6 s" in found[3]
    assert "invalid literal" in found[4]
    assert "MB of memory, and a worker may take 400 (--worker-memory)" in found[5]


def test_the_pool_takes_a_row_when_a_worker_is_free(tmp_path):
    taken, given = [], rows(tmp_path, "123456")
    found = Engine(workers=2).run(MEASURE, (taken.append(row) or row for row in given))
    for done, _ in enumerate(found, 1):
        assert len(taken) - done <= 2
    assert taken == given


@pytest.mark.parametrize("cost", [Cost(), Cost(calls=3)])
def test_process_and_threads_give_the_same_rows(tmp_path, cost):
    given = rows(tmp_path, ["1", "bad", "2", "3", "4"])
    stage = dataclasses.replace(MEASURE, cost=cost)
    found = outcomes(Engine(engine="process"), stage, given)
    assert [each for each in found if isinstance(each, list)] == [[{"number": 2 * n}] for n in (1, 2, 3, 4)]
    assert "invalid literal" in found[1]
