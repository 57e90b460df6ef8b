"""Captions of a clip in English and Chinese, by an OpenAI-compatible endpoint that is shown its frames.

Or, with the setting `manifest`, the English captions that `lcv caption` wrote of the library's clips.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from lcv_jax.bounds import Bounds, Count, Pixels, Seconds, check_fields
from lcv_jax.curation.captions import CAPTION_PROMPT, TEXTS, caption_format, parse_captions
from lcv_jax.curation.stage import INCIDENTAL, Cost, Row, Stage
from lcv_jax.data.chat import ChatEndpoint, frame_parts
from lcv_jax.data.frames import evenly
from lcv_jax.data.manifest import read_manifest
from lcv_jax.data.media_reader import open_clip
from lcv_jax.own_files import file_sha256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The endpoint and what it is asked. A clip is asked about again when the model or the question changes."""

    url: Annotated[str, INCIDENTAL] = "http://localhost:8000/v1"
    """Of the interface."""
    model: str = "Qwen2.5-VL-7B-Instruct"
    """As the endpoint names it."""
    prompt: str = CAPTION_PROMPT
    """What is asked."""
    num_frames: Count = 8
    """Of a clip, at even distances."""
    side: Pixels = 448
    """Most pixels of a frame's longer side."""
    timeout: Annotated[Seconds, INCIDENTAL] = 120.0
    """Seconds for a reply."""
    retries: Annotated[Annotated[int, Bounds(least=0, most=100)], INCIDENTAL] = 2
    """Further tries after an error, or a reply that is of no use."""
    key_variable: Annotated[str, INCIDENTAL] = "OPENAI_API_KEY"
    """Environment variable that has the key; without one none is sent."""
    manifest: Path = Path()
    """Instead of asking an endpoint: a manifest of this library's clips with their captions, which `select` and then
    `lcv caption` write. Its captions are read again when its content changes."""

    def __post_init__(self) -> None:
        check_fields(self)


def ask_about(row: Row, settings: Settings, parse: Any, response_format: dict[str, Any]) -> Row:
    """What a model says about a clip's frames.

    Raises:
        OSError: the clip cannot be read.
        ValueError: no reply that can be used.
    """
    with open_clip(row["clip_path"]) as clip:
        frames = list(clip.pictures(evenly(len(clip.timeline), settings.num_frames).tolist()))
        seconds = float(clip.timeline.seconds)
    endpoint = ChatEndpoint(
        url=settings.url, model=settings.model, timeout=settings.timeout, retries=settings.retries,
        key=os.environ.get(settings.key_variable, ""),
    )  # fmt: skip
    question = (
        f"These are {len(frames)} frames at even distances of a video of {seconds:.1f} seconds. {settings.prompt}"
    )
    content = [*frame_parts(frames, len(frames), settings.side), {"type": "text", "text": question}]
    return endpoint.ask(content, parse, response_format=response_format)


def describe(row: Row, settings: Settings) -> Row:
    """A caption and a summary in each language."""
    return ask_about(row, settings, parse_captions, caption_format())


def take(row: Row, settings: Settings) -> Row:
    """The caption of a manifest.

    Raises:
        ValueError: it has none of this clip.
    """
    caption = _read(settings.manifest, settings.model).get(row["clip"])
    if caption is None:
        raise ValueError(f"{settings.manifest} has no caption of this clip: caption it, then run the stage again")
    return {**dict.fromkeys(TEXTS), "caption_en": caption}


@functools.lru_cache(maxsize=1)
def _read(manifest: Path, content: str) -> Mapping[str, str]:
    """Captions by clip, read once in each process."""
    return {entry.id: entry.captions[0] for entry in read_manifest(manifest)}


def adapt(stage: Stage) -> Stage:
    """With a manifest, captions are read from it, and what counts as the model is its content."""
    manifest = stage.settings.manifest
    if manifest == Path():
        return stage
    settings = dataclasses.replace(
        stage.settings, model=f"sha256 {file_sha256(manifest)}", manifest=manifest.absolute()
    )
    return dataclasses.replace(stage, run=take, settings=settings, reads={**stage.reads, "clip": str}, cost=Cost())


STAGE = Stage(
    name="captions",
    version=1,
    run=describe,
    settings=Settings(),
    reads={"clip_path": Path, "clip_digest": str},
    writes=dict.fromkeys(TEXTS, str),
    cost=Cost(cores=0.0, calls=16, timeout=900.0),
)
