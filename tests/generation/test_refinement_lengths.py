"""Refinement returns every frame that it is given, for any length, alone and in joined segments.

A lossless stand-in replaces the autoencoder: its latents hold the frames that they stand for, so results are compared
frame by frame. Its lengths are compared with those of the real autoencoder below.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcv_jax.pipeline
from lcv_jax.config import BlockSparseConfig
from lcv_jax.generation import long_video
from lcv_jax.generation.long_video import Segments
from lcv_jax.pipeline import Pipeline

SIZE = 16


def encode(video_THWC):
    """One frame in the first latent, four in every other; frames that do not fill a latent are dropped."""
    rest = video_THWC[1 : 1 + (len(video_THWC) - 1) // 4 * 4]
    first = np.repeat(video_THWC[:1], 4, axis=0)
    return np.concatenate([first, rest]).reshape(1, -1, 4, SIZE, SIZE, 3)


def decode(latents):
    return latents.reshape(1, -1, SIZE, SIZE, 3)[:, 3:]


class LosslessPipeline(Pipeline):
    """The real `refine` around networks that return their input."""

    def with_blocks(self, block):
        blocks = BlockSparseConfig(sparsity=0.5, chunk_3d_shape_q=(block, 1, 1), chunk_3d_shape_k=(block, 1, 1))
        self.dit_config = dataclasses.replace(self.dit_config, bsa_params=blocks)
        self.block = block
        return self

    def _encode(self, frames_THWC, options):
        frames = np.asarray(frames_THWC)
        return encode(frames / np.float32(255) if frames.dtype == np.uint8 else frames)

    def _sample(self, prompt, options, shape, schedule, *, condition=None, start=None, **given):
        known = 0 if condition is None else condition.shape[1]
        assert known % self.block == 0
        assert start.shape[1] > known
        assert start.shape[1] % self.block == 0
        return start if condition is None else np.concatenate([condition, start[:, known:]], axis=1)

    def _finish(self, latents, output):
        return decode(latents)


def upsample(video_THWC, num_frames, height, width):
    """Linear in time with aligned corners; the size stays."""
    at = np.linspace(0, len(video_THWC) - 1, num_frames)
    below = np.floor(at).astype(int)
    part = (at - below).astype(np.float32)[:, None, None, None]
    above = np.minimum(below + 1, len(video_THWC) - 1)
    return video_THWC[below] * (1 - part) + video_THWC[above] * part


@pytest.fixture(scope="module", params=[1, 4])
def pipeline(request, tiny_checkpoint):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lcv_jax.pipeline, "upsample_clip", upsample)
        patch.setattr(lcv_jax.pipeline, "jnp", np)  # eager operations of JAX would compile for every length
        yield LosslessPipeline(folder=tiny_checkpoint).with_blocks(request.param)


def clip(length):
    """Frames that tell their number."""
    return np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None, None], (length, SIZE, SIZE, 3))


@pytest.mark.parametrize("times", [1, 2])
def test_every_frame_comes_back(pipeline, times):
    for length in range(1, 101):
        given = clip(length) / np.float32(255)
        want = upsample(given, times * length, SIZE, SIZE)
        options = {"size": (SIZE, SIZE), "spatial_only": times == 1}
        np.testing.assert_allclose(pipeline.refine(given, **options)[0], want, atol=1e-6, err_msg=f"{length} frames")
        known = np.full((100, SIZE, SIZE, 3), 200, np.uint8) + clip(100) % 50
        for count in {1, 26, times * length - 1} & set(range(1, min(times * length, 101))):
            got = pipeline.refine(given, **options, condition_video=known, num_cond_frames=count)[0]
            frames = np.concatenate([known[-count:] / np.float32(255), want[count:]])
            np.testing.assert_allclose(got, frames, atol=1e-6, err_msg=f"{length} frames, {count} given")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("segment", "overlap"), [(17, 5), (40, 13), (13, 12)])
def test_joined_segments_hold_every_frame(pipeline, tmp_path, times, segment, overlap):
    for length in {1, overlap, segment, segment + 1, *range(2, 101, 7)}:
        pieces = long_video.cut(clip(length), segment, overlap)
        segments = Segments.open(tmp_path / str(length), {})
        options = {"overlap": overlap, "spatial_only": times == 1, "size": (SIZE, SIZE)}
        refined = long_video.refine(pipeline, segments, iter(pieces), len(pieces), **options)
        got = np.concatenate([new[:, 0, 0, 0] for new in refined]).astype(float)
        assert len(got) == times * length
        if times == 1:
            np.testing.assert_array_equal(got, np.arange(length))
        assert np.all(np.diff(got) >= 0)
        segments.remove()


def test_the_real_autoencoder_has_the_same_arithmetic(tiny_checkpoint):
    pipeline = Pipeline(folder=tiny_checkpoint)
    cfg, vae = pipeline.vae.cfg, pipeline.vae
    params = jax.eval_shape(lambda key: vae.init(key, jnp.zeros((1, 1, 16, 16, 3))), jax.random.key(0))["params"]
    for length in (4, 16, 17):
        video = jax.ShapeDtypeStruct((1, length, 16, 16, 3), jnp.float32)
        latents = jax.eval_shape(lambda p, x: vae.apply({"params": p}, x, method="encode"), params, video)[0]
        decoded = jax.eval_shape(lambda p, x: vae.apply({"params": p}, x, method="decode"), params, latents)
        stand_in = encode(np.zeros((length, SIZE, SIZE, 3), np.float32))
        assert latents.shape == (1, stand_in.shape[1], 2, 2, cfg.z_dim)
        assert decoded.shape == (1, decode(stand_in).shape[1], 16, 16, 3)
