"""The frames of a planned film, each a function of its index: nothing but the frame at hand is in memory."""

import functools
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.frames import media_package
from lcv_jax.extras import import_extra
from lcv_jax.toy.film_plans import Film, Logo, Shot
from lcv_jax.toy.world import COLOURS, SHAPES, distance, render

_CANVAS = 512
"""Side of a texture in pixels; it repeats without a seam."""
_CANVAS_PIXELS = 1.6
"""Of a texture, per pixel of the frame before any zoom."""


def frame(film: Film, index: int) -> UInt8[np.ndarray, "H W 3"]:
    """One frame of a film."""
    rng = np.random.default_rng([film.seed, index])
    top, bottom, left, right = film.borders
    rows, columns = film.height - top - bottom, film.width - left - right
    picture = _mixed(film, index, rows, columns)
    if film.grain:
        picture = picture + rng.normal(0, film.grain, (rows, columns, 1)).astype(np.float32)
    whole = np.zeros((film.height, film.width, 3), np.float32)
    if film.border_noise and any(film.borders):
        whole += np.abs(rng.normal(0, film.border_noise, (film.height, film.width, 1)))
    whole[top : film.height - bottom, left : film.width - right] = picture
    if film.logo is not None:
        x, y, width, height = film.logo.box
        alpha_HW1 = _logo_alpha(film.logo)
        window = whole[y : y + height, x : x + width]
        window += alpha_HW1 * (245 - window)
    for subtitle in film.subtitles:
        if subtitle.start <= index < subtitle.end:
            x, y, width, height = subtitle_box(film, subtitle.text)
            ink, paint = _text(subtitle.text, _font_size(film))
            window = whole[y : y + height, x : x + width]
            window += paint[:height, :width] * (ink[:height, :width] - window)
    return np.clip(whole + 0.5, 0, 255).astype(np.uint8)


def subtitle_box(film: Film, text: str) -> tuple[int, int, int, int]:
    """Left, top, width and height of a subtitle in pixels."""
    height, width = _text(text, _font_size(film))[0].shape[:2]
    bottom, left = film.borders[1], film.borders[2]
    columns = film.width - left - film.borders[3]
    width = min(width, columns)
    return left + (columns - width) // 2, film.height - bottom - height - round(0.05 * film.height), width, height


def _mixed(film: Film, index: int, rows: int, columns: int) -> np.ndarray:
    """The shots that a frame shows, each in its share; what is missing to 1 is black."""
    picture = np.zeros((rows, columns, 3), np.float32)
    for number, (start, shot) in enumerate(zip(film.starts, film.shots, strict=True)):
        place = index - start
        if not 0 <= place < shot.lead + shot.length + shot.tail:
            continue
        share = 1.0
        if place < shot.lead:
            share = (place + 1) / (shot.lead + 1)
        since = place - shot.lead - shot.length
        if since >= 0:
            share = 1 - (since + 1) / (shot.tail + 1)
        picture += share * _shot_frame(film, number, place - shot.lead, rows, columns)
    return picture


def _shot_frame(film: Film, number: int, place: int, rows: int, columns: int) -> np.ndarray:
    """A frame of a shot, counted from the first that shows it alone."""
    shot, cv2 = film.shots[number], import_extra("cv2", "curate", "drawing films needs")
    first, end = shot.frozen
    if first <= place < end:
        place = first
    seconds = place / float(film.fps)
    if shot.scene is not None:
        picture = render(shot.scene, rows, columns, 1, float(film.fps), start=seconds)[0].astype(np.float32)
    else:
        picture = _texture_frame(shot, seconds, rows, columns)
    if shot.defect == "blur":
        picture = cv2.GaussianBlur(picture, (0, 0), shot.strength * rows)
    if shot.defect == "flicker":
        picture *= np.float32(np.random.default_rng([shot.seed, place + 10**6]).normal(1, shot.strength))
    if shot.defect == "dark":
        picture *= np.float32(shot.strength)
    if shot.defect == "spotlight":
        picture *= _spotlight(shot.seed, rows, columns)
    return picture


def _texture_frame(shot: Shot, seconds: float, rows: int, columns: int) -> np.ndarray:
    """A texture under the camera, with shapes that move over it."""
    cv2 = import_extra("cv2", "curate", "drawing films needs")
    centre, zoom = _camera(shot, seconds, rows, columns)
    scale = _CANVAS_PIXELS / zoom
    x, y = centre[0] - scale * (columns - 1) / 2, centre[1] - scale * (rows - 1) / 2
    matrix = np.array([[scale, 0, x], [0, scale, y]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (columns, rows)
    picture = cv2.warpAffine(_canvas(shot.seed), matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP)
    picture = picture.astype(np.float32)
    rng = np.random.default_rng([shot.seed, 3])
    for _ in range(shot.num_objects):
        _add_object(picture, rng, seconds)
    return picture


def _camera(shot: Shot, seconds: float, rows: int, columns: int) -> tuple[np.ndarray, float]:
    """The place on the canvas that the middle of the frame shows, and the zoom."""
    rng = np.random.default_rng([shot.seed, 4])
    centre, speed, zoom = rng.uniform(0, _CANVAS, 2), rng.uniform(0.1, 0.4), 1.0
    way = {"pan_left": (-1, 0), "pan_right": (1, 0), "tilt_up": (0, -1), "tilt_down": (0, 1)}.get(shot.camera, (0, 0))
    size = np.array((columns, rows))
    moved = np.array(way) * speed * seconds * size
    if shot.camera in ("zoom_in", "zoom_out"):
        rate = rng.uniform(0.1, 0.3) * (1 if shot.camera == "zoom_in" else -1)
        # Around the size at the middle of the shot, so that neither end is out of proportion.
        zoom = float(np.exp(rate * (seconds - 2)))
    if shot.camera == "shake":
        rates, phases = rng.uniform(2, 7, (2, 3)), rng.uniform(0, 2 * np.pi, (2, 3))
        waves = np.sin(2 * np.pi * rates * seconds + phases) / rates
        moved = moved + size[0] * rng.uniform(0.03, 0.07) * waves.sum(axis=1)
    return centre + _CANVAS_PIXELS * moved, zoom


def _add_object(picture: np.ndarray, rng: np.random.Generator, seconds: float) -> None:
    """Draws a shape of the world that moves to and fro, and that the camera follows."""
    rows, columns = picture.shape[:2]
    shape, colour = SHAPES[int(rng.integers(len(SHAPES)))], list(COLOURS.values())[int(rng.integers(len(COLOURS)))]
    size = rng.uniform(0.08, 0.2) * rows
    start, reach, rates = rng.uniform(-0.3, 0.3, 2), rng.uniform(0.1, 0.25, 2), rng.uniform(0.15, 0.5, 2)
    phases = rng.uniform(0, 2 * np.pi, 2)
    place = start + reach * np.sin(2 * np.pi * rates * seconds + phases)
    x, y = place * (columns, rows) + ((columns - 1) / 2, (rows - 1) / 2)
    left, right = (int(np.clip(x + way * 1.3 * size, 0, columns)) for way in (-1, 1))
    top, bottom = (int(np.clip(y + way * 1.3 * size, 0, rows)) for way in (-1, 1))
    if left == right or top == bottom:
        return
    u, v = np.meshgrid(np.arange(left, right + 0.0), np.arange(top, bottom + 0.0))
    alpha = np.clip(0.5 - distance(shape, (u - x) / size, (v - y) / size) * size, 0, 1)[..., None]
    window = picture[top:bottom, left:right]
    window += (alpha * (np.array(colour) - window)).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _canvas(seed: int) -> np.ndarray:
    """A picture of clouds in a few colours with blocks of others, which repeats without a seam."""
    cv2 = import_extra("cv2", "curate", "drawing films needs")
    rng = np.random.default_rng([seed, 5])
    frequency = np.hypot(np.fft.fftfreq(_CANVAS)[:, None], np.fft.rfftfreq(_CANVAS)[None, :])
    frequency[0, 0] = 1
    fall = rng.uniform(1.0, 1.7)
    layers = []
    for _ in range(2):
        spectrum = np.fft.rfft2(rng.standard_normal((_CANVAS, _CANVAS))) / frequency**fall
        spectrum[0, 0] = 0
        layer = np.fft.irfft2(spectrum, s=(_CANVAS, _CANVAS))
        layers.append(layer / layer.std())
    ground, tints = rng.uniform(60, 200, 3), rng.normal(0, 32, (2, 3))
    canvas = ground + sum(layer[..., None] * tint for layer, tint in zip(layers, tints, strict=True))
    for _ in range(int(rng.integers(8, 24))):
        width, height = rng.integers(20, 130, 2)
        x, y = rng.integers(0, _CANVAS - width), rng.integers(0, _CANVAS - height)
        block = canvas[y : y + height, x : x + width]
        block *= 0.35
        block += 0.65 * rng.uniform(20, 235, 3)
    return cv2.GaussianBlur(np.clip(canvas, 0, 255).astype(np.uint8), (0, 0), 0.7)


@functools.lru_cache(maxsize=4)
def _spotlight(seed: int, rows: int, columns: int) -> np.ndarray:
    """How bright each pixel is: light in a disc, black far from it."""
    rng = np.random.default_rng([seed, 6])
    x, y = rng.uniform(0.35, 0.65, 2) * (columns, rows)
    away = np.hypot(np.arange(columns)[None, :] - x, np.arange(rows)[:, None] - y) / rows
    return np.clip(1.6 - 4 * away, 0, 1).astype(np.float32)[..., None]


@functools.lru_cache(maxsize=4)
def _logo_alpha(logo: Logo) -> np.ndarray:
    """How much of each pixel of its box a logo covers: a shape and two letters."""
    rng = np.random.default_rng(logo.seed)
    _, _, width, height = logo.box
    letters = "".join(chr(ord("A") + int(code)) for code in rng.integers(26, size=2))
    image = media_package("PIL.Image").new("L", (width, height))
    drawing = media_package("PIL.ImageDraw").Draw(image)
    drawing.text((height + 1, height / 2), letters, fill=255, font=_font(height), anchor="lm")
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    places = (np.arange(height) + 0.5 - height / 2) / (0.42 * height)
    outside = distance(shape, places[None, :], places[:, None])
    alpha = np.asarray(image, np.float32) / 255
    alpha[:, :height] = np.maximum(alpha[:, :height], np.clip(0.5 - outside * 0.42 * height, 0, 1))
    return (logo.opacity * alpha).astype(np.float32)[..., None]


def _font_size(film: Film) -> int:
    return max(10, round(0.085 * film.height))


@functools.cache
def _font(size: int) -> Any:
    return media_package("PIL.ImageFont").load_default(size=size)


@functools.lru_cache(maxsize=8)
def _text(text: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A line in white with a black outline: colour and coverage of each pixel, H W 1."""
    font, edge = _font(size), max(1, size // 10)
    left, top, right, bottom = font.getbbox(text, stroke_width=edge)
    drawn = []
    for fill, stroke in ((255, 0), (255, 255)):
        image = media_package("PIL.Image").new("L", (int(right - left), int(bottom - top)))
        drawing = media_package("PIL.ImageDraw").Draw(image)
        drawing.text((-left, -top), text, fill=fill, font=font, stroke_width=edge, stroke_fill=stroke)
        drawn.append(np.asarray(image, np.float32)[..., None])
    return drawn[0], drawn[1] / 255
