"""Two replicas of Ray Serve over a real PostgreSQL: any of them answers for any job, and a killed one loses nothing."""

import os
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from tests.serving.served_model import LONG, ServedModel, lost_and_kept, picture
from tests.serving.test_serving_limits import children, command_of

pytestmark = pytest.mark.slow
ANN = "ann-ann-ann-ann-ann"


@pytest.fixture(scope="module")
def server(tiny_checkpoint, postgres, tmp_path_factory):
    pytest.importorskip("ray", reason='needs Ray Serve: pip install "lcv_jax[cluster]"')
    pytest.importorskip("grpc", reason='needs Ray Serve: pip install "lcv_jax[cluster]"')
    folder = tmp_path_factory.mktemp("ray")
    (folder / "keys").write_text(f"ann {ANN}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--ray", "local", "--replicas", "2", "--database", postgres.new(), "--lease-seconds", "2"]
    flags += ["--keys", folder / "keys", "--port", port]
    with ServedModel(tiny_checkpoint, folder / "videos", *map(str, flags)) as served:
        served.key = ANN
        yield served
        assert served.end() in (0, -15)


def replicas(pid):
    """Process ids of all replicas below a process."""
    below = [pid]
    for one in below:
        below += children(one)
    return [one for one in below if "ServeReplica" in command_of(one)]


def test_requests_go_to_any_replica(server):
    first, second = (server.create(**LONG) for _ in range(2))
    for video in (first, second):  # each replica makes one, and all requests below go to either
        server.wait_until(lambda video=video: server.ask(f"/v1/videos/{video['id']}")[1]["status"] == "in_progress")
    for video in (first, second):
        seen = {server.ask(f"/v1/videos/{video['id']}")[1]["status"] for _ in range(6)}
        assert seen == {"in_progress"}
    request = urllib.request.Request(
        f"{server.address}/v1/videos/{second['id']}/events", headers={"Authorization": f"Bearer {ANN}"}
    )
    with urllib.request.urlopen(request, timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.readline() == b"event: video\n"
        for video in (first, second):
            told = server.ask(f"/v1/videos/{video['id']}/cancel", b"", "POST")[1]
            assert (told["status"], told["error"]["code"]) == ("failed", "cancelled")
        assert b'"code": "cancelled"' in stream.read()
    image = ("input_reference", "a.png", picture(), "image/png")
    status, video = server.form("/v1/videos", [("prompt", "it waves"), ("num_frames", "5")], [image])
    assert (status, video["task"]) == (200, "image-to-video")
    assert server.wait(video, seconds=30)["status"] == "completed"
    status, (content, headers) = server.ask("/v1/videos/sync", {"prompt": "a cat", "seed": 1})
    assert (status, headers["content-type"], content[4:8]) == (200, "video/mp4", b"ftyp")
    server.key = None
    assert server.ask("/v1/videos")[0] == 401
    server.key = ANN


def test_a_replica_that_is_killed_loses_nothing_that_waits(server):
    long = [server.create(**LONG) for _ in range(2)]
    server.wait_until(lambda: server.ask("/health")[1]["running"] == 2)
    made = [server.create(prompt="a cat", seed=i) for i in range(4)]
    pids = replicas(server.process.pid)
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    lost, kept = lost_and_kept(server, long)
    assert lost["error"]["code"] == "interrupted"
    assert server.ask(f"/v1/videos/{kept['id']}/cancel", b"", "POST")[1]["error"]["code"] == "cancelled"
    assert [server.wait(video)["status"] for video in made] == ["completed"] * 4
    server.wait_until(lambda: len(set(replicas(server.process.pid)) - {pids[0]}) == 2)  # Ray starts another
    assert not Path(f"/proc/{pids[0]}").exists()
