"""Attention split by heads (DeepSpeed-Ulysses, Jacobs et al., 2023), inside shard_map.

Each device holds some tokens of all heads. One all-to-all makes that all tokens of some heads, any attention runs as on
one device, and another brings its output back. Heads are computed apart anyway, so nothing is approximated: neither
dense attention nor a selection of blocks, which is per head. A device sends and receives (n - 1) / n of its share of
q, k, v and the output: less, the more devices there are.
"""

from collections.abc import Callable

from lcv_jax.array_types import Array, Float
from lcv_jax.parallel.ranks import Ranks, whole_axis

Attend = Callable[[Array, Array, Array], Array]
"""Attention of queries, keys and values (B S N K, B M N K) on one device."""


def ulysses(attend: Attend, axis: str | Ranks) -> Attend:
    """The same attention for arrays whose tokens are split over `axis`, in order.

    Args:
        attend: gets all the tokens of 1 / n of the heads. It may itself speak to other devices, as a ring does.

    Raises:
        ValueError: (when called) the heads do not divide by the devices.
    """

    def attend_split(
        q_BSNK: Float[Array, "B S N K"], k_BMNK: Float[Array, "B M N K"], v_BMNK: Float[Array, "B M N K"]
    ) -> Float[Array, "B S N K"]:
        ranks = whole_axis(axis)
        check_heads(q_BSNK.shape[2], ranks.size)
        q, k, v = (ranks.all_to_all(x, split=2, join=1) for x in (q_BSNK, k_BMNK, v_BMNK))
        return ranks.all_to_all(attend(q, k, v), split=1, join=2)

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
