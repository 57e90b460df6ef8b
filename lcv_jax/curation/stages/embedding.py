"""A vector of a clip's caption, by a sentence embedding model of the user's: at an endpoint, or with transformers."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from lcv_jax.bounds import Seconds, check_fields
from lcv_jax.curation.stage import INCIDENTAL, Cost, Row, Stage
from lcv_jax.data.chat import ChatEndpoint
from lcv_jax.extras import import_extra
from lcv_jax.user_files import reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The model. Captions are embedded again when its name changes."""

    model: str = "Qwen3-Embedding-0.6B"
    """As the endpoint names it; of a folder, a name for its weights."""
    folder: Path | None = None
    """Of a model as transformers saves it, with its tokenizer; runs here, on the CPU. None: the endpoint."""
    url: Annotated[str, INCIDENTAL] = "http://localhost:8000/v1"
    """Of an OpenAI-compatible endpoint that has /embeddings."""
    timeout: Annotated[Seconds, INCIDENTAL] = 60.0
    """Seconds for a reply."""
    key_variable: Annotated[str, INCIDENTAL] = "OPENAI_API_KEY"
    """Environment variable that has the key; without one none is sent."""

    def __post_init__(self) -> None:
        check_fields(self)


def embed(row: Row, settings: Settings) -> Row:
    """The unit vector, as float16.

    Raises:
        ValueError: no vector could be had.
    """
    if settings.folder is not None:
        vector_D = _with_transformers(str(settings.folder), row["caption_en"])
    else:
        key = os.environ.get(settings.key_variable, "")
        endpoint = ChatEndpoint(url=settings.url, model=settings.model, timeout=settings.timeout, key=key)
        vector_D = endpoint.embed(row["caption_en"])
    length = np.linalg.norm(vector_D)
    if not 0 < length < np.inf:
        raise ValueError(f"{settings.model}: the vector of a caption has length {length}")
    return {"embedding": (vector_D / length).astype(np.float16).tobytes()}


def _with_transformers(folder: str, caption: str) -> np.ndarray:
    """The mean of the last layer over the caption's tokens, as most sentence embedding models have it."""
    tokenizer, model = _load(folder)
    torch = import_extra("torch", "aesthetic", "sentence embeddings with transformers need")
    with torch.inference_mode():
        tokens = tokenizer(caption, return_tensors="pt", truncation=True, max_length=512)
        return model(**tokens).last_hidden_state[0].float().mean(0).numpy()


@functools.cache
def _load(folder: str) -> tuple[Any, Any]:
    import_extra("torch", "aesthetic", "sentence embeddings with transformers need")
    from transformers import AutoModel, AutoTokenizer

    with reading(folder, "expected a model and a tokenizer as transformers saves them"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval()


def adapt(stage: Stage) -> Stage:
    """A model in a folder computes; an endpoint is waited for."""
    return dataclasses.replace(stage, cost=Cost(memory=4000)) if stage.settings.folder is not None else stage


STAGE = Stage(
    name="embedding",
    version=1,
    run=embed,
    settings=Settings(),
    reads={"caption_en": str},
    writes={"embedding": bytes},
    cost=Cost(cores=0.0, calls=16, timeout=300.0),
)
