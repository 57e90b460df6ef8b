"""The live view in a real browser: `python -m benchmarks.live`.

Serves the small model as `make live` does, opens the page in Chromium, and measures on it, in seconds: from Go to the
first frame, of a stream that is begun while the server still loads and compiles, and of the next one; frames a second
over 20 seconds; and from sending a new prompt to the first frame on the screen that follows it. Needs selenium,
chromium and chromedriver, and a machine that does nothing else.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import selenium.webdriver

from benchmarks.facts import facts

PROMPTS = (
    "a red circle moves slowly down over a plain grey background",
    "a red circle moves slowly up over a plain grey background",
    "a red circle moves slowly to the left over a plain grey background",
    "a red circle moves slowly to the right over a plain grey background",
)
WATCHED = 20.0
"""Seconds over which frames are counted."""

TELL = """
const [prompt, done] = arguments, live = document.getElementById('live'), said = document.getElementById('live-state');
const field = document.getElementById('live-prompt'), begun = performance.now();
const playing = live.dataset.state === 'playing';
const shown = () => live.dataset.state === 'playing' && Number(live.dataset.frame ?? -1) >= 0;
const seen = () => playing ? said.textContent === `Now: ${prompt}` : shown();
const look = () => seen() ? done((performance.now() - begun) / 1000) : requestAnimationFrame(look);
field.value = prompt;
document.getElementById('live-form').requestSubmit();
look();
"""
FRAME = "return Number(document.getElementById('live').dataset.frame)"


def main() -> None:
    """Prints what was measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=8, help="new prompts")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with served() as address, browser() as page:
        page.get(address)
        while not page.execute_script("return document.body.dataset.ready"):
            time.sleep(0.1)
        found = {**facts("python -m benchmarks.live"), **measure(page, arguments.tries)}
    print(json.dumps(found, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(page: Any, tries: int) -> dict[str, Any]:
    """Of a page that is ready."""
    loading = page.execute_async_script(TELL, PROMPTS[-1])
    page.execute_script("document.getElementById('live-stop').click()")
    while page.execute_script("return document.getElementById('live').dataset.state") != "idle":
        time.sleep(0.1)
    page.execute_script("delete document.getElementById('live').dataset.frame")
    time.sleep(1)  # the worker ends the stream at the end of a chunk
    first = page.execute_async_script(TELL, PROMPTS[-1])
    begun, frame = time.monotonic(), page.execute_script(FRAME)
    time.sleep(WATCHED)
    rate = (page.execute_script(FRAME) - frame) / (time.monotonic() - begun)
    delays = []
    for number in range(tries):
        delays.append(page.execute_async_script(TELL, PROMPTS[number % len(PROMPTS)]))
        time.sleep(1 + number / tries)  # at every phase of a chunk
    return {
        "first_frame_seconds": round(first, 3),
        "first_frame_while_loading_seconds": round(loading, 3),
        "frames_per_second": round(rate, 2),
        "new_prompt_seconds": {
            "median": round(statistics.median(delays), 3),
            "worst": round(max(delays), 3),
            "tries": tries,
        },
    }


@contextmanager
def served() -> Iterator[str]:
    """The address of a server of the small model, ready to play."""
    port = "8377"
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", "examples/live.sh", "--port", port, "--folder", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            while not (line := server.stdout.readline()).startswith("serving"):
                if not line:
                    raise RuntimeError("the server did not start")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium that shows nothing."""
    options = selenium.webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    driver = shutil.which("chromedriver")
    if driver is None:
        raise FileNotFoundError("chromedriver is not installed")
    page = selenium.webdriver.Chrome(options, selenium.webdriver.ChromeService(driver))
    page.set_script_timeout(60)
    try:
        yield page
    finally:
        page.quit()


if __name__ == "__main__":
    main()
