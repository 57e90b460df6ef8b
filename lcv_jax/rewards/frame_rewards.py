"""Rewards made of others: of a scorer of single images, and of grey videos."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.rewards.protocol import Reward, RewardError, Scores
from lcv_jax.rewards.readouts import grayscale, mean_of_frames


@dataclasses.dataclass(frozen=True)
class FrameReward:
    """A video's reward from its frames': FrameReward("hps", score_frames, QUALITY_PROMPT, mean_of_frames)."""

    name: str
    """Of the reward."""
    score_frames: Callable[[UInt8[np.ndarray, "N H W 3"], Sequence[str]], Any]
    """Images and as many prompts to N floats."""
    prompt: str | None = None
    """For all frames. None: the video's own."""
    readout: Callable[[Float[np.ndarray, "B T"]], Float[np.ndarray, " B"]] = mean_of_frames
    """From the frames' scores to the videos'."""
    frames_per_call: int | None = None
    """At most so many images at a time. None: all of the batch."""

    @property
    def names(self) -> tuple[str, ...]:
        """The one name."""
        return (self.name,)

    def score(
        self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int
    ) -> Mapping[str, Float[np.ndarray, " B"]]:
        """Scores of the videos.

        Raises:
            RewardError: `score_frames` did not give one number an image.
        """
        B, T, H, W, _ = videos_BTHWC.shape
        frames_NHWC = videos_BTHWC.reshape(B * T, H, W, 3)
        texts = [prompt if self.prompt is None else self.prompt for prompt in prompts for _ in range(T)]
        step = self.frames_per_call or B * T
        parts = []
        for start in range(0, B * T, step):
            images, asked = frames_NHWC[start : start + step], texts[start : start + step]
            part = np.asarray(self.score_frames(images, asked))
            if part.shape != (len(images),) or part.dtype.kind not in "fiu":
                raise RewardError(
                    f"{self.name}: score_frames must give one float for each of {len(images)} images, "
                    f"got {part.dtype}, shape {part.shape}"
                )
            parts.append(part.astype(np.float32))
        return {self.name: self.readout(np.concatenate(parts).reshape(B, T))}


@dataclasses.dataclass(frozen=True)
class Grayscale:
    """Another reward, of the videos without their colour."""

    reward: Reward
    """What scores them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the other."""
        return self.reward.names

    def score(
        self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int
    ) -> Mapping[str, Float[np.ndarray, " B"]] | Scores:
        """Scores of the grey videos."""
        return self.reward.score(grayscale(videos_BTHWC), prompts, fps)

    def close(self) -> None:
        """Closes the other, where it can be."""
        getattr(self.reward, "close", lambda: None)()
