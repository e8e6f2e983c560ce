"""Initial embeddings: Xavier-uniform, or the truncated SVD of the normalised adjacency.

``R̂ ≈ P Σ Qᵀ`` of rank d is the best approximation of that rank in the Frobenius norm (Eckart &
Young 1936), and what a low-pass filter keeps of the graph. Tables ``P Σ^1/2`` and ``Q Σ^1/2`` have
it as their inner product, up to scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from cnsdiff.data.positives import Positives

Matrix = NDArray[np.float64]

#: Largest relative residual ``‖R̂ᵀp - σq‖ / σ`` of a triplet.
TOLERANCE = 1e-3
#: Singular values below count as zero: their squares, of at most 1, are rounded at 1e-15.
NEGLIGIBLE = 1e-5
#: A row whose norm is below this share of the mean is one that no triplet reaches.
UNREACHED = 1e-4
#: Largest width of a block. Copies of a repeated singular value (each component of the graph has
#: a 1) are found up to this number.
BLOCK = 64
#: Blocks between tests of convergence.
CHECK_EVERY = 4
#: The search ends with so many vectors, or four times those wanted if that is more. Where they do
#: not tell the leading directions from the next, the spectrum is flat, and no start much better.
MOST_VECTORS = 1024

#: ``(found, most)``: how many vectors a start has searched, and at most will.
Listener = Callable[[int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, a spectral start tells ``listener`` of each block of vectors.

    Backbones are built by classes of anybody, whose constructors know of no listener.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


#: By a fingerprint, the tables of the start found last and the generator's state after it.
_found: ContextVar[dict[bytes, tuple[Tensor, Tensor, Tensor]] | None] = ContextVar(
    "found", default=None
)


@contextmanager
def remembering() -> Iterator[None]:
    """Within the block, the start that was found last is not searched again.

    The two models of a stack begin alike, and on a large log the search takes minutes.
    """
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def xavier_tables(
    positives: Positives, dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Xavier-uniform tables of users ``(U, dim)`` and items ``(I, dim)``."""
    users, items = (torch.empty(rows, dim) for rows in (positives.n_users, positives.n_items))
    for table in (users, items):
        nn.init.xavier_uniform_(table, generator=generator)
    return users, items


def spectral_tables(
    positives: Positives, dim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Tables of users ``(U, dim)`` and items ``(I, dim)`` from the leading singular triplets.

    They take the place of entries of :func:`xavier_tables`, with one factor for both tables that
    keeps the mean norm of rows, so that learning rates keep their meaning. Xavier's entries remain
    in columns beyond the rank of ``R̂``, where zeros would have no gradient, and in rows that no
    triplet reaches, such as those without positives, where a cosine would have no direction.
    ``generator`` (on the CPU) gives these entries and the start of the iteration.
    """
    found = _found.get()
    if found is None:
        return _search(positives, dim, generator)
    key = _fingerprint(positives, dim, generator)
    if key not in found:
        found.clear()  # not two at once
        found[key] = *_search(positives, dim, generator), generator.get_state()
    users, items, state = found[key]
    generator.set_state(state)
    return users.clone(), items.clone()


def _fingerprint(positives: Positives, dim: int, generator: torch.Generator) -> bytes:
    """What a start depends on."""
    matrix, digest = positives.matrix, hashlib.sha256()
    counts = positives.item_counts.cpu().numpy()
    for part in (matrix.indptr, matrix.indices, counts, generator.get_state().numpy()):
        digest.update(np.ascontiguousarray(part).data)
    digest.update(repr((matrix.shape, dim)).encode())
    return digest.digest()


def _search(positives: Positives, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    tables = xavier_tables(positives, dim, generator)
    left, sigma, right = leading_triplets(positives.normalised_matrix(), dim, generator)
    rank = len(sigma)
    if rank == 0:
        return tables
    # One float64 table at a time: on a large log they are the most that training has in memory.
    scale = np.sqrt(sigma)
    sides = [torch.from_numpy(side * scale).float() for side in (left, right)]
    norms = torch.cat([side.norm(dim=1) for side in sides])
    reached = norms > UNREACHED * norms.mean()
    start = torch.cat([table[:, :rank].norm(dim=1) for table in tables])
    factor = start[reached].mean() / norms[reached].mean()
    of_tables = torch.split(reached, [len(table) for table in tables])
    for table, side, rows in zip(tables, sides, of_tables, strict=True):
        table[:, :rank] = torch.where(rows[:, None], side.mul_(factor), table[:, :rank])
    return tables


def leading_triplets(
    matrix: sparse.csr_array, rank: int, generator: torch.Generator
) -> tuple[Matrix, Matrix, Matrix]:
    """The largest singular values of a matrix ``(U, I)`` of norm 1 and their vectors.

    Block Krylov iteration (Musco & Musco 2015) on ``AᵀA``, with full reorthogonalisation, until
    each residual is below :data:`TOLERANCE`, or there are :data:`MOST_VECTORS`. ARPACK
    (``scipy.sparse.linalg.svds``) is faster, but starts from one vector: of a disconnected graph it
    misses copies of the singular value 1, and where it breaks down it goes on from numbers that are
    not seeded. A block finds the copies.

    Returns
    -------
    left, sigma, right
        ``(U, r)``, ``(r,)`` falling, ``(I, r)``: r is ``rank``, or less if fewer singular values
        exceed :data:`NEGLIGIBLE`. The largest absolute entry of each column of ``right`` is
        positive.
    """
    wide = matrix.astype(np.float64)
    turned = wide.shape[0] < wide.shape[1]
    if turned:
        wide = wide.T.tocsr()
    other = wide.T.tocsr()
    sigma, inner = _leading_eigenpairs(wide, other, min(rank, wide.shape[1]), generator)
    outer = wide @ inner
    outer /= sigma
    left, right = (inner, outer) if turned else (outer, inner)
    largest = np.abs(right).argmax(axis=0)
    signs = np.sign(right[largest, np.arange(len(sigma))])
    left *= signs
    right *= signs
    return left, sigma, right


def _leading_eigenpairs(
    matrix: sparse.csr_array, transpose: sparse.csr_array, rank: int, generator: torch.Generator
) -> tuple[Matrix, Matrix]:
    """Roots of the largest eigenvalues of ``AᵀA``, falling, and their vectors ``(n, r)``."""
    n = matrix.shape[1]
    width = min(rank, BLOCK)
    tell, most = _listener.get(), min(n, max(MOST_VECTORS, 4 * rank))
    # The end is seen at a test of convergence. Memory is taken as the columns fill.
    room: Matrix = np.empty((n, min(n, most + CHECK_EVERY * width)), order="F")
    basis = room[:, :0]
    projected: Matrix = np.empty((0, 0))
    block = _orthonormal(_normal(n, width, generator), basis)
    for depth in range(1, n + 1):
        width = block.shape[1]
        size = basis.shape[1] + width
        room[:, size - width : size] = block
        basis = room[:, :size]
        if tell is not None:
            tell(min(size, most), most)
        image: Matrix = transpose @ (matrix @ block)
        coefficients = basis.T @ image
        projected = np.pad(projected, (0, width))
        projected[:, -width:] = coefficients  # the upper triangle is all that `eigh` reads
        block, factor = np.linalg.qr(image - basis @ coefficients)
        if size == n or (size >= rank and depth % CHECK_EVERY == 0):
            values, vectors = scipy.linalg.eigh(
                projected, lower=False, subset_by_index=(size - rank, size - 1)
            )
            residuals = np.linalg.norm(factor @ vectors[-width:], axis=0)
            if size >= most or (residuals <= TOLERANCE * values + NEGLIGIBLE**2).all():
                break
        # Where the space is exhausted, other directions may hold further copies.
        exhausted = np.abs(np.diag(factor)) < NEGLIGIBLE**2
        block[:, exhausted] = _normal(n, int(exhausted.sum()), generator)
        # Again, since subtracting once leaves rounding: the smaller the rest, the more of it.
        block = _orthonormal(block[:, : n - size], basis)
    sigma = np.sqrt(np.maximum(values[::-1], 0))
    positive = sigma > NEGLIGIBLE
    return sigma[positive], basis @ vectors[:, ::-1][:, positive]


def _orthonormal(block: Matrix, basis: Matrix) -> Matrix:
    """An orthonormal basis of ``block`` outside ``basis``."""
    orthonormal: Matrix = np.linalg.qr(block - basis @ (basis.T @ block))[0]
    return orthonormal


def _normal(rows: int, columns: int, generator: torch.Generator) -> Matrix:
    drawn: Matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64).numpy()
    return drawn
