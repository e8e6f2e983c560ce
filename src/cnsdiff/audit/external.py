"""Recommenders that we did not train, judged on the same splits as those that we did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.audit.judging import AS_GIVEN, TESTS, Setting
from cnsdiff.audit.lists import Lists, place_lists, read_lists
from cnsdiff.audit.methods import KS
from cnsdiff.audit.naming import Given
from cnsdiff.audit.suspicion import DEPTH, Signs, signs
from cnsdiff.audit.vectors import Vectors, VectorScorer, read_vectors
from cnsdiff.base.errors import DataError
from cnsdiff.base.spelling import parameter
from cnsdiff.benchmark.fit import selection_by
from cnsdiff.benchmark.grid import DIAL, PLAIN
from cnsdiff.data import Dataset
from cnsdiff.evaluation import Dialled, Scorer, rank
from cnsdiff.evaluation.protocol import evaluate, measure
from cnsdiff.evaluation.relevance import item_counts, relevance_of
from cnsdiff.training.config import TrainingConfig


@dataclass(frozen=True)
class External:
    """A recommender by name, and what it gave for each shift (``None``: for all).

    Attributes
    ----------
    kind
        ``"recommendations"`` or ``"embeddings"``.
    given
        Its lists or vectors.
    """

    name: str
    kind: str
    given: Mapping[str | None, Lists | Vectors]

    def under(self, shift: str) -> Lists | Vectors | None:
        """What there is for a shift."""
        found = self.given.get(shift, self.given.get(None))
        return found.under(shift) if isinstance(found, Lists) else found

    def of_this_shift(self, shift: str) -> bool:
        """Whether what there is was made for this shift alone."""
        if shift in self.given:
            return True
        every = self.given.get(None)
        return isinstance(every, Lists) and "shift" in every.frame.columns


def read_externals(
    recommendations: Sequence[Given],
    embeddings: Sequence[Given],
    columns: Mapping[str, str | None],
) -> list[External]:
    """Read all files, before anything is trained.

    Parameters
    ----------
    recommendations, embeddings
        See :func:`~cnsdiff.audit.naming.parse_given`.
    columns
        Of recommendations, see :func:`~cnsdiff.audit.lists.read_lists`.

    Raises
    ------
    DataError
        A file is wrong, or lists and embeddings share a name.
    """
    found: dict[str, External] = {}
    for kind, every in (("recommendations", recommendations), ("embeddings", embeddings)):
        for one in every:
            known = found.get(one.name)
            if known is not None and known.kind != kind:
                raise DataError(
                    f"{one.file}: {one.name!r} has recommendations already; give the embeddings a "
                    "name of their own with NAME=FILE"
                )
            read: Lists | Vectors = (
                read_lists(one.file, columns)
                if kind == "recommendations"
                else read_vectors(one.file)
            )
            given = {**(known.given if known else {}), one.shift: read}
            found[one.name] = External(one.name, kind, given)
    return list(found.values())


@dataclass(frozen=True)
class Outside:
    """One recommender under one shift.

    Attributes
    ----------
    settings
        As it is; of embeddings, read at the dial that the expected shift picks too.
    k
        Cut-off at which it is judged: the lists may be short.
    signs
        Of having seen the held-out pairs.
    counts
        What became of the file's rows, for JSON.
    without_list
        By test: its users that have no list, who count as misses.
    """

    name: str
    kind: str
    settings: tuple[Setting, ...]
    k: int
    signs: Signs
    counts: dict[str, Any]
    without_list: Mapping[str, int]
    of_this_shift: bool


def judge_external(
    external: External,
    dataset: Dataset,
    shift: str,
    anticipate: str,
    training: Mapping[str, Any],
    metric: str,
    *,
    seed: int,
) -> Outside | None:
    """Measure a recommender on the splits of a shift; ``None`` if it gave nothing for it.

    Parameters
    ----------
    external
        The recommender.
    dataset
        Of the shift.
    shift, anticipate, training
        Its name, its validation objective and what shapes it.
    metric
        Of the audit; the cut-off may be lowered to the length of the lists.
    seed
        Of the signs.

    Raises
    ------
    DataError
        Not one of its users or items is known to the dataset.
    """
    given = external.under(shift)
    if given is None:
        return None
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    asked = int(metric.partition("@")[2])
    if isinstance(given, Lists):
        placed = place_lists(given, dataset, train, max(KS))
        counts = {
            **placed.counts,
            "longest": placed.longest,
            "length": placed.length,
            "ordered_by": given.ordered_by,
        }
        if not counts["users"]:
            raise _nothing_known(given.source, counts, dataset)
        k = max((k for k in KS if k <= min(asked, placed.length)), default=1)
        settings = [
            _setting(external.name, AS_GIVEN, _per_user(placed.items, dataset, train, TESTS))
        ]
        with_train = placed.with_train
    else:
        scorer = VectorScorer(given, dataset)
        counts = dict(scorer.counts)
        if not counts["users"] or not counts["items"]:
            raise _nothing_known(given.source, counts, dataset)
        k = asked
        settings = _read_at_dials(external.name, scorer, dataset, anticipate, training, metric)
        every = torch.arange(dataset.n_users)
        with_train = rank(scorer, every, DEPTH)[0]
    has_list = (with_train >= 0).any(1)
    found = signs(with_train, dataset, seed=seed)
    without = {
        test: int((~has_list[relevance_of(dataset.split(test), test, train.shape).users]).sum())
        for test in TESTS
    }
    return Outside(
        external.name,
        external.kind,
        tuple(settings),
        k,
        found,
        counts,
        without,
        external.of_this_shift(shift),
    )


def _setting(
    name: str, selection: str, per_user: Mapping[str, Any], dial: float | None = None
) -> Setting:
    return Setting(name, selection, None, dial, 0, 0.0, "itself", per_user)


def _per_user(
    items: Tensor, dataset: Dataset, train: csr_array, tests: Sequence[str]
) -> dict[str, Any]:
    """The metrics of each user's list, by test."""
    counts = item_counts(train)
    found = {}
    for test in tests:
        relevant = relevance_of(dataset.split(test), test, train.shape)
        measured = measure(relevant, items[relevant.users], counts, KS, per_user=True)
        found[test] = measured.per_user
    return found


def _read_at_dials(
    name: str,
    scorer: Scorer,
    dataset: Dataset,
    anticipate: str,
    training: Mapping[str, Any],
    metric: str,
) -> list[Setting]:
    """The vectors as they are, and at the dials that validation picks for today and the shift."""
    selections = (PLAIN + DIAL, anticipate + DIAL)
    selection = selection_by(dataset, selections, metric, TrainingConfig(**training))
    read: list[tuple[str, Scorer, float | None]] = [(AS_GIVEN, scorer, None)]
    for key, (dial, _) in selection.place(scorer, selections).items():
        read.append((key, Dialled(scorer, selection.exposure_score, dial), dial))
    return [
        _setting(name, key, evaluate(one, dataset, TESTS, KS, per_user=True).per_user, gamma)
        for key, one, gamma in read
    ]


def _nothing_known(source: str, counts: Mapping[str, Any], dataset: Dataset) -> DataError:
    side = "item" if counts.get("unknown_items") and not counts.get("unknown_users") else "user"
    ids = dataset.items if side == "item" else dataset.users
    return DataError(
        f"{source}: none of its {side}s is known to the log, whose {side}s are called "
        f"{ids[0]!r}, {ids[min(1, len(ids) - 1)]!r}, …; give the same ids, or name the column with "
        f"{parameter(side, ...)}"
    )
