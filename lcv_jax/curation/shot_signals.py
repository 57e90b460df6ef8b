"""What one decoding of a film tells about its shots: numbers for every frame, by which transitions.py decides.

Frames pass by one at a time. Thumbnails of 27 x 48 pixels are kept for a window of 100 frames, which moves by 50: that
is how TransNet V2 reads a film, and the other signals look no farther.
"""

import ctypes
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import Bool, Float, UInt8
from lcv_jax.checkpoint.transnet import load_transnet
from lcv_jax.data.media_reader import open_clip
from lcv_jax.extras import import_extra
from lcv_jax.models.transnet import HEIGHT, WIDTH, WINDOW

_STEP, _MARGIN = WINDOW // 2, WINDOW // 4
_DETECTOR_WIDTH = 256
"""PySceneDetect's own choice for what it looks at."""
_CHANGED_SHARE = 0.65
"""A cut changes most of the picture; a subtitle or an object that appears does not."""
_BRIGHT_SHARE = 0.9
"""The level of a frame is its brightness at this quantile: a logo over black is no light."""
_LEAST_LIGHT, _LEAST_LIT = 12.0, 0.05
"""Levels that a pixel reaches to count; the share of a picture that has to."""
_MIX_REACHES = (6, 10, 15, 20)
_LEAST_MIX = 8.0
"""Levels by which two frames must differ for one between them to be called a mix."""
_RAMP_REACHES = (4, 6, 9, 13, 18)
_LEAST_RAMP = 4.0
"""Levels by which the ends of a ramp must differ; TransNet V2 has to agree, so fewer than of a mix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signals:
    """Of every frame of a film."""

    fps: Fraction
    change: Float[np.ndarray, " T"]
    """How much most of the picture differs from the frame before beyond its brightness, as a share of the latter."""
    level: Float[np.ndarray, " T"]
    """Brightness 0..255 of the brighter parts."""
    mix: Float[np.ndarray, " T"]
    """How far the frame is from a mix of a frame before and one after it, as a share of what these differ by."""
    ramp: Float[np.ndarray, " T"]
    """How far the frames around it are from a steady mix from the first to the last of them, as a share of what these
    differ by: 0 in the middle of a dissolve between still shots."""
    content: Bool[np.ndarray, " T"]
    """Where PySceneDetect sees a cut: the first frame after it."""
    gaps: tuple[int, ...]
    """Frames before which the film's time jumps."""
    middle: Float[np.ndarray, " T"] | None
    """Probability that it is the last before the middle of a transition, by TransNet V2; None without its weights."""
    inside: Float[np.ndarray, " T"] | None
    """Probability that it belongs to a transition."""

    @property
    def detectors(self) -> tuple[str, ...]:
        """What took part."""
        return ("pyscenedetect", "mix") if self.middle is None else ("pyscenedetect", "mix", "transnetv2")


def film_signals(
    path: str | Path, weights: Path | None, observe: Callable[[UInt8[np.ndarray, "H W 3"]], None] | None = None
) -> Signals:
    """Decodes a film once.

    Args:
        path: of the film.
        weights: of TransNet V2; None goes without.
        observe: sees every frame as well.

    Raises:
        OSError: the file cannot be read, or is incomplete.
        ValueError: it holds no video, or cannot be read by the rules.
    """
    network = None if weights is None else _transnet(weights)
    with open_clip(path) as clip:
        fps, gaps = clip.timeline.rate, tuple(clip.timeline.gaps())
        content = _ContentCuts(fps)

        def thumbnails() -> Iterator[np.ndarray]:
            for index, frame_HWC in enumerate(clip.pictures(range(len(clip.timeline)))):
                if observe is not None:
                    observe(frame_HWC)
                yield content.see(index, frame_HWC)

        parts = [_window_signals(window, count, network) for window, count in windows(thumbnails())]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    flags = np.zeros(len(joined["level"]), bool)
    flags[content.cuts] = True
    return Signals(
        fps=fps,
        content=flags,
        gaps=gaps,
        change=joined["change"],
        level=joined["level"],
        mix=joined["mix"],
        ramp=joined["ramp"],
        middle=joined.get("middle"),
        inside=joined.get("inside"),
    )


def windows(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """Windows of 100 frames, of which 50 in the middle are new, and how many of these there really are.

    The first and the last frame are repeated beyond the ends.
    """
    buffer: list[np.ndarray] = []
    new = 0
    for frame in frames:
        buffer.extend([frame] * (1 if buffer else _MARGIN + 1))
        new += 1
        if len(buffer) == WINDOW:
            yield np.stack(buffer), _STEP
            del buffer[:_STEP]
            new -= _STEP
    while new > 0:
        buffer.extend([buffer[-1]] * (WINDOW - len(buffer)))
        yield np.stack(buffer), min(new, _STEP)
        del buffer[:_STEP]
        new -= _STEP


def _window_signals(window_THWC: np.ndarray, count: int, network: Callable[..., Any] | None) -> dict[str, np.ndarray]:
    cv2 = import_extra("cv2", "curate", "finding shots needs")
    small = [cv2.resize(frame, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA) for frame in window_THWC]
    small_TD = _lit(np.stack(small))
    signals = {
        "change": _changes(_lit(window_THWC)),
        "level": np.quantile(window_THWC.max(axis=-1).reshape(WINDOW, -1), _BRIGHT_SHARE, axis=1),
        "mix": _mixes(small_TD),
        "ramp": _ramps(small_TD),
    }
    if network is not None:
        logits = network(window_THWC[None])
        signals |= {name: _sigmoid(np.asarray(x)[0]) for name, x in zip(("middle", "inside"), logits, strict=True)}
    return {name: x[_MARGIN : _MARGIN + count].astype(np.float32) for name, x in signals.items()}


def _lit(window_THWC: np.ndarray) -> Float[np.ndarray, "T D"]:
    """The pixels that are not black throughout: most of the picture is most of these, whatever surrounds it."""
    pixels_TD3 = window_THWC.reshape(len(window_THWC), -1, 3)
    lit_D = pixels_TD3.max(axis=(0, 2)) > _LEAST_LIGHT
    if lit_D.mean() >= _LEAST_LIT:
        pixels_TD3 = pixels_TD3[:, lit_D]
    return pixels_TD3.reshape(len(window_THWC), -1).astype(np.float32)


def _changes(pixels_TD: np.ndarray) -> np.ndarray:
    """The change from the frame before, after the gain that explains most of it, in either direction."""
    changes = np.zeros(len(pixels_TD), np.float32)
    energy = np.maximum((pixels_TD**2).sum(axis=1), 1e-6)
    for place in range(1, len(pixels_TD)):
        before, after = pixels_TD[place - 1], pixels_TD[place]
        product = before @ after
        sides = ((before, after, energy[place - 1]), (after, before, energy[place]))
        changes[place] = min(
            np.quantile(np.abs(b - product / power * a), _CHANGED_SHARE) / max(b.mean(), 4) for a, b, power in sides
        )
    return changes


def _mixes(pixels_TD: np.ndarray) -> np.ndarray:
    """How well each frame is a mix of about equal parts of the frames at the same distance before and after it."""
    best = np.full(len(pixels_TD), np.inf, np.float32)
    for reach in _MIX_REACHES:
        before, after, frame = pixels_TD[: -2 * reach], pixels_TD[2 * reach :], pixels_TD[reach:-reach]
        difference = after - before
        power = (difference**2).mean(axis=1)
        share = ((frame - before) * difference).mean(axis=1) / np.maximum(power, 1e-6)
        rest = np.sqrt(((frame - before - share[:, None] * difference) ** 2).mean(axis=1) / np.maximum(power, 1e-6))
        fits = (np.abs(share - 0.5) < 0.2) & _differ(difference, _LEAST_MIX)
        best[reach:-reach] = np.where(fits, np.minimum(best[reach:-reach], rest), best[reach:-reach])
    return best


def _ramps(pixels_TD: np.ndarray) -> np.ndarray:
    """How well the frames around each are mixes whose shares rise steadily, over the distance that suits best."""
    best = np.full(len(pixels_TD), np.inf, np.float32)
    for reach in _RAMP_REACHES:
        first, last, steps = pixels_TD[: -2 * reach], pixels_TD[2 * reach :], 2 * reach
        difference, rest = last - first, np.zeros(len(first), np.float32)
        for step in range(1, steps):
            mixed = first + step / steps * difference
            rest += ((pixels_TD[step : step + len(first)] - mixed) ** 2).mean(axis=1) / (steps - 1)
        rest = np.sqrt(rest / np.maximum((difference**2).mean(axis=1), 1e-6))
        rest[~_differ(difference, _LEAST_RAMP)] = np.inf
        best[reach:-reach] = np.minimum(best[reach:-reach], rest)
    return best


def _differ(difference_TD: np.ndarray, least: float) -> np.ndarray:
    """Where two frames differ by so many levels, and in most places: an object that moves changes a part alone."""
    everywhere = np.quantile(np.abs(difference_TD), 1 - _CHANGED_SHARE, axis=1) > least / 2
    return ((difference_TD**2).mean(axis=1) > least**2) & everywhere


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@functools.lru_cache(maxsize=1)
def _transnet(weights: Path) -> Callable[..., Any]:
    """The compiled network: a window to logits."""
    import jax

    from lcv_jax.models.transnet import TransNetV2

    params = jax.device_put(load_transnet(weights))
    window = jax.ShapeDtypeStruct((1, WINDOW, HEIGHT, WIDTH, 3), np.uint8)
    network = jax.jit(lambda params, frames_BTHWC: TransNetV2().apply({"params": params}, frames_BTHWC))
    compiled = network.lower(params, window).compile()
    _return_freed_memory()
    return functools.partial(compiled, params)


def _return_freed_memory() -> None:
    """Returns to the system the 100 MB that the compiler has freed, which glibc would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _ContentCuts:
    """PySceneDetect's adaptive detector, fed with frames as they are displayed."""

    def __init__(self, fps: Fraction):
        self._cv2 = import_extra("cv2", "curate", "finding shots needs")
        detectors = import_extra("scenedetect.detectors", "curate", "finding shots needs")
        self._timecode = import_extra("scenedetect.common", "curate", "finding shots needs").FrameTimecode
        # Short shots are dealt with afterwards, when all detectors have spoken.
        self._detector = detectors.AdaptiveDetector(min_scene_len=1)
        self._fps, self.cuts = float(fps), list[int]()

    def see(self, index: int, frame_HWC: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
        """Takes the next frame, and gives back its thumbnail."""
        cv2, (height, width) = self._cv2, frame_HWC.shape[:2]
        if width > _DETECTOR_WIDTH:
            size = (_DETECTOR_WIDTH, max(1, round(height * _DETECTOR_WIDTH / width)))
            frame_HWC = cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)
        bgr_HWC = np.ascontiguousarray(frame_HWC[..., ::-1])
        found = self._detector.process_frame(self._timecode(index, self._fps), bgr_HWC)
        self.cuts += [timecode.frame_num for timecode in found]
        return cv2.resize(frame_HWC, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
