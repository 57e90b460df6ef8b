import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_stages import CUT, MEASURE, RANK, Settings

from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.runs import list_sources, run_stages

HERE = Path(__file__).parent


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name, text in {"a.mp4": "1", "b.mp4": "2", "bad.mp4": "no number", "none.mp4": "0"}.items():
        (folder / name).write_text(text)
    return folder


def run(films, stages=(MEASURE, CUT, RANK), **options):
    library = Library(films.parent / "library")
    with library.writing():
        list_sources(library, films)
        run_stages(library, stages, Engine(engine="process"), **options)
    return library


def rows(library, sql):
    return library.connect().execute(sql).fetchall()


def log(films):
    path = films.parent / "log"
    return sorted(path.read_text().split()) if path.is_file() else []


CLIPS = "SELECT number, first, rank FROM clips ORDER BY number, first"
MADE = [(2, 0, 0), (2, 1, 2), (4, 0, 0), (4, 1, 2), (4, 2, 4), (4, 3, 5)]


def test_stages_are_joined_and_faults_are_quarantined(films):
    library = run(films)
    assert rows(library, CLIPS) == MADE
    ((stage, path, reason),) = rows(library, "SELECT stage, path, reason FROM quarantine")
    assert (stage, Path(path).name) == ("measure", "bad.mp4")
    assert reason.startswith("invalid literal")
    assert rows(library, "SELECT number FROM sources ORDER BY number") == [(0,), (2,), (4,), (None,)]


def test_nothing_is_done_twice_and_a_moved_film_is_the_same(films):
    run(films)
    (films / "a.mp4").rename(films / "moved.mp4")
    (films / "copy.mp4").write_text("2")
    library = run(films)
    assert log(films) == ["a.mp4", "b.mp4", "bad.mp4", "none.mp4"]
    assert rows(library, "SELECT copies FROM sources WHERE number = 4") == [(2,)]
    (films / "new.mp4").write_text("3")
    assert len(rows(run(films), CLIPS)) == 12
    assert log(films) == ["a.mp4", "b.mp4", "bad.mp4", "new.mp4", "none.mp4"]


def test_other_settings_add_results_and_the_old_ones_are_found_again(films):
    once = dataclasses.replace(MEASURE, settings=Settings(factor=1))
    before = {path: path.stat().st_mtime_ns for path in run(films).folder.glob("stages/**/*.parquet")}
    assert len(rows(run(films, (once, CUT, RANK)), CLIPS)) == 3
    assert len(log(films)) == 8
    assert rows(run(films), CLIPS) == MADE
    assert len(log(films)) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_quarantined_row_is_tried_again_when_asked(films):
    run(films)
    (films.parent / "log").unlink()
    run(films)
    assert log(films) == []
    run(films, retry=True)
    assert log(films) == ["bad.mp4"]


def test_a_column_that_no_stage_wrote_names_the_stage(films):
    with pytest.raises(ValueError, match="stage cut reads 'number', which no stage has written"):
        run(films, (CUT,))


def test_killed_at_any_moment_no_finished_row_is_done_again(films):
    for number in range(40):
        (films / f"{number:02}.mp4").write_text(f"1{number:02}")
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "import test_library as t, lcv_jax.curation.library as l\n"
        "add = l.Results.add\n"
        "l.Results.add = lambda self, *a: (add(self, *a), print('row', flush=True), time.sleep(0.02))\n"
        "t.run(Path(sys.argv[2]), (t.MEASURE,))"
    )
    command = [sys.executable, "-c", code, str(HERE), str(films)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ, text=True) as process:
        for _ in range(10):
            assert process.stdout.readline() == "row\n"
        process.send_signal(signal.SIGKILL)
    library = run(films, (MEASURE,))
    done = log(films)
    assert len(done) - len(set(done)) <= 1  # the row that was running, or kept as the kill came
    assert rows(library, "SELECT count(*) FROM sources WHERE number IS NOT NULL") == [(43,)]


def test_one_process_writes(films):
    library = run(films)
    with (
        library.writing(),
        pytest.raises(ValueError, match="another process is writing"),
        Library(library.folder).writing(),
    ):
        pass
    with pytest.raises(ValueError, match="holds other things"), Library(films).writing():
        pass
