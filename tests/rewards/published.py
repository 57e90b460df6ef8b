"""Rows of the token ids that the published processors gave: their templates are not here."""

import functools

import numpy as np

from lcv_jax.rewards import hpsv3, videoreward
from lcv_jax.rewards.conversation import Prompt
from lcv_jax.rewards.judge_batches import Row


def row_of(conversation, ids, load, grid, places, results=((0,),), shared=500):
    """A row of a sequence's ids without padding, whose reward tokens stand at `places`."""
    start = len(conversation.opening) + int(np.prod(grid)) // 4
    assert tuple(ids[: len(conversation.opening)]) == conversation.opening
    assert (ids[len(conversation.opening) : start] == conversation.visual_token).all()
    places = np.atleast_1d(places) - start
    prompt = Prompt(ids=tuple(map(int, ids[start:][: places.max() + 1])), rewards=tuple(map(int, places)))
    return Row(load=load, grid=grid, begun=prompt.ids[:shared], prompts=(prompt,), results=results)


def image_loads(io, cfg):
    return [functools.partial(hpsv3.picture_patches, io[f"in.image_{number}"], cfg) for number in range(3)]


def video_loads(io, config, cfg):
    return [
        functools.partial(videoreward.video_patches, io[f"in.video_{number}"], fps, cfg)
        for number, fps in enumerate(config["fps"])
    ]
