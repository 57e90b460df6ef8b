"""A tiny Qwen2-VL of the procedural world with random weights: what its judge and its captioner begin with."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.names import Table
from lcv_jax.config import Qwen2VisionConfig, Qwen2VLConfig
from lcv_jax.data.patches import FRAMES, normalise
from lcv_jax.models.qwen2_rope import frequencies
from lcv_jax.rewards.videoreward import Views, video_patches
from lcv_jax.toy.captions import vocabulary

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SEEN_SIDE, SEEN_FRAMES = 84, 16
"""Of what the network sees of a clip."""
NUM_SEEN = 48
"""Clips that the embedding of patches begins with."""
_SURE = 5.0
"""Of attention to neighbours: patches next to it have a tenth of its weight."""


def word_tokenizer(special: Sequence[str]) -> Any:
    """A tokenizer with a token for every word of the grammar, and special tokens after `VISION_TOKENS`."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    words = ["<unk>", *vocabulary()]
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([*VISION_TOKENS, *special])
    return backend


def tiny_config(tokenizer: Any) -> Qwen2VLConfig:
    """Of 1.5 million parameters."""
    start, end, image, video = map(tokenizer.token_to_id, VISION_TOKENS)
    return Qwen2VLConfig(
        vision_config=Qwen2VisionConfig(hidden_size=128, depth=3, embed_dim=128, num_heads=4),
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(), mrope_section=(4, 6, 6), rope_theta=1e4, image_token_id=image,
        video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip


def random_params(table: Table, rng: np.random.Generator, scales: Mapping[str, float]) -> Params:
    """Kernels that keep the variance of what goes in, norms of one.

    Args:
        table: the network's parameters.
        rng: of all draws.
        scales: what kernels of some parts are multiplied by, such as a head that says little at first.
    """
    params: Params = {}
    for leaf in table:
        if leaf.path[-1] == "kernel":
            scale = scales.get(leaf.path[0], 1.0) / math.sqrt(math.prod(leaf.turned[:-1]))
            value = scale * rng.standard_normal(leaf.shape, np.float32)
        elif leaf.path[1:2] == ("embed_tokens",):
            value = 0.5 * rng.standard_normal(leaf.shape, np.float32)
        else:
            value = np.full(leaf.shape, leaf.path[-1] == "weight", np.float32)
        convert.place(params, leaf.path, value.astype(np.float32))
    return params


def see_differences(
    params: Params, clips: Sequence[np.ndarray], fps: float, views: Views, rng: np.random.Generator
) -> None:
    """Makes the embedding of patches whitening, of what two frames share and of what changes between them.

    Random kernels see little but the mean colour, and learn slowly: changes vary a hundredth as much as colours. Five
    eighths of the features are what frames share, the others changes; of each half what varies most, and, for an
    eighth of all features, random mixtures of the rest, edges above all.

    Args:
        params: of the network, changed in place.
        clips: to measure on, T H W 3.
        fps: their frames a second.
        views: what the network sees of them.
        rng: of the mixtures.
    """
    seen_NC = np.concatenate([normalise(np.concatenate(video_patches(clip, fps, views))) for clip in clips])
    first_NP, second_NP = np.moveaxis(seen_NC.reshape(len(seen_NC), 3, FRAMES, -1), 2, 0).reshape(
        FRAMES, len(seen_NC), -1
    )
    kernel = params["visual"]["patch_embed"]["proj"]["kernel"]
    width = kernel.shape[1]
    shared_PF = whitening(first_NP + second_NP, 5 * width // 8, width // 16, rng)
    changed_PF = whitening(second_NP - first_NP, width - 5 * width // 8, width // 16, rng)
    frames = [np.concatenate([shared_PF, sign * changed_PF], axis=1) for sign in (-1, 1)]
    by_channel = [each.reshape(3, -1, width) for each in frames]
    kernel[:] = np.stack(by_channel, axis=1).reshape(-1, width)


def whitening(values_NP: np.ndarray, features: int, mixtures: int, rng: np.random.Generator) -> np.ndarray:
    """P x features: the directions that vary most, scaled to a variance of one, the last some mixed of all others."""
    size_P, direction_PP = np.linalg.eigh(np.cov(values_NP.astype(np.float64), rowvar=False))
    white_PP = (direction_PP / np.sqrt(size_P + 1e-3))[:, ::-1]
    large = features - mixtures
    rest_PR = white_PP[:, large : 8 * large]
    mixed_RF = rng.standard_normal((rest_PR.shape[1], mixtures)) / math.sqrt(rest_PR.shape[1])
    return np.concatenate([white_PP[:, :large], rest_PR @ mixed_RF], axis=1)


def look_around(params: Params, cfg: Qwen2VisionConfig) -> None:
    """Makes each head of all tower's blocks but the last attend to a neighbour of a patch: above, below, left, right.

    A patch knows the shape of nothing that is larger than it. Queries and keys get a constant part, and the rotation
    of keys is set back by the neighbour's place, so that their product is largest there (compare with convolutions as
    self-attention, arXiv 1911.03584, and structured initialisation, arXiv 2305.09828).
    """
    axis = cfg.head_dim // 4
    angles = frequencies(2 * axis, 10000.0, exact=True)
    bias = params["visual"]["blocks"]["attn"]["qkv"]["bias"].reshape(cfg.depth, 3, cfg.num_heads, 2, 2, axis)
    for head, offset in zip(range(cfg.num_heads), itertools.cycle(((-1, 0), (1, 0), (0, -1), (0, 1)))):
        for place, step in enumerate(offset):
            bias[:-1, 0, head, 0, place, :2] = _SURE
            bias[:-1, 1, head, 0, place, :2] = _SURE * np.cos(step * angles[:2])
            bias[:-1, 1, head, 1, place, :2] = -_SURE * np.sin(step * angles[:2])
