"""Runs for tests: small clips written by a pipeline that needs no weights."""

import dataclasses

import numpy as np

from lcv_jax.evaluation.suite_sampling import Settings, sample_suite
from lcv_jax.evaluation.suites import Item, Suite
from lcv_jax.sampling.options import SamplingOptions

SETTINGS = Settings(size=(32, 48), num_frames=5, fps=8.0)


def moving(seed, num_frames=5, height=32, width=48, speed=2):
    """A smooth random texture that moves to the right."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (4, 6, 3))
    wide = np.kron(small, np.ones((height // 4, (width + num_frames * speed) // 6 + 1, 1)))
    frames = [wide[:, speed * t : speed * t + width] for t in range(num_frames, 0, -1)]
    return np.stack(frames).astype(np.uint8)


class StubPipeline:
    """Draws what a seed says, remembers what it was asked for, and fails after a number of calls."""

    provenance = {"source": "stub"}

    def __init__(self, fail_after=None, noise=0):
        self.calls, self.fail_after, self.noise = [], fail_after, noise

    def text_to_video(self, prompts, *, height, width, num_frames, seed, **options):
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append({"prompts": list(prompts), "seed": seed, "size": (height, width), **options})
        clips = np.stack([moving(one, num_frames, height, width) for one in seed]).astype(np.float32)
        grain = np.random.default_rng(seed[0]).normal(0, self.noise, clips.shape) if self.noise else 0
        return np.clip(clips + grain, 0, 255) / 255

    def image_to_video(self, image, prompts, *, size, resolution, num_frames, seed, **options):
        self.calls.append({"prompts": list(prompts), "seed": seed, "size": size, "image": image.shape, **options})
        return np.stack([moving(one, num_frames, *(size or (64, 64))) for one in seed]) / 255


def suite_of(num, name="stub", num_samples=1):
    items = [
        Item(id=f"p{n}", prompt=f"prompt {n}", categories=("ab"[n % 2],), num_samples=num_samples) for n in range(num)
    ]
    return Suite(name=name, items=tuple(items))


def make_run(folder, num=6, size=SETTINGS.size, **stub):
    """A run of `num` prompts, one clip each."""
    settings = dataclasses.replace(SETTINGS, size=size)
    sample_suite(StubPipeline(**stub), suite_of(num), folder, settings, SamplingOptions(seed=1), batch=2)
    return folder
