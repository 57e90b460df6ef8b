"""Colours of clips: matrix, range, HDR, wide gamuts, alpha; and their geometry: turned, mirrored, interlaced."""

from fractions import Fraction

import numpy as np
import pytest
from small_media import numbered, write_video

from lcv_jax.data.colour import Tags
from lcv_jax.data.media_reader import read_image, read_video

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
COLOURS = np.array(
    [(0.0, 0.0, 0.0), (0.2, 0.2, 0.2), (0.5, 0.5, 0.5), (0.7, 0.1, 0.1), (0.1, 0.6, 0.1), (0.7, 0.7, 0.7)]
)
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
P3_TO_XYZ = np.array([[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0, 0.0451134, 1.0439444]])
BT709_TO_XYZ = np.array(
    [[0.4123908, 0.3575843, 0.1804808], [0.2126390, 0.7151687, 0.0721923], [0.0193308, 0.1191948, 0.9505322]]
)


def planes_of(rgb, matrix, is_full, bits):
    """Y, Cb and Cr of ITU-T H.273, equations 20 to 34."""
    kr, kb = KR_KB[matrix]
    y = rgb @ np.array([kr, 1 - kr - kb, kb])
    cb, cr = (rgb[..., 2] - y) / (2 - 2 * kb), (rgb[..., 0] - y) / (2 - 2 * kr)
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    if is_full:
        return [np.round(np.clip(plane, 0, top)) for plane in (y * top, cb * top + 128 * scale, cr * top + 128 * scale)]
    return [np.round(plane * scale) for plane in (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr)]


def write_signal(path, signal_HW3, *, matrix=1, is_full=False, bits=8, tags=(2, 2, 2, 0)):
    """One frame of a signal 0..1 in 4:4:4 without loss. Tags: matrix, transfer, primaries, range."""
    height, width, _ = signal_HW3.shape
    kind = {8: "yuv444p", 10: "yuv444p10le"}[bits]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, kind
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = tags
        frame = av.VideoFrame(width, height, kind)
        for plane, values in zip(frame.planes, planes_of(signal_HW3, matrix, is_full, bits), strict=True):
            row = np.zeros((height, plane.line_size // (bits // 10 + 1)), np.uint16 if bits == 10 else np.uint8)
            row[:, :width] = values
            plane.update(row.tobytes())
        frame.pts, frame.time_base = 0, Fraction(1, 8)
        frame.colorspace, frame.color_range = tags[0], tags[3]
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def patches(colours=COLOURS):
    return np.repeat(np.repeat(colours[None], 16, 0), 16, 1)


def read_patches(path):
    return read_video(path)[0][0, 8, 8::16].astype(int)


# Matrix and range


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 9])
def test_tagged_matrix_and_range(tmp_path, matrix, is_full, bits):
    tags = (matrix, 1, 1, 2 if is_full else 1)
    path = write_signal(tmp_path / "a.mkv", patches(), matrix=matrix, is_full=is_full, bits=bits, tags=tags)
    assert np.abs(read_patches(path) - COLOURS * 255).max() <= 2


@pytest.mark.parametrize(("matrix", "primaries", "height"), [(5, 2, 16), (1, 2, 578), (1, 1, 16), (5, 6, 578)])
def test_untagged_matrix_follows_the_primaries_then_the_size(tmp_path, matrix, primaries, height):
    signal = np.broadcast_to(patches()[:1], (height, 96, 3))
    path = write_signal(tmp_path / "a.mkv", signal, matrix=matrix, tags=(2, 2, primaries, 0))
    assert np.abs(read_patches(path) - COLOURS * 255).max() <= 2


@pytest.mark.parametrize(("tag", "levels"), [(1, (16, 126, 235)), (2, (0, 128, 255)), (0, (0, 128, 255))])
def test_range_of_gray(tmp_path, tag, levels):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 16, "gray"
        stream.codec_context.color_range = tag
        frame = av.VideoFrame.from_ndarray(np.repeat(np.array([levels], np.uint8), 16, 1).repeat(16, 0), format="gray")
        frame.color_range = tag
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert np.abs(read_video(tmp_path / "a.mkv")[0][0, 8, 8::16] - np.array([[0], [128], [255]])).max() <= 1


def test_tags_of_the_container_fill_in_for_the_frames():
    assert Tags(2, 16, 0, 0).or_else(Tags(9, 1, 9, 1)) == Tags(9, 16, 9, 1)
    assert Tags(1, 1, 1, 2).or_else(Tags(9, 16, 9, 1)) == Tags(1, 1, 1, 2)


# HDR and wide gamuts


def pq(light):
    power = np.clip(light * 203 / 10_000, 0, 1) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light):
    """Of a display of 1000 cd/m2: the inverse of the system gamma, then the OETF of ITU-R BT.2100."""
    display = light * 203 / 1000
    luminance = np.maximum(display @ np.array([0.2627, 0.6780, 0.0593]), 1e-9)[..., None]
    scene = display * luminance ** ((1 - 1.2) / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


@pytest.mark.parametrize(("transfer", "encode"), [(16, pq), (18, hlg)])
def test_hdr_is_tone_mapped(tmp_path, transfer, encode):
    """Below the knee an HDR clip is the SDR clip of the same scene; above it keeps order and hue."""
    light = patches() ** 2.4 @ TO_BT2020.T
    path = write_signal(tmp_path / "a.mkv", encode(light), matrix=9, bits=10, tags=(9, transfer, 9, 1))
    assert np.abs(read_patches(path) - COLOURS * 255).max() <= 3
    bright = np.array([203.0, 300, 500, 1000, 1000]) / 203
    greys = np.repeat(bright[:, None], 3, 1)
    greys[4] = (bright[4], bright[4] / 8, bright[4] / 8)
    path = write_signal(
        tmp_path / "b.mkv", encode(patches(greys) @ TO_BT2020.T), matrix=9, bits=10, tags=(9, transfer, 9, 1)
    )
    got = read_patches(path)
    assert (np.ptp(got[:4], axis=1) <= 2).all(), "gray stays gray"
    assert 225 < got[0, 0] < got[1, 0] < got[2, 0] < got[3, 0]
    assert got[3, 0] >= 253
    assert got[4, 0] >= 250
    assert got[4, 1] == pytest.approx(255 / 8 ** (1 / 2.4), abs=4)


def test_hdr_by_the_matrix_alone(tmp_path):
    """Primaries and matrix are not tagged: PQ is defined with those of BT.2020 only."""
    light = patches() ** 2.4 @ TO_BT2020.T
    path = write_signal(tmp_path / "a.mkv", pq(light), matrix=9, bits=10, tags=(2, 16, 2, 0))
    assert np.abs(read_patches(path) - COLOURS * 255).max() <= 3


@pytest.mark.parametrize(
    ("primaries", "transfer", "to_wide"),
    [
        (9, 14, TO_BT2020),
        (12, 1, np.linalg.inv(P3_TO_XYZ) @ BT709_TO_XYZ),
        (12, 13, np.linalg.inv(P3_TO_XYZ) @ BT709_TO_XYZ),
    ],
)
def test_wide_gamuts_are_converted(tmp_path, primaries, transfer, to_wide):
    signal = np.clip(patches() ** 2.4 @ to_wide.T, 0, 1) ** (1 / 2.4)
    path = write_signal(tmp_path / "a.mkv", signal, bits=10, tags=(1, transfer, primaries, 1))
    assert np.abs(read_patches(path) - COLOURS * 255).max() <= 3


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ((9, 2, 9, 1), "has BT.2020 colours without a transfer curve: SDR, PQ and HLG are all possible; convert it"),
        ((1, 8, 1, 1), "has the transfer curve 8 of H.273"),
        ((1, 1, 10, 1), "has the colour primaries 10 of H.273"),
        ((10, 14, 9, 1), "has the colour matrix 10 of H.273"),
    ],
)
def test_colours_that_are_refused(tmp_path, tags, reason):
    path = write_signal(tmp_path / "a.mkv", patches(), tags=tags)
    with pytest.raises(ValueError, match=rf"a\.mkv: {reason}"):
        read_video(path)


# Alpha


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.webm", "libvpx-vp9", "yuva420p"), ("b.webm", "libvpx", "yuva420p"), ("a.mov", "prores_ks", "yuva444p10le"),
     ("b.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "bgra")],
)  # fmt: skip
def test_transparent_clips_and_images_are_over_white(tmp_path, name, codec, pix_fmt):
    image = np.zeros((64, 64, 4), np.uint8)
    image[16:48, 16:48] = (200, 30, 30, 255)
    image[:, 56:] = (0, 0, 200, 128)
    path = write_video(
        tmp_path / name,
        np.stack([image] * 5),
        codec=codec,
        pix_fmt=pix_fmt,
        options={"b": "2M", "auto-alt-ref": "0"} if "vpx" in codec else {},
    )
    Image.fromarray(image).save(tmp_path / "a.png")
    still, clip = read_image(tmp_path / "a.png").astype(int), read_video(path)[0][2].astype(int)
    assert still[4, 4].tolist() == [255, 255, 255]
    assert still[4, 60].tolist() == [127, 127, 227]
    for y, x in ((4, 4), (32, 32), (32, 60)):
        assert np.abs(clip[y, x] - still[y, x]).max() <= 8


# Geometry


def asymmetric():
    image = np.full((32, 48, 3), 40, np.uint8)
    image[:8, :24] = (230, 40, 40)
    return image


def matrix_of(turn, mirrored):
    """A display matrix: mirrored left to right, then turned clockwise by quarters."""
    a, b, c, d = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turn]
    if mirrored:
        a, b = -a, -b
    return np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], np.int32)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turn", range(4))
def test_turned_and_mirrored_clips(tmp_path, turn, mirrored):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=8, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
        stream.set_display_matrix(matrix_of(turn, mirrored).tolist())
        file.mux(stream.encode(av.VideoFrame.from_ndarray(asymmetric(), format="rgb24")))
        file.mux(stream.encode(None))
    image = asymmetric()[:, ::-1] if mirrored else asymmetric()
    np.testing.assert_array_equal(read_video(path)[0][0], np.rot90(image, -turn))


def test_interlaced_clips_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered(5), options={"flags": "+ilme+ildct", "x264-params": "tff=1"})
    with pytest.raises(ValueError, match=r"a\.mkv: is interlaced; deinterlace it \(ffmpeg -i FILE -vf bwdif OUT"):
        read_video(path)


def test_frames_that_change_size(tmp_path):
    for number, size in enumerate(((32, 48), (48, 32))):
        write_video(tmp_path / f"{number}.ts", numbered(5, *size), options={"x264-params": "repeat-headers=1"})
    with av.open(str(tmp_path / "a.ts"), "w") as target:
        stream = None
        for number in range(2):
            with av.open(str(tmp_path / f"{number}.ts")) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = stream
                        packet.pts, packet.dts = packet.pts + number * 20000, packet.dts + number * 20000
                        target.mux(packet)
    with pytest.raises(ValueError, match=r"a\.ts: its frames change size from \(32, 48\) to \(48, 32\)"):
        read_video(tmp_path / "a.ts")
