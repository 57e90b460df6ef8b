import io
import pickle
import struct
import tracemalloc
import zipfile

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
        with pytest.raises(wire.WireError, match="the body is no npz|must be uint8"):
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
        (struct.pack(">4sIQ", b"LCVR", 99999, 0) + b"[" * 99999, "header is no JSON: RecursionError"),
        (struct.pack(">4sIQ", b"LCVR", 13, 0) + b'{"a":1,"a":2}', "duplicate keys"),
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
        ({"fps": 0}, r"fps must be a number in 0.001..1000.0, got 0"),
        ({"fps": 1e300}, r"fps must be a number in 0.001..1000.0, got 1e\+300"),
        ({"fps": 10**400}, r"fps must be a number in 0.001..1000.0, got 1000"),
        ({"fps": 10**5000}, "fps must be a number in 0.001..1000.0, got int of thousands of digits"),
        ({"prompts": ["a", "b\ud800"]}, "without halves of surrogate pairs"),
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
        ({"scores": {"a": [1.0]}, "error": "out of memory"}, "^out of memory$"),
        ({"scores": {"a": [10**400]}}, "numbers that a float can hold"),
    ],
)
def test_what_is_no_reply(reply, message):
    with pytest.raises(wire.WireError, match=message):
        wire.unpack_reply(reply)


def npy(shape, data):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def archive(member, declared=None):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("videos.npy", member)
    data = file.getvalue()
    if declared is not None:  # in the local header and in the directory
        data = data.replace(struct.pack("<I", len(member)), struct.pack("<I", declared))
    return data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (archive(npy((1, 1, 1000, 1000, 3), bytes(3_000_000))), "take 3000000 bytes; at most 1000000 are taken"),
        (archive(npy((1, 9, 1 << 20, 1 << 20, 3), b"")), "at most 1000000 are taken"),
        (archive(npy((1, 1, 8, 8, 3), bytes(3_000_000))), "more bytes follow"),
        (archive(npy((1, 1, 8, 8, 3), bytes(3_000_000)), declared=192 + 128), "no npz|more bytes"),
        (archive(npy((1, 1, 8, 8, 3), bytes(100))), "end 92 bytes early"),
        (archive(npy((1, 0, 8, 8, 3), b"")), "videos must be uint8, B T H W 3"),
    ],
)  # fmt: skip
def test_archives_that_hold_other_than_they_say(body, message):
    header = {"version": 1, "prompts": ["a"], "fps": 8, "media": "npz"}
    tracemalloc.start()
    with pytest.raises(wire.WireError, match=message):
        wire.unpack_request(header, body, most_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_500_000


def test_an_mp4_that_decodes_to_more_than_is_taken():
    pytest.importorskip("av")
    header, body = wire.read_message(stream(wire.pack_request(clips(), PROMPTS, 8, "mp4")))
    with pytest.raises(wire.WireError, match="decode to more than the .* bytes"):
        wire.unpack_request(header, body, most_bytes=clips().nbytes - 1)
    assert wire.unpack_request(header, body, most_bytes=clips().nbytes)[0].shape == clips().shape


@pytest.mark.parametrize(
    ("reply", "repeats_ids", "message"),
    [
        ({"scores": {}}, False, "version None"),
        ({"version": 2, "request": "mine"}, True, "version 2"),
        ({"version": 1, "request": "other"}, False, "a reply to request 'other', expected one to 'mine'"),
        ({"version": 1, "request": None}, False, "a reply to request None"),
        ({"version": 1}, True, "a reply to request None"),
    ],
)
def test_replies_to_something_else(reply, repeats_ids, message):
    with pytest.raises(wire.WireError, match=message):
        wire.check_reply(reply, "mine", repeats_ids=repeats_ids)


def test_replies_to_this_request():
    wire.check_reply({"version": 1, "request": "mine"}, "mine", repeats_ids=True)
    wire.check_reply({"version": 1}, "mine", repeats_ids=False)
