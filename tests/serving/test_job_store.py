"""The table of jobs on its own, in SQLite and in a real PostgreSQL: states, leases, what a kill leaves, expiry."""

import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lcv_jax.serving.databases import DatabaseError
from lcv_jax.serving.jobs import JobStore, new_id

LEASE = 0.3


@pytest.fixture(params=["sqlite", "postgresql"])
def open_store(request, tmp_path):
    """open_store(): a store; each is a server of its own with PostgreSQL, and the next start of one with SQLite."""
    url = request.getfixturevalue("postgres").new() if request.param == "postgresql" else None
    opened = []

    def open_one():
        if url is None and opened:
            opened[-1].close()
        opened.append(JobStore(tmp_path, url, lease_seconds=LEASE))
        return opened[-1]

    open_one.url = url
    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def shared(postgres, tmp_path):
    """Stores of four servers."""
    url = postgres.new()
    stores = [JobStore(tmp_path, url, lease_seconds=LEASE) for _ in range(4)]
    yield stores
    for store in stores:
        store.close()


def add(store, **given):
    job_id = new_id()
    store.place(job_id).mkdir()
    return store.add(job_id, "ann", {}, {"task": "text-to-video"}, warnings=[], **given)


def finish(store, size=0):
    job = store.claim()
    (store.place(job.id) / "video.mp4").write_bytes(bytes(size))
    assert store.complete(job.id, {"num_frames": 1})
    return job


def test_a_job_is_in_one_state_and_leaves_no_final_one(open_store):
    store = open_store()
    first, second = add(store), add(store)
    assert [store.queue_position(job) for job in (first, second)] == [1, 2]
    claimed = store.claim()
    assert (claimed.id, claimed.server) == (first.id, store.server)
    assert claimed.started == pytest.approx(time.time(), abs=5)
    assert claimed.lease == pytest.approx(time.time() + LEASE, abs=5)
    assert store.queue_position(store.find(second.id)) == 1
    assert store.fail(first.id, "in_progress", "cancelled", "two\nli\0nes")
    assert not store.complete(first.id, {})
    assert not store.fail(first.id, "queued", "x", "x")
    assert (store.find(first.id).status, store.find(first.id).error_message) == ("failed", "two lines")
    assert add(store, request_key="k").id == add(store, request_key="k").id
    assert (store.count("queued"), store.count_open("ann"), store.count_open("bob")) == (2, 2, 0)
    assert [store.find(text) for text in ("\0", "video_1", "\ud800", first.id + "\n")] == [None] * 4


def test_jobs_are_listed_by_age(open_store):
    store = open_store()
    made = [add(store).id for _ in range(3)]
    newest, more = store.page("ann", after=None, limit=2, newest_first=True)
    assert ([job.id for job in newest], more) == (made[:0:-1], True)
    oldest, more = store.page("ann", after=store.find(made[0]), limit=2, newest_first=False)
    assert ([job.id for job in oldest], more) == (made[1:], False)
    assert store.page("bob", after=None, limit=2, newest_first=True) == ([], False)
    store.remove(made[1])
    assert store.find(made[1]) is None
    assert not store.place(made[1]).exists()


def test_a_start_settles_what_a_kill_left(open_store):
    store = open_store()
    whole, half, waiting = (add(store) for _ in range(3))
    store.claim()
    store.claim()
    assert store.renew(half.id, {"step": 3})
    assert store.find(half.id).progress == {"step": 3}
    facts = {"num_frames": 5, "height": 32, "width": 48, "fps": "15/2"}
    (store.place(whole.id) / "video.json").write_text(json.dumps({"video": facts}))
    for name in ("video.mp4", "clip.mkv"):
        (store.place(half.id) / name).write_bytes(b"x")
    young, old = store.place("young"), store.place("old")
    for stray in (young, old):
        stray.mkdir()
    os.utime(old, (0, 0))
    after = open_store()
    after.recover()
    if open_store.url:  # the first server may still be alive, until its leases have run out
        assert after.find(half.id).status == "in_progress"
        assert young.exists()
        time.sleep(1.2 * LEASE)
        assert after.settle_lost() == 2
        assert not store.renew(half.id, None)
        assert not store.complete(half.id, {})
        store.remove_outputs(whole.id)  # what the first server does with a job that it could not complete
    assert after.find(whole.id).video["fps"] == 7.5
    assert (after.place(whole.id) / "video.json").exists()
    assert after.find(half.id).error_code == "interrupted"
    assert [path.name for path in after.place(half.id).iterdir()] == ["clip.mkv"]
    assert after.claim().id == waiting.id
    assert not old.exists()


def test_videos_expire_by_size_and_by_age(open_store):
    store = open_store()
    for _ in range(4):
        add(store)
    jobs = [finish(store, 1000) for _ in range(3)]
    assert store.total_bytes() == 3000
    assert [job.id for job in store.expire(3600.0, 2500.0)] == [jobs[0].id]
    assert not store.place(jobs[0].id).exists()
    time.sleep(0.01)
    assert {job.id for job in store.expire(0.005, 1e9)} == {jobs[1].id, jobs[2].id}
    assert store.count("queued") == 1


def test_a_database_of_another_version_is_refused(open_store):
    store = open_store()
    store.database.run("COMMENT ON TABLE lcv_jobs IS '7'" if open_store.url else "PRAGMA user_version = 7")
    with pytest.raises(ValueError, match="version 7, this program reads 2"):
        open_store()


def test_a_second_server_is_refused_without_a_shared_database(tmp_path):
    first = JobStore(tmp_path)
    with pytest.raises(DatabaseError, match="in use by another server: give another --folder, or --database"):
        JobStore(tmp_path)
    first.close()
    with pytest.raises(ValueError, match="must be like postgresql://"):
        JobStore(tmp_path, "mysql://x")


def test_several_servers_take_each_job_once(shared, postgres):
    made = [add(shared[0]).id for _ in range(60)]

    def take(store):
        return [job.id for job in iter(store.claim, None)]

    with ThreadPoolExecutor() as pool:
        taken = list(pool.map(take, shared))
    assert sorted(itertools.chain(*taken)) == sorted(made)
    assert sum(map(bool, taken)) >= 2
    # A job that another server is about to take is passed over, and nobody waits.
    first, second = add(shared[0]), add(shared[0])
    with postgres.connect(f"jobs_{postgres._count}") as other, other.transaction():
        other.execute("SELECT 1 FROM lcv_jobs WHERE id = %s FOR UPDATE", [first.id])
        assert shared[1].claim().id == second.id
    assert shared[2].claim().id == first.id


def test_one_request_at_several_servers_makes_one_job(shared):
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda store: add(store, request_key="once").id, shared * 5))
    assert len(set(made)) == 1


def test_a_database_that_was_away_is_used_again(postgres, tmp_path):
    url = postgres.new()
    store = JobStore(tmp_path, url)
    kept = add(store).id
    postgres.stop()
    for _ in range(2):
        with pytest.raises(DatabaseError, match=f"^postgresql://127.0.0.1:{postgres.port}/jobs_"):
            store.find(kept)
    with pytest.raises(DatabaseError) as refused:
        JobStore(tmp_path, url.replace("lcv@", "lcv:secret@"))
    assert "secret" not in str(refused.value)
    postgres.start()
    assert store.claim().id == kept
    store.close()
