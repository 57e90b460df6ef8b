"""Parts of the server on their own: the table of jobs, decoding, what a worker says of errors, how GPUs are divided."""

import concurrent.futures
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lcv_jax.data.media_reader import read_image, read_video
from lcv_jax.data.media_writer import VideoWriter, write_image
from lcv_jax.generate import Devices, Weights
from lcv_jax.own_files import disk_full
from lcv_jax.serving.application import make_workers
from lcv_jax.serving.decoding import Decoder, Wanted
from lcv_jax.serving.jobs import JobStore, new_id
from lcv_jax.serving.limits import Defaults, Limits
from lcv_jax.serving.planning import plan_task
from lcv_jax.serving.processes import Live
from lcv_jax.serving.settings import Server, Settings
from lcv_jax.serving.worker import Progress, StoppedError, _end_of
from tests.serving.served_model import LONG, ServedModel


def test_decoding_keeps_every_pixel_and_its_bounds(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "clip.mp4", fps=8, height=32, width=48) as file:
        file.write(levels)
    write_image(tmp_path / "image.png", levels[0])
    with Decoder(tmp_path / "clip.mp4", Limits()) as decoder:
        assert decoder.kind() == "clip"
        decoder.write(tmp_path / "out.mkv", Wanted(fps=8.0, last=5))
    clip, fps = read_video(tmp_path / "out.mkv")
    np.testing.assert_array_equal(clip, read_video(tmp_path / "clip.mp4", last=5)[0])
    assert fps == 8
    with Decoder(tmp_path / "image.png", Limits()) as decoder:
        assert decoder.kind() == "image"
        decoder.write(tmp_path / "out.png", Wanted())
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), levels[0])
    with Decoder(tmp_path / "clip.mp4", Limits()) as decoder:
        decoder.kind()
        with pytest.raises(ValueError, match="more than 4 frames"):
            decoder.write(tmp_path / "more.mkv", Wanted(most=4))
    assert not (tmp_path / "more.mkv").exists()
    Image.new("L", (9000, 9000)).save(tmp_path / "large.png", compress_level=1)  # 243 MB as colours
    with Decoder(tmp_path / "large.png", Limits(max_decode_megabytes=256, max_input_pixels=10**8)) as decoder:
        decoder.kind()
        with pytest.raises(ValueError, match="within 30 s and 256 MB"):
            decoder.write(tmp_path / "large_out.png", Wanted())
    slow = Decoder(tmp_path / "large.png", Limits(max_decode_seconds=0.02, max_input_pixels=10**8))
    with slow as decoder, pytest.raises(ValueError, match=r"within 0\.02 s"):
        _ = decoder.kind(), decoder.write(tmp_path / "large_out.png", Wanted())


def raising(error):
    def make():
        raise error

    return make


def test_what_a_worker_says_of_errors(capfd):
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
    assert _end_of("a", raising(full))[:3] == ("failed", "a", "out_of_memory")
    assert "choose a smaller size" in _end_of("a", raising(full))[3]
    assert _end_of("a", raising(MemoryError()))[2] == "out_of_memory"
    assert _end_of("a", raising(disk_full(Path("a.mp4"), "no space left on device")))[2] == "disk_full"
    assert _end_of("a", raising(ValueError("no")))[2:] == ("invalid_value", "no")
    assert _end_of("a", raising(StoppedError())) == ("stopped", "a")
    assert _end_of("a", raising(KeyError("bug")))[2:] == (
        "server_error", "internal error (KeyError); the server's log says more",
    )  # fmt: skip
    assert "KeyError: 'bug'" in capfd.readouterr().err


def test_time_left_is_counted_from_the_first_step(tmp_path):
    store = JobStore(tmp_path)
    live = Live(store.add(new_id(), "ann", {}, {"task": "text-to-video"}, warnings=[]))
    shared = {"stage": "draft", "steps": 10, "segment": 0, "segments": 1, "stage_number": 0, "stages": 2}
    live.advance(Progress(step=1, **shared), 100.0)
    assert live.seconds_left is None
    live.advance(Progress(step=2, **shared), 102.0)
    assert live.progress.share == pytest.approx(0.1)
    assert live.seconds_left == pytest.approx(2 * 18)
    # Another server reads it from the database.
    store.claim()
    store.renew(live.job.id, live.told())
    elsewhere = Live.elsewhere(store.find(live.job.id))
    assert (elsewhere.progress, elsewhere.seconds_left) == (live.progress, live.seconds_left)
    store.close()


def test_seconds_become_the_nearest_possible_number_of_frames():
    for seconds, frames in ((6, 89), (6.2, 93), (0.01, 1), ("4", 61)):
        fields = {"prompt": "x", "seconds": float(seconds)}
        assert plan_task(fields, None, Defaults(), Limits())["num_frames"] == frames


def workers(monkeypatch, visible, replicas, **devices):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    chosen = Settings(
        weights=Weights(checkpoint=Path("x")), server=Server(replicas=replicas), devices=Devices(**devices)
    )
    return [worker._visible for worker in make_workers(chosen)]


def test_every_replica_has_gpus_of_its_own(monkeypatch):
    assert workers(monkeypatch, None, 1, seq=8) == [None]
    assert workers(monkeypatch, None, 4, seq=2) == ["0,1", "2,3", "4,5", "6,7"]
    assert workers(monkeypatch, "5,3,1", 2) == ["5", "3"]
    with pytest.raises(ValueError, match="need 4"):
        workers(monkeypatch, "5,3,1", 2, data=2)


@pytest.mark.slow
def test_replicas_make_videos_at_once(tiny_checkpoint, tmp_path):
    with ServedModel(tiny_checkpoint, tmp_path, "--replicas", "2", "--max-job-seconds", "4") as server:
        server.wait_until(lambda: server.ask("/health")[1]["ready"] == 2)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            made = list(pool.map(lambda i: server.create(**LONG, seed=i), range(2)))
        running = server.wait_until(lambda: server.ask("/health")[1]["running"] == 2)
        assert running
        for video in made:
            assert server.wait(video)["error"]["code"] == "time_limit"
        assert server.ask("/health")[1]["status"] == "ok"
