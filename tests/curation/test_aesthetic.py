"""The learned aesthetic score: its preparation of images and its head; with PyTorch, CLIP as transformers runs it."""

import itertools

import numpy as np
import pytest
from safetensors.numpy import save_file

from lcv_jax.curation.aesthetic import apply_head, clip_pixels, load_scorer, read_head
from lcv_jax.curation.stages import aesthetic
from lcv_jax.data.media_writer import VideoWriter

WIDTH = 6


def write_head(path, widths=(WIDTH, 4, 1)):
    rng = np.random.default_rng(0)
    arrays = {}
    for number, (last, following) in enumerate(itertools.pairwise(widths)):
        # As in LAION's file: dropout lies between the layers. Names are not in the order of the layers.
        arrays[f"layers.{5 * (number + 1)}.weight"] = rng.standard_normal((following, last)).astype(np.float32)
        arrays[f"layers.{5 * (number + 1)}.bias"] = rng.standard_normal(following).astype(np.float32)
    save_file(arrays, path)
    return arrays


def test_the_head(tmp_path):
    arrays = write_head(tmp_path / "head.safetensors")
    embeddings = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    wanted = []
    for embedding in embeddings:
        value = embedding / np.sqrt((embedding**2).sum())
        for number in (5, 10):
            value = arrays[f"layers.{number}.weight"] @ value + arrays[f"layers.{number}.bias"]
        wanted.append(value[0])
    found = apply_head(embeddings, read_head(tmp_path / "head.safetensors", WIDTH))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("widths", [(WIDTH, 4, 2), (WIDTH + 1, 4, 1)])
def test_a_head_that_does_not_fit(tmp_path, widths):
    write_head(tmp_path / "head.safetensors", widths)
    with pytest.raises(ValueError, match="expected linear layers from 6 values to one, got layers.10.bias"):
        read_head(tmp_path / "head.safetensors", WIDTH)


def test_what_clip_sees():
    pytest.importorskip("PIL")
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[:, 20:80] = (255, 127, 0)
    pixels = clip_pixels(frame, 30)
    assert pixels.shape == (3, 30, 30)
    # The middle square; mean and standard deviation are those that CLIP's processor has.
    middle = pixels[:, :, 2:-2]
    np.testing.assert_allclose(middle[0], (1 - 0.48145466) / 0.26862954, rtol=1e-4)
    np.testing.assert_allclose(middle[2], -0.40821073 / 0.27577711, rtol=1e-4)


def test_scores_of_a_clip(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=WIDTH,
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    write_head(tmp_path / "head.safetensors")
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "a.mp4", fps=4, height=48, width=64) as video:
        video.write(frames)
    settings = aesthetic.Settings(clip=tmp_path / "clip", head=tmp_path / "head.safetensors", frames=2)
    found = aesthetic.score({"clip_path": tmp_path / "a.mp4"}, settings)
    scores = load_scorer(settings.clip, settings.head)(list(frames))
    assert found["aesthetic"] == pytest.approx(float(scores[[1, 3]].mean()), abs=0.2)
    assert np.std(scores) > 0
