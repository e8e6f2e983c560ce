"""Evaluation of a model on held-out splits: full ranking, training positives masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import ConfigError, DataError, InputError
from cnsdiff.data.splits import pair_matrix
from cnsdiff.evaluation import metrics
from cnsdiff.evaluation.anticipation import Anticipation
from cnsdiff.evaluation.kept import kept_share
from cnsdiff.evaluation.metrics import ACCURACY, Relevance, item_counts, relevance_of
from cnsdiff.evaluation.ranking import ITEM_CHUNK, USER_BATCH, Scorer, rank

if TYPE_CHECKING:
    from cnsdiff.data import Dataset, Split

STANDARD_SPLITS = ("valid", "test_iid", "test_ood")

#: Users whose lists are measured at a time, and places of their lists.
_MEASURED_USERS, _MEASURED_PLACES = 8192, 2**23


#: Whose pairs are left out of lists that are measured.
Mask = Literal["train", "past"]


def protocol(mask: Mask = "train") -> str:
    """The protocol of lists without the pairs of ``mask``, in a few words for a title."""
    masked = {"train": "train positives masked", "past": "each user's whole past masked"}
    return f"full ranking, {masked[mask]}"


@dataclass(frozen=True)
class SplitEvaluation:
    """The metrics of one split.

    Attributes
    ----------
    metrics : dict
        ``{"recall@10": value, ...}``: means over ``n_users`` of the accuracy metrics, and the
        list-level metrics over the same users' lists.
    n_users : int
        Users with at least one held-out item in the split.
    n_users_without_test : int
        Users of the dataset left out because they have none.
    per_user : polars.DataFrame or None
        One row per user measured: ``user`` (index in the dataset), ``n_relevant``, every accuracy
        metric, and those under anticipated shifts
        (:meth:`cnsdiff.evaluation.Anticipation.per_user`). Rows come in ascending order of
        ``user``, so two models evaluated on the same split are paired row by row.
    tied : float
        Share of the users whose longest list ends in a tie: another item with the score of the
        last is left out, because it occurs later in train.
    """

    metrics: dict[str, float]
    n_users: int
    n_users_without_test: int
    per_user: pl.DataFrame | None = field(default=None, repr=False, compare=False)
    tied: float = 0.0

    def __getitem__(self, metric: str) -> float:
        return self.metrics[metric]


@dataclass(frozen=True)
class Evaluation:
    """The metrics of several splits, by name.

    Attributes
    ----------
    splits : dict
        By name.
    mask : str
        Which pairs were left out of the lists: ``"train"``, the training positives, or
        ``"past"``, what else the user did before, too.
    """

    splits: dict[str, SplitEvaluation]
    mask: Mask = "train"

    def __getitem__(self, split: str) -> SplitEvaluation:
        return self.splits[split]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """``{split: {metric: value}}``."""
        return {name: split.metrics for name, split in self.splits.items()}

    @property
    def protocol(self) -> str:
        """The protocol, in a few words for a title."""
        return protocol(self.mask)

    @property
    def n_users(self) -> dict[str, int]:
        """``{split: users measured}``."""
        return {name: split.n_users for name, split in self.splits.items()}

    @property
    def n_users_without_test(self) -> dict[str, int]:
        """``{split: users left out because they have no item in it}``."""
        return {name: split.n_users_without_test for name, split in self.splits.items()}

    @property
    def per_user(self) -> dict[str, pl.DataFrame]:
        """``{split: frame}`` of the splits evaluated with ``per_user=True``."""
        return {
            name: split.per_user
            for name, split in self.splits.items()
            if split.per_user is not None
        }

    def kept(self, iid: str = "test_iid", ood: str = "test_ood") -> dict[str, float]:
        """The kept share of each accuracy metric: its value on ``ood`` over that on ``iid``.

        1 means that nothing is lost under the shift. NaN where the metric is 0 on ``iid``. The
        two splits have other users and other numbers of relevant items, so compare what models
        keep on one dataset, not what one model keeps on two
        (:func:`cnsdiff.evaluation.kept.kept_matched` allows for the numbers).

        Raises
        ------
        InputError
            If either split was not evaluated.
        """
        for name in (iid, ood):
            if name not in self.splits:
                raise InputError(
                    f"what is kept under a shift needs the split {name!r}, which was not evaluated "
                    f"(evaluated: {', '.join(self.splits)})"
                )
        return {
            name: kept_share(value, self.splits[ood].metrics[name])
            for name, value in self.splits[iid].metrics.items()
            if name.partition("@")[0] in ACCURACY
        }

    def table(self) -> pl.DataFrame:
        """One row per split, metric and cut-off: split, metric, k, value, n_users."""
        rows = [
            (split, *name.split("@"), value, result.n_users)
            for split, result in self.splits.items()
            for name, value in result.metrics.items()
        ]
        names = ["split", "metric", "k", "value", "n_users"]
        return pl.DataFrame(rows, schema=names, orient="row").with_columns(
            pl.col("k").cast(pl.Int64), pl.col("value").cast(pl.Float64)
        )

    def to_dict(self) -> dict[str, object]:
        """A plain structure for JSON, without the per-user values; NaN becomes None."""
        result: dict[str, object] = {
            "mask": self.mask,
            "splits": {
                name: {
                    "metrics": _finite(split.metrics),
                    "n_users": split.n_users,
                    "n_users_without_test": split.n_users_without_test,
                    "tied": split.tied,
                }
                for name, split in self.splits.items()
            },
        }
        if {"test_iid", "test_ood"} <= self.splits.keys():
            result["kept"] = _finite(self.kept())
        return result


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def evaluate(
    scorer: Scorer,
    dataset: Dataset,
    splits: Sequence[str] | None = None,
    ks: Sequence[int] = (10, 20),
    *,
    mask: Mask = "train",
    per_user: bool = False,
    user_batch: int = USER_BATCH,
    item_chunk: int = ITEM_CHUNK,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Rank all items for every user with held-out items, and measure the lists on each split.

    Users without items in a split are left out of that split's means, and counted.

    Parameters
    ----------
    scorer : Scorer
    dataset : Dataset
        With a split ``"train"`` and those asked for.
    splits : sequence of str, optional
        By default those of ``valid``, ``test_iid`` and ``test_ood`` that the dataset has and that
        hold anything.
    ks : sequence of int
        Cut-offs; lists are cut to the catalogue, whatever the cut-off.
    mask : str
        What lists leave out. ``"train"``: training positives, and nothing else; the items of the
        other held-out splits compete like any other, as in the literature, so that what a user
        had in validation is a miss on the test. ``"past"``: the user's whole past, see
        :func:`past_pairs`; what a shop would do at the time of the test.
    per_user : bool
        Also keep every user's accuracy, for tests on paired differences.
    user_batch, item_chunk, device
        As in :func:`cnsdiff.evaluation.rank`.

    Raises
    ------
    DataError
        If the dataset lacks a split that is asked for, or the split is empty.
    InputError
        If the model and the dataset differ in size, or there is no such ``mask``.
    """
    if mask not in get_args(Mask):
        raise InputError(f"mask must be 'train' or 'past', not {mask!r}")
    splits = splits_to_evaluate(dataset) if splits is None else splits
    if not splits:
        raise DataError(
            "nothing to evaluate: name at least one held-out split "
            f"(the dataset has {', '.join(dataset.split_names)})"
        )
    held_out = {name: dataset.split(name) for name in splits}
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    # A past is one split's, so that each is ranked for itself; train is everybody's.
    groups = [held_out] if mask == "train" else [{name: held_out[name]} for name in held_out]
    results: dict[str, SplitEvaluation] = {}
    for group in groups:
        exclude = train
        for split in group.values() if mask == "past" else ():
            exclude = exclude + past_pairs(dataset, split)
        results |= _evaluate(
            scorer,
            group,
            train,
            ks,
            exclude=exclude,
            per_user=per_user,
            user_batch=user_batch,
            item_chunk=item_chunk,
            device=device,
        )
    return Evaluation(results, mask)


def past_pairs(dataset: Dataset, split: Split) -> csr_array:
    """``(U, I)`` what each user did before a split, beside train; no pair of the split itself.

    Where the split has times: all that the log says of a user before the first of their pairs in
    the split (:meth:`cnsdiff.data.Dataset.seen`), rated low or high. Else, for a test, the
    pairs of validation.
    """
    seen = dataset.seen().filter(pl.col("user").is_not_null())
    users, items = np.empty(0, np.int64), np.empty(0, np.int64)
    if split.timestamps is not None and "timestamp" in seen.columns:
        first = np.full(dataset.n_users, -np.inf)
        first[split.users] = np.inf
        np.minimum.at(first, split.users, split.timestamps.astype(np.float64))
        when = seen["timestamp"].cast(pl.Float64).fill_null(math.inf).to_numpy()
        before = seen.filter(when < first[seen["user"].to_numpy()])
        users, items = before["user"].to_numpy(), before["item"].to_numpy()
    elif split.name != "valid" and "valid" in dataset.split_names:
        valid = dataset.split("valid")
        users, items = valid.users, valid.items
    own = np.isin(users * dataset.n_items + items, split.users * dataset.n_items + split.items)
    return pair_matrix(users[~own], items[~own], (dataset.n_users, dataset.n_items))


def splits_to_evaluate(dataset: Dataset) -> list[str]:
    """The held-out splits that a dataset has and that hold anything.

    Raises
    ------
    DataError
        There are none.
    """
    names = [
        name for name in STANDARD_SPLITS if name in dataset.split_names and len(dataset.split(name))
    ]
    if not names and dataset.n_new_items:
        raise DataError(
            f"{dataset.path or dataset.name}: all its held-out pairs are of new items; measure "
            "them with Recommender.evaluate_new_items"
        )
    if not names:
        raise DataError(
            f"{dataset.path or dataset.name}: has no held-out pairs to evaluate on (its splits: "
            f"{', '.join(dataset.split_names)}); prepare it again with a test split, or with a "
            "valid split that the model does not learn from (training.refit)"
        )
    return names


def evaluate_split(
    scorer: Scorer,
    split: Split,
    train_csr: csr_array,
    *,
    ks: Sequence[int] = (10, 20),
    per_user: bool = False,
    anticipations: Sequence[Anticipation] = (),
    user_batch: int = USER_BATCH,
    item_chunk: int = ITEM_CHUNK,
    device: torch.device | str | None = None,
) -> SplitEvaluation:
    """Evaluate one split, as early stopping does after each epoch.

    Parameters
    ----------
    scorer : Scorer
    split : Split
        Held-out positives.
    train_csr : csr_array, shape (n_users, n_items)
        Training positives: masked in the ranking, and counted for the popularity metric.
    anticipations : sequence of Anticipation
        Also measure under anticipated shifts: ``"ndcg@20 (name)"`` beside ``"ndcg@20"``.
    ks, per_user, user_batch, item_chunk, device
        As in :func:`evaluate`.

    Raises
    ------
    DataError, InputError
        As :func:`evaluate`.
    """
    results = _evaluate(
        scorer,
        {"the split": split},
        train_csr,
        ks,
        exclude=train_csr,
        per_user=per_user,
        user_batch=user_batch,
        item_chunk=item_chunk,
        device=device,
        anticipations=anticipations,
    )
    return results["the split"]


def _evaluate(
    scorer: Scorer,
    held_out: dict[str, Split],
    train: csr_array,
    ks: Sequence[int],
    *,
    exclude: csr_array,
    per_user: bool,
    user_batch: int,
    item_chunk: int,
    device: torch.device | str | None,
    anticipations: Sequence[Anticipation] = (),
) -> dict[str, SplitEvaluation]:
    """Rank all users of the splits once, without the pairs ``exclude``, and measure each split."""
    ks = check(scorer, train, ks)
    relevance = {name: relevance_of(split, name, train.shape) for name, split in held_out.items()}
    anywhere = torch.stack([r.counts for r in relevance.values()]).sum(0)
    ranked_users = anywhere.nonzero()[:, 0]
    longest = max(ks)
    items, scores = rank(
        scorer,
        ranked_users,
        longest + 1,  # one more, to see whether the last place is a tie
        exclude=exclude,
        user_batch=user_batch,
        item_chunk=item_chunk,
        device=device,
    )
    tied = torch.zeros(len(items), dtype=torch.bool)
    if items.shape[1] > longest:
        last = scores[:, longest - 1]
        tied = ((last == scores[:, longest]) & last.isfinite()).cpu()
    # From here on it is (users × K): small, so the CPU is as good a place as any.
    items = items[:, : min(longest, items.shape[1])].cpu()
    counts = item_counts(train)
    results = {}
    for name, held in relevance.items():
        own = held.counts[ranked_users] > 0
        lists = items if bool(own.all()) else items[own]
        measured = measure(held, lists, counts, ks, per_user=per_user, anticipations=anticipations)
        results[name] = replace(measured, tied=float(tied[own].double().mean()))
    return results


def check(scorer: Scorer, train: csr_array, ks: Sequence[int]) -> list[int]:
    """The cut-offs in order, once model, training pairs and cut-offs are found to be in order.

    Raises
    ------
    InputError, ConfigError
        They are not.
    """
    if train.shape != (scorer.n_users, scorer.n_items):
        raise InputError(
            f"the model knows {scorer.n_users} users and {scorer.n_items} items, the training "
            f"split has {train.shape[0]} and {train.shape[1]}; evaluate on the dataset it was "
            "trained on"
        )
    if not ks or min(ks) < 1:
        raise ConfigError(f"the cut-offs are {list(ks)}; give at least one, each 1 or more")
    return sorted(set(ks))


def measure(
    relevant: Relevance,
    items: Tensor,
    train_counts: Tensor,
    ks: Sequence[int],
    *,
    per_user: bool = False,
    anticipations: Sequence[Anticipation] = (),
) -> SplitEvaluation:
    """The metrics of ranked lists.

    Parameters
    ----------
    relevant
        The held-out pairs.
    items
        ``(n, K)`` the lists of its users, in its order, on the CPU; ``K`` at least the largest
        cut-off, or the whole catalogue.
    train_counts
        ``(I,)`` training pairs of each item, for the popularity metric.
    ks, per_user, anticipations
        As in :func:`evaluate_split`.
    """
    users = relevant.users
    n_relevant = relevant.counts[users]
    at_once = max(1, min(_MEASURED_USERS, _MEASURED_PLACES // max(1, items.shape[1])))
    # In blocks, lest what a metric needs of all users be in memory at once.
    blocks = [
        metrics.accuracy(relevant.hits(some, lists), relevant.counts[some], ks)
        for some, lists in zip(
            torch.split(users, at_once), torch.split(items, at_once), strict=True
        )
    ]
    accuracy = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    values = {name: float(value.mean()) for name, value in accuracy.items()}
    values |= metrics.list_level(items, train_counts, ks)
    for anticipation in anticipations:
        values |= anticipation(users, items)
    frame = None
    if per_user:
        columns = {"user": users, "n_relevant": n_relevant, **accuracy}
        for anticipation in anticipations:
            columns |= anticipation.per_user(users, items)
        frame = pl.DataFrame({name: column.numpy() for name, column in columns.items()})
    return SplitEvaluation(
        metrics=values,
        n_users=len(users),
        n_users_without_test=len(relevant.counts) - len(users),
        per_user=frame,
    )
