"""The page in a real browser: a video end to end, labels and contrast, by keyboard, on a phone, in the dark."""

import pytest

from tests.serving.served_model import LONG, ServedModel, picture

pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    with ServedModel(tiny_checkpoint, tmp_path_factory.mktemp("page") / "videos", "--memory", "8") as served:
        yield served


@pytest.fixture
def page(server, browser):
    browser.set_window_size(1280, 900)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get(server.address)
    wait(browser, lambda b: b.execute_script("return document.body.dataset.ready"))
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def wait(browser, condition):
    return WebDriverWait(browser, 300, poll_frequency=0.05).until(condition)


def by_id(browser, name):
    return browser.find_element(By.ID, name)


def finished(browser, number):
    """The newest card, when so many videos are finished."""
    selector = "article[data-status=completed]"
    wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, selector)) >= number)
    return browser.find_element(By.CSS_SELECTOR, selector)


PLAYS = "const v = document.querySelector('article video'); return v && v.videoWidth"
# Every control has a name; every text stands out from what is behind it, by the formula of WCAG 2.2.
UNNAMED = """
return [...document.querySelectorAll('button, input, select, textarea, video, progress, a, summary')]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim()))
  .map((one) => one.outerHTML.slice(0, 100));
"""
FAINT = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const level = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => 0.2126 * level(r) + 0.7152 * level(g) + 0.0722 * level(b);
const behind = (one) => {
  for (; one; one = one.parentElement) {
    const colour = parse(getComputedStyle(one).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const found = [];
for (const one of document.querySelectorAll('body *')) {
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !one.checkVisibility() || one.closest('.unseen, .skip, option')) continue;
  const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) found.push([one.tagName, one.textContent.slice(0, 40), (a + 0.05) / (b + 0.05)]);
}
return found;
"""


def first_paint(page):
    page.refresh()
    wait(page, lambda b: b.execute_script("return document.body.dataset.ready"))
    return page.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")


def test_a_video_end_to_end_by_keyboard(page, server):
    assert min(first_paint(page) for _ in range(3)) < 1000
    by_id(page, "prompt").send_keys("a cat", Keys.CONTROL, Keys.ENTER)
    card = finished(page, 1)
    assert card.find_element(By.TAG_NAME, "h3").text == "a cat"
    assert wait(page, lambda b: b.execute_script(PLAYS)) == 48
    wait(page, lambda b: by_id(b, "memory").text.startswith("Memory: preset 8 GB; about 0.3 GB for a video of "))
    assert "; 1 x cpu; weights as stored; all layers on the device; text encoder on the" in by_id(page, "memory").text
    card.find_element(By.TAG_NAME, "summary").click()
    wait(page, lambda b: '"seed"' in card.find_element(By.TAG_NAME, "pre").text)
    assert page.execute_script(UNNAMED) == []
    # Again with these settings: the same seed is in the form.
    press(card, "Again")
    seed = by_id(page, "seed").get_attribute("value")
    assert seed == str(server.ask("/v1/videos")[1]["data"][0]["seed"])
    assert by_id(page, "prompt").get_attribute("value") == "a cat"


def press(card, label):
    next(one for one in card.find_elements(By.TAG_NAME, "button") if one.text.startswith(label)).click()


@pytest.mark.slow
def test_an_image_a_clip_and_several_prompts(page, server, tmp_path):
    count = len(server.ask("/v1/videos?limit=100")[1]["data"])
    (tmp_path / "cat.png").write_bytes(picture())
    page.find_element(By.CSS_SELECTOR, "input[value=image]").click()
    by_id(page, "file").send_keys(str(tmp_path / "cat.png"))
    assert by_id(page, "preview").is_displayed()
    by_id(page, "prompt").send_keys("it waves")
    by_id(page, "submit").click()
    card = finished(page, count + 1)
    assert "image-to-video" in card.find_element(By.CLASS_NAME, "facts").text
    press(card, "Continue")
    assert "it waves" in by_id(page, "reference-text").text
    by_id(page, "submit").click()
    assert "continue-video" in finished(page, count + 2).find_element(By.CLASS_NAME, "facts").text
    page.find_element(By.CSS_SELECTOR, "input[value=long]").click()
    press(by_id(page, "reference"), "Remove")
    for number, text in ((1, "a cat"), (2, "a dog")):
        by_id(page, f"segment-{number}").send_keys(text)
    by_id(page, "submit").click()
    assert finished(page, count + 3).find_element(By.TAG_NAME, "h3").text == "a cat / a dog"
    press(finished(page, count + 3), "Delete")
    wait(page, lambda _: len(server.ask("/v1/videos?limit=100")[1]["data"]) == count + 2)


@pytest.mark.slow
def test_a_running_video_shows_its_progress_and_is_cancelled(page):
    by_id(page, "prompt").send_keys("a very long cat")
    by_id(page, "more").find_element(By.TAG_NAME, "summary").click()
    by_id(page, "num_inference_steps").send_keys(str(LONG["num_inference_steps"]))
    by_id(page, "num_frames").send_keys("21")
    by_id(page, "submit").click()
    card = wait(page, lambda b: b.find_element(By.CSS_SELECTOR, "article[data-status=in_progress]"))
    wait(page, lambda _: "of 9000" in card.find_element(By.CLASS_NAME, "state").text)
    assert int(card.find_element(By.TAG_NAME, "progress").get_attribute("value")) < 100
    press(card, "Cancel")
    wait(page, lambda _: card.find_element(By.CLASS_NAME, "state").text == "Cancelled")


def test_a_mistake_is_told_where_it_was_made(page):
    by_id(page, "submit").click()
    assert by_id(page, "problem").text == "Say what to show."
    assert page.switch_to.active_element.get_attribute("id") == "prompt"
    page.find_element(By.CSS_SELECTOR, "input[value=refine]").click()
    by_id(page, "submit").click()
    assert by_id(page, "problem").text == "Choose a file first."


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_text_stands_out_and_nothing_is_cut_off(page, scheme, width):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    by_id(page, "more").find_element(By.TAG_NAME, "summary").click()
    for mode in ("text", "image", "long"):
        page.find_element(By.CSS_SELECTOR, f"input[value={mode}]").click()
        assert page.execute_script(UNNAMED) == []
        assert page.execute_script(FAINT) == []
        assert page.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    assert len(Select(by_id(page, "size")).options) >= 3
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_a_page_of_a_server_with_keys_asks_for_one(tiny_checkpoint, tmp_path, browser):
    (tmp_path / "keys").write_text("ann ann-ann-ann-ann-ann\n")
    with ServedModel(tiny_checkpoint, tmp_path / "videos", "--keys", str(tmp_path / "keys")) as server:
        browser.get(server.address)
        wait(browser, lambda b: by_id(b, "ask-key").is_displayed())
        by_id(browser, "key").send_keys("ann-ann-ann-ann-ann", Keys.ENTER)
        wait(browser, lambda b: b.execute_script("return document.body.dataset.ready"))
        by_id(browser, "prompt").send_keys("a cat", Keys.CONTROL, Keys.ENTER)
        finished(browser, 1)
        assert wait(browser, lambda b: b.execute_script(PLAYS)) == 48
        messages = [entry["message"] for entry in browser.get_log("browser")]
        assert all("401" in message for message in messages)  # the first look, before there is a key
