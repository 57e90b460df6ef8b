"""Step caching: the rule restated in NumPy, what it costs in memory, and what it refuses."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax import generate
from lcv_jax.diffusion.sampler import sample
from lcv_jax.diffusion.step_cache import FIRST_STEPS, LAST_STEPS, sample_with_step_cache
from lcv_jax.evaluation.suite_sampling import Settings, sample_suite
from lcv_jax.evaluation.suites import read_suite
from lcv_jax.pipeline import load_pipeline
from lcv_jax.planning.report import Setup
from lcv_jax.planning.requests import ContinueVideo, TextToVideo, programs_of
from lcv_jax.sampling.options import SamplingOptions

STEPS = 30
SCHEDULE = np.linspace(1, 0.02, STEPS, dtype=np.float32)
X = np.random.default_rng(0).standard_normal((1, 3, 4, 5, 2)).astype(np.float32)


def velocity(x, t):
    """Bends strongly in the middle, so that some steps are skipped and others are not."""
    v = jnp.tanh(x) - x + jnp.sin(3 * t) + 2 * jnp.exp(-40 * (t - 0.5) ** 2)
    return v, 3 * v[..., ::2, ::2, :]


@functools.partial(jax.jit, static_argnums=0)
def cached(velocity, threshold):
    return sample_with_step_cache(velocity, X, SCHEDULE, threshold)


def restated(threshold):
    """The rule, step by step, with every skipped step remembered and none of the algebra that saves memory."""

    def size(array):
        return np.abs(array).mean()

    x, evaluated, skipped = X, [], []
    error = rate = slope = t_c = v_c = w_c = x_c = before = 0.0
    times = [*SCHEDULE, np.float32(0)]
    for step, (t, after) in enumerate(itertools.pairwise(times)):
        if len(evaluated) > 1:
            error += rate * size(x - before) / size(w_c)
        if step < FIRST_STEPS or step >= STEPS - LAST_STEPS or error >= threshold:
            v, w = map(np.asarray, velocity(x, t))
            if evaluated:
                rate = size(w - w_c) / size(x - x_c)
                for s, ds in skipped:
                    interpolated = v_c + (v - v_c) * (s - t_c) / (t - t_c)
                    x = x + ds * (interpolated - (v_c + slope * (s - t_c)))
                slope = (v - v_c) / (t - t_c)
            t_c, v_c, w_c, x_c, error, skipped = t, v, w, x, 0.0, []
            evaluated.append(step)
        else:
            v = v_c + slope * (t - t_c)
            skipped.append((t, t - after))
        before, x = x, x + v * (t - after)
    return x, evaluated


@pytest.mark.parametrize("threshold", [0.03, 0.1, 0.3])
def test_the_rule(threshold):
    got, evaluated = cached(velocity, jnp.float32(threshold))
    want, steps = restated(threshold)
    assert np.flatnonzero(evaluated).tolist() == steps
    assert FIRST_STEPS + LAST_STEPS <= len(steps) < STEPS
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_threshold_0_evaluates_every_step_to_the_same_bits():
    got, evaluated = cached(velocity, jnp.float32(0))
    assert np.asarray(evaluated).all()
    np.testing.assert_array_equal(got, jax.jit(lambda: sample(lambda x, t: velocity(x, t)[0], X, SCHEDULE))())


def test_skipped_steps_follow_a_velocity_that_changes_evenly():
    def even(x, t):
        v = jnp.full_like(x, 2.0) + t
        return v, v

    got, evaluated = cached(even, jnp.float32(0.5))
    assert np.flatnonzero(~np.asarray(evaluated)).size > STEPS / 2
    np.testing.assert_allclose(got, sample(lambda x, t: even(x, t)[0], X, SCHEDULE), atol=1e-5)


def test_it_takes_at_most_50_megabytes_more_at_480p():
    def velocity(x, t):  # with intermediate arrays, as a network has them
        v = jnp.tanh(x @ jnp.full((16, 32), t)) @ jnp.full((32, 16), t)
        return v, v[..., ::2, ::2, :]

    x = jax.ShapeDtypeStruct((1, 24, 60, 104, 16), jnp.float32)
    plain = jax.jit(lambda x: sample(lambda x, t: velocity(x, t)[0], x, SCHEDULE))
    skipping = jax.jit(lambda x: sample_with_step_cache(velocity, x, SCHEDULE, jnp.float32(0.05)))
    used = [each.lower(x).compile().memory_analysis().temp_size_in_bytes for each in (plain, skipping)]
    assert used[1] - used[0] <= 50e6


SMALL = ["--height", "32", "--width", "48", "--num-frames", "5", "--max-sequence-length", "16"]


def test_the_sidecar_lists_what_was_skipped(tiny_checkpoint, tmp_path):
    video = tmp_path / "a.mp4"
    flags = ["--prompt", "a cat", *SMALL, "--num-steps", "20", "--step-cache", "0.4", "--output", str(video)]
    generate.main(["text-to-video", str(tiny_checkpoint), *flags])
    (skipped,) = json.loads(video.with_suffix(".json").read_text())["skipped_steps"]
    assert skipped
    assert min(skipped) >= FIRST_STEPS
    assert max(skipped) < 20 - LAST_STEPS


@pytest.mark.parametrize(
    ("task", "flags", "message"),
    [
        ("text-to-video", ["--prompt", "a", "b"], "step_cache works for one prompt at a time, got 2"),
        ("text-to-video", ["--prompt", "a", "--distilled"], "distilled and step_cache exclude each other"),
        ("text-to-video", ["--prompt", "a", "--num-steps", "19"], "step_cache needs num_steps of at least 20, got 19"),
        ("refine", ["--video", "none.mp4"], "leave out step_cache"),
        ("stream", ["--prompt", "a"], "leave out step_cache"),
        ("text-to-video", ["--prompt", "a", "--step-cache", "1.5"], "step_cache must lie in 0..1, got 1.5"),
    ],
)
def test_what_it_cannot_serve_is_refused_before_weights_load(
    tiny_checkpoint, capsys, monkeypatch, task, flags, message
):
    monkeypatch.setattr("lcv_jax.checkpoint.store.load_component", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(SystemExit) as exit:
        generate.main([task, str(tiny_checkpoint), "--step-cache", "0.05", *flags])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_python_callers_are_refused_too(tiny_checkpoint, tmp_path):
    pipeline = load_pipeline(tiny_checkpoint)
    size = {"height": 32, "width": 48, "num_frames": 5, "step_cache": 0.05}
    with pytest.raises(ValueError, match="one prompt at a time"):
        pipeline.text_to_video(["a", "b"], **size)
    with pytest.raises(ValueError, match="leave out step_cache"):
        pipeline.stream("a", height=32, width=48, step_cache=0.05)
    with pytest.raises(ValueError, match="one prompt at a time"):
        sample_suite(
            pipeline, read_suite("toy"), tmp_path, Settings(num_frames=1), SamplingOptions(step_cache=0.05), batch=2
        )
    assert not pipeline._params


def test_the_planner_counts_the_steps_that_always_evaluate():
    (plain,), (cached,) = (
        [each for each in programs_of(task, SamplingOptions(step_cache=share)) if each.name == "denoise"]
        for task, share in ((TextToVideo(), 0.0), (TextToVideo(), 0.05))
    )
    assert cached.sampling.flops.total == pytest.approx(plain.sampling.flops.total * (FIRST_STEPS + LAST_STEPS) / 50)
    assert cached.options["step_cache"].shape == ()
    assert plain.options["step_cache"] is None
    assert Setup(step_cache=0.05).step_cache
    (continued,) = [p for p in programs_of(ContinueVideo(), SamplingOptions(step_cache=0.05)) if p.name == "denoise"]
    assert continued.sampling.steps == FIRST_STEPS + LAST_STEPS
