"""Clips out of a film: frames [start, end), upright, within the black borders, at a constant rate, without sound.

Groups of pictures are short, so that training can begin to read anywhere. A clip takes its name when it is complete.
"""

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from lcv_jax.bounds import Bounds, Count, check_fields
from lcv_jax.curation.crop import Box
from lcv_jax.data.frames import media_package
from lcv_jax.data.media_reader import open_clip
from lcv_jax.data.media_writer import VideoWriter

ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "libopenh264", "mpeg4")
"""Preferred first, where the FFmpeg at hand has them."""
_CRF_ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How clips are compressed."""

    encoder: str | None = None
    """An FFmpeg encoder. None: the first of `ENCODERS` that the FFmpeg at hand has, libx264 where it can be."""
    crf: Annotated[int, Bounds(least=0, most=63)] = 18
    """Quality, lower is better; encoders without it use their own."""
    group: Count = 16
    """Frames from one key frame to the next."""
    threads: Count = 1
    """Of the encoder."""

    def __post_init__(self) -> None:
        check_fields(self)


def available_encoder(wanted: str | None = None) -> str:
    """The encoder to use.

    Raises:
        ValueError: it is not in the FFmpeg at hand, or none is.
    """
    here = media_package("av").codecs_available
    known = [name for name in ENCODERS if name in here]
    if wanted is not None and wanted not in here:
        raise ValueError(f"encoder {wanted} is not in the FFmpeg at hand; it has {', '.join(known) or 'none of ours'}")
    if wanted is None and not known:
        raise ValueError(f"the FFmpeg at hand has none of the encoders {', '.join(ENCODERS)}")
    return wanted or known[0]


def write_clip(
    source: str | Path,
    path: str | Path,
    start: int,
    end: int,
    *,
    box: Box | None = None,
    settings: ClipSettings | None = None,
) -> Fraction:
    """Writes a clip; gives back its frame rate.

    Args:
        source: the film.
        path: of the clip, .mp4.
        start: first frame, counted as displayed.
        end: the frame after the last one. Where the film's rate varies, what is shown meanwhile is sampled at its most
            common rate.
        box: the part of the upright picture to keep.
        settings: codec and quality.

    Raises:
        OSError: the film cannot be read, or the clip not be written.
        ValueError: the frames or the box are not in the film.
    """
    settings = settings or ClipSettings()
    encoder = available_encoder(settings.encoder)
    options = {"threads": str(settings.threads), "g": str(settings.group)}
    with open_clip(source) as clip:
        timeline = clip.timeline
        if not 0 <= start < end <= len(timeline):
            raise ValueError(f"{source}: has {len(timeline)} frames, not [{start}, {end})")
        indices = list(range(start, end))
        if not timeline.is_constant:
            since, until = timeline.start(start), timeline.start(end) if end < len(timeline) else timeline.seconds
            if end in timeline.gaps():
                until = timeline.start(end - 1) + 1 / timeline.rate
            count = max(1, round((until - since) * timeline.rate))
            # The frame on display: the nearest one could be beyond a transition.
            indices = [min(max(timeline.nearest(since + n / timeline.rate), start), end - 1) for n in range(count)]
        pictures = clip.pictures(indices)
        first = next(pictures)
        box = (box or Box(top=0, left=0, height=first.shape[0], width=first.shape[1])).even()
        if box.top + box.height > first.shape[0] or box.left + box.width > first.shape[1]:
            raise ValueError(f"{source}: {box} is not within its frames of {first.shape[0]} x {first.shape[1]}")
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        with VideoWriter(
            path,
            fps=timeline.rate,
            height=box.height,
            width=box.width,
            codec=encoder,
            crf=settings.crf if encoder in _CRF_ENCODERS else None,
            options=options,
        ) as video:
            video.write(first[None, rows, columns])
            for picture in pictures:
                video.write(picture[None, rows, columns])
    return timeline.rate
