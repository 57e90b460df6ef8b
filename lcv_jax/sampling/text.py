"""Text that a captioner writes, token after token, in one compiled program."""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from lcv_jax.array_types import Array, Float, Int, Params, PRNGKeyArray
from lcv_jax.bounds import Bounds, Count, check_fields
from lcv_jax.models.captioner import Asked, Captioner
from lcv_jax.models.qwen2_vl import Cached


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSampling:
    """How tokens are drawn, and how many at most."""

    max_tokens: Count = 256
    """Most tokens of a text; a longer one is cut."""
    temperature: Annotated[float, Bounds(least=0, most=100)] = 0.0
    """Of the softmax; 0 always takes the most probable token."""
    top_p: Annotated[float, Bounds(above=0, most=1)] = 1.0
    """Draw among the most probable tokens that together have this probability."""

    def __post_init__(self) -> None:
        check_fields(self)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("stops",))
def write_text(
    network: Captioner,
    sampling: TextSampling,
    params: Params,
    asked: Asked,
    length_B: Int[Array, " B"],
    position_B: Int[Array, " B"],
    key_B: Array,
    *,
    stops: tuple[int, ...],
) -> Int[Array, "B T"]:
    """The tokens of a text after each prompt, and behind its end `stops[0]`.

    Args:
        network: the captioner.
        sampling: how tokens are drawn.
        params: of the network.
        asked: the prompts.
        length_B: tokens of each prompt; padding is behind them.
        position_B: position of the first token after each prompt.
        key_B: a key for each text, so that it does not depend on what is written beside it.
        stops: tokens that end a text.
    """
    room = sampling.max_tokens
    variables = {"params": params}
    logits_BV, kept = network.apply(
        variables, asked, length_B, room, method="begin", mutable=["cache"]
    )  # fmt: skip
    B, L = asked.ids_BL.shape
    is_prompt_BM = jnp.arange(L + room) < length_B[:, None]

    def going(state: Any) -> Array:
        step, _, ended_B, _, _ = state
        return (step < room) & ~ended_B.all()

    def advance(state: Any) -> Any:
        step, logits_BV, ended_B, written_BT, cache = state
        drawn_B = jax.vmap(functools.partial(_draw, sampling))(
            logits_BV, jax.vmap(functools.partial(jax.random.fold_in, data=step))(key_B)
        )
        token_B = jnp.where(ended_B, stops[0], drawn_B)
        ended_B |= jnp.isin(token_B, jnp.asarray(stops))
        written_BT = written_BT.at[:, step].set(token_B)
        # Generated tokens stand behind the padding; what lies between is not seen.
        place_M = jnp.arange(L + room)
        seen_BM = is_prompt_BM | ((place_M >= L) & (place_M <= L + step))
        cached = Cached(at=L + step, seen_BM=seen_BM)
        logits_BV, kept = network.apply(
            {**variables, "cache": cache}, token_B, position_B + step, cached, method="go_on", mutable=["cache"]
        )  # fmt: skip
        return step + 1, logits_BV, ended_B, written_BT, kept["cache"]

    start = (jnp.int32(0), logits_BV, jnp.zeros(B, bool), jnp.full((B, room), stops[0]), kept["cache"])
    return jax.lax.while_loop(going, advance, start)[3]


def _draw(sampling: TextSampling, logits_V: Float[Array, " V"], key: PRNGKeyArray) -> Int[Array, ""]:
    """A token. Of equally probable ones the first, when the most probable is taken."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_V)
    logits_V = logits_V / sampling.temperature
    if sampling.top_p < 1:
        order_V = jnp.argsort(-logits_V)
        probability_V = jax.nn.softmax(logits_V[order_V])
        # The token that reaches top_p is kept.
        kept_V = jnp.cumsum(probability_V) - probability_V < sampling.top_p
        logits_V = jnp.full_like(logits_V, -jnp.inf).at[order_V].set(jnp.where(kept_V, logits_V[order_V], -jnp.inf))
    return jax.random.categorical(key, logits_V)
