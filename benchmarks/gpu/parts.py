"""What the rows of the report's Table 2 are made of: programs of the released model, each timed once at full size.

A part is what the planner records of a request (lcv_jax/planning/requests.py): the very program that generation runs,
with the shapes of its arguments. Of the sampling loop a single step is timed.
"""

import dataclasses
import functools
from typing import Any

from lcv_jax.planning import requests
from lcv_jax.planning.requests import Program, Refine, Request, TextToVideo, programs_of
from lcv_jax.sampling.options import DISTILLED_ADAPTER, REFINEMENT_ADAPTER, SamplingOptions
from lcv_jax.toy.sizes import SIZES

SMALL, LARGE = (480, 832), (704, 1280)
TOY_SMALL, TOY_LARGE = (64, 64), (128, 128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Programs of a request that run one after the other."""

    request: str
    """One of REQUESTS."""
    programs: tuple[str, ...]
    """The planner's names of them."""
    num_frames: int = 93
    options: tuple[tuple[str, Any], ...] = ()
    """Fields of SamplingOptions."""
    fields: tuple[tuple[str, Any], ...] = ()
    """Of the request."""
    steps: int = 1
    """Of the sampling loop."""


def _text_to_video(size: tuple[int, int], num_frames: int) -> TextToVideo:
    return TextToVideo(height=size[0], width=size[1], num_frames=num_frames)


def _refine(small: tuple[int, int], large: tuple[int, int], num_frames: int, **fields: Any) -> Refine:
    return Refine(video_size=small, size=large, segment_frames=num_frames, **fields)


def request_of(part: Part, toy: bool) -> Request:
    """At full size, or at one for a test."""
    small, large = (TOY_SMALL, TOY_LARGE) if toy else (SMALL, LARGE)
    num_frames = 5 if toy else part.num_frames
    if part.request == "refine":
        return _refine(small, large, num_frames, **dict(part.fields))
    return _text_to_video(large if part.request == "720p" else small, num_frames)


def networks(toy: bool, **changes: Any) -> requests.Networks:
    """The released model, its adapters folded into the weights; or the tiny one of the tests."""
    folded = (DISTILLED_ADAPTER, REFINEMENT_ADAPTER)
    if toy:
        size = SIZES["tiny"]
        known = requests.Networks(
            dit=size.dit,
            vae=size.vae,
            text_encoder=size.text_encoder,
            scheduler=size.scheduler,
            folded=folded,
        )
    else:
        known = requests.Networks(folded=folded)
    return dataclasses.replace(known, **changes)


def programs(part: Part, toy: bool, *, quantized: bool = False, **settings: Any) -> list[Program]:
    """The part's programs; settings are fields of `Pipeline`."""
    given = {"dtype": "float32" if toy else "bfloat16", **settings}
    options = SamplingOptions(**dict(part.options))
    found = programs_of(request_of(part, toy), options, networks(toy, quantized=quantized), **given)
    return [program for program in found if program.name in part.programs]


DISTILLED, DENSE = (("distilled", True),), (("sparse", False),)
SAME_RATE = (("spatial_only", True),)

_step = functools.partial(Part, programs=("denoise",))
_refined = functools.partial(Part, request="refine")
STEPS = {
    "step_480p_guided": _step(request="480p"),
    "step_480p": _step(request="480p", options=DISTILLED),
    "step_720p_sparse": _step(request="refine", fields=SAME_RATE),
    "step_720p_189_sparse": _step(request="refine"),
    "step_720p": _step(request="720p", options=DISTILLED),
    "step_720p_guided": _step(request="720p"),
    "step_720p_189": _step(request="refine", options=DENSE),
}
OTHERS = {
    "text": Part(request="480p", programs=("encode text",), options=DISTILLED),
    "decode_480p": Part(request="480p", programs=("decode",), options=DISTILLED),
    "encode_720p": _refined(programs=("upsample", "encode"), fields=SAME_RATE),
    "decode_720p": _refined(programs=("decode",), fields=SAME_RATE),
    "encode_720p_189": _refined(programs=("upsample", "encode")),
    "decode_720p_189": _refined(programs=("decode",)),
}
PARTS = {**STEPS, **OTHERS}
"""189 frames are 93 at twice the rate. A refinement's dense step has the shapes of a step without guidance at 720p."""
