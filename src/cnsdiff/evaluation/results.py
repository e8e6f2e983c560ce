"""Results of an evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from cnsdiff.base.errors import InputError
from cnsdiff.evaluation.kept import kept_share
from cnsdiff.evaluation.metrics import ACCURACY

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
        One row per user measured: ``user`` (index in the dataset), ``n_relevant`` and every
        accuracy metric. Rows come in ascending order of ``user``, so two models evaluated on
        the same split are paired row by row.
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

    def to_dict(self) -> dict[str, Any]:
        """A plain structure for JSON, without the per-user values; NaN becomes None."""
        result: dict[str, Any] = {
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
