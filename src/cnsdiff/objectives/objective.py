"""The joint objective of a batch (equation 20): its settings, and the sum of its terms.

====  =======================================================  =============  ==============
step  what                                                     equations      code
====  =======================================================  =============  ==============
1     gather the vectors that the batch uses                   5              ``_Rows``
2     rank each positive above negatives, by BPR               3, 24, 25      ``_bpr``
      or by a softmax                                          4, 24          ``_softmax``
3     align the positives with themselves                      19             ``_alignment``
4     keep the free parameters small                                          ``_l2``
5     add the sampler's own loss                               11 to 14
====  =======================================================  =============  ==============

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
from cnsdiff.kernels.gradients import half_mean_squares, rows_of, shared_softmax
from cnsdiff.objectives import losses
from cnsdiff.samplers import Batch, Context, Items, Negatives, SharedItems, SharedVectors, Vectors

#: The scores of a whole catalogue are one product of matrices, those of some items a gather from
#: memory and, in the backward pass, a scatter: up to so many items per negative the product wins.
_AT_ONCE = 64


class ObjectiveConfig(Settings):
    """The joint objective ``L = L_rank + λ_cl L_CL + λ_diff (L_rec + L_causal) + λ_2 L_2``."""

    loss: Literal["bpr", "softmax"] = "bpr"
    """L_rank: BPR (equation 3) over the sampler's negatives, or a softmax (equation 4)."""
    score: Literal["inner", "cosine"] = "inner"
    """s, the inner product of the embeddings as they are, or of unit length."""
    temperature: Annotated[float, Searched(low=0.05, high=0.8, log=True)] = Field(1.0, gt=0)
    """τ, by which every score of L_rank is divided."""
    negatives: Literal["sampler", "in-batch", "uniform", "in-batch+sampler", "uniform+sampler"] = (
        "sampler"
    )
    """Of the softmax: the sampler's, the batch's other positives, or items drawn uniformly."""
    uniform_negatives: int = Field(512, ge=1, le=10**6)
    """How many items are drawn uniformly, shared by a batch."""
    repulsion: Annotated[float, Searched(low=0.0, high=1.0)] = Field(1.0, ge=0, le=1)
    """κ, the share of its gradient that a negative item is moved by (equation 5); at 0 negatives
    move users alone, as synthesised ones do."""
    log_q: Annotated[float, Searched(low=0.1, high=1.0)] = 0.0
    """γ in s/τ - γ log pop of the softmax; 0: off."""
    popularity_exponent: Annotated[float, Searched(low=0.02, high=0.3, log=True)] = Field(
        0.0, ge=0, le=10
    )
    """γ of PDA's m_i^γ in BPR (equation 25); 0: off."""
    l2: Annotated[float, Searched(low=1e-5, high=0.3, log=True)] = Field(1e-2, ge=0)
    """λ_2; 0: off."""
    l2_form: Literal["squared", "authors"] = "squared"
    """Mean squared norms, or what the code of CNSDiff's authors computes."""
    contrastive: losses.ContrastiveConfig = losses.ContrastiveConfig()
    propensity: losses.PropensityConfig = losses.PropensityConfig()


class Objective(nn.Module):
    """The joint objective of a batch.

    Parameters
    ----------
    config
        Which terms, and their weights.
    positives
        The training pairs, for the popularity of items.
    """

    log_popularity: Tensor
    propensity_weights: Tensor | None
    popularity: Tensor | None  # to the power γ

    def __init__(self, config: ObjectiveConfig, positives: Positives) -> None:
        super().__init__()
        self.config = config
        counts = positives.item_counts.double()
        weights = popularity = None
        if config.propensity.exponent:
            weights = losses.inverse_propensity(positives.item_counts, config.propensity)
        if config.popularity_exponent:
            popularity = losses.popularity_power(counts, config.popularity_exponent).float()
        log_popularity = (counts / counts.sum()).log().float()
        self.register_buffer("log_popularity", log_popularity, persistent=False)
        self.register_buffer("propensity_weights", weights, persistent=False)
        self.register_buffer("popularity", popularity, persistent=False)

    @property
    def calls_sampler(self) -> bool:
        """Whether any term uses the sampler's negatives."""
        return self.config.negatives.endswith("sampler") or self.config.contrastive.weight > 0

    def project(self, embeddings: Embeddings) -> Embeddings:
        """The vectors whose inner product is the score (unit vectors for cosine)."""
        if self.config.score == "inner":
            return embeddings
        return Embeddings(*(F.normalize(table, dim=-1) for table in embeddings))

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
            The sampler's negatives; ``None`` unless :attr:`calls_sampler`.
        context
            Random streams.
        projected
            False if ``embeddings`` are the backbone's own: the rows in use are projected here,
            which is less work than whole tables.
        """
        config = self.config
        # 1. Gather. Where all items are scored at once, all are projected.
        at_once = isinstance(negatives, Items) and len(embeddings.items) <= _AT_ONCE * negatives.n
        if at_once and not projected:
            embeddings, projected = self.project(embeddings), True
        to_unit = config.score == "cosine" and not projected
        rows = _Rows(embeddings, batch, negatives, config.repulsion, at_once, to_unit)
        # 2. Rank.
        positive = (rows.users * rows.positives).sum(dim=-1) / config.temperature
        if config.loss == "bpr":
            terms = {"bpr": self._bpr(batch, rows, positive, negatives)}
        else:
            terms = {"softmax": self._softmax(batch, rows, positive, negatives, context)}
        # 3. Align.
        if config.contrastive.weight:
            terms["contrastive"] = config.contrastive.weight * self._alignment(rows, context)
        # 4. Keep the parameters small.
        if config.l2:
            terms["l2"] = config.l2 * self._l2(batch, layer_zero, negatives)
        # 5. Let the sampler learn; of a diffusion this is λ_diff (L_rec + λ_c L_causal).
        if negatives is not None and negatives.loss is not None:
            terms["sampler"] = negatives.loss
        return terms

    def _bpr(
        self, batch: Batch, rows: _Rows, positive: Tensor, negatives: Negatives | None
    ) -> Tensor:
        """BPR (3) over the sampler's negatives, if asked for on deconfounded scores (25)."""
        negative = rows.scores() / self.config.temperature
        if self.popularity is not None:
            positive = losses.deconfounded(positive, self.popularity[batch.positives])
            negative = losses.deconfounded(negative, self.popularity[rows.items])
        weights = negatives.weights if isinstance(negatives, Items) else None
        return losses.bpr(positive, negative, weights, self._row_weights(batch))

    def _softmax(
        self,
        batch: Batch,
        rows: _Rows,
        positive: Tensor,
        negatives: Negatives | None,
        context: Context,
    ) -> Tensor:
        """Softmax (4) over items that all rows share, the sampler's negatives, or both.

        As usual for shared negatives, a row's *other* training positives stay among them; only
        its own positive is left out.
        """
        config, row_weights = self.config, self._row_weights(batch)
        if config.log_q:
            positive = positive - config.log_q * self.log_popularity[batch.positives]
        # What all rows share: columns of logits, as vectors and the items behind them.
        match config.negatives, negatives:
            case "sampler", SharedItems(items) | SharedVectors(items=items):
                columns = rows.negatives
            case "sampler", _:
                logits = self._logits(batch, rows, negatives)
                return losses.sampled_softmax(positive, logits, None, row_weights)
            case (("in-batch" | "in-batch+sampler"), _):
                items, columns = batch.positives, rows.repelled(rows.positives)
            case _:
                size, n_items = (config.uniform_negatives,), len(self.log_popularity)
                stream, device = context.negatives, positive.device
                items = torch.randint(n_items, size, generator=stream, device=device)
                columns = rows.repelled(*rows.of_items(items))
        weights = torch.ones_like(positive) if row_weights is None else row_weights
        weights = weights / len(batch)
        # Beside them the sampler's, logits of each row's own, in the same denominator.
        own, loss = positive, None
        if config.negatives.endswith("+sampler"):
            logits = self._logits(batch, rows, negatives)
            own = torch.logsumexp(torch.cat([positive.unsqueeze(1), logits], dim=1), dim=1)
            loss = (weights * (own - positive)).sum()
        shared = shared_softmax(
            rows.users / config.temperature,
            columns,
            weights,
            own=own,
            bias=-config.log_q * self.log_popularity[items] if config.log_q else None,
            barred=(batch.positives, items),
        )
        return shared if loss is None else loss + shared

    def _logits(self, batch: Batch, rows: _Rows, negatives: Negatives | None) -> Tensor:
        """Logits of the sampler's negatives in a softmax, ``(B, n)``."""
        logits = rows.scores() / self.config.temperature
        if self.config.log_q:
            logits = logits - self.config.log_q * self.log_popularity[rows.items]
        match negatives:
            case Items(weights=Tensor() as weights):
                share = weights / weights.sum(dim=1, keepdim=True)
                return logits + (negatives.n * share).log()
            case SharedItems(items) | SharedVectors(items=items):
                return logits.masked_fill(items == batch.positives.unsqueeze(1), -torch.inf)
        return logits

    def _row_weights(self, batch: Batch) -> Tensor | None:
        """Inverse propensities (24) of the positives, ``(B,)``; ``None``: all count alike."""
        weights = self.propensity_weights
        return None if weights is None else weights[batch.positives]

    def _alignment(self, rows: _Rows, context: Context) -> Tensor:
        """The alignment (19) of positives with their noised selves, against the pool."""
        config, items, pool = self.config.contrastive, rows.positives, rows.pool()
        if config.negatives is not None and config.negatives < len(pool):
            order = torch.randperm(len(pool), generator=context.negatives, device=pool.device)
            pool = pool[order[: config.negatives]]
        noise = torch.randn(items.shape, generator=context.noise, device=items.device)
        return losses.alignment(items, items + config.noise * noise, pool, config.temperature)

    def _l2(self, batch: Batch, layer_zero: Embeddings, negatives: Negatives | None) -> Tensor:
        """L_2, of the free parameters of users, positives and negatives that are items."""
        users, items = layer_zero
        drawn = []
        if isinstance(negatives, Items | SharedItems):
            drawn.append(negatives.items.flatten())
        if self.config.l2_form == "authors":
            rows = [items.index_select(0, some) for some in (batch.positives, *drawn)]
            return losses.l2_norm(users.index_select(0, batch.users), *rows)
        many = items.new_zeros(())
        if drawn and len(drawn[0]) > len(items):
            many = losses.l2_squared_of_drawn(items, drawn.pop())
        few = half_mean_squares(users, batch.users)
        return few + half_mean_squares(items, batch.positives, *drawn) + many


class _Rows:
    """The vectors that a batch uses, as scores are made of them; each table is read once.

    Attributes
    ----------
    users, positives
        ``(B, d)``.
    negatives
        The sampler's, ``(B, n, d)`` or, shared by all rows, ``(n, d)``; unset where there are
        none, or the whole catalogue is scored ``at_once``.
    items
        The items that negatives are, or else take the popularity of: ``(B, n)``, ``(n,)`` of
        shared ones, and ``(B, 1)`` the positives for synthesised ones of a row's own.
    """

    negatives: Tensor

    def __init__(
        self,
        embeddings: Embeddings,
        batch: Batch,
        negatives: Negatives | None,
        repulsion: float,
        at_once: bool,
        to_unit: bool,
    ) -> None:
        self._table, self._repulsion = embeddings.items, repulsion
        self._at_once, self._to_unit = at_once, to_unit
        self.items = batch.positives.unsqueeze(1)
        self._pool: Tensor | None = None
        (self.users,) = self._take(embeddings.users, batch.users)
        match negatives:
            case Items(items) if at_once:
                (self.positives,) = self.of_items(batch.positives)
                self.items = items
            case Items(items) | SharedItems(items):
                self.positives, self._pool = self.of_items(batch.positives, items.flatten())
                self.items = items
                self.negatives = self.repelled(self._pool.view(*items.shape, -1))
            case Vectors(vectors, pool):
                (self.positives,) = self.of_items(batch.positives)
                self.negatives = vectors
                self._pool = vectors.flatten(0, 1) if pool is None else pool
            case SharedVectors(vectors, items):
                (self.positives,) = self.of_items(batch.positives)
                self.items = items
                self.negatives = self._pool = vectors
            case None:
                (self.positives,) = self.of_items(batch.positives)

    def of_items(self, *ids: Tensor) -> list[Tensor]:
        """Rows ``(m, d)`` of items, for each of ids ``(m,)``."""
        return self._take(self._table, *ids)

    def repelled(self, items: Tensor) -> Tensor:
        """Vectors of items as negatives, which are moved by ``κ`` of their gradient (5)."""
        return losses.moved_by(self._repulsion, items)

    def scores(self) -> Tensor:
        """``s`` of the sampler's negatives with each row's user, ``(B, n)``."""
        if self._at_once:
            return (self.users @ self.repelled(self._table).T).gather(1, self.items)
        return inner_products(self.users, self.negatives)

    def pool(self) -> Tensor:
        """``(M, d)`` what the alignment contrasts positives with."""
        if self._pool is None:
            return F.embedding(self.items, self._table).flatten(0, 1)
        return self._pool

    def _take(self, table: Tensor, *ids: Tensor) -> list[Tensor]:
        rows = rows_of(table, *ids)
        return [F.normalize(row, dim=-1) for row in rows] if self._to_unit else list(rows)


def inner_products(users: Tensor, vectors: Tensor) -> Tensor:
    """``(B, n)`` of users ``(B, d)`` with vectors ``(B, n, d)``, or ``(n, d)`` shared by all."""
    if vectors.ndim == 2 or len(vectors) == 1:
        return users @ vectors.flatten(0, -2).T
    if vectors.shape[1] == 1:
        return (users * vectors[:, 0]).sum(dim=-1, keepdim=True)
    return torch.einsum("bd,bnd->bn", users, vectors)
