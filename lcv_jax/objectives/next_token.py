"""Training of a captioner on captions (report, section 2.1.2): cross entropy of the next token, of the answer alone."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Float, Int, PRNGKeyArray
from lcv_jax.objectives.networks import Batch, Losses


class CaptionerNetworks(NamedTuple):
    """The captioner that learns."""

    logits: Callable[[Batch], Float[Array, "B A V"]]
    """Of the A tokens of each answer, each from all tokens before it. Other places of a sequence have none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken:
    """Cross entropy of each token of an answer, the one that ends it included. Reads target_BA and `Asked`.

    The loss is the mean over all answer tokens of the batch: a long caption weighs more than a short one. It does not
    depend on the parts that a batch is computed in.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(
        self, networks: CaptionerNetworks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int = 0
    ) -> Losses:
        target_BA = batch["target_BA"]
        logits_BAV = networks.logits(batch)
        counted_BA = target_BA >= 0
        loss_BA = self.loss(logits_BAV, target_BA)
        right_BA = counted_BA & (jnp.argmax(logits_BAV, axis=-1) == target_BA)
        count_B, right_B = jnp.sum(counted_BA, axis=1), jnp.sum(right_BA, axis=1)
        count = jnp.maximum(jnp.sum(count_B), 1)
        return Losses(
            loss=jnp.sum(loss_BA) / count,
            error_B=jnp.sum(loss_BA, axis=1) / jnp.maximum(count_B, 1),
            t_B=None,
            metrics={"token_accuracy": jnp.sum(right_B) / count},
            samples={"count_B": count_B, "right_B": right_B},
            weight=count.astype(jnp.float32),
        )

    def loss(self, logits_BAV: Float[Array, "B A V"], target_BA: Int[Array, "B A"]) -> Float[Array, "B A"]:
        """The loss of every token, 0 where the target is padding (below 0)."""
        target_BA1 = jnp.maximum(target_BA, 0)[..., None]
        of_target_BA = jnp.take_along_axis(logits_BAV, target_BA1, axis=-1)[..., 0]
        return jnp.where(target_BA >= 0, jax.nn.logsumexp(logits_BAV, axis=-1) - of_target_BA, 0.0)

    def summary(self, samples: Mapping[str, np.ndarray], dimensions: Sequence[str]) -> dict[str, float]:
        """The share of answer tokens that are the most probable ones, over samples of many batches."""
        return {"token_accuracy": float(samples["right_B"].sum() / max(samples["count_B"].sum(), 1))}
