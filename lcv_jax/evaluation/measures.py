"""What can be measured of a clip without weights. Every measure is a function of uint8 frames T H W 3.

A frozen clip has no flicker, no warping error and no jerk: read them beside `dynamic_degree`, as VBench does. Flow is
computed on frames whose shorter side is at most 128 pixels (DIS, Kroeger et al. 2016), in shares of it.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.flow import FLOW_SIDE, flow_estimator, small_grey
from lcv_jax.data.frames import evenly, resize_and_crop
from lcv_jax.data.media_reader import read_video
from lcv_jax.evaluation.packages import evaluation_package

Frames = UInt8[np.ndarray, "T H W 3"]
DYNAMIC_SHARE = 0.05
"""Of pixels with the largest flow, those that dynamic degree averages, as VBench does."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """What a number means."""

    better: str
    """higher, lower, or neither: it tells how to read the others."""
    text: str


MEASURES: dict[str, Measure] = {
    "flicker": Measure(better="higher", text="VBench's temporal flickering: 1 - mean change of a pixel a frame / 255"),
    "dynamic_degree": Measure(better="neither", text="mean of the largest 5 % of flow, % of the shorter side a second"),
    "warping_error": Measure(better="lower", text="mean change of a pixel along the flow, levels of 255"),
    "jerk": Measure(better="lower", text="change of flow from frame to frame / mean flow"),
    "sharpness": Measure(better="neither", text="standard deviation of the Laplacian, levels"),
    "saturation": Measure(better="neither", text="mean chroma in CIELAB"),
    "colour_drift": Measure(better="lower", text="largest distance of a second's mean colour to the first's, Delta E"),
    "drift_per_minute": Measure(better="lower", text="slope of that distance, Delta E a minute"),
}


def measure_clip(frames: Frames, fps: float | int) -> dict[str, float]:
    """All measures of one clip.

    Raises:
        ValueError: fewer than three frames, or no rate.
    """
    if len(frames) < 3 or not fps > 0:
        raise ValueError(f"measures need at least three frames and a rate, got {len(frames)} at {fps:g} a second")
    small = np.stack([small_grey(frame) for frame in frames])
    flow = np.stack(list(itertools.starmap(flow_estimator(), itertools.pairwise(small))))
    drift = colour_distances(frames, fps)
    return {
        "flicker": flicker(frames),
        **motion(small, flow, fps),
        "sharpness": sharpness(frames),
        "saturation": saturation(frames),
        "colour_drift": max(drift),
        "drift_per_minute": _slope(drift) * 60,
    }


def flicker(frames: Frames) -> float:
    """Temporal flickering as VBench defines it: (255 - MAE of neighbouring frames) / 255; 1 is none."""
    cv2 = evaluation_package("cv2")
    changes = [float(np.mean(cv2.mean(cv2.absdiff(a, b))[:3])) for a, b in itertools.pairwise(frames)]
    return (255.0 - float(np.mean(changes))) / 255.0


def motion(grey_THW: np.ndarray, flow_THW2: np.ndarray, fps: float | int) -> dict[str, float]:
    """Dynamic degree, warping error and jerk."""
    cv2 = evaluation_package("cv2")
    T, H, W, _ = flow_THW2.shape
    side = min(H, W)
    speed_THW = np.linalg.norm(flow_THW2, axis=-1)
    largest = max(1, round(DYNAMIC_SHARE * H * W))
    fastest = np.partition(speed_THW.reshape(T, -1), -largest, axis=1)[:, -largest:]
    columns, rows = np.meshgrid(np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32))
    errors = []
    for before, after, (flow_x, flow_y) in zip(grey_THW, grey_THW[1:], np.moveaxis(flow_THW2, -1, 1), strict=False):
        x, y = columns + flow_x, rows + flow_y
        warped = cv2.remap(after, x, y, cv2.INTER_LINEAR)
        inside = (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)
        errors.append(float(cv2.absdiff(warped, before)[inside].mean()) if inside.any() else 0.0)
    change = np.linalg.norm(np.diff(flow_THW2, axis=0), axis=-1)
    mean_speed = float(speed_THW.mean())
    return {
        "dynamic_degree": 100 * float(fastest.mean()) * float(fps) / side,
        "warping_error": float(np.mean(errors)),
        # A hundredth of a pixel: where nothing moves there is no jerk.
        "jerk": float(change.mean()) / (mean_speed + 0.01),
    }


def sharpness(frames: Frames) -> float:
    """Standard deviation of the Laplacian of brightness: blur lowers it, grain raises it."""
    cv2 = evaluation_package("cv2")
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in _sampled(frames))
    return float(np.mean([cv2.meanStdDev(cv2.Laplacian(one, cv2.CV_16S))[1][0, 0] for one in grey]))


def saturation(frames: Frames) -> float:
    """Mean chroma in CIELAB."""
    return float(np.mean([np.hypot(lab[..., 1], lab[..., 2]).mean() for lab in map(_lab, _sampled(frames))]))


def colour_distances(frames: Frames, fps: float | int) -> list[float]:
    """How far the mean colour of each second is from the first's, Delta E (CIE 1976)."""
    step = max(1, round(fps))
    parts = [frames[first : first + step] for first in range(0, len(frames), step)]
    means = [np.mean([_lab(frame).mean(axis=(0, 1)) for frame in _sampled(part, 4)], axis=0) for part in parts]
    return [float(np.linalg.norm(mean - means[0])) for mean in means]


def _sampled(frames: np.ndarray, number: int = 16) -> np.ndarray:
    """At most so many frames at even distances."""
    return frames[evenly(len(frames), number)]


def _lab(frame_HWC: np.ndarray) -> np.ndarray:
    cv2 = evaluation_package("cv2")
    H, W, _ = frame_HWC.shape
    scale = min(1.0, 2 * FLOW_SIDE / min(H, W))
    size = max(1, round(W * scale)), max(1, round(H * scale))
    small = cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _slope(values: Sequence[float]) -> float:
    """Of the least-squares line, a step."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def seam_jumps(frames: Frames, seams: Sequence[int]) -> list[float]:
    """How much changes into each of these frames, relative to the median change of the clip; 1 is smooth.

    NaN where every frame begins a segment, so that there is no other change.

    Raises:
        ValueError: a seam that is not within the clip.
    """
    wrong = [seam for seam in seams if not 1 <= seam < len(frames)]
    if wrong:
        raise ValueError(f"seams must lie in 1..{len(frames) - 1}, got {wrong}")
    cv2 = evaluation_package("cv2")
    change_T = np.array([np.mean(cv2.mean(cv2.absdiff(a, b))[:3]) for a, b in itertools.pairwise(frames)])
    others_T = np.delete(change_T, [seam - 1 for seam in seams])
    typical = float(np.median(others_T)) if len(others_T) else math.nan
    # A tenth of a level: a clip in which nothing moves has no seam either.
    return [float((change_T[seam - 1] + 0.1) / (typical + 0.1)) for seam in seams]


def likeness(frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """PSNR in decibels (infinite where equal) and SSIM (Wang et al. 2004) against a reference, the mean over frames.

    Args:
        frames: uint8 T H W 3, or one image.
        reference: of the same shape.

    Raises:
        ValueError: other shapes, or frames below 11 x 11.
    """
    if frames.shape != reference.shape or min(frames.shape[-3:-1]) < 11:
        raise ValueError(
            f"frames and reference must have one shape, 11 x 11 or larger; got {frames.shape} and {reference.shape}"
        )
    metrics = evaluation_package("skimage.metrics")
    each = (-1, *frames.shape[-3:])
    pairs = list(zip(frames.reshape(each), reference.reshape(each), strict=True))
    errors = [float(np.mean((a.astype(np.float64) - b) ** 2)) for a, b in pairs]
    psnr = [math.inf if error == 0 else 10 * math.log10(255**2 / error) for error in errors]
    similar = [
        metrics.structural_similarity(
            a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        for a, b in pairs
    ]
    return {"psnr": float(np.mean(psnr)), "ssim": float(np.mean(similar))}


def measure_file(path: Path, image: np.ndarray | None = None) -> dict[str, float]:
    """Measures of a video file; with a reference image also how well the first frame keeps it.

    Raises:
        OSError: it cannot be read.
        ValueError: fewer than three frames.
    """
    frames, fps = read_video(path)
    found = measure_clip(frames, float(fps))
    if image is not None:
        fitted = resize_and_crop(image[None], *frames.shape[1:3])[0]
        found |= {f"first_frame_{name}": value for name, value in likeness(frames[0], fitted).items()}
    return found


def measure_video(path: Path, *, seams: Sequence[int] = (), reference: Path | None = None) -> dict[str, float]:
    """Measures of a single video, with jumps at its seams and its likeness to a reference where these are given.

    Raises:
        OSError: a file cannot be read.
        ValueError: fewer than three frames, a seam outside of the video, or a reference of another size or length.
    """
    frames, fps = read_video(path)
    found = measure_clip(frames, float(fps))
    found |= {f"seam_at_{seam}": jump for seam, jump in zip(seams, seam_jumps(frames, seams), strict=True)}
    if reference is not None:
        other = read_video(reference)[0]
        if other.shape != frames.shape:
            raise ValueError(f"{reference} is {other.shape} (T H W 3), {path} is {frames.shape}; they must be alike")
        found |= likeness(frames, other)
    return found
