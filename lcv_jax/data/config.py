"""What a trainer asks of its data: where it is, which sizes, which tasks how often, how it is read."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

from lcv_jax.bounds import (
    Bounds,
    Fps,
    FrameCount,
    NonNegative,
    Pixels,
    Positive,
    Share,
    TextTokens,
    Whole,
    check_fields,
    check_value,
)
from lcv_jax.data.buckets import RESOLUTIONS, buckets

Size = tuple[FrameCount, Pixels, Pixels]
"""Frames, height, width."""
LengthShares = tuple[tuple[Whole, Positive], ...]
"""Lengths in latent frames, each with its share."""

TASKS = ("t2i", "t2v", "i2v", "vc", "refine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskShares:
    """How often each task is trained, relative to the sum of all."""

    t2i: NonNegative = 0.0
    """Text to image: clips of one frame."""
    t2v: NonNegative = 1.0
    """Text to video."""
    i2v: NonNegative = 0.0
    """Image to video: the first latent frame is given."""
    vc: NonNegative = 0.0
    """Video continuation: the first latent frames are given, see `condition_latents`."""
    refine: NonNegative = 0.0
    """Refinement of a degraded, smaller version of the clip."""

    def __post_init__(self) -> None:
        check_fields(self)
        shares = dataclasses.asdict(self)
        if not 0 < sum(shares.values()) < math.inf:
            raise ValueError(f"tasks must be shares of at least 0, one of them above; got {shares}")

    def positive(self) -> dict[str, float]:
        """The tasks that are trained, with shares that add up to 1."""
        shares = {name: share for name, share in dataclasses.asdict(self).items() if share > 0}
        return {name: share / sum(shares.values()) for name, share in shares.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Clips to train on."""

    path: Path
    """A folder of lcv_jax.encode, or a manifest (.jsonl, .csv, .parquet) for the other modes."""
    mode: Literal["encoded", "clips", "autoencoder"] = "encoded"
    """Encoded ahead; or frames and token ids of a manifest's clips, which the trainer encodes; or frames alone, crops
    at random moments and places, to train an autoencoder."""
    sizes: tuple[Size, ...] = ()
    """Buckets, each frames height width. None given: all that the folder has. For an autoencoder: of crops."""
    resolutions: tuple[str, ...] = ()
    """Or the published buckets of 480p, 720p or both, each with every count of `num_frames`. Not for encoded data."""
    num_frames: tuple[FrameCount, ...] = (93,)
    """Frames of clips in the buckets of `resolutions`."""
    granularity: Pixels = 32
    """Heights and widths of `resolutions` are multiples of this many pixels."""
    fps: Fps = 15.0
    """Frames a second that clips are resampled to. Not for encoded data."""
    tasks: TaskShares = TaskShares()
    """How often each task is trained."""
    condition_latents: LengthShares = ((4, 1.0),)
    """Of continuation: how many latent frames are given, each length with its share. 4 are 13 frames."""
    refine_condition_latents: LengthShares = ((0, 1.0),)
    """Likewise of refinement."""
    refine: tuple[str, ...] = ()
    """Of the mode clips: HEIGHT,WIDTH,FPS of the version that refinement starts from, or RESOLUTION,FPS."""
    images_from_clips: bool = False
    """Of the mode clips: also take the first frame of every clip, to train text to image."""
    temporal_factor: Annotated[int, Bounds(least=1, most=64)] = 4
    """Of the mode clips: frames per latent frame after the first, of the autoencoder that encodes them."""
    caption_dropout: Share = 0.1
    """Share of samples whose caption is replaced by the empty one, for guidance."""
    weight_column: str | None = None
    """Draw clips in proportion to this column of the manifest. None: every clip once in an epoch."""
    keep_column: str | None = None
    """Of the mode autoencoder: a column of the manifest, 1 for clips whose latents are to stay as they are when
    training starts (`objective.keep_weight`), else 0. None: none are."""
    held_out: Annotated[float, Bounds(least=0, below=1)] = 0.0
    """Share of the clips that are not trained on but kept for `validation`: at least one, chosen by a hash of ids."""
    max_sequence_length: TextTokens = 512
    """Tokens that captions are padded to."""
    tokenizer: Path | None = None
    """Of the mode clips: a converted checkpoint, for its tokenizer."""
    negative_prompt: str = ""
    """Of the mode clips: the general negative prompt. Encoded data bring theirs along."""
    workers: Annotated[int, Bounds(least=0, most=1024)] = 0
    """Processes that read ahead. 0: threads of this one."""
    threads: Annotated[int, Bounds(least=0, most=1024)] = 4
    """Threads that read, in each worker. 0 reads nothing ahead."""
    prefetch: Annotated[int, Bounds(least=1, most=2**16)] = 4
    """Batches that each worker reads ahead."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("condition_latents", 1), ("refine_condition_latents", 0)):
            _check_lengths(name, getattr(self, name), least)
        if self.keep_column is not None and self.mode != "autoencoder":
            raise ValueError(f"keep_column is of the mode 'autoencoder', got {self.mode!r}: leave it out")
        if self.mode == "encoded":
            if self.resolutions:
                raise ValueError("resolutions belong to manifests: encoded data have their sizes; leave them out")
        elif not self.sizes and not self.resolutions:
            raise ValueError(f"the mode {self.mode!r} needs sizes (frames height width) or resolutions")
        bucket_groups(self.sizes, self.resolutions, self.num_frames, self.granularity)

    def for_validation(self, path: Path | None) -> "DataConfig":
        """The held-out clips, or those of another place; each once and with its caption."""
        data = dataclasses.replace(self, weight_column=None, caption_dropout=0.0)
        return data if path is None else dataclasses.replace(data, path=path, held_out=0.0)


def bucket_groups(
    sizes: tuple[Size, ...], resolutions: tuple[str, ...], num_frames: tuple[int, ...], granularity: int
) -> tuple[tuple[Size, ...], ...]:
    """Buckets of given sizes and of published tables: a group for the sizes, and one for each table.

    A clip takes one group by its own size, and a bucket in it by its shape; see clips.py.

    Raises:
        ValueError: an unknown table, or a size that no clip can have.
    """
    groups = [tuple(dict.fromkeys(sizes))] if sizes else []
    for resolution in dict.fromkeys(resolutions):
        if resolution not in RESOLUTIONS:
            raise ValueError(f"resolutions must be of {', '.join(RESOLUTIONS)}; got {resolution!r}")
        pairs = buckets(resolution, granularity)
        group = tuple((frames, height, width) for frames in num_frames for height, width in pairs)
        groups.append(group)
    for group in groups:
        for size in group:
            check_clip_size(size)
    return tuple(groups)


def check_clip_size(size: Size) -> None:
    """Raises ValueError unless an autoencoder takes clips of this size."""
    check_value("size (frames, height, width)", Size, size)
    if size[0] % 4 != 1:
        near = max(1, round((size[0] - 1) / 4) * 4 + 1)
        raise ValueError(f"clips must have a multiple of 4 plus 1 frames, got {size[0]}; nearest is {near}")


def as_text(size: Size) -> str:
    """A size as it stands in names and messages."""
    return "x".join(map(str, size))


def _check_lengths(name: str, lengths: LengthShares, least: int) -> None:
    if not lengths or any(length < least for length, _ in lengths):
        raise ValueError(f"{name} must be lengths of at least {least}, each with a share above 0; got {lengths}")
