"""Captions alone, for training on videos that the model makes itself: which are in which batch, and of which size."""

import dataclasses
from pathlib import Path

from lcv_jax.bounds import FrameCount, Pixels, TextTokens, check_fields
from lcv_jax.data.buckets import RESOLUTIONS
from lcv_jax.data.config import Size, bucket_groups
from lcv_jax.data.manifest import read_captions
from lcv_jax.data.plans import Choice, Plans


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Captions, and sizes of the videos to make of them."""

    path: Path
    """A text file with a caption a line, or a manifest (.jsonl, .csv, .parquet), of which only captions are read."""
    sizes: tuple[Size, ...] = ()
    """Frames, height and width."""
    resolutions: tuple[str, ...] = ()
    """Or the published buckets of 480p, 720p or both, each with every count of `num_frames`."""
    num_frames: tuple[FrameCount, ...] = (93,)
    """Frames of videos in the buckets of `resolutions`."""
    granularity: Pixels = 32
    """Heights and widths of `resolutions` are multiples of this many pixels."""
    max_sequence_length: TextTokens = 512
    """Tokens that captions are padded to."""
    negative_prompt: str = ""
    """Of guidance."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sizes and not self.resolutions:
            raise ValueError(f"prompts need sizes (frames height width), or resolutions of {', '.join(RESOLUTIONS)}")
        self.all_sizes()

    def all_sizes(self) -> tuple[Size, ...]:
        """Every size; each batch has one of them, all as often."""
        groups = bucket_groups(self.sizes, self.resolutions, self.num_frames, self.granularity)
        return tuple(size for group in groups for size in group)


class Prompts:
    """Batches of captions: a pure function of the seed and the batch's number."""

    def __init__(self, cfg: PromptsConfig, batch_size: int, seed: int):
        """Reads the captions.

        Raises:
            OSError: there is no such file.
            ValueError: it cannot be read, or has fewer than two captions.
        """
        self.captions = read_captions(cfg.path)
        if len(self.captions) < 2:
            raise ValueError(f"{cfg.path} has one caption: what is learnt from it is that one alone; give more")
        self.sizes = cfg.all_sizes()
        choices = [Choice("t2v", 0, bucket) for bucket in range(len(self.sizes))]
        counts = [len(self.captions)] * len(self.sizes)
        self._plans = Plans(choices, [1.0] * len(self.sizes), counts, None, batch_size, seed)

    def at(self, number: int) -> tuple[list[str], Size]:
        """A batch's captions, and its size. In an epoch of a size each comes once."""
        size = self.sizes[self._plans.choice(number).bucket]
        return [self.captions[record] for record in self._plans.records(number)], size
