"""The procedural world: one coloured shape that moves, grows, shrinks or turns over a muted background.

A `Scene` holds everything about a clip but its size and rate: `render` draws the same scene at any of them. Lengths are
in units of the frame's shorter side, times in seconds. Captions are in captions.py, what finds the attributes again in
a clip is in readers.py.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lcv_jax.array_types import Float, UInt8

COLOURS = {
    "red": (222, 38, 42),
    "orange": (247, 138, 24),
    "yellow": (250, 226, 48),
    "green": (30, 170, 52),
    "cyan": (38, 208, 226),
    "blue": (34, 66, 226),
    "purple": (160, 36, 212),
    "white": (250, 250, 250),
}
"""Of objects: saturated, or far brighter than any background."""
SHAPES = ("circle", "square", "triangle", "cross", "ring")
MOTIONS = ("left", "right", "up", "down", "grows", "shrinks", "turns")
SPEEDS = ("slowly", "quickly")
TEXTURES = ("plain", "stripes", "checks", "dots")
BACKGROUNDS = {
    "grey": (128, 128, 128),
    "brown": (142, 120, 96),
    "slate": (100, 120, 146),
    "sage": (110, 138, 110),
    "mauve": (142, 112, 138),
}
"""Muted, and of middling brightness."""
PANS = ("none", "left", "right")
"""Where the camera goes; the background's texture goes the other way."""

DURATION = 2.0
"""Seconds for which the object is sure to be inside the frame; later it may leave it."""
RATES = {
    "moves": (1 / 16, 3 / 16),  # shorter sides a second
    "scales": (math.log(1.4) / DURATION, math.log(2.1) / DURATION),  # of the logarithm of the size, a second
    "turns": (math.radians(40), math.radians(120)),  # a second, clockwise
}
"""Slow and quick."""
PAN_RATE = 0.12
"""Shorter sides a second."""
PAN_STEPS = {"none": 0.0, "left": -PAN_RATE, "right": PAN_RATE}
"""What a second adds to the place in the texture."""
GRID = 8
"""Objects begin at places of a grid of so many over the shorter side, where there is room: edges fall on few places of
latents, and a small model has less to learn."""
SIZE = 0.225
"""Of objects that keep it."""

_REACH = {"circle": 1.0, "square": 1.2, "triangle": 1.24, "cross": 1.11, "ring": 1.0}
"""Farthest point of a shape from its centre, in sizes."""
_ROUND = ("circle", "ring")
_VELOCITY = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_MARGIN = 0.02
_DARK = 0.74
"""Brightness of a texture's second tone."""
_COMMON = 0.88
"""Each colour, shape and motion is so much rarer than the one before it: what sampling weights are to make up for."""


def is_invisible(shape: str, motion: str) -> bool:
    """Whether nobody could see the motion: what is round looks the same however it turns."""
    return motion == "turns" and shape in _ROUND


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip before it is drawn."""

    colour: str
    shape: str
    motion: str
    speed: str
    texture: str
    background: str
    pan: str
    x: float
    """Of the object's centre at time 0, as a share of the frame's width."""
    y: float
    """Likewise, downwards, of its height."""
    size: float
    """About its radius at time 0, in shorter sides."""
    angle: float
    """At time 0, clockwise, radians."""
    rate: float
    """How fast the motion is: shorter sides, logarithm of the size, or radians a second."""
    phase: tuple[float, float] = (0.0, 0.0)
    """Where the texture begins, in shorter sides."""
    tint: tuple[int, int, int] = (0, 0, 0)
    """Added to the object's colour."""
    light: tuple[float, float] = (0.0, 0.0)
    """How much brighter the background gets over the width and the height."""
    rough: bool = False
    """Filmed badly: soft, grainy and flickering. Captions do not tell."""
    seed: int = 0
    """Of the grain and the flicker."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if is_invisible(self.shape, self.motion):
            raise ValueError(f"a {self.shape} looks the same however it turns: choose another shape or motion")

    @property
    def combination(self) -> tuple[str, str, str]:
        """Colour, shape and motion: what the held-out split is about."""
        return self.colour, self.shape, self.motion


CHOICES: dict[str, Sequence[str]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "motion": MOTIONS,
    "speed": SPEEDS,
    "texture": TEXTURES,
    "background": tuple(BACKGROUNDS),
    "pan": PANS,
}
COMBINATIONS = tuple(
    (colour, shape, motion)
    for colour in COLOURS
    for shape in SHAPES
    for motion in MOTIONS
    if not is_invisible(shape, motion)
)


def is_held_out(scene: Scene | tuple[str, str, str]) -> bool:
    """Whether a scene's colour, shape and motion are one of the combinations that are never trained.

    One colour for every pair of a shape and a motion, spread so that each colour and shape still appear together with
    nearly all motions: an eighth of all combinations.
    """
    colour, shape, motion = scene.combination if isinstance(scene, Scene) else scene
    place = list(COLOURS).index(colour) + 3 * SHAPES.index(shape) + 5 * MOTIONS.index(motion)
    return place % len(COLOURS) == 0


def dark_tone(colour: Sequence[int]) -> tuple[float, ...]:
    """The second tone of a texture on a background of this colour."""
    return tuple(_DARK * channel for channel in colour)


def kind_of(motion: str) -> str:
    """Which of `RATES` a motion goes by."""
    return "moves" if motion in _VELOCITY else "turns" if motion == "turns" else "scales"


def combination_share(combination: tuple[str, str, str]) -> float:
    """How often `sample_scene` draws a colour, shape and motion before the split; not normalised."""
    colour, shape, motion = combination
    return _COMMON ** (list(COLOURS).index(colour) + SHAPES.index(shape) + MOTIONS.index(motion))


def sample_scene(
    seed: int | Sequence[int],
    *,
    held_out: bool = False,
    rough_share: float = 0.0,
    combination: tuple[str, str, str] | None = None,
) -> Scene:
    """A scene, a function of the seed alone.

    Args:
        seed: one number or several.
        held_out: from the combinations that are never trained, otherwise from the others.
        rough_share: of scenes that are filmed badly.
        combination: its colour, shape and motion, instead of drawn ones.
    """
    rng = np.random.default_rng(seed)
    pool, shares = _POOLS[held_out]
    drawn = pool[int(np.searchsorted(shares, rng.random(), side="right"))]
    colour, shape, motion = combination or drawn
    speed = SPEEDS[int(rng.integers(2))]
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))]
    # On a plain background nobody could see it.
    pan = PANS[int(rng.choice(3, p=(0.6, 0.2, 0.2)))] if texture != "plain" else "none"
    rate = RATES[kind_of(motion)][SPEEDS.index(speed)]
    size, largest = _sizes(motion, speed, rate)
    x, y = _start(motion, rate, largest * _REACH[shape] + _MARGIN, rng)
    return Scene(
        colour=colour,
        shape=shape,
        motion=motion,
        speed=speed,
        texture=texture,
        background=list(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))],
        pan=pan,
        x=x,
        y=y,
        size=size,
        angle=0.0,
        rate=rate,
        phase=(float(rng.random()), float(rng.random())),
        tint=(int(rng.integers(-8, 9)), int(rng.integers(-8, 9)), int(rng.integers(-8, 9))),
        light=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.08, 0.08))),
        rough=bool(rng.random() < rough_share),
        seed=int(rng.integers(2**31)),
    )


def _pool(held_out: bool) -> tuple[tuple[tuple[str, str, str], ...], np.ndarray]:
    pool = tuple(combination for combination in COMBINATIONS if is_held_out(combination) == held_out)
    shares = np.array([combination_share(combination) for combination in pool])
    return pool, np.cumsum(shares)[:-1] / shares.sum()


_POOLS = {held_out: _pool(held_out) for held_out in (False, True)}


def _sizes(motion: str, speed: str, rate: float) -> tuple[float, float]:
    """The size at time 0 and the largest one."""
    if kind_of(motion) != "scales":
        return SIZE, SIZE
    factor = math.exp(rate * DURATION)
    small = 0.16 if speed == "quickly" else 0.2
    return (small if motion == "grows" else small * factor), small * factor


def _start(motion: str, rate: float, reach: float, rng: np.random.Generator) -> tuple[float, float]:
    """Where the centre starts, so that the object stays inside for `DURATION`."""
    place = []
    for step in _VELOCITY.get(motion, (0, 0)):
        travel = step * rate * DURATION
        low, high = reach - min(travel, 0), 1 - reach - max(travel, 0)
        first, last = math.ceil(low * GRID), math.floor(high * GRID)
        place.append(int(rng.integers(first, last + 1)) / GRID if first <= last else (low + high) / 2)
    return place[0], place[1]


def render(
    scene: Scene, height: int, width: int, num_frames: int, fps: float | int, start: float | int = 0.0
) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of a scene.

    Args:
        scene: what to draw.
        height: in pixels; width: likewise.
        num_frames: how many.
        fps: frames a second.
        start: time of the first frame in seconds.

    Raises:
        ValueError: a size, number or rate that is not positive.
    """
    if min(height, width, num_frames) < 1 or fps <= 0:
        raise ValueError(
            f"height, width, num_frames and fps must be positive, got {height=} {width=} {num_frames=} {fps=}"
        )
    side = min(height, width)
    time_T = (start + np.arange(num_frames) / fps).astype(np.float32)
    y_H1 = ((np.arange(height, dtype=np.float32) + 0.5) / side)[:, None]
    x_1W = ((np.arange(width, dtype=np.float32) + 0.5) / side)[None, :]
    # Edges are one pixel wide; soft ones as wide at any size, so that a larger picture of a soft clip is soft too.
    edge = max(1.0, side / 40) if scene.rough else 1.0
    frames_THWC = _background(scene, time_T, y_H1, x_1W, side, edge)
    if len(frames_THWC) != num_frames:
        frames_THWC = np.repeat(frames_THWC, num_frames, axis=0)
    _draw(scene, frames_THWC, time_T, y_H1, x_1W, side, edge)
    if scene.rough:
        _spoil(scene, frames_THWC, side)
    frames_THWC += 0.5
    return np.clip(frames_THWC, 0, 255, out=frames_THWC).astype(np.uint8)


def _background(
    scene: Scene, time_T: np.ndarray, y_H1: np.ndarray, x_1W: np.ndarray, side: int, edge: float
) -> Float[np.ndarray, "T H W 3"]:
    """One frame, or one for each time if the camera pans; values 0..255."""
    light_HW = 1 + scene.light[0] * (x_1W - 0.5) + scene.light[1] * (y_H1 - 0.5)
    base = np.array(BACKGROUNDS[scene.background], np.float32)
    if scene.texture == "plain":
        return (light_HW[None, :, :, None] * base).astype(np.float32)
    step = PAN_STEPS[scene.pan]
    shift_T11 = (step * (time_T if step else time_T[:1]) + scene.phase[0]).astype(np.float32)[:, None, None]
    dark_THW = _dark_share(scene.texture, x_1W + shift_T11, (y_H1 + scene.phase[1])[None], side / edge)
    tone_THW = light_HW * (1 - (1 - _DARK) * dark_THW)
    return tone_THW[..., None].astype(np.float32) * base


def _dark_share(texture: str, u: np.ndarray, v: np.ndarray, pixels: float) -> np.ndarray:
    """How much of each pixel has the texture's second tone."""

    def bars(place: np.ndarray, period: float) -> np.ndarray:
        return np.clip(0.5 + (np.abs(place / period % 1 - 0.5) - 0.25) * (period * pixels), 0, 1)

    if texture == "stripes":
        return bars((u + v) / math.sqrt(2), 0.23)
    if texture == "checks":
        across, down = bars(u, 0.34), bars(v, 0.34)
        return across * down + (1 - across) * (1 - down)
    period, radius = 0.25, 0.075
    across, down = (u / period % 1 - 0.5) * period, (v / period % 1 - 0.5) * period
    return np.clip(0.5 + (radius - np.sqrt(across**2 + down**2)) * pixels, 0, 1)


def _draw(
    scene: Scene,
    frames_THWC: np.ndarray,
    time_T: np.ndarray,
    y_H1: np.ndarray,
    x_1W: np.ndarray,
    side: int,
    edge: float,
) -> None:
    """Lays the object over the frames, in the window that it ever touches."""
    centre_T2, size_T, angle_T = pose(scene, time_T, y_H1.size, x_1W.size)
    reach_T1 = (size_T * _REACH[scene.shape] + (edge + 1) / side)[:, None]
    low, high = (centre_T2 - reach_T1).min(axis=0) * side, (centre_T2 + reach_T1).max(axis=0) * side
    rows, columns = (slice(max(0, int(low[axis])), max(0, math.ceil(high[axis]))) for axis in (1, 0))
    dx_T1W = x_1W[None, :, columns] - centre_T2[:, 0, None, None]
    dy_TH1 = y_H1[None, rows, :] - centre_T2[:, 1, None, None]
    cos_T, sin_T = (part(angle_T)[:, None, None] / size_T[:, None, None] for part in (np.cos, np.sin))
    outside_THW = distance(scene.shape, cos_T * dx_T1W + sin_T * dy_TH1, cos_T * dy_TH1 - sin_T * dx_T1W)
    alpha_THW = np.clip(0.5 - outside_THW * (size_T * side / edge)[:, None, None], 0, 1)
    colour = np.clip(np.add(COLOURS[scene.colour], scene.tint), 0, 255).astype(np.float32)
    window = frames_THWC[:, rows, columns]
    window += alpha_THW[..., None] * (colour - window)


def pose(
    scene: Scene, time_T: np.ndarray, height: int, width: int
) -> tuple[Float[np.ndarray, "T 2"], Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Centre (x, y) and size, in shorter sides, and angle of the object at given times in a frame of a given size."""
    side = min(height, width)
    kind = kind_of(scene.motion)
    start = np.array([scene.x * width / side, scene.y * height / side])
    centre_T2 = start + scene.rate * time_T[:, None] * np.array(_VELOCITY.get(scene.motion, (0, 0)))
    growth = {"grows": 1, "shrinks": -1}.get(scene.motion, 0) * scene.rate
    size_T = scene.size * np.exp(growth * time_T)
    angle_T = scene.angle + (scene.rate if kind == "turns" else 0.0) * time_T
    return centre_T2.astype(np.float32), size_T.astype(np.float32), angle_T.astype(np.float32)


def in_frame(scene: Scene, seconds: float | int) -> bool:
    """Whether the object is inside a square frame, but for an edge, at the beginning and after so many seconds."""
    centre_T2, size_T, _ = pose(scene, np.array([0.0, seconds]), 1, 1)
    reach_T1 = size_T[:, None] * _REACH[scene.shape] - 0.03
    return bool((centre_T2 >= reach_T1).all() and (centre_T2 <= 1 - reach_T1).all())


def distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to a shape of size 1, negative inside; v points down. Near corners it is a lower bound."""
    if shape == "circle":
        return np.sqrt(u * u + v * v) - 1
    if shape == "ring":
        return np.abs(np.sqrt(u * u + v * v) - 0.76) - 0.24
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.85
    if shape == "triangle":
        return np.maximum(v, math.sqrt(0.75) * np.abs(u) - 0.5 * v) - 0.62
    across, down = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(across - 1.05, down - 0.36), np.maximum(across - 0.36, down - 1.05))


def _spoil(scene: Scene, frames_THWC: np.ndarray, side: int) -> None:
    """Grain as coarse at any size, and flicker."""
    T, H, W, _ = frames_THWC.shape
    rng = np.random.default_rng(scene.seed)
    frames_THWC *= rng.normal(1, 0.05, (T, 1, 1, 1)).astype(np.float32)
    coarse = max(1, round(side / 64))
    grain = rng.standard_normal((T, -(-H // coarse), -(-W // coarse)), np.float32) * 6
    grain_THW = grain.repeat(coarse, axis=1).repeat(coarse, axis=2)[:, :H, :W]
    frames_THWC += grain_THW[..., None]
