"""What refinement starts from in training: a clip at fewer frames and pixels, worse than mere downsampling makes it.

The base model's videos are softer than real clips, and carry the marks of its autoencoder; the report (section 3.6)
has refinement learn from degraded low-resolution clips. Here a clip is, in this order, blurred, resized with a filter
drawn at random, made noisy and compressed as JPEG, each with a strength that is drawn once a clip and is the same for
all of its frames. All of it is a function of the clip's id.
"""

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.buckets import RESOLUTIONS, nearest_bucket
from lcv_jax.data.config import Size
from lcv_jax.data.frames import media_package

BLUR = (0.0, 0.6)
"""Of a Gaussian, in pixels of the small clip."""
NOISE = (0.0, 6.0)
"""Standard deviation, of 255."""
QUALITY = (40, 95)
"""Of JPEG."""
FILTERS = ("BOX", "BILINEAR", "BICUBIC", "LANCZOS")


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
        chosen_THWC = video_THWC[:: self.stride((T, H, W), fps)]
        return degrade(chosen_THWC, *self.small_shape((T, H, W)), generator_of(identity))


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
    image_module, filters = media_package("PIL.Image"), media_package("PIL.ImageFilter")
    H = video_THWC.shape[1]
    blur = filters.GaussianBlur(generator.uniform(*BLUR) * H / height)
    resampling = image_module.Resampling[FILTERS[generator.integers(len(FILTERS))]]
    noise, quality = generator.uniform(*NOISE), int(generator.integers(QUALITY[0], QUALITY[1] + 1))
    small_THWC = np.empty((len(video_THWC), height, width, 3), np.uint8)
    for frame_HWC, small_HWC in zip(video_THWC, small_THWC, strict=True):
        image = image_module.fromarray(frame_HWC).filter(blur).resize((width, height), resampling)
        noisy_HWC = np.asarray(image, np.float32) + noise * generator.standard_normal((height, width, 3), np.float32)
        file = io.BytesIO()
        image_module.fromarray((np.clip(noisy_HWC, 0, 255) + 0.5).astype(np.uint8)).save(file, "JPEG", quality=quality)
        small_HWC[:] = np.asarray(image_module.open(file))
    return small_THWC


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
