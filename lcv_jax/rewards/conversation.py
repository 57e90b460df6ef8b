"""A judge's prompt as token ids: the fixed beginning that all captions share, and the end with the caption.

Only the template's own special tokens are parsed. A caption is text: "<|Reward|>" in it becomes the ordinary tokens of
these letters.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from lcv_jax.models.judges import JudgeConfig

PROBES = ("", "a", "A", "1", '"', " ", "\n", "é", "日", ".")
"""Captions that begin in different ways: what their token ids have in common does not depend on the caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """The token ids of a caption's prompt after the visual tokens, up to the last reward token."""

    ids: tuple[int, ...]
    rewards: tuple[int, ...]
    """Where the reward tokens are, in the order of `JudgeConfig.reward_tokens`."""


class Conversation:
    """Writes prompts for one judge."""

    def __init__(self, cfg: JudgeConfig, tokenizer: Path):
        """Reads the tokenizer.

        Raises:
            ValueError: it is damaged, or not this judge's.
        """
        try:
            stored = json.loads(tokenizer.read_text(encoding="utf-8"))
            special = {token["content"]: token["id"] for token in stored["added_tokens"]}
            # Without added tokens it cannot parse any.
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(stored | {"added_tokens": []}))
        # The library raises bare exceptions.
        except Exception as error:
            raise ValueError(f"{tokenizer} is damaged: {error}; convert again") from None
        lacking = [token for token in cfg.reward_tokens if special.get(token, cfg.num_embeddings) >= cfg.num_embeddings]
        if lacking:
            raise ValueError(f"{tokenizer} is not this judge's: it has no {', '.join(lacking)}; convert again")
        self.cfg, self._special = cfg, special
        self._pattern = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
        self.opening = tuple(self._fixed(cfg.before_picture))
        before, self._open_text = self._split_last(cfg.before_caption)
        self._close_text, after = self._split_first(cfg.after_caption)
        self._before, self._after = self._fixed(before), self._fixed(after)
        self._shared = self._common(min(len(self.prompt(probe).ids) for probe in PROBES), PROBES)

    @property
    def visual_token(self) -> int:
        """The id at the places of visual tokens."""
        network = self.cfg.network
        return network.image_token_id if self.cfg.kind == "hpsv3" else network.video_token_id

    def prompt(self, caption: str) -> Prompt:
        """The prompt of a caption."""
        text = self._text(self._open_text + caption + self._close_text)
        ids = [*self._before, *text, *self._after]
        places = [ids.index(self._special[token]) for token in self.cfg.reward_tokens]
        return Prompt(ids=tuple(ids[: max(places) + 1]), rewards=tuple(places))

    def shared_length(self, prompts: Sequence[Prompt]) -> int:
        """How many token ids the prompts begin with alike: never more than prompts of any captions would."""
        length = self._shared
        while any(prompt.ids[:length] != prompts[0].ids[:length] for prompt in prompts):
            length -= 1
        # An end of no tokens would have nothing to attend from.
        return min(length, *(len(prompt.ids) - 1 for prompt in prompts))

    def _common(self, length: int, captions: Sequence[str]) -> int:
        columns = zip(*(self.prompt(caption).ids[:length] for caption in captions), strict=True)
        return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))

    def _text(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    def _fixed(self, text: str) -> list[int]:
        """Text of the template, with its special tokens."""
        ids, at = [], 0
        for match in self._pattern.finditer(text):
            ids += [*self._text(text[at : match.start()]), self._special[match[0]]]
            at = match.end()
        return ids + self._text(text[at:])

    def _split_last(self, text: str) -> tuple[str, str]:
        """Before and after the end of the last special token."""
        ends = [match.end() for match in self._pattern.finditer(text)]
        return (text[: ends[-1]], text[ends[-1] :]) if ends else ("", text)

    def _split_first(self, text: str) -> tuple[str, str]:
        """Before and after the start of the first special token."""
        match = self._pattern.search(text)
        return (text, "") if match is None else (text[: match.start()], text[match.start() :])
