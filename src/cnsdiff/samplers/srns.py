"""SRNS (Ding et al., NeurIPS 2020): hard negatives whose score has varied, from a memory."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Items, Sampler, SamplerConfig
from cnsdiff.samplers.candidates import candidate_scores

#: Users whose memories are refreshed together, to bound what is held at once.
_USERS_AT_ONCE = 4096


class SRNSConfig(SamplerConfig):
    """Settings of :class:`SRNSSampler`."""

    memory: int = Field(20, ge=1, le=10**5, description="S1, items remembered per user")
    proposals: int = Field(
        20, ge=1, le=10**5, description="S2, random items a refresh chooses among too"
    )
    temperature: Annotated[float, Searched(low=1.0, high=20.0, log=True)] = Field(
        10.0, gt=0, description="τ of a refresh, P ∝ exp(s/τ)"
    )
    variance_weight: Annotated[float, Searched(low=0.1, high=10.0, log=True)] = Field(
        1.0, ge=0, description="α, weight of the standard deviation"
    )
    warmup: float = Field(50.0, gt=0, description="T₀, epochs until α is reached")
    history: int = Field(5, ge=2, le=1000, description="epochs that the standard deviation is over")

    @model_validator(mode="after")
    def _check(self) -> SRNSConfig:
        if self.n_negatives > self.memory:
            raise ValueError(
                f"n_negatives={self.n_negatives} are more than memory={self.memory} holds; raise "
                "memory, or lower n_negatives"
            )
        return self


@SAMPLERS.register("srns")
class SRNSSampler(Sampler):
    """Simplified and robustified negative sampling.

    From the user's memory ``M_u`` of ``S1`` items, the ``n`` with the largest::

        P + α min(1, t/T₀) std(P),      P(n | u, p) = σ(s(u, n) - s(u, p))

    ``t`` is the epochs completed, the standard deviation (the population's) is over ``P`` at the
    end of each of the last 5 epochs, or of as many as there are. A true negative's ``P`` varies
    while it is learnt; a false negative's stays high, whence the robustness.

    Once per epoch, before its first negatives, each memory is refreshed: of its items and ``S2``
    uniform ones, ``S1`` are drawn without replacement with ``P ∝ exp(s/τ)``, as Gumbel top-k
    (repetitions count once, so a memory has some only if the user has too few free items). No
    item of a memory is ever a training positive of its user.

    Differences from the published code, which refreshes a user's memory at each batch the user
    is in, from 3000 items per user that change every epoch and whose scores, with those of all
    positives, it records in the 5 epochs before. Here the embeddings of the last 5 epochs are
    kept instead: scores, and so ``std(P)``, are the same for whatever pair is asked about, and an
    item is known from the moment it enters a memory. This is state of
    ``5 (users + items) d`` floats, none with ``variance_weight=0``.

    Memories and past embeddings are in the ``state_dict``: a resumed run goes on as it would
    have. A call for another epoch than the last call's counts as the beginning of that epoch,
    without gradient too: to look at negatives without moving the memories, ask a copy.
    """

    Config = SRNSConfig
    config: SRNSConfig
    memory: Tensor
    past_users: Tensor
    past_items: Tensor

    def __init__(
        self, positives: Positives, dim: int, config: SRNSConfig, generator: torch.Generator
    ) -> None:
        super().__init__(positives, dim, config, generator)
        everyone = torch.arange(positives.n_users)
        start = positives.sample_negatives(everyone, config.memory, generator)
        self.register_buffer("memory", start)  # (U, S1)
        n_epochs = config.history if config.variance_weight else 0
        self.register_buffer("past_users", torch.zeros(n_epochs, positives.n_users, dim))
        self.register_buffer("past_items", torch.zeros(n_epochs, positives.n_items, dim))
        # On the host: to ask a GPU at each batch whether the epoch is new would wait for it.
        self._epoch, self._recorded = 0, 0

    def get_extra_state(self) -> Tensor:
        """The last epoch seen, and the epochs recorded: a tensor, as checkpoints hold no other."""
        return torch.tensor([self._epoch, self._recorded])

    def set_extra_state(self, state: Any) -> None:
        self._epoch, self._recorded = state.tolist()

    @torch.no_grad()
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        # The deviation of nearly equal scores would drown in the rounding of half precision.
        with torch.autocast(embeddings.items.device.type, enabled=False):
            embeddings = Embeddings(*(table.float() for table in embeddings))
            if context.epoch != self._epoch:
                self._begin_epoch(embeddings, context)
            memory = self.memory[batch.users]
            worth = likelihood(embeddings, batch, memory)
            share = min(1.0, (context.epoch - 1) / self.config.warmup)
            if share and self._recorded:
                worth += self.config.variance_weight * share * self._deviation(batch, memory)
            best = worth.topk(self.config.n_negatives, dim=1).indices
        return Items(memory.gather(1, best))

    def _begin_epoch(self, embeddings: Embeddings, context: Context) -> None:
        """Record the embeddings that the last epoch ended with, and refresh all memories."""
        if context.epoch > 1 and len(self.past_users):  # those before training count for nothing
            slot = self._recorded % len(self.past_users)
            self.past_users[slot] = embeddings.users
            self.past_items[slot] = embeddings.items
            self._recorded += 1
        self._epoch = context.epoch
        everyone = torch.arange(len(self.memory), device=self.memory.device)
        for start in range(0, len(everyone), _USERS_AT_ONCE):
            rows = slice(start, start + _USERS_AT_ONCE)
            proposals = self.positives.sample_negatives(
                everyone[rows], self.config.proposals, context.negatives
            )
            pool = torch.cat([self.memory[rows], proposals], dim=1)
            scores = candidate_scores(embeddings.users[rows], embeddings.items, pool.unsqueeze(1))
            logits = scores.squeeze(1) / self.config.temperature
            self.memory[rows] = survivors(pool, logits, self.config.memory, context.negatives)

    def _deviation(self, batch: Batch, memory: Tensor) -> Tensor:
        """``std(P)`` over the epochs recorded, ``(B, S1)``."""
        n = min(self._recorded, len(self.past_users))
        past = [
            likelihood(Embeddings(users, items), batch, memory)
            for users, items in zip(self.past_users[:n], self.past_items[:n], strict=True)
        ]
        return torch.stack(past).std(dim=0, correction=0)


def likelihood(embeddings: Embeddings, batch: Batch, items: Tensor) -> Tensor:
    """``P(n | u, p) = σ(s(u, n) - s(u, p))`` of ``items`` ``(B, m)`` in each row, ``(B, m)``."""
    users = embeddings.users[batch.users]
    positive = (users * embeddings.items[batch.positives]).sum(dim=-1, keepdim=True)
    scores = candidate_scores(users, embeddings.items, items.unsqueeze(1)).squeeze(1)
    return torch.sigmoid(scores - positive)


def survivors(pool: Tensor, logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` of each row's items without replacement, ``P ∝ exp(logit)``.

    Adding Gumbel noise to the logits and taking the ``n`` largest is the same as drawing one by
    one, each time in proportion to ``exp(logit)`` among those left (Kool et al. 2019).

    Parameters
    ----------
    pool, logits
        ``(V, m)`` items and their logits. An item that a row repeats takes part once; its other
        places are drawn only if the row has fewer than ``n`` different items.
    n
        At most ``m``.
    generator
        Source of the noise.

    Returns
    -------
    Tensor
        ``(V, n)`` items.
    """
    exponential = torch.empty_like(logits).exponential_(generator=generator)
    keys = (logits - exponential.log()).masked_fill(_repeated(pool), -torch.inf)
    return pool.gather(1, keys.topk(n, dim=1).indices)


def _repeated(items: Tensor) -> Tensor:
    """Where a row ``(V, m)`` holds an item that it has held already."""
    order = items.argsort(dim=1, stable=True)
    ordered = items.gather(1, order)
    again = torch.zeros_like(items, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return again.gather(1, order.argsort(dim=1))
