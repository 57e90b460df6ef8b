"""Scores of streams whose frames are known: obedient ones and deaf ones, steady ones and ones that drift."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.toy import score_streams
from lcv_jax.toy.captions import caption
from lcv_jax.toy.measures import Average, Share
from lcv_jax.toy.readers import read_clip
from lcv_jax.toy.score import held_out_scenes, prompts_of
from lcv_jax.toy.score_streams import CLIP, READ, Arguments, Streams, drifts, switched
from lcv_jax.toy.world import render

SCENES = held_out_scenes(12, 0)


class Player:
    """Plays scenes, as a stream would: from the frame on for which it is told of another."""

    def __init__(self, scenes, prompt, *, deaf=False, fade=0.0):
        self.scenes, self.deaf, self.fade = scenes, deaf, fade
        self.scene, self.begun, self.number = scenes[prompt], 0, 0

    def __iter__(self):
        return self

    def __next__(self):
        frame = render(self.scene, 64, 64, 1, 8, start=(self.number - self.begun) / 8)[0]
        self.number += 1
        return np.clip(frame * (1 - self.fade * self.number), 0, 255).astype(np.uint8)

    def send(self, prompt):
        if not self.deaf:
            self.scene, self.begun = self.scenes[prompt], self.number
        return next(self)


class Known(Streams):
    """Streams of known scenes."""

    def __init__(self, scenes, *, player=None, **arguments):
        object.__setattr__(self, "arguments", Arguments(checkpoint=Path("none"), **arguments))
        object.__setattr__(self, "advance", lambda: None)
        later = [switched(scene, self.arguments.new, scene.seed, 8, 4 + READ) for scene in scenes]
        known = dict(zip(prompts_of([*scenes, *later]), [*scenes, *later], strict=True))
        object.__setattr__(self, "open", lambda prompt, number: Player(known, prompt, **(player or {})))

    @property
    def clips(self):
        return self


def percent(report, name):
    share = report.measured[name]
    assert isinstance(share, Share)
    return share.percent


def mean(report, name):
    value = report.measured[name]
    assert isinstance(value, Average)
    return value.mean


def test_captions_are_scored_as_those_of_clips():
    report = score_streams.score_captions(Known(SCENES), SCENES)
    assert {name: percent(report, name) for name in ("colour", "shape", "motion", "all")} == dict.fromkeys(
        ("colour", "shape", "motion", "all"), 100
    )
    assert {len(clip) for clip in report.clips} == {CLIP}


@pytest.mark.parametrize("new", ["motion", "colour"])
def test_what_a_scene_turns_into_moves_on_from_where_it_is_and_stays_readable(new):
    for scene in held_out_scenes(64, 3):
        after = switched(scene, new, scene.seed, 8, 4 + READ)
        assert after.motion != scene.motion
        assert (after.colour == scene.colour) == (new == "motion")
        assert (after.shape, after.texture, after.pan) == (scene.shape, scene.texture, scene.pan)
        last, first = render(scene, 64, 64, 1, 8, start=CLIP / 8), render(after, 64, 64, 1, 8)
        found = [read_clip(frame, 8) for frame in (last, first)]
        assert found[0].best("shape") == found[1].best("shape")
        assert read_clip(render(after, 64, 64, READ, 8, start=0.5), 8).best("motion") == after.motion
        assert caption(after, 0) != caption(scene, 0)


@pytest.mark.parametrize("new", ["motion", "colour"])
def test_a_switch_is_obeyed_by_a_stream_that_listens_and_not_by_a_deaf_one(new):
    report = score_streams.score_switch(Known(SCENES, new=new), SCENES)
    assert percent(report, "obeyed") == percent(report, "before_all") == percent(report, "after_all") == 100
    assert report.true["obeyed"] == report.measured["obeyed"]
    by_kind = [share for name, share in report.measured.items() if name.startswith("obeyed_")]
    assert (sum(share.hits for share in by_kind), sum(share.total for share in by_kind)) == (len(SCENES), len(SCENES))
    assert {len(clip) for clip in report.clips} == {CLIP + 4 + READ}
    deaf = score_streams.score_switch(Known(SCENES, new=new, player={"deaf": True}), SCENES)
    assert percent(deaf, "before_all") == 100
    assert percent(deaf, "obeyed") < 10  # what leaves the frame looks as if it shrank


@pytest.mark.parametrize("deaf", [False, True])
def test_likewise_of_a_video_whose_second_segment_has_another_prompt(deaf):
    later = [switched(scene, "motion", scene.seed, 8, 8) for scene in SCENES]
    known = dict(zip(prompts_of([*SCENES, *later]), [*SCENES, *later], strict=True))

    class Segments(Known):
        def from_text(self, prompts, seeds):
            self.begun.append(known[prompts[0]])
            return [render(self.begun[-1], 64, 64, CLIP, 8)]

        def onwards(self, clip, prompt, seed):
            scene, start = (self.begun[-1], CLIP / 8) if deaf else (known[prompt], 0)
            return np.concatenate([clip[-9:], render(scene, 64, 64, 8, 8, start=start)])

    segments = Segments(SCENES)
    object.__setattr__(segments, "begun", [])
    object.__setattr__(segments, "arguments", ContinuedArguments(checkpoint=Path("none")))
    report = score_streams.score_interactive(segments, SCENES)
    assert percent(report, "before_all") == 100
    assert {len(clip) for clip in report.clips} == {CLIP + 8}
    assert percent(report, "obeyed") < 20 if deaf else report.measured["obeyed"] == report.true["obeyed"]


def test_ten_chunks_are_compared_with_the_first_ten():
    looks = np.tile([100.0, 50, 200, 8], (30, 1))
    looks[10:20, 1] += np.arange(10)  # 4.5 on average, of 50
    looks[20:, 3] -= 2
    colour, sharpness = drifts(looks)
    np.testing.assert_allclose(colour, [0, 9, 0])
    np.testing.assert_allclose(sharpness, [0, 0, -25])


def test_a_steady_stream_does_not_drift_and_one_that_fades_does():
    scenes = held_out_scenes(2, 0, motion="turns")
    steady = score_streams.score_drift(Known(scenes, num_chunks=30), scenes)
    assert percent(steady, "always_within") == percent(steady, "last_all") == 100
    assert steady.measured["last_colour_drift"] == pytest.approx(steady.true["last_colour_drift"])
    assert len(steady.curves["colour_drift"]) == 3
    assert len(steady.clips[0]) == 10
    fading = score_streams.score_drift(Known(scenes, num_chunks=30, player={"fade": 1e-3}), scenes)
    assert percent(fading, "last_within") == 0
    assert 6 < mean(fading, "last_colour_drift") < 10  # 80 frames, a thousandth each
    assert mean(fading, "last_sharpness_drift") < -5
    json.dumps(fading.to_json())


def test_a_continued_video_is_cut_into_chunks_like_a_stream():
    (scene,) = held_out_scenes(1, 0, motion="turns")

    class Continuing(Known):
        def from_text(self, prompts, seeds):
            return [render(scene, 64, 64, CLIP, 8)]

        def onwards(self, clip, prompt, seed):
            self.begun.append(len(self.begun) + 1)
            return render(scene, 64, 64, CLIP, 8, start=len(self.begun))  # eight new frames are a second

    continuing = Continuing([scene], num_chunks=20)
    object.__setattr__(continuing, "begun", [])
    object.__setattr__(continuing, "arguments", ContinuedArguments(checkpoint=Path("none"), num_chunks=20))
    report = score_streams.score_continuation(continuing, [scene])
    assert len(continuing.begun) == 8  # 77 frames: 17, and 60 by eights
    np.testing.assert_allclose(report.measured["last_colour_drift"].mean, report.true["last_colour_drift"].mean)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuedArguments(Arguments):
    num_cond_frames: int = 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-chunks", "15"], "num_chunks must be a multiple of 10, got 15"),
        (["--sink", "4"], "sink must not exceed ring"),
        (["--sheet", "a.txt"], "a.txt must end with"),
        ([], "is no folder; wanted one written by convert_torch_weights.py"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        score_streams.main([str(tmp_path / "none"), *arguments])
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
