"""Which frames are read: seeks, lengths, irregular and missing times, incomplete files, animations."""

import itertools
import struct
from fractions import Fraction

import numpy as np
import pytest
from small_media import numbered, numbers, write_video

from lcv_jax.data.clips import Measure, measure, read_into_bucket
from lcv_jax.data.manifest import Entry
from lcv_jax.data.media_reader import probe_video, read_image, read_video, stream_video
from lcv_jax.data.timing import make_timeline

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

GOPS = {"g": "10", "bf": "2", "crf": "5", "sc_threshold": "0"}  # no key frames but every tenth


def animation(path, count=6, **settings):
    """Frame k is gray 10 + 6 k, in a file that Pillow writes."""
    images = [Image.fromarray(image) for image in numbered(count)]
    images[0].save(path, save_all=True, append_images=images[1:], **{"loop": 0, **settings})
    return path


# Seeks


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", GOPS),
        ("a.mkv", "libx264", GOPS),
        ("a.ts", "libx264", GOPS),
        ("open.ts", "libx264", GOPS | {"x264-params": "open-gop=1"}),
        ("a.flv", "libx264", GOPS),
        ("a.avi", "mpeg4", {"g": "10", "bf": "2", "b": "2M", "sc_threshold": "1000000"}),
        ("a.mpg", "mpeg2video", {"g": "10", "bf": "2", "b": "2M", "sc_threshold": "1000000"}),
        ("a.webm", "libvpx", {"g": "10", "b": "2M", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    ],
)
def test_reading_from_a_moment_gives_that_frame(tmp_path, name, codec, options):
    """Seeks land late in some containers, and some streams do not begin at 0."""
    path = write_video(tmp_path / name, numbered(40), codec=codec, options=options)
    assert probe_video(path) == (32, 48, pytest.approx(1.6, abs=0.01))
    assert numbers(read_video(path)[0]) == list(range(40))
    for start in (0, 5, 10, 11, 19, 23, 30, 37):
        frames = list(itertools.islice(stream_video(path, 25, start / 25), 4))
        assert numbers(frames) == list(range(start, min(start + 4, 40)))
    assert numbers(read_video(path, last=3)[0]) == [37, 38, 39]


def test_a_seek_does_not_decode_what_lies_before(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", numbered(40), options=GOPS)
    decoded = []
    from lcv_jax.data.video_file import VideoFile

    whole = VideoFile._decoded

    def counted(self):
        for frame in whole(self):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoFile, "_decoded", counted)
    assert numbers(read_video(path, last=3)[0]) == [37, 38, 39]
    assert len(decoded) <= 10


def remux(source, target, shift, options=None):
    """Copies the packets of a video with their times moved by so many frames of 1/25 s."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                ticks = round(Fraction(shift, 25) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, stream
                new.mux(packet)
    return target


def test_frames_before_the_edit_list(tmp_path):
    """A clip that was cut without encoding keeps the frames from the key frame on, and does not show them."""
    path = write_video(tmp_path / "a.mp4", numbered(30), options=GOPS | {"bf": "0"})
    remux(path, tmp_path / "b.mp4", -4, {"avoid_negative_ts": "disabled"})
    with av.open(str(tmp_path / "b.mp4")) as file:
        assert sum(bool(packet.size) for packet in file.demux(video=0)) == 30
    assert numbers(read_video(tmp_path / "b.mp4")[0]) == list(range(4, 30))
    assert probe_video(tmp_path / "b.mp4")[2] == pytest.approx(26 / 25)
    assert numbers(list(stream_video(tmp_path / "b.mp4", 25, 0.4))) == list(range(14, 30))


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", GOPS), ("mpeg2video", {"g": "10", "bf": "2", "b": "2M", "sc_threshold": "1000000"})],
)
def test_a_recording_that_begins_between_key_frames(tmp_path, codec, options):
    """Its first frames cannot be decoded: the clip begins with the first key frame."""
    path = write_video(tmp_path / "a.ts", numbered(40), codec=codec, options=options)
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[places[13] :])
    frames, _ = read_video(path)
    first = numbers(frames)[0]
    assert first == 20 if codec == "libx264" else first > 20, (
        "MPEG-2's frames before an open group's key frame are lost"
    )
    assert numbers(frames) == list(range(first, 40))
    assert probe_video(path)[2] == pytest.approx((40 - first) / 25)
    assert numbers([next(stream_video(path, 25, 0.12))]) == [first + 3]


# Lengths


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.flv", "a.mov", "a.ts"])
def test_sound_that_outlasts_the_picture(tmp_path, name):
    codec = {"codec": "libvpx-vp9", "options": {}} if name == "a.webm" else {}
    path = write_video(tmp_path / name, numbered(25), sound=1.6, **codec)
    assert probe_video(path)[2] == pytest.approx(1.0, abs=0.01)
    frames, _ = read_video(path)
    assert numbers(frames) == list(range(25))
    assert measure(Entry(id="a", path=path), 5.0) == Measure(32, 48, 5)
    size, frames = read_into_bucket(Entry(id="a", path=path), [[(5, 32, 48), (6, 32, 48)]], 5.0)
    assert size == (5, 32, 48)
    assert numbers(frames) == [0, 5, 10, 15, 20]


def test_a_wrong_duration_in_the_header(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(25))
    data = path.read_bytes()
    place = data.index(b"\x44\x89\x88") + 3  # Duration, a float of eight bytes
    path.write_bytes(data[:place] + struct.pack(">d", 9000) + data[place + 8 :])
    with av.open(str(path)) as file:
        assert file.duration == 9_000_000
    assert probe_video(path)[2] == pytest.approx(1.0, abs=0.01)
    assert len(read_video(path)[0]) == 25


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.flv"])
def test_files_that_were_cut_off(tmp_path, name):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    path = tmp_path / name
    write_video(path, noise, codec=codec)
    if name == "a.mp4":  # the index in front, or the file could not be opened at all
        path = remux(path, tmp_path / "b.mp4", 0, {"movflags": "faststart"})
    assert len(read_video(path)[0]) == 30
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 85 // 100])
    with pytest.raises(OSError, match=rf"{path.name}: is cut off.* copy or download it again"):
        read_video(path)
    with pytest.raises(OSError, match="is cut off"):
        next(stream_video(path, 8))


def test_a_transport_stream_that_ends_in_a_frame(tmp_path):
    """As most recordings do: what is whole is read, and the damaged frame is refused."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.ts", noise)
    whole = read_video(path)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 85 // 100])
    np.testing.assert_array_equal(read_video(path, first=20)[0], whole[:20])
    with pytest.raises(OSError, match=r"a\.ts: frame 25 of 26 \(at 1\.000 s\) is damaged; copy"):
        read_video(path)


# Times


def test_times_that_repeat(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(5), codec="mjpeg", pix_fmt="yuvj420p", times=[5, 6, 6, 7, 8])
    with pytest.raises(
        ValueError, match=r"a\.mkv: 1 of its 5 frames have the time of another \(the first at 0\.040 s\)"
    ):
        read_video(path)


def test_times_that_fall(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(5), codec="mjpeg", pix_fmt="yuvj420p", times=[5, 6, 8, 7, 9])
    with pytest.raises(ValueError, match=r"a\.mkv: its frame times do not rise \(frame 2 is the first\); re-encode it"):
        read_video(path)


def test_times_that_begin_again(tmp_path):
    """Two recordings one after the other."""
    write_video(tmp_path / "a.ts", numbered(40))
    write_video(tmp_path / "b.ts", numbered(40), fps=Fraction(24))
    (tmp_path / "c.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(ValueError, match=r"c\.ts: (its frame times do not rise|\d+ of its 80 frames have the time)"):
        read_video(tmp_path / "c.ts")


def test_times_that_are_missing(tmp_path):
    path = write_video(tmp_path / "a.h264", numbered(5))
    with pytest.raises(ValueError, match=r"a\.h264: 5 of its 5 frames have no time; re-encode it"):
        read_video(path)


def test_a_frame_that_was_dropped(tmp_path):
    """The rate is still 25 frames per second; the frame before the gap is shown longer."""
    path = write_video(
        tmp_path / "a.mkv", numbered(9), codec="mjpeg", pix_fmt="yuvj420p", times=[0, 1, 2, 3, 6, 7, 8, 9, 10]
    )
    frames, fps = read_video(path)
    assert fps == 25
    assert numbers(frames) == [0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8]
    assert numbers(read_video(path, last=6)[0]) == [4, 4, 5, 6, 7, 8]
    assert probe_video(path)[2] == pytest.approx(11 / 25)


def test_nearest_frames_and_rates():
    even = make_timeline([0, 33, 67, 100], Fraction(1, 1000), stated_rates=[Fraction(30)])
    assert (even.is_constant, even.rate, even.seconds) == (True, 30, Fraction(1, 10) + Fraction(1, 30))
    assert [even.nearest(Fraction(tick, 1000)) for tick in (-5, 16, 17, 50, 51, 84, 500)] == [0, 0, 1, 1, 2, 3, 3]
    coarse = make_timeline([0, 1, 2, 4, 5], Fraction(1, 25), stated_rates=[Fraction(25)])
    assert (coarse.is_constant, coarse.rate) == (False, 25), "a gap of a frame is no rounding"
    wrong = make_timeline([10, 60, 110], Fraction(1, 1000), stated_rates=[Fraction(25)])
    assert (wrong.is_constant, wrong.rate, wrong.seconds) == (True, 20, Fraction(15, 100))
    held = make_timeline([0, 40, 80], Fraction(1, 1000), last_duration=400)
    assert held.seconds == Fraction(48, 100)
    with pytest.raises(ValueError, match="holds no frame"):
        make_timeline([], Fraction(1, 25))


# Animations


@pytest.mark.parametrize(
    ("name", "settings"), [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}), ("a.apng", {"format": "PNG"})]
)
def test_animations_are_clips(tmp_path, name, settings):
    path = animation(tmp_path / name, duration=[80, 160, 80, 160, 80, 160], **settings)
    assert probe_video(path) == (32, 48, 0.72)
    frames, fps = read_video(path)
    assert fps == Fraction(25, 2)
    assert numbers(frames) == [0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert numbers(list(stream_video(path, 12.5, 0.4))) == [3, 4, 5, 5]
    assert numbers(read_video(path, 12.5, last=3)[0]) == [3, 4, 5]
    entry = Entry(id="a", path=path)
    assert not entry.is_image
    assert read_into_bucket(entry, [[(5, 32, 48)]], 8.0)[1].shape == (5, 32, 48, 3)
    with pytest.raises(ValueError, match=rf"{name}: is an animation of 6 frames, not an image; give it as a clip"):
        read_image(path)


def test_animations_with_a_picture_for_old_programs(tmp_path):
    poster = Image.new("RGB", (48, 32), "red")
    images = [Image.fromarray(image) for image in numbered(4)]
    poster.save(tmp_path / "a.png", save_all=True, append_images=images, default_image=True, duration=100)
    assert numbers(read_video(tmp_path / "a.png")[0]) == [0, 1, 2, 3]


def test_delays_that_browsers_do_not_follow(tmp_path):
    assert probe_video(animation(tmp_path / "a.gif", duration=0))[2] == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif", "a.jpg"])
def test_still_images_are_no_clips(tmp_path, name):
    Image.fromarray(numbered(1)[0]).save(tmp_path / name)
    assert Entry(id="a", path=tmp_path / name).is_image
    with pytest.raises(ValueError, match=rf"{name}: is a still image, not a clip; give it as an image"):
        read_video(tmp_path / name)
    assert read_image(tmp_path / name).shape == (32, 48, 3)


def test_pages_are_no_frames(tmp_path):
    with pytest.raises(ValueError, match=r"a\.tif: has 3 pages, not one; save the page to use as its own file"):
        read_image(animation(tmp_path / "a.tif", count=3))
