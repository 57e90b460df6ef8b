"""Training of judges on what people preferred (report, sections 3.3.2, 5.1; losses: arXiv 2508.03789, 2501.13918).

A sample is two videos (or pictures) of one caption and which of them is better, or one video and its ratings; each in
several dimensions, of which some may lack. docs/objectives.md has the formulas. Losses are means over all samples and
dimensions, those that lack count as 0: so the parts of a batch add up to the batch whatever lacks in each.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.array_types import Array, Float, Int, PRNGKeyArray
from lcv_jax.bounds import Bounds, Count, check_fields
from lcv_jax.objectives.networks import Batch, Losses

FIRST, SECOND, SAME, MISSING = 1, -1, 0, 22
"""Labels of a pair in a dimension, as the published code numbers them."""


class JudgeNetworks(NamedTuple):
    """The judge that learns."""

    scores: Callable[[Batch], Float[Array, "B V outputs"]]
    """Numbers of the V videos of each sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairPreference:
    """Negative log-likelihood of which of two videos is better. Reads label_BD and the judge's arguments."""

    needs: ClassVar[frozenset[str]] = frozenset()
    task: ClassVar[str] = "pairs"

    model: Literal["bradley_terry", "bradley_terry_with_ties", "uncertainty"] = "bradley_terry_with_ties"
    """How scores become probabilities. With ties: Rao and Kupper (1967), as VideoReward was trained. Uncertainty:
    HPSv3's, of a mean and a standard deviation for each score. The two without ties pass over pairs that are alike."""
    tie_factor: Annotated[float, Bounds(above=1, most=1000)] = 5.0
    """How much two equal scores speak for a tie, whose probability then is (tie_factor - 1) / (tie_factor + 1)."""
    num_draws: Count = 1000
    """Of uncertainty: draws of the difference of two scores."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(
        self, networks: JudgeNetworks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int = 0
    ) -> Losses:
        label_BD, scores_BVO = batch["label_BD"], networks.scores(batch)
        noise_BN = None
        if self.model == "uncertainty":
            noise_BN = jax.random.normal(key, (label_BD.shape[0], self.num_draws))
        loss_BD = self.loss(scores_BVO[:, 0], scores_BVO[:, 1], label_BD, noise_BN)
        D = label_BD.shape[1]
        difference_BD = scores_BVO[:, 0, :D] - scores_BVO[:, 1, :D]
        decided_BD = is_decided(label_BD)
        right_BD = decided_BD & (jnp.sign(difference_BD) == label_BD)
        return Losses(
            loss=jnp.mean(loss_BD),
            error_B=jnp.mean(loss_BD, axis=1),
            t_B=None,
            metrics={"accuracy": jnp.sum(right_BD) / jnp.maximum(jnp.sum(decided_BD), 1)},
            samples={"difference_BD": difference_BD, "label_BD": label_BD},
        )

    def loss(
        self,
        first_BO: Float[Array, "B outputs"],
        second_BO: Float[Array, "B outputs"],
        label_BD: Int[Array, "B D"],
        noise_BN: Float[Array, "B draws"] | None = None,
    ) -> Float[Array, "B D"]:
        """The loss of every sample and dimension, 0 where it has no label that counts.

        Args:
            first_BO: scores of the first video; of uncertainty mean and log standard deviation.
            second_BO: of the second.
            label_BD: `FIRST`, `SECOND`, `SAME` or `MISSING`.
            noise_BN: of uncertainty: standard normal draws.
        """
        D = label_BD.shape[1]
        difference_BD = first_BO[:, :D] - second_BO[:, :D]
        decided_BD = is_decided(label_BD)
        better_BD = jnp.where(decided_BD, label_BD * difference_BD, difference_BD)  # the better one's, less the other's
        if self.model == "bradley_terry":
            return jnp.where(decided_BD, jax.nn.softplus(-better_BD), 0.0)
        if self.model == "uncertainty":
            assert noise_BN is not None
            spread_B1 = jnp.sqrt(jnp.exp(first_BO[:, 1:]) ** 2 + jnp.exp(second_BO[:, 1:]) ** 2)
            drawn_BN = noise_BN * spread_B1 + better_BD
            mean_B1 = jnp.mean(jax.nn.softplus(-drawn_BN), axis=1, keepdims=True)
            return jnp.where(decided_BD, mean_B1, 0.0)
        log_k = math.log(self.tie_factor)
        win_BD = jax.nn.softplus(log_k - better_BD)
        tie_BD = win_BD + jax.nn.softplus(log_k + better_BD) - math.log(self.tie_factor**2 - 1)
        return jnp.where(decided_BD, win_BD, jnp.where(label_BD == SAME, tie_BD, 0.0))

    def check(self, outputs: Sequence[str], dimensions: Sequence[str]) -> None:
        """Raises ValueError for a judge whose outputs this cannot train."""
        if self.model == "uncertainty" and (len(dimensions) != 1 or len(outputs) != 2):
            raise ValueError(
                "objective.model uncertainty needs a judge with a mean and a standard deviation (hpsv3 with 2 "
                f"outputs); this one has {', '.join(outputs)}: choose bradley_terry or bradley_terry_with_ties"
            )

    def summary(self, samples: Mapping[str, np.ndarray], dimensions: Sequence[str]) -> dict[str, float]:
        """Accuracy in each dimension, over samples of many batches: on decided pairs, and with ties."""
        found = {}
        for place, name in enumerate(dimensions):
            difference_B, label_B = samples["difference_BD"][:, place], samples["label_BD"][:, place]
            decided_B = np.abs(label_B) == 1
            if decided_B.any():
                right_B = np.sign(difference_B[decided_B]) == label_B[decided_B]
                found[f"{name}_accuracy"] = float(np.mean(right_B))
            if (label_B == SAME).any():
                found[f"{name}_accuracy_with_ties"] = accuracy_with_ties(difference_B, label_B)
        return found


def is_decided(label_BD: Int[Array, "B D"]) -> Any:
    """Which labels say that one video is better."""
    return jnp.abs(label_BD) == 1


def accuracy_with_ties(difference_B: Float[np.ndarray, " B"], label_B: Int[np.ndarray, " B"]) -> float:
    """The share of labelled pairs that are called rightly, where differences within a threshold are called the same.

    The threshold is the best one for these pairs (Deutsch et al., arXiv 2305.14324).
    """
    known_B = label_B != MISSING
    difference_B, label_B = difference_B[known_B], label_B[known_B]
    order = np.argsort(np.abs(difference_B))
    right_B = (np.sign(difference_B) == label_B)[order] & (label_B != SAME)[order]
    same_B = (label_B == SAME)[order]
    # With the n smallest differences called the same.
    ties = np.concatenate([[0], np.cumsum(same_B)])
    wins = np.sum(right_B) - np.concatenate([[0], np.cumsum(right_B)])
    sizes = np.abs(difference_B)[order]
    allowed = np.concatenate([[True], sizes[1:] > sizes[:-1], [True]])  # equal differences are called alike
    return float(np.max((ties + wins)[allowed]) / max(len(label_B), 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatingRegression:
    """Squared error to people's ratings. Reads rating_BD, NaN where it lacks, and the judge's arguments."""

    needs: ClassVar[frozenset[str]] = frozenset()
    task: ClassVar[str] = "ratings"

    centre: Annotated[float, Bounds(least=-1e6, most=1e6)] = 3.0
    """Subtracted from ratings, the middle of their scale: a judge's numbers begin near 0."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(
        self, networks: JudgeNetworks, batch: Batch, key: PRNGKeyArray, *, num_cond_latents: int = 0
    ) -> Losses:
        rating_BD = batch["rating_BD"]
        score_BD = networks.scores(batch)[:, 0, : rating_BD.shape[1]]
        loss_BD = self.loss(score_BD, rating_BD)
        return Losses(
            loss=jnp.mean(loss_BD),
            error_B=jnp.mean(loss_BD, axis=1),
            t_B=None,
            samples={"score_BD": score_BD, "rating_BD": rating_BD},
        )

    def loss(self, score_BD: Float[Array, "B D"], rating_BD: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """The squared error of every sample and dimension, 0 where there is no rating."""
        known_BD = jnp.isfinite(rating_BD)
        target_BD = jnp.where(known_BD, rating_BD, self.centre) - self.centre
        return jnp.where(known_BD, jnp.square(score_BD - target_BD), 0.0)

    def check(self, outputs: Sequence[str], dimensions: Sequence[str]) -> None:
        """Every judge can be trained on ratings."""

    def summary(self, samples: Mapping[str, np.ndarray], dimensions: Sequence[str]) -> dict[str, float]:
        """Pearson's correlation and root-mean-square error in each dimension, over samples of many batches."""
        found = {}
        for place, name in enumerate(dimensions):
            score_B, rating_B = samples["score_BD"][:, place], samples["rating_BD"][:, place]
            known_B = np.isfinite(rating_B)
            score_B, rating_B = score_B[known_B], rating_B[known_B]
            if len(rating_B) > 1:
                found[f"{name}_rmse"] = float(np.sqrt(np.mean(np.square(score_B + self.centre - rating_B))))
                if np.ptp(score_B) > 0 and np.ptp(rating_B) > 0:
                    found[f"{name}_correlation"] = float(np.corrcoef(score_B, rating_B)[0, 1])
        return found
