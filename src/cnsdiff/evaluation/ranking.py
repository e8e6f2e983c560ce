"""What can be ranked, and its exact top-k in bounded memory and in one fixed order.

Items are ordered by falling score and, among equal scores, by rising item index. The order is a
function of the scores alone: how users are batched and items are chunked cannot change it. (A
scorer whose own arithmetic depends on the block's shape, as a matrix product may in its last
bit, can of course return other scores.)

``torch.topk`` leaves the order of ties open, and which of several items tied at the k-th place it
returns. So it is asked for one item more than needed: only where the k-th and the (k+1)-th score
are equal can a wrong item have been taken, and only those rows are looked at again. Everything
else works on *keys*: one int64 holding the score's bits, made monotone, above the complement of
the item index, so that a plain integer comparison is the whole order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import CnsdiffError, InputError
from cnsdiff.kernels.memory import require_memory


@runtime_checkable
class Scorer(Protocol):
    """A model seen from the ranking: it scores a block of items for a batch of users.

    An object that also has an attribute ``device`` (:class:`torch.device`) is ranked on that
    device unless the caller names another.
    """

    @property
    def n_users(self) -> int:
        """Number of users it knows; ids run from 0."""

    @property
    def n_items(self) -> int:
        """Number of items it knows; ids run from 0."""

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        """Score the items ``start .. stop - 1`` for each of the users.

        Parameters
        ----------
        users : Tensor of int64, shape (B,)
        start, stop : int
            ``0 <= start < stop <= n_items``.

        Returns
        -------
        Tensor of float32, shape (B, stop - start)
            Higher is better. ``-inf`` means "never recommend"; NaN is an error. The caller may
            overwrite it, so it must not share memory with the model's own state.
        """
        ...


class EmbeddingScorer:
    """Inner products of user and item embeddings.

    Parameters
    ----------
    user_embeddings : Tensor, shape (U, d)
    item_embeddings : Tensor, shape (I, d)
        On the same device. Normalise the rows beforehand to rank by cosine.
    item_bias : Tensor, shape (I,), optional
        Added to every user's scores, on the same device.

    Raises
    ------
    InputError
        If the shapes or the devices do not fit together.
    """

    def __init__(
        self, user_embeddings: Tensor, item_embeddings: Tensor, item_bias: Tensor | None = None
    ) -> None:
        shapes = tuple(user_embeddings.shape), tuple(item_embeddings.shape)
        if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
            raise InputError(
                f"user and item embeddings have shapes {shapes[0]} and {shapes[1]}; "
                "give (users, d) and (items, d) with the same d"
            )
        if user_embeddings.device != item_embeddings.device:
            raise InputError(
                f"user embeddings are on {user_embeddings.device}, item embeddings on "
                f"{item_embeddings.device}; move them to one device"
            )
        if item_bias is not None and (
            tuple(item_bias.shape) != shapes[1][:1] or item_bias.device != item_embeddings.device
        ):
            raise InputError(
                f"the item bias has shape {tuple(item_bias.shape)} on {item_bias.device}; give "
                f"one value for each of {shapes[1][0]} items, on {item_embeddings.device}"
            )
        self.user_embeddings = user_embeddings.detach()
        self.item_embeddings = item_embeddings.detach()
        self.item_bias = None if item_bias is None else item_bias.detach()
        self.n_users, self.n_items = shapes[0][0], shapes[1][0]

    @property
    def device(self) -> torch.device:
        return self.item_embeddings.device

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        batch, items = self.user_embeddings[users.to(self.device)], self.item_embeddings[start:stop]
        if len(batch) == 1:  # a third of the time of a product of matrices
            scores = (items @ batch[0])[None].to(torch.float32)
        else:
            scores = (batch @ items.T).to(torch.float32)
        return scores if self.item_bias is None else scores + self.item_bias[start:stop]


USER_BATCH = 256
ITEM_CHUNK = 16384
"""Defaults of one block: 256 × 16384 float32 scores are 16 MiB, which the C library keeps for the
next block; larger ones it returns to the system, and clearing those anew costs as much as the
product."""

#: Places of lists from which on it is asked whether there is memory for them: 8 bytes for the
#: item, 4 for the score, and as much again for whoever works with them.
_MANY_PLACES = 2**26

_LOW = 0xFFFFFFFF
_NO_KEY = torch.iinfo(torch.int64).min


def rank(
    scorer: Scorer,
    users: Tensor,
    k: int,
    *,
    exclude: csr_array | None = None,
    user_batch: int = USER_BATCH,
    item_chunk: int = ITEM_CHUNK,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the ``k`` best admissible items of each user, ties to the lower item index.

    Parameters
    ----------
    scorer : Scorer
        Asked for at most ``user_batch`` × ``item_chunk`` scores at a time.
    users : Tensor of int64, shape (n,)
        In any order, repetitions allowed.
    k : int
        At least 1; cut to the catalogue.
    exclude : scipy csr_array, shape (n_users, n_items), optional
        Pairs that must not be recommended (every stored entry, whatever its value).
    user_batch, item_chunk : int
        Size of a block; peak memory is about four blocks of float32.
    device : torch.device or str, optional
        Where to rank; the scorer's own ``device`` by default, else the CPU.

    Returns
    -------
    items : Tensor of int64, shape (n, min(k, n_items))
        Best first; -1 where a user has fewer admissible items than that.
    scores : Tensor of float32, shape (n, min(k, n_items))
        Their scores; -inf in the padding. An item scored -inf counts as inadmissible.

    Raises
    ------
    InputError
        If ``k``, a block size, a user id or the shape of ``exclude`` is out of range, or there is
        no memory for the lists.
    CnsdiffError
        If a score is NaN or a block has the wrong shape.
    """
    place = torch.device(device or getattr(scorer, "device", None) or "cpu")
    users = torch.as_tensor(users, dtype=torch.int64).to(place)
    _check(scorer, users, k, exclude, user_batch, item_chunk)
    excluded = None if exclude is None else Excluded(exclude, place)
    k = min(k, scorer.n_items)
    if place.type == "cpu":
        require_room(len(users), k)
    items = torch.empty((len(users), k), dtype=torch.int64, device=place)
    scores = torch.empty((len(users), k), dtype=torch.float32, device=place)
    with torch.no_grad():
        for begin in range(0, len(users), user_batch):
            end = begin + user_batch
            keys = _rank_batch(scorer, users[begin:end], k, excluded, item_chunk)
            items[begin:end], scores[begin:end] = _unpack(keys)
    return items, scores


def require_room(n_lists: int, k: int) -> None:
    """Raise :class:`InputError` if memory cannot hold so many lists, ``k`` of the catalogue."""
    if n_lists * k > _MANY_PLACES:
        require_memory(
            24 * n_lists * k,
            f"ranking {n_lists:,} lists of {k:,} items",
            "lower k (evaluation.ks), or take fewer users at a time",
        )


def _rank_batch(
    scorer: Scorer, users: Tensor, k: int, excluded: Excluded | None, item_chunk: int
) -> Tensor:
    """Sorted keys (B, k) of one batch of users, merged over the chunks; ``k`` of the catalogue."""
    best = torch.full((len(users), 0), _NO_KEY, dtype=torch.int64, device=users.device)
    has_nan = torch.zeros((), dtype=torch.bool, device=users.device)
    pairs = None if excluded is None else excluded.pairs(users)
    for start in range(0, scorer.n_items, item_chunk):
        stop = min(start + item_chunk, scorer.n_items)
        block = _block(scorer, users, start, stop)
        if pairs is not None:
            rows, columns = pairs
            if stop - start < scorer.n_items:
                inside = (columns >= start) & (columns < stop)
                rows, columns = rows[inside], columns[inside] - start
            has_nan |= block[rows, columns].isnan().any()
            block[rows, columns] = -torch.inf
        keys, nan = _top_keys(block, start, k)
        has_nan |= nan
        best = torch.cat([best, keys], dim=1)
        if best.shape[1] > k:
            best = best.topk(k, dim=1).values
    _refuse_nan(has_nan, type(scorer).__name__)
    return best.sort(dim=1, descending=True).values


#: Items in a group of :class:`BiasedTop`, and bands of groups for each place of a list.
_GROUP, _BANDS = 16, 5
#: Where more items than so many for each place of a list may be in it, all are ranked.
_FEW = 128


class BiasedTop:
    """The best items of scores with each of several item biases added, as :func:`rank` has them.

    Items are put in groups of about equal bias. The best score of a group, found once, and the
    extremes of its bias bound the best of its items from below and from above. The k-th of the
    bounds from below is a score that the last item of a list reaches at the least, so that for each
    bias only the few groups whose bounds from above come up to it are looked into.

    Parameters
    ----------
    biases
        ``(I,)`` each, by a number that tells them apart; ``None`` adds nothing.
    k
        Length of the lists.
    n_items
        ``I``.
    device
        Where the scores will be.
    """

    def __init__(
        self, biases: Mapping[float, Tensor | None], k: int, n_items: int, device: torch.device
    ) -> None:
        self.k = k
        self._biases = {
            at: torch.zeros(n_items, device=device) if bias is None else bias.to(device)
            for at, bias in biases.items()
        }
        self._bands = _BANDS * k
        n_groups = self._bands * -(-n_items // (_GROUP * self._bands))
        # Few groups leave nothing out, and for one list all items are read once in either way.
        self._grouped = n_groups > self._bands and len(biases) > 1
        if not self._grouped:
            return
        # Most biases are multiples of one another, so that the widest has the order of all.
        widest = max(self._biases.values(), key=lambda bias: float(bias.abs().max()))
        order = widest.sort(stable=True).indices
        place = torch.arange(n_groups * _GROUP, device=device)
        # A group is a row.
        self._items = order[place.clamp(max=n_items - 1)].view(n_groups, _GROUP)

    def __call__(self, scores: Tensor) -> Iterator[tuple[float, Tensor]]:
        """The lists ``(B, min(k, I))`` of scores ``(B, I)``, bias by bias; -1 for no item.

        Raises
        ------
        CnsdiffError
            If a score is NaN.
        """
        if not self._grouped:
            for at, bias in self._biases.items():
                yield at, _best_of(scores + bias, self.k)
            return
        apart = scores.index_select(1, self._items.flatten())
        apart[:, scores.shape[1] :] = -torch.inf  # the last item again, to fill the last groups
        apart = apart.view(-1, *self._items.shape)
        best = apart.amax(2)
        _refuse_nan(best.isnan().any(), "the scorer")
        for at, bias in self._biases.items():
            lists = self._lists(apart, best, bias[self._items])
            yield at, _best_of(scores + bias, self.k) if lists is None else lists

    def _lists(self, apart: Tensor, best: Tensor, bias: Tensor) -> Tensor | None:
        """The lists of scores ``(B, groups, _GROUP)`` and a bias; ``None`` if too many are tied."""
        # Neighbours in bias are in different bands, whose best are as many different items.
        bands = (best + bias.amin(1)).view(len(best), -1, self._bands).amax(1)
        least = bands.topk(self.k, dim=1).values[:, -1:].clamp(min=torch.finfo(bands.dtype).min)
        users, groups = (best + bias.amax(1) >= least).nonzero(as_tuple=True)
        if len(users) * _GROUP > len(best) * self.k * _FEW:
            return None
        values = apart.view(-1, _GROUP).index_select(0, users * len(bias) + groups)
        values += bias.index_select(0, groups)
        rows, columns = (values >= least[users]).nonzero(as_tuple=True)
        users, groups = users[rows], groups[rows]
        keys = _pack(values[rows, columns], self._items[groups, columns])
        # The keys of a user in a row, for want of some filled up with those of no item.
        counts = users.bincount(minlength=len(best))
        table = keys.new_full((len(best), max(self.k, int(counts.max()))), _NO_KEY)
        first = counts.cumsum(0) - counts
        table[users, torch.arange(len(users), device=users.device) - first[users]] = keys
        return _unpack(table.topk(self.k, dim=1).values)[0]


def _best_of(block: Tensor, k: int) -> Tensor:
    """The items ``(B, min(k, I))`` of the best scores of a block ``(B, I)`` of all items."""
    keys, has_nan = _top_keys(block, 0, k)
    _refuse_nan(has_nan, "the scorer")
    return _unpack(keys.sort(dim=1, descending=True).values)[0]


def _refuse_nan(has_nan: Tensor, who: str) -> None:
    if has_nan:
        raise CnsdiffError(
            f"{who} gave a score that is not a number (NaN), which has no place in a ranking; "
            "check the model's weights, training has probably diverged"
        )


def _top_keys(block: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Keys (B, min(k, C)) of the best of a block (B, C), unsorted, and whether it holds NaN."""
    width = block.shape[1]
    if width <= k:
        columns = torch.arange(start, start + width, device=block.device)
        return _pack(block, columns), block.isnan().any()
    values, columns = block.topk(k + 1, dim=1)
    # topk puts NaN above everything else, so the first column would show it.
    has_nan = values[:, 0].isnan().any()
    keys = _pack(values[:, :k], columns[:, :k] + start)
    last = values[:, k - 1]
    open_ties = ((last == values[:, k]) & (last > -torch.inf)).nonzero()[:, 0]
    if len(open_ties):
        everyone = len(open_ties) == len(block)
        rows = block if everyone else block[open_ties]
        first = _first_equal(rows, last[open_ties], start, k)
        above = keys[open_ties].masked_fill(values[open_ties, :k] == last[open_ties, None], _NO_KEY)
        keys[open_ties] = torch.cat([above, first], dim=1).topk(k, dim=1).values
    return keys, has_nan


def _first_equal(block: Tensor, value: Tensor, start: int, k: int) -> Tensor:
    """Keys (R, k) of the k lowest-index items of each row that score exactly ``value`` (R,)."""
    width = block.shape[1]
    countdown = torch.arange(width, 0, -1, dtype=torch.int32, device=block.device)
    left, columns = torch.where(block == value[:, None], countdown, 0).topk(k, dim=1)
    keys = _pack(value[:, None].expand_as(columns), columns + start)
    return keys.masked_fill(left == 0, _NO_KEY)


def _pack(scores: Tensor, items: Tensor) -> Tensor:
    """One int64 per pair whose order is: higher score first, then lower item."""
    # Adding zero turns -0.0 into 0.0, which compares equal and so must have the same bits.
    bits = (scores + 0.0).view(torch.int32)
    # Negative floats grow in magnitude with their bits: flip all bits but the sign.
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ordered.to(torch.int64) * (_LOW + 1) + (_LOW - items)


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Items and scores of keys; -1 and -inf where a key stands for no item."""
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    missing = (keys == _NO_KEY) | (scores == -torch.inf)
    items = (_LOW - (keys & _LOW)).masked_fill(missing, -1)
    return items, scores.masked_fill(missing, -torch.inf)


def _block(scorer: Scorer, users: Tensor, start: int, stop: int) -> Tensor:
    block = scorer.score_block(users, start, stop)
    if tuple(block.shape) != (len(users), stop - start):
        raise CnsdiffError(
            f"{type(scorer).__name__}.score_block gave scores of shape {tuple(block.shape)} for "
            f"{len(users)} users and items {start} to {stop - 1}; "
            f"it must return ({len(users)}, {stop - start})"
        )
    # An expanded or strided view cannot be masked in place.
    return block.to(users.device, torch.float32).contiguous()


class Excluded:
    """The excluded pairs as CSR on the device, expanded one batch of users at a time."""

    def __init__(self, pairs: csr_array, device: torch.device) -> None:
        self._indptr = torch.as_tensor(pairs.indptr, dtype=torch.int64).to(device)
        self._indices = torch.as_tensor(pairs.indices).to(device)

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Row in the batch and item of every excluded pair of the users, each (m,) int64."""
        first = self._indptr[users]
        counts = self._indptr[users + 1] - first
        rows = torch.arange(len(users), device=users.device).repeat_interleave(counts)
        # Position among all pairs of the batch, less where the row begins, plus where it lies.
        shift = first - (counts.cumsum(0) - counts)
        at = torch.arange(len(rows), device=users.device) + shift[rows]
        return rows, self._indices[at].to(torch.int64)


def _check(
    scorer: Scorer,
    users: Tensor,
    k: int,
    exclude: csr_array | None,
    user_batch: int,
    item_chunk: int,
) -> None:
    for name, value in (("k", k), ("user_batch", user_batch), ("item_chunk", item_chunk)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    if users.ndim != 1:
        raise InputError(f"users has shape {tuple(users.shape)}; give a vector of user indices")
    if len(users) and (int(users.min()) < 0 or int(users.max()) >= scorer.n_users):
        raise InputError(
            f"users holds indices from {int(users.min())} to {int(users.max())}, but the model "
            f"knows 0 to {scorer.n_users - 1}; map ids to indices of the same dataset first"
        )
    if exclude is not None and exclude.shape != (scorer.n_users, scorer.n_items):
        raise InputError(
            f"the excluded pairs have shape {exclude.shape}, the model knows "
            f"{scorer.n_users} users and {scorer.n_items} items; use the dataset it was trained on"
        )
