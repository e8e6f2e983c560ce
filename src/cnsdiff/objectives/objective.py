"""The joint objective of a batch (equation 20): its settings, and the sum of its terms.

====  =======================================================  =============  ==============
step  what                                                     equations      code
====  =======================================================  =============  ==============
1     gather the vectors that the batch uses                   5              ``_Rows``
2     rank each positive above negatives, by BPR,              3, 24, 25      ``_bpr``
      by a softmax                                             4, 24          ``_softmax``
      or by what a rival puts in its place                     35 to 38       ``_by_row``
3     align the positives with themselves                      19             ``_alignment``
4     keep the free parameters small                           20
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
from cnsdiff.kernels.gradients import rows_of, shared_softmax
from cnsdiff.objectives import losses, rivals
from cnsdiff.samplers import Batch, Context, Items, Negatives, SharedItems, SharedVectors, Vectors
from cnsdiff.samplers.candidates import candidate_scores

#: The scores of a whole catalogue are one product of matrices, those of some items a gather from
#: memory and, in the backward pass, a scatter: up to so many items per negative the product wins.
_AT_ONCE = 64
#: Pairs whose vectors are gathered at once.
_PAIRS = 2**18


class ObjectiveConfig(Settings):
    """The joint objective ``L = L_rank + λ_cl L_CL + λ_diff (L_rec + L_causal) + λ_2 L_2``."""

    loss: Literal["bpr", "softmax", "psl", "bsl", "sl@k", "bc"] = "bpr"
    """L_rank: BPR (equation 3) over the sampler's negatives, a softmax (equation 4), or a rival's
    loss in its place (equations 35 to 38), on cosines."""
    score: Literal["inner", "cosine"] = "inner"
    """s, the inner product of the embeddings as they are, or of unit length."""
    temperature: Annotated[float, Searched(low=0.05, high=0.8, log=True)] = Field(1.0, gt=0)
    """τ, by which every score of L_rank is divided."""
    screen: Annotated[float, Searched(low=0.1, high=0.6)] = Field(0.0, ge=0, lt=1)
    """ρ of the softmax and of rivals: each row leaves out the share of its negatives that score
    highest, as the likeliest to be false (equation 39); 0: none."""
    screen_from: int = Field(3, ge=1, le=10**6)
    """The epoch from which negatives are screened: before, scores tell little."""
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
    rival: rivals.RivalConfig = rivals.RivalConfig()

    @property
    def idle(self) -> frozenset[str]:
        """The settings of other rivals' losses."""
        others = (names for loss, names in rivals.OPTIONS.items() if loss != self.loss)
        return frozenset(f"rival.{name}" for names in others for name in names)

    def screened_in(self, epoch: int) -> float:
        """The share of a row's negatives that is left out in an epoch."""
        return self.screen if epoch >= self.screen_from else 0.0


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
    classes_of_users: Tensor
    classes_of_items: Tensor
    angles: Tensor

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
        if config.loss == "bc":
            temperature = config.rival.popularity_temperature
            names = "classes_of_users", "classes_of_items", "angles"
            angles = rivals.popularity_angles(positives, temperature)
            for name, tensor in zip(names, angles, strict=True):
                self.register_buffer(name, tensor, persistent=False)
        self.positives = positives if config.loss == "sl@k" else None

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
        # 1. Gather.
        rows = _Rows(self, embeddings, batch, negatives, projected)
        # 2. Rank.
        if config.loss == "bpr":
            terms = {"bpr": self._bpr(rows)}
        else:
            terms = {config.loss: self._softmax(rows, context)}
        # 3. Align.
        if config.contrastive.weight:
            terms["contrastive"] = config.contrastive.weight * self._alignment(rows, context)
        # 4. Keep the parameters small.
        if config.l2:
            l2 = losses.l2_squared if config.l2_form == "squared" else losses.l2_norm
            ids = batch.users, batch.positives, rows.negative_ids
            terms["l2"] = config.l2 * l2(layer_zero, *ids)
        # 5. Let the sampler learn; of a diffusion this is λ_diff (L_rec + λ_c L_causal).
        if negatives is not None and negatives.loss is not None:
            terms["sampler"] = negatives.loss
        return terms

    def _bpr(self, rows: _Rows) -> Tensor:
        """BPR (3) over the sampler's negatives, if asked for on deconfounded scores (25)."""
        positive, negative = rows.positive_scores(), rows.negative_scores()
        if self.popularity is not None:
            positive = losses.deconfounded(positive, self.popularity[rows.batch.positives])
            negative = losses.deconfounded(negative, self.popularity[rows.items])
        weights = rows.negatives.weights if isinstance(rows.negatives, Items) else None
        return losses.bpr(positive, negative, weights, self._row_weights(rows))

    def _softmax(self, rows: _Rows, context: Context) -> Tensor:
        """Softmax (4) over items that all rows share, the sampler's negatives, or both.

        As usual for shared negatives, a row's *other* training positives stay among them; only
        its own positive is left out.
        """
        config, own_items = self.config, rows.batch.positives
        shared, row_weights = self._shared(rows, context), self._row_weights(rows)
        screen = config.screened_in(context.epoch)
        if screen or config.loss != "softmax":
            losses_of_rows = self._by_row(rows, shared, screen)
            return (losses_of_rows if row_weights is None else row_weights * losses_of_rows).mean()
        beside = shared is None or config.negatives.endswith("+sampler")
        own = rows.positive_scores() if beside or config.log_q else rows.positives
        if config.log_q:
            own = own - config.log_q * self.log_popularity[own_items]
        if shared is None:
            return losses.sampled_softmax(own, self._logits(rows), None, row_weights)
        columns, items = shared
        weights = own.new_full((len(own),), 1 / len(own))
        if row_weights is not None:
            weights = weights * row_weights
        loss = None
        # Beside them the sampler's, logits of each row's own, in the same denominator.
        if beside:
            positive = own
            logits = torch.cat([positive.unsqueeze(1), self._logits(rows)], dim=1)
            own = torch.logsumexp(logits, dim=1)
            loss = (weights * (own - positive)).sum()
        own_softmax = shared_softmax(
            rows.users,
            columns,
            weights,
            temperature=config.temperature,
            own=own,
            bias=-config.log_q * self.log_popularity[items] if config.log_q else None,
            barred=(own_items, items),
        )
        return own_softmax if loss is None else loss + own_softmax

    def _shared(self, rows: _Rows, context: Context) -> tuple[Tensor, Tensor] | None:
        """Negatives that all rows share, as vectors ``(N, d)`` and the items behind them.

        ``None`` where the sampler makes a row's own, and there are no others.
        """
        match self.config.negatives, rows.negatives:
            case "sampler", SharedItems(items) | SharedVectors(items=items):
                return rows.vectors, items
            case "sampler", _:
                return None
            case (("in-batch" | "in-batch+sampler"), _):
                return rows.repelled(rows.positives), rows.batch.positives
        size, n_items = (self.config.uniform_negatives,), len(self.log_popularity)
        stream, device = context.negatives, rows.positives.device
        items = torch.randint(n_items, size, generator=stream, device=device)
        return rows.repelled(*rows.of_items(items)), items

    def _by_row(self, rows: _Rows, shared: tuple[Tensor, Tensor] | None, screen: float) -> Tensor:
        """``(B,)`` losses that take each row's scores: rivals' (35 to 38), or screened (39)."""
        config, temperature, own_items = self.config, self.config.temperature, rows.batch.positives
        positive, admissible = temperature * rows.positive_scores(), None
        if shared is None:
            negative = temperature * self._logits(rows)
        else:
            columns, items = shared
            negative = rows.users @ columns.T
            admissible = items != own_items.unsqueeze(1)
        if screen:
            admissible = losses.screened(negative, admissible, screen)
        if config.log_q:  # a softmax alone has it
            positive = positive - temperature * config.log_q * self.log_popularity[own_items]
            if shared is not None:
                negative = negative - temperature * config.log_q * self.log_popularity[items]
        scores, rival = (positive, negative, admissible, temperature), config.rival
        match config.loss:
            case "psl":
                return rivals.psl(*scores, rival.activation)
            case "bsl":
                return rivals.bsl(*scores, rival.positive_temperature)
            case "sl@k":
                threshold = self._threshold(rows, negative, admissible)
                return rivals.sl_at_k(*scores, threshold, rival.weight_temperature)
            case "bc":
                users, items = self.classes_of_users, self.classes_of_items
                margin = self.angles[users[rows.batch.users], items[own_items]]
                return rivals.bc(*scores, margin)
        logits = positive / temperature, negative / temperature
        return losses.log_sum(*logits, admissible) - logits[0]

    @torch.no_grad()
    def _threshold(self, rows: _Rows, negative: Tensor, admissible: Tensor | None) -> Tensor:
        """``(B,)`` each user's K-th best score, as SL@K estimates it."""
        assert self.positives is not None
        row, item = self.positives.pairs_of(rows.batch.users)
        scores = []
        for begin in range(0, len(row), _PAIRS):
            cut = slice(begin, begin + _PAIRS)
            (vectors,) = rows.of_items(item[cut])
            scores.append((rows.users[row[cut]] * vectors).sum(dim=1))
        if admissible is not None:
            negative = negative.masked_fill(~admissible, -torch.inf)
        return rivals.kth_best(row, torch.cat(scores), negative, self.config.rival.k)

    def _logits(self, rows: _Rows) -> Tensor:
        """Logits of the sampler's negatives in a softmax, ``(B, n)``."""
        logits = rows.negative_scores()
        if self.config.log_q:
            logits = logits - self.config.log_q * self.log_popularity[rows.items]
        match rows.negatives:
            case Items(weights=Tensor() as weights):
                share = weights / weights.sum(dim=1, keepdim=True)
                return logits + (share.shape[1] * share).log()
            case SharedItems(items) | SharedVectors(items=items):
                barred = items == rows.batch.positives.unsqueeze(1)
                return logits.masked_fill(barred, -torch.inf)
        return logits

    def _row_weights(self, rows: _Rows) -> Tensor | None:
        """Weights of the rows ``(B,)``: their own, times inverse propensities (24).

        ``None``: all count alike.
        """
        own = rows.batch.weights
        if self.propensity_weights is None:
            return own
        weights = self.propensity_weights[rows.batch.positives]
        return weights if own is None else own * weights

    def _alignment(self, rows: _Rows, context: Context) -> Tensor:
        """The alignment (19) of positives with their noised selves, against the pool."""
        config, items, pool = self.config.contrastive, rows.positives, rows.pool()
        if config.negatives is not None and config.negatives < len(pool):
            order = torch.randperm(len(pool), generator=context.negatives, device=pool.device)
            pool = pool[order[: config.negatives]]
        noise = torch.randn(items.shape, generator=context.noise, device=items.device)
        return losses.alignment(
            items, items + config.noise * noise, pool, config.temperature, rows.batch.weights
        )


class _Rows:
    """A batch with the vectors that scores are made of; each table is read once.

    Attributes
    ----------
    batch, negatives
        The interactions, and the sampler's negatives for them.
    users, positives
        ``(B, d)`` vectors.
    vectors
        Those of the negatives, ``(B, n, d)`` or, shared by all rows, ``(n, d)``; unset where
        there are none, or the whole catalogue is scored at once.
    negative_ids
        ``(m,)`` of all negatives that are items; ``None`` if they are synthesised.
    items
        The items that negatives are, or else take the popularity of: ``(B, n)``, ``(n,)`` of
        shared ones, and ``(B, 1)`` the positives for synthesised ones of a row's own.
    """

    vectors: Tensor

    def __init__(
        self,
        objective: Objective,
        embeddings: Embeddings,
        batch: Batch,
        negatives: Negatives | None,
        projected: bool,
    ) -> None:
        self.batch, self.negatives = batch, negatives
        at_once = isinstance(negatives, Items) and len(embeddings.items) <= _AT_ONCE * negatives.n
        if at_once and not projected:
            embeddings, projected = objective.project(embeddings), True
        self._at_once, self._catalogue = at_once, embeddings.items
        self._config = objective.config
        self._to_unit = self._config.score == "cosine" and not projected
        (self.users,) = self._take(embeddings.users, batch.users)
        self.negative_ids = None
        if isinstance(negatives, Items | SharedItems):
            self.negative_ids = negatives.items.flatten()
        gathered = [] if at_once or self.negative_ids is None else [self.negative_ids]
        self.positives, *gathered = self.of_items(batch.positives, *gathered)
        self.items = batch.positives.unsqueeze(1)
        self._pool: Tensor | None = None
        match negatives:
            case Items(items) if at_once:
                self.items = items
            case Items(items) | SharedItems(items):
                self.items = items
                (self._pool,) = gathered
                self.vectors = self.repelled(self._pool.view(*items.shape, -1))
            case Vectors(vectors, pool):
                self.vectors = vectors
                self._pool = vectors.flatten(0, 1) if pool is None else pool
            case SharedVectors(vectors, items):
                self.items = items
                self.vectors = self._pool = vectors

    def of_items(self, *ids: Tensor) -> list[Tensor]:
        """Rows ``(m, d)`` of items, for each of ids ``(m,)``."""
        return self._take(self._catalogue, *ids)

    def repelled(self, items: Tensor) -> Tensor:
        """Vectors of items as negatives, which are moved by ``κ`` of their gradient (5)."""
        return losses.moved_by(self._config.repulsion, items)

    def positive_scores(self) -> Tensor:
        """``s / τ`` of each row's user and positive, ``(B,)``."""
        return (self.users * self.positives).sum(dim=-1) / self._config.temperature

    def negative_scores(self) -> Tensor:
        """``s / τ`` of each row's user and the sampler's negatives, ``(B, n)``."""
        if self._at_once:
            scores = (self.users @ self.repelled(self._catalogue).T).gather(1, self.items)
        else:
            scores = inner_products(self.users, self.vectors)
        return scores / self._config.temperature

    def pool(self) -> Tensor:
        """``(M, d)`` what the alignment contrasts positives with."""
        if self._pool is None:
            return F.embedding(self.items, self._catalogue).flatten(0, 1)
        return self._pool

    def _take(self, table: Tensor, *ids: Tensor) -> list[Tensor]:
        return list(rows_of(table, *ids, unit=self._to_unit))


@torch.no_grad()
def counted(
    config: ObjectiveConfig, negatives: Negatives, batch: Batch, embeddings: Embeddings, epoch: int
) -> Negatives:
    """The negatives that the loss counts: without those screened (39), of each row's own.

    ``embeddings`` are those whose inner product is the score. Synthesised negatives are returned
    as they are.
    """
    screen = config.screened_in(epoch)
    if not screen:
        return negatives
    users, own = embeddings.users[batch.users], batch.positives.unsqueeze(1)
    match negatives:
        case SharedItems(items):
            scores = users @ embeddings.items[items].T
            admissible = losses.screened(scores, items != own, screen)
            admissible |= ~admissible.any(dim=1, keepdim=True)  # a row of its positive alone
            return Items(items.expand(len(batch), -1), admissible.to(scores.dtype))
        case Items(items, weights):
            scores = candidate_scores(users, embeddings.items, items.unsqueeze(1)).squeeze(1)
            share = losses.screened(scores, None, screen).to(scores.dtype)
            return Items(items, share if weights is None else share * weights)
    return negatives


def inner_products(users: Tensor, vectors: Tensor) -> Tensor:
    """``(B, n)`` of users ``(B, d)`` with vectors ``(B, n, d)``, or ``(n, d)`` shared by all."""
    if vectors.ndim == 2 or len(vectors) == 1:
        return users @ vectors.flatten(0, -2).T
    if vectors.shape[1] == 1:
        return (users * vectors[:, 0]).sum(dim=-1, keepdim=True)
    return torch.einsum("bd,bnd->bn", users, vectors)
