"""The report's four rewards on the tiny judges, through the config that a run has."""

import numpy as np
import pytest

from lcv_jax.rewards import judge_rewards
from lcv_jax.rewards.collect import score_all
from lcv_jax.rewards.config import RewardsConfig, RewardSource, open_rewards
from lcv_jax.rewards.judge_rewards import hpsv3, videoreward
from lcv_jax.rewards.readouts import QUALITY_PROMPT, grayscale

CAPTIONS = ["a red fox", "a boat"]


@pytest.fixture
def videos():
    return np.random.default_rng(0).integers(0, 256, (2, 4, 30, 40, 3), np.uint8)


@pytest.fixture
def source(converted_judge):
    def make(kind, *weights, **options):
        options = {"folder": str(converted_judge(kind)), **options}
        return RewardSource(
            factory=f"lcv_jax.rewards.judge_rewards:{kind}",
            options=tuple(options.items()),
            weights=tuple((name, 1.0) for name in weights),
        )

    return make


def test_the_four_rewards_of_a_config(judge, source, videos):
    sources = (source("hpsv3", "hpsv3_general", "hpsv3_percentile"), source("videoreward", "mq", "ta"))
    with open_rewards(RewardsConfig(sources=sources)) as scorer:
        assert scorer.names == ("hpsv3_general", "hpsv3_percentile", "mq", "ta")
        scores = scorer.submit(videos, CAPTIONS, 8.0).result()
    assert not scores.failures
    hps, video = judge("hpsv3", exact=False), judge("videoreward", exact=False)
    frames = [frame for clip in videos for frame in clip]
    asked = [QUALITY_PROMPT] * 8 + [caption for caption in CAPTIONS for _ in range(4)]
    mu_PBT = hps.score_images(frames * 2, asked)[:, 0].reshape(2, 2, 4)
    best_B = np.sort(mu_PBT[1])[:, -2:].mean(axis=-1)
    grey, colour = (
        video.normalise(video.score_videos(list(shown), [8.0, 8.0], CAPTIONS)) for shown in (grayscale(videos), videos)
    )
    want = [mu_PBT[0].mean(axis=-1), best_B, grey[:, 1], colour[:, 2]]
    np.testing.assert_allclose([scores.values[name] for name in scores.names], want, rtol=1e-4, atol=1e-5)
    assert np.abs(grey[:, 1] - colour[:, 1]).min() > 1e-3


def test_a_frame_is_looked_at_once(videos, monkeypatch, converted_judge):
    reward = hpsv3(str(converted_judge("hpsv3")))
    seen = []

    def score_rows(judge, rows, num_scores):
        seen.extend(len(row.prompts) for row in rows)
        return np.zeros((num_scores, 2), np.float32)

    monkeypatch.setattr(judge_rewards.Judge, "_score_rows", score_rows)
    reward.score(videos, CAPTIONS, 8.0)
    assert seen == [2] * 8


def test_several_devices_share_a_batch(source, videos, converted_judge):
    folder = str(converted_judge("videoreward"))
    one, local, some = (videoreward(folder, rewards="ta", devices=which) for which in ("", "local", "6,7"))
    want = one.score(videos, CAPTIONS, 8.0)["ta"]
    assert local.judge.mesh.size == 8
    assert {device.id for device in some.judge.mesh.devices.flat} == {6, 7}
    for reward in (local, some):
        np.testing.assert_allclose(reward.score(videos, CAPTIONS, 8.0)["ta"], want, rtol=1e-4, atol=1e-5)


def test_an_ensemble_is_the_mean_of_its_judges(converted_judge, videos, monkeypatch):
    folder = str(converted_judge("videoreward"))
    one = videoreward(folder, rewards="ta,vq").score(videos, CAPTIONS, 8.0)
    both = videoreward(f"{folder}, {folder}", rewards="ta,vq")
    offsets = iter((0.0, 3.0))
    for member in both.members:
        monkeypatch.setattr(member, "judge", Shifted(member.judge, next(offsets)))
    found = both.score(videos, CAPTIONS, 8.0)
    assert list(found) == ["ta", "vq"]
    for name, value in one.items():
        np.testing.assert_allclose(found[name], value + 1.5, rtol=1e-5)


class Shifted:
    """A judge that finds everything better by so much."""

    def __init__(self, judge, by):
        self.cfg, self.score_videos = judge.cfg, judge.score_videos
        self.normalise = lambda raw: judge.normalise(raw) + by


def test_faults_are_never_numbers(converted_judge, videos):
    reward = videoreward(str(converted_judge("videoreward")))
    scores = score_all([reward], videos[:, :1], CAPTIONS, 8.0)
    assert scores.failed().all()
    assert "video 0: a video of 1 frames" in scores.failures[0]


def test_what_is_not_there(converted_judge, source):
    folder = str(converted_judge("hpsv3"))
    with pytest.raises(ValueError, match="rewards must be different ones of hpsv3_general, hpsv3_percentile, got 'mq'"):
        hpsv3(folder, rewards="mq")
    with pytest.raises(ValueError, match="is a hpsv3, wanted a videoreward"):
        videoreward(folder)
    with pytest.raises(ValueError, match=r'devices must be "local" or numbers of 0\.\.7'):
        hpsv3(folder, devices="8")
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16"):
        hpsv3(folder, dtype="float16")
    with pytest.raises(ValueError, match="gives no reward vq; there are .*: mq, ta"):
        open_rewards(RewardsConfig(sources=(source("videoreward", "vq"),)))
