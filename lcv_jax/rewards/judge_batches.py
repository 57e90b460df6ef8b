"""Pictures and videos under captions, packed for a judge's network: few shapes, and a picture's prompt begins once.

A row is one picture or video with all its captions. Lengths are rounded up to buckets, eight an octave, and rows of the
same buckets form batches, so that few programs compile whatever comes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.patches import cells
from lcv_jax.models.qwen2_vision import MERGED
from lcv_jax.rewards.conversation import Conversation, Prompt

TOKENS = 16
"""Of which the length of a beginning is a multiple."""
END_TOKENS = 32
"""Of which the length of an end is a multiple: beginnings are many times as long."""
MAX_ENDS = 8
"""Captions of a row; a picture with more has several rows."""


def bucket(number: int, step: int = 1) -> int:
    """A number rounded up to eight sizes an octave, 16, 18, 20, ..., 32, 36, ..., all of them multiples of a step."""
    step = max(step, 1 << max(0, number.bit_length() - 4))
    return -(-max(number, 1) // step) * step


class Shape(NamedTuple):
    """What a program is compiled for, beside the number of rows."""

    pictures: int
    """Temporal patches."""
    patches: int
    begun: int
    ends: int
    end: int

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.begun + self.ends * self.end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One picture or video and some of its captions."""

    load: Callable[[], UInt8[np.ndarray, "t S C"]]
    """Its patches."""
    grid: tuple[int, int, int]
    """Temporal patches, rows and columns of patches."""
    begun: tuple[int, ...]
    """The ids after the visual tokens that all prompts share."""
    prompts: tuple[Prompt, ...]
    results: tuple[tuple[int, ...], ...]
    """Which scores each prompt gives."""


def make_row(
    conversation: Conversation,
    load: Callable[[], np.ndarray],
    grid: tuple[int, int, int],
    asked: Sequence[tuple[str, Sequence[int]]],
) -> Row:
    """A row of captions and which scores each gives."""
    prompts = tuple(conversation.prompt(caption) for caption, _ in asked)
    begun = prompts[0].ids[: conversation.shared_length(prompts)]
    return Row(load=load, grid=grid, begun=begun, prompts=prompts, results=tuple(tuple(which) for _, which in asked))


def shape_of(row: Row, conversation: Conversation) -> Shape:
    """The buckets of a row."""
    pictures, rows, columns = row.grid
    visual = pictures * rows * columns // MERGED
    longest = max(len(prompt.ids) for prompt in row.prompts) - len(row.begun)
    return Shape(
        pictures=bucket(pictures),
        patches=MERGED * bucket(rows * columns // MERGED),
        begun=bucket(len(conversation.opening) + visual + len(row.begun), TOKENS),
        ends=bucket(len(row.prompts)),
        end=-(-longest // END_TOKENS) * END_TOKENS,
    )


def batches(
    rows: Sequence[Row], conversation: Conversation, batch_size: int, multiple: int = 1
) -> Iterator[tuple[Shape, int, list[Row]]]:
    """Rows of the same buckets, and how many rows the program takes: all of the batch size but the last of a bucket.

    Args:
        multiple: of which the number of rows is.
    """
    by_shape: dict[Shape, list[Row]] = {}
    for row in rows:
        by_shape.setdefault(shape_of(row, conversation), []).append(row)
    for shape, alike in sorted(by_shape.items()):
        for start in range(0, len(alike), batch_size):
            some = alike[start : start + batch_size]
            size = batch_size if len(alike) > batch_size else 1 << (len(some) - 1).bit_length()
            yield shape, -(-size // multiple) * multiple, some


def pack(rows: Sequence[Row], shape: Shape, size: int, conversation: Conversation) -> dict[str, np.ndarray]:
    """The arguments of `JudgeNetwork` for a batch; rows that lack are zero."""
    num_rewards = len(rows[0].prompts[0].rewards)
    features = conversation.cfg.network.vision_config.patch_features
    packed: dict[str, np.ndarray] = {
        "patches_BTSC": np.zeros((size, shape.pictures, shape.patches, features), np.uint8),
        "cells_BS2": np.zeros((size, shape.patches, 2), np.int32),
        "mask_BTS": np.zeros((size, shape.pictures, shape.patches), bool),
        "ids_BL": np.zeros((size, shape.length), np.int32),
        "visual_BL": np.full((size, shape.length), -1, np.int32),
        "positions": np.zeros((size, shape.length), np.int32),
        "begun_BP": np.zeros((size, shape.begun), bool),
        "reward_BQR": np.zeros((size, shape.ends, num_rewards), np.int32),
    }
    for number, row in enumerate(rows):
        _pack_row(row, shape, conversation, {name: array[number] for name, array in packed.items()})
    return packed


def _pack_row(row: Row, shape: Shape, conversation: Conversation, into: dict[str, np.ndarray]) -> None:
    opening = len(conversation.opening)
    visual = pack_visual(row.load(), row.grid, opening, into)
    begun = [*conversation.opening, *[conversation.visual_token] * visual, *row.begun]
    into["ids_BL"][: len(begun)] = begun
    into["positions"][: len(begun)] = np.arange(len(begun))
    into["begun_BP"][: len(begun)] = True

    for number, prompt in enumerate(row.prompts):
        end, start = prompt.ids[len(row.begun) :], shape.begun + number * shape.end
        into["ids_BL"][start : start + len(end)] = end
        into["positions"][start : start + shape.end] = len(begun) + np.arange(shape.end)
        into["reward_BQR"][number] = [
            opening + visual + place if place < len(row.begun) else start + place - len(row.begun)
            for place in prompt.rewards
        ]


def pack_visual(
    patches_tSC: UInt8[np.ndarray, "t S C"], grid: tuple[int, int, int], first: int, into: dict[str, np.ndarray]
) -> int:
    """Packs the patches of a picture or video whose tokens begin at place `first`; gives back how many tokens.

    Args:
        grid: temporal patches, rows and columns of patches.
        into: patches_BTSC, cells_BS2, mask_BTS and visual_BL of one row.
    """
    pictures, height, width = grid
    num_patches, room = height * width, into["patches_BTSC"].shape[1] // MERGED
    into["patches_BTSC"][:pictures, :num_patches] = patches_tSC
    into["cells_BS2"][:num_patches] = cells(height, width)
    into["mask_BTS"][:pictures, :num_patches] = True
    visual = pictures * num_patches // MERGED
    picture, token = np.divmod(np.arange(visual), num_patches // MERGED)
    into["visual_BL"][first : first + visual] = picture * room + token
    return visual
