"""What VideoReward (arXiv 2501.13918) sees of a video: two frames a second, resized as torchvision does its tensors."""

import math
from typing import Protocol, runtime_checkable

import numpy as np

from lcv_jax.array_types import Int, UInt8
from lcv_jax.data.bicubic import resize_like_torchvision
from lcv_jax.data.patches import FRAMES, PATCH, fitting_size, patches

MIN_FRAMES, MAX_FRAMES = 4, 768


@runtime_checkable
class Views(Protocol):
    """Which frames are taken and how large they are; see `JudgeConfig`."""

    @property
    def fps(self) -> float: ...
    @property
    def num_frames(self) -> int | None: ...
    @property
    def min_pixels(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...


def chosen_frames(
    length: int, video_fps: float, fps: float, num_frames: int | None = None
) -> Int[np.ndarray, " frames"]:
    """Which frames of a video are taken: an even number of them, the first and the last included.

    Args:
        length: frames of the video.
        video_fps: its frames a second.
        fps: frames a second to take.
        num_frames: how many to take, whatever the video's length; rounded to an even number.

    Raises:
        ValueError: the video has fewer than two frames, or no frame rate.
    """
    if length < FRAMES:
        raise ValueError(f"a video of {length} frames: at least {FRAMES} are needed")
    if not (math.isfinite(video_fps) and video_fps > 0):
        raise ValueError(f"frames a second must be above 0, got {video_fps}")
    most = length // FRAMES * FRAMES
    if num_frames is None:
        wanted = min(max(length / video_fps * fps, MIN_FRAMES), min(MAX_FRAMES // FRAMES * FRAMES, most))
    else:
        wanted = num_frames
    count = min(max(round(wanted / FRAMES) * FRAMES, FRAMES), most)
    return np.round(np.linspace(0, length - 1, count, dtype=np.float32)).astype(np.int64)


def video_grid(shape: tuple[int, ...], video_fps: float, cfg: Views) -> tuple[int, int, int]:
    """Temporal patches, rows and columns of patches of a video.

    Raises:
        ValueError: as `chosen_frames` and `fitting_size` do.
    """
    count = len(chosen_frames(shape[0], video_fps, cfg.fps, cfg.num_frames))
    height, width = fitting_size(shape[1], shape[2], cfg.min_pixels, cfg.max_pixels)
    return count // FRAMES, height // PATCH, width // PATCH


def video_patches(video_THWC: UInt8[np.ndarray, "T H W 3"], video_fps: float, cfg: Views) -> UInt8[np.ndarray, "t S C"]:
    """The patches of the frames that are taken."""
    return frame_patches(video_THWC[chosen_frames(len(video_THWC), video_fps, cfg.fps, cfg.num_frames)], cfg)


def frame_patches(frames_THWC: UInt8[np.ndarray, "T H W 3"], cfg: Views) -> UInt8[np.ndarray, "t S C"]:
    """The patches of frames that were taken already."""
    height, width = fitting_size(frames_THWC.shape[1], frames_THWC.shape[2], cfg.min_pixels, cfg.max_pixels)
    return patches(np.stack([resize_like_torchvision(frame, height, width) for frame in frames_THWC]))
