"""Both resizers, sizes and patches of pictures against what Pillow, torchvision and the published processors gave."""

import numpy as np
import pytest
from PIL import Image

from lcv_jax.data.bicubic import resize_like_pillow, resize_like_torchvision
from lcv_jax.data.patches import cells, fitting_size, normalise, patches


@pytest.mark.parametrize(
    ("shape", "size"),
    # Of those that shrink in height more than in width Pillow 13 has another order of the two passes.
    [((37, 91), (64, 20)), ((60, 90), (28, 40)), ((5, 7), (100, 3)), ((64, 64), (64, 32)), ((1, 9), (4, 9))],
)
def test_pillow_to_the_bit(shape, size):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    want = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize_like_pillow(image, *size), want)


def test_published_pictures(golden):
    _, io = golden("rewards/hpsv3/io")
    np.testing.assert_array_equal(resize_like_pillow(io["in.big"], 28, 84), io["resize.down"])
    np.testing.assert_array_equal(resize_like_pillow(io["in.image_0"], 56, 84), io["resize.small"])
    rows = []
    for number, (_, height, width) in enumerate(io["out.image_grid_thw"].tolist()):
        image = io[f"in.image_{number}"]
        assert fitting_size(*image.shape[:2], 200704, 200704) == (14 * height, 14 * width)
        rows.append(patches(resize_like_pillow(image, 14 * height, 14 * width)[None])[0])
    np.testing.assert_array_equal(normalise(np.concatenate(rows))[::97], io["out.pixel_values_every_97th"])


def test_published_frames_differ_from_pillows(golden):
    config, io = golden("rewards/videoreward/io")
    chosen = {(frames, fps, target): indices for frames, fps, target, _, indices in config["smart_nframes"]}
    for number, fps in enumerate(config["fps"]):
        video = io[f"in.video_{number}"]
        taken = video[chosen[len(video), fps, 2.0]]
        size = fitting_size(*video.shape[1:3], 100352, 200704)
        want = io[f"out.frames_{number}_every_13th_pixel"].transpose(0, 2, 3, 1)
        got = np.stack([resize_like_torchvision(frame, *size) for frame in taken])[:, ::13, ::13].astype(int)
        assert (got != want).mean() < 1e-4
        assert np.abs(got - want).max() <= 1
        like_pillow = np.stack([resize_like_pillow(frame, *size) for frame in taken])[:, ::13, ::13]
        assert (like_pillow != want).mean() > 0.01


def test_published_sizes(golden):
    for height, width, least, most, *want in golden("rewards/hpsv3/io")[0]["smart_resize"]:
        assert list(fitting_size(height, width, least, most)) == want


def test_a_ratio_above_200_is_refused():
    assert fitting_size(1, 200, 3136, 12845056)
    with pytest.raises(ValueError, match="1 x 201 pixels: one side is above 200 times"):
        fitting_size(1, 201, 3136, 12845056)


def test_patches_are_read_block_by_block():
    rows, columns = 56, 84
    at = np.stack(np.meshgrid(np.arange(2), np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    flat = patches(at.astype(np.uint8))[0].reshape(-1, 3, 2, 14, 14)
    for number, (row, column) in enumerate(cells(rows // 14, columns // 14)):
        assert flat[number, 1].min() == 14 * row
        assert flat[number, 2, 0, 0].tolist() == list(range(14 * column, 14 * column + 14))
        assert flat[number, 0, 1].min() == 1
    assert cells(4, 6)[:6].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3]]


def test_one_picture_is_two_equal_frames():
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 3), np.uint8)
    one = patches(image)[0].reshape(4, 3, 2, 14, 14)
    np.testing.assert_array_equal(one[:, :, 0], one[:, :, 1])
    with pytest.raises(ValueError, match="3 frames of 28 x 28: patches need an even number"):
        patches(np.repeat(image, 3, axis=0))
