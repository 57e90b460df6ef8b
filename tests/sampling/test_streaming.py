"""Streaming: chunks against a ring of cached frames equal the definition; prompts change, streams resume."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.config import BlockSparseConfig, DiTConfig
from lcv_jax.diffusion.sampler import sample_renoising
from lcv_jax.models.dit import LongCatVideo
from lcv_jax.pipeline import load_pipeline
from lcv_jax.sampling.denoise import decode_latents
from lcv_jax.sampling.options import SamplingOptions
from lcv_jax.sampling.streaming import StreamWindow, decode_next, next_latents, start_stream

pytestmark = pytest.mark.filterwarnings("ignore:this checkpoint was not trained on causal chunks")

CFG = DiTConfig(
    hidden_size=32, depth=2, num_heads=2, caption_channels=8, adaln_tembed_dim=8, frequency_embedding_size=8,
    in_channels=4, out_channels=4, patch_size=(1, 2, 2), text_tokens_zero_pad=True,
)  # fmt: skip
HEIGHT, WIDTH = 8, 8
SCHEDULE = (1.0, 0.6)


@pytest.fixture(scope="module")
def variables():
    """Random weights throughout: the published initialisation would leave out cross-attention and modulation."""
    arguments = (jnp.zeros((1, 1, HEIGHT, WIDTH, 4)), jnp.zeros((1, 1)), jnp.zeros((1, 3, 8)), jnp.ones((1, 3), bool))
    shapes = jax.eval_shape(LongCatVideo(CFG).init, jax.random.key(0), *arguments)
    leaves, tree = jax.tree.flatten(shapes)
    drawn = [
        0.3 * jax.random.normal(jax.random.key(number), leaf.shape, leaf.dtype) for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, drawn)


def conditions(seed=0):
    text = jax.random.normal(jax.random.key(100 + seed), (1, 3, 8))
    return text, jnp.ones((1, 3), bool), jnp.asarray(SCHEDULE), jnp.float32(1)


def noise_of(chunk, window):
    return jax.random.normal(jax.random.key(200 + chunk), (1, window.chunk, HEIGHT, WIDTH, 4))


def stream(model, variables, window, num_chunks, full=False):
    """Latents of some chunks, by the sampler."""
    state = start_stream(model.cfg, window, HEIGHT, WIDTH)
    cache, chunks = state.cache, []
    for chunk in range(num_chunks):
        done = chunk * window.chunk
        latents, cache = next_latents(
            model, variables, cache, jnp.int32(done), noise_of(chunk, window), *conditions(chunk),
            jax.random.key(0), window=window, full=full and done >= window.size,
        )  # fmt: skip
        chunks.append(latents)
    return jnp.concatenate(chunks, axis=1)


@functools.partial(jax.jit, static_argnames="model")
def velocity(model, variables, latents, timesteps, text, mask, cache):
    return model.apply(variables, latents, timesteps, text, mask, 0, cache)


@functools.partial(jax.jit, static_argnames="model")
def keys_and_values(model, variables, latents, cache):
    return model.apply(variables, latents, cache, method="encode_condition")


def defined(model, variables, window, num_chunks):
    """The same with a list of every frame's keys and values, of which each chunk sees the window in order of time."""
    history, chunks = [], []  # (k, v) of every frame: layers, 1, tokens, heads, width
    for chunk in range(num_chunks):
        kept = history[: window.sink] + history[window.sink :][-window.ring :]
        cache = None
        if kept:
            cache = {name: jnp.concatenate([frame[i] for frame in kept], axis=2) for i, name in enumerate("kv")}
        text, mask, schedule, _ = conditions(chunk)
        x, after = noise_of(chunk, window), (*schedule[1:], 0.0)
        for t, t_next in zip(schedule, after, strict=True):
            timesteps = jnp.full((1, window.chunk), 1000 * t)
            x += (t - t_next) * velocity(model, variables, x, timesteps, text, mask, cache)
        own = keys_and_values(model, variables, x, cache)
        split = [jnp.split(own[name], window.chunk, axis=2) for name in "kv"]
        history += list(zip(*split, strict=True))
        chunks.append(x)
    return jnp.concatenate(chunks, axis=1)


@pytest.mark.parametrize(("chunk", "ring", "num_chunks"), [(1, 2, 6), (2, 3, 4)])
def test_ring_equals_the_list_of_all_frames(variables, chunk, ring, num_chunks):
    model, window = LongCatVideo(CFG), StreamWindow(chunk=chunk, sink=1, ring=ring)
    before = next_latents._cache_size()
    got = stream(model, variables, window, num_chunks)
    assert next_latents._cache_size() == before + 1, "one program for all chunks"
    np.testing.assert_allclose(got, defined(model, variables, window, num_chunks), atol=2e-5, rtol=1e-4)


def test_the_sink_is_remembered(variables):
    model, window = LongCatVideo(CFG), StreamWindow(chunk=1, sink=1, ring=1)
    text = conditions()

    def last(first, second):
        state = start_stream(CFG, window, HEIGHT, WIDTH)
        cache = state.cache
        for number, seed in enumerate((first, second, 7, 8)):
            noise = jax.random.normal(jax.random.key(seed), (1, 1, HEIGHT, WIDTH, 4))
            # Chunk 3 sees chunks 0, in the sink, and 2.
            latents, cache = next_latents(
                model, variables, cache, jnp.int32(number), noise, *text, jax.random.key(0), window=window
            )
        return latents

    assert not np.allclose(last(1, 2), last(3, 2), atol=1e-4)


def test_sparse_with_all_blocks_equals_dense(variables):
    blocks = BlockSparseConfig(sparsity=0.0, chunk_3d_shape_q=(2, 2, 2), chunk_3d_shape_k=(2, 2, 2))
    sparse = LongCatVideo(dataclasses.replace(CFG, enable_bsa=True, bsa_params=blocks))
    window = StreamWindow(chunk=2, sink=2, ring=2)
    got = stream(sparse, variables, window, 4, full=True)
    np.testing.assert_allclose(got, stream(LongCatVideo(CFG), variables, window, 4), atol=2e-5, rtol=1e-4)


def test_renoising_predicts_clean_samples_and_adds_fresh_noise():
    key, x = jax.random.key(3), jnp.array([[1.0, -2.0]])
    got = sample_renoising(lambda x, t: 0.5 * x + t, x, jnp.array([1.0, 0.5]), key)
    want = x
    for number, (t, t_next) in enumerate(((1.0, 0.5), (0.5, 0.0))):
        clean = want + t * (0.5 * want + t)
        want = (1 - t_next) * clean + t_next * jax.random.normal(jax.random.fold_in(key, number), x.shape)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


SMALL = {
    "height": 32, "width": 32, "num_steps": 1, "guidance_scale": 1.0, "max_sequence_length": 8,
    "window": StreamWindow(chunk=2, sink=1, ring=2),
}  # fmt: skip


def test_decoding_along_equals_decoding_everything(pipeline):
    latents = jax.random.normal(jax.random.key(0), (1, 5, 4, 4, 16))
    params = pipeline.params("vae")
    whole = decode_latents(pipeline.vae, params, latents, "decode")
    pieces, cache = [], None
    for piece in (latents[:, :1], latents[:, 1:3], latents[:, 3:]):
        video, cache = decode_next(pipeline.vae, params, piece, cache)
        pieces.append(video)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, atol=1e-5)


def test_frames_prompts_and_resuming(pipeline, tmp_path):
    take = lambda stream, count: [next(stream) for _ in range(count)]  # noqa: E731
    steady = take(pipeline.stream("a cat", **SMALL), 17)
    assert all(frame.shape == (32, 32, 3) and frame.dtype == np.uint8 for frame in steady)

    stream = pipeline.stream("a cat", **SMALL)
    changed = [*take(stream, 3), stream.send("a dog")]
    moment = stream.moment()
    stream.save(tmp_path / "stream")  # in the middle of a chunk
    changed += take(stream, 13)
    stream.prompt = "a cow"
    for _ in range(2):  # to the same moment twice: what follows does not write over it
        stream.go_back(moment)
        assert all(np.array_equal(a, b) for a, b in zip(take(stream, 13), changed[4:], strict=True))
    # The first chunk is 1 + 4 frames; its rest still follows the first prompt.
    assert all(np.array_equal(a, b) for a, b in zip(steady[:5], changed[:5], strict=True))
    assert not np.array_equal(steady[5], changed[5])

    resumed = pipeline.stream("of no account", resume=tmp_path / "stream", **SMALL)
    assert resumed.prompt == "a dog"
    assert all(np.array_equal(a, b) for a, b in zip(take(resumed, 13), changed[4:], strict=True))
    with pytest.raises(ValueError, match=r'other settings: window was .*"ring": 2.* is .*"ring": 3'):
        pipeline.stream(
            "a cat", resume=tmp_path / "stream", **SMALL | {"window": StreamWindow(chunk=2, sink=1, ring=3)}
        )
    (tmp_path / "nothing").write_bytes(b"abc")
    with pytest.raises(ValueError, match="not a saved stream"):
        pipeline.stream("a cat", resume=tmp_path / "nothing", **SMALL)


def test_distilled_streams_take_the_adapter_of_streams_if_there_is_one(pipeline, monkeypatch):
    distilled, plain = SamplingOptions(distilled=True), SamplingOptions()

    def worn(options):
        return pipeline._wanted_adapters(pipeline._with_stream_adapter(options), ())

    components = pipeline.provenance["components"]
    assert worn(distilled) == (("cfg_step_lora", 1.0),)
    with pytest.warns(UserWarning, match="not trained on causal chunks"):
        pipeline.stream("a cat", **SMALL, distilled=True)
    monkeypatch.setitem(components, "lora", {**components["lora"], "stream_lora": {}})
    assert (worn(distilled), worn(plain)) == ((("stream_lora", 1.0),), ())
    assert worn(SamplingOptions(distilled=True, adapters=(("stream_lora", 0.5),))) == (("stream_lora", 0.5),)
    assert pipeline._wanted_adapters(distilled, ()) == (("cfg_step_lora", 1.0),)  # clips'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.stream("a cat", **SMALL, distilled=True)
    with pytest.warns(UserWarning, match="not trained on causal chunks"):
        pipeline.stream("a cat", **SMALL)
    monkeypatch.setitem(components["dit"], "folded", [{"name": "cfg_step_lora"}])
    assert worn(distilled) == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 5}, "chunk must lie in 1..4"),
        ({"sink": 9, "ring": 4}, "sink must not exceed ring"),
        ({"chunk": 4, "sink": 0, "ring": 3}, "ring must hold a chunk"),
    ],
)
def test_windows_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        StreamWindow(**settings)


def test_sparse_windows_are_whole_blocks(pipeline):
    with pytest.raises(ValueError, match="chunk in multiples of 4 latent frames, got 2"):
        pipeline.stream("a cat", **{**SMALL, "height": 64, "width": 64, "sparse": True})
