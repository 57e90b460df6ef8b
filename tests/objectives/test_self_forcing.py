"""Self-forcing: closed forms on Gaussians, the rollout against the sampler, and what has a gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcv_jax.config import DiTConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.stream_window import StreamWindow, write_frames
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.networks import Networks
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.sampling.streaming import next_latents, start_stream

ONE_STEP = SelfForcing(num_steps=1, window=StreamWindow(chunk=2, sink=0, ring=2), shift=3.0, guidance_scale=1.0)
MEAN, SPREAD = 0.7, 0.5
"""Of the teacher's Gaussian, every element for itself."""


def gaussian(mean, spread):
    """The exact velocity where the data are independent Gaussians: (E[x_0 | x_t] - x_t) / t."""

    def velocity(x, timesteps, text, mask, num_cond_latents):
        t = (timesteps / 1000)[:, :, None, None, None]
        gain = (1 - t) * spread**2 / ((1 - t) ** 2 * spread**2 + t**2)
        return (mean + gain * (x - (1 - t) * mean) - x) / t

    return velocity


def networks_of(mean, spread, still=None):
    """A student that makes mean + spread * noise in one step, whose score the fake one knows."""

    def student(x, timesteps, text, mask, num_cond_latents, cache, frames):
        return mean + spread * x - x

    def keep(x, *_):
        return {name: jnp.zeros((1, len(x), x.shape[1], 1, 1)) for name in "kv"}

    fixed = jax.lax.stop_gradient((mean, spread))
    return Networks(student, gaussian(MEAN, SPREAD), still=still or student, keep=keep, fake=gaussian(*fixed))


def clips(size, *shape):
    return {
        "latents_BTHWC": jnp.zeros((size, *shape)),
        "text_BLD": jnp.zeros((size, 1, 1)),
        "text_mask_BL": jnp.ones((size, 1), bool),
    }


@jax.jit
def gradient(mean, spread, key):
    def loss(mean, spread):
        losses = ONE_STEP(networks_of(mean, spread), clips(1, 4, 8, 8, 2), key, num_cond_latents=0)
        return losses.loss, losses

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(mean, spread)


def test_the_gradient_is_that_of_gaussians_and_vanishes_where_student_and_teacher_agree():
    key = jax.random.key(0)
    agreeing, losses = gradient(MEAN, SPREAD, key)
    np.testing.assert_allclose([*agreeing, losses.loss], 0, atol=1e-6)
    for mean in (MEAN - 0.4, MEAN + 0.2):
        (of_mean, _), losses = gradient(mean, SPREAD, key)
        # Where the spreads agree x_fake - x_real = (mean - MEAN) tau^2 / ((1 - tau)^2 SPREAD^2 + tau^2), whatever x.
        tau = float(losses.t_B[0])
        apart = (mean - MEAN) * tau**2 / ((1 - tau) ** 2 * SPREAD**2 + tau**2)
        np.testing.assert_allclose(losses.error_B, apart**2, rtol=1e-3)
        np.testing.assert_allclose(of_mean, apart / losses.metrics["gap"], rtol=1e-3)
        assert np.sign(of_mean) == np.sign(mean - MEAN), "descent moves the student's mean to the teacher's"
    assert gradient(MEAN, 0.2, key)[0][1] < 0 < gradient(MEAN, 1.2, key)[0][1]


def test_descent_ends_at_the_teachers_distribution():
    adam = optax.adam(optax.cosine_decay_schedule(0.05, 150))

    @jax.jit
    def descend(key):
        def step(carry, key):
            params, moments = carry
            updates, moments = adam.update(jax.grad(loss)(params, key), moments)
            return (optax.apply_updates(params, updates), moments), None

        def loss(params, key):
            return ONE_STEP(networks_of(*params), clips(8, 2, 4, 4, 2), key, num_cond_latents=0).loss

        start = (jnp.float32(-1.0), jnp.float32(1.5))
        return jax.lax.scan(step, (start, adam.init(start)), jax.random.split(key, 150))[0][0]

    np.testing.assert_allclose(descend(jax.random.key(1)), (MEAN, SPREAD), atol=0.03)


def test_the_teacher_is_guided_and_the_fake_score_is_not(batch):
    """CFG-Zero with the negative prompt, of the same noisy clip; restated sample by sample."""
    seen = {}

    def network(name, x, timesteps, text, mask, num_cond_latents):
        seen.setdefault(name, []).append((x, timesteps, text))
        return jnp.sin(2 * x + jnp.sum(text, axis=(1, 2))[:, None, None, None, None])

    roles = {
        "teacher": lambda *given: network("teacher", *given),
        "fake": lambda *given: network("fake", *given),
    }
    objective = dataclasses.replace(ONE_STEP, guidance_scale=3.0)
    own, t_B = jnp.asarray(batch["latents_BTHWC"]), jnp.array([0.1, 0.4, 0.6, 0.9])
    real, fake = objective.predictions(Networks(None, **roles), batch, own, t_B, jax.random.key(2))
    (x, timesteps, _), (other, *_) = seen["teacher"]
    np.testing.assert_array_equal(x, other)
    np.testing.assert_array_equal(seen["fake"][0][0], x)
    np.testing.assert_allclose(timesteps, 1000 * np.repeat(t_B[:, None], own.shape[1], axis=1))
    for i, t in enumerate(np.asarray(t_B)):
        noise = (x[i] - (1 - t) * own[i]) / t
        assert abs(float(noise.std()) - 1) < 0.25
        c = np.sin(2 * x[i] + batch["text_BLD"][i].sum())
        u = np.sin(2 * x[i] + batch["negative_text_1LD"].sum())
        fit = np.sum(c * u) / (np.sum(u * u) + 1e-8)
        np.testing.assert_allclose(real[i], x[i] + t * (fit * u + 3.0 * (c - fit * u)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fake[i], x[i] + t * c, rtol=1e-4, atol=1e-5)


CFG = DiTConfig(
    hidden_size=32, depth=2, num_heads=2, caption_channels=8, adaln_tembed_dim=8, frequency_embedding_size=8,
    in_channels=4, out_channels=4, patch_size=(1, 2, 2), text_tokens_zero_pad=True,
)  # fmt: skip
MODEL = LongCatVideo(CFG, remat="none")
WINDOW = StreamWindow(chunk=1, sink=1, ring=2)
FORCED = SelfForcing(num_steps=3, window=WINDOW, shift=2.0)


def draw(number, *shape):
    return jax.random.normal(jax.random.key(number), shape)


NOISE, KEY = draw(1, 2, 5, 4, 4, 4), jax.random.key(4)  # five frames: the ring has dropped one before the last
TEXT = {"text_BLD": draw(2, 2, 3, 8), "text_mask_BL": jnp.ones((2, 3), bool)}
DATA = {**TEXT, "latents_BTHWC": draw(5, *NOISE.shape)}


@pytest.fixture(scope="module")
def variables():
    """Random weights throughout: the published initialisation would leave out cross-attention and modulation."""
    given = jnp.zeros((1, 1, 4, 4, 4)), jnp.zeros((1, 1)), draw(0, 1, 3, 8), jnp.ones((1, 3), bool)
    leaves, tree = jax.tree.flatten(jax.eval_shape(MODEL.init, jax.random.key(0), *given))
    return jax.tree.unflatten(tree, [0.3 * draw(number, *leaf.shape) for number, leaf in enumerate(leaves)])


@jax.jit
def rolled_out(scale, variables, cut, start_B=(0, 0)):
    """A rollout's clip, and the gradient of its mean in a factor of the student's velocity."""

    def velocity_of(scale):
        return lambda *given: scale * MODEL.apply(variables, *given)

    def mean(scale):
        keep = functools.partial(MODEL.apply, variables, method="encode_condition")
        networks = Networks(velocity_of(scale), still=velocity_of(jax.lax.stop_gradient(scale)), keep=keep)
        clip = FORCED.roll_out(networks, {**DATA, "caption_start_B": jnp.array(start_B)}, NOISE, KEY, cut)
        return clip.mean(), clip

    return jax.grad(mean, has_aux=True)(scale)


def sampled(variables, num_steps, given=0):
    """The clip of the sampler, chunk by chunk, in the first steps of the schedule, after so many frames of the data."""
    cache = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=1), start_stream(CFG, WINDOW, 4, 4).cache)
    chunks = []
    for j in range(NOISE.shape[1]):
        if j < given:
            chunks.append(DATA["latents_BTHWC"][:, j : j + 1])
            frames = WINDOW.cached_frames(jnp.int32(j))
            own = MODEL.apply(variables, chunks[-1], cache, frames, method="encode_condition")
            cache = write_frames(cache, own, WINDOW.slots(jnp.int32(j)))
            continue
        chunk, cache = next_latents(
            MODEL, variables, cache, jnp.int32(j), NOISE[:, j : j + 1], *TEXT.values(), FORCED.schedule[:num_steps],
            jnp.float32(1), jax.random.fold_in(KEY, j), window=WINDOW, renoise=True,
        )  # fmt: skip
        chunks.append(chunk)
    return jnp.concatenate(chunks, axis=1)


@pytest.mark.parametrize("cut", [0, 2])
def test_the_rollout_that_is_trained_is_the_samplers(variables, cut):
    _, clip = rolled_out(1.0, variables, cut)
    np.testing.assert_allclose(clip, sampled(variables, cut + 1), atol=1e-5 * float(jnp.abs(clip).max()))


def test_a_rollout_goes_on_from_the_frames_before_its_caption(variables):
    start = 0, 2
    _, clip = rolled_out(1.0, variables, 1, start)
    wanted = jnp.stack([sampled(variables, 2, given)[row] for row, given in enumerate(start)])
    np.testing.assert_allclose(clip, wanted, atol=1e-5 * float(jnp.abs(clip).max()))
    np.testing.assert_array_equal(clip[1, :2], DATA["latents_BTHWC"][1, :2])


OF_CHUNKS = dataclasses.replace(FORCED, teacher="chunks", guidance_scale=3.0)


def test_scores_of_chunks_see_the_students_own_clean_chunks(batch):
    """One pass over the clean and the noisy clip, causal over chunks, guided chunk by chunk; restated."""
    seen = []

    def network(x, timesteps, text, mask, num_cond_latents, chunk):
        seen.append((x, timesteps, num_cond_latents, chunk))
        return jnp.sin(2 * x + jnp.sum(text, axis=(1, 2))[:, None, None, None, None])

    own, t_B = jnp.asarray(batch["latents_BTHWC"]), jnp.array([0.1, 0.4, 0.6, 0.9])
    roles = Networks(None, network, fake=network)
    real, fake = OF_CHUNKS.predictions(roles, batch, own, t_B, jax.random.key(2))
    for x, timesteps, num_cond_latents, chunk in seen:
        assert (num_cond_latents, chunk) == (own.shape[1], WINDOW.chunk)
        np.testing.assert_array_equal(x[:, : own.shape[1]], own)
        np.testing.assert_allclose(timesteps, 1000 * np.repeat(np.stack([0 * t_B, t_B], 1), own.shape[1], axis=1))
    x = np.asarray(seen[0][0][:, own.shape[1] :])
    for i, t in enumerate(np.asarray(t_B)):
        for j in range(own.shape[1]):
            c = np.sin(2 * x[i, j] + batch["text_BLD"][i].sum())
            u = np.sin(2 * x[i, j] + batch["negative_text_1LD"].sum())
            fit = np.sum(c * u) / (np.sum(u * u) + 1e-8)
            np.testing.assert_allclose(real[i, j], x[i, j] + t * (fit * u + 3.0 * (c - fit * u)), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(fake[i, j], x[i, j] + t * c, rtol=1e-4, atol=1e-5)


def test_only_what_the_student_made_is_matched(variables):
    """Five frames of a window of four: of the second sample the last one, after three of the data, is in a part."""
    apply = functools.partial(MODEL.apply, variables)
    keep = functools.partial(MODEL.apply, variables, method="encode_condition")
    networks = Networks(apply, apply, still=apply, keep=keep, fake=lambda *given, **chunk: 1.1 * apply(*given, **chunk))
    negative = {"negative_text_1LD": draw(6, 1, 3, 8), "negative_mask_1L": jnp.ones((1, 3), bool)}
    late = {**DATA, **negative, "caption_start_B": jnp.array([0, 4])}

    @jax.jit
    def evaluated(batch):
        losses = OF_CHUNKS(networks, batch, KEY, num_cond_latents=0)
        own, noise_key = losses.rollout["latents_BTHWC"], jax.random.split(KEY, 5)[4]
        return losses, OF_CHUNKS.predictions(networks, batch, own, losses.t_B, noise_key)

    losses, (real, fake) = evaluated(late)
    error = jnp.mean(jnp.square(fake - real), axis=(2, 3, 4))
    np.testing.assert_allclose(losses.error_B[1], error[1, 3], rtol=1e-4)
    made = losses.rollout["latents_BTHWC"]
    assert made.shape[1] == 4
    assert int(losses.rollout["caption_start_B"][1]) == 3
    np.testing.assert_array_equal(made[1, :3], DATA["latents_BTHWC"][1, jnp.array([0, 2, 3])])
    assert isinstance(OF_CHUNKS.fake_objective, CausalFlowMatching)
    assert OF_CHUNKS.late_captions
    assert not FORCED.late_captions


def test_only_the_last_step_of_a_chunk_has_a_gradient(variables):
    """A chunk of one step is noise + scale * v: v alone is the derivative, if what was made before has none."""
    slope, clip = rolled_out(1.0, variables, 0)
    np.testing.assert_allclose(slope, (clip - NOISE).mean(), rtol=1e-4)


def test_what_is_refused(batch):
    with pytest.raises(ValueError, match="no condition frames, got num_cond_latents=1"):
        FORCED(Networks(None), batch, KEY, num_cond_latents=1)
    with pytest.raises(ValueError, match="whole chunks, got 5 latent frames and chunks of 2"):
        ONE_STEP.roll_out(Networks(None), DATA, NOISE, KEY, 0)
    for wrong in (0, 51):
        with pytest.raises(ValueError, match=f"num_steps must lie in 1..50, got {wrong}"):
            SelfForcing(num_steps=wrong)
