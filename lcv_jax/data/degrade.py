"""What refinement starts from in training: a clip at fewer frames and pixels, worse than mere downsampling makes it.

The base model's videos are softer than real clips, and carry the marks of its autoencoder; the report (sections 3.6 and
4.3) has refinement learn from degraded low-resolution clips at several frame rates. Here a clip loses frames, is
blurred, resized, made noisy and compressed, by degradations.py. All of it is a function of the clip's id.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.buckets import RESOLUTIONS, nearest_bucket
from lcv_jax.data.config import Size
from lcv_jax.data.degradations import JPEG, Blur, Codec, Exposure, Noise, OneOf, Resize, Sometimes, compose
from lcv_jax.data.frames import resize_and_crop

BLUR = (0.1, 0.7)
"""Standard deviations of a Gaussian, in pixels of the small clip."""
NOISE = (0.5, 6.0)
"""Standard deviations, of 255."""
COMPRESSION = OneOf(
    (JPEG((40, 95)), Codec("libx264", (20, 36)), Codec("libvpx-vp9", (25, 50)), Codec("mpeg4", (3, 14)))
)
"""The worst of them leave blocks that can be seen, and the picture's objects."""
VERSION = 2
"""Of what a clip's id decides: encoded data of another version is not continued."""


@dataclasses.dataclass(frozen=True)
class Refinement:
    """What a clip is refined from."""

    shape: tuple[int, int] | str
    """Height and width, or a resolution, whose bucket nearest to the clip's shape is taken."""
    fps: float

    def small_shape(self, size: Size) -> tuple[int, int]:
        """Height and width of the small version of a bucket."""
        if isinstance(self.shape, str):
            return nearest_bucket(size[1], size[2], self.shape)
        return self.shape

    def stride(self, size: Size, fps: float) -> int:
        """Frames of a clip for one of its small version, which has the clip's first and its last frame.

        Raises:
            ValueError: there are none so.
        """
        stride = Fraction(fps).limit_denominator(100_000) / Fraction(self.fps).limit_denominator(100_000)
        if stride.denominator != 1 or (size[0] - 1) % stride.numerator:
            raise ValueError(
                f"refine: clips of {size[0]} frames at {fps:g} a second cannot be had from {self.fps:g} a second: one "
                "rate must be a multiple of the other, and the first and the last frame must be in both"
            )
        return stride.numerator

    def degrade(self, video_THWC: UInt8[np.ndarray, "T H W 3"], fps: float, identity: str) -> np.ndarray:
        """The small version of a clip, uint8 t h w 3.

        Args:
            video_THWC: the clip.
            fps: its rate.
            identity: decides about strengths and noise.
        """
        T, H, W, _ = video_THWC.shape
        generator = generator_of(identity)
        chosen_THWC = Exposure(self.stride((T, H, W), fps))(video_THWC, generator)
        return degrade(chosen_THWC, *self.small_shape((T, H, W)), generator)

    def shrink(self, video_THWC: UInt8[np.ndarray, "T H W 3"], fps: float) -> UInt8[np.ndarray, "t h w 3"]:
        """The small version of a clip and nothing worse: every nth frame, its whole area resampled."""
        T, H, W, _ = video_THWC.shape
        height, width = self.small_shape((T, H, W))
        return resize_and_crop(video_THWC[:: self.stride((T, H, W), fps)], height, width, stretch=True)


def parse_refinement(text: str) -> Refinement:
    """HEIGHT,WIDTH,FPS or RESOLUTION,FPS.

    Raises:
        ValueError: another form.
    """
    *shape, fps = text.split(",")
    try:
        if len(shape) == 1 and shape[0] in RESOLUTIONS:
            found = Refinement(shape[0], float(fps))
        else:
            height, width = map(int, shape)
            found = Refinement((height, width), float(fps))
        if found.fps > 0 and (isinstance(found.shape, str) or min(found.shape) > 0):
            return found
    except ValueError:
        pass
    raise ValueError(f"refine must be HEIGHT,WIDTH,FPS or {'|'.join(RESOLUTIONS)},FPS; got {text!r}")


def pick(refinements: Sequence[Refinement], identity: str) -> Refinement:
    """One of several, always the same for a clip."""
    return refinements[int(generator_of(f"{identity}#refinement").integers(len(refinements)))]


def generator_of(identity: str) -> np.random.Generator:
    """Random numbers that belong to a clip."""
    return np.random.Generator(np.random.Philox(int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")))


def degrade(
    video_THWC: UInt8[np.ndarray, "T H W 3"], height: int, width: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "T height width 3"]:
    """A worse and smaller version of a clip; its whole frames are used, whatever their shape."""
    scale = video_THWC.shape[1] / height
    worse = compose(
        Sometimes(0.8, Blur((BLUR[0] * scale, BLUR[1] * scale))),
        Resize(height, width),
        Sometimes(0.7, Noise(NOISE)),
        Sometimes(0.9, COMPRESSION),
    )
    return worse(video_THWC, generator)


def upsample_bytes(
    video_THWC: UInt8[np.ndarray, "T H W 3"], num_frames: int, height: int, width: int
) -> UInt8[np.ndarray, "num_frames height width 3"]:
    """As resample.py's `upsample`, without JAX: it runs in processes that only read."""
    result = video_THWC.astype(np.float32)
    for axis, size in ((1, height), (2, width), (0, num_frames)):
        length = result.shape[axis]
        position = np.linspace(0, length - 1, size, dtype=np.float32)
        below = np.clip(np.floor(position).astype(np.int32), 0, max(length - 2, 0))
        above = np.minimum(below + 1, length - 1)
        fraction = (position - below).reshape([-1 if place == axis else 1 for place in range(4)])
        result = np.take(result, below, axis) * (1 - fraction) + np.take(result, above, axis) * fraction
    return (result + 0.5).astype(np.uint8)
