"""The captions of a library as a map (report, figure 4): clusters as discs as large as their shares, none over another.

Discs lie where multidimensional scaling puts their centres, and are pushed apart. Within its disc a caption lies in the
direction in which it differs from the centre.
"""

import numpy as np

from lcv_jax.array_types import Float, Int

_STEPS = 200
"""Of scaling."""
_PUSHES = 500
_GAP = 1.05
"""Between discs, as a factor of their radii."""


def place_captions(
    vectors_ND: Float[np.ndarray, "N D"],
    labels_N: Int[np.ndarray, " N"],
    centres_KD: Float[np.ndarray, "K D"],
    seed: int,
) -> Float[np.ndarray, "N 2"]:
    """Places between -1 and 1.

    Args:
        vectors_ND: of captions.
        labels_N: their clusters.
        centres_KD: of the clusters.
        seed: of where scaling begins.
    """
    radii_K = np.sqrt(np.bincount(labels_N, minlength=len(centres_KD)) / len(labels_N))
    discs_K2 = push_apart(_spread(centres_KD, seed), radii_K)
    offsets_N2 = _offsets(vectors_ND - centres_KD[labels_N])
    places_N2 = discs_K2[labels_N] + radii_K[labels_N, None] * offsets_N2
    return places_N2 / max(1.0, float(np.abs(places_N2).max()))


def _spread(centres_KD: np.ndarray, seed: int) -> np.ndarray:
    """Centres on a plane, as far from each other as the vectors are, in so far as a plane has room (SMACOF)."""
    wanted_KK = np.linalg.norm(centres_KD[:, None] - centres_KD, axis=-1)
    places_K2 = np.random.default_rng(seed).normal(size=(len(centres_KD), 2))
    for _ in range(_STEPS):
        distance_KK = np.maximum(np.linalg.norm(places_K2[:, None] - places_K2, axis=-1), 1e-9)
        pull_KK = -wanted_KK / distance_KK
        np.fill_diagonal(pull_KK, 0)
        np.fill_diagonal(pull_KK, -pull_KK.sum(1))
        places_K2 = pull_KK @ places_K2 / len(centres_KD)
    return places_K2


def push_apart(places_K2: Float[np.ndarray, "K 2"], radii_K: Float[np.ndarray, " K"]) -> Float[np.ndarray, "K 2"]:
    """Moves discs until none overlaps, in the end by enlarging all distances."""
    places_K2 = np.array(places_K2, float)
    wanted_KK = _GAP * (radii_K[:, None] + radii_K)
    np.fill_diagonal(wanted_KK, 0)
    for _ in range(_PUSHES):
        apart_KK2 = places_K2[:, None] - places_K2
        distance_KK = np.maximum(np.linalg.norm(apart_KK2, axis=-1), 1e-6)
        overlap_KK = np.maximum(wanted_KK - distance_KK, 0)
        if overlap_KK.max() < 1e-3:
            break
        places_K2 = places_K2 + 0.3 * (apart_KK2 / distance_KK[..., None] * overlap_KK[..., None]).sum(1)
    distance_KK = np.linalg.norm(places_K2[:, None] - places_K2, axis=-1)
    np.fill_diagonal(distance_KK, np.inf)
    return places_K2 * max(1.0, float((wanted_KK / distance_KK).max(initial=0)))


def _offsets(residual_ND: np.ndarray) -> np.ndarray:
    """What distinguishes captions from their centres, on two axes, within the unit disc."""
    if residual_ND.shape[1] < 2:
        residual_ND = np.pad(residual_ND, ((0, 0), (0, 2 - residual_ND.shape[1])))
    _, axes_DD = np.linalg.eigh(residual_ND.T @ residual_ND)
    offsets_N2 = residual_ND @ axes_DD[:, -2:]
    lengths_N = np.linalg.norm(offsets_N2, axis=1)
    # By rank, so that captions fill the disc evenly.
    ranks_N = np.argsort(np.argsort(lengths_N, kind="stable"), kind="stable")
    radius_N = np.sqrt((ranks_N + 0.5) / len(ranks_N))
    return offsets_N2 / np.maximum(lengths_N, 1e-9)[:, None] * radius_N[:, None]
