"""The tokenizer of a reward model: Qwen2-VL's, and after its last token the reward tokens."""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from lcv_jax.config import Qwen2VLConfig
from lcv_jax.models.judges import REWARD_TOKENS


def open_tokenizer(folders: Sequence[Path], kind: str, cfg: Qwen2VLConfig) -> tuple[str, int]:
    """The tokenizer's JSON with the reward tokens in it, and how many tokens it has.

    Args:
        folders: the first that has a tokenizer.json counts.
        kind: of judge.
        cfg: what ids the network knows of.

    Raises:
        ValueError: there is none, or it is of another vocabulary.
    """
    path = next((folder / "tokenizer.json" for folder in folders if (folder / "tokenizer.json").is_file()), None)
    if path is None:
        raise ValueError(f"no tokenizer.json in {' or '.join(map(str, folders))}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    # The library raises bare exceptions.
    except Exception as error:
        raise ValueError(f"{path} is no tokenizer: {error}") from None
    special = {
        "<|image_pad|>": cfg.image_token_id,
        "<|video_pad|>": cfg.video_token_id,
        "<|vision_start|>": cfg.vision_start_token_id,
        "<|vision_end|>": cfg.vision_end_token_id,
    }
    wrong = [
        f"{token} is {tokenizer.token_to_id(token)}, wanted {number}"
        for token, number in special.items()
        if tokenizer.token_to_id(token) != number
    ]
    absent = [token for token in ("<|im_start|>", "<|im_end|>") if tokenizer.token_to_id(token) is None]
    if wrong or absent:
        found = "; ".join(wrong + [f"{token} is missing" for token in absent])
        raise ValueError(f"{path} is a tokenizer of another vocabulary: {found}")
    for token in REWARD_TOKENS[kind]:
        tokenizer.add_special_tokens([token])
    for folder in folders:
        _check_added(tokenizer, folder / "added_tokens.json")
    return tokenizer.to_str(), tokenizer.get_vocab_size(with_added_tokens=True)


def _check_added(tokenizer: tokenizers.Tokenizer, path: Path) -> None:
    """The tokens that a published folder lists must be those of the tokenizer."""
    if not path.is_file():
        return
    try:
        wrong = [
            token for token, number in json.loads(path.read_text()).items() if tokenizer.token_to_id(token) != number
        ]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if wrong:
        raise ValueError(
            f"{path}: {', '.join(wrong)} have other ids than in the tokenizer: it is of another vocabulary"
        )
