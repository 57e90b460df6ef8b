"""Intervals and measures restated, and every task's score on models whose clips are known."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.toy import measures, reports, score
from lcv_jax.toy.captions import parse
from lcv_jax.toy.reports import Report
from lcv_jax.toy.score import Arguments, Model, held_out_scenes, prompts_of
from lcv_jax.toy.sheets import rows_of_clips
from lcv_jax.toy.world import is_held_out, render


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (10, 10), (57, 64), (1, 3)])
def test_wilson_interval_solves_its_equation(hits, total):
    low, high = measures.wilson_interval(hits, total)
    share = hits / total
    for bound in (low, high):
        if 0 < bound < 1:  # (share - p)^2 = z^2 p (1 - p) / n
            assert (share - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / total, rel=1e-5)
    assert 0 <= low <= share <= high <= 1


def test_wilson_interval_of_a_table():
    # Newcombe (1998), table I: 81 of 263.
    low, high = measures.wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    with pytest.raises(ValueError, match="got 3 of 2"):
        measures.wilson_interval(3, 2)


def test_means_have_intervals():
    found = measures.average([1.0, 2.0, 3.0, 4.0]).to_json()
    half = 1.959964 * math.sqrt(5 / 3) / 2
    assert found["mean"] == 2.5
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-6)
    assert set(measures.average([1.0]).to_json()) == {"mean", "count"}


def test_psnr_seams_and_drift():
    clip = np.zeros((6, 8, 8, 3), np.uint8)
    assert measures.psnr(clip, clip) == 99
    assert measures.psnr(clip, clip + 5) == pytest.approx(20 * math.log10(255 / 5))
    moving = clip + np.arange(0, 12, 2, dtype=np.uint8)[:, None, None, None]
    assert measures.seam_jump(moving, 3) == pytest.approx(1)
    jumping = moving.copy()
    jumping[3:] += 10
    assert measures.seam_jump(jumping, 3) == pytest.approx(12.1 / 2.1)
    with pytest.raises(ValueError, match=r"seam must lie in 1\.\.5, got 6"):
        measures.seam_jump(moving, 6)
    grey = np.full((2, 4, 4, 3), 100, np.uint8)
    redder = grey + np.array([4, 0, 1], np.uint8)
    assert measures.colour_drift([grey, grey, redder]) == pytest.approx([0, 0, 4])


class Oracle(Model):
    """Makes the scene that belongs to a prompt; its autoencoder loses nothing."""

    def __init__(self, scenes, **arguments):
        object.__setattr__(self, "arguments", Arguments(checkpoint=Path("none"), **arguments))
        object.__setattr__(self, "scenes", dict(zip(prompts_of(scenes), scenes, strict=True)))
        object.__setattr__(self, "advance", lambda: None)

    def draw(self, prompt, num_frames=17, scale=1, fps=8.0):
        return render(self.scenes[prompt], 64 * scale, 64 * scale, num_frames, fps)

    def from_text(self, prompts, seeds):
        return [self.draw(prompt) for prompt in prompts]

    def from_image(self, image_HWC, prompt, seed):
        return self.draw(prompt)

    def onwards(self, clip, prompt, seed):
        return self.draw(prompt)

    def refined(self, clip, prompt, seed, sparse):
        return self.draw(prompt, 2 * len(clip), 2, 8 * (2 * len(clip) - 1) / (len(clip) - 1))[: -1 if sparse else None]

    def autoencoded(self, clip):
        return clip


class Frozen(Oracle):
    """Repeats the last frame it is given, a little brighter each time."""

    def onwards(self, clip, prompt, seed):
        given = clip[-self.arguments.num_cond_frames :]
        brighter = np.clip(given[-1:].astype(int) * 1.02 + 1, 0, 255).astype(np.uint8)
        return np.concatenate([given, np.repeat(brighter, 17 - len(given), axis=0)])

    def from_image(self, image_HWC, prompt, seed):
        return np.repeat(image_HWC[None], 17, axis=0)


SCENES = held_out_scenes(12, 0)


def percent(report: Report, name: str) -> float:
    share = report.measured[name]
    assert isinstance(share, measures.Share)
    return share.percent


def mean(report: Report, name: str) -> float:
    value = report.measured[name]
    assert isinstance(value, measures.Average)
    return value.mean


def test_held_out_scenes_are_balanced_and_held_out():
    scenes = held_out_scenes(66, 1)
    assert all(is_held_out(scene) for scene in scenes)
    combinations = [scene.combination for scene in scenes]
    assert len(set(combinations)) == 33
    assert all(combinations.count(each) == 2 for each in set(combinations))
    assert not any(is_held_out(scene) for scene in held_out_scenes(20, 1, trained=True))
    assert {scene.motion for scene in held_out_scenes(5, 1, motion="turns")} == {"turns"}
    assert held_out_scenes(3, 1) == scenes[:3]


def test_text_to_video_of_a_perfect_model_and_of_a_deaf_one():
    report = score.score_text_to_video(Oracle(SCENES), SCENES)
    assert {name: percent(report, name) for name in ("colour", "shape", "motion", "speed", "all")} == dict.fromkeys(
        ("colour", "shape", "motion", "speed", "all"), 100
    )
    assert report.measured == report.true
    assert mean(report, "alignment_reward") > 0.95
    assert 0.5 < mean(report, "motion_reward") < 1

    class Deaf(Oracle):
        def from_text(self, prompts, seeds):
            return [self.draw(prompt) for prompt in prompts[1:] + prompts[:1]]

    assert percent(score.score_text_to_video(Deaf(SCENES), SCENES), "all") < 30


def test_images_are_asked_for_without_motion():
    class Painter(Oracle):
        def from_text(self, prompts, seeds):
            assert all(parse(prompt).motion is None for prompt in prompts)
            return [render(scene, 64, 64, 1, 8.0) for scene in SCENES]

    report = score.score_text_to_video(Painter(SCENES, num_frames=1), SCENES)
    assert percent(report, "shape") == percent(report, "all") == 100
    assert mean(report, "alignment_reward") > 0.95
    assert not {"motion", "motion_reward"} & set(report.measured)


def test_image_to_video_measures_the_first_frame():
    report = score.score_image_to_video(Oracle(SCENES[:4]), SCENES[:4])
    assert mean(report, "first_frame_psnr") == 99
    assert percent(report, "motion") == 100
    frozen = score.score_image_to_video(Frozen(SCENES[:4]), SCENES[:4])
    assert percent(frozen, "motion") == 0
    assert percent(frozen, "shape") == 100


def test_continuation_is_compared_with_the_true_one():
    report = score.score_continue_video(Oracle(SCENES), SCENES)
    assert percent(report, "motion_kept") == 100
    assert mean(report, "psnr_to_true") == 99
    assert mean(report, "seam_jump") == pytest.approx(1, abs=0.3)
    frozen = score.score_continue_video(Frozen(SCENES), SCENES)
    assert percent(frozen, "motion_kept") == 0
    assert mean(frozen, "psnr_to_true") < 30
    assert mean(frozen, "seam_jump") > 1.5


def test_long_videos_are_measured_segment_by_segment():
    scenes = held_out_scenes(2, 0, motion="turns")
    report = score.score_long(Frozen(scenes, num_segments=5), scenes)
    drift = report.curves["continued_drift"]
    assert len(drift) == 5
    assert drift == sorted(drift)
    assert 8 < drift[-1] < 14  # four times 2 % and one level
    assert percent(report, "continued_within_3") == 0
    assert percent(report, "from_single_frames_within_3") == 100
    assert report.true["continued_most_drift"].mean < 1
    assert len(report.clips[0]) == 5


def test_refinement_is_compared_with_upsampling():
    report = score.score_refine(Oracle(SCENES[:2]), SCENES[:2])
    assert mean(report, "sparse_psnr") == mean(report, "decoded_psnr") == 99
    assert mean(report, "sparse_gain_over_upsampled") > 50
    assert mean(report, "sparse_gain_over_dense") == 0
    assert mean(report, "upsampled_sharpness") < mean(report, "true_sharpness")


def test_reports_are_json_and_tables():
    report = score.score_text_to_video(Oracle(SCENES[:3]), SCENES[:3])
    content = json.loads(json.dumps(report.to_json()))
    assert content["measured"]["colour"] | {} == {
        "percent": 100,
        "low": pytest.approx(43.85, abs=0.01),
        "high": 100,
        "hits": 3,
        "total": 3,
    }
    assert reports.table_of("clips", report).row_count == len(report.measured)


def test_batches_have_one_size_and_all_prompts():
    calls = []

    class Recorder:
        def text_to_video(self, prompts, *, seed, **options):
            calls.append((tuple(prompts), seed))
            return np.stack([np.full((1, 8, 8, 3), number, np.float32) / 255 for number in seed])

    model = Oracle(SCENES, batch=2)
    object.__setattr__(model, "pipeline", Recorder())
    clips = Model.from_text(model, ["a", "b", "c"], [7, 8, 9])
    assert calls == [(("a", "b"), (7, 8)), (("c", "c"), (9, 9))]
    assert [int(clip[0, 0, 0, 0]) for clip in clips] == [7, 8, 9]


def test_sheets():
    clips = [np.full((9, 4, 6, 3), shade, np.uint8) for shade in (10, 20)]
    sheet = rows_of_clips(clips, num_frames=3, scale=2, gap=2)
    assert sheet.shape == (2 * (8 + 2), 3 * (12 + 2), 3)
    assert sheet[0, 0, 0] == 10
    assert sheet[10, 0, 0] == 20
    with pytest.raises(ValueError, match="a sheet needs clips"):
        rows_of_clips([])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-clips", "0"], "num_clips must lie in 1"),
        (["--task", "continue-video", "--num-cond-frames", "17"], "num_cond_frames must lie in 1..16"),
        (["--guidance-scale", "0.5"], "guidance_scale must lie in 1"),
        (["--seed", "-1"], "seed must lie in 0"),
        ([], "is no folder; wanted one written by convert_torch_weights.py"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        score.main([str(tmp_path / "none"), *arguments])
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_arguments_reach_the_sampler():
    options = Arguments(checkpoint=Path("none"), distilled=True, num_steps=8).options()
    assert (options["distilled"], options["num_steps"], options["max_sequence_length"]) == (True, 8, 32)
    assert dataclasses.replace(SCENES[0]) == SCENES[0]
