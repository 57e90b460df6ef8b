"""A client of OpenAI-compatible chat endpoints (vLLM and SGLang have one) that are shown frames and reply in JSON.

A reply that cannot be used is asked for again, and in the end an error that says what came: never a default value.
"""

import base64
import dataclasses
import io
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from lcv_jax.array_types import Float, UInt8
from lcv_jax.data.frames import evenly, media_package

T = TypeVar("T")
_LONGEST_REPLY = 1 << 20
"""Bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatEndpoint:
    """Where a model is served."""

    url: str
    """Of the interface, such as http://localhost:8000/v1."""
    model: str
    """As the endpoint names it."""
    timeout: float = 120.0
    """Seconds for a reply."""
    retries: int = 2
    """Further tries after an error of the connection or the server, or a reply that is of no use."""
    key: str = dataclasses.field(default="", repr=False)
    """Sent as a bearer token; without one none is sent."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not self.model:
            raise ValueError(f"an endpoint needs its url and a model, got {self.url!r} and {self.model!r}")

    def ask(self, content: Sequence[dict[str, Any]], parse: Callable[[str], T], **options: Any) -> T:
        """What `parse` makes of the reply to a message.

        Args:
            content: parts of the message.
            parse: takes the text of the reply; raises ValueError where it is of no use.
            options: further fields of the request.

        Raises:
            ValueError: no reply that can be used.
        """
        body = {"model": self.model, "temperature": 0, **options}
        body["messages"] = [{"role": "user", "content": list(content)}]
        return self._post("chat/completions", body, lambda reply: parse(_message(reply)))

    def embed(self, text: str) -> Float[np.ndarray, " D"]:
        """The vector of a text.

        Raises:
            ValueError: no reply that can be used.
        """
        return self._post("embeddings", {"model": self.model, "input": text}, _vector)

    def _post(self, method: str, body: dict[str, Any], parse: Callable[[str], T]) -> T:
        address = f"{self.url.rstrip('/')}/{method}"
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        for attempt in range(self.retries + 1):
            try:
                request = urllib.request.Request(address, json.dumps(body).encode(), headers)
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return parse(reply.read(_LONGEST_REPLY).decode(errors="replace"))
            except urllib.error.HTTPError as error:
                reason = f"{self.url}: status {error.code}: {error.read()[:200].decode(errors='replace')}"
                if error.code < 500 and error.code != 429:
                    raise ValueError(reason) from None
            except (OSError, ValueError) as error:
                reason = f"{self.url}: {error}"
            if attempt < self.retries:
                time.sleep(min(2**attempt, 30) * 0.5)
        raise ValueError(reason)


def _message(reply: str) -> str:
    """The text of a chat completion."""
    try:
        text = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ValueError(f"expected a chat completion, got {reply[:200]!r}")
    return text


def _vector(reply: str) -> np.ndarray:
    """The vector of a reply to a request for embeddings."""
    try:
        vector_D = np.asarray(json.loads(reply)["data"][0]["embedding"], np.float32)
    except (ValueError, KeyError, IndexError, TypeError):
        vector_D = np.zeros(0, np.float32)
    if vector_D.ndim != 1 or not vector_D.size or not np.isfinite(vector_D).all():
        raise ValueError(f"expected an embedding, got {reply[:200]!r}")
    return vector_D


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in a text, which may stand in a sentence or a code block.

    Raises:
        ValueError: there is none.
    """
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        return json.loads(found[0])  # type: ignore[index]
    except (ValueError, TypeError):
        raise ValueError(f"expected a JSON object, got {text[:200]!r}") from None


def frame_parts(
    video_THWC: UInt8[np.ndarray, "T H W 3"] | Sequence[UInt8[np.ndarray, "H W 3"]], num_frames: int, side: int
) -> list[dict[str, Any]]:
    """Frames at even distances as parts of a message.

    Args:
        video_THWC: of a clip.
        num_frames: that are sent, at most.
        side: most pixels of a frame's longer side.
    """
    places = evenly(len(video_THWC), num_frames)
    return [{"type": "image_url", "image_url": {"url": _jpeg(video_THWC[place], side)}} for place in places]


def _jpeg(frame_HWC: np.ndarray, side: int) -> str:
    image = media_package("PIL.Image").fromarray(frame_HWC)
    image.thumbnail((side, side))
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=90)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
