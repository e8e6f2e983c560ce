"""Exposure sampling: the law of its draws, and what shared negatives mean to the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.splits import Split
from cnsdiff.evaluation.fhn import measure_false_negatives
from cnsdiff.evaluation.judges import HeldOutJudge
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers.base import SharedItems, SharedVectors
from cnsdiff.samplers.exposure_diffusion import ExposureDiffusionConfig, ExposureDiffusionSampler
from cnsdiff.samplers.static import ExposureConfig, ExposureSampler
from cnsdiff.testing import DIM, check_sampler, make_batch, make_context, tiny_positives

POSITIVES = tiny_positives()


def build(**options: Any) -> ExposureSampler:
    return ExposureSampler(POSITIVES, DIM, ExposureConfig(**options), torch.Generator())


def generated(**options: Any) -> ExposureDiffusionSampler:
    config = ExposureDiffusionConfig(**options)
    return ExposureDiffusionSampler(POSITIVES, DIM, config, torch.Generator().manual_seed(0))


def tables(seed: int = 0, unit: bool = False) -> Embeddings:
    stream = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, DIM, generator=stream) for n in (POSITIVES.n_users, POSITIVES.n_items)]
    if unit:
        made = [torch.nn.functional.normalize(table, dim=1) for table in made]
    return Embeddings(*(table.requires_grad_() for table in made))


@pytest.mark.parametrize("options", [{}, {"exponent": 0.0}, {"n_negatives": 3, "exponent": 1.0}])
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_sampler(ExposureSampler, ExposureConfig(**options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"made_by": "noise"},
        {"made_by": "catalogue"},
        {"item_gradient": True},
        {"guidance": 2.0},
    ],
)
def test_the_generated_ones_keep_it(options: dict[str, Any]) -> None:
    check_sampler(ExposureDiffusionSampler, ExposureDiffusionConfig(n_negatives=40, **options))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_items_are_drawn_by_their_exposure_to_the_exponent_whoever_asks(exponent: float) -> None:
    negatives = build(exponent=exponent, n_negatives=30_000)(
        make_batch(POSITIVES), tables(), make_context(3)
    )
    assert negatives.items.shape == (30_000,)
    counts = np.bincount(negatives.items.numpy(), minlength=POSITIVES.n_items)
    law = POSITIVES.item_counts.numpy().astype(float) ** exponent
    assert chisquare(counts, law / law.sum() * 30_000).pvalue > 1e-4


@pytest.mark.parametrize("made_by", ["items", "vectors"])
def test_the_softmax_leaves_out_a_rows_own_positive_and_no_other_item(made_by: str) -> None:
    batch = make_batch(POSITIVES)
    embeddings = Embeddings(*(table.detach() for table in tables(unit=True)))
    config = {"made_by": "noise", "n_negatives": 50}
    sampler = build(n_negatives=50) if made_by == "items" else generated(**config)
    negatives = sampler(batch, embeddings, make_context(1))
    objective = Objective(ObjectiveConfig(loss="softmax", temperature=0.3, l2=0), POSITIVES)
    found = objective(batch, embeddings, embeddings, negatives, make_context(2))["softmax"]
    items = negatives.items
    vectors = embeddings.items[items] if made_by == "items" else negatives.vectors
    total = 0.0
    for user, positive in zip(batch.users.tolist(), batch.positives.tolist(), strict=True):
        z = embeddings.users[user]
        own = float((z @ embeddings.items[positive]) / 0.3)
        others = [
            float(z @ vector) / 0.3
            for item, vector in zip(items.tolist(), vectors, strict=True)
            if item != positive
        ]
        assert len(others) < 50 or positive not in items.tolist()
        total += float(np.logaddexp.reduce([own, *others])) - own
    assert float(found) == pytest.approx(total / len(batch), rel=1e-4)


@given(share=st.floats(0, 1), loss=st.sampled_from(["softmax", "bpr"]))
@settings(deadline=None, max_examples=30)
def test_repulsion_scales_what_moves_negatives_and_nothing_else(share: float, loss: str) -> None:
    """Against the gradient of positives and of negatives, taken one by one."""
    batch = make_batch(POSITIVES, torch.arange(5))
    negatives = SharedItems(torch.tensor([0, 3, 3, 7]))

    def gradients(kappa: float, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings = tables(4)
        seen = embeddings
        if part == "positives":
            made = embeddings.items[negatives.items].detach()
            items = SharedVectors(made, negatives.items)
        else:
            items = negatives
        objective = Objective(ObjectiveConfig(loss=loss, l2=0, repulsion=kappa), POSITIVES)
        value = sum(objective(batch, seen, seen, items, make_context(0)).values())
        users, table = torch.autograd.grad(value, list(embeddings))
        return users, table

    all_users, everything = gradients(1.0, "both")
    some_users, some = gradients(share, "both")
    _, by_positives = gradients(1.0, "positives")
    assert torch.allclose(some_users, all_users, atol=1e-6)
    expected = by_positives + share * (everything - by_positives)
    assert torch.allclose(some, expected, atol=1e-6)


def test_generated_vectors_move_users_alone_unless_asked() -> None:
    batch = make_batch(POSITIVES)
    for asked in (False, True):
        embeddings = tables()
        sampler = generated(n_negatives=20, item_gradient=asked, diffusion_weight=0.0)
        made = sampler(batch, embeddings, make_context(0))
        assert made.vectors.requires_grad is asked
        if asked:
            (gradient,) = torch.autograd.grad(made.vectors.sum(), embeddings.items)
            counts = torch.bincount(made.items, minlength=POSITIVES.n_items)
            assert torch.allclose(gradient, counts.unsqueeze(1).expand(-1, DIM).float())


def test_at_the_start_of_the_chain_the_vectors_are_the_items_themselves() -> None:
    embeddings = tables()
    for made_by in ("noise", "catalogue", "diffusion"):
        made = generated(made_by=made_by, start=0)(
            make_batch(POSITIVES), embeddings, make_context(0)
        )
        assert torch.allclose(made.vectors, embeddings.items[made.items], atol=1e-5)


def test_the_generator_learns_what_each_environment_shows() -> None:
    """Popular items here, rare ones there: from pure noise it finds the side of its stratum."""
    popular = POSITIVES.item_counts > POSITIVES.item_counts.float().median()
    side = torch.where(popular, 1.0, -1.0).unsqueeze(1)
    stream = torch.Generator().manual_seed(0)
    items = 3 * side + 0.3 * torch.randn(POSITIVES.n_items, DIM, generator=stream)
    embeddings = Embeddings(torch.zeros(POSITIVES.n_users, DIM), items)
    sampler = generated(n_environments=2, start=100, calls=20, n_negatives=256, hidden=32)
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.01)
    batch = make_batch(POSITIVES)
    for number in range(300):
        made = sampler(batch, embeddings, make_context(number))
        optimizer.zero_grad()
        assert made.loss is not None
        made.loss.backward()
        optimizer.step()
    stratum = sampler.strata[made.items]
    means = [float(made.vectors[stratum == s].mean()) for s in (0, 1)]
    truth = [float(items[sampler.strata == s].mean()) for s in (0, 1)]
    assert truth[1] - truth[0] > 3
    assert means == pytest.approx(truth, abs=0.8)


@pytest.mark.parametrize("kind", ["exposure", "generated"])
def test_false_negatives_of_shared_ones_are_counted_one_for_each_row(kind: str) -> None:
    """As often as a pair drawn by hand from q is held out."""
    rng = np.random.default_rng(0)
    free = np.argwhere(
        ~POSITIVES.contains(
            torch.arange(POSITIVES.n_users).unsqueeze(1), torch.arange(POSITIVES.n_items)
        ).numpy()
    )
    held = free[rng.random(len(free)) < 0.4]
    split = Split("valid", held[:, 0], held[:, 1])
    judge = HeldOutJudge([split], POSITIVES.n_users, POSITIVES.n_items)
    options: dict[str, Any] = {"n_negatives": 64, "exponent": 0.0}
    sampler = build(**options) if kind == "exposure" else generated(**options, made_by="catalogue")
    counted = measure_false_negatives(sampler, tables(), POSITIVES, judge, n=4000, batch_size=500)
    liked = np.zeros((POSITIVES.n_users, POSITIVES.n_items))
    liked[held[:, 0], held[:, 1]] = 1
    users, items = POSITIVES.pairs.T.numpy()
    liked[users, items] = 1
    assert counted.examined == 4000
    # Draws are shared by 500 rows, so that they vary less freely than 4000 of their own would.
    assert counted.fhn == pytest.approx(liked[users].mean(), abs=0.06)
