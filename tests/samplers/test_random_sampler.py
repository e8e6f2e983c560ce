"""Random negatives, and what every sampler's contract check must catch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import (
    Batch,
    Context,
    Items,
    Sampler,
    SamplerConfig,
    SharedItems,
    SharedVectors,
    Vectors,
)
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.testing import check_sampler, make_batch, make_context, tiny_positives

NOWHERE = Embeddings(torch.empty(12, 6), torch.empty(17, 6))


@pytest.mark.parametrize("n", [1, 5])
def test_it_keeps_the_contract(n: int) -> None:
    check_sampler(RandomSampler, SamplerConfig(n_negatives=n))


def test_it_is_uniform_over_what_the_user_has_not_met() -> None:
    positives = tiny_positives()
    config = SamplerConfig(n_negatives=20_000)
    sampler = RandomSampler(positives, 6, config, torch.Generator())
    batch = make_batch(positives, torch.tensor([0]))
    drawn = sampler(batch, NOWHERE, make_context()).items
    counts = torch.bincount(drawn.flatten(), minlength=17).numpy()
    met = positives.contains(batch.users, torch.arange(17)).numpy()
    assert counts[met].sum() == 0
    assert chisquare(counts[~met]).pvalue > 1e-4


# -- samplers of one's own ---------------------------------------------------------------------


class LastFree(Sampler):
    """The user's free item with the highest number: no randomness, no parameters."""

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        items = torch.arange(self.positives.n_items)
        met = self.positives.contains(batch.users.unsqueeze(1), items)
        last = torch.where(met, -1, items).max(dim=1, keepdim=True).values
        return Items(last.expand(-1, self.config.n_negatives))


class Shifted(Sampler):
    """A learnt vector added to the positive."""

    def __init__(
        self,
        positives: Positives,
        dim: int,
        config: SamplerConfig,
        generator: torch.Generator,
    ) -> None:
        super().__init__(positives, dim, config, generator)
        self.shift = torch.nn.Parameter(torch.randn(dim, generator=generator))

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        vectors = embeddings.items[batch.positives].unsqueeze(1) + self.shift
        return Vectors(
            vectors.expand(-1, self.config.n_negatives, -1),
            loss=self.shift.square().sum(),
            diagnostics={"length": self.shift.detach().norm()},
        )


@pytest.mark.parametrize("sampler_class", [LastFree, Shifted])
@pytest.mark.parametrize("n", [1, 3])
def test_a_sampler_of_ones_own_can_keep_the_contract(sampler_class: type[Sampler], n: int) -> None:
    check_sampler(sampler_class, SamplerConfig(n_negatives=n))


class Positive(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        return Items(batch.positives.unsqueeze(1))


class OutOfCatalogue(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        return Items(torch.full((len(batch), 1), self.positives.n_items))


class TooMany(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        items = super().forward(batch, embeddings, context).items
        return Items(items.expand(-1, 2))


class Bare(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Tensor:
        return super().forward(batch, embeddings, context).items


class Heavy(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        items = super().forward(batch, embeddings, context).items
        return Items(items, torch.zeros(items.shape))


class SharedColumn(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> SharedItems:
        return SharedItems(torch.zeros(1, 1, dtype=torch.int64))


class ForeignSource(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> SharedVectors:
        return SharedVectors(torch.ones(1, self.dim), torch.tensor([self.positives.n_items]))


class EmptyPool(Shifted):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        made = super().forward(batch, embeddings, context)
        return dataclasses.replace(made, pool=torch.empty(0, self.dim))


class Unseeded(Shifted):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        made = super().forward(batch, embeddings, context)
        return dataclasses.replace(made, vectors=made.vectors + torch.randn(made.vectors.shape))


class Infinite(Shifted):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        return dataclasses.replace(
            super().forward(batch, embeddings, context), loss=self.shift.sum() / 0
        )


class Stuck(Shifted):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        made = super().forward(batch, embeddings, context)
        return Vectors(made.vectors.detach())


class Writes(LastFree):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        with torch.no_grad():
            embeddings.items.mul_(2)
        return super().forward(batch, embeddings, context)


class Attached(Shifted):
    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Vectors:
        return dataclasses.replace(
            super().forward(batch, embeddings, context), diagnostics={"sum": self.shift.sum()}
        )


@pytest.mark.parametrize(
    ("sampler_class", "complaint"),
    [
        (Positive, "are training positives"),
        (OutOfCatalogue, "not in the catalogue 0 … 16"),
        (TooMany, r"items are \(66, 2\), not \(66, 1\)"),
        (Bare, "returned Tensor, not Items, SharedItems, Vectors or SharedVectors"),
        (Heavy, "a row of weights is all zero"),
        (SharedColumn, r"items are \(1, 1\), not \(1,\)"),
        (ForeignSource, "not in the catalogue 0 … 16"),
        (EmptyPool, "the pool is empty"),
        (Unseeded, "vectors differ between two calls"),
        (Infinite, "its loss is"),
        (Stuck, "does not move shift"),
        (Writes, "writes to the embeddings"),
        (Attached, "diagnostic sum carries gradient"),
    ],
)
def test_the_contract_catches(sampler_class: type[Sampler], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_sampler(sampler_class)
