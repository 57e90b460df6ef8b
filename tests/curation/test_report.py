"""The report's page, by its text and in a real browser."""

import dataclasses
import re

import numpy as np
import pytest
from small_stages import CUT, MEASURE, RANK

from lcv_jax import curate
from lcv_jax.curation.engines import Engine
from lcv_jax.curation.library import Library
from lcv_jax.curation.runs import list_sources, run_stages
from lcv_jax.data.media_writer import VideoWriter

CLIPS = 24


def look(columns, settings):
    """Clips that get brighter, in two clusters; the files are those of the test."""
    folder, count = settings.folder, len(columns["clip"])
    order = np.argsort(np.argsort(columns["first"]))
    return {
        "clip_path": [folder / f"{place}.mp4" for place in order],
        "clip_height": [32] * count,
        "clip_width": [48] * count,
        "sharpness": [10.0 * place for place in order],
        "frozen_share": [float(place % 4 == 0) for place in order],
        "camera": ["static" if place % 3 else "<b>pan</b>" for place in order],
        "cluster": [int(place) % 2 for place in order],
        "cluster_name": [("cats, sofa", "cars & roads")[place % 2] for place in order],
        "density": [0.5] * count,
        "weight": [1.0] * count,
        "x": [float(place) for place in order],
        "y": [float(place % 5) for place in order],
    }


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "films").mkdir()
    (folder / "clips").mkdir()
    for place in range(CLIPS - 1):  # the last one has been deleted since
        with VideoWriter(folder / "clips" / f"{place}.mp4", fps=8, height=32, width=48) as file:
            file.write(np.full((2, 32, 48, 3), 10 * place, np.uint8))
    (folder / "films" / "a.mp4").write_text(str(CLIPS // 2))
    (folder / "films" / "bad.mp4").write_text("no number")
    stage = dataclasses.replace(RANK, name="look", run=look, settings=Place(folder / "clips"), writes=dict(_types()))
    library = Library(folder / "library")
    with library.writing():
        list_sources(library, folder / "films")
        run_stages(library, (MEASURE, CUT, stage), Engine(engine="process"))
    return folder


@dataclasses.dataclass(frozen=True)
class Place:
    folder: object


def _types():
    from pathlib import Path

    kinds = {
        "clip_path": Path,
        "camera": str,
        "cluster_name": str,
        "cluster": int,
        "clip_height": int,
        "clip_width": int,
    }
    names = ("clip_path", "clip_height", "clip_width", "sharpness", "frozen_share", "camera", "cluster", "cluster_name")
    for name in (*names, "density", "weight", "x", "y"):
        yield name, kinds.get(name, float)


RULES = ["--least-sharpness", "55", "--most-frozen", "0.5", "--default-caption", "a film"]


@pytest.fixture(scope="module")
def page(library):
    curate.main(["report", str(library / "library"), str(library / "page.html"), *RULES])
    return library / "page.html"


def test_the_funnel_and_the_examples_next_to_each_threshold(page):
    text = page.read_text()
    assert "least_sharpness = 55: 18 kept, 6 dropped" in text
    assert "most_frozen = 0.5: 14 kept, 4 dropped" in text
    walls = re.findall(r'class="wall (dropped|kept)">(.*?)</div>', text)
    captions = [[kind, *re.findall(r"<figcaption>(.*?)</figcaption>", wall)] for kind, wall in walls]
    assert captions[0] == ["dropped", "50", "40", "30", "20", "10", "0"]
    assert captions[1] == ["kept", "60", "70", "80", "90", "100", "110"]
    assert captions[2] == ["dropped", *["1"] * 4]


def test_the_page_holds_all_that_it_shows(page):
    text = page.read_text()
    assert len(text) < 200_000
    assert not re.findall(r"https?://|@import|<script", text)
    assert {link[:5] for link in re.findall(r'(?:src|href)="([^"]*)', text)} == {"data:"}
    assert "&lt;b&gt;pan" in text
    assert "no number" in text  # why bad.mp4 is quarantined


def test_without_a_distribution_the_page_says_so(tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_text("2")
    library = Library(tmp_path / "library")
    with library.writing():
        list_sources(library, tmp_path / "films")
        run_stages(library, (MEASURE, CUT), Engine(engine="process"))
    curate.main(["report", str(tmp_path / "library"), str(tmp_path / "page.html"), "--default-caption", "a"])
    text = (tmp_path / "page.html").read_text()
    assert "needs captions and the stage distribution" in text
    assert "every clip is kept" in text
    assert "Nothing is quarantined" in text


@pytest.mark.parametrize("told", [("page.txt", "expected .html"), ("page.html", "run the stage text")])
def test_mistakes_are_one_line(library, tmp_path, capsys, told):
    with pytest.raises(SystemExit):
        curate.main(["report", str(library / "library"), str(tmp_path / told[0]), "--most-text", "0.1", *RULES])
    assert told[1] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 360)])
def test_in_a_browser(browser, page, scheme, width):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    counts = browser.execute_script(
        "return ['.funnel', '.histogram', '.threshold', '.map circle', '#quarantine td', '.wall img']"
        ".map((each) => document.querySelectorAll(each).length)"
    )
    assert counts == [1, 6, 2, CLIPS, 3, 6 + 6 + 4 + 6 + 8]
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    shade = browser.execute_script("return getComputedStyle(document.body).color")
    assert (shade == "rgb(255, 255, 255)") == (scheme == "dark")
    browser.execute_script("document.querySelectorAll('img').forEach((each) => each.loading = 'eager')")
    drawn = "return [...document.images].filter((each) => each.complete && each.naturalWidth === 48).length"
    assert browser.execute_async_script(f"setTimeout(() => arguments[0]((() => {{{drawn}}})()), 500)") >= 28
    assert [entry for entry in browser.get_log("browser") if "data:," not in entry["message"]] == []
