"""Updates: a run trained further on its own log and what has come since, and judged beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, cast, get_args

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.base.errors import DataError, InputError, warn
from cnsdiff.base.settings import Record
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset, Interactions, Split, load_dataset, read_interactions
from cnsdiff.data.ids import Vocabulary, as_integers, as_type, unify
from cnsdiff.data.splits import pair_matrix
from cnsdiff.environment import Activity, rehearse
from cnsdiff.evaluation import Scorer, evaluate_split
from cnsdiff.evaluation.anticipation import Anticipated
from cnsdiff.evaluation.significance import paired_bootstrap
from cnsdiff.recommender.closed_form import fit_closed_form
from cnsdiff.recommender.config import Config, Tree, resolve_config
from cnsdiff.recommender.embedding_model import Model
from cnsdiff.recommender.fitting import fit
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.recommender.warm_start import WarmStart
from cnsdiff.shifts import Filters
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import FEW_USERS

#: Of an update, beside the run's own files: a :class:`Comparison`.
UPDATE = "update.json"
#: Of the pairs that are new, how many judge old and new.
JUDGED = 1 / 3
#: What is known of users and items at any time; other side tables are of one experiment.
_FEATURES = {"user_features": "user", "item_features": "item"}
#: What chooses by something that new interactions do not have.
_OF_ITS_DATASET = ("target-counts", "target-sample", "test_ood")


class Comparison(Record):
    """Old and new on the same later pairs, which neither has seen."""

    metric: str
    old: float
    """The run, its environment and the histories of users those of the moment."""
    new: float
    """An update made at that moment."""
    interval: list[float]
    """95% of ``new - old``, over users."""
    users: int
    pairs: int
    """Those that judge."""
    moment: float
    """When; what judges came later."""

    @property
    def better(self) -> bool:
        """Whether the new one is no worse."""
        return self.new >= self.old


@dataclass(frozen=True)
class Updating:
    """The old and the new interactions of a run as one log.

    Attributes
    ----------
    fitted
        The run.
    dataset
        All interactions, old and new, in train.
    until
        Time of the last pair that the run learnt, or was chosen on.
    classes
        Components that are not found by name.
    """

    fitted: Fitted
    dataset: Dataset
    until: float
    classes: Mapping[str, type[Any]] = field(default_factory=dict)

    @classmethod
    def of_run(
        cls,
        fitted: Fitted,
        log: Any,
        dataset: Dataset | None = None,
        *,
        classes: Mapping[str, type[Any]] = MappingProxyType({}),
        without: Callable[[str], bool] | None = None,
        features: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
    ) -> Self:
        """Put the log of a run and new interactions together.

        A pair that both have is there once, at its earliest time. New interactions pass the filters
        that the log of the run has passed; without ratings, all are positive.

        Parameters
        ----------
        fitted
            A finished training.
        log, dataset
            As of :meth:`cnsdiff.Recommender.update`, whose errors these are.
        classes
            Components that are not found by name, as of :func:`~cnsdiff.recommender.fitting.fit`.
        without
            Whether the log of the run is to be read without the user of an id, as text.
        features
            What is known, by column, of items by their ids as text. Of items without features in
            the dataset, the columns that it has are taken.
        """
        learnt = dataset_of(fitted) if dataset is None else dataset
        if learnt.fingerprint != fitted.provenance.dataset.fingerprint:
            raise InputError(
                f"{learnt.path or learnt.name}: is not the dataset this model was trained on "
                f"({fitted.provenance.dataset.name!r}, or its content changed); give that one"
            )
        log = log if isinstance(log, Interactions) else read_interactions(log)
        old = _frame(learnt, learnt.merged().split("train"))
        seen = _seen(learnt)
        if without is not None:
            old = _without(old, without)
            seen = replace(seen, frame=_without(seen.frame, without))
        for frame, source in ((old, learnt.path or learnt.name), (log.frame, log.source)):
            if "timestamp" not in frame.columns:
                raise DataError(
                    f"{source}: has no times, which tell what is new; give a log with times, or "
                    "train anew on all of it"
                )
        stated = learnt.manifest.settings
        filters = Filters(
            **{f.name: cast(Any, stated.get(f.name, f.default)) for f in fields(Filters)}
        )
        rated = "rating" in log.frame.columns
        new = log.positives(filters.threshold if rated else None).frame
        names = [name for name in ("user", "item", "timestamp", "weight") if name in new.columns]
        # Text ids of a store may be the whole numbers of the log.
        wide = new.select(names).with_columns(
            _like(new[side], old[side]).alias(side) for side in ("user", "item")
        )
        tables = {"old": Interactions(old, learnt.name), "new": Interactions(wide, log.source)}
        for side in ("user", "item"):
            same = unify(tables, side)
            tables = {
                name: Interactions(table.frame.with_columns(same[name].alias(side)), table.source)
                for name, table in tables.items()
            }
        both = pl.concat([table.frame for table in tables.values()], how="diagonal_relaxed")
        if "weight" in both.columns:
            both = both.with_columns(pl.col("weight").fill_null(1.0))
        known = len(tables["old"].frame.unique(["user", "item"]))
        unrated = replace(filters, threshold=None)
        pairs, counts = unrated.clean(Interactions(both, learnt.name), core=True)
        until = end_of(fitted, learnt)
        if (
            len(both.unique(["user", "item"])) == known
            or not (pairs.frame["timestamp"].to_numpy() > until).any()
        ):
            raise DataError(
                f"{log.source}: holds no pair of a user and an item that is later than those the "
                "run was trained on, so there is nothing to learn from it; give newer interactions"
            )
        dataset = Dataset.from_splits(
            {"train": pairs},
            name=learnt.name,
            scenario="given",
            source=learnt.manifest.source,
            settings=filters.settings(),
            counts={"train": counts},
            tables=_with_new_items(_features(learnt), features),
            logs=[pairs, seen, log],
        )
        return cls(fitted, dataset, until, classes)

    @classmethod
    def again(cls, fitted: Fitted, dataset: Dataset) -> Self:
        """An update that was begun before, on this dataset."""
        return cls(fitted, dataset, end_of(fitted))

    @property
    def n_new(self) -> int:
        """Pairs that are later than all that the run learnt."""
        return int((_times(self.dataset) > self.until).sum())

    def configuration(self) -> Config:
        """The configuration of the run, but that a rehearsal chooses.

        Raises
        ------
        InputError
            Its choices need what new interactions do not have.
        """
        tree: Tree = self.fitted.config.model_dump(mode="json")
        training = tree["training"]
        chosen_on = training["select_on"]
        if chosen_on in _OF_ITS_DATASET:
            raise InputError(
                f"the run was chosen by select_on={chosen_on!r}, which is known of its own dataset "
                "alone; prepare old and new interactions together, and train on them"
            )
        if chosen_on in get_args(Anticipated):  # the shift that comes beside that of time
            training["select_also"] = training["select_also"] or chosen_on
        dial = training["dial"] if training["dial"] == "off" else "auto"
        training |= {"select_on": "rehearsal", "refit": "auto", "dial": dial}
        own = {kind: {each.__name__: each} for kind, each in self.classes.items()}
        return resolve_config(
            tree,
            source="the configuration of the run",
            backbones=own.get("backbone"),
            samplers=own.get("sampler"),
        )

    def fit(
        self,
        *,
        keep: Callable[[Fitted], None],
        warm: bool = True,
        run: Path | None = None,
        reporter: Reporter | None = None,
        **listening: Any,
    ) -> None:
        """Train on old and new; see :meth:`cnsdiff.Recommender.update`.

        Parameters
        ----------
        keep, run, reporter, **listening
            As of :func:`cnsdiff.recommender.fitting.fit`.
        warm
            Whether training may begin where the run is.
        """
        start = self.start() if warm else None
        (reporter or Reporter()).note(
            f"{len(self.dataset.split('train')):,} pairs, {self.n_new:,} of them new; training "
            + ("begins anew" if start is None else "begins at the vectors of the run")
        )
        self._fit(self.dataset, start, keep=keep, run=run, reporter=reporter, **listening)

    def compare(self, *, warm: bool = True, reporter: Reporter | None = None) -> Comparison:
        """Make the update at an earlier moment, and judge it and the run by what came after.

        Raises
        ------
        DataError
            Too few users come again after that moment.
        """
        trial = self.trial()
        start = self.start(trial.dataset) if warm else None
        (reporter or Reporter()).note(
            f"first an update without the last {len(trial.judges):,} new pairs, which judge it"
        )
        results: list[Fitted] = []
        self._fit(trial.dataset, start, keep=results.append, reporter=reporter)
        return trial.comparison(results[0].model)

    def _fit(self, dataset: Dataset, start: WarmStart | None, **rest: Any) -> None:
        config = self.configuration()
        if config.closed_form:
            fit_closed_form(config, dataset, classes=self.classes, **rest)
        else:
            fit(config, dataset, classes=self.classes, start=start, **rest)

    def start(self, dataset: Dataset | None = None) -> WarmStart | None:
        """Where training can begin; ``None``: as always.

        So it is for a run that was not rehearsed, in closed form, or with a backbone that has no
        tables; and where content is chosen, on items held out that the tables may know.

        Parameters
        ----------
        dataset
            A part of :attr:`dataset` with its internal numbers as ids; by default all of it.
        """
        config, model, whole = self.configuration(), self.fitted.model, self.dataset
        if config.closed_form or config.content.prior != "none" or config.training.shard:
            return None
        start = WarmStart.of_run(
            self.fitted.weights,
            self.fitted.rehearsed,
            (model.users, model.items),
            (whole.users, whole.items),
        )
        if start is None or dataset is None:
            return start
        return start.of_part(dataset.users, dataset.items)

    def trial(self) -> Trial:
        """What an update is judged by before it is made: the latest of the new pairs.

        Raises
        ------
        DataError
            Fewer than :data:`~cnsdiff.training.selection.FEW_USERS` users come again.
        """
        times = np.sort(_times(self.dataset))
        n_new = int((times > self.until).sum())
        cut = float(times[-max(1, round(JUDGED * n_new))])
        part = rehearse(self.dataset, max(float(times[-1]) - cut, 1.0)).dataset
        judges = part.split("valid")
        n_users = len(np.unique(judges.users))
        if n_users < FEW_USERS:
            raise DataError(
                f"{self.dataset.name}: {n_users} users come again among the new interactions, too "
                f"few to tell whether an update is better (at least {FEW_USERS}); update when "
                "there are more"
            )
        before = Dataset.from_splits(
            {"train": Interactions(_frame(part, part.split("train")), part.name)},
            name=self.dataset.name,
            scenario="given",
            tables=_features(self.dataset, as_numbers=True),
        )
        return Trial(self, before, judges)


@dataclass(frozen=True)
class Trial:
    """An update at an earlier moment, and what came after it.

    Attributes
    ----------
    updating
        The update to come.
    dataset
        What there was at that moment, in train; its ids are internal numbers of the whole.
    judges
        Later pairs of users and items known then, in internal numbers of :attr:`dataset`.
    """

    updating: Updating
    dataset: Dataset
    judges: Split

    def comparison(self, new: Model) -> Comparison:
        """Judge a model that was trained on :attr:`dataset`, and the run beside it.

        No list has what its user had until then. The run is as it would be served at the moment
        (:func:`of_others`).
        """
        data, metric = self.dataset, self.updating.fitted.config.training.select_metric
        log = data.split("train")
        past = log.csr(data.n_users, data.n_items)
        k = int(metric.rpartition("@")[2])
        whole = self.updating.dataset
        ids = whole.decode_users(data.users.to_numpy()), whole.decode_items(data.items.to_numpy())
        old = of_others(self.updating.fitted.model, ids, log)
        values = []
        for scorer in (new.scorer(), old):
            table = evaluate_split(scorer, self.judges, past, ks=(k,), per_user=True).per_user
            assert table is not None
            values.append(table[metric].to_numpy().astype(np.float64))
        gain = paired_bootstrap(*values, seed=0)
        return Comparison(
            metric=metric,
            old=float(values[1].mean()),
            new=float(values[0].mean()),
            interval=[gain.low, gain.high],
            users=len(values[0]),
            pairs=len(self.judges),
            moment=float(_times(data).max()),
        )


def dataset_of(fitted: Fitted) -> Dataset:
    """The dataset that a run was trained on, from where it was."""
    place = fitted.provenance.dataset.path
    if place is None:
        raise InputError(
            "the model was trained on a dataset in memory, so its log is not known; pass "
            f"{parameter('dataset', ...)}"
        )
    return load_dataset(place)


def end_of(fitted: Fitted, dataset: Dataset | None = None) -> float:
    """Time of the last pair that a run has learnt, or was chosen on."""
    learnt = dataset_of(fitted) if dataset is None else dataset
    times = learnt.merged().split("train").timestamps
    if times is None:
        raise DataError(
            f"{learnt.path or learnt.name}: has no times, which tell what is new; train on a log "
            "with times"
        )
    return float(times.max())


def of_others(model: Model, ids: tuple[pl.Series, pl.Series], log: Split) -> Scorer:
    """A model as it would be served at a later moment, for other users and items.

    Parameters
    ----------
    model
        Its environment is that of the end of the log, and users are folded in.
    ids
        Of the users and items to score. Items that the model does not know are at minus infinity.
    log
        All that happened until the moment, numbered as ``ids``.
    """
    users, items = (
        Vocabulary(own.alias("id")).encode(asked)
        for own, asked in zip((model.users, model.items), ids, strict=True)
    )
    own = items[log.items]
    known = own >= 0
    since = pair_matrix(log.users[known], own[known], (len(users), len(model.items)))
    bias: Tensor | None = getattr(model.scorer(), "item_bias", None)
    if model.environment is not None and model.activity is not None:
        assert log.timestamps is not None
        activity = Activity.of(
            own[known],
            log.timestamps[known],
            len(model.items),
            half_lives=model.activity.half_lives,
            span=model.activity.span,
        )
        bias = model.live_bias(replace(activity, n_known=model.activity.n_known))
    return Elsewhere(model.fold_in(users, since), torch.from_numpy(items), bias)


class Elsewhere:
    """A scorer among items of other numbers, of which it may not know all.

    Parameters
    ----------
    scorer
        Of its own items.
    numbers
        ``(n,)`` what the scorer calls each of the items, or -1.
    bias
        ``(I,)`` added to the scores of its items.
    """

    def __init__(self, scorer: Scorer, numbers: Tensor, bias: Tensor | None) -> None:
        self.scorer, self.numbers, self.bias = scorer, numbers, bias
        self.n_users, self.n_items = scorer.n_users, len(numbers)

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        """See :class:`cnsdiff.evaluation.Scorer`."""
        own = self.numbers[start:stop]
        known = own >= 0
        scores = torch.full((len(users), len(own)), -torch.inf)
        if known.any():
            # Items keep their order from one log to the next, so that these are few beside them.
            first, last = int(own[known].min()), int(own.max())
            block = self.scorer.score_block(users, first, last + 1).float()
            if self.bias is not None:
                block += self.bias[first : last + 1]
            scores[:, known] = block[:, own[known] - first]
        return scores


def _times(dataset: Dataset) -> NDArray[Any]:
    times = dataset.split("train").timestamps
    assert times is not None
    return times


def _frame(dataset: Dataset, split: Split) -> pl.DataFrame:
    """The pairs of a split in the ids as given."""
    columns: dict[str, pl.Series | NDArray[Any]] = {
        "user": dataset.decode_users(split.users),
        "item": dataset.decode_items(split.items),
    }
    for name, values in (("timestamp", split.timestamps), ("weight", split.weights)):
        if values is not None:
            columns[name] = values
    return pl.DataFrame(columns)


def _like(ids: pl.Series, others: pl.Series) -> pl.Series:
    """Text as whole numbers, if the others are such and no id loses by it."""
    return as_integers(ids) if others.dtype.is_integer() else ids


def _features(dataset: Dataset, *, as_numbers: bool = False) -> dict[str, pl.DataFrame]:
    """Features of users and items in the ids as given, or with internal numbers as ids."""
    ids = {"user": dataset.users, "item": dataset.items}
    if as_numbers:
        ids = {side: pl.int_range(len(own), eager=True) for side, own in ids.items()}
    return {
        name: dataset.table(name).with_columns(ids[side].alias(side))
        for name, side in _FEATURES.items()
        if name in dataset.table_names
    }


def _with_new_items(
    tables: Mapping[str, pl.DataFrame], features: Mapping[str, Mapping[str, object]]
) -> dict[str, pl.DataFrame]:
    """The tables with features of items of which the one of items tells nothing."""
    if "item_features" not in tables or not features:
        return dict(tables)
    known = tables["item_features"]
    known = known.filter(~pl.all_horizontal(pl.exclude("item").is_null()))
    texts = pl.Series("item", list(features), dtype=pl.String)
    ids = as_type(texts, known["item"].dtype).alias("item")
    new = (ids.cast(pl.String) == texts).fill_null(False) & ~ids.is_in(known["item"].implode())
    rows = [row for row, own in zip(features.values(), new, strict=True) if own]
    columns = [_values(rows, own) for own in known.get_columns() if own.name != "item"]
    more = pl.DataFrame([ids.filter(new), *columns]).select(known.columns)
    return {**tables, "item_features": pl.concat([known, more])}


def _values(rows: Sequence[Mapping[str, object]], known: pl.Series) -> pl.Series:
    """One feature of some items, of the type of a column; null where it is something else."""
    name, dtype = known.name, known.dtype
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    lists = pl.List(inner)
    told = [row.get(name) for row in rows]
    if dtype == pl.String:  # of several words, as they stand in one text
        told = ["|".join(map(str, own)) if isinstance(own, list) else own for own in told]
    elif inner is not dtype:
        told = [own if isinstance(own, list) else None for own in told]
    values = pl.Series(name, told, dtype=dtype if inner is dtype else lists, strict=False)
    if inner is dtype and dtype.is_float():
        values = values.set(~values.is_finite().fill_null(True), None)
    elif inner is not dtype and inner.is_float():  # vectors, all of one length
        width = known.cast(lists).list.len().max()
        whole = values.list.eval(pl.element().is_finite().fill_null(False).all()).list.first()
        values = pl.select(pl.when((values.list.len() == width) & whole).then(values)).to_series()
    lost = sum(own is not None for own in told) - (len(values) - values.null_count())
    if lost:
        warn(
            f"{lost:,} of {len(rows):,} new items have a {name!r} that does not fit the type "
            f"{dtype} of that column in the dataset; it counts as not known"
        )
    return values.cast(dtype).alias(name)


def _without(frame: pl.DataFrame, out: Callable[[str], bool]) -> pl.DataFrame:
    """The rows of users who are not left out."""
    users = frame["user"].unique()
    gone = users.filter(pl.Series([out(str(user)) for user in users], dtype=pl.Boolean))
    return frame.filter(~pl.col("user").is_in(gone.implode()))


def _seen(dataset: Dataset) -> Interactions:
    """What a log says of its users beyond train, in the ids as given."""
    seen = dataset.seen()
    users = dataset.users.gather(seen["user"])
    others = seen["id"]
    if users.dtype != others.dtype:
        users, others = users.cast(pl.String), others.cast(pl.String)
    frame = pl.DataFrame(
        {
            "user": users.zip_with(users.is_not_null(), others),
            "item": dataset.items.gather(seen["item"]),
            **({"timestamp": seen["timestamp"]} if "timestamp" in seen.columns else {}),
        }
    )
    return Interactions(frame, dataset.name)
