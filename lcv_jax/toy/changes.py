"""Scenes of the procedural world that change midway: the same object, from a moment on, moves in another way."""

import dataclasses

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.toy.world import (
    COLOURS,
    MOTIONS,
    PAN_STEPS,
    RATES,
    SPEEDS,
    Scene,
    in_frame,
    is_held_out,
    is_invisible,
    kind_of,
    pose,
    render,
)

LEAST_SIZE = 0.14
"""Of objects after a change: the readers do not know the shape of smaller ones."""


def changed(
    scene: Scene,
    after: float,
    seconds: float,
    *,
    seed: int,
    colour: bool = False,
    may_stay: bool = False,
    held_out: bool | None = None,
) -> Scene | None:
    """What a scene turns into: its object moves in another way, and stays in the frame for so long.

    Args:
        scene: as it began.
        after: seconds from the beginning to the change, which are the time 0 of what is returned.
        seconds: after the change.
        seed: chooses among all motions and speeds that are possible.
        colour: the object gets another colour as well.
        may_stay: the motion may be the same as before.
        held_out: only combinations that are never trained, or only others. None: any.

    Returns:
        None if no motion is possible.
    """
    centre_T2, size_T, angle_T = pose(scene, np.array([after]), 1, 1)
    (x, y), size, angle = map(float, centre_T2[0]), float(size_T[0]), float(angle_T[0])
    phase = scene.phase[0] + PAN_STEPS[scene.pan] * after, scene.phase[1]
    here = dataclasses.replace(scene, x=x, y=y, size=size, angle=angle, phase=phase)
    rng = np.random.default_rng([seed, 78])
    colours = [other for other in COLOURS if other != scene.colour] if colour else [scene.colour]
    new_colour = colours[int(rng.integers(len(colours)))]
    found = []
    for motion in MOTIONS:
        if (motion == scene.motion and not may_stay) or is_invisible(scene.shape, motion):
            continue
        if held_out is not None and is_held_out((new_colour, scene.shape, motion)) != held_out:
            continue
        for speed, rate in zip(SPEEDS, RATES[kind_of(motion)], strict=True):
            new = dataclasses.replace(here, colour=new_colour, motion=motion, speed=speed, rate=rate)
            if in_frame(new, seconds) and pose(new, np.array([seconds]), 1, 1)[1][0] > LEAST_SIZE:
                found.append(new)
    return found[int(rng.integers(len(found)))] if found else None


def render_change(
    scene: Scene, new: Scene, height: int, width: int, num_frames: int, fps: float, change: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames of a scene of which those from `change` on show what it turned into, `changed` after `change / fps`."""
    before = render(scene, height, width, change, fps)
    return np.concatenate([before, render(new, height, width, num_frames - change, fps)])
