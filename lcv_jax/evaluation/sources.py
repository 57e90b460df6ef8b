"""What a score is of: the content and shape of a video, its prompt and its reference image.

Scores are stored with it. A score of a video that was replaced, or of an item whose prompt or image was changed, does
not count any more.
"""

import dataclasses
import hashlib

from lcv_jax.bounds import check_fields
from lcv_jax.data.media_reader import open_clip
from lcv_jax.evaluation.runs import Run, Video
from lcv_jax.own_files import file_sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One scored video."""

    size: int
    """Bytes."""
    modified: int
    """Nanoseconds; a copy has another time and the same content."""
    sha256: str
    num_frames: int
    height: int
    width: int
    fps: float
    prompt: str
    image: str = ""
    """SHA-256 of the pixels of the reference image."""

    def __post_init__(self) -> None:
        check_fields(self)


def source_of(run: Run, video: Video) -> Source:
    """Reads what a score of this video will be of.

    Raises:
        OSError, ValueError: the video or its reference image cannot be read.
    """
    status = video.path.stat()
    with open_clip(video.path) as clip:
        height, width, _ = next(clip.pictures([0])).shape
        num_frames, fps = len(clip.timeline), float(clip.timeline.rate)
    return Source(
        size=status.st_size,
        modified=status.st_mtime_ns,
        sha256=file_sha256(video.path),
        num_frames=num_frames,
        height=height,
        width=width,
        fps=fps,
        prompt=video.item.prompt,
        image=_image_sha256(run, video),
    )


def is_unchanged(source: Source | None, run: Run, video: Video) -> bool:
    """Whether a score made from this source is one of the video as it is now; None: a score without a source."""
    if source is None or source.prompt != video.item.prompt:
        return False
    status = video.path.stat()
    if status.st_size != source.size:
        return False
    if status.st_mtime_ns != source.modified and file_sha256(video.path) != source.sha256:
        return False
    try:
        return _image_sha256(run, video) == source.image
    except (OSError, ValueError):
        return False


def _image_sha256(run: Run, video: Video) -> str:
    if not video.item.image:
        return ""
    pixels = run.suite.image(video.item)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
