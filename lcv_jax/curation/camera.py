"""Camera movement of a clip: static, pan, tilt, zoom with their directions, or shake.

A logistic regression over statistics of the camera's path, which motion.py fits to optical flow. Its weights are in
shipped/camera.json, with their card: how they were trained, on what, and how often they are right. camera_training.py
makes that file. In a pan to the right what is seen moves to the left.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import Float

CLASSES = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "shake")
SHIPPED = Path(__file__).with_name("shipped") / "camera.json"
_SLOW = 0.01
"""Shorter sides a second: the scale below which speeds are alike."""


def classify_camera(path_T4: Float[np.ndarray, "T 4"], model: Mapping[str, Any] | None = None) -> tuple[str, float]:
    """The class of a camera's path and its probability.

    Args:
        path_T4: x, y, zoom and rotation a second, as `motion.Motion` gives them.
        model: of camera_training.py; None: the shipped one.

    Raises:
        ValueError: an empty path.
    """
    probabilities = camera_probabilities(features(path_T4)[None], model or shipped_model())[0]
    best = int(probabilities.argmax())
    return CLASSES[best], float(probabilities[best])


def features(path_T4: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, " F"]:
    """Where the camera went and how steadily: speeds on a logarithmic scale, and shares that do not depend on speed."""
    if not len(path_T4):
        raise ValueError("a camera's path needs at least one pair of frames")
    mean_4, middle_4 = path_T4.mean(axis=0), np.median(path_T4, axis=0)
    speed_4 = np.abs(path_T4).mean(axis=0)
    change_4 = np.abs(np.diff(path_T4, axis=0)).mean(axis=0) if len(path_T4) > 1 else np.zeros(4)
    steadiness_4 = mean_4 / (speed_4 + _SLOW)
    ahead = np.abs(np.concatenate([mean_4[:3], middle_4[:3]]))
    # Which of the three kinds of motion is the largest.
    shares_3 = np.abs(mean_4[:3]) / (np.abs(mean_4[:3]).sum() + _SLOW)
    return np.concatenate(
        [
            np.sign(mean_4) * _logarithm(mean_4),
            np.sign(middle_4) * _logarithm(middle_4),
            _logarithm(ahead),
            _logarithm(speed_4),
            _logarithm(change_4),
            steadiness_4,
            np.abs(steadiness_4),
            shares_3,
            shares_3 * np.sign(mean_4[:3]),
        ]
    )


def _logarithm(speeds: np.ndarray) -> np.ndarray:
    return np.log1p(np.abs(speeds) / _SLOW)


def camera_probabilities(features_NF: Float[np.ndarray, "N F"], model: Mapping[str, Any]) -> np.ndarray:
    """Probabilities of the classes, N 8."""
    scaled_NF = (features_NF - np.array(model["mean"])) / np.array(model["scale"])
    logits_NC = scaled_NF @ np.array(model["weights"]) + np.array(model["bias"])
    exponentials_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return exponentials_NC / exponentials_NC.sum(axis=1, keepdims=True)


@functools.cache
def shipped_model() -> dict[str, Any]:
    """The weights that come with the package, and their card."""
    return json.loads(SHIPPED.read_text(encoding="utf-8"))
