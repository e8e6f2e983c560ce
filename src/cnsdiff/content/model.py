r"""The content model: vectors of items from their features beside what was learnt (equation 33).

An item's vector has two parts. One is the posterior of its learnt vector under a prior that its
features tell (:mod:`cnsdiff.content.priors`), the other its vector in the towers
(:mod:`cnsdiff.content.towers`). With ``σ_u`` and ``σ'_u`` how far each part spreads the scores of
a user over the items, and ``σ`` the mean of ``σ_u``, the score is an inner product as before::

    s(u, i) = (x_u·z̄_i + w σ_u cos(A p_u, B f_i) / σ'_u) / σ + δ [i is new]

``w = c = 0`` ranks known items as they are ranked without content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import normalize

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.settings import Record, Settings
from cnsdiff.content.features import FeatureEncoder, Kind
from cnsdiff.content.priors import PRIORS, Gaussian, Regression, covariance_of
from cnsdiff.content.towers import Towers, fit_towers, profiles
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.metrics import item_counts


class ContentConfig(Settings):
    """Learning from the features of items."""

    prior: Literal["none", "auto", "ridge", "mlp", "mean", "diffusion"] = Field(
        "none",
        description="what tells an item's vector from its features; 'auto' tries ridge and mlp, "
        "and leaves content out where items held out say so, 'none' learns nothing from features",
    )
    rank: int = Field(
        256, ge=1, le=2**14, description="size of what is made of all words of the features"
    )
    held_out: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="share of the items held out as if they were new, to choose on, where a "
        "rehearsal has no new items of its own",
    )
    kinds: dict[str, Kind] = Field(
        {}, description="of columns, in place of what their values seem to be"
    )


class ContentChoice(Record):
    """What was chosen on items held out as if they were new."""

    used: bool
    """Whether content is used at all."""
    prior: str
    """One of :data:`~cnsdiff.content.priors.PRIORS`."""
    length: float | None
    """Of the means that the prior tells, that of learnt vectors; ``None`` leaves it as told."""
    weight: float
    """``w``."""
    epochs: int
    """Of the towers."""
    pull: float
    """``c``."""
    offset: float
    """``δ``."""
    sharpness: float = 1.0
    """``τ``: how sharply scores tell who clicks on a new item first."""
    metrics: dict[str, float]
    """The metric of the held-out pairs: ``"without"`` and ``"with"`` content of all, ``"warm"`` and
    ``"new"`` of those of known and of new items by themselves, ``"profile"`` of a user's profile
    without a model on new items; where the diffusion was asked for, ``"energy …"`` of it and of a
    Gaussian (:func:`cnsdiff.content.priors.energy_scores`)."""


@dataclass(frozen=True)
class Learnt:
    """A trained model and what it has seen, items that it has not among them.

    Attributes
    ----------
    tables
        ``(U, d)`` and ``(I, d)``; rows of items without training pairs mean nothing.
    train
        ``(U, I)`` the training pairs.
    bias
        ``(I,)`` what the environment or the dial adds to scores, in units of ``σ``.
    features
        ``(I, r)`` as encoded; zeros where nothing is known.
    """

    tables: Embeddings
    train: csr_array
    bias: Tensor
    features: Tensor

    @cached_property
    def counts(self) -> Tensor:
        """``(I,)`` training pairs of each item."""
        return item_counts(self.train)

    @cached_property
    def profiles(self) -> Tensor:
        """``(U, r)`` the sum of the features of each user's items."""
        return profiles(self.train, self.features)


@dataclass(frozen=True)
class ContentModel:
    """Tells vectors of items from their features.

    Attributes
    ----------
    choice
        How.
    regression
        The mean of the prior.
    covariance
        ``(d, d)`` what the prior leaves open.
    towers
        ``None`` where their weight is 0.
    """

    choice: ContentChoice
    regression: Regression
    covariance: Tensor
    towers: Towers | None

    @classmethod
    def fit(cls, choice: ContentChoice, learnt: Learnt, *, seed: int) -> ContentModel:
        """As it was chosen, on everything that was learnt."""
        known = learnt.counts > 0
        regression = PRIORS[choice.prior].fit(
            learnt.features[known], learnt.tables.items[known], learnt.counts[known], seed
        )
        away = learnt.tables.items[known] - regression(learnt.features[known])
        towers = None
        if choice.weight:
            towers = fit_towers(learnt.train, learnt.features, choice.epochs, seed=seed)
        return cls(choice, regression, covariance_of(away), towers)

    def prior(self, features: Tensor, mean: Tensor | None = None) -> Gaussian:
        """The priors of items of features ``(n, r)``; ``mean`` where the regression has told it."""
        if mean is None:
            mean = self.regression(features)
        if self.choice.length is not None:
            mean = self.choice.length * normalize(mean, dim=1)
        return Gaussian(mean, self.covariance)

    def but(self, *, towers: Towers | None = None, **choices: object) -> ContentModel:
        """The same with other choices; ``towers`` are taken where they have a weight."""
        choice = self.choice.model_copy(update=choices)
        return replace(
            self, choice=choice, towers=(towers or self.towers) if choice.weight else None
        )

    def scorer(self, learnt: Learnt, mean: Tensor | None = None) -> EmbeddingScorer:
        """All items of a training, by content where they have no training pairs."""
        items = self.items(learnt.features, learnt.tables.items, learnt.counts, mean)
        return EmbeddingScorer(self.users(learnt, items), items)

    def items(
        self, features: Tensor, vectors: Tensor, counts: Tensor, mean: Tensor | None = None
    ) -> Tensor:
        """``(n, d + r)`` vectors of items, those without interactions from features alone.

        Parameters
        ----------
        features
            ``(n, r)``.
        vectors, counts
            ``(n, d)`` as learnt and ``(n,)`` of how many interactions; vectors of none are not
            looked at.
        mean
            ``(n, d)`` where the regression has told it.
        """
        parts = [self.prior(features, mean).posterior(vectors, counts, self.choice.pull)]
        if self.towers is not None:
            parts.append(self.towers.items(features))
        return torch.cat(parts, dim=1)

    def users(self, learnt: Learnt, items: Tensor) -> Tensor:
        """``(U, d + r)`` vectors of the users of a training, for the vectors of all its items."""
        known, d = learnt.counts > 0, learnt.tables.users.shape[1]
        vectors = learnt.tables.users
        spread = Embeddings(vectors, items[known, :d]).deviations()[:, None].float()
        parts = [vectors / spread.mean()]
        if self.towers is not None:
            vectors = self.towers.users(learnt.profiles)
            own = Embeddings(vectors, items[known, d:]).deviations()[:, None].float()
            parts.append(self.choice.weight * spread / spread.mean() * vectors / own)
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Content:
    """What is served beside a model, so that items can be added from their features."""

    encoder: FeatureEncoder
    model: ContentModel

    def vectors(
        self,
        features: pl.DataFrame,
        users: Tensor | None = None,
        clickers: NDArray[np.int64] | None = None,
        items: NDArray[np.int64] | None = None,
    ) -> Tensor:
        """``(n, d + r)`` vectors of new items, after their first clicks if there are some.

        Parameters
        ----------
        features
            A row for each, of the features that the model was trained with.
        users
            ``(U, d + r)`` as the model has them.
        clickers, items
            ``(m,)`` who clicked, and on which of the ``n`` items.
        """
        x = torch.from_numpy(self.encoder.vectors(features))
        d = len(self.model.covariance)
        vectors = self.model.items(x, torch.zeros(len(x), d), torch.zeros(len(x)))
        if users is not None and clickers is not None and items is not None and len(items):
            prior = self.model.prior(x)
            told = prior.after_clicks(users[:, :d], clickers, items, self.model.choice.sharpness)
            vectors[:, :d] = told
        return vectors

    def state(self) -> dict[str, Any]:
        """What :meth:`of_state` takes beside :meth:`tensors`, as JSON holds it."""
        return {"choice": self.model.choice.model_dump(), "encoder": self.encoder.state()}

    def tensors(self) -> dict[str, Tensor]:
        """All that was learnt, by name."""
        model = self.model
        towers = {} if model.towers is None else model.towers._asdict()
        parts: dict[str, Mapping[str, Tensor]] = {
            "encoder": {k: torch.from_numpy(v) for k, v in self.encoder.tensors.items()},
            "regression": model.regression.state(),
            "towers": towers,
            "prior": {"covariance": model.covariance},
        }
        return {f"{p}/{k}": v.contiguous() for p, own in parts.items() for k, v in own.items()}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The content again; errors of pydantic and torch where it was none."""

        def part(name: str) -> dict[str, Tensor]:
            start = f"{name}/"
            return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

        choice = ContentChoice.model_validate(state["choice"])
        arrays = {name: tensor.numpy() for name, tensor in part("encoder").items()}
        return cls(
            FeatureEncoder.of_state(state["encoder"], arrays),
            ContentModel(
                choice,
                PRIORS[choice.prior].of_state(part("regression")),
                tensors["prior/covariance"],
                Towers(**part("towers")) if choice.weight else None,
            ),
        )
