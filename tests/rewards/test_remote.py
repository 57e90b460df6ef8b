import http.server
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.rewards import wire
from lcv_jax.rewards.protocol import RewardError
from lcv_jax.rewards.remote import RemoteConfig, RemoteReward
from lcv_jax.rewards.server import make_server
from tests.rewards.clips import LEVELS, PROMPTS, clips
from tests.rewards.faulty import Brightness

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.block_on_close = False
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def url():
    with serving(make_server(Brightness(), "127.0.0.1", 0)) as url:
        yield url


@contextmanager
def answering(*answers, seconds=0.0, drip=0.0, missing=0):
    """A server that says (status, text) to one POST after the other, the last for ever; it counts them."""
    count = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.say(200, json.dumps({"version": 1, "names": ["brightness"]}))

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, text = answers[min(count[0], len(answers) - 1)]
            count[0] += 1
            time.sleep(seconds)
            self.say(status, text, drip, missing)

        def say(self, status, text, drip=0.0, missing=0):
            data = text.encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data) + missing))
                self.end_headers()
                for place in range(len(data)) if drip else ():
                    self.wfile.write(data[place : place + 1])
                    self.wfile.flush()
                    time.sleep(drip)
                self.wfile.write(b"" if drip else data)
            except OSError:
                pass  # the client has gone

        def log_message(self, *_):
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url, count


def reward_of(*urls, **fields):
    return RemoteReward(RemoteConfig(urls=urls, **{"backoff": 0.01, "retries": 0, "timeout": 60.0, **fields}))


def good(values=(10.0, 20.0, 30.0), **more):
    return 200, json.dumps({"version": 1, "scores": {"brightness": list(values)}, **more})


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("media", ["npz", "mp4"])
def test_scores_come_over_http(url, media):
    if media == "mp4":
        pytest.importorskip("av")
    reward = reward_of(url, media=media)
    assert reward.names == ("brightness",)
    scores = reward.score(clips(), PROMPTS, 8)
    np.testing.assert_allclose(scores.values["brightness"], LEVELS, atol=0 if media == "npz" else 3)


def test_the_server_tells_its_names(url):
    with urllib.request.urlopen(url) as answer:
        assert json.load(answer) == {"version": 1, "names": ["brightness"], "request_ids": True}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("raise", "500 ArithmeticError: no clip like this"),
        ("short", r"wanted one score for each of 3 clips, got shape \(2,\)"),
        ("name", "returned scores of darkness, wanted brightness"),
    ],
)
def test_the_server_makes_no_score_of_a_fault(url, prompt, message):
    with pytest.raises(RewardError, match=message):
        reward_of(url).score(clips(), (prompt, "b", "c"), 8)


def test_nan_is_a_failure(url):
    scores = reward_of(url).score(clips(), ("nan", "b", "c"), 8)
    np.testing.assert_array_equal(scores.values["brightness"], [10, np.nan, 30])
    assert "brightness: nan" in scores.failures[1]


@pytest.mark.parametrize("data", [b"", b"LCVR", b"{}"])
def test_the_server_refuses_what_is_no_request(url, data):
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(url, data=data):
        pass
    assert refused.value.code == 400
    assert "error" in json.load(refused.value)


def test_the_server_refuses_what_is_too_long():
    with serving(make_server(Brightness(), "127.0.0.1", 0, most_bytes=10)) as url:
        with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(url, data=b"x" * 11):
            pass
        assert refused.value.code == 413
        refused.value.close()


def test_a_client_that_has_gone_away_is_no_traceback(capsys):
    begun, gone, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow(Brightness):
        def score(self, videos_BTHWC, prompts, fps):
            begun.set()
            gone.wait()
            return super().score(videos_BTHWC, prompts, fps)

    body = b"".join(wire.pack_request(clips(), PROMPTS, 8))
    server = make_server(Slow(), "127.0.0.1", 0)
    shutdown_request = server.shutdown_request
    server.shutdown_request = lambda request: (shutdown_request(request), ended.set())
    with serving(server):
        client = socket.create_connection(("127.0.0.1", server.server_port))
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        begun.wait()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset when it is closed
        client.close()
        gone.set()
        ended.wait()
    assert "Traceback" not in capsys.readouterr().err


def test_a_refusal_before_all_is_sent_is_heard():
    videos = np.zeros((3, 16, 128, 256, 3), np.uint8)
    with (
        serving(make_server(Brightness(), "127.0.0.1", 0, most_bytes=10)) as url,
        pytest.raises(RewardError, match="413 a request of .* bytes, at most 10 are taken"),
    ):
        reward_of(url, retries=2).score(videos, PROMPTS, 8)


def test_replicas_take_turns():
    with answering(good()) as (one, ones), answering(good()) as (two, twos):
        reward = reward_of(one, two)
        for _ in range(4):
            reward.score(clips(), PROMPTS, 8)
        assert (ones[0], twos[0]) == (2, 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, '{"error": "out of memory"}'), "500 out of memory"),
        ((200, "<html>"), "the answer is no JSON"),
        ((200, "[]"), "must be a JSON object, got list"),
    ],
)
def test_a_fault_is_tried_again_a_bounded_number_of_times(answer, message):
    with answering(answer) as (url, count):
        with pytest.raises(RewardError, match=f"3 attempts failed: .*{message}"):
            reward_of(url, retries=2).score(clips(), PROMPTS, 8)
        assert count[0] == 3


def test_a_fault_that_passes_costs_nothing():
    with answering((503, "busy"), good()) as (url, count):
        scores = reward_of(url, retries=1).score(clips(), PROMPTS, 8)
        np.testing.assert_array_equal(scores.values["brightness"], LEVELS)
        assert count[0] == 2


def test_pauses_double():
    with answering(good()) as (url, _):
        reward = reward_of(url, backoff=0.5)
        assert [reward._pause(attempt) for attempt in (0, 1, 2, 20)] == [0.5, 1.0, 2.0, 30.0]


def test_a_refusal_is_final():
    with answering((422, '{"error": "too many frames"}')) as (url, count):
        with pytest.raises(RewardError, match="422 too many frames"):
            reward_of(url, retries=5).score(clips(), PROMPTS, 8)
        assert count[0] == 1


@pytest.mark.parametrize(("seconds", "drip"), [(60.0, 0.0), (0.0, 1.0)])
def test_late_answers_are_none(seconds, drip):
    with answering(good(), seconds=seconds, drip=drip) as (url, _):
        begun = time.monotonic()
        with pytest.raises(RewardError, match="no answer within 0.3 s"):
            reward_of(url, timeout=0.3).score(clips(), PROMPTS, 8)
        assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (good((1.0, 2.0)), r"got shape \(2,\)"),
        (good(("1", "2", "3")), "numbers or null, got '1'"),
        ((200, '{"version": 1}'), "a reply holds scores"),
        ((200, '{"scores": {"brightness": [10, 20, 30]}}'), "a reply of version None"),
        (good(error="out of memory"), "out of memory"),
        (good(request="another"), "a reply to request 'another'"),
    ],
)
def test_wrong_answers_are_refused(answer, message):
    with answering(answer) as (url, _), pytest.raises(RewardError, match=message):
        reward_of(url).score(clips(), PROMPTS, 8)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null", "1e39"])
def test_numbers_that_are_none_are_failures(value):
    text = f'{{"version": 1, "scores": {{"brightness": [10, {value}, 30]}}}}'
    with answering((200, text)) as (url, _):
        scores = reward_of(url).score(clips(), PROMPTS, 8)
    np.testing.assert_array_equal(scores.values["brightness"], [10, np.nan, 30])
    assert list(scores.failures) == [1]


def test_an_answer_that_is_cut_off_is_none():
    with answering(good(), missing=1) as (url, _), pytest.raises(RewardError, match=r"ended after \d+ of \d+ bytes"):
        reward_of(url).score(clips(), PROMPTS, 8)


def test_an_answer_to_another_request_is_none(url, monkeypatch):
    """The server repeats the ids of its requests, so an answer without one is refused too."""
    reward = reward_of(url)
    np.testing.assert_array_equal(reward.score(clips(), PROMPTS, 8).values["brightness"], LEVELS)
    monkeypatch.setattr("lcv_jax.rewards.server.answer", lambda *_: json.loads(good()[1]))
    with pytest.raises(RewardError, match="a reply to request None"):
        reward.score(clips(), PROMPTS, 8)


def test_one_dead_replica_of_two():
    with answering(good()) as (alive, count):
        with answering(good()) as (dies, _):
            reward = reward_of(dies, alive, retries=1)
        for _ in range(4):
            np.testing.assert_array_equal(reward.score(clips(), PROMPTS, 8).values["brightness"], LEVELS)
        assert count[0] == 4


def test_a_replica_that_is_dead_at_the_start_is_told(url):
    dead = f"http://127.0.0.1:{free_port()}"
    with pytest.warns(UserWarning, match=f"replicas that do not answer yet: {dead}: ConnectionRefusedError"):
        assert reward_of(dead, url).names == ("brightness",)
    with pytest.raises(RewardError, match=f"no replica answers: {dead}"):
        reward_of(dead)


def test_replicas_must_offer_the_same(url):
    other = Brightness()
    other.names = ("darkness",)
    with (
        serving(make_server(other, "127.0.0.1", 0)) as second,
        pytest.raises(RewardError, match="replicas offer different rewards"),
    ):
        reward_of(url, second)


def test_close_ends_a_call_that_waits():
    with answering(good(), seconds=60.0) as (url, _):
        reward, begun = reward_of(url, retries=5), time.monotonic()
        threading.Timer(0.2, reward.close).start()
        with pytest.raises(RewardError, match="closed"):
            reward.score(clips(), PROMPTS, 8)
        assert time.monotonic() - begun < 30


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_urls_that_are_none(url):
    with pytest.raises(ValueError, match="urls must be such as http://HOST:PORT"):
        RemoteConfig(urls=(url,))


def test_the_command_serves():
    command = [sys.executable, "-m", "lcv_jax.rewards.server", "tests.rewards.faulty:Brightness", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--options", '{"scale": 2.0}'], cwd=ROOT, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": "."}
    )
    try:
        line = process.stderr.readline()
        url = re.fullmatch(r"serving brightness on (http://127.0.0.1:\d+)\n", line)[1]
        np.testing.assert_array_equal(reward_of(url).score(clips(), PROMPTS, 8).values["brightness"], 2 * LEVELS)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_the_command_tells_a_mistake_in_one_line():
    command = [sys.executable, "-m", "lcv_jax.rewards.server", "tests.rewards.faulty:nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": "."}, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: tests.rewards.faulty:nothing: no nothing there")
    assert done.stderr.count("\n") == 1
