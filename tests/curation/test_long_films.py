"""Memory does not grow with a film's length: its frames are let go of as the next ones come."""

import contextlib
import gc
import types
import weakref
from fractions import Fraction

import numpy as np
import pytest

from lcv_jax.curation.crop import BorderFinder
from lcv_jax.curation.fingerprints import hash_frames
from lcv_jax.curation.shot_signals import film_signals
from lcv_jax.data import video_file
from lcv_jax.data.media_reader import open_clip
from lcv_jax.data.media_writer import VideoWriter
from lcv_jax.data.timing import make_timeline

pytest.importorskip("scenedetect")


class Frames:
    """Pictures made one at a time, which counts those that are still held."""

    def __init__(self, length):
        self._rng, self._length, self.held, self.most_held = np.random.default_rng(0), length, 0, 0

    def __iter__(self):
        for _ in range(self._length):
            picture = self._rng.integers(0, 255, (32, 48, 3), np.uint8)
            self.held += 1
            self.most_held = max(self.most_held, self.held)
            weakref.finalize(picture, self._let_go)
            yield picture

    def _let_go(self):
        self.held -= 1


def test_finding_shots_and_hashing_hold_a_few_frames_of_a_film(monkeypatch):
    frames = Frames(260)
    timeline = make_timeline(range(260), Fraction(1, 25))
    clip = types.SimpleNamespace(timeline=timeline, pictures=lambda indices: iter(frames))
    monkeypatch.setattr("lcv_jax.curation.shot_signals.open_clip", lambda path: contextlib.nullcontext(clip))
    assert len(film_signals("film.mp4", None, BorderFinder().see).level) == 260
    assert frames.most_held <= 3
    frames = Frames(100)
    assert len(hash_frames(iter(frames))) == 100
    assert frames.most_held <= 3


def test_decoded_frames_are_freed_before_the_film_ends(tmp_path):
    av = pytest.importorskip("av")
    with VideoWriter(tmp_path / "film.mp4", fps=8, height=32, width=48) as file:
        file.write(np.zeros((60, 32, 48, 3), np.uint8))
    gc.collect()
    gc.disable()
    try:
        with open_clip(tmp_path / "film.mp4") as clip:
            held = [sum(isinstance(each, av.VideoFrame) for each in gc.get_objects()) for _ in clip.pictures(range(60))]
    finally:
        gc.enable()
    assert max(held) <= 12


def test_frame_times_take_a_few_bytes_a_frame():
    packets = video_file._Packets()
    packet = types.SimpleNamespace(pts=None, duration=1001, is_keyframe=False, is_discard=False)
    for number in range(20_000):
        packet.pts, packet.is_keyframe = number * 1001, number % 250 == 0
        packets.add(packet)
    held = sum(each.buffer_info()[1] * each.itemsize for each in vars(packets).values())
    assert held == 17 * 20_000
    times, durations, is_key = packets.arrays()
    assert times.tolist() == [number * 1001 for number in range(20_000)]
    assert (durations == 1001).all()
    assert np.flatnonzero(is_key).tolist() == list(range(0, 20_000, 250))
