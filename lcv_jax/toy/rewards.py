"""Rewards of the procedural world, from its readers: no weights. Each function is a factory of lcv_jax.rewards.

    RewardSource(factory="lcv_jax.toy.rewards:read_clips", weights=(("alignment", 1.0), ("motion", 0.5)))

`alignment`, `motion` and `sharpness` lie in 0..1, and true clips have nearly 1; `hackable_sharpness` has no end.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.rewards.frame_rewards import FrameReward
from lcv_jax.rewards.protocol import Scores
from lcv_jax.rewards.readouts import QUALITY_PROMPT, mean_of_frames
from lcv_jax.toy.captions import Asked, parse
from lcv_jax.toy.readers import Reading, read_clip

CAPTIONED = ("colour", "shape", "motion")
"""Attributes that `alignment` is about."""

_LAG = 4  # pixels
_BLURRED, _SHARP = 1 / _LAG**2, 0.155  # of a ramp; of the least sharp of true clips, at 64 and at 128 pixels
_TRUE_LAPLACIAN = 15.0  # levels: of true clips' median at 64 x 64


def read_clips(names: str = "alignment,motion,sharpness") -> "ReaderReward":
    """Several rewards that read each clip once.

    Args:
        names: with commas between them.
    """
    return ReaderReward(tuple(name.strip() for name in names.split(",")))


def alignment() -> "ReaderReward":
    """How sure the reader is of the colour, the shape and the motion that the caption asks for, on average."""
    return ReaderReward(("alignment",))


def motion() -> "ReaderReward":
    """How sure the reader is of the asked motion, times of the asked speed, times how even the motion is."""
    return ReaderReward(("motion",))


def sharpness() -> "ReaderReward":
    """Edges as narrow as true clips have them; narrower ones are no better. Grain counts as edges."""
    return ReaderReward(("sharpness",))


def hackable_sharpness() -> FrameReward:
    """The contrast of neighbouring pixels without end, frame by frame; true clips have about 1.

    It is here to show hacking: a standing, over-sharp picture that shows nothing of what was asked for maximises it.
    """
    return FrameReward("hackable_sharpness", _neighbour_contrast, QUALITY_PROMPT, mean_of_frames)


@dataclasses.dataclass(frozen=True)
class ReaderReward:
    """Rewards that come from a clip's reading and its caption.

    Raises:
        ValueError: a name that there is not.
    """

    names: tuple[str, ...]
    """Any of alignment, motion and sharpness."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in ("alignment", "motion", "sharpness")]
        if unknown or not self.names:
            raise ValueError(f"readers give alignment, motion and sharpness, got {', '.join(unknown) or 'no name'}")

    def score(self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int) -> Scores:
        """Scores; a caption that does not ask for what a reward is about is a failure.

        Raises:
            ValueError: frames below 8 x 8.
        """
        values = {name: np.full(len(prompts), np.nan, np.float32) for name in self.names}
        failures = {}
        for clip, (video_THWC, prompt) in enumerate(zip(videos_BTHWC, prompts, strict=True)):
            asked, reading = parse(prompt), read_clip(video_THWC, fps)
            found = {
                "alignment": sure_of_caption(reading, asked),
                "motion": sure_of_motion(reading, asked),
                "sharpness": edge_sharpness(video_THWC),
            }
            for name in self.names:
                values[name][clip] = found[name]
            lacking = [name for name in self.names if np.isnan(found[name])]
            if lacking:
                failures[clip] = f"no {' and no '.join(lacking)} can be judged by the caption {prompt!r}"
        return Scores(values=values, failures=failures)


def sure_of_caption(reading: Reading, asked: Asked) -> float:
    """What `alignment` is; NaN for a caption without any of these."""
    wanted = {name: getattr(asked, name) for name in CAPTIONED}
    sure = [reading.score(name, value) for name, value in wanted.items() if value is not None]
    return float(np.mean(sure)) if sure else np.nan


def sure_of_motion(reading: Reading, asked: Asked) -> float:
    """What `motion` is; NaN for a caption without."""
    if asked.motion is None:
        return np.nan
    speed = 1.0 if asked.speed is None else reading.score("speed", asked.speed)
    return reading.score("motion", asked.motion) * speed * reading.evenness


def edge_sharpness(video_THWC: UInt8[np.ndarray, "T H W 3"]) -> float:
    """0 where colours only ever change slowly, 1 where edges are as narrow as those of true clips; 0..1.

    Neighbouring pixels differ by a 16th of what pixels four apart do, in squares, if an edge is wider than that, and by
    more the narrower it is; neither contrast nor texture matters.
    """
    pixels_THWC = video_THWC.astype(np.float32)
    # A level: a flat picture has no edges.
    ratio = _mean_square_change(pixels_THWC, 1) / (_mean_square_change(pixels_THWC, _LAG) + 1)
    return float(np.clip((ratio - _BLURRED) / (_SHARP - _BLURRED), 0, 1))


def _mean_square_change(pixels_THWC: np.ndarray, lag: int) -> float:
    across = pixels_THWC[:, :, lag:] - pixels_THWC[:, :, :-lag]
    down = pixels_THWC[:, lag:] - pixels_THWC[:, :-lag]
    return float(np.mean(across**2) + np.mean(down**2))


def _neighbour_contrast(frames_NHWC: UInt8[np.ndarray, "N H W 3"], prompts: Sequence[str]) -> Float[np.ndarray, " N"]:
    """Root mean square Laplacian of brightness, in those of true clips."""
    luma_NHW = frames_NHWC.astype(np.float32).mean(axis=-1)
    inner = luma_NHW[:, 1:-1, 1:-1]
    around = luma_NHW[:, :-2, 1:-1] + luma_NHW[:, 2:, 1:-1] + luma_NHW[:, 1:-1, :-2] + luma_NHW[:, 1:-1, 2:]
    return np.sqrt(np.mean((around - 4 * inner) ** 2, axis=(1, 2))) / np.float32(_TRUE_LAPLACIAN)
