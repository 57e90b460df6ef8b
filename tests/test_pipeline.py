"""The tasks end to end on the tiny checkpoint: the published latents, and what callers rely on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint import store
from lcv_jax.parallel.mesh import make_mesh
from lcv_jax.parallel.sharding import REPLICATED, full_sharding
from lcv_jax.pipeline import load_pipeline, refinement_padding
from lcv_jax.sampling.denoise import denoise
from lcv_jax.sampling.options import SamplingOptions, check_choice

runs_longer = pytest.mark.usefixtures("some_optimizations")


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


@pytest.fixture(scope="module")
def published(golden):
    """Inputs of the published runs: settings, and noise and clips from their seeds."""

    class Published:
        settings = golden("pipeline_core")[0]
        prompt, other_prompt = settings["prompt"], settings["vc_prompt"]
        text = {"negative_prompt": settings["negative_prompt"], "max_sequence_length": 64}

        def noise(self, name):
            given = self.settings["inputs"][name]
            noise = np.random.default_rng(given["seed"]).standard_normal(given["shape"], dtype=np.float32)
            return np.moveaxis(noise, 1, -1)

        def clip(self, name):
            given = self.settings["inputs"][name]
            small = np.random.default_rng(given["seed"]).integers(0, 256, given["lowres_shape"], dtype=np.uint8)
            return small.repeat(given["upscale"], axis=1).repeat(given["upscale"], axis=2)

    return Published()


def close(got, want, every=1, tolerance=1e-4):
    got = np.moveaxis(np.asarray(got), -1, 1)[..., ::every, ::every]
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def test_caption_embeddings(pipeline, published, golden):
    want = golden("pipeline_core")[1]
    ids, mask = pipeline.tokenizer.tokenize([published.prompt, published.other_prompt], 64)
    np.testing.assert_array_equal(ids, want["text.ids"])
    np.testing.assert_array_equal(mask, want["text.mask"])
    embeddings, _ = pipeline.encode_text([published.prompt, published.other_prompt], 64)
    valid = want["text.mask"].astype(bool)
    np.testing.assert_allclose(np.asarray(embeddings)[valid], want["text.embeds"][:, 0][valid], atol=1e-4)


SMALL = {"height": 64, "width": 96, "num_frames": 9}


def test_a_prompt_s_embedding_depends_on_no_other_and_is_made_once(pipeline, monkeypatch):
    alone = [np.asarray(pipeline.encode_text([prompt], 16)[0][0]) for prompt in ("one", "two")]
    pipeline._captions.clear()
    encoded, encode = [], pipeline._encode_prompt
    monkeypatch.setattr(pipeline, "_encode_prompt", lambda *prompt: encoded.append(prompt) or encode(*prompt))
    text, mask = pipeline.encode_text(["two", "one", "two"], 16)
    np.testing.assert_array_equal(text, np.stack([alone[1], alone[0], alone[1]]))
    assert mask.shape == (3, 16)
    assert mask.dtype == bool
    pipeline.encode_text(["one"], 16)
    pipeline.encode_text(["one"], 32)
    assert encoded == [("two", 16), ("one", 16), ("one", 32)]
    monkeypatch.setattr("lcv_jax.pipeline.CAPTIONS_KEPT", 2)
    assert pipeline.encode_text(["three", "four", "five"], 16)[0].shape[0] == 3
    assert [prompt for prompt, _ in pipeline._captions] == ["four", "five"]


def text_encoder_bytes_on_devices(pipeline):
    """Of what has the shapes of its table of embeddings and of a layer that only it has, however they are cut."""
    cfg = pipeline.text_encoder.cfg
    shapes = (cfg.vocab_size, cfg.d_model), (cfg.num_layers, cfg.d_model, cfg.d_ff)
    return sum(on_each_device(array) for array in jax.live_arrays() if array.shape in shapes and not at_rest(array))


def at_rest(array):
    return array.sharding.memory_kind == "pinned_host"


def on_each_device(array):
    """Bytes of all copies. Looking at the shards themselves would make arrays of them, which live on."""
    part = array.sharding.shard_shape(array.shape)
    return np.prod(part) * array.dtype.itemsize * len(array.sharding.addressable_devices)


@pytest.mark.parametrize("split", [None, "whole", "parts"])
@pytest.mark.parametrize("keep", ["host", "disk"])
def test_the_text_encoder_leaves_the_devices(tiny_checkpoint, keep, split, monkeypatch):
    settings = {}
    if split:
        rules = full_sharding(("fsdp", "seq")) if split == "parts" else REPLICATED
        settings = {"mesh": make_mesh(fsdp=2, seq=2, devices=jax.devices()[:4]), "rules": rules}
    staying = load_pipeline(tiny_checkpoint, **settings)
    before, loaded = text_encoder_bytes_on_devices(staying), []
    wanted = staying.encode_text(["a cat", ""], 16)[0]
    held = text_encoder_bytes_on_devices(staying) - before
    assert held > 4 * staying.text_encoder.cfg.d_model * staying.text_encoder.cfg.vocab_size
    leaving = load_pipeline(tiny_checkpoint, **settings, keep_text_encoder=keep)
    load, encode = store.load_component, leaving._encode_prompt
    monkeypatch.setattr(store, "load_component", lambda *given: loaded.append(given[1]) or load(*given))
    monkeypatch.setattr(
        leaving,
        "_encode_prompt",
        lambda *prompt: (encode(*prompt), loaded.append(text_encoder_bytes_on_devices(leaving) - before - held))[0],
    )
    np.testing.assert_array_equal(leaving.encode_text(["a cat", ""], 16)[0], wanted)
    assert loaded == ["text_encoder", held, held]  # read once for both, and there for as long
    assert text_encoder_bytes_on_devices(leaving) == before + held
    np.testing.assert_array_equal(leaving.encode_text([""], 16)[0], wanted[1:])
    assert loaded == ["text_encoder", held, held]
    leaving.encode_text(["a dog"], 16)
    assert loaded == ["text_encoder", held, held, *(["text_encoder"] if keep == "disk" else []), held]
    assert text_encoder_bytes_on_devices(leaving) == before + held
    resting = jax.tree.leaves(leaving._text_encoder_on_host)
    assert bool(resting) == (keep == "host")
    assert all(map(at_rest, resting))
    assert sum(map(on_each_device, resting)) <= 1.1 * sum(leaf.nbytes for leaf in resting)  # not a copy for each device
    video = {"height": 32, "width": 48, "num_frames": 5, "num_steps": 1, "max_sequence_length": 16}
    latents = [p.text_to_video("a cat", **video, output="latents") for p in (staying, leaving)]
    np.testing.assert_array_equal(*latents)


def test_text_to_video(pipeline, published, golden):
    want = golden("pipeline_core")[1]
    given = {**SMALL, **published.text, "num_steps": 6, "noise": published.noise("t2v")}
    close(pipeline.text_to_video(published.prompt, **given, output="latents"), want["t2v.latents"])
    video = pipeline.text_to_video(published.prompt, **given)
    np.testing.assert_allclose(video, want["t2v.video"], atol=1e-3)


def test_distilled_with_its_adapter_folded_or_at_run_time(pipeline, tiny_checkpoint, published, golden):
    want = golden("pipeline_core")[1]["t2v_distill.latents"]
    given = {**SMALL, **published.text, "distilled": True, "noise": published.noise("t2v"), "output": "latents"}
    close(pipeline.text_to_video(published.prompt, **given), want)
    close(load_pipeline(tiny_checkpoint, fold_adapters=False).text_to_video(published.prompt, **given), want)
    without = pipeline.text_to_video(published.prompt, **given, adapters=(("cfg_step_lora", 0.0),))
    assert np.abs(np.moveaxis(np.asarray(without), -1, 1) - want).max() > 0.1


def test_batch_of_prompts(pipeline, published, golden):
    given = {"height": 32, "width": 48, "num_frames": 5, "num_steps": 4, "guidance_scale": 3.0, **published.text}
    prompts = [published.prompt, published.other_prompt]
    got = pipeline.text_to_video(prompts, **given, noise=published.noise("t2v_batch"), output="latents")
    close(got, golden("pipeline_core")[1]["t2v_batch.latents"])


@runs_longer
def test_image_to_video(pipeline, published, golden):
    want = golden("pipeline_cond")[1]["i2v.latents"]
    image = published.clip("cond_clip")[0]
    given = {"num_frames": 5, "num_steps": 4, "noise": published.noise("i2v"), "output": "latents", **published.text}
    # The published run lets the image's own latent frame count in the guidance.
    close(pipeline.image_to_video(image, published.prompt, **given, guide_condition=True), want, every=2)
    without = pipeline.image_to_video(image, published.prompt, **given)
    close(without[:, :1], want[:, :, :1], every=2)
    assert 1e-3 < np.abs(np.moveaxis(np.asarray(without), -1, 1)[..., ::2, ::2] - want).mean() < 0.1


@runs_longer
@pytest.mark.parametrize("use_cache", [True, False])
def test_continuation(pipeline, published, golden, use_cache):
    want = golden("pipeline_cond")[1]["vc.latents"]
    given = {"num_cond_frames": 5, "num_frames": 13, "num_steps": 4, "noise": published.noise("vc"), **published.text}
    clip = published.clip("cond_clip")
    got = pipeline.continue_video(
        clip, published.other_prompt, **given, use_cache=use_cache, enhance_hf=False, output="latents"
    )
    close(got, want, every=2)


@runs_longer
def test_continuation_with_a_fine_tail(pipeline, published, golden):
    want = golden("pipeline_cond")[1]["vc_hf.latents"]
    given = {"num_cond_frames": 5, "num_frames": 13, "num_steps": 6, "noise": published.noise("vc"), **published.text}
    got = pipeline.continue_video(published.clip("cond_clip"), published.other_prompt, **given, output="latents")
    close(got, want, every=2)


def close_but_for_flips(got, want, every):
    """Block selection may flip on near-ties: compare the mean and a quantile."""
    error = np.abs(np.moveaxis(np.asarray(got), -1, 1)[..., ::every, ::every] - want)
    assert error.mean() < 1e-4
    assert np.quantile(error, 0.99) < 1e-3


@runs_longer
@pytest.mark.slow
def test_refinement_doubles_frames(pipeline, published, golden):
    clip, noise = published.clip("cond_clip")[:5], published.noise("refine")
    got = pipeline.refine(clip, published.prompt, num_steps=8, max_sequence_length=64, noise=noise, output="latents")
    close_but_for_flips(got, golden("pipeline_refine")[1]["refine.latents"], every=4)


@runs_longer
@pytest.mark.slow
def test_refinement_after_refined_frames(pipeline, published, golden):
    got = pipeline.refine(
        published.clip("cond_clip")[:9],
        published.prompt,
        condition_video=published.clip("refine_cond_clip"),
        num_cond_frames=5,
        spatial_only=True,
        num_steps=8,
        max_sequence_length=64,
        noise=published.noise("refine_cond"),
        output="latents",
    )
    close_but_for_flips(got, golden("pipeline_refine")[1]["refine_cond.latents"], every=4)


TINY = {"height": 32, "width": 48, "num_frames": 5, "num_steps": 2, "max_sequence_length": 16}


def test_a_prompt_alone_is_the_same_as_in_a_batch_and_seeds_reproduce(pipeline):
    both = pipeline.text_to_video(["a cat", "a dog"], **TINY, seed=(3, 4))
    np.testing.assert_allclose(pipeline.text_to_video("a dog", **TINY, seed=4)[0], both[1], atol=1e-4)
    same = pipeline.text_to_video(["a cat", "a dog"], **TINY, seed=3)
    np.testing.assert_allclose(same[0], both[0], atol=1e-4)
    assert np.abs(same[1] - both[1]).max() > 0.05
    np.testing.assert_array_equal(pipeline.text_to_video(["a cat", "a dog"], **TINY, seed=3), same)


def test_a_second_prompt_does_not_compile_again(pipeline):
    pipeline.text_to_video("a cat", **TINY)
    compiled = denoise._cache_size()
    pipeline.text_to_video("two dogs in the rain", **TINY, seed=9, guidance_scale=6.0, negative_prompt="blurred")
    assert denoise._cache_size() == compiled
    steps, sizes = [], []
    for prompt in ("a cat", "a dog"):
        pipeline.text_to_video(prompt, **TINY, on_step=lambda done, total: steps.append((done, total)))
        sizes.append(denoise._cache_size())
    assert sizes[0] == sizes[1]
    assert steps == [(1, 2), (2, 2), (1, 2), (2, 2)]


class _StopError(Exception):
    pass


def test_an_exception_of_the_callback_ends_the_sampling_after_that_step(pipeline):
    steps = []

    def stop_at_three(done, total):
        steps.append(done)
        if done == 3:
            raise _StopError

    options = {**TINY, "num_steps": 8}
    with pytest.raises(_StopError):
        pipeline.text_to_video("a cat", **options, on_step=stop_at_three)
    assert steps == [1, 2, 3]
    whole = pipeline.text_to_video("a cat", **options, on_step=lambda *_: None)
    np.testing.assert_allclose(whole, pipeline.text_to_video("a cat", **options), atol=1e-5)


def test_compiled_size_does_not_grow_with_steps(pipeline):
    model, variables = pipeline._model(False), {"params": pipeline.params("dit")}
    text, mask = pipeline.encode_text(["a cat"], 16)

    def program(num_steps):
        arguments = jnp.zeros((1, 2, 4, 6, 16)), None, text, mask, jnp.linspace(1, 0.1, num_steps), jnp.float32(1)
        return len(denoise.lower(model, variables, *arguments).as_text())

    assert program(50) < 1.01 * program(2)


def test_the_image_is_the_first_frame_and_tiles_agree(pipeline, tiny_checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    given = {"size": (32, 48), "num_frames": 5, "num_steps": 2, "max_sequence_length": 16}
    latents = pipeline.image_to_video(image, "", **given, output="latents")
    other = pipeline.image_to_video(image, "a cat", **given, seed=5, output="latents")
    np.testing.assert_array_equal(latents[:, 0], other[:, 0])
    drawn = pipeline.image_to_video(image, "", **given, posterior="sample", output="latents")
    assert np.abs(drawn[:, 0] - latents[:, 0]).max() > 0
    tiled = load_pipeline(tiny_checkpoint, vae_tiles=True)
    np.testing.assert_allclose(tiled.image_to_video(image, "", **given, output="latents"), latents, atol=1e-5)


def test_refinement_cuts_its_padding(pipeline):
    clip = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    given = {"size": (64, 64), "num_steps": 8, "max_sequence_length": 16}
    doubled = pipeline.refine(clip, **given)
    assert doubled.shape == (1, 14, 64, 64, 3)
    spatial = pipeline.refine(clip, **given, spatial_only=True)
    assert spatial.shape == (1, 7, 64, 64, 3)
    after = pipeline.refine(clip, **given, condition_video=doubled[0], num_cond_frames=4)
    assert after.shape == (1, 14, 64, 64, 3)


def test_refinement_starts_at_the_noise_that_the_checkpoint_says(pipeline, monkeypatch):
    """A published config says nothing: 0.5, as published."""
    assert pipeline.t_thresh == 0.5
    schedules = []

    def sample(prompt, options, shape, schedule, **given):
        schedules.append(schedule)
        return given["start"]

    monkeypatch.setattr(pipeline, "_sample", sample)
    monkeypatch.setattr(pipeline, "t_thresh", 0.25)
    clip = np.zeros((7, 32, 32, 3), np.uint8)
    given = {"size": (64, 64), "num_steps": 50, "shift": 1.0, "max_sequence_length": 16, "output": "latents"}
    for asked, first in ((None, 0.25), (0.4, 0.4)):
        pipeline.refine(clip, t_thresh=asked, **given)
        assert schedules[-1][0] == first > schedules[-1][1]


def test_padding_makes_whole_blocks_that_hold_every_frame():
    for num_frames in range(1, 40):
        for condition in range(num_frames):
            front, behind = refinement_padding(num_frames, condition, block=4)
            assert (front + condition) % 16 == (13 if condition else 0)
            assert (num_frames - condition + behind) % 16 == (0 if condition else 13)
            assert 0 <= front < 16
            assert 0 <= behind < 16


def test_bfloat16_runs_and_stays_near(tiny_checkpoint, pipeline):
    narrow = load_pipeline(tiny_checkpoint, dtype="bfloat16")
    leaf = narrow.params("dit")["blocks"]["attn"]["qkv"]["kernel"]
    assert leaf.dtype == jnp.bfloat16
    got, want = (p.text_to_video("a cat", **TINY, output="latents") for p in (narrow, pipeline))
    assert np.sqrt(np.mean((got - want) ** 2)) < 0.1 * np.std(want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 40}, r"multiples of 16, got 40 x 48; nearest is 32 x 48"),
        ({"sparse": True}, "multiples of 64"),
        ({"num_steps": 0}, "num_steps must lie in 1..10000, got 0"),
        ({"guidance_scale": 0.5, "negative_prompt": "x"}, "guidance_scale must lie in 1"),
        ({"shift": 0.0}, "shift must be above 0"),
        ({"distilled": True, "enhance_hf": True}, "exclude each other"),
        ({"distilled": True, "num_steps": 51}, "at most 50 steps"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"seed": (1, 2)}, "2 seeds for 1 prompts"),
        ({"noise": np.zeros((1, 2, 4, 5, 16))}, r"\(1, 2, 4, 6, 16\), got \(1, 2, 4, 5, 16\)"),
        ({"adapters": (("no_such", 1.0),)}, "adapter no_such: there is none"),
    ],
)
def test_bad_options_say_what_was_wanted(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline.text_to_video("a cat", **{**TINY, **options})


def test_bad_clips(pipeline):
    clip = np.zeros((5, 32, 48, 3), np.uint8)
    with pytest.raises(ValueError, match="the clip has 5 frames, continuing needs at least num_cond_frames = 13"):
        pipeline.continue_video(clip, "a cat")
    with pytest.raises(ValueError, match="multiple of 4 plus 1, got 4"):
        pipeline.continue_video(clip, "a cat", num_cond_frames=4)
    with pytest.raises(ValueError, match="must exceed num_cond_frames"):
        pipeline.continue_video(clip, "a cat", num_cond_frames=5, num_frames=5)
    with pytest.raises(ValueError, match=r"H W 3\), got \(1, 32, 48\)"):
        pipeline.image_to_video(clip[0, ..., 0], "a cat")
    with pytest.raises(ValueError, match=r"in 0\.\.0"):
        pipeline.refine(clip, num_cond_frames=2)


def test_what_refinement_and_sparse_attention_refuse(pipeline, monkeypatch):
    clip = np.zeros((5, 32, 48, 3), np.uint8)
    with pytest.raises(ValueError, match="adapter of its own, and no guidance"):
        pipeline.refine(clip, guidance_scale=7.0)
    # Through the pipeline, these tests' type checks would see it first.
    with pytest.raises(ValueError, match="fit must be 'crop' or 'stretch', got 'strech'"):
        check_choice("fit", "strech", ("crop", "stretch"))
    with pytest.raises(ValueError, match="frames must be uint8, or floats in"):
        pipeline.image_to_video(np.zeros((32, 48, 3), np.int32), "a cat", size=(32, 48))
    monkeypatch.setattr(type(pipeline), "encode_text", lambda *_: pytest.fail("the text encoder was loaded"))
    with pytest.raises(ValueError, match="3 x 4 x 4 token grid: every axis must be a multiple of the block 4 x 4 x 4"):
        pipeline.text_to_video("a cat", **{**TINY, "height": 64, "width": 64, "num_frames": 9}, sparse=True)
    with pytest.raises(ValueError, match="multiples of 4 latent frames, got 1: use dense attention"):
        pipeline.image_to_video(clip[0], "a cat", size=(64, 64), num_frames=17, sparse=True)


def test_adapters_join_the_task_s_own(pipeline):
    def wanted(**options):
        return pipeline._wanted_adapters(SamplingOptions(**options), ())

    assert wanted() == ()
    assert wanted(adapters=(("style", 0.7),)) == (("style", 0.7),)
    assert wanted(distilled=True, adapters=(("style", 0.7),)) == (("cfg_step_lora", 1.0), ("style", 0.7))
    assert wanted(distilled=True, adapters=(("cfg_step_lora", 0.5),)) == (("cfg_step_lora", 0.5),)


def test_frames_are_rounded_down_with_a_warning(pipeline):
    with pytest.warns(UserWarning, match="rounded 8 down to 5"):
        latents = pipeline.text_to_video("a cat", **{**TINY, "num_frames": 8}, output="latents")
    assert latents.shape[1] == 2


def test_folders_that_are_no_checkpoint(tmp_path, tiny_checkpoint):
    with pytest.raises(ValueError, match="no folder"):
        load_pipeline(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="published checkpoint; convert it first"):
        load_pipeline("tests/tiny_checkpoint")
    provenance = json.loads((tiny_checkpoint / "lcv_jax.json").read_text())
    (tmp_path / "lcv_jax.json").write_text(json.dumps({**provenance, "version": 99}))
    with pytest.raises(ValueError, match="of another version"):
        load_pipeline(tmp_path)


def test_options_are_the_documented_defaults():
    assert len(SamplingOptions().schedule(12.0)) == 50
    assert SamplingOptions().scale == 4
    assert len(SamplingOptions(distilled=True).schedule(12.0)) == 16
    assert SamplingOptions(distilled=True).scale == 1
    assert len(SamplingOptions().schedule(12.0, t_thresh=0.5)) == 5
    assert len(SamplingOptions().schedule(12.0, continuation=True)) == 56
    assert jax.numpy.all(jnp.diff(jnp.array(SamplingOptions(distilled=True).schedule(12.0, continuation=True))) < 0)
