"""A stream as callers see it: an iterator of frames that takes a new prompt on the way and can be saved and resumed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import UInt8
from lcv_jax.data.encoded import pack_record, unpack_record
from lcv_jax.objectives.causal import CausalFlowMatching
from lcv_jax.objectives.self_forcing import SelfForcing
from lcv_jax.own_files import differences, write_whole
from lcv_jax.sampling.options import STREAM_ADAPTER
from lcv_jax.sampling.streaming import StreamState
from lcv_jax.user_files import reading

MakeChunk = Callable[[StreamState, str], tuple[UInt8[np.ndarray, "T H W 3"], StreamState]]
"""(state, prompt) -> the frames of the next chunk, and the state after it."""

FORMAT = "lcv_jax stream 1"
CAUSAL = CausalFlowMatching.__name__, SelfForcing.__name__
"""Objectives that train on causal chunks."""


def trained_causally(provenance: Mapping[str, Any], adapters: Iterable[str]) -> bool:
    """Whether the weights of a checkpoint, or one of these adapters, were trained on causal chunks.

    An adapter with the name of self-forcing's was; of others the provenance says so.
    """
    asked = {None, *(Path(name).name for name in adapters)}
    if STREAM_ADAPTER in asked:
        return True
    for record in provenance.get("training", ()):
        adapter = (record["config"].get("adapter") or {}).get("name")
        if record["config"]["objective"]["kind"] in CAUSAL and adapter in asked:
            return True
    return False


class Moment(NamedTuple):
    """A stream as it was once, in host memory."""

    state: StreamState
    prompt: str
    ready: tuple[np.ndarray, ...]


class Stream(Iterator[np.ndarray]):
    """Frames H W 3, uint8, made chunk by chunk as they are taken.

    `send(prompt)` works as it does for generators: it sets the prompt of the chunks to come and returns the next frame.
    Frames of a chunk that was already made come first.
    """

    def __init__(self, make_chunk: MakeChunk, state: StreamState, prompt: str, facts: dict[str, Any]):
        """Begins at `state`; `facts` identify what a saved stream belongs to: checkpoint, sizes and options."""
        self.prompt = prompt
        self._make_chunk, self._state, self._facts = make_chunk, state, facts
        self._ready: list[np.ndarray] = []

    def __next__(self) -> UInt8[np.ndarray, "H W 3"]:
        if not self._ready:
            frames_THWC, self._state = self._make_chunk(self._state, self.prompt)
            self._ready = list(frames_THWC)
        return self._ready.pop(0)

    def send(self, prompt: str | None) -> UInt8[np.ndarray, "H W 3"]:
        """The next frame; `prompt`, unless None, is followed from the next chunk on.

        Raises:
            ValueError: a prompt that is no string.
        """
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"prompt must be a string, got {prompt!r}")
        self.prompt = self.prompt if prompt is None else prompt
        return next(self)

    @property
    def num_ready(self) -> int:
        """Frames of the present chunk that are still to be taken. 0: the next one begins a chunk that is to be made."""
        return len(self._ready)

    @property
    def state_bytes(self) -> int:
        """Size of what a moment holds, frames aside."""
        return sum(array.nbytes for array in jax.tree.leaves(self._state))

    def moment(self) -> Moment:
        """The stream as it is now, to `go_back` to."""
        state = jax.tree.map(lambda array: np.array(array), self._state)  # copied: the next chunk writes over its cache
        return Moment(state, self.prompt, tuple(self._ready))

    def go_back(self, moment: Moment) -> None:
        """Continues where `moment` was called, with the same frames; the prompt becomes the one of that moment."""
        self._state = jax.tree.map(lambda array: jnp.array(array), moment.state)
        self.prompt, self._ready = moment.prompt, list(moment.ready)

    def save(self, path: str | Path) -> None:
        """Writes all that is needed to resume with the same frames: caches, frames not yet taken, prompt."""
        arrays = {f"ready/{index}": frame for index, frame in enumerate(self._ready)}
        trees = {"cache": self._state.cache, "decoder": self._state.decoder or {}}
        for name, array in flax.traverse_util.flatten_dict(trees, sep="/").items():
            if array is not None:
                arrays[f"state/{name}"] = np.asarray(array)
        facts = {"format": FORMAT, "prompt": self.prompt, "num_frames": int(self._state.num_frames), "of": self._facts}
        write_whole(Path(path), pack_record(arrays, **facts))

    def restore(self, path: str | Path) -> None:
        """Continues where `save` was called; the prompt becomes the saved one.

        Raises:
            ValueError: no saved stream, or one of another checkpoint, size or option, which is named.
        """
        with reading(path, "not a saved stream, or a damaged one"):
            arrays, facts = unpack_record(Path(path).read_bytes())
            if facts["format"] != FORMAT:
                raise ValueError(f"format {facts['format']!r}, expected {FORMAT!r}")
            differing = differences(facts["of"], self._facts)
        if differing:
            raise ValueError(f"{path}: the stream was saved with other settings: {differing}")
        kept = {name.removeprefix("state/"): jnp.asarray(array) for name, array in arrays.items() if "state/" in name}
        trees = flax.traverse_util.unflatten_dict(kept, sep="/")
        self.prompt = facts["prompt"]
        self._state = StreamState(jnp.int32(facts["num_frames"]), trees["cache"], trees.get("decoder"))
        self._ready = [np.array(arrays[f"ready/{i}"]) for i in range(sum(name.startswith("ready/") for name in arrays))]
