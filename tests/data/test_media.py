"""Media files: clips are made here, written and read back, turned, stretched, retimed, broken."""

import gc
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lcv_jax.data.colour import Tags, coding_of, to_sdr
from lcv_jax.data.frames import contact_sheet, resize_and_crop, to_float, to_uint8
from lcv_jax.data.media_reader import read_image, read_video
from lcv_jax.data.media_writer import VideoWriter, write_frames, write_image
from lcv_jax.own_files import partial_path

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255], [255] * 3, [0] * 3, [128] * 3],
    np.uint8,
)
FLAT = np.broadcast_to(COLOURS[:, None, None], (len(COLOURS), 32, 48, 3))


def grey_levels(count, height=32, width=48):
    """Frame k is a flat gray of 20 + 4 k, so that a frame read back tells its number."""
    levels = np.arange(20, 20 + 4 * count, 4, dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)))


def numbers(frames_THWC):
    return ((frames_THWC.mean(axis=(1, 2, 3)) - 20) / 4).round().astype(int).tolist()


def write(path, frames_THWC, fps=15, **options):
    _, height, width, _ = frames_THWC.shape
    with VideoWriter(path, fps=fps, height=height, width=width, **options) as video:
        video.write(frames_THWC)
    return path


def quadrants(height=64, width=96):
    """Red, green / blue, white: tells every turn."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2, 0] = 255
    frame[: height // 2, width // 2 :, 1] = 255
    frame[height // 2 :, : width // 2, 2] = 255
    frame[height // 2 :, width // 2 :] = 255
    return frame


def close(got, wanted, levels=4):
    """Equal but for the coding, away from edges, where chroma is shared between neighbours."""
    return np.quantile(np.abs(got.astype(int) - wanted), 0.9) <= levels


# Bytes and floats


def test_bytes_survive_floats():
    every = np.arange(256, dtype=np.uint8)
    assert (to_uint8(to_float(every)) == every).all()
    assert to_float(every).dtype == np.float32


def test_floats_are_rounded_and_clipped():
    assert to_uint8(np.array([-0.5, 0.4 / 255, 0.6 / 255, 1.0, 1.7])).tolist() == [0, 0, 1, 255, 255]
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(np.array([0.5, np.nan]))


# Fitting to a size


def test_crop_keeps_the_middle_and_the_shape():
    frames = np.zeros((1, 40, 100, 3), np.uint8)
    frames[:, :, 30:70] = 255  # the middle 40 x 40
    assert resize_and_crop(frames, 20, 20).min() > 200
    turned = frames.swapaxes(1, 2)
    assert resize_and_crop(turned, 20, 20).min() > 200
    stretched = resize_and_crop(frames, 20, 20, stretch=True)
    assert stretched[0, 10, [0, 2, 10, 17, 19], 0].tolist() == [0, 0, 255, 0, 0]


def test_resizing_is_pillows_lanczos():
    frames = np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    resized = resize_and_crop(frames, 60, 50, stretch=True)
    for frame, ours in zip(frames, resized, strict=True):
        assert (np.asarray(Image.fromarray(frame).resize((50, 60), Image.Resampling.LANCZOS)) == ours).all()
    assert resize_and_crop(frames, 30, 40) is frames


# Videos out and in


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", None), ("a.mkv", None), ("a.mov", None), ("a.webm", None), ("b.mkv", "ffv1")]
)
def test_colours_survive(tmp_path, name, codec):
    path = write(tmp_path / name, FLAT, codec=codec, crf=None if codec else 10)
    frames, fps = read_video(path)
    assert fps == 15
    assert frames.shape == FLAT.shape
    assert np.abs(frames.astype(int) - FLAT).max() <= 3


def test_a_trip_through_a_file_does_not_darken(tmp_path):
    blurred = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    frames = resize_and_crop(blurred, 96, 128)
    for _ in range(3):
        frames_before, (frames, _) = frames, read_video(write(tmp_path / "a.mp4", frames, crf=2))
        drift = (frames.astype(int) - frames_before).mean(axis=(0, 1, 2))
        assert np.abs(drift).max() < 0.3


def test_colours_are_tagged_as_bt709(tmp_path):
    with av.open(str(write(tmp_path / "a.mp4", FLAT))) as file:
        context = file.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"


def test_segments_floats_and_rational_rates(tmp_path):
    frames = grey_levels(10)
    with VideoWriter(tmp_path / "new" / "a.mp4", fps=Fraction(30000, 1001), height=32, width=48) as video:
        video.write(frames[:4])
        video.write(to_float(frames[4:]))
        assert not (tmp_path / "new" / "a.mp4").exists()
        assert video.num_frames == 10
    read, fps = read_video(tmp_path / "new" / "a.mp4")
    assert fps == Fraction(30000, 1001)
    assert numbers(read) == list(range(10))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.mp4"]


def write_shape(path, frames_THWC):
    with VideoWriter(path, fps=15, height=32, width=48) as video:
        video.write(frames_THWC)


def interrupted_run(path):
    with VideoWriter(path, fps=15, height=32, width=48) as video:
        video.write(grey_levels(3))
        assert partial_path(path, ".mp4").exists()
        raise KeyboardInterrupt


def test_the_same_frames_make_the_same_file(tmp_path):
    """So that a film that is cut again has clips of the same digests."""
    tiles = np.random.default_rng(0).integers(0, 255, (18, 32, 3), np.uint8).repeat(6, axis=0).repeat(6, axis=1)
    files = set()
    for _ in range(8):
        with VideoWriter(tmp_path / "video.mp4", fps=24, height=108, width=192) as video:
            for time in range(60):
                video.write(np.roll(tiles, (time // 2, time), axis=(0, 1))[None])
        files.add((tmp_path / "video.mp4").read_bytes())
    assert len(files) == 1


def test_a_failed_run_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_run(path)
    assert path.read_bytes() == b"old"
    with pytest.raises(ValueError, match="no frame was written"), VideoWriter(path, fps=15, height=32, width=48):
        pass
    with pytest.raises(ValueError, match=r"must be \(T, 32, 48, 3\), got \(1, 48, 32, 3\)"):
        write_shape(path, grey_levels(1, 48, 32))
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("a.mp4", {"height": 33}, "even height and width, got 33 x 48"),
        ("a.mp4", {"fps": 0}, "fps must be above 0"),
        ("a.mp4", {"codec": "h999"}, "no video encoder 'h999' here; there are libx264"),
        ("a.mp4", {"codec": "aac"}, "no video encoder 'aac'"),
        ("a.xyz", {}, r"no such kind of video file; use \.mp4"),
        ("a.webm", {"codec": "libx264"}, "libx264 does not work in this container"),
        ("a.mp4", {"codec": "mpeg4"}, "mpeg4 has no option crf; pass crf=None"),
        ("a.mp4", {"options": {"prezet": "slow"}}, "libx264 has no option prezet"),
    ],
)
def test_bad_settings_fail_before_the_first_frame(tmp_path, name, settings, message):
    with (
        pytest.raises(ValueError, match=message),
        VideoWriter(tmp_path / name, **{"fps": 15, "height": 32, "width": 48} | settings),
    ):
        pytest.fail("entered")
    assert not list(tmp_path.iterdir())


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.mp4", tmp_path):
        with pytest.raises(OSError, match="cannot be written"):
            VideoWriter(path, fps=15, height=32, width=48).__enter__()
    with pytest.raises(OSError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", FLAT[0])


# Reading: time


def test_all_first_and_last(tmp_path):
    path = write(tmp_path / "a.mp4", grey_levels(20), fps=30)
    assert numbers(read_video(path)[0]) == list(range(20))
    assert numbers(read_video(path, first=3)[0]) == [0, 1, 2]
    assert numbers(read_video(path, last=3)[0]) == [17, 18, 19]
    assert numbers(read_video(path, last=50)[0]) == list(range(20))


def test_another_rate(tmp_path):
    path = write(tmp_path / "a.mp4", grey_levels(20), fps=30)
    frames, fps = read_video(path, 15)
    assert fps == 15
    assert numbers(frames) == list(range(0, 20, 2))
    assert numbers(read_video(path, 15, first=3)[0]) == [0, 2, 4]
    assert numbers(read_video(path, 15, last=3)[0]) == [15, 17, 19], "counted back from the last frame"
    assert numbers(read_video(path, 15, last=50)[0]) == list(range(1, 20, 2))
    assert numbers(read_video(path, 60, first=5)[0]) in ([0, 0, 1, 1, 2], [0, 1, 1, 2, 2])
    assert len(read_video(path, 60)[0]) == 40
    assert len(read_video(path, 20)[0]) == 14, "a moment before the end of the last frame counts"


def test_clocks_that_round_add_no_frame(tmp_path):
    """Matroska counts in milliseconds: a frame of 1/30 s lasts 33 or 34."""
    path = write(tmp_path / "a.mkv", grey_levels(45), fps=30)
    assert numbers(read_video(path, 15)[0]) == list(range(0, 45, 2))
    assert numbers(read_video(path, 30)[0]) == list(range(45))
    ntsc = Fraction(30000, 1001)
    path = write(tmp_path / "b.mkv", grey_levels(8), fps=ntsc)  # 0.26693 s, 0.267 by its clock
    assert numbers(read_video(path, ntsc)[0]) == list(range(8))


def test_variable_rate_keeps_its_speed(tmp_path):
    """Four frames at 0, 0.1, 0.2 and 1.0 s: between 0.2 and 1.0 the nearest one changes at 0.6."""
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for moment, image in zip((0, 1, 2, 10), grey_levels(4), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    frames, _ = read_video(tmp_path / "a.mkv", 10)
    assert numbers(frames)[:11] == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]
    assert numbers(read_video(tmp_path / "a.mkv", 10, last=3)[0]) == [3, 3, 3]
    frames, fps = read_video(tmp_path / "a.mkv")
    assert fps == 10, "the most common rate"
    assert numbers(frames)[:11] == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]


# Reading: geometry and formats


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_of_phones(tmp_path, turn):
    """A display matrix that turns counter-clockwise by so many degrees."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=15, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(turn)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        file.mux(stream.encode(None))
    frames, _ = read_video(path)
    upright = np.rot90(quadrants(), turn // 90)
    assert frames.shape[1:] == upright.shape
    assert close(frames[0], upright, 30)


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (64, 128)), (Fraction(1, 2), (128, 96))])
def test_pixels_that_are_not_square(tmp_path, aspect, size):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=15)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        file.mux(stream.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        file.mux(stream.encode(None))
    frames, _ = read_video(path)
    assert frames.shape == (1, *size, 3)
    assert frames[0, 4, 4, 0] > 200
    assert frames[0, -4, -4].min() > 200


@pytest.mark.parametrize(("width", "space"), [(48, "ITU601"), (1280, "ITU709")])
def test_untagged_colours_are_taken_as_players_take_them(tmp_path, width, space):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=15, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, 32, "yuv420p"
        red = av.VideoFrame.from_ndarray(np.full((32, width, 3), (255, 0, 0), np.uint8), format="rgb24")
        file.mux(stream.encode(red.reformat(format="yuv420p", dst_colorspace=space)))
        file.mux(stream.encode(None))
    with av.open(str(tmp_path / "a.mkv")) as file:
        assert file.streams.video[0].codec_context.colorspace == 2, "the file is tagged"
    frames, _ = read_video(tmp_path / "a.mkv")
    assert np.abs(frames.astype(int) - (255, 0, 0)).max() <= 3


def test_an_animated_gif(tmp_path):
    images = [Image.fromarray(image) for image in grey_levels(6)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100, loop=0)
    frames, fps = read_video(tmp_path / "a.gif")
    assert fps == 10
    assert numbers(frames) == list(range(6))
    assert numbers(read_video(tmp_path / "a.gif", 5)[0]) == [0, 2, 4]


def test_bad_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4", "missing.mp4"):
        with pytest.raises(OSError, match=rf"{name}: cannot be read as a video \(.+\)$"):
            read_video(tmp_path / name)
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"sound\.wav: holds no video, only audio"):
        read_video(tmp_path / "sound.wav")


def test_damaged_videos(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    path = write(tmp_path / "b.mp4", noise)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    path.write_bytes(damaged)
    with pytest.raises(OSError, match=r"b\.mp4: cannot be decoded after [01]\.\d+ s \(.+\)$"):
        read_video(path)


@pytest.mark.parametrize("arguments", [{"fps": 0}, {"first": 0}, {"last": -1}, {"first": 2, "last": 2}])
def test_bad_arguments(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"must be above 0|not both"):
        read_video(tmp_path / "a.mp4", **arguments)


# Images


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_images_survive(tmp_path, suffix):
    write_image(tmp_path / f"a.{suffix}", quadrants())
    assert close(read_image(tmp_path / f"a.{suffix}"), quadrants(), 8)


def test_an_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture has to be turned clockwise
    Image.fromarray(quadrants()).save(tmp_path / "a.png", exif=exif)
    assert (read_image(tmp_path / "a.png") == np.rot90(quadrants(), -1)).all()


def test_images_of_other_kinds(tmp_path):
    grey = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257 + 100).save(tmp_path / "sixteen.png")
    for name in ("grey.png", "sixteen.png"):
        assert (read_image(tmp_path / name) == as_rgb).all(), name
    half_clear = np.dstack([quadrants(), np.full((64, 96), 128, np.uint8)])
    Image.fromarray(half_clear).save(tmp_path / "clear.png")
    assert np.abs(read_image(tmp_path / "clear.png").astype(int) - (quadrants() * 0.5 + 127.5)).max() <= 1
    Image.fromarray(quadrants()).convert("P").save(tmp_path / "palette.png", transparency=0)
    Image.fromarray(quadrants()).convert("CMYK").save(tmp_path / "print.jpg")
    for name in ("palette.png", "print.jpg"):
        assert read_image(tmp_path / name).shape == (64, 96, 3)


def test_bad_images(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    write_image(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    for name in ("text.png", "half.png", "missing.png"):
        with pytest.raises(OSError, match=rf"{name}: cannot be read as an image \(.+\)$"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="unknown file extension"):
        write_image(tmp_path / "a.xyz", quadrants())
    assert not list(tmp_path.glob(".*"))


def test_numbered_frames(tmp_path):
    paths = write_frames(tmp_path / "new", grey_levels(3), start=93)
    assert [path.name for path in paths] == ["frame_00093.png", "frame_00094.png", "frame_00095.png"]
    assert (read_image(paths[2]) == grey_levels(3)[2]).all()


def test_contact_sheet():
    sheet = contact_sheet(to_float(grey_levels(30)), num_frames=5, columns=3, tile_width=60)
    assert sheet.shape == (2 * 40, 3 * 60, 3)
    corners = [sheet[row * 40 + 18, column * 60 + 55, 0] for row in range(2) for column in range(3)]
    assert ((np.array(corners[:5]) - 20) // 4).tolist() == [0, 7, 14, 22, 29]
    assert corners[5] == 0
    assert (sheet[:14, :14] > 200).any(), "a number is written"
    assert contact_sheet(grey_levels(2)).shape == (213, 640, 3)
    with pytest.raises(ValueError, match="got 0 frames"):
        contact_sheet(grey_levels(3)[:0])


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'need the package av: pip install "lcv_jax\[video\]"'):
        read_video(__file__)


def test_a_closed_video_leaves_no_frames_and_threads_behind(tmp_path):
    """Those of thousands of clips would wait for the garbage collector, until no thread can be started."""
    path = write(tmp_path / "clip.mp4", grey_levels(5))
    read_video(path)
    gc.collect()
    gc.disable()
    try:
        before = threads()
        for _ in range(8):
            read_video(path)
        frames = [one for one in gc.get_objects() if isinstance(one, av.VideoFrame)]
        after = threads()
    finally:
        gc.enable()
    assert not frames
    assert after <= before + 4


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to count threads")
def test_a_picture_is_converted_without_threads_that_stay_with_it(tmp_path):
    path = write(tmp_path / "clip.mp4", grey_levels(8))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    coding, before = coding_of(frames[0], Tags.of(frames[0])), threads()
    for frame in frames:
        assert to_sdr(frame, coding, 32, 48).shape == (32, 48, 3)
    assert threads() == before


def threads():
    """Of this process; 0 where the system does not tell."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0
