"""Plans of procedural films: shots, the transitions between them, borders, logos, subtitles, duplicates.

A `Film` is a function of a seed and a number, holds no pixels, and says all about the film. Frames are counted from 0;
an interval (start, end) leaves `end` out. film_frames.py draws a plan, films.py writes films with their truth.
"""

import dataclasses
import functools
from fractions import Fraction

import numpy as np

from lcv_jax.toy.world import DURATION, PANS, Scene, sample_scene

CAMERAS = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "shake")
"""Where the camera goes: in a pan to the right what is seen moves to the left."""
DEFECTS = ("none", "still", "frozen", "blur", "flicker", "dark", "spotlight")
"""Of a shot. A dark shot is dim as a whole, a spotlight leaves all but the middle black."""
DUPLICATES = ("exact", "reencoded", "resized", "excerpt")

_SIZES = ((90, 160), (108, 192), (144, 256), (180, 320))
_RATES = (Fraction(24), Fraction(25), Fraction(30), Fraction(24000, 1001), Fraction(30000, 1001))
_DEFECT_SHARES = (0.6, 0.08, 0.08, 0.07, 0.07, 0.06, 0.04)
_NIGHT_SHARES = (0, 0, 0, 0, 0, 0.3, 0.7)
"""Of films that are dark from beginning to end."""
_TEXT = (
    "come back",
    "who is there",
    "not today",
    "look at that",
    "the last train",
    "we are late",
    "it was you",
    "go on",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shot:
    """Frames of one camera."""

    lead: int
    """Frames at its start that belong to the transition into it."""
    length: int
    """Frames that show this shot alone."""
    tail: int
    """Frames at its end that belong to the transition out of it."""
    scene: Scene | None
    """Of the procedural world; None: a random texture with things that move over it."""
    camera: str
    num_objects: int
    """That move over a texture."""
    defect: str
    strength: float
    """Of the defect: standard deviation of the blur as a share of the height, of the flicker's brightness, or the
    brightness of a dark shot."""
    frozen: tuple[int, int]
    """Frames, counted from the first that shows this shot alone, which repeat the first of them."""
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transition:
    """What lies between two shots, or before the first and after the last."""

    kind: str
    """cut, dissolve, fade (out to black and in again), fade_in or fade_out."""
    out: int
    """Frames in which the shot before fades or dissolves."""
    black: int
    into: int
    """Frames in which the shot after appears; of a dissolve the same frames as `out`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logo:
    """A mark in a corner over the whole film."""

    box: tuple[int, int, int, int]
    """Left, top, width and height in pixels."""
    opacity: float
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subtitle:
    """A line of text, burnt in."""

    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Film:
    """A film before it is drawn."""

    seed: int
    fps: Fraction
    height: int
    width: int
    shots: tuple[Shot, ...]
    transitions: tuple[Transition, ...]
    """One before each shot, and one after the last."""
    borders: tuple[int, int, int, int]
    """Black rows and columns at the top, the bottom, the left and the right."""
    border_noise: float
    """Standard deviation of their brightness, levels."""
    grain: float
    """Standard deviation, levels."""
    logo: Logo | None
    subtitles: tuple[Subtitle, ...]
    crf: int

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """Of each shot, the frame of the film at which it appears first, in a transition or alone."""
        starts, place = [], 0
        for shot, transition in zip(self.shots, self.transitions, strict=False):
            place += transition.black - (transition.out if transition.kind == "dissolve" else 0)
            starts.append(place)
            place += shot.lead + shot.length + shot.tail
        return tuple(starts)

    @functools.cached_property
    def num_frames(self) -> int:
        """Of the whole film."""
        last = self.shots[-1]
        return self.starts[-1] + last.lead + last.length + last.tail + self.transitions[-1].black

    def alone(self, index: int) -> tuple[int, int]:
        """The frames that show nothing but a shot."""
        start = self.starts[index] + self.shots[index].lead
        return start, start + self.shots[index].length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicate:
    """How a film repeats another."""

    of: int
    """Number of the original."""
    kind: str
    start: int
    end: int
    """Frames of the original."""
    height: int
    width: int


def plan_film(seed: int, number: int, num_shots: int = 16, world_share: float = 0.5) -> Film:
    """A film, a function of the arguments alone.

    Args:
        seed: of all films.
        number: of this one.
        num_shots: at most; at least half as many.
        world_share: of the shots that show a scene of the procedural world.
    """
    rng = np.random.default_rng([seed, number, 11])
    height, width = _SIZES[int(rng.integers(len(_SIZES)))]
    fps = _RATES[int(rng.integers(len(_RATES)))]
    count = int(rng.integers(max(1, num_shots // 2), num_shots + 1))
    transitions = (
        _edge("fade_in", rng),
        *(_transition(rng) for _ in range(count - 1)),
        _edge("fade_out", rng),
    )
    defect_shares = _NIGHT_SHARES if rng.random() < 0.05 else _DEFECT_SHARES
    shots: list[Shot] = []
    for index in range(count):
        lead, tail = transitions[index].into, transitions[index + 1].out
        defect = str(rng.choice(DEFECTS, p=defect_shares))
        shots.append(_shot(rng, float(fps), lead, tail, defect, world_share, shots[-1] if shots else None))
    borders = _borders(rng, height, width)
    film = Film(
        seed=int(rng.integers(2**31)),
        fps=fps,
        height=height,
        width=width,
        shots=tuple(shots),
        transitions=transitions,
        borders=borders,
        border_noise=float(rng.choice((0.0, 0.7, 1.5))),
        grain=float(rng.choice((0.0, 0.0, 1.0, 2.0))),
        logo=_logo(rng, height, width, borders),
        subtitles=(),
        crf=int(rng.integers(16, 27)),
    )
    return dataclasses.replace(film, subtitles=_subtitles(rng, film))


def plan_duplicate(seed: int, number: int, share: float, num_shots: int, world_share: float) -> Duplicate | None:
    """What a film repeats; None: it is an original. A function of the arguments alone."""
    rng = np.random.default_rng([seed, number, 12])
    if number == 0 or rng.random() >= share:
        return None
    of, kind = int(rng.integers(number)), DUPLICATES[int(rng.integers(len(DUPLICATES)))]
    while (other := plan_duplicate(seed, of, share, num_shots, world_share)) is not None:
        of = other.of
    film = plan_film(seed, of, num_shots, world_share)
    start, end, height, width = 0, film.num_frames, film.height, film.width
    if kind == "excerpt":
        length = max(1, int(film.num_frames * rng.uniform(0.4, 0.8)))
        start = int(rng.integers(film.num_frames - length + 1))
        end = start + length
    if kind == "resized":
        factor = float(rng.choice((0.75, 1.25)))
        height, width = (2 * round(side * factor / 2) for side in (height, width))
    return Duplicate(of=of, kind=kind, start=start, end=end, height=height, width=width)


def _transition(rng: np.random.Generator) -> Transition:
    kind = str(rng.choice(("cut", "dissolve", "fade"), p=(0.6, 0.22, 0.18)))
    if kind == "cut":
        return Transition(kind=kind, out=0, black=0, into=0)
    if kind == "dissolve":
        length = int(rng.integers(6, 31))
        return Transition(kind=kind, out=length, black=0, into=length)
    out, into = (int(length) for length in rng.integers(6, 21, 2))
    return Transition(kind=kind, out=out, black=int(rng.integers(1, 13)), into=into)


def _edge(kind: str, rng: np.random.Generator) -> Transition:
    """A fade at the beginning or the end of the film, or nothing."""
    length, black = int(rng.integers(8, 21)), int(rng.integers(0, 13))
    if rng.random() < 0.6:
        return Transition(kind="none", out=0, black=0, into=0)
    out, into = (0, length) if kind == "fade_in" else (length, 0)
    return Transition(kind=kind, out=out, black=black, into=into)


def _shot(
    rng: np.random.Generator, fps: float, lead: int, tail: int, defect: str, world_share: float, before: Shot | None
) -> Shot:
    seed, scene = int(rng.integers(2**31)), None
    if rng.random() < world_share and defect != "still":
        scene = _scene(seed, before.scene if before else None)
        length = int(rng.integers(30, int(DURATION * fps) + 1))
        camera, num_objects = f"pan_{scene.pan}" if scene.pan != PANS[0] else "static", 1
    else:
        length = int(rng.integers(30, 121))
        camera = "static" if defect == "still" else CAMERAS[int(rng.integers(len(CAMERAS)))]
        num_objects = 0 if defect == "still" else int(rng.integers(1 if camera == "static" else 0, 4))
    repeats = int(rng.integers(10, max(11, length // 2)))
    first = int(rng.integers(2, max(3, length - repeats - 1)))
    strengths = {
        "blur": rng.uniform(0.015, 0.035),
        "flicker": rng.uniform(0.06, 0.15),
        "dark": rng.uniform(0.06, 0.15),
    }
    return Shot(
        lead=lead,
        length=length,
        tail=tail,
        scene=scene,
        camera=camera,
        num_objects=num_objects,
        defect=defect,
        strength=float(strengths.get(defect, 0.0)),
        frozen=(first, first + repeats) if defect == "frozen" else (0, 0),
        seed=seed,
    )


def _scene(seed: int, before: Scene | None) -> Scene:
    """A scene over another background than the one before it: a cut that can be seen."""
    for attempt in range(100):
        scene = sample_scene((seed, attempt))
        if before is None or (scene.background != before.background and scene.texture != before.texture):
            break
    return scene


def _borders(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    kind = rng.choice(("none", "letterbox", "pillarbox", "both"), p=(0.6, 0.18, 0.17, 0.05))
    share, moved = rng.uniform(0.06, 0.2, 2), rng.integers(-2, 3, 2)
    rows, columns = (round(float(part) * side) for part, side in zip(share, (height, width), strict=True))
    top, bottom = (rows, rows + int(moved[0])) if kind in ("letterbox", "both") else (0, 0)
    left, right = (columns, columns + int(moved[1])) if kind in ("pillarbox", "both") else (0, 0)
    return top, bottom, left, right


def _logo(rng: np.random.Generator, height: int, width: int, borders: tuple[int, int, int, int]) -> Logo | None:
    opacity, corner, seed = float(rng.uniform(0.4, 0.9)), int(rng.integers(4)), int(rng.integers(2**31))
    if rng.random() >= 0.3:
        return None
    top, bottom, left, right = borders
    rows, columns = height - top - bottom, width - left - right
    size = (max(20, round(0.18 * columns)), max(11, round(0.13 * rows)))
    margin = round(0.05 * rows)
    x = left + margin if corner % 2 == 0 else width - right - margin - size[0]
    y = top + margin if corner < 2 else height - bottom - margin - size[1]
    return Logo(box=(x, y, *size), opacity=opacity, seed=seed)


def _subtitles(rng: np.random.Generator, film: Film) -> tuple[Subtitle, ...]:
    if rng.random() >= 0.3:
        return ()
    lines, place = [], int(rng.integers(5, 30))
    while place + 30 < film.num_frames:
        end = min(place + int(rng.integers(30, 75)), film.num_frames)
        lines.append(Subtitle(start=place, end=end, text=_TEXT[int(rng.integers(len(_TEXT)))]))
        place = end + int(rng.integers(5, 60))
    return tuple(lines)
