"""SRNS against a twin in plain Python that keeps every epoch's scores."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from statistics import pstdev

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from torch import Tensor

from cnsdiff.backbones import Embeddings, LightGCN
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers import Batch, SRNSSampler
from cnsdiff.samplers.srns import SRNSConfig, survivors
from cnsdiff.testing import DIM, check_sampler, make_batch, make_context, tiny_positives
from cnsdiff.training.step import TrainingStep

POSITIVES = tiny_positives()
BATCH = make_batch(POSITIVES)
SMALL = {"memory": 4, "proposals": 3, "temperature": 0.7, "variance_weight": 5.0, "warmup": 3.0}


def build(seed: int = 0, **settings: float) -> SRNSSampler:
    config = SRNSConfig(**settings)  # type: ignore[arg-type]
    return SRNSSampler(POSITIVES, DIM, config, torch.Generator().manual_seed(seed))


def random_embeddings(seed: int) -> Embeddings:
    stream = torch.Generator().manual_seed(seed)
    sizes = (POSITIVES.n_users, POSITIVES.n_items)
    return Embeddings(*(torch.randn(m, DIM, generator=stream) for m in sizes))


def negatives(
    sampler: SRNSSampler, epoch: int, step: int = 0, batch: Batch = BATCH
) -> list[list[int]]:
    """What it picks at one step; the embeddings change from step to step, as in training."""
    made = sampler(
        batch, random_embeddings(100 * epoch + step), make_context(10 * epoch + step, epoch=epoch)
    )
    assert made.items is not None
    return made.items.tolist()


class Twin:
    """The equations, one user and one item at a time."""

    def __init__(self, memory: Tensor, n: int, s2: int, tau: float, alpha: float, t0: float):
        self.memory: list[list[int]] = memory.tolist()
        self.n, self.s2, self.tau, self.alpha, self.t0 = n, s2, tau, alpha, t0
        self.past: list[Embeddings] = []
        self.epoch = 0

    @staticmethod
    def score(embeddings: Embeddings, user: int, item: int) -> float:
        pairs = zip(embeddings.users[user].tolist(), embeddings.items[item].tolist(), strict=True)
        return sum(a * b for a, b in pairs)

    def p(self, embeddings: Embeddings, user: int, positive: int, item: int) -> float:
        gap = self.score(embeddings, user, item) - self.score(embeddings, user, positive)
        return 1 / (1 + math.exp(-gap))

    def __call__(self, epoch: int, step: int) -> list[list[int]]:
        embeddings = random_embeddings(100 * epoch + step)
        if epoch != self.epoch:
            self.begin(epoch, embeddings, make_context(10 * epoch + step).negatives)
        weight = self.alpha * min(1, (epoch - 1) / self.t0)
        picked = []
        for user, positive in zip(BATCH.users.tolist(), BATCH.positives.tolist(), strict=True):

            def worth(item: int, user: int = user, positive: int = positive) -> float:
                past = [self.p(old, user, positive, item) for old in self.past[-5:]]
                spread = pstdev(past) if past else 0.0
                return self.p(embeddings, user, positive, item) + weight * spread

            picked.append(sorted(self.memory[user], key=worth, reverse=True)[: self.n])
        return picked

    def begin(self, epoch: int, embeddings: Embeddings, stream: torch.Generator) -> None:
        if epoch > 1:
            self.past.append(embeddings)
        self.epoch = epoch
        users = torch.arange(POSITIVES.n_users)
        drawn = POSITIVES.sample_negatives(users, self.s2, stream).tolist()
        pools = [old + new for old, new in zip(self.memory, drawn, strict=True)]
        noise = torch.empty(len(pools), len(pools[0])).exponential_(generator=stream).tolist()
        for user, (pool, row) in enumerate(zip(pools, noise, strict=True)):
            keys: dict[int, float] = {}
            for item, exponential in zip(pool, row, strict=True):
                gumbel = -math.log(exponential)
                keys.setdefault(item, self.score(embeddings, user, item) / self.tau + gumbel)
            size = len(self.memory[user])
            assert len(keys) >= size
            self.memory[user] = sorted(keys, key=keys.__getitem__, reverse=True)[:size]


@pytest.mark.parametrize("n", [1, 2])
def test_it_picks_what_the_twin_picks_over_eight_epochs(n: int) -> None:
    # With three items a memory never has to hold one twice in this world.
    settings = SMALL | {"memory": 3}
    sampler, plain = (build(n_negatives=n, **settings | {"variance_weight": w}) for w in (5.0, 0.0))
    twin = Twin(sampler.memory, n, 3, 0.7, 5.0, 3.0)
    decided = False
    for epoch in range(1, 9):
        for step in range(2):
            picked = negatives(sampler, epoch, step)
            assert picked == twin(epoch, step)
            assert sampler.memory.tolist() == twin.memory
            decided |= picked != negatives(plain, epoch, step)
    assert decided, "the deviation makes no difference here, so this shows nothing of it"


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_of_two_items_about_as_hard_the_one_that_has_varied_is_picked(order: list[int]) -> None:
    batch = make_batch(POSITIVES, torch.tensor([0]))
    user, positive = int(batch.users), int(batch.positives)
    free = [i for i in range(POSITIVES.n_items) if not POSITIVES.matrix[user, i]]
    steady, varied = free[:2]
    picks = {}
    for weight in (0.0, 1.0):
        sampler = build(memory=2, warmup=1, variance_weight=weight)
        for epoch in range(1, 8):
            tables = (torch.zeros(m, DIM) for m in (POSITIVES.n_users, POSITIVES.n_items))
            embeddings = Embeddings(*tables)
            embeddings.users[user, 0] = embeddings.items[positive, 0] = 1
            embeddings.items[steady, 0] = 0.51
            embeddings.items[varied, 0] = 0.5 if epoch == 7 else epoch % 2
            sampler(batch, embeddings, make_context(epoch=epoch))
        sampler.memory[user] = torch.tensor([steady, varied])[order]
        picks[weight] = sampler(batch, embeddings, make_context(epoch=7)).items
    assert picks == {0.0: steady, 1.0: varied}


def test_a_refresh_draws_without_replacement_by_softmax() -> None:
    items, logits = torch.tensor([3, 9, 4, 7]), torch.tensor([0.0, 1.0, -1.0, 0.5])
    rows = 30_000
    drawn = survivors(
        items.expand(rows, -1), logits.expand(rows, -1), 2, torch.Generator().manual_seed(0)
    )
    counts = Counter(tuple(sorted(row)) for row in drawn.tolist())
    weight = {int(i): math.exp(x) for i, x in zip(items, logits.tolist(), strict=True)}
    total = sum(weight.values())
    pairs = list(itertools.combinations(sorted(weight), 2))
    expected = [
        weight[a] / total * weight[b] / (total - weight[a])
        + weight[b] / total * weight[a] / (total - weight[b])
        for a, b in pairs
    ]
    observed = [counts[pair] for pair in pairs]
    assert sum(observed) == rows
    assert chisquare(observed, [rows * p for p in expected]).pvalue > 1e-3


def test_a_repeated_item_takes_part_once() -> None:
    rows = 20_000
    pool, logits = torch.tensor([5, 8, 5, 5]), torch.zeros(4)
    drawn = survivors(
        pool.expand(rows, -1), logits.expand(rows, -1), 1, torch.Generator().manual_seed(0)
    )
    assert chisquare([int((drawn == i).sum()) for i in (5, 8)]).pvalue > 1e-3
    both = survivors(pool[None], logits[None], 3, torch.Generator())
    assert set(both[0].tolist()) == {5, 8}


def test_memories_hold_free_items_and_each_once() -> None:
    sampler = build(**SMALL)
    users = torch.arange(POSITIVES.n_users).unsqueeze(1)
    free = POSITIVES.n_items - POSITIVES.user_counts
    assert not POSITIVES.contains(users, sampler.memory).any()
    for epoch in range(1, 30):
        negatives(sampler, epoch)
        assert not POSITIVES.contains(users, sampler.memory).any()
    for row, items in enumerate(sampler.memory.tolist()):
        assert len(set(items)) == min(4, int(free[row]))


def test_a_memory_larger_than_what_is_free_repeats_it() -> None:
    positives = Positives(np.array([0, 0, 1]), np.array([0, 2, 1]), 2, 4)
    config = SRNSConfig(memory=5, n_negatives=4)
    sampler = SRNSSampler(positives, DIM, config, torch.Generator().manual_seed(0))
    embeddings = Embeddings(torch.ones(2, DIM), torch.ones(4, DIM))
    for epoch in range(1, 4):
        items = sampler(make_batch(positives), embeddings, make_context(epoch, epoch=epoch)).items
        assert items is not None
        assert [set(row) <= {1, 3} for row in items[:2].tolist()] == [True, True]
    assert [set(row) for row in sampler.memory.tolist()] == [{1, 3}, {0, 2, 3}]


def test_memories_change_between_epochs_only() -> None:
    sampler = build(**SMALL)
    negatives(sampler, 1)
    at_first = sampler.memory.clone()
    for step in range(1, 4):
        negatives(sampler, 1, step)
    assert torch.equal(sampler.memory, at_first)
    with torch.no_grad():
        negatives(sampler, 2)
    assert not torch.equal(sampler.memory, at_first)


def test_memories_get_harder() -> None:
    sampler = build(memory=2, proposals=5, temperature=0.1)
    embeddings = random_embeddings(0)
    scores = embeddings.users @ embeddings.items.T
    before = scores.gather(1, sampler.memory).mean()
    for epoch in range(1, 10):
        sampler(BATCH, embeddings, make_context(epoch, epoch=epoch))
    free = scores.masked_fill(torch.from_numpy(POSITIVES.matrix.toarray() > 0), -math.inf)
    after = scores.gather(1, sampler.memory).mean()
    assert after > before
    assert after > 0.8 * free.topk(2, dim=1).values.mean()


@pytest.mark.parametrize("epochs", [1, 4, 8])
def test_a_resumed_one_goes_on_as_it_would_have(tmp_path: Path, epochs: int) -> None:
    whole, part = build(**SMALL), build(**SMALL)
    for epoch in range(1, epochs + 1):
        assert negatives(whole, epoch) == negatives(part, epoch)
    save_file(part.state_dict(), tmp_path / "state.safetensors")
    resumed = build(seed=9, **SMALL)
    resumed.load_state_dict(load_file(tmp_path / "state.safetensors"))
    # In the middle of the epoch first, then in those that follow.
    for epoch, step in itertools.product(range(epochs, epochs + 8), (1, 2)):
        assert negatives(resumed, epoch, step) == negatives(whole, epoch, step)
    assert torch.equal(resumed.memory, whole.memory)


def test_without_the_deviation_no_history_is_kept() -> None:
    sampler = build(**SMALL | {"variance_weight": 0.0})
    assert sampler.past_users.numel() == sampler.past_items.numel() == 0
    for epoch in range(1, 5):
        negatives(sampler, epoch)
    assert build(**SMALL).past_items.shape == (5, POSITIVES.n_items, DIM)


def test_training_with_lightgcn_lowers_the_loss() -> None:
    backbone = LightGCN(
        POSITIVES, LightGCN.Config(dim=DIM, layers=2), torch.Generator().manual_seed(1)
    )
    step = TrainingStep(backbone, build(memory=4), Objective(ObjectiveConfig(l2=0), POSITIVES))
    optimizer = torch.optim.Adam(list(step.parameter_groups(lr=0.05)))
    losses = []
    for epoch in range(1, 31):
        loss, _ = step(BATCH, make_context(epoch, epoch=epoch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("settings", [{}, SMALL, SMALL | {"n_negatives": 3}, {"memory": 1}])
def test_it_keeps_the_contract(settings: dict[str, float]) -> None:
    check_sampler(SRNSSampler, SRNSConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"n_negatives": 5, "memory": 4}, "n_negatives=5 are more than memory=4 holds"),
        ({"temperature": 0}, "temperature\n.*greater than 0"),
        ({"history": 1}, "history\n.*greater than or equal to 2"),
        ({"variance_weight": -1}, "variance_weight\n.*greater than or equal to 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SRNSConfig(**settings)  # type: ignore[arg-type]
