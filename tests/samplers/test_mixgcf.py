"""MixGCF against a twin that mixes every candidate before it compares them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from cnsdiff.backbones import Embeddings, LightGCN
from cnsdiff.backbones.base import mean_of
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers import MixGCFSampler
from cnsdiff.samplers.mixgcf import MixGCFConfig
from cnsdiff.testing import DIM, check_sampler, make_batch, make_context, tiny_positives
from cnsdiff.training.step import TrainingStep

POSITIVES = tiny_positives()
BATCH = make_batch(POSITIVES)


def build(**settings: int) -> MixGCFSampler:
    config = MixGCFConfig(**settings)
    return MixGCFSampler(POSITIVES, DIM, config, torch.Generator().manual_seed(0))


def random_layers(n: int, seed: int = 0) -> tuple[Embeddings, ...]:
    stream = torch.Generator().manual_seed(seed)
    sizes = (POSITIVES.n_users, POSITIVES.n_items)
    return tuple(
        Embeddings(*(torch.randn(m, DIM, generator=stream).requires_grad_() for m in sizes))
        for _ in range(n)
    )


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def chosen_by_hand(
    candidates: Tensor, shares: Tensor, layers: tuple[Embeddings, ...]
) -> list[list[list[int]]]:
    """By row, negative and layer, the candidate whose mixed vector scores highest."""
    users = mean_of(layers).users.tolist()
    tables = [layer.items.tolist() for layer in layers]
    chosen = []
    for row, (user, positive) in enumerate(
        zip(BATCH.users.tolist(), BATCH.positives.tolist(), strict=True)
    ):
        chosen.append([])
        for k, pool in enumerate(candidates[row].tolist()):
            chosen[row].append([])
            for layer, table in enumerate(tables):
                a = float(shares[layer, row, k])

                def score(item: int, table=table, a=a, positive=positive, user=user) -> float:
                    pairs = zip(table[positive], table[item], strict=True)
                    return dot(users[user], [a * p + (1 - a) * n for p, n in pairs])

                chosen[row][k].append(max(pool, key=score))
    return chosen


@pytest.mark.parametrize(("n", "candidates", "depth"), [(1, 16, 3), (3, 5, 2), (2, 4, 1)])
@pytest.mark.parametrize("cosine", [False, True])
def test_it_and_its_gradient_are_the_twins(
    n: int, candidates: int, depth: int, cosine: bool
) -> None:
    layers = random_layers(depth)
    context = make_context(3, layers=layers)
    objective = Objective(ObjectiveConfig(score="cosine" if cosine else "inner"), POSITIVES)
    embeddings = objective.project(mean_of(layers))
    context = type(context)(**{**vars(context), "cosine": cosine})
    ours = build(n_negatives=n, candidates=candidates)(BATCH, embeddings, context).vectors
    assert ours is not None

    streams = make_context(3)
    drawn = POSITIVES.sample_negatives(BATCH.users, n * candidates, streams.negatives)
    pools = drawn.view(len(BATCH), n, candidates)
    shares = torch.rand(depth, len(BATCH), n, 1, generator=streams.noise)
    rows = []
    for row, negatives in enumerate(chosen_by_hand(pools, shares, layers)):
        positive = int(BATCH.positives[row])
        for k, items in enumerate(negatives):
            parts = [
                shares[level, row, k] * layers[level].items[positive]
                + (1 - shares[level, row, k]) * layers[level].items[item]
                for level, item in enumerate(items)
            ]
            mean = sum(parts) / depth
            rows.append(mean / mean.norm() if cosine else mean)
    theirs = torch.stack(rows).view_as(ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5))
    tables = [layer.items for layer in layers]
    mine = torch.autograd.grad((ours * weights).sum(), tables)
    others = torch.autograd.grad((theirs * weights).sum(), tables)
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_shares_are_uniform_and_each_layers_own() -> None:
    batch = make_batch(POSITIVES, torch.arange(len(POSITIVES)).repeat(40))
    layers = random_layers(2)
    # Layers on orthogonal axes: from the mean of the mixed both can be read apart.
    for level, layer in enumerate(layers):
        with torch.no_grad():
            layer.items.zero_()
            layer.items[:, level] = 1 + torch.arange(POSITIVES.n_items)
    made = build(candidates=1)(batch, mean_of(layers), make_context(1, layers=layers)).vectors
    assert made is not None
    drawn = POSITIVES.sample_negatives(batch.users, 1, make_context(1).negatives)[:, 0]
    mixed = 2 * made[:, 0, :2].detach() - 1
    shares = (mixed - drawn[:, None]) / (batch.positives - drawn)[:, None]
    for share in shares.T:
        assert kstest(share.double().numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(shares.T)[0, 1])) < 4 / len(batch) ** 0.5


def test_training_with_lightgcn_lowers_the_loss() -> None:
    backbone = LightGCN(
        POSITIVES, LightGCN.Config(dim=DIM, layers=2), torch.Generator().manual_seed(1)
    )
    step = TrainingStep(backbone, build(), Objective(ObjectiveConfig(l2=0), POSITIVES))
    optimizer = torch.optim.Adam(list(step.parameter_groups(lr=0.05)))
    losses = []
    for _ in range(40):
        loss, _ = step(BATCH, make_context(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("settings", [{}, {"n_negatives": 3, "candidates": 1}, {"candidates": 64}])
def test_it_keeps_the_contract(settings: dict[str, int]) -> None:
    check_sampler(MixGCFSampler, MixGCFConfig(**settings))


def test_no_candidates_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"candidates\n.*greater than or equal to 1"):
        MixGCFConfig(candidates=0)
