"""Analytic readers: what a clip of the procedural world shows, without weights.

    reading = read_clip(frames_THWC, fps=8)
    reading.best("shape"), reading.score("shape", "square")

The object is what has the colour of an object: every pixel goes to the nearest of the objects' and the backgrounds'
colours, and the colour that most pixels have is the object's. Its shape is the template of the same area, sharp or
blurred, that overlaps it best at any angle; its motion is what its centre, its area and the phase of its symmetry do
over time.

A score says how sure a reader is of a value, 0..1. The scores of one attribute add up to 1 at most, and to less where
there is no object or it does not move, so that they can serve as rewards.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.toy.captions import Asked
from lcv_jax.toy.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    PAN_RATE,
    PANS,
    RATES,
    SHAPES,
    TEXTURES,
    dark_tone,
    distance,
    kind_of,
)

ATTRIBUTES = ("colour", "shape", "motion", "speed", "texture", "background", "pan")

_COLOUR_SPREAD = 30.0  # of 255: half the least distance between two objects' colours is 46
_BLURS = (0.0, 0.2, 0.35)
"""Of templates, in radii: a small autoencoder rounds corners, and what is left of them still tells shapes apart."""
_SHAPE_SPREAD = 0.03  # of overlap: a square and a circle overlap by 0.82
_STILL = 0.3  # of the slow rate
_SPEED_SPREAD = 0.15  # of the logarithm of the rate: slow and quick are 0.7 or more apart
_LEAST_AREA = 0.008  # of the frame's: a fifth of the least that is ever drawn
_GRID, _GRID_REACH = 32, 1.8  # of templates: samples along a side, and half a side in radii of the equal disc
_SYMMETRY = {"triangle": 3, "square": 4, "cross": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What was found in a clip."""

    scores: Mapping[str, Mapping[str, float]]
    """Of every attribute, how sure each of its values is, 0..1."""
    visible: float
    """Share of frames with an object."""
    velocity: tuple[float, float]
    """Of the object, right and down, shorter sides a second."""
    growth: float
    """Of the logarithm of its size, a second."""
    turning: float
    """Radians a second, clockwise."""
    evenness: float
    """Of the surest motion: 1 where every step is the same, about 0 where it goes to and fro or does not move."""
    sharpness: float
    """Root mean square gradient of brightness, levels a pixel."""
    laplacian: float
    """Root mean square Laplacian of brightness, levels."""
    flicker: float
    """How much the background changes from frame to frame beyond the camera's motion, levels."""
    motion_energy: float
    """Mean change of a pixel from frame to frame, levels."""
    saturation: float
    """Mean difference of a pixel's highest and lowest channel, levels."""
    mean_colour: tuple[float, float, float]
    """Of all pixels."""

    def best(self, attribute: str) -> str | None:
        """The surest value of an attribute; None where there is no object, or nothing moves."""
        value, score = max(self.scores[attribute].items(), key=lambda item: item[1])
        return value if score > 0.25 else None

    def score(self, attribute: str, value: str) -> float:
        """How sure a value of an attribute is, 0..1."""
        return float(self.scores[attribute][value])


def alignment(reading: Reading, asked: Asked) -> dict[str, float]:
    """How sure each attribute is that a caption asks for, 0..1; what it leaves open is left out."""
    wanted = {name: getattr(asked, name) for name in ATTRIBUTES}
    return {name: reading.score(name, value) for name, value in wanted.items() if value is not None}


def follows(reading: Reading, asked: Asked) -> dict[str, bool]:
    """Whether each attribute that a caption asks for is what the clip shows."""
    wanted = {name: getattr(asked, name) for name in ATTRIBUTES}
    return {name: reading.best(name) == value for name, value in wanted.items() if value is not None}


def read_clip(frames_THWC: UInt8[np.ndarray, "T H W 3"], fps: float | int) -> Reading:
    """Reads a clip; an image is a clip of one frame.

    Args:
        frames_THWC: any size, the object about as large in it as the world draws it.
        fps: frames a second.

    Raises:
        ValueError: no frames, frames below 8 x 8, or a rate that is not positive.
    """
    if len(frames_THWC) == 0 or min(frames_THWC.shape[1:3]) < 8 or not fps > 0:
        raise ValueError(f"reading needs frames of at least 8 x 8 and fps above 0, got {frames_THWC.shape} and {fps}")
    # Channels apart in memory: most of what follows takes one at a time.
    pixels_THWC = np.moveaxis(np.moveaxis(frames_THWC, -1, 0).astype(np.float32, order="C"), 0, -1)
    red, green, blue = (pixels_THWC[..., channel] for channel in range(3))
    luma_THW = (red + green + blue) / 3
    smooth_THW = _box(luma_THW)
    labels_THW = _labels(pixels_THWC)
    colour_scores, alpha_THW = _object(pixels_THWC, labels_THW)
    track = _track(alpha_THW)
    presence = min(1.0, 2 * float(track.seen_T.mean()))
    shape_scores = _shape_scores(alpha_THW, track)
    shape = max(shape_scores, key=lambda name: shape_scores[name])
    rates = _rates(alpha_THW, track, shape, fps)
    motion_scores, speed_scores = _motion_scores(rates)
    # Neither the object's blurred edge, which is neither colour, nor what it smooths into.
    back_THW = _box(_box(alpha_THW)) < 0.02
    some = np.linspace(0, len(frames_THWC) - 1, min(len(frames_THWC), 5)).astype(int)
    shift, flicker = _background_motion(smooth_THW, back_THW)
    side = min(frames_THWC.shape[1:3])
    scores = {
        "colour": _scaled(colour_scores, presence),
        "shape": _scaled(shape_scores, presence),
        "motion": _scaled(motion_scores, presence),
        "speed": _scaled(speed_scores, presence),
        "texture": _texture_scores(smooth_THW[some], back_THW[some]),
        "background": _background_scores(pixels_THWC[some], back_THW[some]),
        "pan": _pan_scores(-shift * fps / side),
    }
    inner = luma_THW[:, 1:-1, 1:-1]
    around = luma_THW[:, :-2, 1:-1] + luma_THW[:, 2:, 1:-1] + luma_THW[:, 1:-1, :-2] + luma_THW[:, 1:-1, 2:]
    return Reading(
        scores=scores,
        visible=float(track.seen_T.mean()),
        velocity=(rates["x"], rates["y"]),
        growth=rates["growth"],
        turning=rates["turning"],
        evenness=_evenness(alpha_THW, track, shape, max(motion_scores, key=lambda name: motion_scores[name]), fps),
        sharpness=sharpness_of(luma_THW),
        laplacian=float(np.sqrt(np.mean((around - 4 * inner) ** 2))),
        flicker=flicker,
        motion_energy=float(np.abs(np.diff(pixels_THWC, axis=0)).mean()) if len(frames_THWC) > 1 else 0.0,
        saturation=float((np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)).mean()),
        mean_colour=(float(red.mean()), float(green.mean()), float(blue.mean())),
    )


def sharpness_of(luma_THW: Float[np.ndarray, "T H W"]) -> float:
    """Root mean square gradient of brightness, levels a pixel."""
    gradient_y, gradient_x = np.diff(luma_THW, axis=1)[:, :, :-1], np.diff(luma_THW, axis=2)[:, :-1]
    return float(np.sqrt(np.mean(gradient_x**2 + gradient_y**2)))


def _scaled(scores: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: score * factor for name, score in scores.items()}


def _softmax(names: tuple[str, ...], logits: np.ndarray) -> dict[str, float]:
    weights = np.exp(logits - np.max(logits))
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))


def _box(x_THW: np.ndarray) -> np.ndarray:
    """The mean of 3 x 3 pixels: against noise."""
    padded = np.pad(x_THW, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


@functools.cache
def _palette() -> np.ndarray:
    """The objects' colours, then the backgrounds', light and dark."""
    backgrounds = [tone for colour in BACKGROUNDS.values() for tone in (colour, dark_tone(colour))]
    return np.array([*COLOURS.values(), *backgrounds], np.float32)


def _labels(pixels_THWC: np.ndarray) -> np.ndarray:
    """The nearest colour of the palette."""
    palette = _palette()
    half_squares = (palette**2).sum(axis=1) / 2
    # Colour by colour: a matrix product this thin goes slower over several threads.
    nearest = np.full(pixels_THWC.shape[:-1], -np.inf, np.float32)
    labels = np.zeros(pixels_THWC.shape[:-1], np.int64)
    for number, (colour, half_square) in enumerate(zip(palette, half_squares, strict=True)):
        near = _along(pixels_THWC, colour) - half_square
        labels[near > nearest] = number
        np.maximum(near, nearest, out=nearest)
    return labels


def _along(pixels_THWC: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The dot product of every pixel with a direction in the space of colours."""
    along = pixels_THWC[..., 0] * direction[0]
    along += pixels_THWC[..., 1] * direction[1]
    along += pixels_THWC[..., 2] * direction[2]
    return along


def _object(pixels_THWC: np.ndarray, labels_THW: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """How sure each colour of the object is, and how much of each pixel is the object."""
    names = tuple(COLOURS)
    counts = np.bincount(labels_THW.ravel(), minlength=len(_palette()))
    winner = int(np.argmax(counts[: len(names)]))
    if counts[winner] < _LEAST_AREA * labels_THW.size / 4:
        return dict.fromkeys(names, 0.0), np.zeros(labels_THW.shape, np.float32)
    seen = np.median(pixels_THWC[labels_THW == winner], axis=0)
    distances = np.linalg.norm(_palette()[: len(names)] - seen, axis=1)
    scores = _softmax(names, -((distances / _COLOUR_SPREAD) ** 2) / 2)
    # Several objects of different colours: none of them is sure.
    share = counts[winner] / counts[: len(names)].sum()
    back = labels_THW >= len(names)
    ground = pixels_THWC[back].mean(axis=0) if back.any() else np.full(3, 128, np.float32)
    towards = seen - ground
    direction = towards / (towards**2).sum()
    along = _along(pixels_THWC, direction) - (ground * direction).sum()
    # The textures' two tones differ along this axis too, by up to 0.2.
    return _scaled(scores, float(share)), np.clip((along - 0.25) / 0.5, 0, 1)


@dataclasses.dataclass(frozen=True)
class _Track:
    """The object in every frame, lengths in pixels."""

    area_T: np.ndarray
    x_T: np.ndarray
    y_T: np.ndarray
    seen_T: np.ndarray
    side: int


def _track(alpha_THW: np.ndarray) -> _Track:
    _, H, W = alpha_THW.shape
    area_T = alpha_THW.sum(axis=(1, 2))
    sure_T = np.maximum(area_T, 1e-6)
    x_T = (alpha_THW.sum(axis=1) @ np.arange(W, dtype=np.float32)) / sure_T
    y_T = (alpha_THW.sum(axis=2) @ np.arange(H, dtype=np.float32)) / sure_T
    return _Track(area_T, x_T, y_T, area_T > _LEAST_AREA * min(H, W) ** 2, min(H, W))


@functools.cache
def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Every shape at every angle, sharp and blurred, each of the same area, and the numbers of their shapes."""
    masks, numbers = [], []
    for number, shape in enumerate(SHAPES):
        order = _SYMMETRY.get(shape)
        for angle in np.arange(0, 2 * math.pi / order, math.radians(9)) if order else (0.0,):
            for blur in _BLURS:
                masks.append(_template(shape, float(angle), blur).ravel())
                numbers.append(number)
    return np.array(masks, np.float32), np.array(numbers)


def _template(shape: str, angle: float, blur: float) -> np.ndarray:
    """How much of each point of the grid is the object, whose area is that of a circle of radius 1."""
    line = (np.arange(_GRID) + 0.5) / _GRID * 2 * _GRID_REACH - _GRID_REACH
    cell = 2 * _GRID_REACH / _GRID
    far = np.abs(line[:, None] - line[None, :])
    kernel = np.exp(-((far / blur) ** 2) / 2) * cell / (blur * math.sqrt(2 * math.pi)) if blur else np.eye(_GRID)
    size, mask = 1.0, np.zeros((_GRID, _GRID))
    for _ in range(4):  # until the area is right: blurring takes corners away
        cos, sin = math.cos(angle) / size, math.sin(angle) / size
        u, v = cos * line[None, :] + sin * line[:, None], cos * line[:, None] - sin * line[None, :]
        mask = kernel @ np.clip(0.5 - distance(shape, u, v) * size / 0.15, 0, 1) @ kernel.T
        if blur:
            mask = np.clip((mask - 0.25) / 0.5, 0, 1)  # as pixels are read
        size *= math.sqrt(math.pi / (mask.sum() * cell**2))
    return mask


def _shape_scores(alpha_THW: np.ndarray, track: _Track) -> dict[str, float]:
    """By the overlap with templates, on average over the frames."""
    frames = np.flatnonzero(track.seen_T)
    if len(frames) == 0:
        return dict.fromkeys(SHAPES, 0.0)
    _, H, W = alpha_THW.shape
    line = (np.arange(_GRID, dtype=np.float32) + 0.5) / _GRID * 2 * _GRID_REACH - _GRID_REACH
    radius_T1 = np.sqrt(track.area_T[frames] / math.pi)[:, None]
    x_TG, y_TG = track.x_T[frames, None] + radius_T1 * line, track.y_T[frames, None] + radius_T1 * line
    padded = np.pad(alpha_THW[frames], ((0, 0), (1, 1), (1, 1)))
    x0, y0 = np.clip(np.floor(x_TG), -1, W - 1).astype(int), np.clip(np.floor(y_TG), -1, H - 1).astype(int)
    # Outside of the frame there is no object.
    dx, dy = np.clip(x_TG - x0, 0, 1)[:, None, :], np.clip(y_TG - y0, 0, 1)[:, :, None]
    at = (np.arange(len(frames))[:, None, None], y0[:, :, None] + 1, x0[:, None, :] + 1)
    beside = (at[0], at[1], at[2] + 1)
    upper = padded[at] * (1 - dx) + padded[beside] * dx
    lower = padded[at[0], at[1] + 1, at[2]] * (1 - dx) + padded[at[0], at[1] + 1, at[2] + 1] * dx
    masks = (upper * (1 - dy) + lower * dy).reshape(len(frames), -1)
    templates, numbers = _templates()
    # Of soft masks the overlap is the smaller, not the product: a blurred one has all of itself in itself.
    inside = np.array([np.minimum(mask, templates).sum(axis=1) for mask in masks])
    either = masks.sum(axis=1)[:, None] + templates.sum(axis=1)[None, :] - inside
    overlap = inside / np.maximum(either, 1e-6)
    best = np.array([overlap[:, numbers == number].max(axis=1).mean() for number in range(len(SHAPES))])
    # Something that is like no shape: all scores are low.
    likeness = float(np.clip((best.max() - 0.5) / 0.25, 0, 1))
    return _scaled(_softmax(SHAPES, best / _SHAPE_SPREAD), likeness)


def _slope(values_T: np.ndarray, seen_T: np.ndarray, fps: float | int) -> float:
    """Change a second over the frames with an object, by least squares."""
    frames = np.flatnonzero(seen_T)
    if len(frames) < 3:
        return 0.0
    return float(np.polyfit(frames / fps, values_T[frames], 1)[0])


def _rates(alpha_THW: np.ndarray, track: _Track, shape: str, fps: float | int) -> dict[str, float]:
    size_T = np.log(np.maximum(track.area_T, 1e-6)) / 2
    return {
        "x": _slope(track.x_T / track.side, track.seen_T, fps),
        "y": _slope(track.y_T / track.side, track.seen_T, fps),
        "growth": _slope(size_T, track.seen_T, fps),
        "turning": _turning(alpha_THW, track, _SYMMETRY.get(shape), fps),
    }


def _turning(alpha_THW: np.ndarray, track: _Track, order: int | None, fps: float | int) -> float:
    """Radians a second, from the phase of the shape's n-fold symmetry."""
    if order is None or track.seen_T.sum() < 3:
        return 0.0
    moment_T = _moments(alpha_THW, track, order)
    steps = moment_T[1:] * moment_T[:-1].conj()
    strength = math.sqrt(abs(steps.mean()))
    # A blob without corners has a phase too, by chance.
    return float(np.angle(steps.sum()) / order * fps) * min(1.0, (strength / 0.06) ** 2)


def _moments(alpha_THW: np.ndarray, track: _Track, order: int) -> np.ndarray:
    """The n-fold symmetry of every frame with an object: how strong, and its phase."""
    frames = np.flatnonzero(track.seen_T)
    _, H, W = alpha_THW.shape
    radius_T11 = np.sqrt(track.area_T / math.pi)[frames, None, None]
    across = (np.arange(W) - track.x_T[frames, None])[:, None, :] / radius_T11
    down = (np.arange(H) - track.y_T[frames, None])[:, :, None] / radius_T11
    # What lies further out than any shape reaches is not the object.
    near = alpha_THW[frames] * (across**2 + down**2 < 1.7**2)
    power = (across + 1j * down).astype(np.complex64) ** order
    return (near * power).sum(axis=(1, 2)) / np.maximum((near * np.abs(power)).sum(axis=(1, 2)), 1e-6)


def _evenness(alpha_THW: np.ndarray, track: _Track, shape: str, motion: str, fps: float | int) -> float:
    """By (sum of steps)^2 / (number x sum of squared steps), of steps of an eighth of a second."""
    frames = np.flatnonzero(track.seen_T)
    lag = max(1, round(fps / 8))
    if len(frames) < 2 + lag:
        return 0.0
    kind, order = kind_of(motion), _SYMMETRY.get(shape)
    if kind == "turns":
        if order is None:
            return 0.0
        moment_T = _moments(alpha_THW, track, order)
        step_T = np.angle(moment_T[lag:] * moment_T[:-lag].conj())
    else:
        size_T = np.log(np.maximum(track.area_T, 1e-6))
        place_T = size_T if kind == "scales" else track.x_T if motion in ("left", "right") else track.y_T
        step_T = place_T[frames][lag:] - place_T[frames][:-lag]
    return float(step_T.sum() ** 2 / max(len(step_T) * (step_T**2).sum(), 1e-9))


def _motion_scores(rates: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """How sure each motion is, and each speed of the surest."""
    signed = {
        "left": -rates["x"], "right": rates["x"], "up": -rates["y"], "down": rates["y"],
        "grows": rates["growth"], "shrinks": -rates["growth"], "turns": abs(rates["turning"]),
    }  # fmt: skip
    strengths = {motion: max(0.0, signed[motion]) / RATES[kind_of(motion)][0] for motion in MOTIONS}
    energy = sum(strength**2 for strength in strengths.values())
    motions = {motion: strength**2 / (energy + _STILL**2) for motion, strength in strengths.items()}
    surest = max(strengths, key=lambda motion: strengths[motion])
    slow, quick = RATES[kind_of(surest)]
    middle = math.log(math.sqrt(slow * quick) / slow)
    logit = (math.log(max(strengths[surest], 1e-3)) - middle) / _SPEED_SPREAD
    quickly = 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))
    moving = energy / (energy + _STILL**2)
    return motions, {"slowly": (1 - quickly) * moving, "quickly": quickly * moving}


def _background_motion(smooth_THW: np.ndarray, back_THW: np.ndarray) -> tuple[float, float]:
    """How far the background moves to the right from frame to frame, in pixels, and what changes beyond that."""
    if len(smooth_THW) < 2:
        return 0.0, 0.0
    back = back_THW[1:, :, 1:-1] & back_THW[:-1, :, 1:-1]
    middle = (smooth_THW[1:] + smooth_THW[:-1]) / 2
    along = (middle[:, :, 2:] - middle[:, :, :-2]) / 2
    change = (smooth_THW[1:] - smooth_THW[:-1])[:, :, 1:-1]
    along, change = along[back], change[back]
    if len(along) == 0:
        return 0.0, 0.0
    # Where nothing has an edge, nothing can be seen to move.
    shift = -float((along * change).sum() / ((along * along).sum() + 4.0 * len(along)))
    return shift, float(np.abs(change + shift * along).mean())


def _pan_scores(rate: float) -> dict[str, float]:
    share = rate / PAN_RATE
    none = float(np.clip(1.5 - 2 * abs(share), 0, 1))
    return dict(zip(PANS, (none, (1 - none) * (share < 0), (1 - none) * (share > 0)), strict=True))


def _texture_scores(smooth_THW: np.ndarray, back_THW: np.ndarray) -> Mapping[str, float]:
    """By contrast, by the direction of edges, and by how much of the background is dark."""
    num_T = back_THW.sum(axis=(1, 2))
    if num_T.min() < 64:
        return dict.fromkeys(TEXTURES, 0.0)
    # Flicker is no texture.
    mean_T = (smooth_THW * back_THW).sum(axis=(1, 2)) / num_T
    smooth_THW = smooth_THW / mean_T[:, None, None]
    values = smooth_THW[back_THW]
    low, high = np.percentile(values, (4, 96))
    contrast = float(values.std())
    textured = float(np.clip((contrast - 0.055) / 0.03, 0, 1))
    inner = back_THW[:, 1:-1, 1:-1]
    gx = (smooth_THW[:, 1:-1, 2:] - smooth_THW[:, 1:-1, :-2])[inner]
    gy = (smooth_THW[:, 2:, 1:-1] - smooth_THW[:, :-2, 1:-1])[inner]
    slanted = 2 * abs(float((gx * gy).sum())) / max(float((gx * gx + gy * gy).sum()), 1e-6)
    stripes = float(np.clip((slanted - 0.35) / 0.3, 0, 1))
    light = float((values.mean() - low) / max(high - low, 1e-6))
    dots = float(np.clip((light - 0.56) / 0.1, 0, 1))
    scores = (1 - textured, textured * stripes, textured * (1 - stripes) * (1 - dots), textured * (1 - stripes) * dots)
    return dict(zip(TEXTURES, scores, strict=True))


def _background_scores(pixels_THWC: np.ndarray, back_THW: np.ndarray) -> dict[str, float]:
    """By hue and saturation alone: textures and light change the brightness."""
    names = tuple(BACKGROUNDS)
    if not back_THW.any():
        return dict.fromkeys(names, 0.0)
    mean = pixels_THWC[back_THW].mean(axis=0)
    known = np.array(list(BACKGROUNDS.values()), np.float32)
    distances: Float[np.ndarray, " colours"] = np.linalg.norm(
        known / known.mean(axis=1, keepdims=True) - mean / max(mean.mean(), 1.0), axis=1
    )
    return _softmax(names, -((distances / 0.06) ** 2) / 2)
