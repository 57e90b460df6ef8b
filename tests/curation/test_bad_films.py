"""Films that are broken or unusual, through a whole run: each is used, or quarantined with its reason."""

import os
import shutil
from fractions import Fraction

import numpy as np
import pytest

from lcv_jax import curate
from lcv_jax.curation.clips import write_clip
from lcv_jax.curation.library import Library
from lcv_jax.data.media_reader import read_video
from lcv_jax.data.media_writer import VideoWriter

av = pytest.importorskip("av")
pytest.importorskip("scenedetect")
HEIGHT, WIDTH, FPS = 48, 80, 10


def pictures(count=24, height=HEIGHT, width=WIDTH):
    """A bright square that moves over blocks, red on the left side; other blocks for another length."""
    blocks = np.random.default_rng(count).integers(60, 160, (-(-height // 8), width // 8, 3), np.uint8)
    blocks = blocks.repeat(8, axis=0)[:height].repeat(8, axis=1)
    blocks[:, : width // 4] = (200, 40, 40)
    frames = np.repeat(blocks[None], count, 0)
    for number, frame in enumerate(frames):
        frame[10:20, 30 + number : 40 + number] = 240
    return frames


def write(path, frames, *, codec="libx264", pixels="yuv420p", times=None, options=None, turn=0):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=FPS, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.time_base = Fraction(1, FPS)
        if turn:
            stream.set_display_rotation(turn)
        for moment, picture in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_sound(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=48000, layout="mono")
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.pts, frame.rate = 1024 * number, 48000
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def cut_off(source, path, share):
    content = source.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def join(parts, path):
    """One stream of several, one after the other."""
    with av.open(str(path), "w") as target:
        stream = None
        for number, part in enumerate(parts):
            with av.open(str(part)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = stream
                        shift = number * 90000 * 15 // FPS
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        target.mux(packet)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """All of them, after one run."""
    folder = tmp_path_factory.mktemp("bad")
    films = folder / "films"
    films.mkdir()
    with VideoWriter(films / "good.mp4", fps=FPS, height=HEIGHT, width=WIDTH) as file:
        file.write(pictures())
    cut_off(films / "good.mp4", films / "tail.mp4", 0.6)
    cut_off(films / "good.mp4", films / "head.mp4", 0.05)
    write_sound(films / "sound.mp4")
    (films / "zero.mp4").touch()
    (films / "text.mp4").write_text("a letter, not a film\n" * 100)
    write(films / "one.mp4", pictures(1))
    write(films / "variable.mkv", pictures(20), codec="ffv1", times=[*range(14), *range(14, 26, 2)])
    write(films / "gap.mkv", pictures(40), times=[*range(20), *range(320, 340)])
    write(films / "turned.mp4", pictures(20), turn=90)
    write(films / "ten_bits.mkv", pictures(22), codec="ffv1", pixels="yuv420p10le")
    write(films / "interlaced.mkv", pictures(20), options={"flags": "+ilme+ildct", "x264-params": "tff=1"})
    # An AVI under another name: what counts is the content.
    write(films / "renamed.avi", pictures(21), codec="mpeg4").rename(films / "renamed.mp4")
    parts = [
        write(folder / f"{side}.ts", pictures(15, side, 80), options={"x264-params": "repeat-headers=1"})
        for side in (48, 64)
    ]
    join(parts, films / "midway.ts")
    patch = pytest.MonkeyPatch()
    patch.setattr("lcv_jax.curation.segment.find_weights", lambda path: None)
    shutil.copy(films / "good.mp4", films / "good again [abcdefg].mp4")
    shutil.copy(films / "good.mp4", os.fsencode(films) + b"/latin \xe9.mp4")
    (films / "gone.mp4").symlink_to("nowhere")
    with VideoWriter(films / "resized.mp4", fps=FPS, height=HEIGHT // 2, width=WIDTH // 2) as file:
        file.write(pictures()[:, ::2, ::2])
    arguments = ["--engine", "process", "--segment.shortest", "1", "--stages", "measures"]
    curate.main(["run", str(films), str(folder / "library"), *arguments])
    patch.undo()
    return Library(folder / "library")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tail.mp4", "is cut off"),
        ("head.mp4", "holds no video"),
        ("sound.mp4", "no video"),
        ("zero.mp4", "cannot be read as a video"),
        ("text.mp4", "cannot be read as a video"),
        ("interlaced.mkv", "is interlaced; deinterlace it"),
        ("gone.mp4", "No such file"),
        ("latin%", "its name is not UTF-8, rename it"),
        ("midway.ts", "its frames change size from (48, 80) to (64, 80)"),
    ],
)
def test_a_film_that_cannot_be_used_is_quarantined_with_its_reason(library, name, reason):
    ((found,),) = library.connect().execute(f"SELECT reason FROM quarantine WHERE path LIKE '%/{name}'").fetchall()
    assert reason in found
    assert not library.connect().execute(f"SELECT clip FROM clips WHERE path LIKE '%/{name}'").fetchall()


@pytest.mark.parametrize("name", ["good.mp4", "variable.mkv", "turned.mp4", "ten_bits.mkv", "renamed.mp4"])
def test_an_unusual_film_becomes_clips_that_are_not(library, name):
    sql = f"SELECT clip_path, clip_height, clip_width, clip_frames, sharpness FROM clips WHERE path LIKE '%/{name}'"
    rows = library.connect().execute(sql).fetchall()
    assert len(rows) == 1
    path, height, width, count, sharpness = rows[0]
    assert (height, width) == ((WIDTH, HEIGHT) if name == "turned.mp4" else (HEIGHT, WIDTH))
    assert sharpness > 0
    frames, fps = read_video(library.folder / path)
    assert fps == FPS
    assert len(frames) == count
    if name == "variable.mkv":
        assert count >= 24  # what was shown for 0.2 s is shown for as long
    red = frames[0][-10:] if name == "turned.mp4" else frames[0][:, :10]
    assert red[..., 0].mean() > red[..., 1].mean() + 80


def test_no_clip_spans_a_gap_in_the_times_of_a_film(library, tmp_path):
    rows = library.connect().execute("""SELECT start, "end", clip_path FROM clips WHERE path LIKE '%/gap.mkv'""")
    found = [(start, end, len(read_video(library.folder / path)[0])) for start, end, path in sorted(rows.fetchall())]
    assert found == [(0, 18, 18), (22, 40, 18)]
    write_clip(library.folder.parent / "films" / "gap.mkv", tmp_path / "before.mp4", 5, 20)
    assert len(read_video(tmp_path / "before.mp4")[0]) == 15


def test_a_film_that_repeats_another_is_not_cut(library):
    sql = "SELECT duplicate_of IS NULL, copies, len(clip_starts) FROM sources WHERE path LIKE '%/{}'"
    assert library.connect().execute(sql.format("resized.mp4")).fetchall() == [(False, 1, None)]
    assert library.connect().execute(sql.format("good%")).fetchall() == [(True, 2, 1)]


def test_a_film_of_one_frame_has_no_clip_and_is_no_fault(library):
    connection = library.connect()
    assert not connection.execute("SELECT 1 FROM quarantine WHERE path LIKE '%/one.mp4'").fetchall()
    assert connection.execute("SELECT clip_starts FROM sources WHERE path LIKE '%/one.mp4'").fetchall() == [([],)]
