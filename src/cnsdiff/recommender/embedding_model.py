"""The fitted model: ids and what scores, enough to recommend.

This part is saved and served; nothing in it knows how it was trained. It works in a process that
was forked after the model was loaded (gunicorn's ``--preload``, Celery, ``multiprocessing.Pool``).
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import CnsdiffWarning, InputError
from cnsdiff.base.text import parameter
from cnsdiff.content.model import Content, ContentChoice
from cnsdiff.content.priors import Gaussian, covariance_of
from cnsdiff.data.ids import IdIndex, Vocabulary, column_of, frame_like, id_array, id_list
from cnsdiff.data.side_tables import Seen
from cnsdiff.data.splits import pair_matrix
from cnsdiff.environment import Activity, Environment
from cnsdiff.environment.environment import OwnUnits
from cnsdiff.evaluation import EmbeddingScorer, rank
from cnsdiff.evaluation.dial import dial_bias
from cnsdiff.evaluation.metrics import item_counts
from cnsdiff.evaluation.ranking import Scorer
from cnsdiff.recommender.eligibility import Among, ItemChoice, SeenItems, barred, rows_of, user_keys
from cnsdiff.recommender.fold_in import HistoryMap, grown, joined
from cnsdiff.references.item_item import ItemItemScorer, ItemWeights

Cold = Literal["error", "popular"]
_IMPORTED_IN = os.getpid()


@dataclass(frozen=True, kw_only=True)
class Model:
    """Base of the models: all of recommending but how a pair is scored.

    Attributes
    ----------
    users, items
        The ids known; the row is the internal number.
    train
        ``(U, I)`` the training pairs, which recommendations leave out; and those added since.
    seen
        What the log says of its users beyond them, which recommendations leave out, too; ``None``
        if it is not known (a run from before it was kept).
    dial_step
        ``(I,)`` float32, ``σ_s · e``: what one unit of the dial adds to an item's score
        (:mod:`cnsdiff.evaluation.dial`).
    dial
        ``γ`` as chosen on validation; scores are read at it unless another is asked for.
    environment
        What a rehearsal chose, which can be computed again at another moment.
    bias
        ``(I,)`` float32 what it adds to an item's score at the end of the training data, or since
        it was moved on, unless a dial is asked for.
    activity
        What the training data, and what came since, tell of each item until that end: what the
        environment is computed of. ``None`` without an environment.
    sigma
        What the environment's coefficients are in units of: 1, or in an older run ``σ_s``, a mean
        over users. Where it is ``None``, the run is from before it was kept.
    own_units
        Whether each user's scores, before anything is added, have a standard deviation of 1 over
        the items of training.
    content_choice
        What was chosen of content, if features were to be learnt from.
    content
        What tells the vectors of new items from their features, if that was chosen.
    offsets
        ``(I,)`` float32 what is added to the scores of items that were added since, at any dial;
        ``None`` if none was.
    since
        ``(U, I)`` those pairs of ``train`` that were added after training; ``None`` if none were.
    """

    users: pl.Series
    items: pl.Series
    train: csr_array
    dial_step: Tensor
    dial: float = 0.0
    seen: Seen | None = None
    environment: Environment | None = None
    bias: Tensor | None = None
    activity: Activity | None = None
    sigma: float | None = None
    own_units: bool = False
    content_choice: ContentChoice | None = None
    content: Content | None = None
    offsets: Tensor | None = None
    since: csr_array | None = None

    def scorer(self, device: torch.device | str = "cpu", dial: float | None = None) -> Scorer:
        """The model as the evaluation sees it, read at ``dial`` or at the chosen one."""
        raise NotImplementedError

    def _of_users(self, numbers: NDArray[np.int64], bias: Tensor | None) -> Scorer:
        """A scorer of these users alone, with a bias ``(I,)`` of its own."""
        raise NotImplementedError

    def _of_items(self, numbers: NDArray[np.int64], bias: Tensor | None) -> Scorer:
        """A scorer whose users are these items, and whose scores are how alike items are."""
        raise NotImplementedError

    def _of_pairs(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> Tensor:
        """``(n,)`` float32 the scores of pairs, without a bias."""
        raise NotImplementedError

    def fold_in(self, users: NDArray[np.int64], since: csr_array) -> Scorer:
        """A scorer of users after what they have done since training, without a bias.

        A user with nothing new is scored as trained, bit for bit; others by their whole history.

        Parameters
        ----------
        users
            ``(n,)`` internal numbers; -1 is a user unknown to the model.
        since
            ``(n, I)`` what each has done since training; pairs of ``train`` may be repeated.
        """
        raise NotImplementedError

    def with_items(
        self,
        ids: pl.Series,
        features: pl.DataFrame | None = None,
        clicks: pl.DataFrame | None = None,
    ) -> Self:
        """The model with new items.

        Parameters
        ----------
        ids
            Of the new items.
        features
            A row for each, of the features that the model was trained with; of a model with
            content.
        clicks
            ``user`` and ``item`` of those who have clicked on them; pairs of others are left out.
        """
        numbers = self._clicks(ids, clicks)
        return self._scored(self._longer(ids, numbers), features, numbers)

    def _scored(
        self, longer: Self, features: pl.DataFrame | None, clicks: NDArray[np.int64]
    ) -> Self:
        """The longer model with what scores its new items, too."""
        raise NotImplementedError

    def _clicks(self, ids: pl.Series, clicks: pl.DataFrame | None) -> NDArray[np.int64]:
        """``(2, m)`` known users and rows of ``ids``, each pair once."""
        if clicks is None:
            return np.zeros((2, 0), dtype=np.int64)
        indices = self._user_index, IdIndex(ids)
        sides = zip(indices, ("user", "item"), strict=True)
        numbers = np.stack([index.find(clicks[side].to_list()) for index, side in sides])
        return np.unique(numbers[:, (numbers >= 0).all(axis=0)], axis=1)

    def _longer(self, ids: pl.Series, clicks: NDArray[np.int64]) -> Self:
        """The model with new items in all but what scores them."""
        n = len(self.items) + len(ids)

        def longer(column: Tensor | None, value: float = 0.0) -> Tensor:
            own = torch.zeros(len(self.items)) if column is None else column
            return torch.cat([own, torch.full((len(ids),), value)])

        train = _wider(self.train, n)
        since = None if self.since is None else _wider(self.since, n)
        if clicks.size:  # who has an item is not shown it again
            train = train + pair_matrix(clicks[0], len(self.items) + clicks[1], train.shape)
            since = train - _wider(self.trained_on, n)
        seen = self.seen
        if seen is not None:
            pairs, others = (_wider(own, n) for own in (seen.pairs, seen.others_pairs))
            seen = replace(seen, pairs=pairs, others_pairs=others)
        return replace(
            self,
            since=since,
            items=pl.concat([self.items, ids.alias(self.items.name)]),
            train=train,
            seen=seen,
            dial_step=longer(self.dial_step),
            bias=None if self.bias is None else longer(self.bias),
            activity=None if self.activity is None else self.activity.with_items(n),
            offsets=longer(
                self.offsets, 0.0 if self.content is None else self.content.model.choice.offset
            ),
        )

    def with_interactions(self, users: pl.Series, items: pl.Series) -> Self:
        """The model after what users have done since training, new users among them.

        Parameters
        ----------
        users, items
            ``(m,)`` ids, of the types that the model has; items that it knows.
        """
        every = pl.concat([self.users, users.alias(self.users.name)]).unique(maintain_order=True)
        shape = len(every), len(self.items)
        rows, columns = Vocabulary(every).encode(users), Vocabulary(self.items).encode(items)
        history = joined(_taller(self.train, len(every)), pair_matrix(rows, columns, shape))
        seen = self.seen
        if seen is not None:
            # What was known of new users, who were none of train.
            others = self._other_index.find(every[len(self.users) :].to_list())
            pairs = vstack([seen.pairs, rows_of(seen.others_pairs, others)], format="csr")
            seen = replace(seen, pairs=csr_array(pairs))
        since = history - _taller(self.trained_on, len(every))
        return replace(self, users=every, train=history, seen=seen, since=since)

    @property
    def trained_on(self) -> csr_array:
        """``(U, I)`` the pairs of :attr:`train` without those added since."""
        return self.train if self.since is None else self.train - self.since

    @property
    def _unit_items(self) -> int | None:
        """How many items tell a user's unit: those of training, which come first."""
        return self.activity.n_known if self.own_units and self.activity is not None else None

    def _bias(self, dial: float | None) -> Tensor | None:
        gamma = self.dial if dial is None else dial
        if dial is None and self.bias is not None:
            bias: Tensor | None = self.bias
        else:
            bias = None if gamma == 0 else dial_bias(self.dial_step, gamma)
        if self.offsets is None:
            return bias
        return self.offsets if bias is None else bias + self.offsets

    def require_environment(self) -> Environment:
        """The environment, or :class:`InputError` if there is none to follow."""
        if self.environment is None:
            raise InputError(
                "the model has no environment to follow, as no rehearsal chose one; train with "
                "select_on='rehearsal' on a log with timestamps"
            )
        if self.activity is None or self.sigma is None:
            raise InputError(
                "this run is from before cnsdiff kept what its environment was computed of, so it "
                "cannot be followed; train it again"
            )
        return self.environment

    def live_bias(self, activity: Activity) -> Tensor:
        """``(I,)`` float32 what is added to each item's score at a later moment.

        Nothing is trained: the coefficients are those of training, what they weigh is new.

        Parameters
        ----------
        activity
            That of the model, followed by what came since.

        Raises
        ------
        InputError
            There is no environment to follow, or the activity is of other items.
        """
        environment = self.require_environment()
        assert self.sigma is not None
        if len(activity.counts) != len(self.items):
            raise InputError(
                f"the activity is of {len(activity.counts):,} items and the model of "
                f"{len(self.items):,}; go on from the model's own activity"
            )
        bias = environment.bias(activity, self.sigma)
        # The coefficients were fitted to items with a past: new ones stay within what those have.
        known = bias[: activity.n_known]
        bias[activity.n_known :].clamp_(float(known.min()), float(known.max()))
        return bias if self.offsets is None else bias + self.offsets

    def is_new(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """``(m,)`` which pairs of known items training did not have; numbers of others are -1."""
        new = items >= 0
        known = np.flatnonzero(new & (users >= 0))
        if len(known):  # for none, SciPy gives something else
            new[known] = np.asarray(self.trained_on[users[known], items[known]]) == 0
        return new

    def following(self, interactions: pl.DataFrame, moment: float | None) -> Self:
        """See :meth:`cnsdiff.Recommender.follow`; ``interactions`` are pairs with a time."""
        assert self.activity is not None
        users, items = (
            index.find(interactions[side].to_list())
            for side, index in (("user", self._user_index), ("item", self._item_index))
        )
        times = interactions["timestamp"].to_numpy()
        new = self.is_new(users, items)
        activity = self.activity.followed_by(items[new], times[new], moment=moment)
        at_moment = replace(self, offsets=None).live_bias(activity)
        return replace(self, activity=activity, bias=at_moment)

    def recommend(
        self,
        users: Any,
        k: int = 20,
        *,
        seen: SeenItems = "all",
        exclude: Any = None,
        only: Any = None,
        cold: Cold = "error",
        dial: float | None = None,
    ) -> Any:
        """See :meth:`cnsdiff.Recommender.recommend`."""
        # Check what is asked for, and find the users.
        _require_threads()
        k = self._length(k)
        for name, value, kind in (("cold", cold, Cold), ("seen", seen, SeenItems)):
            if value not in get_args(kind):
                raise _not_one_of(name, value, kind)
        column = column_of(users, "user")
        ids = id_list(column)
        numbers = self._user_index.find(ids)
        known = numbers >= 0
        if cold == "error" and not known.all():
            mend = f"; pass {parameter('cold', 'popular')} to fall back"
            raise _unknown(numbers, ids, "user", mend)
        # What may be shown: all but what is seen and excluded, or only what is named.
        excluded = (
            None
            if exclude is None
            else ItemChoice.of("exclude", exclude, self._item_index, self.hint)
        )
        allowed = None if only is None else ItemChoice.of("only", only, self._item_index, self.hint)
        out, among = self._of_each(ids, numbers, seen, excluded, allowed)
        # Rank: known users by the model, new ones by popularity, as vectors of one number.
        items = np.full((len(ids), k), -1, dtype=np.int64)
        scores = np.full((len(ids), k), -np.inf, dtype=np.float32)
        at_dial = self._bias(dial)
        for rows in (known, ~known):
            if not rows.any():
                continue
            bias = at_dial if rows is known else None
            if excluded is not None or allowed is not None:
                bias = barred(bias, len(self.items), excluded, allowed)
            if rows is known:
                scorer = self._of_users(numbers[known], bias)
            else:
                counts = item_counts(self.train).float()[:, None]
                scorer = EmbeddingScorer(torch.ones(int(rows.sum()), 1), counts, bias)
            if among is not None:
                scorer = Among(scorer, among[rows])
            every = torch.arange(scorer.n_users)
            best, best_scores = rank(scorer, every, k, exclude=out[rows])
            items[rows], scores[rows] = best.numpy(), best_scores.numpy()
        return self._lists("user", column, "item", items, scores)

    def _of_each(
        self,
        ids: Sequence[Any],
        numbers: NDArray[np.int64],
        seen: SeenItems,
        exclude: ItemChoice | None,
        only: ItemChoice | None,
    ) -> tuple[csr_array, csr_array | None]:
        """``(len(ids), I)`` what each user is not shown; and the only items each may be shown."""
        if seen == "none":
            out = rows_of(self.train, np.full(len(ids), -1))
        else:
            out = rows_of(self.train, numbers)
        if seen == "all" and self.seen is None:
            _tell_only_train(stacklevel=5)
        elif seen == "all" and self.seen is not None:
            out = out + rows_of(self.seen.pairs, numbers)
            if (numbers < 0).any():
                new = np.full(len(ids), -1, dtype=np.int64)
                new[numbers < 0] = self._other_index.find(
                    [user for user, number in zip(ids, numbers, strict=True) if number < 0]
                )
                out = out + rows_of(self.seen.others_pairs, new)
        among = None
        named = [choice for choice in (exclude, only) if choice and choice.users is not None]
        keys = user_keys(ids, numbers) if named else []
        for choice in named:
            name = "exclude" if choice is exclude else "only"
            choice.tell_strangers(name, keys, self._user_index)
            rows = choice.rows(keys, self._user_index, len(self.items))
            if choice is exclude:
                out = out + rows
            else:
                among = rows
        return out, among

    def left_out(self, seen: SeenItems = "all") -> csr_array:
        """``(U, I)`` the pairs that :meth:`recommend` leaves out for users of train."""
        if seen not in get_args(SeenItems):
            raise _not_one_of("seen", seen, SeenItems)
        if seen == "none":
            return rows_of(self.train, np.full(len(self.users), -1))
        if seen == "all" and self.seen is None:
            _tell_only_train(stacklevel=4)
        elif seen == "all" and self.seen is not None:
            both: csr_array = self.train + self.seen.pairs
            return both
        return self.train

    def score(self, users: Any, items: Any, *, dial: float | None = None) -> NDArray[np.float32]:
        """See :meth:`cnsdiff.Recommender.score`."""
        _require_threads()
        user_numbers = self._known(self._user_index, id_list(column_of(users, "user")), "user")
        item_numbers = self._known(self._item_index, id_list(column_of(items, "item")), "item")
        if len(user_numbers) != len(item_numbers):
            raise InputError(
                f"score needs as many users as items, not {len(user_numbers)} and "
                f"{len(item_numbers)}"
            )
        scores, bias = self._of_pairs(user_numbers, item_numbers), self._bias(dial)
        if bias is not None:
            scores += bias[item_numbers]
        result: NDArray[np.float32] = scores.numpy()
        return result

    def similar(self, items: Any, k: int = 20, *, exclude: Any = None, only: Any = None) -> Any:
        """See :meth:`cnsdiff.Recommender.similar`."""
        _require_threads()
        k = self._length(k)
        column = column_of(items, "item")
        numbers = self._known(self._item_index, id_list(column), "item")
        excluded = (
            None
            if exclude is None
            else ItemChoice.of("exclude", exclude, self._item_index, self.hint)
        )
        allowed = None if only is None else ItemChoice.of("only", only, self._item_index, self.hint)
        for name, choice in (("exclude", excluded), ("only", allowed)):
            if choice is not None and choice.users is not None:
                raise InputError(f"{name}: similar items are of no user; give a list of items")
        itself = pair_matrix(np.arange(len(numbers)), numbers, (len(numbers), len(self.items)))
        bias = barred(None, len(self.items), excluded, allowed)
        scorer = self._of_items(numbers, bias)
        best, scores = rank(scorer, torch.arange(len(numbers)), k, exclude=itself)
        return self._lists("item", column, "similar", best.numpy(), scores.numpy())

    def _length(self, k: int) -> int:
        """The length of lists that ``k`` asks for: no longer than the catalogue."""
        try:
            whole = operator.index(k)
        except TypeError:
            whole = None
        if whole is None or isinstance(k, bool):
            raise InputError(f"k must be a whole number, not {k!r}")
        if whole < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return min(whole, len(self.items))

    def _lists(
        self,
        owner: str,
        column: Any,
        listed: str,
        items: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> Any:
        """Ranked lists ``(n, k)``, padded with -1, as one row per entry."""
        present = items >= 0
        ranks = np.broadcast_to(np.arange(1, items.shape[1] + 1), items.shape)
        rows = np.repeat(np.arange(len(items)), present.sum(axis=1))
        columns = {
            owner: id_array(column).take(pa.array(rows)),
            listed: self._item_index.take(items[present]),
            "score": pa.array(scores[present]),
            "rank": pa.array(ranks[present]),
        }
        return frame_like(columns, column)

    # Apart, since similar items need no index of a million users.
    @cached_property
    def _user_index(self) -> IdIndex:
        return IdIndex(self.users)

    @cached_property
    def _item_index(self) -> IdIndex:
        return IdIndex(self.items)

    @cached_property
    def _other_index(self) -> IdIndex:
        """Users of the log who are not in train."""
        return IdIndex(pl.Series([], dtype=pl.Int64) if self.seen is None else self.seen.others)

    def _known(self, index: IdIndex, ids: list[Any], what: str) -> NDArray[np.int64]:
        numbers = index.find(ids)
        if (numbers < 0).any():
            raise _unknown(numbers, ids, what, self.hint if what == "item" else "")
        return numbers

    @property
    def hint(self) -> str:
        """How the model gets to know new items, if it can."""
        if self.content is None:
            return ""
        return f"; give the features of new items with {parameter('add_items')}"


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel(Model):
    """Users and items as vectors whose inner product, with the dial's share, is the score.

    Attributes
    ----------
    user_embeddings, item_embeddings
        ``(U, d)`` and ``(I, d)`` float32 on the CPU.
    history_map
        What folds users in, of a model that was added to; ``None`` before.
    prior
        ``(1, d)`` of an item of which nothing is known, of a model that was added to.
    covariance
        ``(d, d)`` of the items of training, of a model in own units that was added to.
    """

    user_embeddings: Tensor
    item_embeddings: Tensor
    history_map: HistoryMap | None = None
    prior: Gaussian | None = None
    covariance: Tensor | None = None

    def scorer(
        self, device: torch.device | str = "cpu", dial: float | None = None
    ) -> EmbeddingScorer:
        """See :meth:`Model.scorer`."""
        bias = self._bias(dial)
        return EmbeddingScorer(
            self.user_embeddings.to(device),
            self.item_embeddings.to(device),
            None if bias is None else bias.to(device),
        )

    def _scored(
        self, longer: Self, features: pl.DataFrame | None, clicks: NDArray[np.int64]
    ) -> Self:
        """See :meth:`Model._scored`.

        Of items of which content is told nothing, and without content of all, vectors begin at the
        mean of known items, and no offset is theirs.
        """
        n = len(longer.items) - len(self.items)
        told = torch.zeros(n, dtype=torch.bool)
        if self.content is not None:
            assert features is not None
            told = torch.from_numpy(self.content.encoder.tells(features))
            vectors = self.content.vectors(features, self.user_embeddings, *clicks)
        if self.content is None or not told.all():
            mean, covariance = self._fitted_prior
            plain = mean.repeat(n, 1)
            if clicks.size:
                prior = Gaussian(plain, covariance)
                plain = prior.after_clicks(self.user_embeddings, clicks[0], clicks[1], 1.0)
            vectors = plain if self.content is None else torch.where(told[:, None], vectors, plain)
            if self.content is not None and longer.offsets is not None:
                own = torch.where(told, longer.offsets[-n:], 0.0)
                longer = replace(longer, offsets=torch.cat([longer.offsets[:-n], own]))
        return replace(
            longer,
            history_map=self._fitted_map,
            prior=self._fitted_prior,
            covariance=self._covariance if self.own_units else None,
            item_embeddings=torch.cat([self.item_embeddings, vectors]),
        )

    @cached_property
    def _fitted_prior(self) -> Gaussian:
        if self.prior is not None:
            return self.prior
        known = self.item_embeddings[item_counts(self.train) > 0]
        return Gaussian(known.mean(dim=0, keepdim=True), covariance_of(known))

    @cached_property
    def _fitted_map(self) -> HistoryMap:
        if self.history_map is not None:
            return self.history_map
        return HistoryMap.fit(self.user_embeddings, self.item_embeddings, self.train)

    def _folded(self, histories: csr_array) -> Tensor:
        """``(n, d)`` vectors for whole histories ``(n, I)``."""
        tables = Embeddings(self._fitted_map(histories, self.item_embeddings), self.item_embeddings)
        return tables.in_own_units(self._covariance).users if self.own_units else tables.users

    # Of a catalogue it takes longer than to fold one user in.
    @cached_property
    def _covariance(self) -> Tensor:
        if self.covariance is not None:
            return self.covariance
        tables = Embeddings(self.user_embeddings, self.item_embeddings)
        return tables.covariance(self._unit_items)

    def fold_in(self, users: NDArray[np.int64], since: csr_array) -> EmbeddingScorer:
        """See :meth:`Model.fold_in`; an unknown user without a history has a vector of zeros."""
        before = rows_of(self.train, users)
        history = joined(before, since)
        vectors = self.user_embeddings.new_zeros(len(users), self.user_embeddings.shape[1])
        known = torch.from_numpy(users >= 0)
        vectors[known] = self.user_embeddings[torch.from_numpy(users)[known]]
        changed = grown(before, history)
        vectors[torch.from_numpy(changed)] = self._folded(history[changed])
        return EmbeddingScorer(vectors, self.item_embeddings)

    def with_interactions(self, users: pl.Series, items: pl.Series) -> Self:
        """See :meth:`Model.with_interactions`."""
        after = super().with_interactions(users, items)
        n_new = len(after.users) - len(self.users)
        vectors = torch.nn.functional.pad(self.user_embeddings, (0, 0, 0, n_new))
        changed = grown(_taller(self.train, len(vectors)), after.train)
        vectors[torch.from_numpy(changed)] = self._folded(after.train[changed])
        return replace(after, user_embeddings=vectors, history_map=self._fitted_map)

    def _of_users(self, numbers: NDArray[np.int64], bias: Tensor | None) -> EmbeddingScorer:
        return EmbeddingScorer(self.user_embeddings[numbers], self.item_embeddings, bias)

    def _of_items(self, numbers: NDArray[np.int64], bias: Tensor | None) -> EmbeddingScorer:
        users = self.user_embeddings
        if users.shape[1] == 1 and bool((users == users[0]).all()):
            raise InputError(
                "the model ranks items alike for all users, by popularity, so it does not know "
                "which are similar; take a model of taste"
            )
        unit = torch.nn.functional.normalize(self.item_embeddings, dim=1)
        return EmbeddingScorer(unit[torch.from_numpy(numbers)], unit, bias)

    def _of_pairs(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> Tensor:
        return (self.user_embeddings[users] * self.item_embeddings[items]).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class ItemItemModel(Model):
    """Scores by item weights, summed over what a user has in train.

    Attributes
    ----------
    weights
        ``(I, I)`` float32 on the CPU, dense or sparse: row ``j`` is what having item ``j`` gives
        to the scores of the others, and to which items it is similar. Items of weight 0 are not.
    """

    weights: ItemWeights

    def scorer(
        self, device: torch.device | str = "cpu", dial: float | None = None
    ) -> ItemItemScorer | OwnUnits:
        """See :meth:`Model.scorer`; sparse weights stay on the CPU."""
        bias, weights = self._bias(dial), self.weights
        if isinstance(weights, Tensor):
            weights = weights.to(device)
            bias = None if bias is None else bias.to(device)
        return self._scorer(self.train, weights, bias)

    def _scorer(
        self, histories: csr_array, weights: ItemWeights, bias: Tensor | None = None
    ) -> ItemItemScorer | OwnUnits:
        if self._unit_items is None:
            return ItemItemScorer(histories, weights, bias)
        return OwnUnits(ItemItemScorer(histories, weights), bias, unit_items=self._unit_items)

    def _scored(
        self, longer: Self, features: pl.DataFrame | None, clicks: NDArray[np.int64]
    ) -> Self:
        """See :meth:`Model._scored`; of new items there are no weights."""
        n_items = len(longer.items)
        if isinstance(self.weights, Tensor):
            more = n_items - len(self.items)
            weights: ItemWeights = torch.nn.functional.pad(self.weights, (0, more, 0, more))
        else:
            weights = _wider(_taller(self.weights, n_items), n_items)
        return replace(longer, weights=weights)

    def fold_in(self, users: NDArray[np.int64], since: csr_array) -> Scorer:
        """See :meth:`Model.fold_in`; exact."""
        return self._scorer(joined(rows_of(self.train, users), since), self.weights)

    def _of_users(self, numbers: NDArray[np.int64], bias: Tensor | None) -> Scorer:
        return self._scorer(self.train[numbers], self.weights, bias)

    def _of_items(self, numbers: NDArray[np.int64], bias: Tensor | None) -> ItemItemScorer:
        shape = len(numbers), len(self.items)
        alone = pair_matrix(np.arange(len(numbers)), numbers, shape).astype(np.float32)
        return ItemItemScorer(alone, self.weights, bias, only_nonzero=True)

    def _of_pairs(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> Tensor:
        histories = self.train[users]
        pair = np.repeat(np.arange(len(users)), np.diff(histories.indptr))
        given = self.weights[histories.indices, items[pair]]
        scores = torch.from_numpy(np.bincount(pair, np.asarray(given), len(users)))
        if self._unit_items is not None:
            each, place = np.unique(users, return_inverse=True)
            alone = ItemItemScorer(self.train[each], self.weights)
            units = OwnUnits(alone, unit_items=self._unit_items).units(torch.arange(len(each)))
            scores = scores / units[place]
        return scores.float()


def _wider(pairs: csr_array, n_items: int) -> csr_array:
    """The same pairs among more items."""
    shape = pairs.shape[0], n_items
    return csr_array((pairs.data, pairs.indices, pairs.indptr), shape=shape)


def _taller(pairs: csr_array, n_users: int) -> csr_array:
    """The same pairs among more users."""
    starts = np.pad(pairs.indptr, (0, n_users - pairs.shape[0]), mode="edge")
    return csr_array((pairs.data, pairs.indices, starts), shape=(n_users, pairs.shape[1]))


def _require_threads() -> None:
    """Work in one thread in a forked process: OpenMP's did not survive, and would be waited for."""
    if os.getpid() != _IMPORTED_IN and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _tell_only_train(*, stacklevel: int) -> None:
    warnings.warn(
        "this run is from before cnsdiff kept what a log says of its users beyond train, so only "
        "training pairs are left out of lists; train it again",
        CnsdiffWarning,
        stacklevel=stacklevel,
    )


def _not_one_of(name: str, value: object, kind: Any) -> InputError:
    *most, last = map(repr, get_args(kind))
    return InputError(f"{name} must be {', '.join(most)} or {last}, not {value!r}")


def _unknown(
    numbers: NDArray[np.int64], ids: Sequence[Any], what: str, mend: str = ""
) -> InputError:
    unknown = numbers < 0
    return InputError(
        f"{int(unknown.sum())} of {len(numbers)} {what}s did not occur in training, the first "
        f"is {ids[int(np.argmax(unknown))]!r}{mend}"
    )
