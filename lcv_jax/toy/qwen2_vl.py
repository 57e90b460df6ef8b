"""A tiny Qwen2-VL of the procedural world with random weights: what its judge and its captioner begin with."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import Params
from lcv_jax.checkpoint import convert
from lcv_jax.checkpoint.names import Table
from lcv_jax.config import Qwen2VisionConfig, Qwen2VLConfig
from lcv_jax.data.patches import normalise
from lcv_jax.rewards.videoreward import Views, video_patches
from lcv_jax.toy.captions import vocabulary

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SEEN_SIDE, SEEN_FRAMES = 56, 8
"""Of what the network sees of a clip."""
NUM_SEEN = 48
"""Clips that the embedding of patches begins with."""


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
    """Of 1.2 million parameters."""
    start, end, image, video = map(tokenizer.token_to_id, VISION_TOKENS)
    return Qwen2VLConfig(
        vision_config=Qwen2VisionConfig(hidden_size=128, depth=3, embed_dim=96, num_heads=4),
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
    """Makes the embedding of patches whitening. Random kernels see little but the mean colour, and learn slowly.

    Two thirds of the features are what varies most in clips' patches, one third random mixtures of what varies little,
    edges and their motion.

    Args:
        params: of the network, changed in place.
        clips: to measure on, T H W 3.
        fps: their frames a second.
        views: what the network sees of them.
        rng: of the mixtures.
    """
    seen_NC = np.concatenate([normalise(np.concatenate(video_patches(clip, fps, views))) for clip in clips])
    size_C, direction_CC = np.linalg.eigh(np.cov(seen_NC.astype(np.float64), rowvar=False))
    white_CC = (direction_CC / np.sqrt(size_C + 1e-4))[:, ::-1]
    kernel = params["visual"]["patch_embed"]["proj"]["kernel"]
    large = 2 * kernel.shape[1] // 3
    rest_CF = white_CC[:, large : 8 * large]
    mixtures_FF = rng.standard_normal((rest_CF.shape[1], kernel.shape[1] - large)) / math.sqrt(rest_CF.shape[1])
    kernel[:] = np.concatenate([white_CC[:, :large], rest_CF @ mixtures_FF], axis=1)
