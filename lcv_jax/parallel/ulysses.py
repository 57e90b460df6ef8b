"""Attention split by heads (DeepSpeed-Ulysses, Jacobs et al., 2023), inside shard_map.

Each device holds some tokens of all heads. One all-to-all makes that all tokens of some heads, any attention runs as on
one device, and another brings its output back. Heads are computed apart anyway, so nothing is approximated: neither
dense attention nor a selection of blocks, which is per head. A device sends (n - 1) / n of its share of q, k, v and the
output: less, the more devices there are.

A device's heads are worked through in two pieces, so that tokens are exchanged while attention is computed:

    exchanged    q k v of 1    q k v of 2     output of 1    output of 2
    computed                   attention 1    attention 2
"""

from collections.abc import Callable

import jax.numpy as jnp

from lcv_jax.array_types import Array, Float
from lcv_jax.parallel.ranks import Ranks, whole_axis

Attend = Callable[[Array, Array, Array], Array]
"""Attention of queries, keys and values (B S N K, B M N K) on one device."""


def ulysses(attend: Attend, axis: str | Ranks, *, pieces: int | None = None) -> Attend:
    """The same attention for arrays whose tokens are split over `axis`, in order.

    Args:
        attend: gets all the tokens of 1 / n of the heads, or of a piece of these. It may itself speak to other devices,
            as a ring does.
        pieces: None is two where a device's heads can be halved. With one, `attend` gets the device's heads as they are
            numbered, those of the first device first.

    Raises:
        ValueError: (when called) the heads do not divide by the devices.
    """

    def attend_split(
        q_BSNK: Float[Array, "B S N K"], k_BMNK: Float[Array, "B M N K"], v_BMNK: Float[Array, "B M N K"]
    ) -> Float[Array, "B S N K"]:
        ranks = whole_axis(axis)
        B, S, N, K = q_BSNK.shape
        check_heads(N, ranks.size)
        if ranks.size == 1:
            return attend(q_BSNK, k_BMNK, v_BMNK)
        M, own = k_BMNK.shape[1], N // ranks.size
        num_pieces = pieces or 2 - own % 2
        # As one array: XLA keeps one collective in flight, and of three it would wait for two.
        tokens = jnp.concatenate([q_BSNK, k_BMNK, v_BMNK], axis=1)
        tokens = tokens.reshape(B, 1, S + 2 * M, ranks.size, num_pieces, own // num_pieces, K)

        def attend_piece(piece: int) -> Array:
            gathered = ranks.all_to_all(tokens[:, :, :, :, piece], split=3, join=1)
            parts = jnp.split(gathered, [S, S + M], axis=2)
            out = attend(*(part.reshape(B, -1, own // num_pieces, K) for part in parts))
            return ranks.all_to_all(out[:, :, None], split=1, join=2)

        return jnp.stack([attend_piece(piece) for piece in range(num_pieces)], axis=3).reshape(B, S, N, K)

    return attend_split


def check_heads(num_heads: int, num_devices: int) -> None:
    """Refuses heads that do not divide.

    Raises:
        ValueError: with what would work.
    """
    if num_heads % num_devices:
        works = max(size for size in range(1, num_devices + 1) if num_heads % size == 0)
        raise ValueError(
            f"Ulysses splits heads: {num_heads} heads do not divide by {num_devices} devices; "
            f"split them over {works}, and let a ring take the rest"
        )
