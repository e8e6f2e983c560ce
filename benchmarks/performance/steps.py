"""Training steps that can be timed alone: what the training loop does with a batch, and no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.recommender.config import resolve_config
from cnsdiff.recommender.fitting import assemble
from cnsdiff.samplers import Batch, Context

SEED = 0


class Steps:
    """A preset on a dataset, one step at each call, on the CPU.

    Attributes
    ----------
    batch_size
        Interactions per step, as the training loop would take.
    """

    def __init__(
        self, dataset: Dataset, preset: str, settings: dict[str, Any] | None = None
    ) -> None:
        self.config = resolve_config(settings or {}, preset=preset)
        self.step, self.positives = assemble(self.config, dataset)[:2]
        self.step.train()
        training = self.config.training
        groups = list(self.step.parameter_groups(training.lr))
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.context = Context(
            0.5, *(torch_generator(SEED, name) for name in ("negatives", "noise"))
        )
        n_pairs = len(self.positives)
        self.batch_size = min(training.batch_size_for(n_pairs), n_pairs)
        self._order = torch.randperm(n_pairs, generator=torch_generator(SEED, "order"))
        self._next = 0

    def batch(self) -> Batch:
        """The next full batch of an epoch that begins anew after its last."""
        if self._next + self.batch_size > len(self._order):
            self._next = 0
        index = self._order[self._next : self._next + self.batch_size]
        self._next += self.batch_size
        users, items = self.positives.pairs.index_select(0, index).t().contiguous()
        return Batch(index, users, items)

    def forward(self) -> Tensor:
        """The loss of the next batch, gradients cleared."""
        batch = self.batch()
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.step(batch, self.context)[0]
        return loss

    def __call__(self) -> None:
        self.forward().backward()
        self.optimizer.step()
