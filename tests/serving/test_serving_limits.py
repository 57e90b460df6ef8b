"""What a server refuses, whose jobs are whose, and what is left after it was killed."""

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedOK, InvalidStatus

from tests.serving.live_client import LiveClient
from tests.serving.served_model import LONG, ServedModel, picture

ANN, BOB = "ann-ann-ann-ann-ann", "bob-bob-bob-bob-bob"


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("limited")
    (folder / "keys").write_text(f"# who\nann {ANN}\nbob {BOB}\n")
    flags = ["--keys", folder / "keys", "--max-pixels", "4096", "--max-frames", "101", "--max-jobs-per-key", "4"]
    flags += ["--max-body-megabytes", "4", "--max-upload-seconds", "2", "--max-input-pixels", "200000"]
    flags += ["--max-decode-seconds", "8", "--max-prompt-characters", "100", "--max-segments", "4"]
    flags += ["--max-event-streams", "2", "--max-live-seconds", "1", "--cors-origins", "https://studio.example"]
    with ServedModel(tiny_checkpoint, folder / "videos", *map(str, flags), file_kilobytes=2000) as served:
        served.key, served.folder = ANN, folder / "videos"
        yield served


def bomb():
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


BAD_FIELDS = [
    ({"prompt": "x", "promt": "y"}, "unknown field 'promt'; did you mean 'prompt'?", "promt"),
    ({"prompt": "x", "size": "50x32"}, "multiples of 16, got 32 x 50; nearest is 32 x 48", None),
    ({"prompt": "x", "size": "big"}, "size must be WIDTHxHEIGHT, such as 832x480, got 'big'", "size"),
    ({"prompt": "x", "size": "512x512"}, "has 262144 pixels, at most 4096", "size"),
    ({"prompt": "x", "num_frames": 1001}, "at most 101 on this server, got 1001", "num_frames"),
    ({"prompt": "x", "seconds": "100"}, "at most 101", "num_frames"),
    ({"prompt": "x", "num_frames": "many"}, "num_frames must be a whole number", "num_frames"),
    ({"prompt": "x", "seed": -1}, "seed must lie in 0..4294967295, got -1", "seed"),
    ({"prompt": "x", "guidance_scale": "nan"}, "guidance_scale must lie in 1..1000, got nan", "guidance_scale"),
    ({"prompt": "x", "num_inference_steps": 9001}, "at most 9000, got 9001", "num_inference_steps"),
    ({"prompt": "x" * 101}, "prompt has 101 characters, at most 100", "prompt"),
    ({"prompt": "a\0b"}, "a NUL", "prompt"),
    ({}, "prompt is missing", "prompt"),
    ({"prompt": "x", "prompts": ["a"]}, "give prompt or prompts, not both", "prompts"),
    ({"prompts": ["a"] * 5}, "at most 4 segments on this server, got 5", "prompts"),
    ({"prompt": "x", "t_thresh": 0.5}, "t_thresh does not apply to text-to-video", "t_thresh"),
    ({"prompt": "x", "distilled": True, "enhance_hf": True}, "exclude each other", None),
    ({"prompt": "x", "adapters": {"../../secrets": 1}}, "no '../../secrets' here; there are", "adapters"),
    ({"prompt": "x", "adapters": {"/etc/a.safetensors": 1}}, "no '/etc/a.safetensors' here", "adapters"),
    ({"prompt": "x", "task": "refine"}, "refine takes a clip as input_reference, got none", "input_reference"),
    (
        {"prompt": "x", "input_reference": {"image_url": "http://10.0.0.1/"}},
        "are not fetched",
        "input_reference",
    ),
    ({"prompt": "x", "input_reference": "/etc/passwd"}, "addresses are not fetched", "input_reference"),
    ({"prompt": "x", "input_reference": {"image_url": "data:image/png;base64,####"}}, "no base64", "input_reference"),
    ({"prompt": "x", "video": {"id": "../../x"}}, "not found", None),
    ({"prompt": "x", "model": "sora-2"}, "this server has 'longcat-video'", "model"),
]


@pytest.mark.parametrize(("fields", "told", "param"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_fields_that_are_refused(server, fields, told, param):
    status, reply = server.ask("/v1/videos", fields)
    assert status in (400, 404), reply
    assert told in reply["error"]["message"]
    assert "\n" not in reply["error"]["message"]
    assert reply["error"]["param"] == param
    assert not list((server.folder / "jobs").iterdir())


BAD_FILES = [
    (b"", "is an empty file"),
    (b"this is text, not a video", "neither an image"),
    (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "neither an image"),
    (bomb(), "has 60000 x 60000 pixels, at most 200000"),
    (picture()[:200], "cannot"),
    (b"\0\0\0\x18ftypmp42" + bytes(3000), "cannot be read as a video"),
]


@pytest.mark.parametrize(("content", "told"), BAD_FILES, ids=lambda value: str(value)[:30])
def test_files_that_are_refused(server, content, told):
    file = ("input_reference", "../../../etc/cron.d/x.mp4", content, "video/mp4")
    status, reply = server.form("/v1/videos", [("prompt", "x")], [file])
    assert (status, reply["error"]["param"]) == (400, "input_reference")
    assert told in reply["error"]["message"] or (told == "cannot" and "truncated" in reply["error"]["message"])
    assert str(server.folder) not in reply["error"]["message"]
    assert not list((server.folder / "jobs").iterdir())


BAD_BODIES = [
    (b"{", "application/json", 400, "not JSON"),
    (b"[" * 10_000 + b"]" * 10_000, "application/json", 400, "nested too deeply"),
    (b"[1]", "application/json", 400, "expected an object"),
    (b"\xff\xfe", "application/json", 400, "UTF-8"),
    (b"prompt=x", "text/plain", 415, "Content-Type must be"),
    (b"--e\r\nbroken", "multipart/form-data; boundary=e", 400, ""),
    (b"x", "multipart/form-data", 400, "boundary"),
    (bytes(5 << 20), "application/json", 413, "larger than 4 MB"),
]


@pytest.mark.parametrize(("body", "kind", "status", "told"), BAD_BODIES, ids=[str(one[3]) for one in BAD_BODIES])
def test_bodies_that_are_refused(server, body, kind, status, told):
    got, reply = server.ask("/v1/videos", body, headers={"Content-Type": kind})
    assert got == status, reply
    assert told in reply["error"]["message"]


def raw(server, text, wait=10.0):
    """What a connection gets that sends this and waits."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(text.encode())
        received = b""
        while part := connection.recv(65536):
            received += part
            if b"\r\n\r\n" in received and received.rstrip().endswith(b"}"):
                break
        return received.decode()


def test_uploads_without_an_end(server):
    start = f"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ANN}\r\nContent-Type: application/json\r\n"
    assert " 413 " in raw(server, f"{start}Content-Length: {10 << 30}\r\n\r\n{{").splitlines()[0]
    began = time.monotonic()
    assert " 408 " in raw(server, f"{start}Content-Length: 100\r\n\r\n{{").splitlines()[0]
    assert 1 < time.monotonic() - began < 8
    chunk = f"{5 << 20:x}\r\n{' ' * (5 << 20)}\r\n0\r\n\r\n"
    assert " 413 " in raw(server, f"{start}Transfer-Encoding: chunked\r\n\r\n{chunk}")
    # So few that they arrive as one: of headers that come in parts no more is read, and the reply may be lost.
    flood = "".join(f"X-{number}: {'y' * 1000}\r\n" for number in range(17))
    assert " 431 " in raw(server, f"GET /health HTTP/1.1\r\nHost: x\r\n{flood}\r\n").splitlines()[0]
    assert server.ask("/health")[0] == 200


def test_a_body_that_is_cut_off_leaves_nothing(server):
    host, port = server.address.removeprefix("http://").split(":")
    parts = {
        "application/json": '{"prompt": "a c',
        "multipart/form-data; boundary=e": '--e\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n'
        "Content-Type: image/png\r\n\r\n\x89PNG",
    }
    for kind, begun in parts.items():
        head = f"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ANN}\r\nContent-Type: {kind}\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(f"{head}Content-Length: 5000\r\n\r\n{begun}".encode("latin-1"))
    assert server.ask("/health")[0] == 200
    assert server.ask("/v1/videos")[1]["data"] == []
    assert not list((server.folder / "jobs").iterdir())


def test_a_client_that_waits_and_goes_away_cancels_its_job(server):
    host, port = server.address.removeprefix("http://").split(":")
    body = json.dumps(LONG)
    head = f"POST /v1/videos/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ANN}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"{head}{body}".encode())
        (video,) = server.wait_until(lambda: server.ask("/v1/videos")[1]["data"])
    assert server.wait(video, seconds=20)["error"] == {"code": "cancelled", "message": "the client went away"}
    server.ask(f"/v1/videos/{video['id']}", method="DELETE")


BAD_QUERIES = [("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order")]


@pytest.mark.parametrize(("query", "param"), BAD_QUERIES)
def test_queries_that_are_refused(server, query, param):
    status, reply = server.ask(f"/v1/videos?{query}")
    assert (status, reply["error"]["param"]) == (400, param)


def test_ids_and_names_that_lead_elsewhere(server):
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=10)
    headers = {"Authorization": f"Bearer {ANN}"}
    for path in ("/page/../jobs.sqlite", "/page/..%2f..%2fserve.py", "/v1/videos/..%2f..%2fjobs.sqlite/content",
                 "/v1/videos/%2e%2e/content", "/page/"):  # fmt: skip
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        content = reply.read()
        assert reply.status == 404, path
        assert b"SQLite" not in content
    connection.close()


def test_keys_decide_whose_a_job_is(server):
    video = server.create(prompt="a cat", seed=1, num_inference_steps=2)
    server.wait(video)
    reference = {"prompt": "x", "video": {"id": video["id"]}}
    for key, expected in ((BOB, 404), ("wrong-wrong-wrong-wrong", 401), (None, 401)):
        server.key = key
        for path in ("", "/content", "/events", "/segments/a"):
            assert server.ask(f"/v1/videos/{video['id']}{path}")[0] == expected
        assert server.ask(f"/v1/videos/{video['id']}", method="DELETE")[0] == expected
        assert server.ask(f"/v1/videos/{video['id']}/remix", {"prompt": "x"})[0] == expected
        assert server.ask(f"/v1/videos/{video['id']}/cancel", b"", "POST")[0] == expected
        assert server.ask(f"/v1/videos?after={video['id']}")[0] == expected
        assert server.ask("/v1/videos", reference)[0] == expected
        assert server.ask("/health")[0] == 200
        assert server.ask("/metrics")[0] == (200 if key == BOB else 401)
    server.key = BOB
    assert server.ask("/v1/videos")[1]["data"] == []
    server.key = ANN
    assert server.ask(f"/v1/videos/{video['id']}")[0] == 200
    assert not (server.folder / "jobs" / video["id"] / "upload").exists()
    server.ask(f"/v1/videos/{video['id']}", method="DELETE")


def test_pages_of_other_sites_are_refused(server):
    for origin in ("http://evil.example", "null", "http://[", "http://localhost:1"):
        status, reply = server.ask("/v1/videos", {"prompt": "x"}, headers={"Origin": origin})
        assert (status, reply["error"]["code"]) == (403, "wrong_origin")
    _, (_, headers) = server.ask("/")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_live_streams_need_a_key_and_our_own_page_and_end_in_time(server):
    wrong = {"Authorization": "Bearer wrong-wrong-wrong-wrong"}
    evil = {"Authorization": f"Bearer {ANN}", "Origin": "http://evil.example"}
    for headers, status, code in ((None, 401, "invalid_api_key"), (wrong, 401, "invalid_api_key"),
                                  (evil, 403, "wrong_origin")):  # fmt: skip
        with pytest.raises(InvalidStatus) as refused, LiveClient(server, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["error"]["code"] == code
    key = "lcv.key." + base64.urlsafe_b64encode(ANN.encode()).decode().rstrip("=")
    with LiveClient(server, subprotocols=["lcv.live", key]) as client:
        assert client.socket.subprotocol == "lcv.live"
        client.send("start", prompt="a cat")
        (ended, _), _ = client.until("ended")  # of itself: this client says no more
        assert ended["error"]["code"] == "time_limit"
        with pytest.raises(ConnectionClosedOK):
            client.receive()
    with LiveClient(server, subprotocols=[key]) as client:  # says nothing
        assert client.receive()[0]["error"]["message"] == "no start arrived in time"


def test_a_site_that_is_named_may_use_the_server_and_its_key(server):
    host = server.address.removeprefix("http://")

    def ask(method, origin, **headers):
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request(method, "/v1/videos", headers={"Origin": origin, **headers})
        reply = connection.getresponse()
        reply.read()
        connection.close()
        return reply.status, reply.getheader("access-control-allow-origin")

    named, asked = "https://studio.example", {"Access-Control-Request-Method": "POST"}
    assert ask("OPTIONS", named, **asked) == (200, named)
    assert ask("OPTIONS", "https://other.example", **asked) == (400, None)
    assert ask("GET", named) == (401, named)
    key = {"Authorization": f"Bearer {ANN}"}
    assert ask("GET", named, **key) == (200, named)
    assert ask("GET", "https://other.example", **key) == (200, None)
    assert ask("POST", named, **key, **{"Content-Type": "application/json"})[0] == 400  # it is read: no prompt
    assert ask("POST", "https://other.example", **key) == (403, None)


def test_event_streams_that_are_left_open(server):
    video = server.create(**LONG)
    start = f"GET /v1/videos/{video['id']}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ANN}\r\n\r\n"
    host, port = server.address.removeprefix("http://").split(":")
    streams = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2)]
    for stream in streams:
        stream.sendall(start.encode())
        assert b" 200 " in stream.recv(4096)
    status, reply = server.ask(f"/v1/videos/{video['id']}/events")
    assert (status, reply["error"]["code"]) == (429, "rate_limit_exceeded")
    streams[0].close()
    server.wait_until(lambda: b" 200 " in first_bytes(host, port, start))
    server.ask(f"/v1/videos/{video['id']}", method="DELETE")
    streams[1].settimeout(10)
    received = b""
    while b"event: deleted" not in received and (part := streams[1].recv(65536)):
        received += part
    assert b"event: deleted" in received
    streams[1].close()


def first_bytes(host, port, text):
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(text.encode())
        return connection.recv(4096)


def test_a_full_queue_and_a_full_disk_leave_nothing_behind(server):
    made = [server.create(**LONG) for _ in range(4)]
    host, port = server.address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port))
    headers = {"Authorization": f"Bearer {ANN}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/videos", json.dumps({"prompt": "x"}), headers)
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("retry-after")) == (429, "10")
    assert "of this key there are 4 jobs, at most 4" in json.loads(reply.read())["error"]["message"]
    connection.close()
    for video in made:
        server.ask(f"/v1/videos/{video['id']}", method="DELETE")
    image = picture(1000, 1000)  # more bytes than a file of this server may have
    status, reply = server.form("/v1/videos", [("prompt", "x")], [("input_reference", "a.png", image, "image/png")])
    assert (status, reply["error"]["code"]) == (507, "disk_full")
    left = server.wait_until(lambda: not list((server.folder / "jobs").iterdir()))
    assert left


def test_a_killed_server_lists_what_was_finished_and_makes_what_was_queued(server):
    finished = server.wait(server.create(prompt="a cat", seed=1, num_inference_steps=2))
    begun = server.create(**LONG)
    server.wait_until(lambda: server.ask(f"/v1/videos/{begun['id']}")[1]["step"])
    queued = server.create(prompt="a cow", seed=2)
    content = server.ask(f"/v1/videos/{finished['id']}/content")[1][0]
    workers = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    server.kill()
    server.wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    server.start()
    after = {video["id"]: video for video in server.ask("/v1/videos?order=asc")[1]["data"]}
    assert after[finished["id"]]["status"] == "completed"
    assert server.ask(f"/v1/videos/{finished['id']}/content")[1][0] == content
    assert (after[begun["id"]]["status"], after[begun["id"]]["error"]["code"]) == ("failed", "interrupted")
    assert server.wait(queued)["status"] == "completed"
    # The same of a worker alone: its job has failed, and another worker makes the next.
    begun = server.create(**LONG)
    server.wait_until(lambda: server.ask(f"/v1/videos/{begun['id']}")[1]["status"] == "in_progress")
    worker = next(pid for pid in children(server.process.pid) if "spawn_main" in command_of(pid))
    os.kill(worker, signal.SIGKILL)
    assert server.wait(begun)["error"]["code"] == "worker_ended"
    assert server.wait(server.create(prompt="a cow", seed=3))["status"] == "completed"
    assert server.end() in (0, 130, -15)


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


BAD_STARTS = [
    (("--host", "0.0.0.0"), "0.0.0.0 can be reached from other machines: give --keys FILE, or listen on 127.0.0.1"),
    (("--keys", "short"), "line 1: a key has at least 16 characters"),
    (("--port", "70000"), "port must lie in 0..65535"),
    (("--replicas", "2", "--seq", "-1"), "-1 takes all devices"),
    (("--max-frames", "33"), "the defaults of requests do not fit the limits: num_frames must be at most 33"),
    (("--database", "jobs.sqlite"), "database must be like postgresql://USER@HOST/NAME"),
    (("--cors-origins", "*"), "cors_origins must be like https://example.org"),
]


@pytest.mark.parametrize(("flags", "told"), BAD_STARTS, ids=lambda value: str(value)[:30])
def test_starts_that_are_refused(tiny_checkpoint, tmp_path, monkeypatch, capsys, flags, told):
    from lcv_jax import serve

    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("ann secret\n")
    with pytest.raises(SystemExit) as stop:
        serve.main([str(tiny_checkpoint), "--port", "0", *flags])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_a_checkpoint_that_no_worker_can_load_ends_the_server(tiny_checkpoint, tmp_path, flip_bit):
    shutil.copytree(tiny_checkpoint, tmp_path / "damaged", copy_function=os.link)
    for path in (tmp_path / "damaged" / "dit").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            flip_bit(path)
    command = [sys.executable, "-m", "lcv_jax.serve", str(tmp_path / "damaged"), "--port", "0"]
    command += ["--folder", str(tmp_path / "videos")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/damaged: no worker can load it: ")


def test_a_full_queue_and_a_device_without_memory(tiny_checkpoint, tmp_path):
    flags = ("--max-queue", "1")
    with ServedModel(tiny_checkpoint, tmp_path, *flags, module="tests.serving.small_device") as server:
        large = server.create(prompt="a cat")  # it waits until the worker has loaded its weights
        status, reply = server.ask("/v1/videos", {"prompt": "a cat"})
        assert (status, reply["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "the queue holds 1 jobs, at most 1" in reply["error"]["message"]
        error = server.wait(large)["error"]
        assert error["code"] == "out_of_memory"
        assert "choose a smaller size, fewer frames" in error["message"]
        assert server.wait(server.create(prompt="a cat", num_frames=1))["status"] == "completed"
