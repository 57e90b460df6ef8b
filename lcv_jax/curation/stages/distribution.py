"""The distribution of captions over a whole library: cluster and name, density, weight, and a place on a map."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from lcv_jax.bounds import Bounds, Count, Positive, Seed, check_fields
from lcv_jax.curation.distribution import (
    density,
    find_clusters,
    inverse_weights,
    reduced,
    telling_words,
    unit,
    word_vectors,
)
from lcv_jax.curation.distribution_map import place_captions
from lcv_jax.curation.stage import INCIDENTAL, GroupStage
from lcv_jax.data.chat import ChatEndpoint, json_object

_EXAMPLES = 12
"""Captions that a language model sees of a cluster."""
_LONGEST_NAME = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How captions are compared, clustered and named."""

    vectors: Literal["words", "embedding"] = "words"
    """Of captions: of their words (TF-IDF), which needs no weights; or those of the stage embedding."""
    clusters: Annotated[int, Bounds(least=0, most=10_000)] = 0
    """At most. 0: the square root of a tenth of the clips, at most 200."""
    sample: Count = 8192
    """Captions that all are compared with to estimate density."""
    most_weight: Positive = 10.0
    """Times the weight of a caption of median density."""
    model: str = ""
    """A language model that names clusters, as the endpoint calls it. Empty: clusters are named by the words that tell
    them from the others."""
    url: Annotated[str, INCIDENTAL] = "http://localhost:8000/v1"
    """Of the endpoint, OpenAI-compatible."""
    key_variable: Annotated[str, INCIDENTAL] = "OPENAI_API_KEY"
    """Environment variable that has the key; without one none is sent."""
    seed: Seed = 0
    """Of clusters, sample and map."""

    def __post_init__(self) -> None:
        check_fields(self)


def distribute(columns: dict[str, list[Any]], settings: Settings) -> Mapping[str, Sequence[Any]]:
    """Where each clip's caption lies among all others."""
    captions = columns["caption_en"]
    if settings.vectors == "embedding":
        vectors = vectors_ND = unit(np.stack([np.frombuffer(each, np.float16) for each in columns["embedding"]]))
    else:
        vectors = word_vectors(captions)
        vectors_ND = reduced(vectors, settings.seed)
    labels_N, centres_KD = find_clusters(vectors_ND, settings.clusters, settings.seed)
    density_N = density(vectors, labels_N, settings.sample, settings.seed)
    names = _names(captions, vectors_ND, labels_N, centres_KD, settings)
    places_N2 = place_captions(vectors_ND, labels_N, centres_KD, settings.seed)
    return {
        "cluster": labels_N.tolist(),
        "cluster_name": [names[label] for label in labels_N],
        "density": density_N.tolist(),
        "weight": inverse_weights(density_N, settings.most_weight).tolist(),
        "x": places_N2[:, 0].tolist(),
        "y": places_N2[:, 1].tolist(),
    }


def _names(
    captions: Sequence[str], vectors_ND: np.ndarray, labels_N: np.ndarray, centres_KD: np.ndarray, settings: Settings
) -> list[str]:
    """A name for each cluster."""
    words = telling_words(captions, labels_N, 10 if settings.model else 3)
    if not settings.model:
        return [", ".join(found) or "no words" for found in words]
    endpoint = ChatEndpoint(url=settings.url, model=settings.model, key=os.environ.get(settings.key_variable, ""))
    names = []
    for label, found in enumerate(words):
        members = np.flatnonzero(labels_N == label)
        far = np.square(vectors_ND[members] - centres_KD[label]).sum(1)
        examples = [captions[place] for place in members[np.argsort(far, kind="stable")[:_EXAMPLES]]]
        question = (
            "These captions of videos form a group. Name what they have in common in one to four English words, as a "
            f"category of videos. Frequent words: {', '.join(found)}. Captions:\n"
            f'{json.dumps(examples, ensure_ascii=False)}\nReply with a JSON object: {{"name": ...}}'
        )
        names.append(endpoint.ask([{"type": "text", "text": question}], _name))
    return names


def _name(text: str) -> str:
    """The name in a reply."""
    name = json_object(text).get("name")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= _LONGEST_NAME:
        raise ValueError(f"expected a name of 1 to {_LONGEST_NAME} characters, got {text[:200]!r}")
    return name.strip()


def adapt(stage: GroupStage) -> GroupStage:
    """The stage reads vectors where its settings ask for them."""
    embedding = {"embedding": bytes} if stage.settings.vectors == "embedding" else {}
    return dataclasses.replace(stage, reads={**stage.reads, **embedding})


STAGE = GroupStage(
    name="distribution",
    version=1,
    run=distribute,
    settings=Settings(),
    reads={"clip": str, "caption_en": str},
    writes={"cluster": int, "cluster_name": str, "density": float, "weight": float, "x": float, "y": float},
)
"""All clips at once: their clusters change when clips are added."""
