"""Image files and animations, by Pillow: upright, in sRGB, over white.

An image is what has one picture, an animation what has several with times. What is neither, or has no defined colours,
is refused. The rules are in docs/training.md.
"""

import io
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.colour import over_white
from lcv_jax.data.frames import media_package
from lcv_jax.data.timing import Timeline, make_timeline
from lcv_jax.user_files import check_regular

_ANIMATIONS = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
_FIRST_IS_THE_PICTURE = frozenset({"MPO", "PSD", "ICO", "ICNS", "CUR"})
"""Formats with several pictures of which the first is what a viewer shows."""
_SHORTEST_DELAY, _USUAL_DELAY = 10, 100
"""Milliseconds: browsers show a frame with a delay of at most the first for the second."""
_SRGB_GAMMA = 1 / 2.2
_ORIENTATION, _FIRST_TURNED = 0x0112, 5
"""The EXIF tag, and the first of its values that exchange rows and columns."""


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image file as it is meant to be seen: turned as its EXIF data says, in sRGB, over white.

    Raises:
        OSError: there is no such file, or it is no image.
        ValueError: it is an animation, has several pages, or its colours are not defined.
    """
    with _opened(path) as file:
        if is_animated(file):
            raise ValueError(
                f"{path}: is an animation of {file.n_frames} frames, not an image; give it as a clip, or save the "
                "frame to use as an image"
            )
        if getattr(file, "n_frames", 1) > 1 and file.format not in _FIRST_IS_THE_PICTURE:
            raise ValueError(f"{path}: has {file.n_frames} pages, not one; save the page to use as its own file")
        return _to_rgb(path, file)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image file as it is meant to be seen, from its header.

    Raises:
        OSError: there is no such file, or it is no image.
    """
    with _opened(path) as file:
        width, height = file.size
        turned = file.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    return (width, height) if turned else (height, width)


def is_picture_file(path: str | Path) -> bool:
    """Whether a file begins as the image and animation formats do that Pillow reads here."""
    check_regular(path)
    with open(path, "rb") as file:
        head = file.read(12)
    starts = (b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
    return head.startswith(starts) or head[8:12] == b"WEBP" or head[4:12] in (b"ftypavif", b"ftypavis")


def is_animation_file(path: str | Path) -> bool:
    """Whether a file is an animation by its header; False for what cannot be read."""
    try:
        with _opened(path) as file:
            return is_animated(file)
    except OSError:
        return False


def is_animated(file: Any) -> bool:
    """Whether an opened Pillow image has several frames with times."""
    return file.format in _ANIMATIONS and bool(getattr(file, "is_animated", False))


class Animation:
    """An animated GIF, WebP, PNG or AVIF file as a clip."""

    def __init__(self, path: str | Path):
        self.path = path

    def __enter__(self) -> "Animation":
        self._file = _opened(self.path)
        if not is_animated(self._file):
            self._file.close()
            raise ValueError(f"{self.path}: is a still image, not a clip; give it as an image")
        # A PNG may have a picture for programs that do not know animations.
        self._first = 1 if getattr(self._file, "default_image", False) else 0
        self.timeline = self._timeline()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _timeline(self) -> Timeline:
        ticks, now, delay = [], 0, 0
        for number in range(self._first, self._file.n_frames):
            self._go_to(number)
            delay = round(self._file.info.get("duration", 0))
            delay = delay if delay > _SHORTEST_DELAY else _USUAL_DELAY
            ticks.append(now)
            now += delay
        return make_timeline(ticks, Fraction(1, 1000), last_duration=delay)

    def pictures(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Frames H W 3 of the timeline; the indices must not fall."""
        shown, picture = -1, np.empty(0)
        for index in indices:
            if index != shown:
                self._go_to(self._first + index)
                shown, picture = index, _to_rgb(self.path, self._file)
            yield picture

    def _go_to(self, number: int) -> None:
        try:
            self._file.seek(number)
            self._file.load()
        except (OSError, EOFError, ValueError, SyntaxError) as error:
            raise OSError(f"{self.path}: frame {number} cannot be decoded ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """FFmpeg's or Pillow's own words, without error numbers and the file name, which the message has already."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.split(r":? '", words.splitlines()[0])[0]


def _opened(path: str | Path) -> Any:
    image_module = media_package("PIL.Image")
    check_regular(path)
    try:
        return image_module.open(path)
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise OSError(f"{path}: cannot be read as an image ({reason(error)})") from error


def _to_rgb(path: str | Path, file: Any) -> UInt8[np.ndarray, "H W 3"]:
    image_module, image_ops = media_package("PIL.Image"), media_package("PIL.ImageOps")
    try:
        file.load()
        image = image_ops.exif_transpose(file)
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise OSError(f"{path}: cannot be read as an image ({reason(error)})") from error
    try:
        _refuse_undefined(path, file)
        image, alpha = _without_alpha(_in_eight_bits(image))
        colour_HW3 = np.array(_to_srgb(image, file))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return colour_HW3 if alpha is None else over_white(np.dstack([colour_HW3, np.asarray(alpha)]))


def _refuse_undefined(path: str | Path, file: Any) -> None:
    """Raises ValueError for pixels whose meaning the file does not define, or defines as something else than SDR."""
    advice = "convert it to 8-bit sRGB"
    if file.mode == "F":
        raise ValueError(f"has floating-point pixels, whose range and gamma are not defined; {advice}")
    if file.mode == "I" and file.format != "PPM":
        raise ValueError(f"has signed or 32-bit integer pixels, whose range is not defined; {advice}")
    primaries, transfer = _stated_colours(path, file.format)
    if transfer in (16, 18):
        raise ValueError(f"is an HDR image ({'PQ' if transfer == 16 else 'HLG'}); {advice}")
    if primaries not in (0, 1, 2) or transfer not in (0, 1, 2, 6, 13, 14, 15):
        raise ValueError(f"has the colours {primaries}, {transfer} of H.273, which are not sRGB; {advice}")
    if "icc_profile" in file.info or "srgb" in file.info:
        return
    if abs(file.info.get("gamma", _SRGB_GAMMA) - _SRGB_GAMMA) > 0.02:
        raise ValueError(f"has a gamma of {file.info['gamma']:g} without a colour profile, not sRGB's; {advice}")
    if _is_adobe_rgb_by_exif(file):
        raise ValueError(f"is in Adobe RGB by its EXIF data, but has no colour profile; {advice}")


def _is_adobe_rgb_by_exif(file: Any) -> bool:
    interoperability = file.getexif().get_ifd(0xA005)
    return interoperability.get(1) == "R03"


def _stated_colours(path: str | Path, kind: str | None) -> tuple[int, int]:
    """Primaries and transfer curve of a PNG's cICP chunk or an AVIF's nclx box; 2, 2 where there is none."""
    if kind not in ("PNG", "AVIF"):
        return 2, 2
    with open(path, "rb") as file:
        head = file.read(65536)
    if kind == "AVIF":
        at = head.find(b"colrnclx")
        return (2, 2) if at < 0 else (int.from_bytes(head[at + 8 : at + 10]), int.from_bytes(head[at + 10 : at + 12]))
    at = 8
    while head[at + 4 : at + 8] not in (b"IDAT", b""):
        if head[at + 4 : at + 8] == b"cICP":
            return head[at + 8], head[at + 9]
        at += 12 + int.from_bytes(head[at : at + 4])
    return 2, 2


def _in_eight_bits(image: Any) -> Any:
    """16-bit gray in 8 bits; all else as it is."""
    if not image.mode.startswith("I"):
        return image
    if "transparency" in image.info:
        raise ValueError("has 16-bit gray pixels with a transparent level; convert it to 8 bits with an alpha channel")
    grey_HW = np.asarray(image).astype(np.uint32)
    return media_package("PIL.Image").fromarray(((grey_HW * 255 + 32767) // 65535).astype(np.uint8))


def _without_alpha(image: Any) -> tuple[Any, Any]:
    """The image's colours and its alpha channel, or None."""
    if not image.has_transparency_data:
        return (image.convert("RGB") if image.mode == "P" else image), None
    rgba = image.convert("RGBA")
    colour = image.convert("L") if image.mode in ("LA", "La") else rgba.convert("RGB")
    return colour, rgba.getchannel("A")


def _to_srgb(image: Any, file: Any) -> Any:
    """The image in sRGB by its embedded profile; without one its values are taken for sRGB's."""
    cms = media_package("PIL.ImageCms")
    profile = file.info.get("icc_profile")
    if not profile and image.mode != "LAB":
        return image.convert("RGB")
    try:
        source = cms.ImageCmsProfile(io.BytesIO(profile)) if profile else cms.createProfile("LAB")
        space = source.profile.xcolor_space.strip() if profile else "Lab"
        modes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
        wanted = modes.get(space)
        if wanted != image.mode:
            if wanted != "RGB" or image.mode not in ("1", "L", "YCbCr"):
                raise ValueError(f"has {image.mode} pixels with a colour profile for {space}; convert it to sRGB")
            image = image.convert("RGB")
        flags = cms.Flags.BLACKPOINTCOMPENSATION
        intent = cms.Intent.RELATIVE_COLORIMETRIC
        return cms.profileToProfile(image, source, cms.createProfile("sRGB"), intent, "RGB", flags=flags)
    except (cms.PyCMSError, OSError) as error:
        raise ValueError(f"has a colour profile that cannot be used ({reason(error)}); convert it to sRGB") from None
