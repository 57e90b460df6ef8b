"""The command line in two real processes, the second of which sees nothing but the checkpoint."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_launch import free_port

from lcv_jax import generate
from lcv_jax.generation.long_video import Segments

ROOT = Path(__file__).parents[2]
STEPS = {"num_frames": 9, "num_steps": 2, "max_sequence_length": 16}
SIZE = {"size": (32, 64), **STEPS}


def flags(given):
    return [
        text
        for name, value in given.items()
        for text in (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,)))
    ]


def run_two(folders, *arguments):
    """Both processes' exit status and what they said; each has a folder to run in."""
    env = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONPATH": str(ROOT),
    }
    mesh = {"data": 2, "seq": 2, "coordinator": f"127.0.0.1:{free_port()}", "num_processes": 2}
    command = [sys.executable, "-m", "lcv_jax.generate", *map(str, arguments), *flags(mesh)]
    both = [
        subprocess.Popen(
            [*command, "--process-id", str(process)],
            cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for process, folder in enumerate(folders)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=1200)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    return [(process.returncode, text) for process, text in zip(both, said, strict=True)]


@pytest.fixture
def folders(tmp_path):
    for name in ("one", "first", "second"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "first", tmp_path / "second"


def frames_of(folder):
    paths = sorted(folder.glob("*.png"))
    return np.stack([np.asarray(Image.open(path), np.int16) for path in paths])


def run_one(folder, monkeypatch, *arguments):
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        generate.main(list(map(str, arguments)))


@pytest.mark.slow
def test_a_long_video_goes_on_where_it_was_interrupted(folders, tiny_checkpoint, monkeypatch):
    """Its first segment is made by one process, its others by two."""
    one, first, second = folders
    given = {**SIZE, "num_cond_frames": 5, "num_segments": 2, "refine_size": (64, 64), "image": "start.png"}
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(one / "start.png")
    long = ["long-video", tiny_checkpoint, "--prompt", "a cat", *flags(given), "--refine", "--frames"]
    long += ["--output", "long.mp4"]
    get = Segments.get

    def interrupted(segments, stage, number, make):
        if (stage, number) == ("draft", 1):
            raise KeyboardInterrupt
        return get(segments, stage, number, make)

    with monkeypatch.context() as patch:
        patch.setattr(Segments, "get", interrupted)
        with pytest.raises(SystemExit):
            run_one(one, monkeypatch, *long)
    assert [path.name for path in (one / "long.segments").glob("*.npy")] == ["draft_0000.npy"]
    shutil.copytree(one, first, dirs_exist_ok=True)
    run_one(one, monkeypatch, *long)

    ended = run_two((first, second), *long, "--keep-text-encoder", "host", "--parameters", "split")
    assert [status for status, _ in ended] == [0, 0], ended
    (_, said), (_, nothing) = ended
    assert re.findall(r"(?m)^(\w+) segment (\d) of 2$", said) == [("draft", "2"), ("refined", "1"), ("refined", "2")]
    assert "wrote long.mp4" in said
    assert "segment" not in nothing
    assert "wrote" not in nothing
    assert list(second.iterdir()) == []
    assert {path.name for path in first.iterdir()} == {path.name for path in one.iterdir()}
    for name, count in (("long_draft_frames", 13), ("long_frames", 26)):
        got, wanted = frames_of(first / name), frames_of(one / name)
        assert len(got) == len(wanted) == count
        assert np.abs(got - wanted).max() <= 1 or np.quantile(np.abs(got - wanted), 0.99) <= 1, name

    ended = run_two((first, second), *("no.png" if given == "start.png" else given for given in long))
    assert [status for status, _ in ended] == [2, 2], ended
    for _, said in ended:
        assert re.search(r"error: .*no.png", said)
        assert "Traceback" not in said


@pytest.mark.slow
def test_a_batch_skips_what_the_first_process_has(folders, tiny_checkpoint, monkeypatch):
    one, first, second = folders
    small = {"height": 32, "width": 64, **STEPS, "frames": True}
    entries = [
        {**small, "prompt": "a cat", "output": "cat.mp4"},
        {**small, "prompt": ["a dog", "a fish"], "output": "two.mp4"},
        {"task": "continue-video", "video": "cat.mp4", "num_cond_frames": 5, "prompt": "it dives", "frames": True,
         "size": [32, 64], **STEPS, "output": "on.mp4"},
    ]  # fmt: skip
    (one / "prompts.json").write_text(json.dumps(entries[:1]))
    command = ["batch", tiny_checkpoint, "prompts.json", "--folder", "."]
    run_one(one, monkeypatch, *command)
    (one / "prompts.json").write_text(json.dumps(entries))
    shutil.copytree(one, first, dirs_exist_ok=True)
    run_one(one, monkeypatch, *command)
    written = (first / "cat.mp4").stat().st_mtime_ns
    ended = run_two((first, second), *command)
    assert [status for status, _ in ended] == [0, 0], ended
    assert "cat.mp4: done already" in ended[0][1]
    assert "cat.mp4" not in ended[1][1]
    assert (first / "cat.mp4").stat().st_mtime_ns == written
    assert list(second.iterdir()) == []
    for name in ("two_0_frames", "two_1_frames", "on_frames"):
        assert np.abs(frames_of(first / name) - frames_of(one / name)).max() <= 1, name
