"""Token ids of a chat template: its own special tokens are parsed, those in a user's text are ordinary letters."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import tokenizers


class ChatTokens:
    """A tokenizer that keeps the two apart.

    Attributes:
        special: ids of the special tokens by their text.
    """

    def __init__(self, tokenizer: Path):
        """Reads a tokenizer.json.

        Raises:
            ValueError: it is damaged.
        """
        try:
            stored = json.loads(tokenizer.read_text(encoding="utf-8"))
            self.special: dict[str, int] = {token["content"]: token["id"] for token in stored["added_tokens"]}
            self._whole = tokenizers.Tokenizer.from_str(json.dumps(stored))
            # Without added tokens it cannot parse any.
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(stored | {"added_tokens": []}))
        # The library raises bare exceptions.
        except Exception as error:
            raise ValueError(f"{tokenizer} is damaged: {error}; convert again") from None
        self.pattern = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))))

    def of_text(self, text: str) -> list[int]:
        """Ids of a user's text."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def of_template(self, text: str) -> list[int]:
        """Ids of a template's text, with its special tokens."""
        ids, at = [], 0
        for match in self.pattern.finditer(text):
            ids += [*self.of_text(text[at : match.start()]), self.special[match[0]]]
            at = match.end()
        return ids + self.of_text(text[at:])

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self._whole.decode(list(ids), skip_special_tokens=True)
