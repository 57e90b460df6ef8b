"""Frames as arrays: bytes and floats, fitting to a size, the contact sheet. Pillow is loaded where it resamples."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from lcv_jax.array_types import Array, Float, Shaped, UInt8
from lcv_jax.extras import import_extra


def media_package(name: str) -> ModuleType:
    """Imports a package of the `video` extra, which neither models nor kernels need.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    return import_extra(name, "video", "images and videos need")


def evenly(count: int, number: int) -> np.ndarray:
    """At most `number` of the places 0 .. count - 1, at even distances, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(number, count)).round().astype(int))


def to_float(frames: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Bytes 0..255 as float32 in 0..1."""
    return frames.astype(np.float32) / np.float32(255)


def to_uint8(frames: Shaped[Array | np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Floats in 0..1 as bytes, rounded to the nearest; bytes come back as they are.

    The published code cuts the fraction off, which darkens every frame by half a level on average and does not give
    back the bytes that `to_float` was given.

    Raises:
        ValueError: a value is not finite.
    """
    frames = np.asarray(frames)
    if frames.dtype == np.uint8:
        return frames
    if not np.isfinite(frames).all():
        raise ValueError("the frames hold values that are not finite: the network or its weights are at fault")
    return (np.clip(frames.astype(np.float32), 0, 1) * 255 + 0.5).astype(np.uint8)


def resize_and_crop(
    frames_THWC: UInt8[np.ndarray, "T H W 3"], height: int, width: int, stretch: bool = False
) -> UInt8[np.ndarray, "T height width 3"]:
    """Frames of `height` x `width`, resampled with a Lanczos filter.

    Args:
        frames_THWC: what was read.
        height: pixels wanted.
        width: pixels wanted.
        stretch: use the whole frame and let its shape change, as the published code does; otherwise keep the shape and
            cut off, on both sides alike, what does not fit.
    """
    T, H, W, C = frames_THWC.shape
    if height == H and width == W:
        return frames_THWC
    image_module = media_package("PIL.Image")
    top = left = 0.0
    if not stretch:
        scale = max(height / H, width / W)
        top, left = (H - height / scale) / 2, (W - width / scale) / 2
    # Rounding must not put the box outside of the frame.
    box = (max(left, 0.0), max(top, 0.0), min(W - left, W), min(H - top, H))
    resized_THWC = np.empty((T, height, width, C), np.uint8)
    for frame_HWC, resized_HWC in zip(frames_THWC, resized_THWC, strict=True):
        image = image_module.fromarray(np.ascontiguousarray(frame_HWC))
        resized_HWC[:] = np.asarray(image.resize((width, height), image_module.Resampling.LANCZOS, box))
    return resized_THWC


def contact_sheet(
    frames_THWC: Shaped[Array | np.ndarray, "T H W 3"],
    num_frames: int = 12,
    columns: int = 4,
    tile_width: int = 320,
    numbers: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Frames at even distances, the first and the last among them, side by side with their numbers.

    Args:
        frames_THWC: a whole video; or chosen frames of one, with their `numbers` in it.
        num_frames: how many to show at most.
        columns: how many beside one another.
        tile_width: pixels of each.
        numbers: what to label the frames with; None counts them from 0.

    Raises:
        ValueError: there is no frame, or a count below one.
    """
    T, H, W, _ = frames_THWC.shape
    if T == 0 or min(num_frames, columns, tile_width) < 1:
        raise ValueError(
            f"a contact sheet needs frames, columns and a width; got {T} frames, {num_frames=}, {columns=}"
        )
    shown = evenly(T, num_frames)
    columns = min(columns, len(shown))
    tile_height = max(1, round(tile_width * H / W))
    tiles_THWC = resize_and_crop(to_uint8(frames_THWC[shown]), tile_height, tile_width)
    rows = -(-len(shown) // columns)
    sheet = media_package("PIL.Image").new("RGB", (columns * tile_width, rows * tile_height))
    draw = media_package("PIL.ImageDraw").Draw(sheet)
    labels = shown if numbers is None else np.asarray(numbers)[shown]
    for place, (number, tile_HWC) in enumerate(zip(labels, tiles_THWC, strict=True)):
        corner = (place % columns * tile_width, place // columns * tile_height)
        sheet.paste(media_package("PIL.Image").fromarray(tile_HWC), corner)
        label = (corner[0] + 4, corner[1] + 3)
        draw.text(label, str(number), fill="white", stroke_width=1, stroke_fill="black")
    return np.asarray(sheet)
