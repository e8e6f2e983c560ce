"""The joint objective of a batch (equation 20): its settings, and the sum of the losses.

The losses themselves are in :mod:`cnsdiff.objectives.losses`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.base.settings import Settings
from cnsdiff.data.positives import Positives
from cnsdiff.kernels.gathered_rows import half_mean_squares, rows_of
from cnsdiff.kernels.shared_softmax import shared_softmax
from cnsdiff.objectives.debiasing import (
    PropensityConfig,
    deconfounded,
    inverse_propensity,
    popularity_power,
)
from cnsdiff.objectives.losses import alignment, bpr, l2_norm, l2_squared_of_drawn, sampled_softmax
from cnsdiff.samplers.base import Batch, Context, Negatives, inner_products

NegativeSource = Literal["sampler", "in-batch", "uniform", "in-batch+sampler", "uniform+sampler"]


class ContrastiveConfig(Settings):
    """The alignment term ``L_CL``."""

    weight: Annotated[float, Searched(low=0.01, high=1.0, log=True)] = Field(
        0.0, ge=0, description="λ_cl"
    )
    temperature: float = Field(2.0, gt=0, description="τ")
    noise: float = Field(0.01, ge=0, description="scale of ε in cos(z_i, z_i + ε)")
    negatives: int | None = Field(512, ge=1, le=10**6, description="drawn from the pool; None: all")


class ObjectiveConfig(Settings):
    """The joint objective ``L = L_rank + λ_cl L_CL + λ_diff (L_rec + L_causal) + λ_2 L_2``."""

    loss: Literal["bpr", "softmax"] = "bpr"
    score: Literal["inner", "cosine"] = "inner"
    temperature: Annotated[float, Searched(low=0.05, high=0.8, log=True)] = Field(
        1.0, gt=0, description="scores are divided by it"
    )
    negatives: NegativeSource = "sampler"
    uniform_negatives: int = Field(
        512, ge=1, le=10**6, description="catalogue items shared by a batch"
    )
    repulsion: Annotated[float, Searched(low=0.0, high=1.0)] = Field(
        1.0,
        ge=0,
        le=1,
        description="κ, the share of its gradient that a negative item is moved by; at 0 negatives "
        "move users alone, as synthesised ones do",
    )
    log_q: Annotated[float, Searched(low=0.1, high=1.0)] = Field(
        0.0, description="γ in s/τ - γ log pop of the softmax"
    )
    popularity_exponent: Annotated[float, Searched(low=0.02, high=0.3, log=True)] = Field(
        0.0, ge=0, le=10, description="γ of PDA's m_i^γ in BPR; 0: off"
    )
    l2: Annotated[float, Searched(low=1e-5, high=0.3, log=True)] = Field(
        1e-2, ge=0, description="λ_2"
    )
    l2_form: Literal["squared", "authors"] = "squared"
    contrastive: ContrastiveConfig = ContrastiveConfig()
    propensity: PropensityConfig = PropensityConfig()


class Objective(nn.Module):
    """The joint objective of a batch.

    Parameters
    ----------
    config
        Which terms, and their weights.
    positives
        The training pairs (popularity and membership).
    """

    log_popularity: Tensor
    row_weights: Tensor | None
    popularity: Tensor | None  # to the power γ

    def __init__(self, config: ObjectiveConfig, positives: Positives) -> None:
        super().__init__()
        self.config = config
        self.positives = positives
        counts = positives.item_counts.double()
        log_popularity = (counts / counts.sum()).log().float()
        row_weights = popularity = None
        if config.propensity.exponent:
            row_weights = inverse_propensity(positives.item_counts, config.propensity)
        if config.popularity_exponent:
            popularity = popularity_power(counts, config.popularity_exponent).float()
        self.register_buffer("log_popularity", log_popularity, persistent=False)
        self.register_buffer("row_weights", row_weights, persistent=False)
        self.register_buffer("popularity", popularity, persistent=False)

    def project(self, embeddings: Embeddings) -> Embeddings:
        """The vectors whose inner product is the score (unit vectors for cosine)."""
        if self.config.score == "inner":
            return embeddings
        return Embeddings(*(F.normalize(table, dim=-1) for table in embeddings))

    @property
    def calls_sampler(self) -> bool:
        """Whether the ranking loss uses the sampler's negatives."""
        return self.config.negatives.endswith("sampler")

    def forward(
        self,
        batch: Batch,
        embeddings: Embeddings,
        layer_zero: Embeddings,
        negatives: Negatives | None,
        context: Context,
        *,
        projected: bool = True,
    ) -> dict[str, Tensor]:
        """Named, weighted loss terms, whose sum is the training loss: equation 20.

        Parameters
        ----------
        batch
            ``B`` interactions.
        embeddings
            Embeddings with gradient, after :meth:`project`.
        layer_zero
            The free parameters, for the L2 term.
        negatives
            The sampler's negatives, or ``None`` if it is not called.
        context
            Random streams.
        projected
            False if ``embeddings`` are the backbone's own: the rows in use are projected here,
            which is less work than whole tables.
        """
        config = self.config
        if not projected and negatives is not None and negatives.wants_all(embeddings):
            embeddings, projected = self.project(embeddings), True
        unit = config.score == "cosine" and not projected
        rows = _Rows(embeddings, batch, negatives, bring_to_unit=unit)
        positive = (rows.users * rows.positives).sum(dim=-1) / config.temperature
        row_weights = None if self.row_weights is None else self.row_weights[batch.positives]
        terms: dict[str, Tensor] = {}
        # The ranking loss: BPR (3), where asked for on deconfounded scores (25), or softmax (4).
        if config.loss == "bpr":
            assert negatives is not None
            sampled = self._sampled(rows, negatives)
            if self.popularity is not None:
                positive = deconfounded(positive, self.popularity[batch.positives])
                sampled = deconfounded(sampled, _of_sampled(self.popularity, batch, negatives))
            terms["bpr"] = bpr(positive, sampled, negatives.weights, row_weights)
        else:
            if config.log_q:
                positive = positive - config.log_q * self.log_popularity[batch.positives]
            terms["softmax"] = self._softmax(batch, rows, positive, negatives, row_weights, context)
        # The alignment (19).
        if config.contrastive.weight:
            assert negatives is not None
            aligned = self._contrastive(rows, negatives, context)
            terms["contrastive"] = config.contrastive.weight * aligned
        # The L2 term, of the free parameters that the batch uses.
        if config.l2:
            terms["l2"] = config.l2 * self._l2(batch, layer_zero, negatives)
        # What the sampler learns by, for a diffusion λ_diff (L_rec + λ_c L_causal) (11 to 14).
        if negatives is not None and negatives.loss is not None:
            terms["sampler"] = negatives.loss
        return terms

    def _sampled(self, rows: _Rows, negatives: Negatives) -> Tensor:
        """Scores ``(B, n)`` of the sampler's negatives, over the temperature."""
        embeddings = rows.embeddings
        if negatives.wants_all(embeddings):
            items = moved_by(self.config.repulsion, embeddings.items)
            scores = negatives.scores(rows.users, Embeddings(embeddings.users, items))
        else:
            scores = inner_products(rows.users, self._repelled(rows, negatives))
        return scores / self.config.temperature

    def _repelled(self, rows: _Rows, negatives: Negatives) -> Tensor:
        """The negatives as vectors ``(B or 1, n, d)``; items are moved by ``κ`` of the gradient."""
        if negatives.items is None:
            return negatives.embed(rows.embeddings)
        assert rows.negatives is not None
        return moved_by(self.config.repulsion, rows.negatives.view(*negatives.items.shape, -1))

    def _l2(self, batch: Batch, layer_zero: Embeddings, negatives: Negatives | None) -> Tensor:
        drawn = None if negatives is None or negatives.items is None else negatives.items.flatten()
        if self.config.l2_form == "squared":
            ids, many = [batch.positives], layer_zero.items.new_zeros(())
            if drawn is not None and len(drawn) > len(layer_zero.items):
                many = l2_squared_of_drawn(layer_zero.items, drawn)
            elif drawn is not None:
                ids.append(drawn)
            users = half_mean_squares(layer_zero.users, batch.users)
            return users + half_mean_squares(layer_zero.items, *ids) + many
        rows = [layer_zero.users.index_select(0, batch.users)]
        for some in (batch.positives, drawn):
            rows += [] if some is None else [layer_zero.items.index_select(0, some)]
        return l2_norm(*rows)

    def _softmax(
        self,
        batch: Batch,
        rows: _Rows,
        positive: Tensor,
        negatives: Negatives | None,
        row_weights: Tensor | None,
        context: Context,
    ) -> Tensor:
        """Softmax over shared catalogue items and the sampler's own negatives, as configured.

        As usual for shared negatives, a row's *other* training positives stay among them; only
        its own positive is masked.
        """
        config = self.config
        # Columns: vectors that all rows share, and the ids behind them.
        ids: Tensor | None = None
        apart = negatives if self.calls_sampler else None  # those with a logit for each row
        if config.negatives == "sampler":
            assert negatives is not None
            corrected = not config.log_q or negatives.made_of is not None
            if negatives.shared and negatives.weights is None and corrected:
                apart = None
                columns = self._repelled(rows, negatives)[0]
                ids = None if negatives.made_of is None else negatives.made_of[0]
            else:
                sampled = self._apart(batch, rows, negatives)
                return sampled_softmax(positive, sampled, None, row_weights)
        elif config.negatives.startswith("in-batch"):
            ids, columns = batch.positives, moved_by(config.repulsion, rows.positives)
        else:
            ids = torch.randint(
                self.positives.n_items,
                (config.uniform_negatives,),
                generator=context.negatives,
                device=positive.device,
            )
            columns = moved_by(config.repulsion, rows.of_items(ids))
        # With negatives of each row's own beside them, both share one denominator.
        weights = torch.ones_like(positive) if row_weights is None else row_weights
        weights = weights / len(batch)
        own, loss = positive, None
        if apart is not None:
            sampled = self._apart(batch, rows, apart)
            own = torch.logsumexp(torch.cat([positive.unsqueeze(1), sampled], dim=1), dim=1)
            loss = (weights * (own - positive)).sum()
        # The shared part, of which no matrix (B, n) is kept; a row's own positive is barred.
        bias = None
        if config.log_q and ids is not None:
            bias = -config.log_q * self.log_popularity[ids]
        shared = shared_softmax(
            rows.users / config.temperature,
            columns,
            weights,
            own=own,
            bias=bias,
            barred=None if ids is None else (batch.positives, ids),
        )
        return shared if loss is None else loss + shared

    def _apart(self, batch: Batch, rows: _Rows, negatives: Negatives) -> Tensor:
        """Logits ``(B, n)`` of the sampler's negatives."""
        sampled = self._sampled(rows, negatives)
        if self.config.log_q:
            popularity = _of_sampled(self.log_popularity, batch, negatives)
            sampled = sampled - self.config.log_q * popularity
        if negatives.weights is not None:
            share = negatives.weights / negatives.weights.sum(dim=1, keepdim=True)
            sampled = sampled + (negatives.per_row * share).log()
        allowed = negatives.admissible(batch.positives)
        return sampled if allowed is None else sampled.masked_fill(~allowed, -torch.inf)

    def _contrastive(self, rows: _Rows, negatives: Negatives, context: Context) -> Tensor:
        config, items = self.config.contrastive, rows.positives
        pool = negatives.pool
        if pool is None and rows.negatives is not None:
            pool = rows.negatives
        elif pool is None:
            pool = negatives.embed(rows.embeddings).flatten(0, 1)
        if config.negatives is not None and config.negatives < len(pool):
            order = torch.randperm(len(pool), generator=context.negatives, device=pool.device)
            pool = pool[order[: config.negatives]]
        noise = torch.randn(items.shape, generator=context.noise, device=items.device)
        return alignment(items, items + config.noise * noise, pool, config.temperature)


class _Rows:
    """The rows of embeddings that a batch takes, with gradient, as scores are made of them.

    Attributes
    ----------
    users, positives
        ``(B, d)``.
    negatives
        ``(m, d)`` those of the sampler's items, flattened; ``None`` if it made vectors, or if the
        scores of the whole catalogue are wanted.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        batch: Batch,
        negatives: Negatives | None,
        *,
        bring_to_unit: bool,
    ) -> None:
        self.embeddings = embeddings
        self._unit = bring_to_unit
        (users,) = rows_of(embeddings.users, batch.users)
        ids = [batch.positives]
        if negatives is not None and not negatives.wants_all(embeddings):
            ids += [] if negatives.items is None else [negatives.items.flatten()]
        positives, *others = rows_of(embeddings.items, *ids)
        self.users, self.positives = self._as_scored(users), self._as_scored(positives)
        self.negatives = self._as_scored(others[0]) if others else None

    def of_items(self, ids: Tensor) -> Tensor:
        """More rows of items."""
        return self._as_scored(rows_of(self.embeddings.items, ids)[0])

    def _as_scored(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1) if self._unit else rows


def moved_by(share: float, vectors: Tensor) -> Tensor:
    """The same vectors, but with ``share`` of the gradient."""
    return vectors if share == 1 else share * vectors + (1 - share) * vectors.detach()


def _of_sampled(table: Tensor, batch: Batch, negatives: Negatives) -> Tensor:
    """What a table ``(n_items,)`` says of the sampler's negatives, ``(B, n)`` or ``(B, 1)``.

    A synthesised negative is no item; it takes that of the item it was made from, which is the
    positive unless ``sources`` says otherwise.
    """
    items = negatives.made_of
    return table[batch.positives].unsqueeze(1) if items is None else table[items]
