"""A run in memory, and how it follows the events and the catalogue."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.errors import InputError, RunError
from cnsdiff.base.storage import first_line, read_json
from cnsdiff.base.text import Command, install_command
from cnsdiff.data import Dataset, load_dataset, read_features
from cnsdiff.data.ids import IdIndex, as_type
from cnsdiff.data.splits import pair_matrix
from cnsdiff.diagnostics.drift import Drift, UserActivity, measure_drift, taste_groups
from cnsdiff.environment.activity import Activity
from cnsdiff.evaluation.metrics import item_counts
from cnsdiff.evaluation.ranking import EmbeddingScorer, Scorer
from cnsdiff.recommender.embedding_model import EmbeddingModel, Model
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.recommender.run_directory import read_manifest, read_run
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.index import EXACT_UP_TO, ItemIndex, largest
from cnsdiff.serving.ranking import Catalogue, best
from cnsdiff.serving.records import Version
from cnsdiff.serving.schemas import ExplainRequest, RecommendRequest

log = logging.getLogger(__name__)
Numbers = NDArray[np.int64]
#: Events that tell how far the environment has moved, at most and at the least.
_LATEST, _ENOUGH = 50_000, 100
#: The longest list that comes from an index.
_SEARCHED = 1_000
#: Users by whom an index is tried, and the share of their exact lists that it has to find.
_TRIED, _RECALL = 50, 0.95
_NOTHING: Mapping[str, Any] = {}


@dataclass
class Taste:
    """What is known of a user, under one snapshot."""

    scorer: Scorer
    row: int
    """Of the scorer, which has others' as well."""
    seen: Numbers
    history: Numbers
    source: Literal["trained", "folded-in", "session", "environment"]

    @cached_property
    def scores(self) -> Tensor:
        """``(I,)`` float32, without a bias."""
        if self.source == "environment":
            return torch.zeros(self.scorer.n_items)
        with torch.no_grad():
            return self.scorer.score_block(torch.tensor([self.row]), 0, self.scorer.n_items)[0]


@dataclass(frozen=True)
class Snapshot:
    """All that an answer is made from, swapped as one.

    Attributes
    ----------
    version
        Its name.
    model
        With the items that were added since.
    users, others
        Where the ids of its users are found, and those that it knows by their history alone.
    bias
        ``(I,)`` float32 what the environment adds to scores.
    popular
        ``(I,)`` float32 by what items are ranked for somebody of whom nothing is known: the same,
        or popularity in training where there is no environment.
    catalogue
        The items.
    index
        Of the items; ``None`` if each is scored.
    by_bias
        Numbers of the items of the largest bias, largest first; none without an index.
    activity
        What the environment was computed from; ``None`` if it is not live.
    without
        Number of the last user in the store's list of forgotten ones of whom it learnt nothing.
    item_seq
        Number of the last change of an item that it has seen.
    """

    version: str
    model: Model
    users: IdIndex
    others: IdIndex
    bias: Tensor
    popular: Tensor
    catalogue: Catalogue
    index: ItemIndex | None
    by_bias: Numbers
    activity: Activity | None
    without: int
    item_seq: int

    def tastes(
        self,
        requests: Sequence[RecommendRequest | ExplainRequest],
        events: Sequence[Sequence[str]],
        nobody: Sequence[bool],
    ) -> list[Taste]:
        """What is known of the users of some requests: scores without a bias, and histories.

        Parameters
        ----------
        events
            Of each request, the items of the user's events.
        nobody
            Of each request, whether its user counts as one whom the run does not know.
        """
        model, index = self.model, self.catalogue.index
        numbers = self.users.find_text([request.user or "" for request in requests])
        since: list[Numbers] = []
        sources: list[Literal["trained", "folded-in", "session", "environment"]] = []
        numbers[np.array(nobody, dtype=bool)] = -1
        for n, request in enumerate(requests):
            stored = index.find_text(events[n])
            items = np.concatenate([stored, index.find_text(request.session)])
            since.append(items[items >= 0])
            if (stored >= 0).any() or (len(since[-1]) and numbers[n] >= 0):
                sources.append("folded-in")
            elif len(since[-1]):
                sources.append("session")
            else:
                sources.append("trained" if numbers[n] >= 0 else "environment")
        with torch.no_grad():
            if all(source == "trained" for source in sources):
                scorer = model._of_users(numbers, None)
            else:
                rows = np.repeat(np.arange(len(requests)), [len(items) for items in since])
                shape = len(requests), len(model.items)
                scorer = model.fold_in(numbers, pair_matrix(rows, np.concatenate(since), shape))
        tastes = []
        for n, number in enumerate(numbers.tolist()):
            past = [since[n]]
            if number >= 0:
                past.append(_row(model.train, number))
                if model.seen is not None:
                    past.append(_row(model.seen.pairs, number))
            elif model.seen is not None and not nobody[n]:
                other = int(self.others.find_text([requests[n].user or ""])[0])
                if other >= 0:
                    past.append(_row(model.seen.others_pairs, other))
            seen = np.concatenate(past)
            history = np.concatenate(past[:2]) if number >= 0 else since[n]
            tastes.append(Taste(scorer, n, seen, history, sources[n]))
        # In one product, where there is no index to look into.
        together = [
            taste
            for taste, request in zip(tastes, requests, strict=True)
            if taste.source != "environment" and not self._searches(request)
        ]
        if len(together) > 1:
            places = torch.tensor([taste.row for taste in together])
            with torch.no_grad():
                block = scorer.score_block(places, 0, len(model.items))
            for taste, scores in zip(together, block, strict=True):
                taste.scores = scores
        return tastes

    def _searches(self, request: RecommendRequest | ExplainRequest) -> bool:
        """Whether a request's list may come from the index: its rules concern items one by one."""
        return (
            self.index is not None
            and isinstance(request, RecommendRequest)
            and request.dial is None
            and request.k <= _SEARCHED
            and not (request.pin or request.boost or request.bury or request.quotas)
        )

    def search(
        self, request: RecommendRequest, taste: Taste, n: int
    ) -> tuple[Numbers, NDArray[np.float32]] | None:
        """The numbers and scores of the ``n`` best items that the index finds, best first.

        ``None`` if there is no index, if the request's rules need the scores of all items, or if
        the index finds fewer than may be shown.
        """
        if self.index is None or taste.source == "environment" or not self._searches(request):
            return None
        assert isinstance(taste.scorer, EmbeddingScorer)
        vector = taste.scorer.user_embeddings[taste.row]
        left = self.catalogue.allowed(request).copy()
        left[self.catalogue.numbers(request.exclude)] = False
        if request.seen == "all":
            left[taste.seen] = False
        among = self.index.candidates(vector, left, self.by_bias, n)
        if len(among) < n and len(among) < np.count_nonzero(left):
            return None
        numbers = torch.from_numpy(among)
        scores = taste.scorer.item_embeddings[numbers] @ vector + self.bias[numbers]
        places, values = best(scores, n)
        return among[places], values

    def scores(self, request: RecommendRequest, taste: Taste) -> Tensor:
        """``(I,)`` a user's scores with what the environment adds; those of the taste are lost."""
        bias: Tensor | None = self.bias
        if request.dial is not None:
            bias = self.model._bias(request.dial)
        if taste.source == "environment" and (request.dial is None or bias is None):
            bias = self.popular
        return taste.scores if bias is None else taste.scores.add_(bias)


def content_of(path: Path) -> str:
    """Hex digits that tell a run's content: of its manifest, which holds checksums of the rest."""
    try:
        content = json.dumps(read_json(path / "manifest.json"), sort_keys=True)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: is not a run directory (its manifest.json cannot be read); make one with "
            f"`{Command('train', 'DATASET', out='RUN')}`"
        ) from error
    return hashlib.sha256(content.encode()).hexdigest()


def figures_of(path: Path) -> dict[str, object]:
    """What a store knows of a finished run: its content, and what it tells of its items.

    Raises
    ------
    RunError
        It is missing, unfinished or damaged.
    """
    content = content_of(path)
    read_run(path)
    table = item_table(path)
    return {"content": content, "attributes": [] if table is None else table.columns[1:]}


def item_table(path: Path) -> pl.DataFrame | None:
    """``item`` and what the dataset of a run tells of it; ``None`` where it is not there."""
    place = read_manifest(path).dataset.path
    dataset = None if place is None or not Path(place).is_dir() else load_dataset(place)
    if dataset is None or (table := _features_of(dataset)) is None:
        return None
    return table.select(dataset.items.alias("item"), pl.all())


def _features_of(dataset: Dataset) -> pl.DataFrame | None:
    """A row for each item that was trained on; those of new items come behind."""
    if "item_features" not in dataset.table_names:
        return None
    return dataset.table("item_features")[: len(dataset.items)]


class LoadedVersion:
    """A run in memory.

    Parameters
    ----------
    version
        As the store has it.
    config
        Of the service.
    """

    def __init__(self, version: Version, config: ServiceConfig) -> None:
        recommender = Recommender.load(version.path)
        self.name = version.name
        forgotten = version.figures.get("forgotten", 0)
        self._without = forgotten if isinstance(forgotten, int) else 0
        model = recommender.model_
        self._base, self._config = replace(model, train=_compact(model.train)), config
        table = _attributes(recommender, config)
        #: Names of what items are filtered by: those of its run, and with those of others.
        self.own_attributes = frozenset(() if table is None else table.columns)
        self.attributes = self.own_attributes
        self._attributes = [_NOTHING] * len(model.items) if table is None else _rows(table)
        self._lent: dict[str, Mapping[str, Any]] = {}
        self._fixed = _environment_file(config.environment, self._base)
        live = config.environment == "live" and self._base.sigma is not None
        self._trained = self._base.activity if live else None
        # What came since: items by their order of coming, and events of theirs or of unknown ones.
        self._added: dict[str, int] = {}
        self._features: dict[str, Mapping[str, Any]] = {}
        self._withdrawn: set[str] = set()
        # Items that it does not have, though others may, and those not as they are by now.
        self._elsewhere: set[str] = set()
        self._changed: set[str] = set()
        self._catalogue: Catalogue | None = None
        self._index = _index_of(self._base, config.index)
        self._rng = np.random.default_rng(0)
        self.item_seq = 0
        self.begin_again()
        # Now, so that the first user with events does not wait for the map of histories.
        first = np.zeros(1, dtype=np.int64)
        self._base.fold_in(first - 1, pair_matrix(first, first, (1, len(self._base.items))))
        self.snapshot = self._snapshot()

    def begin_again(self) -> None:
        """Forget all events, to take them anew."""
        self.event_seq = 0
        self._activity = self._trained
        self._others = pl.DataFrame(
            schema={"user": pl.String, "item": pl.String, "timestamp": pl.Float64}
        )
        # Users and items of the latest events by number, -1 of those unknown to the run.
        self._latest = np.zeros((2, 0), dtype=np.int64)

    def is_ahead(self, moment: float) -> bool:
        """Whether events took the environment beyond a moment: the clock has gone back since."""
        return self._activity is not None and self._activity.moment > max(moment, self.moment)

    def age(self, now: float) -> None:
        """Let time go by to that of a clock, if the environment goes on at the clock's time.

        It does if it is behind by no more than its longest half-life. One that is further behind
        is of a log of the past, all of which would fade at once.
        """
        activity = self._activity
        if activity is not None and 0 < now - activity.moment <= activity.memory:
            self._activity = activity.at(now)

    @property
    def moment(self) -> float:
        """When the log ends that a live environment begins with; else minus infinity."""
        return -np.inf if self._trained is None else self._trained.moment

    @property
    def follows(self) -> bool:
        """Whether its environment is live."""
        return self._activity is not None

    def take_items(self, changes: pl.DataFrame) -> None:
        """Follow changes of the catalogue, the columns of ``Store.items_after``."""
        items = changes["item"].to_list()
        known = self._base._item_index.find_text(items) >= 0
        rows = changes.select("seq", "item", "features", "withdrawn").iter_rows()
        for row, is_known, fits in zip(rows, known, self._takes(items), strict=True):
            seq, item, features, withdrawn = row
            self.item_seq = max(self.item_seq, seq)
            (self._withdrawn.add if withdrawn else self._withdrawn.discard)(item)
            if features is not None:
                self._features[item] = json.loads(features)
            if fits and not (is_known or withdrawn or item in self._added):
                self._added[item] = len(self._added)
            self._changed.add(item)
            if is_known or item in self._added:
                self._elsewhere.discard(item)
            else:
                self._elsewhere.add(item)

    def take_attributes(self, names: Collection[str], table: pl.DataFrame | None) -> None:
        """Know attributes that the run lacks: of the table of another, with ``item``, if any."""
        self._catalogue = None
        self._changed = {*self._features, *self._withdrawn, *self._added}
        self.attributes |= frozenset(names)
        if table is None:
            return
        items = table["item"].cast(pl.String).to_list()
        rows = _rows(table.select(names))
        for item, number, row in zip(
            items, self._base._item_index.find_text(items).tolist(), rows, strict=True
        ):
            if not row:
                continue
            if number >= 0:
                self._attributes[number] = {**row, **self._attributes[number]}
            else:  # which it may be told of later
                self._lent[item] = {**row, **self._lent.get(item, _NOTHING)}

    def require(self, items: Mapping[str, Mapping[str, Any] | None]) -> None:
        """:class:`InputError` unless ids are of the run's type, and features of its content."""
        for item, fits in zip(items, self._takes([*items]), strict=True):
            if not fits:
                raise InputError(
                    f"the item {item!r} cannot be added, as the version {self.name!r} has ids of "
                    f"type {self._base.items.dtype}; give ids of that type"
                )
        if (refusal := self._refuses([own or _NOTHING for own in items.values()])) is not None:
            raise refusal

    def _takes(self, items: Sequence[str]) -> list[bool]:
        """Which ids are of the run's type, to the letter: "7.0" is not the id 7."""
        texts = pl.Series(items, dtype=pl.String)
        own = as_type(texts, self._base.items.dtype).cast(pl.String)
        return (own == texts).fill_null(False).to_list()

    def take_events(self, events: pl.DataFrame, until: float = np.inf) -> None:
        """Follow events later than training: the columns of ``Store.events_after``.

        Those after ``until`` were sent while a clock was wrong. One of them would take the
        environment to its time, at which all that was counted is long past.
        """
        if not len(events):
            return
        self.event_seq = max(self.event_seq, int(events["seq"].max()))  # type: ignore[arg-type]
        if self._activity is not None:
            events = events.filter(
                pl.col("timestamp").is_between(self.moment, until, closed="right")
            )
        # Pairs of training count already.
        users = self._base._user_index.find_text(events["user"].to_list())
        numbers = self._base._item_index.find_text(events["item"].to_list())
        known, new = numbers >= 0, self._base.is_new(users, numbers)
        fresh = np.stack([users, numbers])[:, new | ~known]
        self._latest = np.concatenate([self._latest, fresh], axis=1)[:, -_LATEST:]
        if self._activity is not None and new.any():
            times = events["timestamp"].to_numpy()[new]
            self._activity = self._activity.followed_by(numbers[new], times)
        others = events.filter(pl.Series(~known)).select("user", "item", "timestamp")
        if len(others):
            self._others = pl.concat([self._others, others])

    def drift(self) -> Drift | None:
        """How far the latest events are from training; ``None`` before there are enough."""
        users, items = self._latest
        base, known = self._base, items >= 0
        if known.sum() < _ENOUGH:
            return None
        trained = item_counts(base.train).numpy().astype(np.int64)
        if base.activity is not None:
            # What was in use at the end of training: the past before it differs in any shop.
            late = np.rint(base.activity.decayed[:, 0]).astype(np.int64)
            trained = late if late.any() else trained
        groups = None
        if isinstance(base, EmbeddingModel):
            own = users[known & (users >= 0)]
            groups = UserActivity(
                np.diff(base.train.indptr).astype(np.int64),
                np.bincount(own, minlength=len(base.users)),
                self._groups,
            )
        recency = None
        if base.activity is not None:
            recency = base.activity.decayed[:, 0] / np.maximum(base.activity.counts, 1)
        return measure_drift(
            trained,
            np.bincount(items[known], minlength=len(trained)),
            self._rng,
            recency=recency,
            users=groups,
            unknown_items=int((~known).sum()),
            unknown_users=int((users < 0).sum()),
        )

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        assert isinstance(self._base, EmbeddingModel)
        return taste_groups(self._base.user_embeddings.numpy())

    def renew(self) -> None:
        """Make the snapshot anew, of all that was taken."""
        self.snapshot = self._snapshot()

    def renew_items(self) -> None:
        """Make the snapshot anew after changes of the catalogue alone, quickly for a few.

        A new item without clicks changes nothing about the others, so these stay as they were.
        """
        before, n_known = self.snapshot, len(self._base.items)
        added = list(self._added)[len(before.model.items) - n_known :]
        moved = self._base.content is not None and not self._changed.isdisjoint(
            self._added.keys() - added
        )
        if moved or self._others["item"].is_in(added).any():
            self.renew()
            return
        if not added:
            catalogue = self._current_catalogue(before.catalogue.index)
            self.snapshot = replace(before, catalogue=catalogue, item_seq=self.item_seq)
            return
        model = self._with_items(before.model, added)
        activity, bias = before.activity, self._bias_of(model)
        if activity is not None:
            # As an item of which the environment knows nothing: as the mean of all.
            activity = activity.with_items(len(model.items))
            known = before.bias[: activity.n_known]
            more = torch.zeros(len(added)).clamp_(float(known.min()), float(known.max()))
            if model.offsets is not None:
                more += model.offsets[-len(added) :]
            bias = torch.cat([before.bias, more])
        self.snapshot = replace(
            before,
            model=model,
            bias=bias,
            popular=self._popular(model, bias),
            catalogue=self._current_catalogue(
                before.catalogue.index.with_more(model.items[-len(added) :])
            ),
            activity=activity,
            item_seq=self.item_seq,
        )

    def _with_items(
        self, model: Model, added: Sequence[str], clicks: pl.DataFrame | None = None
    ) -> Model:
        """A model with new items; their clicks shape their vectors and count for nobody."""
        ids = as_type(pl.Series(added), self._base.items.dtype)
        model = model.with_items(ids, self._table(self._features_of(added)), clicks)
        # What users did since is folded in with each answer, clicks on new items, too.
        return replace(model, train=model.trained_on, since=None)

    def _bias_of(self, model: Model) -> Tensor:
        """``(I,)`` what an environment that is not live adds to scores."""
        if self._fixed is not None:
            more = len(model.items) - len(self._base.items)
            return torch.cat([self._fixed, torch.zeros(more)])
        stored = model._bias(None)
        return torch.zeros(len(model.items)) if stored is None else stored

    def _popular(self, model: Model, bias: Tensor) -> Tensor:
        """``(I,)`` by what items are ranked for somebody of whom nothing is known."""
        return bias if bool(bias[: len(self._base.items)].any()) else bias + model.dial_step

    def _snapshot(self) -> Snapshot:
        base, activity = self._base, self._activity
        model, index, added = base, base._item_index, list(self._added)
        if added:
            clicks = self._others.filter(pl.col("item").is_in(added))
            model = self._with_items(base, added, clicks.select("user", "item"))
            index = index.with_more(model.items[len(base.items) :])
            if activity is not None:
                activity = activity.followed_by(
                    index.find_text(clicks["item"].to_list()),
                    clicks["timestamp"].to_numpy(),
                    n_items=len(model.items),
                )
        bias = self._bias_of(model) if activity is None else model.live_bias(activity)
        by_bias = np.zeros(0, dtype=np.int64)
        if self._index is not None:
            self._index.set_bias(bias)
            by_bias = largest(bias)
        return Snapshot(
            version=self.name,
            model=model,
            users=base._user_index,
            others=base._other_index,
            bias=bias,
            popular=self._popular(model, bias),
            catalogue=self._current_catalogue(index),
            index=self._index,
            by_bias=by_bias,
            activity=activity,
            without=self._without,
            item_seq=self.item_seq,
        )

    def _current_catalogue(self, index: IdIndex) -> Catalogue:
        """The catalogue with all changes that were taken."""
        before, changed = self._catalogue, sorted(self._changed)
        names = self.attributes.union(*(self._features.get(i, ()) for i in self._elsewhere))
        if before is None:
            more = [_NOTHING] * (len(index.ids) - len(self._attributes))
            nobody = np.zeros(0, dtype=np.int64)
            attributes = [*self._attributes, *more]
            before = Catalogue(index, attributes, nobody, self._config.filter_memory, names)
        numbers = index.find_text(changed)
        rows: dict[int, Mapping[str, Any]] = {}
        for number, item in zip(numbers.tolist(), changed, strict=True):
            if number >= 0:
                of_run = self._lent.get(item, _NOTHING)
                if number < len(self._attributes):
                    of_run = self._attributes[number]
                rows[number] = {**of_run, **self._features.get(item, _NOTHING)}
        out = index.find_text([item for item in changed if item in self._withdrawn])
        if changed:
            before = before.changed(index, rows, out[out >= 0], names)
        self._catalogue, self._changed = before, set()
        return before

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame | None:
        """Features of items, as the run's content takes them; ``None`` if it has none."""
        if self._base.content is None:
            return None
        columns = {}
        for column in self._base.content.encoder.columns:
            values = [row.get(column.name) for row in rows]
            if column.kind == "number":
                values = [_number(own) for own in values]
            dtype = pl.List(pl.Float32) if column.kind == "vector" else None
            columns[column.name] = pl.Series(values, dtype=dtype, strict=False)
        return pl.DataFrame(columns)

    def _features_of(self, items: Iterable[str]) -> list[Mapping[str, Any]]:
        """What is known of items and the content takes; they were perhaps put for another run."""
        rows = [self._features.get(item, _NOTHING) for item in items]
        if self._refuses(rows) is None:
            return rows
        refusals = [self._refuses([row]) for row in rows]
        for item, refusal in zip(items, refusals, strict=True):
            if refusal is not None:
                log.warning("the item %r counts as one without features: %s", item, refusal)
        return [
            row if refusal is None else _NOTHING
            for row, refusal in zip(rows, refusals, strict=True)
        ]

    def _refuses(self, rows: Sequence[Mapping[str, Any]]) -> InputError | None:
        """Why the run's content takes no such features."""
        try:
            table = self._table(rows)
            if table is not None and self._base.content is not None:
                self._base.content.encoder.vectors(table)
        except InputError as error:
            return error
        except pl.exceptions.PolarsError as error:
            return InputError(f"features of different kinds ({first_line(error)})")
        return None


def _index_of(model: Model, choice: Literal["auto", "exact", "ivf"]) -> ItemIndex | None:
    """The index of a model's items, if it is to have one."""
    if choice == "exact" or not isinstance(model, EmbeddingModel):
        return None
    if choice == "auto":
        if model.item_embeddings.numel() <= EXACT_UP_TO:
            return None
        if importlib.util.find_spec("faiss") is None:
            log.warning(
                "each of %d items is scored for each list, as the package faiss is not installed; "
                "install it with: %s",
                len(model.items),
                install_command("faiss"),
            )
            return None
    index, n_users = ItemIndex(model.item_embeddings), len(model.user_embeddings)
    some = torch.linspace(0, n_users - 1, min(_TRIED, n_users)).long()
    recall = index.recall(model.item_embeddings, model.user_embeddings[some])
    log.info("the index of items finds %.1f%% of the exact lists", 100 * recall)
    if choice == "auto" and recall < _RECALL:
        log.warning(
            "each of %d items is scored for each list, as an index would find %.1f%% of the exact "
            "lists; set index to 'ivf' to have it nevertheless",
            len(model.items),
            100 * recall,
        )
        return None
    return index


def _row(pairs: csr_array, number: int) -> Numbers:
    """The columns of one row."""
    row = pairs.indices[pairs.indptr[number] : pairs.indptr[number + 1]]
    return np.asarray(row, dtype=np.int64)


def _number(value: object) -> object:
    """A value beside which text stays what it is: a truth value as 0 or 1, a list as text."""
    if isinstance(value, bool):
        return int(value)
    return str(value) if isinstance(value, list) else value


def _compact(pairs: csr_array) -> csr_array:
    """The same pairs in a third of the memory, where 32 bits number them."""
    if max(pairs.nnz, *pairs.shape) >= 2**31:
        return pairs
    places, starts = pairs.indices.astype(np.int32), pairs.indptr.astype(np.int32)
    return csr_array((pairs.data.astype(np.int8), places, starts), shape=pairs.shape)


def _attributes(recommender: Recommender, config: ServiceConfig) -> pl.DataFrame | None:
    """What items are filtered by: of a table given, else of the run's dataset if it is there."""
    items = recommender.items_
    if config.item_features is not None:
        features = read_features(config.item_features, "item")
        ids = as_type(features["item"], items.dtype)
        frame = features.with_columns(item=ids)
        return items.alias("item").to_frame().join(frame, on="item", how="left").drop("item")
    if (path := recommender.dataset_path_) is not None and path.is_dir():
        return _features_of(load_dataset(path))
    return None


def _rows(table: pl.DataFrame) -> list[Mapping[str, Any]]:
    """What is known of each item by name."""
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in table.iter_rows(named=True)
    ]


def _environment_file(environment: str, model: Model) -> Tensor | None:
    """``(I,)`` what a file adds to scores; ``None`` if the setting names no file."""
    if environment in ("live", "trained"):
        return None
    table = read_features(environment, "item")
    if "bias" not in table.columns or not table["bias"].dtype.is_numeric():
        raise InputError(
            f"{environment}: has no column 'bias' of numbers; give columns 'item' and 'bias', or "
            "environment 'live' or 'trained'"
        )
    values: NDArray[np.float32] = np.zeros(len(model.items), dtype=np.float32)
    numbers = model._item_index.find(table["item"].to_list())
    values[numbers[numbers >= 0]] = table["bias"].to_numpy()[numbers >= 0]
    return torch.from_numpy(values)
