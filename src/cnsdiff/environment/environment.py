"""The environment of equation (27): a linear model of covariates, added to the scores.

A model trained on a log scores taste and the log's environment together. Under another environment
a few things that change quickly should count for more or less: how often, how lately and since
when an item was seen::

    s_e(u, i) = s(u, i) / σ_u + κ Σ_k (g_k / a) x_k(i, t)

``x_k(i, t)`` are the covariates at the moment ``t``. The coefficients ``g`` and that of the scores,
``a``, are those of a conditional logit: of each held-out pair, the item was chosen among
alternatives drawn uniformly. ``κ`` is chosen by a ranking metric, as the logit fits all ranks and
the metric counts the first. ``σ_u`` is how far the user's scores spread over the items. Of cosines
it is much the same for all; of inner products and sums of weights it is not, and what is added in
units of a mean would drown the taste of some users and not reach others.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.base.settings import Record
from cnsdiff.data import Split
from cnsdiff.environment.activity import Activity
from cnsdiff.environment.conditional_logit import fit_conditional_logit
from cnsdiff.environment.covariates import Covariates
from cnsdiff.evaluation.dial import deviations, deviations_of
from cnsdiff.evaluation.ranking import EmbeddingScorer, Scorer

#: Alternatives of each held-out pair, and pairs that tell the coefficients; more change little.
ALTERNATIVES, CHOICES = 150, 4000
#: The logit's coefficient of the scores is at least this: what does not help is not turned round.
_LEAST_SHARE = 0.05
#: Values of ``κ``.
SCALES = (0.0, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_USERS_AT_ONCE = 256


class Environment(Record):
    """What is added to each item's score at a moment, and how to compute it at another."""

    names: list[str]
    """Of the covariates."""
    coefficients: list[float]
    """``κ g_k / a``, what a unit of each covariate adds to a score over ``σ_u``."""
    half_lives: list[float]
    """As shares of the span."""
    span: float
    """The length of time that half-lives are shares of, in the units of the log's times."""
    moment: float
    """Until when interactions were counted."""

    def activity(self, log: Split, n_items: int) -> Activity:
        """The activity of ``n_items`` items in a log with times, until its last interaction."""
        assert log.timestamps is not None
        return Activity.of(
            log.items, log.timestamps, n_items, half_lives=self.half_lives, span=self.span
        )

    def bias(self, activity: Activity, sigma: float = 1.0) -> Tensor:
        """``(I,)`` float32 what is added to the scores of a model at a moment.

        Parameters
        ----------
        activity
            All interactions until then.
        sigma
            The unit of the scores: 1 where they are in each user's own (:class:`OwnUnits`).
        """
        covariates = Covariates.of(activity)
        assert list(covariates.names) == self.names
        step = covariates.values @ np.array(self.coefficients)
        return torch.from_numpy(sigma * step).float()


class OwnUnits:
    """A scorer whose scores spread alike for each user: over the items with a deviation of 1.

    That changes no list; what is added to the scores then counts alike for all users. A user whose
    scores are all alike keeps them.

    Parameters
    ----------
    scorer
        Whose scores.
    item_bias
        ``(I,)`` added to the scores in own units.
    unit_items
        The first so many items tell the unit, all by default: items added later change no score.
    """

    def __init__(
        self, scorer: Scorer, item_bias: Tensor | None = None, *, unit_items: int | None = None
    ) -> None:
        self.scorer, self.n_users, self.n_items = scorer, scorer.n_users, scorer.n_items
        self.item_bias = item_bias
        self.unit_items = self.n_items if unit_items is None else unit_items
        self._units = torch.full((self.n_users,), torch.nan)
        self._covariance: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return torch.device(getattr(self.scorer, "device", None) or "cpu")

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        scores = self.scorer.score_block(users, start, stop)
        whole = scores[:, : self.unit_items] if start == 0 and stop >= self.unit_items else None
        units = self._units_of(users, whole).to(scores.device)
        scores = (scores / units[:, None]).to(scores.dtype)
        return scores if self.item_bias is None else scores + self.item_bias[start:stop]

    def units(self, users: Tensor) -> Tensor:
        """``(B,)`` float32 ``σ_u``, on the CPU."""
        return self._units_of(users)

    @torch.no_grad()
    def _units_of(self, users: Tensor, scores: Tensor | None = None) -> Tensor:
        """``scores (B, unit_items)`` are those of the users, if they are at hand."""
        rows = users.cpu()
        new = self._units[rows].isnan()
        if new.any():
            some = rows[new] if scores is None else rows
            self._units[some] = self._measured(some, scores).float().cpu()
        return self._units[rows]

    def _measured(self, users: Tensor, scores: Tensor | None) -> Tensor:
        own, users = self.scorer, users.to(self.device)
        if isinstance(own, EmbeddingScorer) and own.item_bias is None:  # no score is needed
            tables = Embeddings(own.user_embeddings[users], own.item_embeddings[: self.unit_items])
            if self._covariance is None:
                self._covariance = tables.covariance()
            return tables.deviations(self._covariance)
        unit_items = self.unit_items
        found = deviations(own, users, unit_items) if scores is None else deviations_of(scores)
        return torch.where(found > 1e-12, found, 1.0)


def known_shift(
    train: NDArray[np.int64], target: NDArray[np.int64], temperature: float, exponent: float
) -> Tensor:
    """``(I,)`` float32 what known item counts of the target add to each score (equation 29).

    Parameters
    ----------
    train, target
        ``(I,)`` how often each item occurs in train, and is asked for in the target.
    temperature
        ``τ`` of the loss.
    exponent
        ``α``: negatives were drawn in proportion to ``pop^α``.
    """
    logs = [np.log((counts + 1.0) / (counts + 1.0).sum()) for counts in (train, target)]
    return torch.from_numpy(temperature * (exponent * logs[0] + logs[1] - logs[0])).float()


class Choices:
    """Held-out pairs as choices among items, the same ones whatever is fitted to them.

    Parameters
    ----------
    held_out
        Pairs of users whose taste and environment are to be told apart.
    exclude
        ``(U, I)`` pairs that could not be chosen, usually those of training.
    covariates
        Of the items at the moment from which the pairs are held out.
    """

    def __init__(self, held_out: Split, exclude: csr_array, covariates: Covariates) -> None:
        rng = numpy_generator(0, "alternatives")
        n = len(held_out)
        rows = np.sort(rng.choice(n, CHOICES, replace=False)) if n > CHOICES else np.arange(n)
        order = rows[np.argsort(held_out.users[rows], kind="stable")]
        users, chosen = held_out.users[order], held_out.items[order]
        drawn = rng.integers(0, exclude.shape[1], (len(order), ALTERNATIVES))
        items = np.concatenate([chosen[:, None], drawn], axis=1)
        # What the user has already, or chose besides, is no alternative.
        taken = exclude + held_out.csr(*exclude.shape)
        pairs = np.repeat(users, ALTERNATIVES), drawn.ravel()
        available = np.ones(items.shape, dtype=bool)
        available[:, 1:] = (np.asarray(taken[pairs]) == 0).reshape(drawn.shape)
        self.users, self.items = torch.from_numpy(users), torch.from_numpy(items)
        self.available = torch.from_numpy(available)
        # The first column is the score, which is another for each model.
        columns = torch.from_numpy(covariates.values)
        self._features = torch.zeros((*items.shape, 1 + columns.shape[1]), dtype=torch.float64)
        self._features[:, :, 1:] = columns[self.items]

    def coefficients(self, scorer: Scorer, *, at_most: int = CHOICES) -> Tensor:
        """``g / a (K,)``: what a unit of each covariate adds to a score.

        Fitted to about ``at_most`` of the choices, evenly spaced.
        """
        some = slice(None, None, max(1, len(self.users) // at_most))
        scores = self._scores(scorer, some).double()
        available = self.available[some] & scores.isfinite()
        features = self._features[some]
        features[:, :, 0] = scores.masked_fill(~available, 0.0)
        known = available[:, 0]  # a chosen item that the model rules out tells nothing
        if not known.all():
            features, available = features[known], available[known]
        share, *rest = fit_conditional_logit(features, available).tolist()
        return torch.tensor([g / max(share, _LEAST_SHARE) for g in rest], dtype=torch.float64)

    def _scores(self, scorer: Scorer, some: slice) -> Tensor:
        """``(n, 1 + alternatives)`` the scores of the items of some choices, on the CPU."""
        items = self.items[some]
        users, row = torch.unique_consecutive(self.users[some], return_inverse=True)
        parts = []
        with torch.no_grad():
            for start in range(0, len(users), _USERS_AT_ONCE):
                part = users[start : start + _USERS_AT_ONCE]
                block = scorer.score_block(part, 0, scorer.n_items).float().cpu()
                own = (row >= start) & (row < start + len(part))
                parts.append(block[row[own] - start].gather(1, items[own]))
        return torch.cat(parts)
