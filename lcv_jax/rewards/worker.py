"""The other side of process.py: answers on standard output what is asked on standard input.

    python -m lcv_jax.rewards.worker my_package.my_module:make_reward --options '{"device": "cuda:1"}'

It needs Python 3.11, NumPy and this package (`pip install --no-deps lcv_jax`), and whatever the reward needs. What the
reward prints goes to standard error.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcv_jax.rewards.factory import make_reward
from lcv_jax.rewards.wire import MOST_BODY, VERSION, pack_message, read_message, reply_header, unpack_request
from lcv_jax.user_files import parse_json, reason


def greeting(reward: Any) -> dict[str, Any]:
    """The header that comes before all replies."""
    return {"version": VERSION, "names": list(reward.names), "request_ids": True}


def answer(reward: Any, header: Mapping[str, Any], body: bytes, most_bytes: int = MOST_BODY) -> dict[str, Any]:
    """The header of the reply to a request; what the reward raises becomes its `error`.

    Args:
        reward: has `score`.
        header, body: of the request.
        most_bytes: that its decoded clips may take.

    Raises:
        WireError: it is no request.
    """
    videos_BTHWC, prompts, fps = unpack_request(header, body, most_bytes)
    return {**_scored(reward, videos_BTHWC, prompts, fps), "request": header.get("request", "")}


def _scored(reward: Any, videos_BTHWC: np.ndarray, prompts: list[str], fps: float) -> dict[str, Any]:
    try:
        returned = reward.score(videos_BTHWC, prompts, fps)
        # A mapping has a method `values`, Scores a field.
        plain = isinstance(returned, Mapping)
        return reply_header(returned if plain else returned.values, {} if plain else returned.failures)
    except Exception as error:
        traceback.print_exc()
        return {"version": VERSION, "error": f"{type(error).__name__}: {error}"}


def main(arguments: list[str] | None = None) -> None:
    """Runs until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m lcv_jax.rewards.worker", description=__doc__.splitlines()[0])
    parser.add_argument("factory", help="module:factory")
    parser.add_argument("--options", type=_options, default={}, help="keywords of the factory, as JSON")
    chosen = parser.parse_args(arguments)
    requests, replies = _own_streams()
    try:
        reward = make_reward(chosen.factory, chosen.options)
        _write(replies, greeting(reward))
    except Exception as error:
        _write(replies, {"version": VERSION, "error": reason(error)})
        print(f"error: {reason(error)}", file=sys.stderr)
        sys.exit(2)
    while True:
        try:
            header, body = read_message(requests)
        except EOFError:
            return
        _write(replies, answer(reward, header, body))


def _options(text: str) -> dict[str, Any]:
    try:
        return parse_json(text, "--options")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _own_streams() -> tuple[io.BufferedIOBase, io.BufferedIOBase]:
    """Standard input and output for messages alone: print() and child processes would break into them."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _write(stream: io.BufferedIOBase, header: Mapping[str, Any]) -> None:
    for part in pack_message(header):
        stream.write(part)
    stream.flush()


if __name__ == "__main__":
    main()
