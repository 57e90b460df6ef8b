"""The live view of the page in a real browser: go, tell, pause, an earlier moment, save, stop."""

import pytest

pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")

from selenium.webdriver.common.keys import Keys

from tests.serving.test_serving_page import FAINT, UNNAMED, by_id, wait

FRAME = "return Number(document.getElementById('live').dataset.frame ?? -1)"
PICTURE = """
const screen = document.getElementById('live-screen');
const copy = new OffscreenCanvas(screen.width, screen.height).getContext('2d', { willReadFrequently: true });
copy.drawImage(screen, 0, 0);
return copy.getImageData(0, 0, screen.width, screen.height).data.join();
"""
SEEK = """
const slider = document.getElementById('live-moment');
slider.value = arguments[0];
slider.dispatchEvent(new Event('input'));
"""


def state(page):
    return by_id(page, "live").get_attribute("data-state")


def said(page):
    return by_id(page, "live-state").text


def frame(page):
    return page.execute_script(FRAME)


def picture_of(page, number):
    page.execute_script(SEEK, number)
    wait(page, lambda b: by_id(b, "live").get_attribute("data-shown") == str(number))
    return page.execute_script(PICTURE)


def test_a_stream_is_told_what_happens_next_paused_taken_back_and_saved(server, browser):
    browser.set_window_size(1280, 900)
    browser.get(server.address)
    wait(browser, lambda b: b.execute_script("return document.body.dataset.ready"))
    by_id(browser, "live-go").click()
    assert by_id(browser, "live-problem").text == "Say what to show."
    by_id(browser, "live-prompt").send_keys("a cat", Keys.ENTER)
    wait(browser, lambda b: frame(b) >= 9)
    assert "not trained on causal chunks" in by_id(browser, "live-warning").text
    by_id(browser, "live-prompt").clear()
    by_id(browser, "live-prompt").send_keys("a dog", Keys.ENTER)
    wait(browser, lambda b: said(b) == "Now: a dog")
    by_id(browser, "live-pause").click()
    assert said(browser) == "Paused."
    assert browser.execute_script(UNNAMED) == []
    assert browser.execute_script(FAINT) == []
    before = picture_of(browser, 5)
    assert picture_of(browser, 6) != before
    picture_of(browser, 5)
    by_id(browser, "live-back").click()
    wait(browser, lambda b: said(b) == "Back at 0.6 s.")  # frame 5 begins a chunk
    assert by_id(browser, "live-prompt").get_attribute("value") == "a cat"
    wait(browser, lambda b: frame(b) >= 5)
    by_id(browser, "live-pause").click()
    assert picture_of(browser, 5) == before
    by_id(browser, "live-save").click()
    wait(browser, lambda b: int(by_id(b, "live").get_attribute("data-saved") or 0) > 1000)
    by_id(browser, "live-stop").click()
    wait(browser, lambda b: state(b) == "idle")
    assert said(browser) == "The stream has ended."
    wait(browser, lambda _: server.ask("/metrics", raw=True)[1][0].count(b"lcv_live_streams 0.0"))
    assert [entry["message"] for entry in browser.get_log("browser")] == []
