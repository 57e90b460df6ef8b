"""A judge's prompt as token ids: the fixed beginning that all captions share, and the end with the caption.

Only the template's own special tokens are parsed. A caption is text: "<|Reward|>" in it becomes the ordinary tokens of
these letters.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from lcv_jax.data.chat_tokens import ChatTokens
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
        self._tokens = ChatTokens(tokenizer)
        special = self._tokens.special
        lacking = [token for token in cfg.reward_tokens if special.get(token, cfg.num_embeddings) >= cfg.num_embeddings]
        if lacking:
            raise ValueError(f"{tokenizer} is not this judge's: it has no {', '.join(lacking)}; convert again")
        self.cfg, self._special = cfg, special
        self.opening = tuple(self._tokens.of_template(cfg.before_picture))
        before, self._open_text = self._split_last(cfg.before_caption)
        self._close_text, after = self._split_first(cfg.after_caption)
        self._before, self._after = self._tokens.of_template(before), self._tokens.of_template(after)
        self._shared = self._common(min(len(self.prompt(probe).ids) for probe in PROBES), PROBES)

    @property
    def reward_ids(self) -> tuple[int, ...]:
        """The ids of the reward tokens, in the order of `JudgeConfig.reward_tokens`."""
        return tuple(self._special[token] for token in self.cfg.reward_tokens)

    @property
    def visual_token(self) -> int:
        """The id at the places of visual tokens."""
        network = self.cfg.network
        return network.image_token_id if self.cfg.kind == "hpsv3" else network.video_token_id

    def prompt(self, caption: str) -> Prompt:
        """The prompt of a caption."""
        text = self._tokens.of_text(self._open_text + caption + self._close_text)
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

    def _split_last(self, text: str) -> tuple[str, str]:
        """Before and after the end of the last special token."""
        ends = [match.end() for match in self._tokens.pattern.finditer(text)]
        return (text[: ends[-1]], text[ends[-1] :]) if ends else ("", text)

    def _split_first(self, text: str) -> tuple[str, str]:
        """Before and after the start of the first special token."""
        match = self._tokens.pattern.search(text)
        return (text, "") if match is None else (text[: match.start()], text[match.start() :])
