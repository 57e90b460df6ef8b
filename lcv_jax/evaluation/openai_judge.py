"""A judge behind an OpenAI-compatible endpoint: frames and the prompt go out, a score a dimension comes back.

    evaluate judge RUN vlm --factory lcv_jax.evaluation.openai_judge:judge --options url http://host/v1 model NAME

The questions and the meaning of every point are those that people are asked. A reply that is no JSON object with a
score in 1..5 for every dimension is a failure, and never a number.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.chat import ChatEndpoint, frame_parts, json_object
from lcv_jax.evaluation.dimensions import TEXT_TO_VIDEO
from lcv_jax.rewards.protocol import Scores


def judge(
    url: str,
    model: str,
    *,
    num_frames: int = 8,
    side: int = 448,
    timeout: float | int = 120,
    retries: int = 2,
    key_variable: str = "OPENAI_API_KEY",
) -> "OpenAIJudge":
    """A reward of lcv_jax.rewards.

    Args:
        url: of the interface, such as http://localhost:8000/v1.
        model: as the endpoint names it.
        num_frames: sent of each clip, at even distances.
        side: most pixels of a frame's longer side.
        timeout: seconds for a reply.
        retries: further tries after an error of the connection or the server, or a reply that is of no use.
        key_variable: environment variable that has the key; without one none is sent.
    """
    key = os.environ.get(key_variable, "")
    endpoint = ChatEndpoint(url=url, model=model, timeout=float(timeout), retries=retries, key=key)
    return OpenAIJudge(endpoint=endpoint, num_frames=num_frames, side=side)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenAIJudge:
    """See `judge`."""

    endpoint: ChatEndpoint
    num_frames: int
    side: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.id for dimension in TEXT_TO_VIDEO)

    def score(self, videos_BTHWC: UInt8[np.ndarray, "B T H W 3"], prompts: Sequence[str], fps: float | int) -> Scores:
        """Scores from 1 to 5; clips whose reply cannot be used are failures."""
        values = {name: np.full(len(prompts), np.nan, np.float32) for name in self.names}
        failures = {}
        for clip, (video_THWC, prompt) in enumerate(zip(videos_BTHWC, prompts, strict=True)):
            try:
                for name, score in self._ask(video_THWC, prompt, fps).items():
                    values[name][clip] = score
            except (OSError, ValueError) as error:
                failures[clip] = str(error)
        return Scores(values=values, failures=failures)

    def _ask(self, video_THWC: np.ndarray, prompt: str, fps: float | int) -> dict[str, int]:
        content = self._content(video_THWC, prompt, fps)
        return self.endpoint.ask(content, lambda text: parse_scores(text, self.names))

    def _content(self, video_THWC: np.ndarray, prompt: str, fps: float | int) -> list[dict[str, Any]]:
        frames = frame_parts(video_THWC, self.num_frames, self.side)
        text = [
            f"These are {len(frames)} frames at even distances of a generated video that lasts "
            f"{len(video_THWC) / fps:.1f} seconds.",
            f"Its prompt: {prompt or '(none)'}",
            "Score it from 1 to 5 in each dimension:",
        ]
        for dimension in TEXT_TO_VIDEO:
            points = "; ".join(f"{place}: {point}" for place, point in enumerate(dimension.points, 1))
            text.append(f"{dimension.id}: {dimension.question} {points}.")
        text.append(f"Reply with a JSON object alone, with the keys {', '.join(self.names)} and whole numbers.")
        return [*frames, {"type": "text", "text": "\n".join(text)}]


def parse_scores(text: str, names: Sequence[str]) -> dict[str, int]:
    """Scores in a reply; the JSON object may stand in a text or a code block.

    Raises:
        ValueError: no such object, a dimension is missing or its score is not in 1..5.
    """
    found = json_object(text)
    wrong = [name for name in names if type(found.get(name)) is not int or not 1 <= found[name] <= 5]
    if wrong:
        raise ValueError(f"expected whole numbers in 1..5 for {', '.join(wrong)}, got {json.dumps(found)[:200]}")
    return {name: found[name] for name in names}
