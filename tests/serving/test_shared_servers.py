"""Two servers over one PostgreSQL and one folder: either answers for both, and one that is killed loses nothing."""

import json
import time
import urllib.request

import pytest

from tests.serving.served_model import LONG, ServedModel, lost_and_kept

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers(tiny_checkpoint, postgres, tmp_path_factory):
    folder, flags = tmp_path_factory.mktemp("shared"), ("--database", postgres.new(), "--lease-seconds", "2")
    with (
        ServedModel(tiny_checkpoint, folder, *flags) as first,
        ServedModel(tiny_checkpoint, folder, *flags) as second,
    ):
        for server in (first, second):
            server.wait_until(lambda server=server: server.ask("/health")[1]["ready"])
        yield first, second


def maker(servers, video):
    """The server that makes a job, and the other."""
    owner = servers[0].wait_until(lambda: at(servers, video))
    return owner, servers[1 - servers.index(owner)]


def at(servers, video):
    if servers[0].ask(f"/v1/videos/{video['id']}")[1]["status"] == "queued":
        return None
    running = [server for server in servers if b"lcv_running_jobs 1.0" in server.ask("/metrics")[1][0]]
    return running[0] if running else None


def test_either_server_answers_for_what_the_other_makes(servers):
    video = servers[0].create(**LONG)
    owner, other = maker(servers, video)
    seen = []
    with urllib.request.urlopen(f"{other.address}/v1/videos/{video['id']}/events", timeout=60) as stream:
        for line in stream:
            if line.startswith(b"data: "):
                seen.append(json.loads(line[6:]))
                if len({now["step"] for now in seen if now["step"]}) >= 2:
                    break
    assert seen[-1]["status"] == "in_progress"
    told = other.ask(f"/v1/videos/{video['id']}/cancel", b"", "POST")[1]
    assert (told["status"], told["error"]["code"]) == ("failed", "cancelled")
    owner.wait_until(lambda: at(servers, video) is None, seconds=10)
    # Deleted at the other: the files go too, also those that are being written.
    video = servers[0].create(**LONG)
    owner, other = maker(servers, video)
    assert other.ask(f"/v1/videos/{video['id']}", method="DELETE")[0] == 200
    owner.wait_until(lambda: at_rest(servers))
    assert owner.ask(f"/v1/videos/{video['id']}")[0] == 404
    # A finished video comes from either.
    done = other.wait(owner.create(prompt="a cow", seed=1))
    contents = {server.ask(f"/v1/videos/{done['id']}/content")[1][0] for server in servers}
    assert len(contents) == 1


def at_rest(servers):
    return all(b"lcv_running_jobs 0.0" in server.ask("/metrics")[1][0] for server in servers)


def test_one_of_two_servers_is_killed_and_nothing_is_lost_or_made_twice(servers):
    long = [servers[0].create(**LONG) for _ in range(2)]
    killed, other = servers
    killed.wait_until(lambda: all(b"lcv_running_jobs 1.0" in one.ask("/metrics")[1][0] for one in servers))
    made = [servers[i % 2].create(prompt="a cat", seed=i) for i in range(6)]
    killed.kill()
    lost, kept = lost_and_kept(other, long)
    assert lost["error"] == {"code": "interrupted", "message": "the server was stopped while it made this video"}
    assert other.ask(f"/v1/videos/{kept['id']}/cancel", b"", "POST")[1]["error"]["code"] == "cancelled"
    made += long
    ended = [other.wait(video) for video in made]
    assert [video["status"] for video in ended] == ["completed"] * 6 + ["failed"] * 2
    before = {video["id"]: video for video in ended}
    killed.start()
    killed.wait_until(lambda: killed.ask("/health")[1]["ready"])
    time.sleep(2.5)  # a lease, so that whatever would still be settled is
    after = {video["id"]: killed.ask(f"/v1/videos/{video['id']}")[1] for video in made}
    assert after == before
    for video in ended:
        if video["status"] == "completed":
            assert killed.ask(f"/v1/videos/{video['id']}/content")[1][0][4:8] == b"ftyp"
    again = killed.ask(f"/v1/videos/{lost['id']}/remix", {"prompt": "a cat", "num_inference_steps": 2})[1]
    assert other.wait(again)["status"] == "completed"


def test_servers_wait_for_a_database_that_is_away(servers, postgres):
    video = servers[0].create(**LONG)
    maker(servers, video)
    postgres.stop()
    for server in servers:
        status, reply = server.ask("/v1/videos")
        assert (status, reply["error"]["code"]) == (503, "database_unavailable")
    postgres.start()
    for server in servers:
        server.wait_until(lambda server=server: server.ask("/v1/videos")[0] == 200)
    assert servers[0].ask(f"/v1/videos/{video['id']}/cancel", b"", "POST")[1]["error"]["code"] == "cancelled"
    servers[0].wait_until(lambda: at_rest(servers), seconds=10)
    assert servers[1].wait(servers[0].create(prompt="a cow", seed=2))["status"] == "completed"
