"""What a backward pass keeps of each block of a network, and what it computes again."""

from typing import Any

import flax.linen as nn
import jax

from lcv_jax.kernels.implementations import RESIDUALS

BLOCK_INPUT = "block input"
"""Name of the tokens that a block starts from, for `jax.checkpoint_policies`."""
REMAT: dict[str, Any] = {
    "full": None,
    "attention": jax.checkpoint_policies.save_only_these_names(RESIDUALS),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[BLOCK_INPUT, RESIDUALS],
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "none": None,
}
"""What is kept for the backward pass besides the input of each block ("offload": the host's memory keeps that too)."""


def rematerialised(block: type[nn.Module], remat: str) -> Any:
    """A block whose backward pass computes again what is not kept.

    Raises:
        ValueError: `remat` is none of `REMAT`.
    """
    if remat not in REMAT:
        raise ValueError(f"remat must be one of {', '.join(REMAT)}, got {remat!r}")
    return block if remat == "none" else nn.remat(block, prevent_cse=False, policy=REMAT[remat])
