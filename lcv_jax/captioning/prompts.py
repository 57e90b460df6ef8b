"""What a captioner is asked about a clip, and answers: patches, the chat around them, and batches of few shapes."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.bounds import Count, Fps, FrameCount, check_fields
from lcv_jax.checkpoint.judge_templates import CONVERSATION
from lcv_jax.config import Qwen2VLConfig
from lcv_jax.data.chat_tokens import ChatTokens
from lcv_jax.models.captioner import Asked
from lcv_jax.models.qwen2_rope import grid_positions
from lcv_jax.models.qwen2_vision import MERGED
from lcv_jax.rewards.clip_files import Grid
from lcv_jax.rewards.judge_batches import TOKENS, bucket, pack_visual
from lcv_jax.rewards.videoreward import video_grid, video_patches

STOPS = ("<|im_end|>", "<|endoftext|>")
"""Tokens that end an answer; the first is the one that is trained."""
QUESTION = (
    "Describe this video: what is to be seen, in the order in which it happens, the subjects and their looks, every "
    "action with its direction and result, the place and the light."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Which frames of a clip the network sees, and how large. Defaults are those of Qwen2-VL's own tools for videos."""

    fps: Fps = 2.0
    """Frames a second that are taken."""
    num_frames: FrameCount | None = None
    """Frames that are taken, whatever the clip's length. None: by `fps`."""
    min_pixels: Count = 128 * 28 * 28
    """Of a frame; smaller ones are enlarged."""
    max_pixels: Count = 768 * 28 * 28
    """Of a frame; larger ones are reduced."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} must be at most max_pixels {self.max_pixels}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One question about one clip, perhaps with the answer to learn."""

    load: Callable[[], UInt8[np.ndarray, "t S C"]]
    """Its patches."""
    grid: Grid
    ids: tuple[int, ...]
    """The prompt, with a token for each merged patch; then the answer."""
    first_visual: int
    """Where the clip's tokens begin."""
    begin: int
    """Where the answer begins: tokens of the prompt."""

    @property
    def num_visual(self) -> int:
        """Tokens of the clip."""
        return math.prod(self.grid) // MERGED


class Shape(NamedTuple):
    """What a program is compiled for, beside the number of clips."""

    pictures: int
    patches: int
    length: int


class CaptionPrompts:
    """Writes prompts for one captioner, and reads its answers."""

    def __init__(self, cfg: Qwen2VLConfig, tokenizer: Path):
        """Reads the tokenizer.

        Raises:
            ValueError: it is damaged, or not this captioner's.
        """
        self.cfg, self._tokens = cfg, ChatTokens(tokenizer)
        special = self._tokens.special
        if special.get("<|video_pad|>") != cfg.video_token_id or STOPS[0] not in special:
            raise ValueError(
                f"{tokenizer} is of another vocabulary: <|video_pad|> is {special.get('<|video_pad|>')}, "
                f"wanted {cfg.video_token_id}"
            )
        self.stops = tuple(special[token] for token in STOPS if token in special)

    def clip(self, number: int, video_THWC: np.ndarray, fps: float, question: str, views: Views) -> Clip:
        """The question about a clip in memory; a single frame is asked about as a picture.

        Raises:
            ValueError: no uint8 frames T H W 3, or a size or frame rate that cannot be taken; the number is named.
        """
        if not isinstance(video_THWC, np.ndarray) or video_THWC.dtype != np.uint8 or video_THWC.ndim != 4:
            got = f"{getattr(video_THWC, 'dtype', type(video_THWC).__name__)} {np.shape(video_THWC)}"
            raise ValueError(f"video {number} must be a uint8 array T H W 3, got {got}")
        if 0 in video_THWC.shape or video_THWC.shape[-1] != 3:
            raise ValueError(f"video {number} must be a uint8 array T H W 3, got shape {video_THWC.shape}")
        is_picture = len(video_THWC) == 1
        frames = np.repeat(video_THWC, 2, axis=0) if is_picture else video_THWC
        try:
            grid = video_grid(frames.shape, fps, views)
        except ValueError as error:
            raise ValueError(f"video {number}: {error}") from None
        return self.asked(lambda: video_patches(frames, fps, views), grid, question, is_picture=is_picture)

    def asked(self, load: Callable[[], np.ndarray], grid: Grid, question: str, *, is_picture: bool) -> Clip:
        """The question about a clip or a picture.

        Args:
            load: reads its patches.
            grid: temporal patches, rows and columns of patches.
            question: special tokens in it are ordinary letters.
            is_picture: whether it is a picture.
        """
        visual = self.cfg.image_token_id if is_picture else self.cfg.video_token_id
        before, after = CONVERSATION.split("{pads}")
        before_question, after_question = after.split("{text}")
        opening = self._tokens.of_template(before)
        ids = [
            *opening,
            *[visual] * (math.prod(grid) // MERGED),
            *self._tokens.of_template(before_question),
            *self._tokens.of_text(question),
            *self._tokens.of_template(after_question),
        ]
        return Clip(load=load, grid=grid, ids=tuple(ids), first_visual=len(opening), begin=len(ids))

    def answered(self, clip: Clip, answer: str) -> Clip:
        """A question with its answer and the token that ends it; special tokens in it are ordinary letters."""
        return dataclasses.replace(clip, ids=(*clip.ids, *self._tokens.of_text(answer.strip()), self.stops[0]))

    def text_of(self, ids: Sequence[int]) -> str:
        """An answer's text, up to the token that ends it."""
        ends = [ids.index(stop) for stop in self.stops if stop in ids]
        return self._tokens.text_of(ids[: min(ends, default=len(ids))]).strip()


def shape_of(clip: Clip) -> Shape:
    """The buckets of a clip."""
    t, rows, columns = clip.grid
    return Shape(
        pictures=bucket(t), patches=MERGED * bucket(rows * columns // MERGED), length=bucket(len(clip.ids), TOKENS)
    )  # fmt: skip


def pack(
    clips: Sequence[Clip], size: int, prompts: CaptionPrompts, shape: Shape | None = None
) -> tuple[Asked, np.ndarray, np.ndarray]:
    """Arrays of clips, the length of each sequence, and the position of the first token after it.

    Args:
        clips: of one shape.
        size: rows; those that lack repeat the last clip.
        prompts: of the captioner.
        shape: that all of them fit; None: that of the first.
    """
    cfg, shape = prompts.cfg, shape or shape_of(clips[0])
    asked = Asked(
        patches_BTSC=np.zeros((size, shape.pictures, shape.patches, cfg.vision_config.patch_features), np.uint8),
        cells_BS2=np.zeros((size, shape.patches, 2), np.int32),
        mask_BTS=np.zeros((size, shape.pictures, shape.patches), bool),
        ids_BL=np.zeros((size, shape.length), np.int32),
        visual_BL=np.full((size, shape.length), -1, np.int32),
        positions_BL3=np.zeros((size, shape.length, 3), np.int32),
    )
    length_B, position_B = np.zeros(size, np.int32), np.zeros(size, np.int32)
    for row in range(size):
        clip = clips[min(row, len(clips) - 1)]
        length = length_B[row] = len(clip.ids)
        pack_visual(
            clip.load(), clip.grid, clip.first_visual, {name: array[row] for name, array in asked._asdict().items()}
        )
        asked.ids_BL[row, :length] = clip.ids
        positions_L3 = grid_positions(np.array(clip.ids), np.array([clip.grid]), cfg)
        asked.positions_BL3[row, :length] = positions_L3
        position_B[row] = positions_L3.max() + 1
    return asked, length_B, position_B
