"""The losses and their sum (METHOD §3, §9): BPR, sampled softmax, alignment, L2.

The functions take scores or vectors and return scalars; :class:`Objective` assembles them for
a batch as the configuration says.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.debiasing import (
    PropensityConfig,
    deconfounded,
    inverse_propensity,
    popularity_power,
)
from cnsdiff.samplers.base import Batch, Context, Negatives
from cnsdiff.settings import Settings

NegativeSource = Literal["sampler", "in-batch", "uniform", "in-batch+sampler", "uniform+sampler"]


def bpr(
    positive: Tensor,
    negative: Tensor,
    weights: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> Tensor:
    """``- mean log σ(s_p - s_n)`` (Rendle et al. 2009); shapes ``(B,)`` and ``(B, n)``.

    With ``weights`` ``(B, n)`` the mean over rows of the weighted sum over each; ``row_weights``
    ``(B,)`` multiply the rows before that mean.
    """
    losses = F.softplus(negative - positive.unsqueeze(1))
    if row_weights is not None:
        losses = row_weights.unsqueeze(1) * losses
    return losses.mean() if weights is None else (weights * losses).sum(dim=1).mean()


def sampled_softmax(
    positive: Tensor,
    negatives: Tensor,
    admissible: Tensor | None,
    row_weights: Tensor | None = None,
) -> Tensor:
    """``- mean log( e^{l_p} / (e^{l_p} + Σ_n e^{l_n}) )`` over logits.

    Parameters
    ----------
    positive
        ``(B,)`` logits of the positives.
    negatives
        ``(B, N)`` logits of the negatives.
    admissible
        ``(B, N)`` boolean, false where a "negative" is in truth a positive of the row; all are
        admissible when ``None``.
    row_weights
        ``(B,)`` factors of the rows before the mean; 1 when ``None``.
    """
    if admissible is not None:
        negatives = negatives.masked_fill(~admissible, -torch.inf)
    logits = torch.cat([positive.unsqueeze(1), negatives], dim=1)
    losses = torch.logsumexp(logits, dim=1) - positive
    return (losses if row_weights is None else row_weights * losses).mean()


def alignment(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """``L_CL = - mean cos(a, p)/τ + mean logsumexp_n cos(a, n)/τ`` (METHOD §3).

    Shapes ``(B, d)``, ``(B, d)`` and ``(M, d)``.
    """
    anchors, positives, negatives = (
        F.normalize(x, dim=-1) for x in (anchors, positives, negatives)
    )
    attraction = (anchors * positives).sum(dim=-1) / temperature
    repulsion = torch.logsumexp(anchors @ negatives.T / temperature, dim=1)
    return repulsion.mean() - attraction.mean()


def l2_squared(*rows: Tensor) -> Tensor:
    """``Σ ‖x‖² / (2B)`` over the rows of a batch, as in LightGCN."""
    return sum((x.square().sum() / (2 * len(x)) for x in rows), start=rows[0].new_zeros(()))


def l2_squared_of_drawn(table: Tensor, drawn: Tensor) -> Tensor:
    """:func:`l2_squared` of the rows ``drawn`` ``(m,)`` of a table that has fewer than ``m``."""
    counts = torch.bincount(drawn, minlength=len(table))
    return (counts * table.square().sum(dim=1)).sum() / (2 * len(drawn))


def l2_norm(*rows: Tensor) -> Tensor:
    """``Σ ‖X‖_F / B²``, what the authors' code computes: next to nothing at B = 2048."""
    return sum((x.norm() / len(x) ** 2 for x in rows), start=rows[0].new_zeros(()))


class ContrastiveConfig(Settings):
    """The alignment term ``L_CL``."""

    weight: float = Field(0.0, ge=0, description="λ_cl")
    temperature: float = Field(2.0, gt=0, description="τ")
    noise: float = Field(0.01, ge=0, description="scale of ε in cos(z_i, z_i + ε)")
    negatives: int | None = Field(512, ge=1, description="drawn from the pool; None: all")


class ObjectiveConfig(Settings):
    """The joint objective ``L = L_rank + λ_cl L_CL + λ_diff (L_rec + L_causal) + λ_2 L_2``."""

    loss: Literal["bpr", "softmax"] = "bpr"
    score: Literal["inner", "cosine"] = "inner"
    temperature: float = Field(1.0, gt=0, description="scores are divided by it")
    negatives: NegativeSource = "sampler"
    uniform_negatives: int = Field(512, ge=1, description="catalogue items shared by a batch")
    repulsion: float = Field(
        1.0, ge=0, le=1,
        description="κ, the share of its gradient that a negative item is moved by; at 0 negatives "
        "move users alone, as synthesised ones do",
    )  # fmt: skip
    log_q: float = Field(0.0, description="γ in s/τ - γ log pop of the softmax")
    popularity_exponent: float = Field(0.0, ge=0, description="γ of PDA's m_i^γ in BPR; 0: off")
    l2: float = Field(1e-2, ge=0, description="λ_2")
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
    ) -> dict[str, Tensor]:
        """Named, weighted loss terms; the training loss is their sum.

        Parameters
        ----------
        batch
            ``B`` interactions.
        embeddings
            Projected embeddings (:meth:`project`), with gradient.
        layer_zero
            The free parameters, for the L2 term.
        negatives
            The sampler's negatives, or ``None`` if it is not called.
        context
            Random streams.
        """
        config = self.config
        users, items = embeddings.users[batch.users], embeddings.items[batch.positives]
        positive = (users * items).sum(dim=-1) / config.temperature
        repelled = self._repelled(embeddings)
        sampled: Tensor | None = None
        if negatives is not None and self.calls_sampler:
            sampled = negatives.scores(users, repelled) / config.temperature
        row_weights = None if self.row_weights is None else self.row_weights[batch.positives]
        terms: dict[str, Tensor] = {}
        if config.loss == "bpr":
            assert sampled is not None
            assert negatives is not None
            if self.popularity is not None:
                positive = deconfounded(positive, self.popularity[batch.positives])
                sampled = deconfounded(sampled, _of_sampled(self.popularity, batch, negatives))
            terms["bpr"] = bpr(positive, sampled, negatives.weights, row_weights)
        else:
            if config.log_q:
                positive = positive - config.log_q * self.log_popularity[batch.positives]
                if sampled is not None and negatives is not None:
                    popularity = _of_sampled(self.log_popularity, batch, negatives)
                    sampled = sampled - config.log_q * popularity
            if sampled is not None and negatives is not None and negatives.weights is not None:
                share = negatives.weights / negatives.weights.sum(dim=1, keepdim=True)
                sampled = sampled + (negatives.per_row * share).log()
            if sampled is not None and negatives is not None:
                allowed = negatives.admissible(batch.positives)
                if allowed is not None:
                    sampled = sampled.masked_fill(~allowed, -torch.inf)
            terms["softmax"] = self._softmax(
                batch, repelled, users, positive, sampled, row_weights, context
            )
        if config.contrastive.weight:
            assert negatives is not None
            terms["contrastive"] = config.contrastive.weight * self._contrastive(
                items, negatives, embeddings, context
            )
        if config.l2:
            terms["l2"] = config.l2 * self._l2(batch, layer_zero, negatives)
        if negatives is not None and negatives.loss is not None:
            terms["sampler"] = negatives.loss
        return terms

    def _repelled(self, embeddings: Embeddings) -> Embeddings:
        """The embeddings as negatives see them: the same, but moved by ``κ`` of the gradient."""
        share = self.config.repulsion
        if share == 1:
            return embeddings
        items = embeddings.items
        return Embeddings(embeddings.users, share * items + (1 - share) * items.detach())

    def _l2(self, batch: Batch, layer_zero: Embeddings, negatives: Negatives | None) -> Tensor:
        rows = [layer_zero.users[batch.users], layer_zero.items[batch.positives]]
        drawn = None if negatives is None or negatives.items is None else negatives.items.flatten()
        squared = self.config.l2_form == "squared"
        if drawn is None:
            return l2_squared(*rows) if squared else l2_norm(*rows)
        if squared and len(drawn) > len(layer_zero.items):
            return l2_squared(*rows) + l2_squared_of_drawn(layer_zero.items, drawn)
        rows.append(layer_zero.items[drawn])
        return l2_squared(*rows) if squared else l2_norm(*rows)

    def _softmax(
        self,
        batch: Batch,
        embeddings: Embeddings,
        users: Tensor,
        positive: Tensor,
        sampled: Tensor | None,
        row_weights: Tensor | None,
        context: Context,
    ) -> Tensor:
        """Softmax over shared catalogue items and the sampler's own negatives, as configured.

        As usual for shared negatives, a row's *other* training positives stay among them; only
        its own positive is masked.
        """
        config = self.config
        if config.negatives == "sampler":
            assert sampled is not None
            return sampled_softmax(positive, sampled, None, row_weights)
        if config.negatives.startswith("in-batch"):
            shared = batch.positives
        else:
            shared = torch.randint(
                self.positives.n_items,
                (config.uniform_negatives,),
                generator=context.negatives,
                device=users.device,
            )
        logits = users @ embeddings.items[shared].T / config.temperature
        # A row's own positive, met again among the shared items, is not a negative.
        admissible = shared.unsqueeze(0) != batch.positives.unsqueeze(1)
        if config.log_q:
            logits = logits - config.log_q * self.log_popularity[shared]
        if sampled is not None:
            logits = torch.cat([logits, sampled], dim=1)
            admissible = torch.cat([admissible, torch.ones_like(sampled, dtype=torch.bool)], dim=1)
        return sampled_softmax(positive, logits, admissible, row_weights)

    def _contrastive(
        self, items: Tensor, negatives: Negatives, embeddings: Embeddings, context: Context
    ) -> Tensor:
        config = self.config.contrastive
        pool = negatives.pool
        if pool is None:
            pool = negatives.embed(embeddings).flatten(0, 1)
        if config.negatives is not None and config.negatives < len(pool):
            order = torch.randperm(len(pool), generator=context.negatives, device=pool.device)
            pool = pool[order[: config.negatives]]
        noise = torch.randn(items.shape, generator=context.noise, device=items.device)
        return alignment(items, items + config.noise * noise, pool, config.temperature)


def _of_sampled(table: Tensor, batch: Batch, negatives: Negatives) -> Tensor:
    """What a table ``(n_items,)`` says of the sampler's negatives, ``(B, n)`` or ``(B, 1)``.

    A synthesised negative is no item; it takes that of the item it was made from, which is the
    positive unless ``sources`` says otherwise.
    """
    items = negatives.items if negatives.items is not None else negatives.sources
    if items is not None:
        return table[items]
    return table[batch.positives].unsqueeze(1)
