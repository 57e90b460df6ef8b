"""A judge behind an OpenAI-compatible endpoint: frames and the prompt go out, a score a dimension comes back.

    evaluate judge RUN vlm --factory lcv_jax.evaluation.openai_judge:judge --options url http://host/v1 model NAME

The questions and the meaning of every point are those that people are asked. A reply that is no JSON object with a
score in 1..5 for every dimension is a failure, and never a number.
"""

import base64
import dataclasses
import io
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.frames import media_package
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
    if not url.startswith(("http://", "https://")) or not model:
        raise ValueError(f"a judge needs the url of its interface and a model, got {url!r} and {model!r}")
    return OpenAIJudge(
        url=url.rstrip("/"),
        model=model,
        num_frames=num_frames,
        side=side,
        timeout=float(timeout),
        retries=retries,
        key=os.environ.get(key_variable, ""),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenAIJudge:
    """See `judge`."""

    url: str
    model: str
    num_frames: int
    side: int
    timeout: float
    retries: int
    key: str = dataclasses.field(repr=False)

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
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [{"role": "user", "content": self._content(video_THWC, prompt, fps)}],
        }
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        for attempt in range(self.retries + 1):
            try:
                request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return parse_reply(reply.read().decode(), self.names)
            except urllib.error.HTTPError as error:
                reason = f"{self.url}: status {error.code}: {error.read()[:200].decode(errors='replace')}"
                if error.code < 500 and error.code != 429:
                    raise ValueError(reason) from None
            except (OSError, ValueError) as error:
                reason = f"{self.url}: {error}"
            if attempt < self.retries:
                time.sleep(min(2**attempt, 30) * 0.5)
        raise ValueError(reason)

    def _content(self, video_THWC: np.ndarray, prompt: str, fps: float | int) -> list[dict[str, Any]]:
        T = len(video_THWC)
        places = np.unique(np.linspace(0, T - 1, min(self.num_frames, T)).round().astype(int))
        frames = [{"type": "image_url", "image_url": {"url": self._jpeg(video_THWC[place])}} for place in places]
        text = [
            f"These are {len(places)} frames at even distances of a generated video that lasts {T / fps:.1f} seconds.",
            f"Its prompt: {prompt or '(none)'}",
            "Score it from 1 to 5 in each dimension:",
        ]
        for dimension in TEXT_TO_VIDEO:
            points = "; ".join(f"{place}: {point}" for place, point in enumerate(dimension.points, 1))
            text.append(f"{dimension.id}: {dimension.question} {points}.")
        text.append(f"Reply with a JSON object alone, with the keys {', '.join(self.names)} and whole numbers.")
        return [*frames, {"type": "text", "text": "\n".join(text)}]

    def _jpeg(self, frame_HWC: np.ndarray) -> str:
        image = media_package("PIL.Image").fromarray(frame_HWC)
        image.thumbnail((self.side, self.side))
        with io.BytesIO() as file:
            image.save(file, "JPEG", quality=90)
            return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def parse_reply(reply: str, names: Sequence[str]) -> dict[str, int]:
    """Scores in a chat completion; the JSON object may stand in a text or a code block.

    Raises:
        ValueError: no such object, a dimension is missing or its score is not in 1..5.
    """
    try:
        text = json.loads(reply)["choices"][0]["message"]["content"]
        found = json.loads(re.search(r"\{[^{}]*\}", text)[0])  # type: ignore[index]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError(f"expected a chat completion with a JSON object, got {reply[:200]!r}") from None
    wrong = [name for name in names if type(found.get(name)) is not int or not 1 <= found[name] <= 5]
    if wrong:
        raise ValueError(f"expected whole numbers in 1..5 for {', '.join(wrong)}, got {json.dumps(found)[:200]}")
    return {name: found[name] for name in names}
