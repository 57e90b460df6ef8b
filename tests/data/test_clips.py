"""Clips: which bucket each goes to, what is read of it, and what a degraded version is."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.data.buckets import buckets
from lcv_jax.data.clips import Measure, TooShortError, choose_bucket, measure, read_frames, read_into_bucket
from lcv_jax.data.config import bucket_groups
from lcv_jax.data.degrade import Refinement, degrade, generator_of, parse_refinement, upsample_bytes
from lcv_jax.data.manifest import Entry
from lcv_jax.data.media_reader import probe_video, read_video, stream_video
from lcv_jax.data.media_writer import VideoWriter, write_image
from lcv_jax.data.resample import upsample

MIXED = (((17, 64, 64), (9, 64, 64), (9, 128, 128), (9, 64, 96)),)


def write_clip(path, num_frames=20, fps=8, height=64, width=96, step=12):
    """Frames that tell their number by their brightness."""
    with VideoWriter(path, fps=fps, height=height, width=width, crf=1) as video:
        for number in range(num_frames):
            video.write(np.full((1, height, width, 3), number * step % 256, np.uint8))
    return path


def numbers(frames_THWC, step=12):
    return np.rint(np.asarray(frames_THWC).mean(axis=(1, 2, 3)) / step).astype(int).tolist()


@pytest.mark.parametrize(
    ("height", "width", "num_frames", "bucket"),
    [
        (64, 64, 17, (17, 64, 64)),
        (64, 64, 16, (9, 64, 64)),
        (640, 640, 9, (9, 128, 128)),  # the largest of one shape that it covers
        (100, 100, 40, (17, 64, 64)),
        (10, 10, 40, (17, 64, 64)),  # covers none: the smallest
        (1, 5, 40, (9, 64, 96)),
        (64, 96, 9, (9, 64, 96)),
    ],
)
def test_bucket(height, width, num_frames, bucket):
    assert choose_bucket(MIXED, Measure(height, width, num_frames)) == bucket


def test_a_clip_too_short_for_all():
    with pytest.raises(TooShortError, match="8 frames, the shortest bucket has 9"):
        choose_bucket(MIXED, Measure(64, 64, 8))


@pytest.mark.parametrize(
    ("height", "width", "resolution"),
    [(480, 832, "480p"), (720, 1280, "720p"), (1080, 1920, "720p"), (90, 160, "480p")],
)
def test_published_tables(height, width, resolution):
    """A clip takes the larger table when it has its pixels; within a table the published rule."""
    groups = bucket_groups((), ("480p", "720p"), (93, 33), 32)
    T, *shape = choose_bucket(groups, Measure(height, width, 93))
    assert T == 93
    assert tuple(shape) in buckets(resolution, 32)
    assert abs(shape[0] / shape[1] - height / width) < 0.03


def test_measures(tmp_path):
    path = write_clip(tmp_path / "a.mp4", num_frames=20, fps=8)
    assert probe_video(path) == (64, 96, 2.5)
    assert measure(Entry(id="a", path=path), 8.0) == Measure(64, 96, 20)
    assert measure(Entry(id="a", path=path), 4.0) == Measure(64, 96, 10)
    assert measure(Entry(id="a", path=path, start=0.5, end=1.5), 8.0) == Measure(64, 96, 8)
    assert measure(Entry(id="a", path=path, start=0.5, end=9.0), 8.0) == Measure(64, 96, 16)
    said = Entry(id="a", path=tmp_path / "none.mp4", height=10, width=20, num_frames=30, fps=15.0)
    assert measure(said, 5.0) == Measure(10, 20, 10)
    with pytest.raises(ValueError, match="lasts 2.50 s, nothing lies from start = 3.0 on"):
        measure(Entry(id="a", path=path, start=3.0), 8.0)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_what_is_read_from_a_moment_on(tmp_path, suffix):
    """Seeking gives what reading from the beginning gives, also between key frames and with frames out of order."""
    path = tmp_path / f"a.{suffix}"
    options = {"g": "7", "bf": "2"} if suffix == "mp4" else {"g": "7"}
    with VideoWriter(path, fps=10, height=32, width=32, crf=1, options=options) as video:
        for number in range(40):
            video.write(np.full((1, 32, 32, 3), number * 6, np.uint8))
    whole, _ = read_video(path, 10)
    for start in range(0, 39, 5):
        part = np.stack(list(stream_video(path, 10, start / 10)))
        np.testing.assert_array_equal(part, whole[start:])
    np.testing.assert_array_equal(np.stack(list(stream_video(path, 5, 0.5))), whole[5::2])


def test_frames_in_a_bucket(tmp_path):
    path = write_clip(tmp_path / "a.mp4", num_frames=20, fps=8)
    frames = read_frames(Entry(id="a", path=path), (9, 32, 32), 8.0)
    assert frames.shape == (9, 32, 32, 3)
    assert numbers(frames) == list(range(9))
    assert numbers(read_frames(Entry(id="a", path=path, start=0.5), (5, 32, 32), 4.0)) == [4, 6, 8, 10, 12]
    with pytest.raises(TooShortError, match="6 frames"):
        read_frames(Entry(id="a", path=path, end=0.75), (9, 32, 32), 8.0)


def test_a_file_with_fewer_frames_than_it_says(tmp_path):
    path = write_clip(tmp_path / "a.mp4", num_frames=12)
    entry = Entry(id="a", path=path, height=64, width=64, num_frames=100, fps=8.0)
    size, frames = read_into_bucket(entry, MIXED, 8.0)
    assert size == (9, 64, 64)
    assert numbers(frames) == list(range(9))


def test_images(tmp_path):
    write_image(tmp_path / "a.png", np.full((40, 60, 3), 9, np.uint8))
    size, frames = read_into_bucket(Entry(id="a", path=tmp_path / "a.png"), MIXED, 8.0)
    assert size == (1, 64, 96)
    assert frames.shape == (1, 64, 96, 3)


def test_a_file_that_was_cut_off(tmp_path):
    path = write_clip(tmp_path / "a.mkv", num_frames=60, step=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(OSError, match="a.mkv"):
        list(stream_video(path, 8))


def test_degraded_versions_belong_to_an_id(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    one = degrade(video, 32, 24, generator_of("a"))
    assert one.shape == (3, 32, 24, 3)
    np.testing.assert_array_equal(one, degrade(video, 32, 24, generator_of("a")))
    assert (one != degrade(video, 32, 24, generator_of("b"))).any()
    # Worse than downsampling alone, and still the same picture.
    clean = video.reshape(3, 32, 2, 32, 2, 3).mean((2, 4))
    errors = [
        np.abs(degrade(video, 32, 32, generator_of(str(number))).astype(float) - clean).mean() for number in range(12)
    ]
    assert 2 < min(errors) < max(errors) < 60
    assert np.std(errors) > 1


def test_refinement_takes_every_nth_frame():
    video = np.repeat(np.arange(0, 252, 7, dtype=np.uint8)[:33], 64 * 64 * 3).reshape(33, 64, 64, 3)
    small = Refinement((32, 32), 8.0).degrade(video, 16.0, "a")
    assert small.shape == (17, 32, 32, 3)
    np.testing.assert_allclose(small.mean((1, 2, 3)), video[::2].mean((1, 2, 3)), atol=3)


def test_upsampling_is_that_of_the_pipeline():
    video = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
    want = upsample(jnp.asarray(video, jnp.float32), 9, 12, 20)
    np.testing.assert_allclose(upsample_bytes(video, 9, 12, 20), want, atol=0.501)


@pytest.mark.parametrize(
    ("text", "size", "shape", "stride"),
    [("32,24,8", (33, 64, 48), (32, 24), 2), ("480p,15", (93, 704, 1280), (480, 832), 1)],
)
def test_refinements(text, size, shape, stride):
    refinement = parse_refinement(text)
    assert refinement.small_shape(size) == shape
    assert refinement.stride(size, stride * refinement.fps) == stride


@pytest.mark.parametrize("text", ["", "8", "32,8", "32,32,0", "32,-1,8", "1080p,15", "a,b,c", "17,32,32,8"])
def test_bad_refinements(text):
    with pytest.raises(ValueError, match="refine must be HEIGHT,WIDTH,FPS or 480p|720p,FPS; got"):
        parse_refinement(text)


@pytest.mark.parametrize(("fps", "num_frames"), [(12.0, 33), (32.0, 33), (24.0, 33)])
def test_rates_that_do_not_fit(fps, num_frames):
    refinement = Refinement((32, 32), 8.0 if fps != 32.0 else 1.5)
    with pytest.raises(ValueError, match="clips of 33 frames at"):
        refinement.stride((num_frames, 64, 64), fps)


def test_fractions_of_rates(tmp_path):
    assert Refinement((32, 32), float(Fraction(30000, 2002))).stride((5, 64, 64), float(Fraction(30000, 1001))) == 2
