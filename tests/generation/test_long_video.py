"""Long videos: how segments follow from one another, what is kept on disk, and a run that is killed and goes on."""

import collections
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.data.frames import to_uint8
from lcv_jax.data.media_reader import read_video
from lcv_jax.generation.long_video import Segments, cut, draft, refine, segment_seed, windows
from lcv_jax.own_files import write_json
from lcv_jax.pipeline import Pipeline, load_pipeline

SMALL = {"num_frames": 9, "num_steps": 2, "max_sequence_length": 16}
COND = 5
PROMPTS = ["a cat surfs", "it dives", "it comes up again"]


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


def make_draft(pipeline, folder, prompts=PROMPTS, **given):
    segments = Segments.open(folder, {})
    return [
        np.array(new)
        for new in draft(pipeline, segments, prompts, size=(32, 48), num_cond_frames=COND, **SMALL, **given)
    ]


@pytest.fixture(scope="module")
def drafted(pipeline, tmp_path_factory):
    """Three segments of which the second and third have fewer new frames than the next goes on from."""
    return make_draft(pipeline, tmp_path_factory.mktemp("draft"), seed=7)


def test_segments_go_on_from_all_frames_before_with_their_own_prompt_and_seed(pipeline, drafted):
    assert [len(new) for new in drafted] == [9, 4, 4]
    assert all(new.dtype == np.uint8 for new in drafted)
    first = pipeline.text_to_video(PROMPTS[0], height=32, width=48, seed=7, **SMALL)[0]
    np.testing.assert_array_equal(drafted[0], to_uint8(first))
    for number in (1, 2):
        so_far = np.concatenate(drafted[:number])
        want = pipeline.continue_video(
            so_far, PROMPTS[number], num_cond_frames=COND, size=(32, 48), seed=segment_seed(7, number), **SMALL
        )[0]
        np.testing.assert_array_equal(drafted[number], to_uint8(want[COND:]))


def test_a_prompt_changes_its_segment_and_none_before(pipeline, drafted, tmp_path):
    other = make_draft(pipeline, tmp_path, [PROMPTS[0], PROMPTS[1], "a dog barks"], seed=7)
    np.testing.assert_array_equal(other[1], drafted[1])
    assert np.any(other[2] != drafted[2])


def test_seeds_of_segments_differ():
    seeds = {segment_seed(seed, number) for seed in range(20) for number in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert segment_seed(3, 0) == 3


@pytest.mark.parametrize("length", [1, 7])
def test_starting_from_an_image_or_a_clip(pipeline, tmp_path, length):
    start = np.random.default_rng(0).integers(0, 256, (length, 32, 48, 3), dtype=np.uint8)
    first, second = make_draft(pipeline, tmp_path, PROMPTS[:2], start=start)
    if length == 1:
        want = pipeline.image_to_video(start[0], PROMPTS[0], size=(32, 48), **SMALL)[0]
    else:
        want = pipeline.continue_video(start, PROMPTS[0], num_cond_frames=COND, size=(32, 48), **SMALL)[0]
    np.testing.assert_array_equal(first, to_uint8(want))
    assert [len(first), len(second)] == [9, 4]


def test_refined_segments_go_on_from_refined_frames(pipeline, drafted, tmp_path):
    given = {"size": (64, 64), "num_steps": 2, "max_sequence_length": 16}
    segments = Segments.open(tmp_path, {})
    refined = [np.array(new) for new in refine(pipeline, segments, iter(drafted), 3, overlap=COND, seed=7, **given)]
    assert [len(new) for new in refined] == [18, 8, 8]
    np.testing.assert_array_equal(refined[0], to_uint8(pipeline.refine(drafted[0], seed=7, **given)[0]))
    for number in (1, 2):
        start = sum(len(new) for new in drafted[:number]) - COND
        window = np.concatenate(drafted)[start : start + COND + 4]
        want = pipeline.refine(
            window,
            condition_video=np.concatenate(refined[:number]),
            num_cond_frames=2 * COND,
            seed=segment_seed(7, number),
            **given,
        )[0]
        np.testing.assert_array_equal(refined[number], to_uint8(want[2 * COND :]))


class FakePipeline(Pipeline):
    """Segments that count on from the last frame, and what was asked for."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def _make(self, *call):
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(call)

    def text_to_video(self, prompt, *, num_frames, **given):
        self._make("text", prompt)
        return np.arange(num_frames, dtype=np.uint8)[None, :, None, None, None] * np.ones((64, 96, 3), np.uint8)

    def continue_video(self, video, prompt, *, num_frames, num_cond_frames, **given):
        self._make("continue", prompt)
        assert len(video) <= num_cond_frames
        new = np.arange(num_frames, dtype=np.uint8)[None, :, None, None, None]
        return new + video[None, -num_cond_frames:][:, :1]

    def refine(self, video, prompt, *, num_cond_frames, spatial_only, **given):
        self._make("refine", len(video), num_cond_frames)
        return (video if spatial_only else video.repeat(2, axis=0))[None]


def whole(pipeline, folder, count, num_frames=13, **refinement):
    """The generators of a draft and its refinement."""
    segments = Segments.open(folder, {})

    def drafts():
        return draft(pipeline, segments, ["x"] * count, num_frames=num_frames, num_cond_frames=COND)

    return drafts(), refine(pipeline, segments, drafts(), count, overlap=COND, **refinement)


def test_frames_are_in_order_through_drafts_and_refinement(tmp_path):
    drafts, refined = whole(FakePipeline(), tmp_path, 4)
    numbers = np.concatenate([new[:, 0, 0, 0] for new in drafts])
    np.testing.assert_array_equal(numbers, np.arange(13 + 3 * 8))
    np.testing.assert_array_equal(np.concatenate([new[:, 0, 0, 0] for new in refined]), numbers.repeat(2))


def test_one_segment_is_made_at_a_time(tmp_path):
    pipeline = FakePipeline()
    drafts, refined = whole(pipeline, tmp_path, 4)
    assert pipeline.calls == []
    next(drafts)
    assert pipeline.calls == [("text", "x")]
    next(refined)
    assert pipeline.calls == [("text", "x"), ("refine", 13, 0)]
    next(refined)
    assert pipeline.calls[2:] == [("continue", "x"), ("refine", 13, 2 * COND)]


def test_memory_does_not_grow_with_segments(tmp_path):
    def peak(count):
        stages = whole(FakePipeline(), tmp_path / str(count), count)
        tracemalloc.start()
        for stage in stages:
            collections.deque(stage, maxlen=0)
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return memory

    assert peak(24) < 1.1 * peak(3)


def test_an_interrupted_run_goes_on_at_the_first_segment_that_is_missing(tmp_path):
    want = [np.array(new) for new in whole(FakePipeline(), tmp_path / "whole", 4)[1]]
    with pytest.raises(KeyboardInterrupt):
        list(whole(FakePipeline(fail_at=5), tmp_path / "cut", 4)[1])
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.npy")}
    # Refinement asks for one draft at a time.
    assert kept.keys() == {f"{stage}_{number:04}.npy" for stage, number in
                           [("draft", 0), ("refined", 0), ("draft", 1), ("refined", 1), ("draft", 2)]}  # fmt: skip
    pipeline = FakePipeline()
    got = [np.array(new) for new in whole(pipeline, tmp_path / "cut", 4)[1]]
    assert [call[0] for call in pipeline.calls] == ["refine", "continue", "refine"]
    for mine, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert all((tmp_path / "cut" / name).stat().st_mtime_ns == written for name, written in kept.items())


def test_a_folder_belongs_to_one_request(tmp_path):
    request = {"prompt": ["a cat"], "seed": 1, "size": (32, 48)}
    Segments.open(tmp_path, request)
    Segments.open(tmp_path, request)
    with pytest.raises(
        ValueError, match=r"different: num_frames was null, is 9; seed was 1, is 2\); repeat that request .* or delete"
    ):
        Segments.open(tmp_path, {**request, "seed": 2, "num_frames": 9})
    (tmp_path / "request.json").write_text("{")
    with pytest.raises(ValueError, match="request.json: .*delete the folder"):
        Segments.open(tmp_path, request)


def test_a_folder_goes_but_not_what_others_put_there(tmp_path):
    for name in ("empty", "shared"):
        segments = Segments.open(tmp_path / name, {})
        segments.get("draft", 0, lambda: np.zeros((1, 2, 2, 3), np.uint8))
        (tmp_path / "shared").mkdir(exist_ok=True)
        (tmp_path / "shared" / "notes.txt").touch()
        segments.remove()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("shared"), Path("shared/notes.txt")]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(2, 100), st.data())
def test_pieces_hold_every_frame_once_and_windows_overlap(length, num_frames, data):
    overlap = data.draw(st.integers(1, num_frames - 1))
    video = np.arange(length)[:, None, None, None]
    pieces = cut(video, num_frames, overlap)
    np.testing.assert_array_equal(np.concatenate(pieces), video)
    assert all(len(piece) for piece in pieces)
    start = 0
    for piece, window in zip(pieces, windows(iter(pieces), overlap), strict=True):
        assert len(window) <= num_frames
        np.testing.assert_array_equal(window, video[max(0, start - overlap) : start + len(piece)])
        start += len(piece)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 20))
def test_windows_of_any_lengths(lengths, overlap):
    video = np.arange(sum(lengths))[:, None, None, None]
    ends = np.cumsum(lengths)
    pieces = np.split(video, ends[:-1])
    for end, length, window in zip(ends, lengths, windows(iter(pieces), overlap), strict=True):
        np.testing.assert_array_equal(window, video[max(0, end - length - overlap) : end])


LONG = f"""--prompt cat --num-segments 3 --num-cond-frames {COND} --size 32 48 --num-frames 9 --num-steps 2
    --max-sequence-length 16 --refine --refine-size 64 64""".split()


def start_generating(checkpoint, output, *more):
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(Path(".cache/xla").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    command = [sys.executable, "-m", "lcv_jax.generate", "long-video", checkpoint, *LONG, "--output", output, *more]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_identical_result(tiny_checkpoint, tmp_path):
    want = start_generating(tiny_checkpoint, tmp_path / "whole.mp4")
    log = want.communicate()[1]
    assert want.returncode == 0, log
    made = re.findall(r"(\w+) segment (\d) of 3", log)
    assert sorted(set(made)) == [(stage, str(number)) for stage in ("draft", "refined") for number in (1, 2, 3)]

    folder, killed = tmp_path / "cut.segments", start_generating(tiny_checkpoint, tmp_path / "cut.mp4")
    while not (folder / "draft_0001.npy").exists():
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = {(path.stem.split("_")[0], str(int(path.stem.split("_")[1]) + 1)) for path in folder.glob("*.npy")}
    assert len(kept) < 6
    assert not (tmp_path / "cut.mp4").exists()

    refused = start_generating(tiny_checkpoint, tmp_path / "cut.mp4", "--seed", "5", "--guidance-scale", "2")
    log = refused.communicate()[1]
    assert refused.returncode == 2
    differing = r"\(different: guidance_scale was .*, is 2.0; seed was .*, is 5\)"
    assert re.fullmatch(rf"(?:loading .*\n)?error: .*cut.segments holds .* {differing}.*\n", log), log

    resumed = start_generating(tiny_checkpoint, tmp_path / "cut.mp4")
    log = resumed.communicate()[1]
    assert resumed.returncode == 0, log
    assert set(re.findall(r"(\w+) segment (\d) of 3", log)) == set(made) - kept
    for name, length, fps in (("", 34, 30), ("_draft", 17, 15)):
        frames, rate = read_video(tmp_path / f"cut{name}.mp4")
        assert (len(frames), rate) == (length, fps)
        np.testing.assert_array_equal(frames, read_video(tmp_path / f"whole{name}.mp4")[0])
    assert not folder.exists()


HOLDER = """
import sys, time
from pathlib import Path
from lcv_jax.generation.long_video import Segments
Segments.open(Path(sys.argv[1]), {"a": 1})
print("holds it", flush=True)
time.sleep(600)
"""


def test_two_processes_do_not_share_a_working_folder(tmp_path):
    (tmp_path / "segments").mkdir()
    stray = tmp_path / "segments" / ".draft_0000.npy.partial"
    stray.write_bytes(b"of a killed run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "segments"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"holds it\n"
        assert not stray.exists()
        with pytest.raises(ValueError, match="another process makes this video"):
            Segments.open(tmp_path / "segments", {"a": 1})
        holder.kill()
    write_json(tmp_path / "segments" / "request.json", {"a": 2})
    before = list((tmp_path / "segments").iterdir())
    with pytest.raises(ValueError, match="another request"):
        Segments.open(tmp_path / "segments", {"a": 1})
    assert [path.name for path in before if path.exists()] == ["request.json"]
    write_json(tmp_path / "segments" / "request.json", {"a": 1})
    Segments.open(tmp_path / "segments", {"a": 1}).remove()
    assert not (tmp_path / "segments").exists()
