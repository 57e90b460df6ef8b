"""The rating page in a real browser, by keyboard."""

import pytest

from lcv_jax.evaluation.ratings import Ratings
from lcv_jax.evaluation.runs import read_run
from lcv_jax.evaluation.studies import create_study
from tests.evaluation.clips import make_run
from tests.evaluation.served import Served

pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

READY = "return [...document.querySelectorAll('video')].every((v) => v.readyState >= 2)"


def press(browser, *keys):
    for key in keys:
        browser.find_element(By.TAG_NAME, "body").send_keys(key)


def press_at_once(browser, *keys):
    """Faster than the server replies."""
    browser.execute_script(
        "for (const key of arguments) document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))",
        *keys,
    )


def wait(browser, condition):
    return WebDriverWait(browser, 300).until(condition)


def item_of(browser):
    return browser.execute_script("return document.body.dataset.item")


def can_go_on(browser):
    return browser.find_element(By.ID, "next").is_enabled()


def test_three_clips_are_rated_by_keyboard(tmp_path, browser):
    run = read_run(make_run(tmp_path / "run", 2))
    study, _ = create_study(tmp_path / "study", [run], "absolute", {"ann": ()}, num_training=1, num_checks=0)
    with Served(tmp_path / "study") as server:
        browser.get(server.links["ann"])
        wait(browser, item_of)
        assert browser.find_element(By.ID, "training").is_displayed()
        assert len(browser.find_elements(By.CSS_SELECTOR, "label")) == 4 * 5  # a descriptor for every point
        press(browser, "3", "1", "3", "3")
        wait(browser, can_go_on)
        assert browser.find_element(By.ID, "feedback").text == "Right. Every frame is covered by strong noise."
        press(browser, Keys.ENTER)
        wait(browser, lambda b: item_of(b) not in (None, study.items[0].id))
        # A closed tab loses nothing: the second answer is given after the page is loaded again.
        first = item_of(browser)
        press(browser, "4")
        wait(browser, lambda _: len(Ratings(study).answers()) == 5)
        browser.refresh()
        wait(browser, item_of)
        assert item_of(browser) == first
        assert len(browser.find_elements(By.CSS_SELECTOR, "input:checked")) == 1
        assert browser.execute_script("return document.querySelector('fieldset.current legend').textContent") == (
            "Visual quality"
        )
        played = "return document.querySelector('video').videoWidth"
        wait(browser, lambda b: b.execute_script(played) == 48)
        press_at_once(browser, "2", "5", "4")
        wait(browser, can_go_on)
        press(browser, Keys.BACKSPACE)
        wait(browser, lambda b: item_of(b) == study.items[0].id)
        press(browser, Keys.ENTER)
        wait(browser, lambda b: item_of(b) not in (first, study.items[0].id))
        press_at_once(browser, "3", "3", "3", "3", "Enter")
        wait(browser, lambda b: item_of(b) == "finished")
        assert "Thank you" in browser.find_element(By.ID, "message").text
        stored = {(one.item, one.dimension): one.score for one in Ratings(study).answers()}
        assert [stored[first, name] for name in study.items[1].dimensions] == [4, 2, 5, 4]
        assert len(stored) == 3 * 4


def test_a_pair_plays_together_and_its_sides_are_put_right(tmp_path, browser):
    runs = [read_run(make_run(tmp_path / name, 2, noise=noise)) for name, noise in (("a", 0), ("b", 40))]
    study, _ = create_study(tmp_path / "study", runs, "pairwise", {"ann": ()}, num_training=0, num_checks=0)
    with Served(tmp_path / "study") as server:
        browser.get(server.links["ann"])
        for _ in range(2):
            shown = wait(browser, item_of)
            wait(browser, lambda b: b.execute_script(READY))
            left = browser.execute_script("return document.querySelector('video').getAttribute('src')")
            press(browser, "1", "1", "2", "3")
            wait(browser, can_go_on)
            stored = {one.dimension: one.score for one in Ratings(study).answers() if one.item == shown}
            better = 1 if left.endswith("/0") else -1  # place 0 is the first model's
            assert stored == {
                "text_alignment": better, "visual_quality": better, "motion_quality": 0, "overall": -better,
            }  # fmt: skip
            press(browser, Keys.ENTER)
            wait(browser, lambda b, before=shown: item_of(b) != before)


def test_a_clip_that_cannot_be_played_is_not_rated_but_skipped(tmp_path, browser):
    run = read_run(make_run(tmp_path / "run", 2))
    study, _ = create_study(tmp_path / "study", [run], "absolute", {"ann": ()}, num_training=0, num_checks=0)
    with Served(tmp_path / "study") as server:
        (tmp_path / "study" / study.items[0].videos[0]).write_bytes(b"no video")
        browser.get(server.links["ann"])
        for _ in range(2):
            shown = wait(browser, item_of)
            if shown == study.items[0].id:
                wait(browser, lambda b: "cannot be played" in b.find_element(By.ID, "message").text)
                wait(browser, can_go_on)
                press_at_once(browser, "3", "3", "3", "3")
                assert not browser.find_elements(By.CSS_SELECTOR, "input:checked")
            else:
                press_at_once(browser, "3", "3", "3", "3")
                wait(browser, can_go_on)
            press_at_once(browser, "Enter")
            wait(browser, lambda b, before=shown: item_of(b) != before)
        assert item_of(browser) == "finished"
    ratings = Ratings(study)
    assert {one.item for one in ratings.answers()} == {study.items[1].id}
    assert ratings.skipped() == [(study.items[0], "ann")]


RATE_UNTIL_FINISHED = """
const [number] = arguments, original = window.fetch;
window.fetch = async (path, options) => {
  const reply = await original(path, options);
  if (path === "/api/rate" && reply.ok) {
    const told = JSON.parse(options.body);
    localStorage.setItem(`${told.rater} ${told.item} ${told.dimension}`, told.score);
  }
  return reply;
};
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
let left = null;
setInterval(() => {
  if (!localStorage.getItem("begin") || !item || item.finished || failed) return;
  if (item.dimensions.some((one) => !item.answered.has(one.id))) press(String(1 + (number + current) % 5));
  else if (left !== item) { left = item; press("Enter"); }
}, 10);
"""


def test_ten_raters_at_once_in_a_browser_lose_nothing_when_the_server_is_killed(tmp_path, browser):
    run = read_run(make_run(tmp_path / "run", 16))
    names = [f"rater{n}" for n in range(10)]
    study, _ = create_study(
        tmp_path / "study", [run], "absolute", dict.fromkeys(names, ()), num_training=0, num_checks=0
    )
    first = browser.current_window_handle
    tabs = []

    def rate(server):
        for number, name in enumerate(names):
            browser.switch_to.window(tabs[number])
            browser.get(server.links[name])
            wait(browser, item_of)
            browser.execute_script(RATE_UNTIL_FINISHED, number)

    def accepted():
        """What the pages know to be stored."""
        return browser.execute_script("const { begin, ...told } = localStorage; return told")

    for _ in names:
        browser.switch_to.new_window("tab")
        tabs.append(browser.current_window_handle)
    try:
        with Served(tmp_path / "study") as server:
            port = server.address.rsplit(":", 1)[1]
            rate(server)
            browser.execute_script("localStorage.setItem('begin', 1)")
            wait(browser, lambda _: len(accepted()) >= 40)
        before = accepted()
        with Served(tmp_path / "study", port) as server:
            rate(server)
            for tab in tabs:
                browser.switch_to.window(tab)
                wait(browser, lambda b: item_of(b) == "finished")
            after = accepted()
    finally:
        for tab in tabs:
            browser.switch_to.window(tab)
            browser.close()
        browser.switch_to.window(first)
    tokens = {link.rsplit("=", 1)[1]: name for name, link in server.links.items()}
    told = {}
    for key, score in after.items():
        token, item, dimension = key.split(" ")
        told[tokens[token], item, dimension] = int(score)
    answers = Ratings(study).answers()
    stored = {(one.rater, one.item, one.dimension): one.score for one in answers}
    assert len(stored) == len(answers)  # nobody answered twice
    assert before.items() < after.items()  # the server was killed in their midst
    assert told.items() <= stored.items()
    for item in study.items:
        assert len({rater for rater, rated, _ in stored if rated == item.id}) >= 3
