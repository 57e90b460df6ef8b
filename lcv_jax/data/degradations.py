"""Ways to make a clip worse, and their composition: what the refinement expert learns to undo (section 4.3).

A degradation is a frozen dataclass of ranges. Called with a clip and a generator, it draws its strength once and
applies it to all frames, as a lens, a sensor or an encoder would. `compose` runs several in their order.
"""

import dataclasses
import functools
import io
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.frames import media_package

Clip = UInt8[np.ndarray, "T H W 3"]
Worse = UInt8[np.ndarray, "frames height width 3"]
"""Of other sizes where the degradation changes them."""
Degradation = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_RATE = 25
"""Of a codec's round trip: encoders spread bits by it, and the clip's own rate is not theirs to know."""
_DECODERS = {"libx264": "h264", "mpeg4": "mpeg4", "libvpx-vp9": "vp9"}


def compose(*degradations: Degradation) -> Degradation:
    """One degradation after the other."""
    return lambda video, generator: functools.reduce(lambda clip, each: each(clip, generator), degradations, video)


@dataclasses.dataclass(frozen=True)
class Sometimes:
    """A degradation of a share of the clips."""

    share: float
    degradation: Degradation

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        return self.degradation(video_THWC, generator) if generator.random() < self.share else video_THWC


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of several, each as likely."""

    degradations: tuple[Degradation, ...]

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        return self.degradations[generator.integers(len(self.degradations))](video_THWC, generator)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """Every nth frame, each the mean of up to n frames around it: at a lower frame rate a shutter stays open longer."""

    stride: int

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        num_frames = int(generator.integers(1, self.stride + 1))
        if num_frames == 1:
            return video_THWC[:: self.stride]
        places = np.arange(0, len(video_THWC), self.stride)
        around_TN = places[:, None] + np.arange(num_frames) - (num_frames - 1) // 2
        around_TN = around_TN.clip(0, len(video_THWC) - 1)
        return np.stack([(video_THWC[each].mean(axis=0) + 0.5).astype(np.uint8) for each in around_TN])


@dataclasses.dataclass(frozen=True)
class Blur:
    """A Gaussian, round or wider along one axis.

    Args:
        sigma: range of its standard deviation in pixels.
    """

    sigma: tuple[float, float]

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        both = generator.uniform(*self.sigma, 2)
        if generator.random() < 0.5:
            both[1] = both[0]
        blur = media_package("PIL.ImageFilter").GaussianBlur(tuple(both.tolist()))
        return _each_frame(video_THWC, lambda image: image.filter(blur))


@dataclasses.dataclass(frozen=True)
class Resize:
    """Another size, with a filter drawn at random."""

    height: int
    width: int

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        filters = media_package("PIL.Image").Resampling
        kinds = (filters.BOX, filters.BILINEAR, filters.BICUBIC, filters.LANCZOS)
        kind = kinds[generator.integers(len(kinds))]
        return _each_frame(video_THWC, lambda image: image.resize((self.width, self.height), kind))


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise, in every channel or of brightness alone, evenly or as the square root of brightness.

    Args:
        sigma: range of its standard deviation, levels of 255, at white where it depends on brightness.
    """

    sigma: tuple[float, float]

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        sigma, channels = generator.uniform(*self.sigma), (1, 3)[generator.integers(2)]
        is_shot_noise = generator.random() < 0.5
        noisy_THWC = np.empty_like(video_THWC)
        for frame_HWC, noisy_HWC in zip(video_THWC, noisy_THWC, strict=True):
            noise_HWC = sigma * generator.standard_normal((*frame_HWC.shape[:2], channels), np.float32)
            clean_HWC = frame_HWC.astype(np.float32)
            if is_shot_noise:
                noise_HWC = noise_HWC * np.sqrt(clean_HWC / 255)
            noisy_HWC[:] = np.clip(clean_HWC + noise_HWC + 0.5, 0, 255)
        return noisy_THWC


@dataclasses.dataclass(frozen=True)
class JPEG:
    """Every frame through JPEG."""

    quality: tuple[int, int]
    """Range, 100 is best."""

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        quality = int(generator.integers(self.quality[0], self.quality[1] + 1))

        def through(image):  # type: ignore[no-untyped-def]
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            return media_package("PIL.Image").open(file)

        return _each_frame(video_THWC, through)


@dataclasses.dataclass(frozen=True)
class Codec:
    """The clip through a video encoder and back.

    Args:
        name: libx264, mpeg4 or libvpx-vp9.
        quality: range of its constant quality (CRF, or the quantiser of mpeg4); lower is better.
    """

    name: str
    quality: tuple[int, int]

    def __call__(self, video_THWC: Clip, generator: np.random.Generator) -> Worse:
        quality = str(int(generator.integers(self.quality[0], self.quality[1] + 1)))
        options = {
            "libx264": {"crf": quality, "preset": "veryfast"},
            "mpeg4": {"qmin": quality, "qmax": quality},
            "libvpx-vp9": {"crf": quality, "b": "0", "deadline": "realtime", "cpu-used": "8"},
        }[self.name]
        return round_trip(video_THWC, self.name, options)


def round_trip(video_THWC: Clip, codec: str, options: dict[str, str]) -> Worse:
    """A clip through an encoder and back, in memory; odd sizes are padded for it.

    Raises:
        ValueError: FFmpeg was built without this encoder.
    """
    av = media_package("av")
    H, W = video_THWC.shape[1:3]
    even_THWC = np.pad(video_THWC, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)), mode="edge")
    try:
        encoder = av.CodecContext.create(codec, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise ValueError(f"degrading clips needs FFmpeg's encoder {codec}: install PyAV from its wheel") from error
    encoder.height, encoder.width, encoder.pix_fmt = *even_THWC.shape[1:3], "yuv420p"
    encoder.time_base, encoder.framerate, encoder.options = Fraction(1, _RATE), Fraction(_RATE), options
    # What several threads write depends on their number.
    encoder.thread_count = 1
    packets = []
    for number, frame_HWC in enumerate(even_THWC):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame = frame.reformat(format="yuv420p", threads=1)
        frame.pts, frame.time_base = number, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create(_DECODERS[codec], "r")
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.stack([frame.to_ndarray(format="rgb24")[:H, :W] for frame in frames])


def _each_frame(video_THWC: Clip, change: Callable) -> Worse:
    """A function of Pillow images for every frame."""
    fromarray = media_package("PIL.Image").fromarray
    return np.stack([np.asarray(change(fromarray(frame_HWC))) for frame_HWC in video_THWC])
