"""Recommenders that were not trained here: named, read, and judged on the same splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.audit.judging import AS_GIVEN, TESTS, Setting
from cnsdiff.audit.lists import Lists, place_lists, read_lists
from cnsdiff.audit.record import Test
from cnsdiff.audit.shifts import SHIFTS, Shift
from cnsdiff.audit.suspicion import DEPTH, Signs, signs
from cnsdiff.audit.training import KS, METHODS
from cnsdiff.audit.vectors import Vectors, VectorScorer, read_vectors
from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.base.text import parameter
from cnsdiff.benchmark.fit import selection_by
from cnsdiff.benchmark.grid import DIAL, PLAIN
from cnsdiff.data import Dataset
from cnsdiff.evaluation import Dialled, Scorer, rank
from cnsdiff.evaluation.metrics import item_counts, relevance_of
from cnsdiff.evaluation.protocol import evaluate, measure

#: What a recommender is called that has no name of its own.
YOURS = "yours"


@dataclass(frozen=True)
class NamedFile:
    """A file, whose it is, and for which shift.

    Attributes
    ----------
    name
        Of the recommender.
    shift
        Whose splits it was made for; ``None`` for all.
    file
        Where it is.
    """

    name: str
    shift: str | None
    file: Path


def parse_names(texts: Sequence[str], option: str) -> list[NamedFile]:
    """``FILE``, ``NAME=FILE``, ``SHIFT=FILE`` or ``NAME:SHIFT=FILE``, each.

    A file without a name is called after itself, or :data:`YOURS` if it is for one shift.

    Raises
    ------
    ConfigError
        A file does not exist, a name is taken, or a recommender has two files for one shift.
    """
    files: list[NamedFile] = []
    for text in texts:
        before, equals, after = text.partition("=")
        if not equals or Path(text).exists():
            before, after = "", text
        name, colon, shift = before.partition(":")
        if before in SHIFTS:
            name, shift = YOURS, before
        elif colon and shift not in SHIFTS:
            raise ConfigError(
                f"{parameter(option)} {text}: no shift is called {shift!r}; there are "
                f"{', '.join(SHIFTS)}"
            )
        file = Path(after)
        name = name or ("" if shift else file.name.split(".")[0]) or YOURS
        if not file.exists():
            raise ConfigError(
                f"{parameter(option)} {text}: there is no file {file}; check the path"
            )
        if name in METHODS or name in SHIFTS:
            raise ConfigError(
                f"{parameter(option)} {text}: the name {name!r} is taken; give it another with "
                "NAME=FILE"
            )
        named = NamedFile(name, shift or None, file)
        if any((name, named.shift) == (other.name, other.shift) for other in files):
            where = f" under {named.shift}" if named.shift else ""
            raise ConfigError(
                f"{parameter(option)} {text}: {name!r} has two files{where}; give each "
                "recommender a name of its own with NAME=FILE"
            )
        files.append(named)
    return files


Kind = Literal["recommendations", "embeddings"]


@dataclass(frozen=True)
class External:
    """A recommender by name.

    Attributes
    ----------
    kind
        What it came as.
    files
        Its lists or vectors for each shift; under ``None`` those for all.
    """

    name: str
    kind: Kind
    files: Mapping[str | None, Lists | Vectors]

    def under(self, shift: str) -> Lists | Vectors | None:
        """Its lists or vectors for a shift."""
        content = self.files.get(shift, self.files.get(None))
        return content.under(shift) if isinstance(content, Lists) else content

    def of_this_shift(self, shift: str) -> bool:
        """Whether they were made for this shift alone."""
        if shift in self.files:
            return True
        every = self.files.get(None)
        return isinstance(every, Lists) and "shift" in every.frame.columns


def read_externals(
    recommendations: Sequence[NamedFile],
    embeddings: Sequence[NamedFile],
    columns: Mapping[str, str | None],
) -> list[External]:
    """Read all files, before anything is trained; ``columns`` as of :func:`read_lists`.

    Raises
    ------
    DataError
        A file is wrong, or lists and embeddings share a name.
    """
    externals: dict[str, External] = {}

    def add(named: NamedFile, kind: Kind, content: Lists | Vectors) -> None:
        known = externals.get(named.name, External(named.name, kind, {}))
        externals[named.name] = replace(known, files={**known.files, named.shift: content})

    for named in recommendations:
        add(named, "recommendations", read_lists(named.file, columns))
    for named in embeddings:
        if named.name in externals and externals[named.name].kind == "recommendations":
            raise DataError(
                f"{named.file}: {named.name!r} has recommendations already; give the embeddings a "
                "name of their own with NAME=FILE"
            )
        add(named, "embeddings", read_vectors(named.file))
    return list(externals.values())


# --- Judging


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
    of_this_shift
        Whether it was made for this shift alone.
    """

    name: str
    kind: Kind
    settings: tuple[Setting, ...]
    k: int
    signs: Signs
    counts: dict[str, int | str]
    without_list: Mapping[Test, int]
    of_this_shift: bool

    @property
    def as_given(self) -> Setting:
        """The recommender as it is."""
        return self.settings[0]


def judge_external(
    external: External, dataset: Dataset, shift: Shift, metric: str, *, seed: int
) -> Outside | None:
    """Measure a recommender on the splits of a shift; ``None`` if it has nothing for it.

    Where its lists are short, ``Outside.k`` is a smaller cut-off than the metric's.

    Raises
    ------
    DataError
        Not one of its users or items is known to the dataset.
    """
    content = external.under(shift.name)
    if content is None:
        return None
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    k = int(metric.partition("@")[2])
    counts: dict[str, int | str]
    if isinstance(content, Lists):
        placed = place_lists(content, dataset, train, max(KS))
        counts = {
            **placed.counts,
            "longest": placed.longest,
            "length": placed.length,
            "ordered_by": content.ordered_by,
        }
        if not counts["users"]:
            raise _nothing_known(content.source, counts, dataset)
        k = max((shorter for shorter in KS if shorter <= min(k, placed.length)), default=1)
        settings = [_setting(external.name, _measured(placed.items, dataset, train))]
        with_train = placed.with_train
    else:
        scorer = VectorScorer(content, dataset)
        counts = dict(scorer.counts)
        if not counts["users"] or not counts["items"]:
            raise _nothing_known(content.source, counts, dataset)
        settings = _read_at_dials(external.name, scorer, dataset, shift, metric)
        with_train = rank(scorer, torch.arange(dataset.n_users), DEPTH)[0]
    without_list = {}
    has_list = (with_train >= 0).any(1)
    for test in TESTS:
        users = relevance_of(dataset.split(test), test, train.shape).users
        without_list[test] = int((~has_list[users]).sum())
    return Outside(
        external.name,
        external.kind,
        tuple(settings),
        k,
        signs(with_train, dataset, seed=seed),
        counts,
        without_list,
        external.of_this_shift(shift.name),
    )


def _setting(
    name: str,
    per_user: Mapping[str, pl.DataFrame],
    selection: str = AS_GIVEN,
    dial: float | None = None,
) -> Setting:
    return Setting(name, selection, None, dial, 0, 0.0, "itself", per_user)


def _measured(items: Tensor, dataset: Dataset, train: csr_array) -> Mapping[str, pl.DataFrame]:
    """The metrics of each user's list, by test."""
    counts = item_counts(train)
    per_user: dict[str, pl.DataFrame] = {}
    for test in TESTS:
        relevant = relevance_of(dataset.split(test), test, train.shape)
        evaluation = measure(relevant, items[relevant.users], counts, KS, per_user=True)
        assert evaluation.per_user is not None
        per_user[test] = evaluation.per_user
    return per_user


def _read_at_dials(
    name: str, scorer: Scorer, dataset: Dataset, shift: Shift, metric: str
) -> list[Setting]:
    """The vectors as they are, and at the dials that validation picks for today and the shift."""
    selections = (PLAIN + DIAL, shift.without_training + DIAL)
    selection = selection_by(dataset, selections, metric, shift.selection)

    def per_user(reading: Scorer) -> Mapping[str, pl.DataFrame]:
        return evaluate(reading, dataset, TESTS, KS, per_user=True).per_user

    settings = [_setting(name, per_user(scorer))]
    for key, (dial, _) in selection.place(scorer, selections).items():
        dialled = Dialled(scorer, selection.exposure_score, dial)
        settings.append(_setting(name, per_user(dialled), key, dial))
    return settings


def _nothing_known(source: str, counts: Mapping[str, int | str], dataset: Dataset) -> DataError:
    side = "item" if counts.get("unknown_items") and not counts.get("unknown_users") else "user"
    ids = dataset.items if side == "item" else dataset.users
    return DataError(
        f"{source}: none of its {side}s is known to the log, whose {side}s are called "
        f"{ids[0]!r}, {ids[min(1, len(ids) - 1)]!r}, …; give the same ids, or name the column with "
        f"{parameter(side, ...)}"
    )
