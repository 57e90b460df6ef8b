"""How captions are distributed (report, section 2.2): vectors, clusters with names, density, weights inverse to it.

Nothing compares all captions with all: k-means takes small batches, and density is estimated against a sample.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.array_types import Float, Int
from lcv_jax.extras import import_extra

_PURPOSE = "the distribution of captions needs"
_MOST_WORDS = 2**16
"""Of the vocabulary."""
_DIMENSIONS = 64
"""Of vectors made of words."""
_CLIPS_A_CLUSTER = 10
"""Clusters of n clips are sqrt(n / 10) in number, if the user does not say."""
_MOST_CLUSTERS = 200
_MOST_NAMED = 200_000
"""Captions whose words are counted to name clusters."""
_ROWS = 4096
"""Captions that are compared with the sample at once."""
_LEAST_SIMILARITY = 0.05
"""Captions of a lower cosine are not alike, whatever clusters are like."""
_ROUNDING = 1e-4
"""Of the cosine of equal captions."""
_WORD = r"[^\W\d_]{2,}"


def word_vectors(captions: Sequence[str]) -> Any:
    """Unit vectors of captions by their words (TF-IDF), a sparse matrix N V; one without words is zero."""
    text = import_extra("sklearn.feature_extraction.text", "curate", _PURPOSE)
    counter = text.TfidfVectorizer(
        sublinear_tf=True, stop_words="english", token_pattern=_WORD, max_features=_MOST_WORDS,
        min_df=1 if len(captions) < 1000 else 2, dtype=np.float32,
    )  # fmt: skip
    return counter.fit_transform(captions)


def reduced(vectors: Any, seed: int) -> Float[np.ndarray, "N D"]:
    """Vectors of words in few dimensions, for clusters: a truncated SVD, each of length 1."""
    if vectors.shape[1] <= _DIMENSIONS:
        return unit(vectors.toarray())
    decomposition = import_extra("sklearn.decomposition", "curate", _PURPOSE)
    return unit(decomposition.TruncatedSVD(_DIMENSIONS, random_state=seed).fit_transform(vectors))


def unit(vectors_ND: np.ndarray) -> Float[np.ndarray, "N D"]:
    """Vectors of length 1; zero stays zero."""
    lengths_N1 = np.linalg.norm(vectors_ND.astype(np.float32), axis=1, keepdims=True)
    return (vectors_ND / np.maximum(lengths_N1, 1e-12)).astype(np.float32)


def find_clusters(
    vectors_ND: Float[np.ndarray, "N D"], count: int, seed: int
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "K D"]]:
    """The cluster of each caption, the largest first, and the clusters' centres.

    Args:
        vectors_ND: of captions.
        count: of clusters, at most; 0: by the number of captions.
        seed: of k-means.
    """
    cluster = import_extra("sklearn.cluster", "curate", _PURPOSE)
    wanted = count or min(_MOST_CLUSTERS, max(1, round((len(vectors_ND) / _CLIPS_A_CLUSTER) ** 0.5)))
    some_ND = vectors_ND[:: max(1, len(vectors_ND) // (20 * wanted))]
    distinct = len(np.unique(some_ND.round(4), axis=0))
    means = cluster.MiniBatchKMeans(min(wanted, distinct), batch_size=4096, n_init=10, random_state=seed)
    labels_N = means.fit_predict(vectors_ND)
    counts_K = np.bincount(labels_N, minlength=len(means.cluster_centers_))
    order_K = np.argsort(-counts_K, kind="stable")[: np.count_nonzero(counts_K)]
    places_K = np.empty(len(counts_K), int)
    places_K[order_K] = np.arange(len(order_K))
    return places_K[labels_N], means.cluster_centers_[order_K]


def density(vectors: Any, labels_N: Int[np.ndarray, " N"], sample: int, seed: int) -> Float[np.ndarray, " N"]:
    """The share of other captions that are like each: as similar as two captions of one cluster are on average.

    Args:
        vectors: of captions, N D of length 1, dense or sparse. Not reduced ones: an SVD keeps what tells captions of
            large clusters apart and drops it for small ones, which then look dense.
        labels_N: their clusters.
        sample: captions that all are compared with; of a smaller library all.
        seed: of the sample.
    """
    N = vectors.shape[0]
    chosen_M = np.sort(np.random.default_rng(seed).permutation(N)[:sample])
    some_MD, clusters_M = vectors[chosen_M], labels_N[chosen_M]
    limit = max(_similarity_within(some_MD, clusters_M) - _ROUNDING, _LEAST_SIMILARITY)
    counts_N = np.empty(N)
    for start in range(0, N, _ROWS):
        similarity_BM = vectors[start : start + _ROWS] @ some_MD.T
        counts_N[start : start + _ROWS] = np.asarray((similarity_BM >= limit).sum(1)).ravel()
    others_N = np.full(N, len(chosen_M))
    others_N[chosen_M] -= 1
    counts_N[chosen_M] -= 1  # a caption is like itself, which says nothing
    return np.maximum(counts_N, 0) / np.maximum(others_N, 1)


def _similarity_within(vectors_MD: Any, clusters_M: np.ndarray) -> float:
    """The mean cosine between a caption and the others of its cluster; 1 where every cluster has a single one."""
    sparse: Any = import_extra("scipy.sparse", "curate", _PURPOSE)
    M, counts_K = len(clusters_M), np.bincount(clusters_M)
    member_KM = sparse.csr_matrix((np.ones(M, np.float32), (clusters_M, np.arange(M))), (len(counts_K), M))
    sums_KD, shared_M = member_KM @ vectors_MD, counts_K[clusters_M] > 1
    totals_K = np.asarray(sums_KD.power(2).sum(1) if sparse.issparse(sums_KD) else np.square(sums_KD).sum(1)).ravel()
    pairs_K = totals_K - counts_K  # of each cluster, the sum over ordered pairs of different captions
    if not shared_M.any():
        return 1.0
    means_K = pairs_K / np.maximum(counts_K * (counts_K - 1), 1)
    return float(means_K[clusters_M][shared_M].mean())


def inverse_weights(density_N: Float[np.ndarray, " N"], most: float) -> Float[np.ndarray, " N"]:
    """Weights of mean 1: the median density by a caption's own, at most `most` before they are scaled."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weights_N = np.median(density_N) / density_N
    weights_N = np.minimum(np.nan_to_num(weights_N, nan=1.0, posinf=most), most)
    return weights_N / weights_N.mean() if weights_N.sum() else np.ones(len(density_N))


def telling_words(captions: Sequence[str], labels_N: Int[np.ndarray, " N"], count: int) -> list[list[str]]:
    """The words that tell each cluster from the others, by TF-IDF of clusters (Grootendorst 2022), the best first."""
    K = int(labels_N.max()) + 1
    text = import_extra("sklearn.feature_extraction.text", "curate", _PURPOSE)
    sparse: Any = import_extra("scipy.sparse", "curate", _PURPOSE)
    counter = text.CountVectorizer(
        stop_words="english", token_pattern=_WORD, max_features=_MOST_WORDS, binary=True, dtype=np.float32
    )
    step = max(1, len(captions) // _MOST_NAMED)
    captions, labels_N = captions[::step], labels_N[::step]
    matrix_NV = counter.fit_transform(captions)
    N = len(labels_N)
    member_KN = sparse.csr_matrix((np.ones(N, np.float32), (labels_N, np.arange(N))), (K, N))
    found_KV = np.asarray((member_KN @ matrix_NV).todense())
    share_KV = found_KV / np.maximum(found_KV.sum(1, keepdims=True), 1)
    score_KV = share_KV * np.log(1 + found_KV.sum() / K / np.maximum(found_KV.sum(0), 1e-9))
    words = counter.get_feature_names_out()
    best_KC = np.argsort(-score_KV, axis=1, kind="stable")[:, :count]
    return [[str(words[v]) for v in best_C if row[v] > 0] for row, best_C in zip(score_KV, best_KC, strict=True)]
