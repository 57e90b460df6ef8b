"""Clips of a model that are rated: two of each caption, in order, of different noise, and few programs."""

from pathlib import Path

import numpy as np

from lcv_jax.toy import model_clips as of_model
from lcv_jax.toy.model_clips import FRAMES, PROMPTS, STEPS, model_clips


class Pipeline:
    """Shows each clip's prompt and seed in its first pixels."""

    def __init__(self):
        self.calls = []

    def text_to_video(self, prompts, *, height, width, num_frames, num_steps, guidance_scale, seed, **options):
        self.calls.append((len(prompts), num_steps, guidance_scale))
        videos = np.zeros((len(prompts), num_frames, height, width, 3), np.float32)
        videos[:, 0, 0, 0, 0] = [int(prompt) / 255 for prompt in prompts]
        videos[:, 0, 0, 0, 1] = [one % 251 / 255 for one in seed]
        return videos


def test_two_clips_of_each_caption_in_order(monkeypatch):
    pipeline = Pipeline()
    monkeypatch.setattr(of_model, "load_pipeline", lambda folder: pipeline)
    count = 2 * PROMPTS + 3
    clips = list(model_clips(Path("weights"), [str(number) for number in range(count)], side=16, seed=5))
    assert [int(clip[0, 0, 0, 0]) for clip in clips] == [number for number in range(count) for _ in "ab"]
    assert [int(clip[0, 0, 0, 1]) for clip in clips] == [(5 + number) % 251 for number in range(2 * count)]
    assert clips[0].shape == (FRAMES, 16, 16, 3)
    assert clips[0].dtype == np.uint8
    assert pipeline.calls == [(2 * PROMPTS, STEPS[number % 2], 1.0) for number in range(3)]
