"""DENS against a twin that gates and scores one vector at a time."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch import Tensor

from cnsdiff.backbones import Embeddings, LightGCN
from cnsdiff.backbones.base import mean_of
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers import Context, DENSSampler, Vectors
from cnsdiff.samplers.dens import DENSConfig, disentangling
from cnsdiff.testing import DIM, check_sampler, make_batch, make_context, tiny_positives
from cnsdiff.training.step import TrainingStep

POSITIVES = tiny_positives()
BATCH = make_batch(POSITIVES)


def build(seed: int = 0, dim: int = DIM, **settings: float) -> DENSSampler:
    config = DENSConfig(**settings)  # type: ignore[arg-type]
    return DENSSampler(POSITIVES, dim, config, torch.Generator().manual_seed(seed))


def random_layers(n: int, seed: int = 0) -> tuple[Embeddings, ...]:
    stream = torch.Generator().manual_seed(seed)
    sizes = (POSITIVES.n_users, POSITIVES.n_items)
    return tuple(
        Embeddings(*(torch.randn(m, DIM, generator=stream).requires_grad_() for m in sizes))
        for _ in range(n)
    )


def context_of(layers: tuple[Embeddings, ...], epoch: int, cosine: bool = False) -> Context:
    return dataclasses.replace(make_context(3, epoch=epoch, layers=layers), cosine=cosine)


def embeddings_of(layers: tuple[Embeddings, ...], cosine: bool = False) -> Embeddings:
    objective = Objective(ObjectiveConfig(score="cosine" if cosine else "inner"), POSITIVES)
    return objective.project(mean_of(layers))


def run(
    sampler: DENSSampler, layers: tuple[Embeddings, ...], epoch: int, cosine: bool = False
) -> Vectors:
    return sampler(BATCH, embeddings_of(layers, cosine), context_of(layers, epoch, cosine))


def twin(
    sampler: DENSSampler, layers: tuple[Embeddings, ...], epoch: int, cosine: bool
) -> tuple[Tensor, Tensor]:
    """The negatives ``(B, n, d)`` and the loss, a row, a candidate and a layer at a time."""
    config = sampler.config

    def affine(gate: torch.nn.Module, x: Tensor) -> Tensor:
        return gate.weight @ x + gate.bias

    def gated(x: Tensor, own: torch.nn.Module, other: torch.nn.Module, given: Tensor) -> Tensor:
        return x / (1 + torch.exp(-affine(own, x) - affine(other, given)))

    n, size = config.n_negatives, config.candidates
    drawn = POSITIVES.sample_negatives(BATCH.users, n * size, make_context(3).negatives)
    share = 1 - min(1, (epoch - 1) / config.warmup)
    vectors, losses = [], []
    for row, (u, p) in enumerate(zip(BATCH.users.tolist(), BATCH.positives.tolist(), strict=True)):
        user = embeddings_of(layers, cosine).users[u]
        relevant_positives = [
            gated(layer.items[p], sampler.item_gate, sampler.user_gate, layer.users[u])
            for layer in layers
        ]

        def relevant(item: int, level: int, given: list[Tensor] = relevant_positives) -> Tensor:
            return gated(
                layers[level].items[item],
                sampler.negative_gate,
                sampler.relevance_gate,
                given[level],
            )

        def score(parts: list[Tensor], wholes: list[Tensor], user: Tensor = user) -> Tensor:
            part, whole = sum(parts) / len(parts), sum(wholes) / len(wholes)
            return user @ part / (whole.norm() if cosine else 1)

        wholes = [layer.items[p] for layer in layers]
        p_r = score(relevant_positives, wholes)
        p_ir = score([w - r for w, r in zip(wholes, relevant_positives, strict=True)], wholes)
        sums = [torch.exp(p_ir - p_r), 0.0, 0.0, 0.0]
        for pool in drawn[row].view(n, size).tolist():
            kept, kept_relevant = [], []
            for level, layer in enumerate(layers):

                def worth(item: int, level: int = level, u: int = u) -> float:
                    table = layers[level]
                    sought = share * table.items[item] - relevant(item, level)
                    return float((table.users[u] @ sought).detach())

                best = max(pool, key=worth)
                kept.append(layer.items[best])
                kept_relevant.append(relevant(best, level))
            n_r = score(kept_relevant, kept)
            n_ir = score([w - r for w, r in zip(kept, kept_relevant, strict=True)], kept)
            sums[1] += torch.exp(n_r - n_ir)
            sums[2] += torch.exp(n_r - p_r)
            sums[3] += torch.exp(p_ir - n_ir)
            mean = sum(kept) / len(kept)
            vectors.append(mean / mean.norm() if cosine else mean)
        losses.append(sum(torch.log(1 + x) for x in sums) / 4)
    loss = config.disentangling * sum(losses) / len(losses)
    return torch.stack(vectors).view(len(BATCH), n, DIM), loss


@pytest.mark.parametrize(
    ("n", "candidates", "depth", "epoch", "cosine"),
    [(1, 6, 3, 1, False), (2, 4, 2, 4, False), (2, 3, 2, 40, False), (2, 3, 2, 4, True)],
)
def test_it_and_its_gradients_are_the_twins(
    n: int, candidates: int, depth: int, epoch: int, cosine: bool
) -> None:
    sampler = build(n_negatives=n, candidates=candidates, warmup=8, disentangling=0.7)
    layers = random_layers(depth)
    ours = run(sampler, layers, epoch, cosine)
    vectors, loss = twin(sampler, layers, epoch, cosine)
    assert ours.loss is not None
    torch.testing.assert_close(ours.vectors, vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-5, atol=1e-6)

    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(5))
    learnt = [*sampler.parameters(), *(table for layer in layers for table in layer)]
    mine, theirs = (
        torch.autograd.grad((v * weights).sum() + x, learnt)
        for v, x in ((ours.vectors, ours.loss), (vectors, loss))
    )
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_warm_up_changes_what_is_chosen() -> None:
    layers = random_layers(1)
    early, late, later = (run(build(warmup=10), layers, epoch).vectors for epoch in (1, 11, 100))
    assert not torch.equal(early, late)
    assert torch.equal(late, later)


def test_the_loss_by_hand() -> None:
    loss = disentangling(
        torch.tensor([[1.0], [0.0]]),
        torch.tensor([[0.5], [2.0]]),
        torch.tensor([[0.2, 0.4], [1.0, -1.0]]),
        torch.tensor([[0.3, 0.1], [0.0, 3.0]]),
    )
    exp = math.exp
    first = [exp(-0.5), exp(-0.1) + exp(0.3), exp(-0.8) + exp(-0.6), exp(0.2) + exp(0.4)]
    second = [exp(2), exp(1) + exp(-4), exp(1) + exp(-1), exp(2) + exp(-1)]
    expected = sum(math.log1p(x) for x in first + second) / 8
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_far_scores_is_finite() -> None:
    far = torch.tensor([[1e4]])
    loss = disentangling(-far, far, far, -far)
    assert loss.item() == pytest.approx(2e4)


def test_without_its_loss_the_gates_stay() -> None:
    sampler = build(disentangling=0)
    assert not list(sampler.trained_parameters())
    assert run(sampler, random_layers(2), 1).loss is None


def test_gates_start_as_pytorchs_and_leave_its_global_stream_alone() -> None:
    before = torch.get_rng_state()
    sampler = build(dim=64)
    assert torch.equal(torch.get_rng_state(), before)
    for parameter in sampler.parameters():
        scaled = parameter.detach().flatten().double() * 8  # within ± 1/√64
        assert kstest(scaled.numpy(), "uniform", (-1, 2)).pvalue > 1e-3
    state = build(1, dim=64).state_dict()
    assert not any(torch.equal(x, state[name]) for name, x in sampler.state_dict().items())


def test_training_with_lightgcn_lowers_the_loss_and_the_gates_learn() -> None:
    backbone = LightGCN(
        POSITIVES, LightGCN.Config(dim=DIM, layers=2), torch.Generator().manual_seed(1)
    )
    sampler = build()
    step = TrainingStep(backbone, sampler, Objective(ObjectiveConfig(l2=0), POSITIVES))
    optimizer = torch.optim.Adam(list(step.parameter_groups(lr=0.05)))
    losses, own = [], []
    for _ in range(40):
        loss, scalars = step(BATCH, make_context(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        own.append(scalars["sampler"].item())
    assert losses[-1] < 0.9 * losses[0]
    # All four gaps 0 at the start: γ log 2.
    assert own[0] == pytest.approx(0.3 * math.log(2), rel=0.05)
    assert own[-1] < 0.9 * own[0]


@pytest.mark.parametrize(
    "settings", [{}, {"n_negatives": 3, "candidates": 1}, {"disentangling": 0}]
)
def test_it_keeps_the_contract(settings: dict[str, float]) -> None:
    check_sampler(DENSSampler, DENSConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"candidates": 0}, "candidates\n.*greater than or equal to 1"),
        ({"warmup": 0}, "warmup\n.*greater than 0"),
        ({"disentangling": -1}, "disentangling\n.*greater than or equal to 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        DENSConfig(**settings)  # type: ignore[arg-type]
