"""Groups of users who interact with similar items."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds


def cluster_users(
    matrix: sparse.csr_array, clusters: int, dimensions: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """k-means on the scaled left singular vectors of a matrix, each row scaled to length 1.

    Parameters
    ----------
    matrix
        ``(n_users, n_items)``, at least 2 × 2, a one for each interaction.
    clusters
        How many, at most the number of users with an interaction.
    dimensions
        Singular vectors used, at most; the matrix may allow fewer.
    rng
        Chooses the users whose places the clusters start from.

    Returns
    -------
    array
        ``(n_users,)`` cluster of each user, numbered from 0 by falling size; -1 for users
        without interactions. A cluster may run empty, so that there are fewer.
    """
    present = np.flatnonzero(np.diff(matrix.indptr))
    # A start of our own makes the solver reproducible, whatever SciPy's version.
    start = rng.standard_normal(min(matrix.shape))
    left, values, _ = svds(matrix, k=min(dimensions, min(matrix.shape) - 1), v0=start)
    places = (left * values)[present]
    places /= np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12)
    centres = places[rng.choice(len(places), size=clusters, replace=False)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        labels = kmeans2(places, centres, iter=50, minit="matrix")[1]
    by_size = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    rank = np.empty(clusters, dtype=np.int64)
    rank[by_size] = np.arange(clusters)
    numbers = np.full(matrix.shape[0], -1, dtype=np.int64)
    numbers[present] = rank[labels]
    return numbers
