"""The user-item graph as a matrix, normalised by degrees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cnsdiff.data.positives import Positives


def normalised_matrix(positives: Positives) -> sparse.csr_array:
    """``R̂ = D_U^-1/2 R D_I^-1/2``, ``(U, I)`` float32; rows without positives stay empty.

    An item's degree is its count, which may be over more users than the rows are.
    """
    ratings = positives.matrix
    user_degree: NDArray[np.float32] = ratings.sum(axis=1)
    item_degree: NDArray[np.float32] = positives.item_counts.cpu().numpy().astype(np.float32)
    coo = ratings.tocoo()
    rows, columns = coo.coords
    coo.data = (1.0 / (user_degree[rows] * item_degree[columns]) ** 0.5).astype("float32")
    return coo.tocsr()
