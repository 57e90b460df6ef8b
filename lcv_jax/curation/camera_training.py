"""Trains the classifier of camera.py on rendered camera paths over pictures: `lcv curate train-camera OUT.json`.

A few minutes on one CPU core. Repeated, it makes the shipped file again.

Pictures are those that scikit-image brings along and procedural ones. Paths have what real ones have: hands that are
not steady, speeds that change, motion across the main direction, objects that move, noise. Accuracy is measured on
pictures that training never saw.
"""

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.curation.camera import CLASSES, camera_probabilities, features
from lcv_jax.curation.motion import Motion
from lcv_jax.extras import import_extra

TRAINING = ("brick", "camera", "cell", "chelsea", "coins", "hubble_deep_field", "motorcycle_left", "page", "retina")
TRAINING_CLOUDS = 9
HELD_OUT = ("astronaut", "coffee", "grass", "gravel", "immunohistochemistry", "moon", "rocket", "text")
HELD_OUT_CLOUDS = 4
"""Procedural pictures."""
_SIDES = ((128, 228), (128, 170), (128, 128), (170, 128), (96, 170))
_CANVAS = 512
_DECAY = 1e-3
"""Of weights, in the logistic regression."""


def train_camera(num_clips: int = 960, num_held_out: int = 480, seed: int = 0) -> dict[str, Any]:
    """A model of camera.py with its card: weights, and accuracy on pictures never seen, as a whole and per class.

    Args:
        num_clips: rendered to train on, in equal parts of every class.
        num_held_out: rendered to measure accuracy.
        seed: of all paths.
    """
    training = [*TRAINING, *(f"clouds {number}" for number in range(TRAINING_CLOUDS))]
    held_out = [*HELD_OUT, *(f"clouds {100 + number}" for number in range(HELD_OUT_CLOUDS))]
    features_NF, labels_N = _examples(training, num_clips, seed)
    model = fit(features_NF, labels_N)
    others_MF, wanted_M = _examples(held_out, num_held_out, seed + 1)
    found_M = camera_probabilities(others_MF, model).argmax(axis=1)
    right_M = found_M == wanted_M
    card = {
        "classes": CLASSES,
        "trained_on": {"clips": num_clips, "seed": seed, "pictures": training},
        "held_out": {"clips": num_held_out, "pictures": held_out, "accuracy": round(float(right_M.mean()), 4)}
        | {"recall": {name: round(float(right_M[wanted_M == row].mean()), 4) for row, name in enumerate(CLASSES)}},
    }
    return card | model


def fit(features_NF: Float[np.ndarray, "N F"], labels_N: np.ndarray) -> dict[str, Any]:
    """Multinomial logistic regression with decay of the weights, on standardised features."""
    optimize = import_extra("scipy.optimize", "curate", "training the camera classifier needs")
    N, F = features_NF.shape
    mean_F, scale_F = features_NF.mean(axis=0), features_NF.std(axis=0) + 1e-6
    inputs_NF, wanted_NC = (features_NF - mean_F) / scale_F, np.eye(len(CLASSES))[labels_N]
    neutral = {"mean": np.zeros(F), "scale": np.ones(F)}

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights_FC, bias_C = flat[:-8].reshape(F, -1), flat[-8:]
        found_NC = camera_probabilities(inputs_NF, {**neutral, "weights": weights_FC, "bias": bias_C})
        entropy = -np.log(np.maximum((found_NC * wanted_NC).sum(axis=1), 1e-12)).mean()
        error_NC = (found_NC - wanted_NC) / N
        gradient = np.concatenate([(inputs_NF.T @ error_NC + _DECAY * weights_FC).ravel(), error_NC.sum(axis=0)])
        return float(entropy + _DECAY / 2 * (weights_FC**2).sum()), gradient

    start = np.zeros(F * len(CLASSES) + len(CLASSES))
    flat = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return {
        "mean": mean_F.round(6).tolist(),
        "scale": scale_F.round(6).tolist(),
        "weights": flat[:-8].reshape(F, -1).round(5).tolist(),
        "bias": flat[-8:].round(5).tolist(),
    }


def _examples(pictures: Sequence[str], num_clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of rendered clips."""
    rows = [
        features(rendered_path(pictures, CLASSES[number % len(CLASSES)], (seed, number))) for number in range(num_clips)
    ]
    return np.stack(rows), np.arange(num_clips) % len(CLASSES)


def rendered_path(pictures: Sequence[str], camera: str, seed: tuple[int, int]) -> np.ndarray:
    """What is measured of the camera's path in a rendered clip."""
    rng = np.random.default_rng(seed)
    fps = float(rng.choice((12, 12.5, 15)))
    motion = Motion(fps)
    for frame_HW in rendered_clip(pictures, camera, fps, rng):
        motion.add(frame_HW)
    return np.array(motion.path_T4)


def rendered_clip(
    pictures: Sequence[str], camera: str, fps: float, rng: np.random.Generator
) -> list[UInt8[np.ndarray, "H W"]]:
    """Grey frames of a camera of some class over a picture."""
    cv2 = import_extra("cv2", "curate", "training the camera classifier needs")
    canvas_HW = _picture(pictures[int(rng.integers(len(pictures)))])
    H, W = _SIDES[int(rng.integers(len(_SIDES)))]
    steps_T4 = camera_steps(camera, round(float(rng.uniform(1.2, 5)) * fps), fps, rng)
    centre, scale = rng.uniform(0.3, 0.7, 2) * canvas_HW.shape[::-1], float(rng.uniform(1.2, 2.2))
    noise, gain = float(rng.uniform(0, 4)), float(rng.uniform(0.5, 1))
    objects = [_moving_object(pictures, H, W, rng) for _ in range(int(rng.integers(0, 3)))]
    places_T4 = np.concatenate([np.zeros((1, 4)), np.cumsum(steps_T4, axis=0)])
    # A zoom around its middle: neither end is out of proportion.
    zoom_T = np.exp(places_T4[:, 2] - places_T4[:, 2].mean())
    frames = []
    for number, (place_4, zoom) in enumerate(zip(places_T4, zoom_T, strict=True)):
        turn = (
            scale
            / zoom
            * np.array([[np.cos(place_4[3]), -np.sin(place_4[3])], [np.sin(place_4[3]), np.cos(place_4[3])]])
        )
        middle = centre + scale * min(H, W) * place_4[:2]
        matrix = np.concatenate([turn, (middle - turn @ [(W - 1) / 2, (H - 1) / 2])[:, None]], axis=1)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame_HW = cv2.warpAffine(canvas_HW, matrix, (W, H), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        frame_HW = gain * frame_HW.astype(np.float32)
        for patch_hw, start_2, step_2 in objects:
            _paste(frame_HW, patch_hw, start_2 + number / fps * step_2)
        frame_HW += noise * rng.standard_normal((H, W), np.float32)
        frames.append(np.clip(frame_HW + 0.5, 0, 255).astype(np.uint8))
    return frames


def camera_steps(camera: str, num_steps: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Where the camera goes from frame to frame, T 4: x and y in shorter sides, zoom as a logarithm, rotation."""
    seconds_T = np.arange(num_steps) / fps
    steps_T4 = np.zeros((num_steps, 4))
    kind, _, way = camera.partition("_")
    if kind in ("pan", "tilt", "zoom"):
        axis = {"pan": 0, "tilt": 1, "zoom": 2}[kind]
        sign = -1 if way in ("left", "up", "out") else 1
        speed = sign * np.exp(rng.uniform(*np.log((0.05, 0.5) if kind == "zoom" else (0.04, 0.7))))
        swell = 1 + rng.uniform(0, 0.5) * np.sin(2 * np.pi * (rng.uniform(0.1, 0.4) * seconds_T + rng.random()))
        steps_T4[:, axis] = speed * swell
        across = rng.uniform(-0.25, 0.25, 4) * abs(speed) * np.array((1, 1, 0.3, 0.15))
        across[axis] = 0
        steps_T4 += across
        steps_T4 += _unsteady(seconds_T, rng) * rng.uniform(0, 0.2) * abs(speed)
    elif kind == "shake":
        speed = float(np.exp(rng.uniform(*np.log((0.08, 0.9)))))
        steps_T4 = _unsteady(seconds_T, rng) * speed
        steps_T4[:, :2] += rng.uniform(-0.3, 0.3, 2) * speed
    else:
        steps_T4 = _unsteady(seconds_T, rng) * rng.uniform(0, 0.02) * float(rng.random() < 0.6)
        steps_T4 += rng.uniform(-0.008, 0.008, 4) * np.array((1, 1, 0.7, 0.3))
    return steps_T4 / fps


def _unsteady(seconds_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Velocity of a hand, T 4: some frequencies, of about 1 in x and y."""
    rates, phases = rng.uniform(1.2, 6.5, (4, 3)), rng.uniform(0, 2 * np.pi, (4, 3))
    waves_T4 = np.cos(2 * np.pi * rates * seconds_T[:, None, None] + phases).sum(axis=-1) / 1.2
    return waves_T4 * np.array((1, 1, rng.uniform(0, 0.15), rng.uniform(0, 0.2)))


def _moving_object(pictures: Sequence[str], H: int, W: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """A piece of a picture, where it starts, and its speed in pixels a second."""
    picture_HW = _picture(pictures[int(rng.integers(len(pictures)))])
    height, width = (int(side) for side in rng.uniform(0.1, 0.4, 2) * min(H, W))
    y, x = int(rng.integers(_CANVAS - height)), int(rng.integers(_CANVAS - width))
    return picture_HW[y : y + height, x : x + width], rng.random(2) * (W, H), rng.normal(0, 0.2, 2) * min(H, W)


def _paste(frame_HW: np.ndarray, patch_hw: np.ndarray, place_2: np.ndarray) -> None:
    x, y = (round(float(part)) for part in place_2)
    window = frame_HW[max(y, 0) : max(y + patch_hw.shape[0], 0), max(x, 0) : max(x + patch_hw.shape[1], 0)]
    window[:] = patch_hw[max(-y, 0) :, max(-x, 0) :][: window.shape[0], : window.shape[1]]


@functools.lru_cache(maxsize=32)
def _picture(name: str) -> UInt8[np.ndarray, "H W"]:
    """A grey picture whose shorter side is the canvas's."""
    cv2 = import_extra("cv2", "curate", "training the camera classifier needs")
    if name.startswith("clouds"):
        return _clouds(np.random.default_rng(zlib.crc32(name.encode())))
    data = import_extra("skimage.data", "curate", "training the camera classifier needs")
    picture = data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(data, name)()
    grey_HW = picture if picture.ndim == 2 else cv2.cvtColor(np.ascontiguousarray(picture[..., :3]), cv2.COLOR_RGB2GRAY)
    scale = _CANVAS / min(grey_HW.shape)
    size = max(_CANVAS, round(grey_HW.shape[1] * scale)), max(_CANVAS, round(grey_HW.shape[0] * scale))
    return cv2.resize(grey_HW, size, interpolation=cv2.INTER_AREA)


def _clouds(rng: np.random.Generator) -> UInt8[np.ndarray, "H W"]:
    """Noise whose spectrum falls as those of photographs do, with blocks over it."""
    frequency = np.hypot(np.fft.fftfreq(_CANVAS)[:, None], np.fft.rfftfreq(_CANVAS)[None, :])
    frequency[0, 0] = 1
    cloud_HW = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_CANVAS, _CANVAS))) / frequency ** rng.uniform(0.9, 1.6))
    picture_HW = 128 + rng.uniform(15, 50) * (cloud_HW - cloud_HW.mean()) / cloud_HW.std()
    for _ in range(int(rng.integers(0, 24))):
        y, x, height, width = (int(side) for side in rng.uniform(0, 1, 4) * (_CANVAS, _CANVAS, 150, 150))
        picture_HW[y : y + height, x : x + width] = rng.uniform(20, 235)
    return np.clip(picture_HW, 0, 255).astype(np.uint8)
