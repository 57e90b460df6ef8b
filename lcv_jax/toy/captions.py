"""Captions of the procedural world from a small grammar with paraphrases, and what a caption asks for.

a red circle moves slowly to the left over a striped grey background, the camera pans right
"""

import dataclasses
import re

import numpy as np

from lcv_jax.toy.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SPEEDS, TEXTURES, Scene

_TEXTURE_WORDS = {"plain": "plain", "stripes": "striped", "checks": "checked", "dots": "dotted"}
_VERBS = {
    **{way: (f"moves SPEED to the {way}", f"SPEED moves {way}", f"moves {way} SPEED") for way in ("left", "right")},
    **{way: (f"moves SPEED {way}", f"SPEED moves {way}", f"moves {way} SPEED") for way in ("up", "down")},
    "grows": ("SPEED grows", "grows SPEED", "becomes larger SPEED"),
    "shrinks": ("SPEED shrinks", "shrinks SPEED", "becomes smaller SPEED"),
    "turns": ("SPEED turns", "turns SPEED", "rotates SPEED"),
}
_PLACES = ("over a TEXTURE GROUND background", "on a GROUND TEXTURE background", "in front of a TEXTURE GROUND wall")
_CAMERAS = (", the camera pans SIDE", " while the camera pans to the SIDE", ", camera panning SIDE")
_STILL = ("", "", ", the camera stands still")
_MOTION_PATTERNS = {
    "left": r"moves (?:\w+ )?(?:to the )?left",
    "right": r"moves (?:\w+ )?(?:to the )?right",
    "up": r"moves (?:\w+ )?up",
    "down": r"moves (?:\w+ )?down",
    "grows": r"grows|becomes larger",
    "shrinks": r"shrinks|becomes smaller",
    "turns": r"turns|rotates",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caption asks for; None is what it leaves open."""

    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    speed: str | None = None
    texture: str | None = None
    background: str | None = None
    pan: str | None = None


def caption(scene: Scene, seed: int | None = None, *, still: bool = False) -> str:
    """A caption of a scene.

    Args:
        scene: what is shown.
        seed: chooses the paraphrase; None takes the first.
        still: of an image, which shows no motion.
    """
    rng = None if seed is None else np.random.default_rng([seed, 1])

    def choose(options: tuple[str, ...]) -> str:
        return options[0 if rng is None else int(rng.integers(len(options)))]

    verb = "" if still else " " + choose(_VERBS[scene.motion]).replace("SPEED", scene.speed)
    place = choose(_PLACES).replace("TEXTURE", _TEXTURE_WORDS[scene.texture]).replace("GROUND", scene.background)
    camera = "" if still else choose(_STILL if scene.pan == "none" else _CAMERAS).replace("SIDE", scene.pan)
    return f"a{'n' if scene.colour == 'orange' else ''} {scene.colour} {scene.shape}{verb} {place}{camera}"


def parse(text: str) -> Asked:
    """What a caption of the grammar asks for; works on other texts with the same words too."""
    text = " ".join(text.lower().split())
    camera = re.search(r"camera pan(?:s|ning) (?:to the )?(left|right)", text)
    words = set(re.findall(r"\w+", text))
    moving = next((motion for motion in MOTIONS if re.search(rf"\b(?:{_MOTION_PATTERNS[motion]})\b", text)), None)

    def one_of(options: dict[str, str]) -> str | None:
        return next((name for name, word in options.items() if word in words), None)

    return Asked(
        colour=one_of({name: name for name in COLOURS}),
        shape=one_of({name: name for name in SHAPES}),
        motion=moving,
        speed=one_of({name: name for name in SPEEDS}),
        texture=one_of({name: _TEXTURE_WORDS[name] for name in TEXTURES}),
        background=one_of({name: name for name in BACKGROUNDS}),
        pan=camera[1] if camera else "none" if moving else None,
    )


def vocabulary() -> list[str]:
    """Every word and mark that captions are made of, sorted."""
    templates = " ".join((*(form for forms in _VERBS.values() for form in forms), *_PLACES, *_CAMERAS, *_STILL))
    filled = re.sub("SPEED|TEXTURE|GROUND|SIDE", " ", templates)
    words = [*re.findall(r"\w+|[^\w\s]", filled), *COLOURS, *SHAPES, *SPEEDS, *BACKGROUNDS, *_TEXTURE_WORDS.values()]
    return sorted({*words, "a", "an", "left", "right"})
