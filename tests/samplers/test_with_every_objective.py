"""Every sampler trains under every objective, on every backbone."""

from __future__ import annotations

import pytest
import torch

from cnsdiff.backbones import BACKBONES
from cnsdiff.objectives import objective as objective_module
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers import SAMPLERS
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.testing import DIM, make_batch, make_context, tiny_positives
from cnsdiff.training.step import TrainingStep

OBJECTIVES = {
    "bpr": {},
    "softmax": {"loss": "softmax", "negatives": "sampler"},
    "in-batch": {"loss": "softmax", "negatives": "in-batch+sampler", "log_q": 0.5},
    "uniform, cosine": {
        "loss": "softmax",
        "negatives": "uniform+sampler",
        "uniform_negatives": 8,
        "score": "cosine",
        "temperature": 0.2,
    },
    "alignment": {"contrastive": {"weight": 0.3}},
    "propensity": {"propensity": {"exponent": 0.5}},
    "deconfounded": {"popularity_exponent": 0.1},
}
COSINE = {"score": "cosine", "temperature": 0.2}
OURS = [n for n in SAMPLERS.names() if SAMPLERS.find(n).__module__.startswith("cnsdiff.samplers")]


@pytest.mark.parametrize("backbone", ["mf", "lightgcn"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", OURS)
def test_a_few_steps_lower_the_loss_on_the_positives(sampler, objective, backbone) -> None:
    positives = tiny_positives()
    kind, base = SAMPLERS.find(sampler), BACKBONES.find(backbone)
    step = TrainingStep(
        base(positives, base.Config(dim=DIM), torch.Generator().manual_seed(0)),
        kind(positives, DIM, kind.Config(name=sampler), torch.Generator().manual_seed(1)),
        Objective(ObjectiveConfig(**OBJECTIVES[objective]), positives),
    )
    optimizer = torch.optim.Adam(list(step.parameter_groups(lr=0.05)))
    batch = make_batch(positives)

    def margin() -> float:
        """How far positives score above all other items, on average."""
        users, items = step.embeddings()
        scores = users @ items.T
        observed = torch.zeros_like(scores, dtype=torch.bool)
        observed[batch.users, batch.positives] = True
        return float(scores[observed].mean() - scores[~observed].mean())

    with torch.no_grad():
        before = margin()
    for number in range(15):
        optimizer.zero_grad()
        loss, _ = step(batch, make_context(number, number / 15, epoch=number + 1))
        assert loss.isfinite()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert margin() > before


@pytest.mark.parametrize("whole", [0, 64])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", ["random", "popularity", "exposure"])
def test_projecting_the_rows_in_use_is_projecting_the_tables(
    sampler, objective, whole, monkeypatch
) -> None:
    """A sampler that never looks at embeddings trains alike whether they are projected for it."""
    monkeypatch.setattr(objective_module, "_AT_ONCE", whole)
    kind, base = SAMPLERS.find(sampler), BACKBONES.find("lightgcn")
    positives = tiny_positives()
    outcomes = []
    for reads in (False, True):
        monkeypatch.setattr(kind, "reads_embeddings", reads)
        step = TrainingStep(
            base(positives, base.Config(dim=DIM), torch.Generator().manual_seed(0)),
            kind(positives, DIM, kind.Config(name=sampler), torch.Generator().manual_seed(1)),
            Objective(ObjectiveConfig(**(OBJECTIVES[objective] | COSINE)), positives),
        )
        loss, _ = step(make_batch(positives), make_context(3))
        loss.backward()
        outcomes.append([loss.detach(), *(p.grad for p in step.backbone.parameters())])
    for rows, tables in zip(*outcomes, strict=True):
        torch.testing.assert_close(rows, tables, rtol=1e-4, atol=1e-7)


def test_what_a_sampler_says_of_embeddings_does_not_pass_to_subclasses() -> None:
    class Looking(RandomSampler):
        pass

    assert not RandomSampler.reads_embeddings
    assert Looking.reads_embeddings
    assert SAMPLERS.find("exposure_diffusion").reads_embeddings
