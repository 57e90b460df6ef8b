"""Captions: cleaning them, and tokens of a fixed window for the text encoder.

Tokenizers are read with the `tokenizers` package itself where the folder has its file (as the released one has): that
takes 20 ms, importing transformers takes a second, and both run the same code on the same file.
"""

import html
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcv_jax.array_types import Int
from lcv_jax.user_files import read_json, reading


def clean(caption: str) -> str:
    """A caption as the networks were trained on it: Unicode mended, HTML decoded, white space single."""
    import ftfy

    # Twice, as published: captions from the web come escaped and escaped again ("&amp;quot;").
    decoded = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return " ".join(decoded.split())


class CaptionTokenizer:
    """Captions to token ids, cleaned, ended with the end-of-sequence token and padded to one length."""

    def __init__(self, backend: Any, pad_token: str):
        """Wraps a `tokenizers.Tokenizer`; `load_tokenizer` makes one from a folder."""
        pad_id = backend.token_to_id(pad_token)
        if pad_id is None:
            raise ValueError(f"the tokenizer has no padding token {pad_token!r}")
        # A saved tokenizer may bring a window of its own, which would cut captions before the warning sees them.
        backend.no_truncation()
        backend.no_padding()
        self._backend, self._pad_id = backend, pad_id

    @property
    def largest_id(self) -> int:
        """The highest token id of the vocabulary, added tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values())

    def tokenize(
        self, captions: Sequence[str], max_length: int
    ) -> tuple[Int[np.ndarray, "B L"], Int[np.ndarray, "B L"]]:
        """Token ids and a mask (1 for a token, 0 for padding) of `max_length` columns, int32.

        An empty caption is one end-of-sequence token. A caption that does not fit is cut, and a UserWarning quotes the
        words that were lost.

        Raises:
            ValueError: a window without room for a token, or one string where a list of captions is wanted.
        """
        if isinstance(captions, str):
            raise ValueError(f"captions must be a list of strings, got one string: write [{captions[:20]!r}]")
        room = max_length - self._backend.num_special_tokens_to_add(is_pair=False)
        if room < 1:
            raise ValueError(f"max_length must leave room for a token and the end of the sequence, got {max_length}")
        ids_BL = np.full((len(captions), max_length), self._pad_id, np.int32)
        mask_BL = np.zeros_like(ids_BL)
        for row, caption in enumerate(map(clean, captions)):
            encoding = self._backend.encode(caption, add_special_tokens=False)
            if len(encoding) > room:
                _warn_of_cut(caption, encoding.offsets[room][0], max_length)
                encoding.truncate(room)
            ids = self._backend.post_process(encoding).ids
            ids_BL[row, : len(ids)] = ids
            mask_BL[row, : len(ids)] = 1
        return ids_BL, mask_BL

    def unknown(self, captions: Sequence[str]) -> tuple[list[str], int]:
        """Words of captions that have no token of their own, with repetitions; and the number of all tokens."""
        unknown_id = self._backend.token_to_id("<unk>")
        words, count = [], 0
        for caption in map(clean, captions):
            encoding = self._backend.encode(caption, add_special_tokens=False)
            count += len(encoding)
            places = zip(encoding.ids, encoding.offsets, strict=True)
            words += [caption[start:end] for token, (start, end) in places if token == unknown_id]
        return words, count


def load_tokenizer(folder: str | Path) -> CaptionTokenizer:
    """The tokenizer of a checkpoint's `tokenizer/` folder. Reads local files only.

    Raises:
        OSError: there is no such folder, or it holds no tokenizer.
        ValueError: its files cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; wanted a checkpoint's tokenizer/")
    if not (folder / "tokenizer.json").is_file():
        return _load_with_transformers(folder)
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the Rust side raises plain Exception
        raise ValueError(f"{folder / 'tokenizer.json'}: not a readable tokenizer ({_one_line(error)})") from error
    return CaptionTokenizer(backend, _pad_token(folder))


def _load_with_transformers(folder: Path) -> CaptionTokenizer:
    """For folders in a tokenizer's older formats (spiece.model alone, vocab.json with merges.txt)."""
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "spiece.model", "vocab.json")):
        raise FileNotFoundError(f"{folder}: no tokenizer here, wanted tokenizer.json (and tokenizer_config.json)")
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # importing transformers warns that PyTorch is missing, which nobody here needs
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise ValueError(
            f"{folder}: transformers cannot read this tokenizer ({_one_line(error)}); "
            "a spiece.model without tokenizer.json needs `pip install sentencepiece`"
        ) from error
    finally:
        logging.disable(previous)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{folder}: {type(tokenizer).__name__} has no fast form; save it with a tokenizer.json")
    return CaptionTokenizer(backend, tokenizer.pad_token or "<pad>")


def _pad_token(folder: Path) -> str:
    """What the folder names as its padding token, as a string or as a description with `content`; T5's if nothing."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if file.is_file():
            with reading(file):
                token = read_json(file).get("pad_token")
                if token is not None:
                    return str(token["content"] if isinstance(token, dict) else token)
    return "<pad>"


def _warn_of_cut(caption: str, position: int, max_length: int) -> None:
    kept, lost = caption[:position].strip(), caption[position:].strip()
    kept = kept if len(kept) <= 40 else f"...{kept[-37:]}"
    lost = lost if len(lost) <= 120 else f"{lost[:85]} ... {lost[-30:]}"
    warnings.warn(
        f'the caption does not fit into {max_length} tokens: it is cut after "{kept}" and loses "{lost}"; '
        "a larger max_sequence_length keeps it",
        stacklevel=3,
    )


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
