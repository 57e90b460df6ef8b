"""Measures of a clip from one decoding. Frames come one at a time; what is kept of each are a few numbers.

Single frames are measured now and then (appearance.py), motion and repeated frames on small grey versions of all
(motion.py, repeats.py). Text, logos and learned aesthetic scores have stages of their own.
"""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.curation.appearance import measure_frame
from lcv_jax.curation.camera import classify_camera
from lcv_jax.curation.motion import Motion
from lcv_jax.curation.repeats import Repeats
from lcv_jax.data.flow import small_grey
from lcv_jax.data.media_reader import open_clip

MEASURES: dict[str, tuple[type, str]] = {
    "clip_height": (int, "pixels"),
    "clip_width": (int, "pixels"),
    "clip_fps": (float, "frames a second"),
    "clip_frames": (int, "frames"),
    "clip_seconds": (float, "length"),
    "clip_bit_rate": (float, "bits a second of the file"),
    "sharpness": (float, "variance of the Laplacian where the shorter side has at most 360 pixels"),
    "edge_width": (float, "width of edges, % of the shorter side: blur, whatever the contrast; below 0.3 is sharp"),
    "brightness": (float, "mean, 0 to 1"),
    "contrast": (float, "standard deviation of brightness, 0 to 1"),
    "clipped_dark": (float, "share of pixels that are black"),
    "clipped_bright": (float, "share of pixels that are white"),
    "glcm_contrast": (float, "co-occurrence of grey levels: contrast, of 32 levels; rich texture is high"),
    "glcm_homogeneity": (float, "the same: homogeneity"),
    "glcm_energy": (float, "the same: energy"),
    "glcm_entropy": (float, "the same: entropy"),
    "colourfulness": (float, "0 is grey, above 80 is vivid (Hasler and Suesstrunk 2003)"),
    "aesthetic_heuristic": (float, "0 to 1 from sharpness, exposure, contrast and colour; not a learned score"),
    "flicker": (float, "mean change of brightness against the frames before and after, % of the brightness"),
    "repeated_share": (float, "share of frames that repeat the one before"),
    "frozen_share": (float, "the same, in runs of a quarter of a second or longer; above 0.65 is a still shot"),
    "longest_freeze": (float, "seconds of the longest run of repeated frames"),
    "motion": (float, "mean optical flow, % of the shorter side a second"),
    "dynamic_degree": (float, "mean of the largest 5 % of it"),
    "camera_motion": (float, "the camera's part of it"),
    "object_motion": (float, "what the camera's part leaves: objects"),
    "moving_share": (float, "share of places that move by themselves"),
    "camera": (str, "static, pan_left, pan_right, tilt_up, tilt_down, zoom_in, zoom_out or shake"),
    "camera_confidence": (float, "its probability"),
}
"""Every measure, its type and what it means."""


def measure_file(
    path: str | Path, samples_a_second: float = 2.0, most_samples: int = 64
) -> dict[str, float | int | str]:
    """All measures of a clip, decoded once.

    Args:
        path: of the clip.
        samples_a_second: frames that are measured as single frames.
        most_samples: of them, about; longer clips are sampled at larger distances.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no video that can be used.
    """
    with open_clip(path) as clip:
        timeline = clip.timeline
        fps, seconds = float(timeline.rate), float(timeline.seconds)
        step = max(1, round(fps / samples_a_second), math.ceil(seconds * fps / most_samples))
        found = measure_frames(clip.pictures(timeline.at_rate(None)), fps, step)
    return {**found, "clip_seconds": seconds, "clip_bit_rate": 8 * Path(path).stat().st_size / seconds}


def measure_frames(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float, step: int = 8
) -> dict[str, float | int | str]:
    """All measures that frames have.

    Args:
        frames: one after the other.
        fps: their rate.
        step: every so many frames one is measured as a single frame.

    Raises:
        ValueError: there is no frame.
    """
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
        "clip_height": shape[0],
        "clip_width": shape[1],
        "clip_fps": fps,
        "clip_frames": repeats.count,
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
