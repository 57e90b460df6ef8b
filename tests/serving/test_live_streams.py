"""Live streams of a real server over a real WebSocket: back-pressure, queue, vanished clients, garbage, going back."""

import io
import json
import os
import signal

import av
import pytest
from PIL import Image

from tests.serving.live_client import LiveClient
from tests.serving.test_serving_limits import children, command_of

AHEAD = 8  # frames that the server sends before the first is acknowledged


@pytest.fixture
def client(server):
    with LiveClient(server) as client:
        yield client


def test_a_client_that_shows_nothing_is_sent_no_more_than_it_may_have(client):
    begun = client.start()
    assert (begun["width"], begun["height"], begun["fps"], begun["seed"], begun["ahead"]) == (48, 32, 8.0, 7, AHEAD)
    (warning,) = begun["warnings"]
    assert "not trained on causal chunks: expect motion and textures to drift" in warning
    client.send("prompt", prompt="a dog")
    (told, _), frames = client.until("prompt")
    # However long it waits: the maker answers what it is asked, and has made no frame beyond the bound.
    while len(frames) < AHEAD:
        frames.append(client.receive())
    client.send("prompt", prompt="a cow")
    (told, _), more = client.until("prompt")
    assert (told["prompt"], told["frame"], more) == ("a cow", AHEAD + 1, [])  # a chunk begins there
    assert [header["frame"] for header, _ in frames] == list(range(AHEAD))
    assert Image.open(io.BytesIO(frames[0][1])).size == (48, 32)
    client.send("ack", frame=2)
    assert [client.receive()[0]["frame"] for _ in range(3)] == [AHEAD, AHEAD + 1, AHEAD + 2]
    client.send("prompt", prompt="")
    assert client.receive()[0] == {
        "type": "prompt",
        "prompt": "",
        "frame": AHEAD + 5,
    }  # of 9, 10, 11 and 12 the last two are still to come


def test_back_to_an_earlier_moment_gives_the_same_frames_and_obeys_another_prompt(client):
    client.start()
    first = client.frames(6)
    client.send("prompt", prompt="a dog")
    first += client.frames(20)
    for asked, begins in ((19, 17), (2, 1), (0, 0)):  # chunks begin at 0, 1, 5, 9, ...
        client.send("back", frame=asked)
        (told, _), _ = client.until("back")
        assert told["frame"] == begins
        assert told["prompt"] == ("a dog" if begins == 17 else "a cat")
        again = client.frames(begins + 3)
        assert [header["frame"] for header, _ in again] == list(range(begins, begins + 4))
        assert again == first[begins : begins + 4]
        first = first[:begins] + again + client.frames(20)
    client.send("back", frame=5)
    client.until("back")
    client.send("prompt", prompt="a very different dog")
    client.until("prompt")
    assert client.frames(20)[-1][1] != first[20][1]


def test_saving_gives_an_mp4_of_what_was_shown(client):
    client.start()
    client.frames(9)
    client.send("back", frame=5)
    client.until("back")
    client.send("save")
    (told, content), _ = client.until("video")
    with av.open(io.BytesIO(content)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert file.streams.video[0].average_rate == 8
    assert (told["first"], told["frames"]) == (0, len(frames))
    assert len(frames) >= 5
    assert frames[0].shape == (32, 48, 3)


def test_streams_and_jobs_wait_for_the_device_in_their_order(server):
    with LiveClient(server) as first, LiveClient(server) as second, LiveClient(server) as third:
        first.start()
        video = server.create(prompt="a cat", seed=1, num_frames=1)
        second.send("start", prompt="a dog", seed=1)
        assert second.receive()[0] == {"type": "queued", "place": 2}
        third.send("start", prompt="a dog", seed=1)
        assert third.receive()[0] == {"type": "queued", "place": 3}
        second.send("prompt", prompt="a cow")
        assert second.until("error")[0][0]["error"]["code"] == "not_begun"
        assert server.ask(f"/v1/videos/{video['id']}")[1]["status"] == "queued"
        first.socket.socket.close()  # vanishes without a word
        assert server.wait(video)["status"] == "completed"
        second.until("begun")
        assert third.until("queued")[0][0]["place"] in (1, 2)
        second.frames(3)
        second.socket.close()
        third.until("begun")
        third.frames(3)


def test_a_stream_whose_worker_dies_says_so_and_the_next_gets_another_worker(server):
    with LiveClient(server) as first, LiveClient(server) as second:
        first.start()
        second.send("start", prompt="a dog", seed=1)
        second.until("queued")
        (worker,) = (pid for pid in children(server.process.pid) if "spawn_main" in command_of(pid))
        os.kill(worker, signal.SIGKILL)
        assert first.until("ended")[0][0]["error"]["code"] == "worker_ended"
        second.until("begun")
        second.frames(1)


BAD = [
    ("hello", "a message is JSON"),
    (b"\0\1", "got bytes"),
    ("[1]", "a message is JSON"),
    ('{"type": "stop"}', "a message is JSON"),
    ('{"type": ["ack"]}', "a message is JSON"),
    ("[" * 60_000, "a message is JSON"),
    ('{"type": "ack"}', "ack has frame, got none"),
    ('{"type": "back", "frame": -1}', "frame must be a frame's number, got '-1'"),
    ('{"type": "ack", "frame": true}', "frame must be a frame's number"),
    ('{"type": "prompt", "prompt": 3}', "prompt must be"),
    (json.dumps({"type": "prompt", "prompt": "x" * 4001}), "prompt has 4001 characters, at most 4000"),
    ('{"type": "start", "prompt": "x"}', "open another connection"),
]
BAD_STARTS = [
    ({}, "prompt is missing"),
    ({"prompt": "x", "promt": "y"}, "did you mean 'prompt'"),
    ({"prompt": "x", "seconds": 3}, "seconds does not apply to a live stream"),
    ({"prompt": "x", "size": "33x48"}, "multiple"),
    ({"prompt": "x", "step_cache": 0.1, "num_inference_steps": 30}, "leave out step_cache"),
    ({"prompt": "x", "size": "4096x4096"}, "at most 1000000 on this server"),
]


def test_garbage_is_answered_and_the_stream_goes_on(server, client):
    client.send("ack", frame=1)
    assert client.receive()[0]["error"]["message"] == "send start first"
    for fields, told in BAD_STARTS:
        client.send("start", **fields)
        assert told in client.receive()[0]["error"]["message"]
    client.start()
    frames = client.frames(3)
    for message, told in BAD:
        client.socket.send(message)
        (error, _), others = client.until("error")
        assert told in error["error"]["message"]
        assert error["error"]["type"] == "invalid_request_error"
        frames += [each for each in others if each[0]["type"] == "frame"]
    with LiveClient(server) as another:
        another.socket.send("x" * 70_000)
        with pytest.raises(Exception, match="1009"):
            another.receive()
    client.send("ack", frame=frames[-1][0]["frame"])
    assert client.frames(20)[-1][0]["frame"] == 20
