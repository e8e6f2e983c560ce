"""Embeddings for faiss: an inner-product index of the items, and the users' vectors to query."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cnsdiff.base.errors import ConfigError, InputError, did_you_mean
from cnsdiff.base.text import install_command
from cnsdiff.export.directory import write_export
from cnsdiff.export.embeddings import EmbeddingsManifest, Vectors, vectors_of, write_arrays
from cnsdiff.recommender.eligibility import SeenItems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnsdiff.recommender.recommender import Recommender

Index = Literal["auto", "flat", "ivf", "hnsw"]
#: Up to so many items ``"auto"`` searches exactly: a few milliseconds a query on one core.
FLAT_UP_TO = 100_000
#: Vectors that faiss wants for each cluster it trains.
_PER_CLUSTER = 39
#: Of HNSW: neighbours of a node, and the width of the search while building and while querying.
_NEIGHBOURS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 100, 128
#: Users and list length by which an approximate index is compared with the exact lists.
_QUERIES, _LISTED = 200, 20


def to_faiss(
    model: Recommender,
    path: str | Path,
    *,
    dial: float | None = None,
    seen: SeenItems = "all",
    index: Index = "auto",
    overwrite: bool = False,
) -> EmbeddingsManifest:
    """Write a model's items as a faiss index, with the users' vectors to search it by.

    ``items.faiss`` ranks by inner product, its numbers are the rows of ``item_ids.npy``; beside it
    lie ``user_ids.npy``, ``user_vectors.npy`` and ``seen.npy`` as
    :func:`~cnsdiff.export.to_numpy` writes them.

    Parameters
    ----------
    model, path, dial, seen, overwrite
        As in :func:`~cnsdiff.export.to_parquet`.
    index
        ``"flat"`` is exact, ``"ivf"`` looks into the nearest clusters only, ``"hnsw"`` walks a
        graph; ``"auto"`` is flat up to :data:`FLAT_UP_TO` items and ivf above. The manifest's
        ``index.recall`` says which share of the exact lists an approximate index finds.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        The package faiss is missing, ``path`` exists, ``dial`` is not finite, or the index is
        unknown.
    StorageError
        It cannot be written; what was there is untouched.
    """
    if index not in get_args(Index):
        raise ConfigError(
            f"there is no index {index!r}{did_you_mean(index, get_args(Index))}; choose one of "
            f"{', '.join(get_args(Index))}"
        )
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise InputError(
            "the export to faiss needs the package faiss, which is not installed; install it with: "
            f"{install_command('faiss')}"
        ) from error
    vectors = vectors_of(model, dial, seen)
    kind = index
    if index == "auto":
        kind = "flat" if len(vectors.item_vectors) <= FLAT_UP_TO else "ivf"

    def write(folder: Path) -> dict[str, object]:
        with one_thread(faiss):
            built, settings = _build(faiss, kind, vectors.item_vectors)
            settings["recall"] = 1.0 if kind == "flat" else _recall(faiss, built, vectors)
        # Not by faiss' own writer, nor NumPy's: on a full disk neither says so of the last bytes.
        (folder / "items.faiss").write_bytes(faiss.serialize_index(built).data)
        write_arrays(vectors, folder)
        return {"index": settings}

    facts = {**vectors.facts, "format": "faiss"}
    manifest: EmbeddingsManifest = write_export(path, facts, write, overwrite=overwrite)
    return manifest


@contextmanager
def one_thread(faiss: Any) -> Iterator[None]:
    """Several threads would build another graph each time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _build(
    faiss: Any, kind: str, items: NDArray[np.float32]
) -> tuple[Any, dict[str, str | int | float]]:
    """An index of ``items`` ``(I, d)``, and its settings."""
    n, dim = items.shape
    settings: dict[str, str | int | float] = {"kind": kind}
    if kind == "flat":
        built = faiss.IndexFlatIP(dim)
    elif kind == "ivf":
        clusters = max(1, min(round(4 * math.sqrt(n)), n // _PER_CLUSTER))
        quantizer = faiss.IndexFlatIP(dim)
        built = faiss.IndexIVFFlat(quantizer, dim, clusters, faiss.METRIC_INNER_PRODUCT)
        built.nprobe = max(1, math.ceil(clusters / 16))
        settings |= {"clusters": clusters, "probed": built.nprobe}
        # Quiet where there are fewer vectors than it likes.
        built.cp.min_points_per_centroid = 1
        built.train(items)
    else:
        built = faiss.IndexHNSWFlat(dim, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efConstruction, built.hnsw.efSearch = _BUILD_WIDTH, _SEARCH_WIDTH
        settings |= {"neighbours": _NEIGHBOURS, "search_width": _SEARCH_WIDTH}
    built.add(items)
    return built, settings


def _recall(faiss: Any, built: Any, vectors: Vectors) -> float:
    """The share of the exact lists that the index finds, a mean over some users."""
    n = len(vectors.user_vectors)
    rows = np.linspace(0, n - 1, min(_QUERIES, n)).round().astype(np.int64)
    queries = vectors.user_vectors[rows]
    k = min(_LISTED, len(vectors.item_vectors))
    exact = faiss.IndexFlatIP(vectors.item_vectors.shape[1])
    exact.add(vectors.item_vectors)
    right, listed = exact.search(queries, k)[1], built.search(queries, k)[1]
    hits = (right[:, :, None] == listed[:, None, :]).any(axis=2)
    return float(hits.mean())
