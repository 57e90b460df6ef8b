"""Images: orientation, colour profiles, bit depths, alpha; and what has no defined colours."""

import io
import struct
import zlib

import numpy as np
import pytest

from lcv_jax.data.clips import Measure, measure
from lcv_jax.data.manifest import Entry
from lcv_jax.data.media_reader import read_image

Image = pytest.importorskip("PIL.Image")
ImageCms = pytest.importorskip("PIL.ImageCms")

COLOURS = np.array([(40, 40, 40), (200, 60, 60), (60, 180, 60), (60, 60, 200), (230, 230, 230)], np.uint8)
D65_TO_D50 = np.array([[1.04788, 0.02292, -0.05022], [0.02959, 0.99048, -0.01707], [-0.00925, 0.01508, 0.75168]])
TO_XYZ = {
    "srgb": np.array(
        [[0.4123908, 0.3575843, 0.1804808], [0.212639, 0.7151687, 0.0721923], [0.0193308, 0.1191948, 0.9505322]]
    ),
    "p3": np.array([[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0, 0.0451134, 1.0439444]]),
    "adobe": np.array(
        [[0.5767309, 0.185554, 0.1881852], [0.2973769, 0.6273491, 0.0752741], [0.0270343, 0.0706872, 0.9911085]]
    ),
}
GAMMA = {"p3": 2.2, "adobe": 563 / 256}


def profile(name):
    """A matrix profile of version 2 with a plain gamma (ICC.1:2001-04)."""
    xyz = D65_TO_D50 @ TO_XYZ[name]
    fixed = lambda values: b"".join(struct.pack(">i", round(value * 65536)) for value in values)  # noqa: E731
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79),
        b"wtpt": b"XYZ \0\0\0\0" + fixed((0.9642, 1, 0.8249)),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        **{c + b"XYZ": b"XYZ \0\0\0\0" + fixed(xyz[:, place]) for place, c in enumerate((b"r", b"g", b"b"))},
        **{
            c + b"TRC": b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(GAMMA[name] * 256), 0)
            for c in (b"r", b"g", b"b")
        },
    }
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value
    header = struct.pack(">I", at + len(data)) + bytes(4) + b"\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp"
    header += bytes(28) + fixed((0.9642, 1, 0.8249))
    return header + bytes(128 - len(header)) + table + data


def in_space(name):
    """The colours, which are sRGB's, as values of another RGB space."""
    encoded = COLOURS / 255
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    light = np.clip(light @ (np.linalg.inv(TO_XYZ[name]) @ TO_XYZ["srgb"]).T, 0, 1)
    return np.round(light ** (1 / GAMMA[name]) * 255).astype(np.uint8)


def patches(colours=COLOURS):
    return np.ascontiguousarray(np.repeat(np.repeat(colours[None], 16, 0), 16, 1))


def read_patches(path):
    return read_image(path)[8, 8::16].astype(int)


def with_chunk(path, kind, data):
    """Adds a chunk behind the header of a PNG file."""
    whole = path.read_bytes()
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(whole[:33] + chunk + whole[33:])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation, suffix):
    upright = np.full((32, 48, 3), 40, np.uint8)
    upright[:8, :24] = (230, 40, 40)
    mirror, turns = {1: (0, 0), 2: (1, 0), 3: (0, 2), 4: (1, 2), 5: (1, 3), 6: (0, 1), 7: (1, 1), 8: (0, 3)}[
        orientation
    ]
    stored = np.rot90(upright, turns)  # a viewer turns it back, clockwise
    stored = stored[:, ::-1] if mirror else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(
        path, exif=exif, **{"quality": 95} if suffix in ("jpg", "webp") else {}
    )
    assert np.abs(read_image(path).astype(int) - upright).mean() <= 3
    assert measure(Entry(id="a", path=path), 8.0) == Measure(32, 48, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("name", ["p3", "adobe"])
def test_colour_profiles_are_converted_to_srgb(tmp_path, name, suffix):
    path = tmp_path / f"a.{suffix}"
    settings = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(patches(in_space(name))).save(path, icc_profile=profile(name), **settings)
    assert np.abs(in_space(name).astype(int) - COLOURS).max() > 15, "without conversion"
    assert np.abs(read_patches(path) - COLOURS).max() <= 3


def test_a_profile_beside_alpha_palette_and_gray(tmp_path):
    clear = np.dstack([patches(in_space("p3")), np.full((16, 80), 128, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png", icc_profile=profile("p3"))
    assert np.abs(read_patches(tmp_path / "clear.png") - (COLOURS * (128 / 255) + 127)).max() <= 3
    Image.fromarray(patches(in_space("p3"))).quantize(8).save(tmp_path / "palette.png", icc_profile=profile("p3"))
    assert np.abs(read_patches(tmp_path / "palette.png") - COLOURS).max() <= 3
    grey = patches()[..., 0]
    Image.fromarray(grey).save(
        tmp_path / "grey.jpg", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    assert np.abs(read_patches(tmp_path / "grey.jpg") - COLOURS[:, :1]).max() <= 3


def test_lab(tmp_path):
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(Image.fromarray(patches()), to_lab).save(tmp_path / "a.tif")
    assert np.abs(read_patches(tmp_path / "a.tif") - COLOURS).max() <= 8, "L*a*b* in 8 bits is coarse"


def test_depths_and_channels(tmp_path):
    image = Image.fromarray(patches())
    grey = np.asarray(image.convert("L"))
    as_rgb = np.repeat(grey[..., None], 3, 2)
    Image.fromarray(grey.astype(np.uint16) * 257 + 100).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 80 16 65535\n" + (grey.astype(">u2") * 257).tobytes())
    image.convert("L").convert("LA").save(tmp_path / "la.png")
    for name in ("a.png", "a.tif", "a.pgm", "la.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), as_rgb, err_msg=name)
    ink = image.convert("CMYK")
    ink.save(tmp_path / "ink.tif")
    ink.save(tmp_path / "ink.jpg", quality=98)
    for name in ("ink.tif", "ink.jpg"):
        assert np.abs(read_patches(tmp_path / name) - COLOURS).max() <= 3, name
    image.convert("1").save(tmp_path / "one.png")
    assert set(np.unique(read_image(tmp_path / "one.png"))) == {0, 255}


def test_transparency_is_over_white(tmp_path):
    image = Image.fromarray(patches()).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(80) < 48, 255, 0).astype(np.uint8)[None].repeat(16, 0)))
    image.save(tmp_path / "rgba.png")
    image.quantize(8).save(tmp_path / "palette.png")
    image.save(tmp_path / "rgba.webp", lossless=True)
    image.convert("LA").save(tmp_path / "la.png")
    Image.fromarray(patches()).save(tmp_path / "keyed.png", transparency=tuple(COLOURS[3].tolist()))
    for name in ("rgba.png", "palette.png", "rgba.webp", "la.png", "keyed.png"):
        assert read_patches(tmp_path / name)[3].tolist() == [255] * 3, name
    assert np.abs(read_patches(tmp_path / "palette.png")[:3] - COLOURS[:3]).max() <= 3


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("a.tif", np.full((8, 8), 0.5, np.float32), "has floating-point pixels, whose range and gamma are not defined"),
        ("a.tif", np.full((8, 8), 200, np.int32), "has signed or 32-bit integer pixels, whose range is not defined"),
    ],
)
def test_pixels_without_a_defined_range(tmp_path, name, array, reason):
    Image.fromarray(array).save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: {reason}; convert it to 8-bit sRGB$"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (b"cICP", bytes([9, 16, 0, 1]), r"is an HDR image \(PQ\)"),
        (b"cICP", bytes([9, 18, 0, 1]), r"is an HDR image \(HLG\)"),
        (b"cICP", bytes([12, 13, 0, 1]), "has the colours 12, 13 of H.273, which are not sRGB"),
        (b"gAMA", struct.pack(">I", 100_000), "has a gamma of 1 without a colour profile"),
        (b"iCCP", b"bad\0\0" + zlib.compress(b"no profile"), "has a colour profile that cannot be used"),
    ],
)
def test_colours_that_are_refused(tmp_path, kind, data, reason):
    Image.fromarray(patches()).save(tmp_path / "a.png")
    with_chunk(tmp_path / "a.png", kind, data)
    with pytest.raises(ValueError, match=rf"a\.png: {reason}.*; convert it to"):
        read_image(tmp_path / "a.png")


def test_chunks_that_say_srgb(tmp_path):
    Image.fromarray(patches()).save(tmp_path / "a.png")
    for kind, data in ((b"gAMA", struct.pack(">I", 45_455)), (b"cICP", bytes([1, 13, 0, 1])), (b"sRGB", b"\0")):
        with_chunk(tmp_path / "a.png", kind, data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), patches())


def test_hdr_in_avif(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(patches()).save(buffer, format="AVIF", quality=95)
    (tmp_path / "a.avif").write_bytes(buffer.getvalue())
    assert np.abs(read_patches(tmp_path / "a.avif") - COLOURS).max() <= 6
    at = buffer.getvalue().index(b"colrnclx") + 8
    (tmp_path / "b.avif").write_bytes(buffer.getvalue()[:at] + struct.pack(">HH", 9, 16) + buffer.getvalue()[at + 4 :])
    with pytest.raises(ValueError, match=r"b\.avif: is an HDR image \(PQ\)"):
        read_image(tmp_path / "b.avif")


def test_a_second_picture_behind_a_photograph(tmp_path):
    """Phones add a smaller picture or a depth map; the photograph comes first."""
    image, other = Image.fromarray(patches()), Image.new("RGB", (8, 8), "black")
    image.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[other], quality=98, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.n_frames == 2
    assert np.abs(read_patches(tmp_path / "a.jpg") - COLOURS).max() <= 6
