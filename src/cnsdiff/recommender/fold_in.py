r"""The fold-in of equation (34): a user's vector from their whole history, without training.

Items stay as they were trained. The vectors of users nearly are a linear map of their histories::

    F(H_u) = W Σ_{i in H_u} z_i / |H_u|^γ

``W`` is the least-squares fit to the trained vectors of all users, drawn towards a multiple of the
identity by a ridge of 3% of the mean square of a coordinate; ``γ`` is 0, 1/2 or 1, whichever fits
best. Where all trained vectors have one length, as those of cosine scores do, ``F`` has it, too.

The map follows from a model alone, whatever was minimised, and holds for two models side by side or
with content. It ranks about as well as minimising the objective anew for each user, or better
(``docs/research-log.md``, 15): its few parameters are fitted to all users together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

#: Of the mean square of a coordinate; users that the map is fitted to, and those mapped at a time.
RIDGE, FITTED_TO, AT_ONCE = 0.03, 20_000, 8192
#: Of ``γ``.
EXPONENTS = (0.0, 0.5, 1.0)
#: Lengths that differ by no more than this share are one.
_SAME = 1e-4


@dataclass(frozen=True)
class HistoryMap:
    """The map of histories to vectors of users.

    Attributes
    ----------
    weights
        ``(d, d)`` float32, the transpose of ``W``.
    exponent
        ``γ``.
    length
        That of all vectors, or 0 if they differ.
    """

    weights: Tensor
    exponent: float
    length: float

    @classmethod
    def fit(cls, users: Tensor, items: Tensor, train: csr_array) -> Self:
        """The map that makes trained vectors out of training pairs.

        Parameters
        ----------
        users, items
            ``(U, d)`` and ``(I, d)``.
        train
            ``(U, I)``.
        """
        rows = np.flatnonzero(np.diff(train.indptr))
        if not len(rows):
            return cls(torch.eye(users.shape[1]), 0.0, 0.0)
        rows = rows[:: -(-len(rows) // FITTED_TO)]  # evenly spaced, the same ones every time
        histories, vectors = train[rows], users[torch.from_numpy(rows)].double()
        fits = []
        for exponent in EXPONENTS:
            features = _features(histories, items, exponent).double()
            weights = _least_squares(features, vectors)
            fits.append((float((features @ weights - vectors).square().sum()), exponent, weights))
        _, exponent, weights = min(fits, key=lambda fit: fit[0])
        lengths = vectors.norm(dim=1)
        mean = float(lengths.mean())
        same = float((lengths - mean).abs().max()) <= _SAME * mean
        return cls(weights.float(), exponent, mean if same else 0.0)

    def __call__(self, histories: csr_array, items: Tensor) -> Tensor:
        """``(n, d)`` float32 vectors for histories ``(n, I)`` of ones; of an empty one zeros."""
        vectors = torch.empty(histories.shape[0], len(self.weights))
        for start in range(0, len(vectors), AT_ONCE):
            some = histories[start : start + AT_ONCE]
            part = _features(some, items, self.exponent) @ self.weights
            if self.length:
                part = self.length * torch.nn.functional.normalize(part, dim=1)
            vectors[start : start + AT_ONCE] = part
        return vectors


def _features(histories: csr_array, items: Tensor, exponent: float) -> Tensor:
    """``(n, d)`` ``Σ_{i in H} z_i / |H|^γ``."""
    counts = torch.from_numpy(np.diff(histories.indptr)).clamp(min=1).float()
    return torch.from_numpy(histories @ items.numpy()) / counts[:, None] ** exponent


def _least_squares(features: Tensor, vectors: Tensor) -> Tensor:
    """``(d, d)`` float64, by which features ``(n, d)`` are nearest to vectors ``(n, d)``."""
    gram, product = features.T @ features, features.T @ vectors
    energy = gram.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    towards = product.diagonal().mean() / energy
    ridge = RIDGE * energy * torch.eye(len(gram), dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(gram + ridge, product + towards * ridge)
    return weights


def joined(histories: csr_array, since: csr_array) -> csr_array:
    """``(n, I)`` the pairs of both as ones, each once; ``since`` may repeat some."""
    ones = np.ones(since.nnz, dtype=np.float32)
    both = csr_array(histories + csr_array((ones, since.indices, since.indptr), shape=since.shape))
    both.sum_duplicates()
    both.data[:] = 1.0
    return both


def grown(histories: csr_array, whole: csr_array) -> NDArray[np.int64]:
    """Numbers of the rows that have more in ``whole`` than in ``histories``."""
    rows = np.flatnonzero(np.diff(whole.indptr) > np.diff(histories.indptr))
    return rows.astype(np.int64)
