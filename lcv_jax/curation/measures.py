"""Measures of a clip from one decoding. Frames come one at a time; what is kept of each are a few numbers.

Single frames are measured twice a second (appearance.py), motion and repeated frames on small grey versions of all
(motion.py). Text, logos and learned aesthetic scores have stages of their own.
"""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.curation.appearance import measure_frame
from lcv_jax.curation.camera import classify_camera
from lcv_jax.curation.motion import Motion, Repeats
from lcv_jax.data.flow import small_grey
from lcv_jax.data.media_reader import open_clip

MEASURES: dict[str, str] = {
    "height": "pixels",
    "width": "pixels",
    "fps": "frames a second",
    "num_frames": "frames",
    "seconds": "length",
    "bit_rate": "bits a second of the file",
    "sharpness": "variance of the Laplacian where the shorter side has at most 360 pixels",
    "edge_width": "width of edges, % of the shorter side: blur, whatever the contrast; below 0.3 is sharp",
    "brightness": "mean, 0 to 1",
    "contrast": "standard deviation of brightness, 0 to 1",
    "clipped_dark": "share of pixels that are black",
    "clipped_bright": "share of pixels that are white",
    "glcm_contrast": "co-occurrence of grey levels: contrast, of 32 levels; rich texture is high",
    "glcm_homogeneity": "the same: homogeneity",
    "glcm_energy": "the same: energy",
    "glcm_entropy": "the same: entropy",
    "colourfulness": "0 is grey, above 80 is vivid (Hasler and Suesstrunk 2003)",
    "aesthetic_heuristic": "0 to 1 from sharpness, exposure, contrast and colour; not a learned score",
    "flicker": "mean change of brightness against the frames before and after, % of the brightness",
    "repeated_share": "share of frames that repeat the one before",
    "frozen_share": "share of frames that repeat the one before for a quarter of a second or longer; 1 is a still shot",
    "longest_freeze": "seconds of the longest run of repeated frames",
    "motion": "mean optical flow, % of the shorter side a second",
    "dynamic_degree": "mean of the largest 5 % of it",
    "camera_motion": "the camera's part of it",
    "object_motion": "what the camera's part leaves: objects",
    "moving_share": "share of places that move by themselves",
    "camera": "static, pan_left, pan_right, tilt_up, tilt_down, zoom_in, zoom_out or shake",
    "camera_confidence": "its probability",
}
"""Every measure and what it means."""
_SAMPLES_A_SECOND = 2.0
_SAMPLES = 64
"""Of a clip that are measured as single frames, at most about."""


def measure_file(path: str | Path) -> dict[str, float | int | str]:
    """All measures of a clip, decoded once.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no video that can be used.
    """
    with open_clip(path) as clip:
        timeline = clip.timeline
        fps = float(timeline.rate)
        found = measure_frames(clip.pictures(timeline.at_rate(None)), fps, float(timeline.seconds))
        seconds = float(timeline.seconds)
    return {**found, "seconds": seconds, "bit_rate": 8 * Path(path).stat().st_size / seconds}


def measure_frames(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, seconds: float = 0.0
) -> dict[str, float | int | str]:
    """All measures that frames have.

    Args:
        frames: one after the other.
        fps: their rate.
        seconds: about how long the clip is; long ones are sampled at larger distances.

    Raises:
        ValueError: there is no frame.
    """
    step = max(1, round(fps / _SAMPLES_A_SECOND), math.ceil(seconds * fps / _SAMPLES))
    motion, repeats, flicker = Motion(fps), Repeats(fps), Flicker()
    looks: list[dict[str, float]] = []
    shape = (0, 0)
    for number, frame_HWC in enumerate(frames):
        grey_HW = small_grey(frame_HWC)
        motion.add(grey_HW)
        repeats.add(grey_HW)
        flicker.add(grey_HW)
        if number % step == 0:
            looks.append(measure_frame(frame_HWC))
        shape = frame_HWC.shape[:2]
    if not looks:
        raise ValueError("no frame to measure")
    camera, confidence = classify_camera(np.array(motion.path_T4)) if motion.path_T4 else ("static", math.nan)
    return {
        "height": shape[0],
        "width": shape[1],
        "fps": fps,
        "num_frames": repeats.count,
        **{name: float(np.mean([look[name] for look in looks])) for name in looks[0]},
        **flicker.result(),
        **repeats.result(),
        **motion.result(),
        "camera": camera,
        "camera_confidence": confidence,
    }


@dataclasses.dataclass
class Flicker:
    """Changes of brightness that the next frame takes back, in grey frames that come one after the other."""

    def __post_init__(self) -> None:
        self._last: list[float] = []
        self._sum, self._count = 0.0, 0

    def add(self, grey_HW: UInt8[np.ndarray, "H W"]) -> None:
        """The next frame."""
        self._last = [*self._last[-2:], float(grey_HW.mean())]
        if len(self._last) == 3:
            before, here, after = self._last
            self._sum += abs(here - (before + after) / 2) / max(here, 1.0)
            self._count += 1

    def result(self) -> dict[str, float]:
        """Mean change, in percent."""
        return {"flicker": 100 * self._sum / max(1, self._count)}
