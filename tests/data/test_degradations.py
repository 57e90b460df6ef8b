"""Degradations do what their names say, keep the shape, are functions of the generator, and differ by clip."""

import numpy as np
import pytest

from lcv_jax.data.degradations import JPEG, Blur, Codec, Exposure, Noise, OneOf, Resize, Sometimes, compose, round_trip

T, H, W = 9, 48, 64


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def video():
    """Colours that change smoothly, with a checkerboard, moving to the right."""
    y, x = np.mgrid[:H, : W + T]
    board = 60 * ((x // 8 + y // 8) % 2)
    picture = np.stack([100 + board, 60 + board + y, 40 + board + x], axis=-1)
    return np.stack([picture[:, T - t : T - t + W] for t in range(T)]).astype(np.uint8)


def error(one, other):
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize(
    "degradation",
    [Blur((1.0, 2.0)), Noise((4.0, 6.0)), JPEG((10, 30)), Codec("libx264", (30, 36)), Codec("mpeg4", (10, 14)),
     Codec("libvpx-vp9", (40, 50))],
)  # fmt: skip
def test_worse_and_still_the_clip(video, degradation):
    worse = degradation(video, rng())
    assert worse.shape == video.shape
    assert worse.dtype == np.uint8
    assert 0.5 < error(worse, video) < 20
    np.testing.assert_array_equal(worse, degradation(video, rng()))
    assert (worse != degradation(video, rng(1))).any()
    # Frames are neither moved nor left out.
    assert error(worse, video) < min(error(worse[1:], video[:-1]), error(worse[:-1], video[1:]))


def test_a_codec_at_its_best_changes_next_to_nothing(video):
    best = round_trip(video[:, :31, :45], "libx264", {"crf": "1", "preset": "veryfast"})
    worst = round_trip(video[:, :31, :45], "libx264", {"crf": "45", "preset": "veryfast"})
    assert best.shape == worst.shape == (T, 31, 45, 3)
    assert error(best[..., 1], video[:, :31, :45, 1]) < 3
    assert error(worst, video[:, :31, :45]) > 2 * error(best, video[:, :31, :45])


def test_an_encoder_that_is_not_there(video):
    with pytest.raises(ValueError, match="needs FFmpeg's encoder lib_nothing"):
        round_trip(video, "lib_nothing", {})


def test_exposures(video):
    """Every nth frame, or the mean of some around it."""
    ramp = np.broadcast_to(10 * np.arange(T, dtype=np.uint8)[:, None, None, None], video.shape)
    seen = {tuple(Exposure(2)(ramp, rng(seed))[:, 0, 0, 0]) for seed in range(12)}
    assert seen == {(0, 20, 40, 60, 80), (5, 25, 45, 65, 80)}
    np.testing.assert_array_equal(Exposure(1)(video, rng()), video)


def test_noise_of_every_kind(video):
    flat = np.concatenate([np.full((4, 32, 32, 3), 16, np.uint8), np.full((4, 32, 32, 3), 196, np.uint8)])
    kinds = set()
    for seed in range(16):
        noise = Noise((5.0, 5.0))(flat, rng(seed)).astype(float) - flat
        dark, bright = noise[:4].std(), noise[4:].std()
        is_grey, is_even = (noise == noise[..., :1]).mean() > 0.6, dark > 0.8 * bright
        kinds.add((is_grey, is_even))
        assert bright == pytest.approx(5.0 if is_even else 5.0 * np.sqrt(196 / 255), rel=0.1)
        assert dark == pytest.approx(5.0 if is_even else 5.0 * np.sqrt(16 / 255), rel=0.1)
    assert len(kinds) == 4


def test_composition(video):
    whole = compose(Resize(24, 32), Noise((2.0, 2.0)))(video, rng())
    generator = rng()
    np.testing.assert_array_equal(whole, Noise((2.0, 2.0))(Resize(24, 32)(video, generator), generator))
    assert whole.shape == (T, 24, 32, 3)
    changed = [(Sometimes(0.3, JPEG((20, 20)))(video, rng(seed)) != video).any() for seed in range(200)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.1)
    sizes = {OneOf((Resize(8, 8), Resize(16, 16)))(video, rng(seed)).shape[1] for seed in range(8)}
    assert sizes == {8, 16}
