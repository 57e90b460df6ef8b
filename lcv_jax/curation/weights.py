"""Weights of selected clips: how often training draws each, and which are drawn where a recipe limits their number.

A sample comes from the camera's subset with probability `camera_share`, from that of styles with `style_share`, else
from all clips. Within a subset every movement or style is as likely, within it every clip; among all clips, each in
proportion to its base weight. A clip's weight is the probability to be drawn so, relative to the mean.
"""

from collections.abc import Sequence

import numpy as np

from lcv_jax.array_types import Float, Int
from lcv_jax.curation.recipe import Recipe


def mixed_weights(
    base_N: Float[np.ndarray, " N"], subsets: Sequence[tuple[float, Sequence[str | None]]], most: float
) -> Float[np.ndarray, " N"]:
    """Weights of mean 1, but for what `most` cuts.

    Args:
        base_N: among all clips.
        subsets: of each its share of the samples, and every clip's class; None: the clip does not belong to it.
        most: times the mean.

    Raises:
        ValueError: a base weight is negative, or all are 0.
    """
    if base_N.min() < 0 or base_N.sum() == 0:
        raise ValueError("weights must be at least 0, one of them above")
    drawn_N = (1 - sum(share for share, _ in subsets)) * base_N / base_N.sum()
    for share, classes in subsets:
        names, counts = np.unique([name for name in classes if name is not None], return_counts=True)
        of_class = dict(zip(names.tolist(), (share / len(names) / counts).tolist(), strict=True))
        drawn_N = drawn_N + np.array([0.0 if name is None else of_class[name] for name in classes])
    return np.minimum(drawn_N * len(drawn_N), most)


def draw(weights_N: Float[np.ndarray, " N"], count: int, seed: int) -> Int[np.ndarray, " M"]:
    """Places of clips drawn without replacement in proportion to their weights, in ascending order.

    Those with the largest u^(1/weight) are taken, u uniform (Efraimidis and Spirakis 2006); weight 0 is never drawn.
    """
    uniform_N = np.random.default_rng(seed).random(len(weights_N))
    with np.errstate(divide="ignore"):
        keys_N = np.log(uniform_N) / weights_N
    order_N = np.argsort(-keys_N, kind="stable")
    return np.sort(order_N[: min(count, int(np.count_nonzero(weights_N)))])


def subset_classes(
    recipe: Recipe, cameras: Sequence[str | None], confidences: Sequence[float | None], styles: Sequence[str | None]
) -> list[tuple[float, list[str | None]]]:
    """The subsets of a recipe, as `mixed_weights` takes them.

    Raises:
        ValueError: one has no clips.
    """
    moving = [
        name if name != "static" and (confidence or 0) >= recipe.least_camera_confidence else None
        for name, confidence in zip(cameras, confidences, strict=True)
    ]
    found = []
    for field, classes in (("camera_share", moving), ("style_share", list(styles))):
        share = getattr(recipe, field)
        if share and not any(classes):
            raise ValueError(f"{field} = {share:g}, but no clip that the rules keep belongs to that subset")
        found += [(share, classes)] if share else []
    return found
