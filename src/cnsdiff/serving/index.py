"""An index of the items, which finds those that may be listed without a look at each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.text import install_command
from cnsdiff.export.embeddings_faiss import one_thread

Numbers = NDArray[np.int64]
#: Numbers in the table of item vectors up to which a product with all of it is quick: 800,000 items
#: of 64 dimensions take one core 10 ms a list (benchmarks/serving.py --only index).
EXACT_UP_TO = 50_000_000
#: The part of the lists that is looked into, and of the items that may be shown up to which each of
#: them is scored.
_PROBED, _FEW = 1 / 16, 1 / 32
#: Items that are scored besides those asked for: of the index, and by their bias; and how many are
#: kept by bias, so that enough are left under a filter.
_MORE, _BY_BIAS, KEPT_BY_BIAS = 100, 1_000, 65_536
#: Vectors for each cluster that training sees, its rounds, and vectors that are added at once.
_PER_CLUSTER, _ROUNDS, _BLOCK = 48, 8, 100_000


class ItemIndex:
    """Inverted lists of item vectors, those of a list alike, by faiss.

    The bias is one more number of each vector, by which a user's vector has a one. It is set in
    place, as lists are by taste alone: a search meanwhile meets old values beside new ones, which
    changes what it finds, but no score, as candidates are scored anew.

    Parameters
    ----------
    items
        ``(I, d)`` float32.

    Raises
    ------
    ConfigError
        The package faiss is missing.
    """

    def __init__(self, items: Tensor) -> None:
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the index of items needs the package faiss, which is not installed; install it "
                f"with: {install_command('faiss')}, or set index to 'exact'"
            ) from error
        self._faiss: Any = faiss
        vectors, (self.n_items, dim) = items.numpy(), items.shape
        n_lists = max(1, min(round(4 * math.sqrt(self.n_items)), self.n_items // 39))
        self._quantizer = faiss.IndexFlatIP(dim + 1)
        self._lists: Any = faiss.IndexIVFFlat(
            self._quantizer, dim + 1, n_lists, faiss.METRIC_INNER_PRODUCT
        )
        self.probed = math.ceil(_PROBED * n_lists)
        self._lists.cp.min_points_per_centroid, self._lists.cp.niter = 1, _ROUNDS
        n_sampled = min(self.n_items, max(_PER_CLUSTER * n_lists, 1))
        sample = np.random.default_rng(0).choice(self.n_items, n_sampled, replace=False)
        with one_thread(faiss):
            self._lists.train(_with_column(vectors[np.sort(sample)], 0.0))
            for start in range(0, self.n_items, _BLOCK):
                self._lists.add(_with_column(vectors[start : start + _BLOCK], 0.0))
        # A list is as promising as a user's mean score of it, lengths of vectors included.
        centres = self._centres()
        for place, (_, own) in enumerate(self._views()):
            if len(own):
                centres[place] = own.mean(axis=0)

    @property
    def n_lists(self) -> int:
        return int(self._lists.nlist)

    def set_bias(self, bias: Tensor) -> None:
        """Take ``(n,)`` float32 that is added to the scores, ``n`` at least the indexed items."""
        values, centres = bias.numpy(), self._centres()
        for place, (numbers, own) in enumerate(self._views()):
            if len(own):
                own[:, -1] = values[numbers]
                centres[place, -1] = own[:, -1].mean()

    def candidates(
        self, vector: Tensor, eligible: NDArray[np.bool_], by_bias: Numbers, n: int
    ) -> Numbers:
        """Items among which the ``n`` best of a user are likely to be.

        Parameters
        ----------
        vector
            ``(d,)`` the user's.
        eligible
            ``(I,)`` which items may be shown, more than are indexed where some were added since.
        by_bias
            Numbers of the items of the largest bias, largest first.

        Returns
        -------
        ndarray
            Eligible numbers in order. Each eligible one if they are few; fewer than ``n`` is
            possible.
        """
        if np.count_nonzero(eligible) <= max(_FEW * len(eligible), n):
            return np.flatnonzero(eligible)
        bits = np.packbits(eligible[: self.n_items], bitorder="little")
        settings = self._faiss.SearchParametersIVF(
            sel=self._faiss.IDSelectorBitmap(bits), nprobe=self.probed
        )
        query = _with_column(vector[None].numpy(), 1.0)
        near = self._lists.search(query, n + _MORE, params=settings)[1][0]
        # A list is chosen by the mean of its items, which hides one that the environment favours.
        favoured = by_bias[eligible[by_bias]][: max(n, _BY_BIAS)]
        added = self.n_items + np.flatnonzero(eligible[self.n_items :])
        return np.unique(np.concatenate([near[near >= 0], favoured, added]))

    def recall(self, items: Tensor, users: Tensor) -> float:
        """The share of the 20 best items ``(I, d)`` that it finds for users ``(n, d)``.

        Of taste alone: what is ranked by the bias as well is found more easily.
        """
        every, none = np.ones(len(items), dtype=bool), np.zeros(0, dtype=np.int64)
        k = min(20, len(items))
        hits = 0
        for vector in users:
            best = (items @ vector).topk(k).indices.numpy()
            hits += int(np.isin(best, self.candidates(vector, every, none, k)).sum())
        return hits / (k * len(users))

    def _centres(self) -> NDArray[np.float32]:
        """``(lists, d + 1)`` float32, to write to."""
        values = self._faiss.rev_swig_ptr(self._quantizer.get_xb(), self.n_lists * self._lists.d)
        result: NDArray[np.float32] = values.reshape(self.n_lists, self._lists.d)
        return result

    def _views(self) -> list[tuple[Numbers, NDArray[np.float32]]]:
        """Of each list, the numbers of its items and their vectors, to write to."""
        stored, pointer = self._lists.invlists, self._faiss.rev_swig_ptr
        views: list[tuple[Numbers, NDArray[np.float32]]] = []
        for place in range(self.n_lists):
            size = stored.list_size(place)
            if not size:  # there is nothing to point to
                views.append((np.zeros(0, dtype=np.int64), np.zeros((0, 1), dtype=np.float32)))
                continue
            codes = pointer(stored.get_codes(place), size * stored.code_size)
            vectors = codes.view(np.float32).reshape(size, self._lists.d)
            views.append((pointer(stored.get_ids(place), size), vectors))
        return views


def _with_column(vectors: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    """``(n, d + 1)``, the last of one value."""
    return np.pad(vectors, ((0, 0), (0, 1)), constant_values=value)


def largest(bias: Tensor) -> Numbers:
    """Numbers of the items of the largest bias, largest first."""
    numbers: Numbers = torch.topk(bias, min(KEPT_BY_BIAS, len(bias))).indices.numpy()
    return numbers
