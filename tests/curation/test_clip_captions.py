"""Captions: what an endpoint is asked, which of its replies are used, and what is mixed from them."""

import dataclasses
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from lcv_jax.curation.camera import CLASSES
from lcv_jax.curation.captions import ATTRIBUTES, CAMERA, TEXTS, augment
from lcv_jax.curation.stage import attempt, digest
from lcv_jax.curation.stages import attributes, augmentation, captions
from lcv_jax.data import chat
from lcv_jax.data.media_writer import VideoWriter

GOOD = {
    "caption_en": "A red ball rolls to the right.", "summary_en": "A ball rolls.",
    "caption_zh": "一个红色的球向右滚动。", "summary_zh": "一个球在滚动。",
}  # fmt: skip
LOOK = {name: next(iter(values)) for name, values in ATTRIBUTES.items()}


class Endpoint(BaseHTTPRequestHandler):
    replies: list = []
    requests: list = []

    def do_POST(self):
        self.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        reply = self.replies.pop(0)
        if reply == "slow":
            time.sleep(0.4)
        body = reply if isinstance(reply, bytes) else completion(reply)
        try:
            self.send_response(503 if reply == "down" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client has left
            pass

    def log_message(self, *_):
        pass


def completion(content):
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Runs a stage on a clip, with these replies."""
    monkeypatch.setattr(chat, "time", type("Clock", (), {"sleep": staticmethod(lambda _: None)}))
    with VideoWriter(tmp_path / "a.mp4", fps=4, height=32, width=48) as video:
        video.write(np.broadcast_to(np.arange(0, 240, 20, dtype=np.uint8)[:, None, None, None], (12, 32, 48, 3)))
    Endpoint.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()

        def run(stage, *replies, **settings):
            Endpoint.replies = list(replies)
            url = settings.pop("url", f"http://127.0.0.1:{server.server_port}/v1")
            chosen = type(stage.settings)(url=url, model="vlm", **settings)
            row = {"clip": "a", "source": "b", "clip_path": tmp_path / "a.mp4", "clip_digest": "0"}
            return attempt(dataclasses.replace(stage, settings=chosen), row)

        yield run
        server.shutdown()
        thread.join()


def test_captions_of_a_clip(ask):
    outcome = ask(captions.STAGE, f"Here:\n```json\n{json.dumps(GOOD)}\n```", num_frames=4)
    assert outcome.rows == [GOOD]
    (body,) = Endpoint.requests
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 4 + ["text"]
    assert "4 frames at even distances of a video of 3.0 seconds" in content[-1]["text"]
    assert body["model"] == "vlm"
    assert body["response_format"]["json_schema"]["schema"]["required"] == list(TEXTS)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("down", "status 503"),
        (b"<html>", "expected a chat completion, got '<html>'"),
        ("I cannot help with that.", "expected a JSON object, got 'I cannot"),
        ({**GOOD, "summary_en": ""}, "summary_en"),
        ({key: GOOD[key] for key in TEXTS[:3]}, "summary_zh"),
        ({**GOOD, "caption_zh": GOOD["caption_en"]}, "expected Chinese for caption_zh, got 'A red ball"),
        ({**GOOD, "caption_en": GOOD["caption_zh"]}, "expected English for caption_en"),
    ],
)
def test_a_reply_that_is_of_no_use_is_asked_for_again_and_then_a_fault(ask, reply, reason):
    assert ask(captions.STAGE, reply, GOOD, retries=1).rows == [GOOD]
    outcome = ask(captions.STAGE, reply, reply, retries=1)
    assert outcome.rows == []
    assert reason in outcome.fault
    assert not Endpoint.replies


def test_an_endpoint_that_is_slow_or_not_there(ask):
    assert "timed out" in ask(captions.STAGE, "slow", timeout=0.1, retries=0).fault
    outcome = ask(captions.STAGE, url="http://127.0.0.1:9/v1", retries=1)
    assert "http://127.0.0.1:9/v1: <urlopen error" in outcome.fault


def test_attributes_are_held_to_their_lists(ask):
    assert ask(attributes.STAGE, LOOK).rows == [LOOK]
    schema = Endpoint.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["shot_size"]["enum"] == list(ATTRIBUTES["shot_size"])
    outcome = ask(attributes.STAGE, {**LOOK, "lens": "a big one"}, retries=0)
    assert "expected a value of its list for lens" in outcome.fault


def test_what_makes_a_clip_be_asked_about_again():
    def of(**settings):
        return digest(dataclasses.replace(captions.STAGE, settings=captions.Settings(**settings)))

    assert of() == of(url="http://elsewhere/v1", retries=9)
    assert len({of(), of(model="other"), of(prompt="What is this?"), of(num_frames=4)}) == 4


def mixed(num_captions=40, identity="a", seed=0, **attributes):
    return augment(GOOD, {"camera": "zoom_in", **LOOK, **attributes}, identity, num_captions, seed)


def test_augmentation():
    found = mixed()
    assert found == mixed()
    assert found != mixed(identity="b")
    assert found != mixed(seed=1)
    assert found[:4] == list(GOOD.values())
    assert len(set(found)) == len(found) > 30
    for caption in found[4:]:
        (text,) = [text for name, text in GOOD.items() if name.startswith("caption") and text in caption] or [
            text for text in GOOD.values() if text in caption
        ]
        rest = caption.replace(text, "")
        assert rest
        # The language of the attributes is that of the text.
        assert rest.isascii() == text.isascii()
    words = " ".join(found).lower()
    assert all(value.lower() in words for value in LOOK.values())
    assert CAMERA["zoom_in"][0] in words
    assert CAMERA["zoom_in"][1] in words


def test_nothing_to_mix():
    assert augment(GOOD, {"camera": None, "style": "other style"}, "a", 4, 0) == list(GOOD.values())
    assert augment({}, {"camera": "static"}, "a", 4, 0) == []
    row = {"clip": "a", "source": "b", "camera": None, **dict.fromkeys(TEXTS), **dict.fromkeys(ATTRIBUTES)}
    row["caption_en"] = "A fox."
    assert attempt(augmentation.STAGE, row).rows == [{"captions": ["A fox."]}]
    assert tuple(CAMERA) == CLASSES
