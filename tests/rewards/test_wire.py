import io
import pickle
import struct

import numpy as np
import pytest

from lcv_jax.rewards import wire
from tests.rewards.clips import PROMPTS, clips


def stream(parts):
    return io.BytesIO(b"".join(parts))


def test_a_request_comes_back():
    videos = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6, 3), np.uint8)
    header, body = wire.read_message(stream(wire.pack_request(videos, PROMPTS, 7.5)))
    came, prompts, fps = wire.unpack_request(header, body)
    np.testing.assert_array_equal(came, videos)
    assert (prompts, fps) == (list(PROMPTS), 7.5)


def test_mp4_comes_back_nearly():
    pytest.importorskip("av")
    header, body = wire.read_message(stream(wire.pack_request(clips(), PROMPTS, 8, "mp4")))
    came, _, _ = wire.unpack_request(header, body)
    assert came.shape == clips().shape
    assert np.abs(came.astype(int) - clips()).max() <= 3


def test_scores_come_back_exactly_and_nan_as_nan():
    scores = {"a": np.float32([0.1, np.nan, np.inf])}
    header = wire.reply_header(scores, {2: "over"})
    assert header["failures"] == [[2, "over"], [1, "a: nan"]]
    values, failures = wire.unpack_reply(wire.read_message(stream(wire.pack_message(header)))[0])
    np.testing.assert_array_equal(values["a"].astype(np.float32), np.float32([0.1, np.nan, np.nan]))
    assert failures == {1: "a: nan", 2: "over"}


def test_pickles_are_refused():
    file = io.BytesIO()
    np.savez(file, videos=np.array([{"a": 1}], dtype=object))
    header = {"version": 1, "prompts": ["a"], "fps": 8, "media": "npz"}
    for body in (file.getvalue(), pickle.dumps(clips())):
        with pytest.raises(wire.WireError, match="the body is no npz"):
            wire.unpack_request(header, body)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"HTTP/1.1 200 OK and more", "a message begins with"),
        (b"LC", "a message begins with"),
        (struct.pack(">4sIQ", b"LCVR", 2, 1 << 60), "at most"),
        (struct.pack(">4sIQ", b"LCVR", 2, 9) + b"{}abc", "ended after 3 of 9 bytes"),
        (struct.pack(">4sIQ", b"LCVR", 2, 0) + b"{]", "header is no JSON"),
        (struct.pack(">4sIQ", b"LCVR", 2, 0) + b"[]", "must be a JSON object, got list"),
    ],
)
def test_what_is_no_message(data, message):
    with pytest.raises(wire.WireError, match=message):
        wire.read_message(io.BytesIO(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"prompts": ["a"]}, "3 videos need as many prompts, got 1"),
        ({"prompts": "abc"}, "prompts must be a list of texts"),
        ({"fps": 0}, "fps must be a number above 0"),
        ({"media": "gif"}, "media must be npz or mp4"),
        ({"media": "mp4"}, "sizes must be the bytes"),
    ],
)
def test_what_is_no_request(change, message):
    header, body = wire.read_message(stream(wire.pack_request(clips(), PROMPTS, 8)))
    with pytest.raises(wire.WireError, match=message):
        wire.unpack_request({**header, **change}, body)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({}, "a reply holds scores"),
        ({"scores": {"a": 1}}, "a reply holds scores"),
        ({"scores": {"a": ["1"]}}, "numbers or null, got '1'"),
        ({"scores": {"a": [True]}}, "numbers or null, got True"),
        ({"scores": {"a": [1]}, "failures": ["late"]}, "pairs of a clip and a reason"),
    ],
)
def test_what_is_no_reply(reply, message):
    with pytest.raises(wire.WireError, match=message):
        wire.unpack_reply(reply)
