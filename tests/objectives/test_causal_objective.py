"""Causal training: what a chunk sees, that it is what sampling computes, and the loss restated in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.config import DiTConfig
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.models.flops import causal_flops, forward_flops
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.drawing import ConditionNoise, TimeShift
from lcv_jax.objectives.flow_matching import LogitNormalWeight
from lcv_jax.objectives.networks import Networks
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.sampling.streaming import StreamWindow

CFG = DiTConfig(
    hidden_size=32, depth=2, num_heads=2, caption_channels=8, adaln_tembed_dim=8, frequency_embedding_size=8,
    in_channels=4, out_channels=4, patch_size=(1, 2, 2), text_tokens_zero_pad=True,
)  # fmt: skip
MODEL = LongCatVideo(CFG, remat="none")
T, CHUNK = 5, 2  # a last chunk of one frame


def draw(number, *shape):
    return jax.random.normal(jax.random.key(number), shape)


@pytest.fixture(scope="module")
def variables():
    """Random weights throughout: the published initialisation would leave out cross-attention and modulation."""
    shapes = jax.eval_shape(
        MODEL.init,
        jax.random.key(0),
        jnp.zeros((1, 1, 4, 4, 4)),
        jnp.zeros((1, 1)),
        draw(0, 1, 3, 8),
        jnp.ones((1, 3), bool),
    )
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.3 * draw(number, *leaf.shape) for number, leaf in enumerate(leaves)])


CLEAN, NOISY = draw(1, 1, T, 4, 4, 4), draw(2, 1, T, 4, 4, 4)
TEXT, MASK = draw(3, 1, 3, 8), jnp.ones((1, 3), bool)
TIMES = jnp.array([[300.0, 300, 800, 800, 550]])


@jax.jit
def alone(variables, x, timesteps, cache=None):
    return MODEL.apply(variables, x, timesteps, TEXT, MASK, 0, cache)


def joint(variables, chunk, clean=CLEAN, noisy=NOISY, times=TIMES):
    """Velocity of both copies."""
    frames = clean.shape[1]
    x = jnp.concatenate([clean, noisy], axis=1)
    timesteps = jnp.concatenate([jnp.zeros_like(times), times], axis=1)
    return MODEL.apply(variables, x, timesteps, TEXT, MASK, frames, chunk=chunk)


@pytest.fixture(scope="module")
def both(variables):
    return jax.jit(joint, static_argnums=1)(variables, CHUNK)


def test_one_pass_over_both_copies_is_what_sampling_computes_with_its_cache(variables, both):
    """Chunk by chunk against the keys and values of the clean chunks before it, as sampling/streaming.py has them."""

    @jax.jit
    def keep(latents, cache):
        return MODEL.apply(variables, latents, cache, method="encode_condition")

    cache = None
    for start in range(0, T, CHUNK):
        chunk = slice(start, min(start + CHUNK, T))
        wanted = alone(variables, NOISY[:, chunk], TIMES[:, chunk], cache)
        np.testing.assert_allclose(both[:, T:][:, chunk], wanted, atol=1e-5 * float(jnp.abs(wanted).max()))
        own = keep(CLEAN[:, chunk], cache)
        cache = own if cache is None else jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), cache, own)


def test_one_chunk_is_flow_matching_and_the_second_of_two_is_continuation(variables):
    whole = jax.jit(joint, static_argnums=1)(variables, T)[:, T:]
    np.testing.assert_allclose(whole, alone(variables, NOISY, TIMES), atol=1e-5 * float(jnp.abs(whole).max()))
    two = jax.jit(joint, static_argnums=1)(variables, 2, CLEAN[:, :4], NOISY[:, :4], TIMES[:, :4])[:, 6:]
    x = jnp.concatenate([CLEAN[:, :2], NOISY[:, 2:4]], axis=1)
    timesteps = jnp.concatenate([jnp.zeros((1, 2)), TIMES[:, 2:4]], axis=1)
    wanted = jax.jit(lambda x: MODEL.apply(variables, x, timesteps, TEXT, MASK, 2))(x)[:, 2:]
    np.testing.assert_allclose(two, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_a_mesh_that_splits_tokens_and_heads_changes_nothing(variables, both):
    with jax.set_mesh(make_mesh(1, 1, 2, jax.devices()[:2])):
        split = jax.jit(joint, static_argnums=1)(variables, CHUNK)
    np.testing.assert_allclose(split, both, atol=1e-5 * float(jnp.abs(both).max()))


def test_what_sees_what(variables, both):
    """Rows see columns; first the clean copy's five frames, then the noisy copy's; chunks of 2, 2 and 1."""
    drawn = """
        xx... .....
        xx... .....
        xxxx. .....
        xxxx. .....
        xxxxx .....
        ..... xx...
        ..... xx...
        xx... ..xx.
        xx... ..xx.
        xxxx. ....x
    """
    wanted = np.array([[mark == "x" for mark in line.replace(" ", "")] for line in drawn.split("\n") if line.strip()])
    changed = jax.jit(joint, static_argnums=1)
    seen = np.zeros((2 * T, 2 * T), bool)
    for frame in range(2 * T):
        inputs = [CLEAN, NOISY]
        inputs[frame // T] = inputs[frame // T].at[:, frame % T].add(1.0)
        difference = jnp.abs(changed(variables, CHUNK, *inputs) - both).max(axis=(0, 2, 3, 4))
        seen[:, frame] = np.asarray(difference) > 1e-4
    np.testing.assert_array_equal(seen, wanted)


def test_restated(batch, shown, evaluate):
    objective = CausalFlowMatching(
        chunk=3,
        shift=TimeShift(base=3.0, base_tokens=None),
        weight=LogitNormalWeight(mean=0.3, std=0.8, floor=0.1),
        condition=ConditionNoise(max_level=0.4),
    )
    given = {}

    def velocity(x, timesteps, text, mask, num_cond_latents, chunk):
        given.update(num_cond_latents=num_cond_latents, chunk=chunk, text=text)
        jax.debug.callback(lambda x, timesteps: given.update(x=x, timesteps=timesteps), x, timesteps)
        return jnp.cos(3 * x)

    losses = evaluate(objective, Networks(velocity), batch, jax.random.key(5), num_cond_latents=0)
    jax.effects_barrier()
    assert (given["num_cond_latents"], given["chunk"]) == (4, 3)
    clean = np.asarray(batch["latents_BTHWC"], np.float64)
    history, x = np.split(np.asarray(given["x"], np.float64), 2, axis=1)
    told, t = np.split(np.asarray(given["timesteps"], np.float64) / 1000, 2, axis=1)
    np.testing.assert_array_equal(told, 0)
    # Chunks of three frames and of one, each with a time of its own; every sample's differ.
    np.testing.assert_array_equal(t[:, :3], np.repeat(t[:, :1], 3, axis=1))
    assert len(np.unique(t)) == 2 * len(t)
    # The history is the clean clip with noise of up to 0.4 a frame: x = (1 - level) x_0 + level noise.
    assert np.abs(history - clean).max() > 0
    assert np.corrcoef(history.ravel(), clean.ravel())[0, 1] > 0.8
    # x = (1 - t) x_0 + t noise, so x_0 - noise = (x_0 - x) / t.
    target = (clean - x) / t[:, :, None, None, None]
    error = np.mean((np.cos(3 * x) - target) ** 2, axis=(2, 3, 4))
    u = t / (3.0 - 2.0 * t)
    logit = np.log(u / (1 - u))
    density = np.exp(-((logit - 0.3) ** 2) / (2 * 0.8**2)) / (0.8 * np.sqrt(2 * np.pi) * u * (1 - u))
    np.testing.assert_allclose(losses.loss, np.mean((0.1 + 0.9 * density) * error), rtol=1e-3)
    np.testing.assert_allclose(losses.error_B, error.mean(axis=1), rtol=1e-3)


def test_chunks_before_the_caption_are_history_alone(batch, evaluate):
    given = {}

    def velocity(x, timesteps, text, mask, num_cond_latents, chunk):
        jax.debug.callback(lambda *shown: given.update(zip(("x", "t"), shown, strict=True)), x, timesteps)
        return jnp.cos(3 * x)

    objective = CausalFlowMatching(
        chunk=2, weight=LogitNormalWeight(floor=1.0), condition=ConditionNoise(max_level=0.0)
    )
    late = {**batch, "caption_start_B": jnp.array([0, 1, 2, 4])}  # of four frames; a chunk counts whole or not at all
    losses = evaluate(objective, Networks(velocity), late, jax.random.key(5), num_cond_latents=0)
    jax.effects_barrier()
    x, t = (np.split(np.asarray(given[name], np.float64), 2, axis=1)[1] for name in ("x", "t"))
    clean = np.asarray(batch["latents_BTHWC"], np.float64)
    error = np.mean((np.cos(3 * x) - (clean - x) / (t / 1000)[..., None, None, None]) ** 2, axis=(2, 3, 4))
    learnt = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(losses.loss, np.sum(error * learnt) / 8, rtol=1e-3)
    np.testing.assert_allclose(losses.error_B[:3], [np.mean(error[0]), *error[1:3, 2:].mean(axis=1)], rtol=1e-3)
    assert losses.error_B[3] == 0


def test_parts_of_long_clips_are_what_streams_see():
    """Frames are their own numbers. A sink of 2, a ring of 4 and a chunk of 2: eight frames of a clip of 14."""
    objective = CausalFlowMatching(chunk=2, window=StreamWindow(chunk=2, sink=2, ring=4))
    clip = jnp.broadcast_to(jnp.arange(14.0)[None, :, None, None, None], (400, 14, 1, 1, 1))
    start = jnp.repeat(jnp.array([0, 7, 12, 4]), 100)
    part, first = jax.jit(objective.part)(clip, start, jax.random.key(0))
    seen = {}
    for frames, caption, learnt in zip(np.asarray(part)[..., 0, 0, 0].astype(int), start.tolist(), first, strict=True):
        seen.setdefault(caption, set()).add((*frames.tolist(), int(learnt)))
    whole, later = (*range(8),), [(0, 1, *range(last - 5, last + 1)) for last in (9, 11, 13)]
    assert seen[0] == {(*whole, 0), *((*frames, 6) for frames in later)}
    assert seen[4] == {(*whole, 4), *((*frames, 6) for frames in later)}
    assert seen[7] == {(*frames, 6) for frames in later}  # the chunk of 8 and 9 is the first that is described
    assert seen[12] == {(*later[-1], 6)}
    same, _ = objective.part(clip[:1, :8], start[:1], jax.random.key(0))
    np.testing.assert_array_equal(same, clip[:1, :8])
    assert (objective.part_length(14), objective.part_length(6)) == (8, 6)


def test_without_diffusion_forcing_all_chunks_of_a_clip_have_one_time(batch, evaluate):
    given = {}

    def velocity(x, timesteps, text, mask, num_cond_latents, chunk):
        jax.debug.callback(lambda timesteps: given.update(timesteps=timesteps), timesteps)
        return x

    for forced, times in ((True, 4), (False, 1)):
        objective = CausalFlowMatching(chunk=1, diffusion_forcing=forced)
        evaluate(objective, Networks(velocity), batch, jax.random.key(5), num_cond_latents=0)
        jax.effects_barrier()
        noisy = np.split(given["timesteps"], 2, axis=1)[1]
        assert [len(np.unique(clip)) for clip in noisy] == [times] * len(noisy)
        assert len(np.unique(noisy)) == times * len(noisy)


def test_what_is_refused(variables, batch):
    with pytest.raises(ValueError, match="no condition frames, got num_cond_latents=1"):
        CausalFlowMatching()(Networks(None), batch, jax.random.key(0), num_cond_latents=1)
    for wrong in (StreamWindow(chunk=1, sink=2, ring=4), StreamWindow(chunk=2, sink=1, ring=4)):
        with pytest.raises(ValueError, match="the same chunk, and sink and ring of whole chunks; got chunk=2"):
            CausalFlowMatching(chunk=2, window=wrong)
    with pytest.raises(ValueError, match="a clean and a noisy copy of the same frames, got 5 frames with 2 clean ones"):
        MODEL.apply(variables, CLEAN, TIMES, TEXT, MASK, 2, chunk=2)


def test_operations_are_counted():
    """Every pair of a query and a key that the mask drawn above leaves, at 4 tokens a frame."""
    flops = causal_flops(CFG, grid=(T, 2, 2), chunk=CHUNK, text_tokens=3)
    pairs = (2 * 2 + 2 * 4 + 1 * 5) * 2 * 16
    assert flops.attention == 4 * CFG.depth * pairs * CFG.hidden_size
    assert flops.linear == forward_flops(CFG, grid=(2 * T, 2, 2), num_condition=T, text_tokens=3).linear
    assert StreamWindow().size + StreamWindow().chunk == 24  # what configs train: no longer than what streams see
