"""``layers()`` of the backbones, and what becomes of a backbone that has none."""

from __future__ import annotations

import itertools

import pytest
import torch

from cnsdiff.backbones import MF, BackboneConfig, Embeddings, LightGCN
from cnsdiff.backbones.lightgcn import LightGCNConfig
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers import MixGCFSampler
from cnsdiff.samplers.mixgcf import MixGCFConfig
from cnsdiff.testing import DIM, make_batch, make_context, tiny_positives
from cnsdiff.training.step import TrainingStep

POSITIVES = tiny_positives()


def lightgcn(depth: int) -> LightGCN:
    config = LightGCNConfig(dim=DIM, layers=depth)
    return LightGCN(POSITIVES, config, torch.Generator().manual_seed(0))


def mf() -> MF:
    return MF(POSITIVES, BackboneConfig(dim=DIM), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_mean_of_lightgcns_layers_is_its_output(depth: int) -> None:
    backbone = lightgcn(depth)
    layers = backbone.layers()
    assert len(layers) == depth + 1
    for one, other in zip(layers[0], backbone.layer_zero(), strict=True):
        assert one is other
    for tables, whole in zip(zip(*layers, strict=True), backbone(), strict=True):
        torch.testing.assert_close(torch.stack(tables).mean(dim=0), whole)


def test_each_of_lightgcns_layers_is_the_last_one_propagated() -> None:
    layers = lightgcn(2).layers()
    matrix = torch.from_numpy(POSITIVES.matrix.toarray())
    scaled = matrix / (matrix.sum(1, keepdim=True) * matrix.sum(0, keepdim=True)).sqrt()
    for before, after in itertools.pairwise(layers):
        torch.testing.assert_close(after.users, scaled @ before.items)
        torch.testing.assert_close(after.items, scaled.T @ before.users)


def test_mf_has_one_layer_its_output() -> None:
    backbone = mf()
    (layer,) = backbone.layers()
    for one, other in zip(layer, backbone(), strict=True):
        assert one is other


class Plain(torch.nn.Module):
    """A backbone of one's own: two tables, and no word of layers."""

    def __init__(self) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.users, self.items = (
            torch.nn.Parameter(torch.randn(m, DIM, generator=stream))
            for m in (POSITIVES.n_users, POSITIVES.n_items)
        )

    def forward(self) -> Embeddings:
        return Embeddings(self.users, self.items)


@pytest.mark.parametrize("score", ["inner", "cosine"])
def test_a_backbone_without_layers_counts_as_one_layer(score: str) -> None:
    """With MixGCF, which asks for them: the same as MF's, which says so itself."""
    plain, table = Plain(), mf()
    table.load_state_dict({"user_embedding": plain.users, "item_embedding": plain.items})
    losses = []
    for backbone in (plain, table):
        sampler = MixGCFSampler(POSITIVES, DIM, MixGCFConfig(), torch.Generator())
        objective = Objective(ObjectiveConfig(score=score, l2=0), POSITIVES)  # type: ignore[arg-type]
        step = TrainingStep(backbone, sampler, objective)  # type: ignore[arg-type]
        loss, _ = step(make_batch(POSITIVES), make_context())
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]
    assert plain.items.grad is not None
    assert table.item_embedding.grad is not None
    torch.testing.assert_close(plain.items.grad, table.item_embedding.grad)
    assert plain.items.grad.abs().sum() > 0


def test_the_step_gives_layers_with_gradient_to_a_sampler_that_wants_them() -> None:
    seen = []

    class Looking(MixGCFSampler):
        def forward(self, batch, embeddings, context):  # type: ignore[no-untyped-def]
            seen.append((embeddings, context.layers))
            return super().forward(batch, embeddings, context)

    sampler = Looking(POSITIVES, DIM, MixGCFConfig(), torch.Generator())
    objective = Objective(ObjectiveConfig(score="cosine"), POSITIVES)
    TrainingStep(lightgcn(2), sampler, objective)(make_batch(POSITIVES), make_context())
    ((embeddings, layers),) = seen
    assert len(layers) == 3
    assert all(table.requires_grad for layer in layers for table in layer)
    # Layers come as they are; their mean brought to unit length is the embedding.
    pooled = torch.stack([layer.items for layer in layers]).mean(dim=0)
    torch.testing.assert_close(embeddings.items, pooled / pooled.norm(dim=1, keepdim=True))
