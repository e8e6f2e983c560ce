"""Judges of whether a user would like an item: held-out pairs, an experiment, the truth.

A judge is asked about pairs that training has not seen, and answers with :data:`LIKED`,
:data:`NOT_LIKED` or :data:`UNKNOWN`. Which one a dataset has depends on how it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from cnsdiff.base.errors import ConfigError, DataError, did_you_mean
from cnsdiff.data import Dataset
from cnsdiff.data.splits import Split
from cnsdiff.evaluation.metrics import Relevance
from cnsdiff.simulate.truth import WorldTruth

JudgeKind = Literal["valid", "held-out", "experiment", "truth"]

LIKED, NOT_LIKED, UNKNOWN = 1, 0, -1
"""Verdicts: as a negative, the item is a false one, a true one, or nobody knows."""


class Judge(Protocol):
    """Says of pairs whether the user would like the item."""

    @property
    def complete(self) -> bool:
        """Whether it has a verdict on every pair."""

    @property
    def known_users(self) -> Tensor | None:
        """``(U,)`` boolean: users it can say anything about; ``None`` where that is all."""

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        """Verdicts on pairs that are not training positives.

        Parameters
        ----------
        users
            ``(B,)`` internal user numbers.
        items
            ``(B, k)`` internal item numbers.

        Returns
        -------
        Tensor
            ``(B, k)`` int8: 1 liked, 0 not liked, -1 unknown.
        """
        ...


class HeldOutJudge:
    """Pairs held out in the given splits are liked, all others are taken as not liked.

    The ratio it gives is a **lower bound**: a held-out split has only those of the liked items
    that were exposed and picked, so most of the liked ones count as not liked.

    Parameters
    ----------
    splits
        Held-out positive pairs.
    n_users, n_items
        Size of the catalogue.
    device
        Where it is asked.
    """

    complete = True
    known_users: Tensor | None = None

    def __init__(
        self,
        splits: Sequence[Split],
        n_users: int,
        n_items: int,
        device: torch.device | str = "cpu",
    ) -> None:
        users = np.concatenate([split.users for split in splits])
        items = np.concatenate([split.items for split in splits])
        self._liked = Relevance(users, items, n_users, n_items, device)

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        return self._liked.hits(users, items).to(torch.int8)


class ExperimentJudge:
    """The judgements of an experiment on the pairs it tried; unknown for all others.

    In yahoo-r3 and coat, users rated items shown to them at random: ratings of 4 and above are
    liked, of 2 and below not, and 3 is left out.

    Parameters
    ----------
    judgements
        Columns ``user``, ``item`` (internal numbers) and ``relevant`` (Boolean), as
        ``dataset.table("judgements")`` gives them. A pair judged both ways counts as liked.
    n_users, n_items
        Size of the catalogue.
    device
        Where it is asked.

    Attributes
    ----------
    known_users : Tensor
        ``(U,)`` boolean: users with a judgement.
    """

    complete = False
    known_users: Tensor | None

    def __init__(
        self,
        judgements: pl.DataFrame,
        n_users: int,
        n_items: int,
        device: torch.device | str = "cpu",
    ) -> None:
        def found(pairs: pl.DataFrame) -> Relevance:
            users = pairs["user"].cast(pl.Int64).to_numpy()
            items = pairs["item"].cast(pl.Int64).to_numpy()
            return Relevance(users, items, n_users, n_items, device)

        self._liked = found(judgements.filter(pl.col("relevant")))
        self._not_liked = found(judgements.filter(~pl.col("relevant")))
        self.known_users = (self._liked.counts + self._not_liked.counts) > 0

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        verdict = torch.full(items.shape, UNKNOWN, dtype=torch.int8, device=items.device)
        verdict.masked_fill_(self._not_liked.hits(users, items), NOT_LIKED)
        return verdict.masked_fill_(self._liked.hits(users, items), LIKED)


class WorldJudge:
    """The truth of a simulated world: exact, and known for every pair.

    Parameters
    ----------
    truth
        The world's true relevance.
    """

    complete = True
    known_users: Tensor | None = None

    def __init__(self, truth: WorldTruth) -> None:
        self._truth = truth

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        # The truth is computed by NumPy, on the CPU, wherever training runs.
        relevant = self._truth.relevant(users.cpu().numpy()[:, None], items.cpu().numpy())
        return torch.from_numpy(relevant.astype(np.int8)).to(items.device)


def judge_for(dataset: Dataset, kind: JudgeKind, device: torch.device | str = "cpu") -> Judge:
    """The judge of a dataset.

    Parameters
    ----------
    dataset
        What the model is trained on.
    kind
        ``"valid"``: the pairs held out for validation, so that no test data is opened;
        ``"held-out"``: those and the test pairs; ``"experiment"``: the side table
        ``judgements``; ``"truth"``: the simulated world the dataset comes from.
    device
        Where the judge is asked.

    Raises
    ------
    DataError
        The dataset has no such splits, judgements or truth.
    ConfigError
        ``kind`` is none of the four.
    """
    size = (dataset.n_users, dataset.n_items)
    if kind == "truth":
        return WorldJudge(WorldTruth.of(dataset))
    if kind == "experiment":
        return ExperimentJudge(dataset.table("judgements"), *size, device)
    if kind not in get_args(JudgeKind):
        raise ConfigError(
            f"there is no judge {kind!r}{did_you_mean(kind, get_args(JudgeKind))}; choose "
            f"{', '.join(get_args(JudgeKind))}"
        )
    wanted = ("valid",) if kind == "valid" else ("valid", "test_iid", "test_ood")
    names = [name for name in wanted if name in dataset.split_names]
    if not names:
        raise DataError(
            f"{dataset.path or dataset.name}: has no {' or '.join(wanted)} split to judge "
            "negatives by; prepare it again with one, or set training.fhn_every to null"
        )
    return HeldOutJudge([dataset.split(name) for name in names], *size, device)
