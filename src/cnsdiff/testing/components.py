"""Checks of what every sampler and backbone must keep."""

from __future__ import annotations

import copy
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn

from cnsdiff.backbones.base import MF, Backbone, BackboneConfig, Embeddings, mean_of
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers.base import (
    Batch,
    Context,
    Items,
    Negatives,
    Sampler,
    SamplerConfig,
    SharedItems,
    SharedVectors,
    Vectors,
)
from cnsdiff.training.step import TrainingStep

DIM = 6


def tiny_positives(n_users: int = 12, n_items: int = 17, seed: int = 0) -> Positives:
    """A small long-tailed set of training pairs with timestamps and three periods.

    Every user and item has a positive, and every user lacks at least one item.
    """
    rng = np.random.default_rng(seed)
    chance = 0.7 / np.sqrt(1 + np.arange(n_items))
    observed = rng.random((n_users, n_items)) < chance
    observed[np.arange(n_users), np.arange(n_users) % n_items] = True
    observed[np.arange(n_items) % n_users, np.arange(n_items)] = True
    full = np.flatnonzero(observed.all(axis=1))
    observed[full, 0] = False
    users, items = np.nonzero(observed)
    order = rng.permutation(len(users))
    timestamps = rng.integers(0, 1000, len(users)).astype(np.float64)
    return Positives(
        users[order].astype(np.int64),
        items[order].astype(np.int64),
        n_users,
        n_items,
        timestamps,
        periods=np.arange(len(users)) % 3,
    )


def make_context(
    seed: int = 0, progress: float = 0.5, *, epoch: int = 1, layers: tuple[Embeddings, ...] = ()
) -> Context:
    """A context whose streams are seeded afresh."""
    streams = [torch.Generator().manual_seed(2 * seed + k) for k in range(2)]
    return Context(progress, negatives=streams[0], noise=streams[1], epoch=epoch, layers=layers)


def make_batch(positives: Positives, index: Tensor | None = None) -> Batch:
    """The batch of these training interactions, of all of them by default."""
    index = torch.arange(len(positives)) if index is None else index
    users, items = positives.pairs[index].T
    return Batch(index=index, users=users, positives=items)


def check_sampler(sampler_class: type[Sampler], config: SamplerConfig | None = None) -> None:
    """Hold a sampler to its contract (:mod:`cnsdiff.samplers.base`).

    Checked at the beginning, in the middle and at the end of training, and for a batch of one:

    - it returns :class:`Items`, :class:`SharedItems`, :class:`Vectors` or :class:`SharedVectors`,
      of the shapes and types that these document, and finite;
    - item ids are items of the catalogue, and those of ``Items`` never a training positive of
      their row's user;
    - the same generators give the same result, whatever PyTorch's global stream holds;
    - the embeddings it is given stay as they are;
    - a training step has a finite loss, moves each of ``trained_parameters()``, and no other
      parameter of the sampler.

    Parameters
    ----------
    sampler_class
        Built as ``sampler_class(positives, dim, config, generator)``.
    config
        Its settings; its ``Config`` with defaults if ``None``.
    """
    positives = tiny_positives()
    if config is None:
        config = sampler_class.Config(name=sampler_class.__name__)

    def build() -> Sampler:
        return sampler_class(positives, DIM, config, torch.Generator().manual_seed(1))

    name = sampler_class.__name__
    _check_initial_weights(build(), build(), name)
    everything = make_batch(positives)
    for progress in (0.0, 0.5, 1.0):
        for batch in (everything, make_batch(positives, torch.tensor([len(positives) // 2]))):
            _check_negatives(build(), batch, progress, name)
    _check_sampler_learns(build(), everything, name)


def check_backbone(backbone_class: type[Backbone], config: BackboneConfig | None = None) -> None:
    """Hold a backbone to its contract (:mod:`cnsdiff.backbones.base`).

    - ``forward()`` returns finite :class:`Embeddings`, ``(U, d)`` and ``(I, d)``;
    - the initial weights are a function of the generator;
    - every parameter moves in a training step with random negatives;
    - its ``state_dict`` is all that a fresh instance needs to give the same embeddings.

    Parameters
    ----------
    backbone_class
        Built as ``backbone_class(positives, config, generator)``.
    config
        Its settings; its ``Config`` with ``dim=6`` if ``None``.
    """
    positives = tiny_positives()
    if config is None:
        config = backbone_class.Config(name=backbone_class.__name__, dim=DIM)

    def build(seed: int = 1) -> Backbone:
        return backbone_class(positives, config, torch.Generator().manual_seed(seed))

    name = backbone_class.__name__
    backbone = build()
    _check_initial_weights(backbone, build(), name)
    embeddings = backbone()
    assert isinstance(embeddings, tuple) and len(embeddings) == 2, (
        f"{name}: forward() returned {type(embeddings).__name__}, not Embeddings(users, items)"
    )
    for what, table, rows in zip(
        ("users", "items"), embeddings, (positives.n_users, positives.n_items), strict=True
    ):
        shape = (rows, config.dim)
        assert table.shape == shape, f"{name}: {what} are {tuple(table.shape)}, not {shape}"
        assert table.isfinite().all(), f"{name}: {what} are not all finite"
    before = _snapshot(backbone)
    loss = _train_once(backbone, _Uniform(positives, config.dim), make_batch(positives))
    assert loss.isfinite(), f"{name}: the loss of a training step is {loss.item()}"
    still = _unmoved(backbone, before)
    assert not still, f"{name}: a training step does not move {', '.join(still)}"
    backbone.eval()
    twin = build(seed=2)
    twin.load_state_dict(backbone.state_dict())
    twin.eval()
    for what, ours, theirs in zip(("users", "items"), backbone(), twin(), strict=True):
        assert torch.equal(ours, theirs), (
            f"{name}: {what} differ in a fresh instance with the same state_dict: some state is "
            "neither a parameter nor a persistent buffer"
        )


class _Uniform(Sampler):
    """Random negatives, for the checks of backbones."""

    def __init__(self, positives: Positives, dim: int) -> None:
        super().__init__(positives, dim, SamplerConfig(), torch.Generator())

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        return Items(self.positives.sample_negatives(batch.users, 1, context.negatives))


def _embeddings(positives: Positives, seed: int) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(
        *(
            torch.randn(rows, DIM, generator=generator).requires_grad_()
            for rows in (positives.n_users, positives.n_items)
        )
    )


def _check_initial_weights(one: nn.Module, other: nn.Module, name: str) -> None:
    for (key, first), second in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(first, second), (
            f"{name}: two instances made with the same generator differ in {key}"
        )


def _check_negatives(sampler: Sampler, batch: Batch, progress: float, name: str) -> None:
    positives = sampler.positives
    layers = tuple(_embeddings(positives, seed) for seed in (7, 8))
    embeddings = Embeddings(*(table.detach().requires_grad_() for table in mean_of(layers)))
    as_given = [table.detach().clone() for table in embeddings]
    outcomes = []
    initial = copy.deepcopy(sampler.state_dict())
    for seed in (11, 12):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sampler.load_state_dict(initial)  # one with a memory begins from the same
            outcomes.append(sampler(batch, embeddings, make_context(3, progress, layers=layers)))
    negatives, again = outcomes
    _check_form(negatives, batch, sampler, name)
    for what in (field.name for field in fields(negatives) if field.name != "diagnostics"):
        first, second = getattr(negatives, what), getattr(again, what, None)
        same = first is second if first is None or second is None else torch.equal(first, second)
        assert same, (
            f"{name}: {what} differ between two calls with equally seeded generators; draw from "
            "context.negatives and context.noise only"
        )
    for table, before in zip(embeddings, as_given, strict=True):
        assert torch.equal(table, before), f"{name}: writes to the embeddings it is given"


def _check_form(negatives: Negatives, batch: Batch, sampler: Sampler, name: str) -> None:
    assert isinstance(negatives, Negatives), (
        f"{name}: returned {type(negatives).__name__}, not Items, SharedItems, Vectors or "
        "SharedVectors"
    )
    rows, n, dim = len(batch), sampler.n_negatives, sampler.dim
    match negatives:
        case Items(items, weights):
            _check_items(items, (rows, n), sampler, name)
            clash = sampler.positives.contains(batch.users.unsqueeze(1), items)
            assert not bool(clash.any()), (
                f"{name}: {int(clash.sum())} of {items.numel()} items are training positives"
            )
            if weights is not None:
                _check_weights(weights, (rows, n), name)
        case SharedItems(items):
            _check_items(items, (n,), sampler, name)
        case Vectors(vectors, pool):
            _check_vectors("vectors", vectors, (rows, n, dim), name)
            if pool is not None:
                assert len(pool), f"{name}: the pool is empty"
                _check_vectors("pool", pool, (len(pool), dim), name)
        case SharedVectors(vectors, items):
            _check_vectors("vectors", vectors, (n, dim), name)
            _check_items(items, (n,), sampler, name)
    if negatives.loss is not None:
        loss = negatives.loss
        assert loss.ndim == 0, f"{name}: its loss is {tuple(loss.shape)}, not a scalar"
        assert bool(loss.isfinite()), f"{name}: its loss is {loss.item()}"
    for key, value in negatives.diagnostics.items():
        assert value.ndim == 0, f"{name}: diagnostic {key} is {tuple(value.shape)}, not a scalar"
        assert not value.requires_grad, f"{name}: diagnostic {key} carries gradient; detach it"
        assert bool(value.isfinite()), f"{name}: diagnostic {key} is {value.item()}"


def _check_items(items: Tensor, shape: tuple[int, ...], sampler: Sampler, name: str) -> None:
    assert items.dtype == torch.int64, f"{name}: items are {items.dtype}, not int64"
    assert items.shape == shape, f"{name}: items are {tuple(items.shape)}, not {shape}"
    n_items = sampler.positives.n_items
    assert bool(((items >= 0) & (items < n_items)).all()), (
        f"{name}: some items are not in the catalogue 0 … {n_items - 1}"
    )


def _check_weights(weights: Tensor, shape: tuple[int, ...], name: str) -> None:
    assert weights.shape == shape, f"{name}: weights are {tuple(weights.shape)}, not {shape}"
    assert not weights.requires_grad, f"{name}: its weights carry gradient; detach them"
    assert bool((weights.isfinite() & (weights >= 0)).all()), (
        f"{name}: some weights are negative or not finite"
    )
    assert bool((weights.sum(dim=1) > 0).all()), f"{name}: a row of weights is all zero"


def _check_vectors(what: str, vectors: Tensor, shape: tuple[int, ...], name: str) -> None:
    assert vectors.shape == shape, f"{name}: {what} are {tuple(vectors.shape)}, not {shape}"
    assert bool(vectors.isfinite().all()), f"{name}: some of its {what} are not finite"


def _check_sampler_learns(sampler: Sampler, batch: Batch, name: str) -> None:
    backbone = MF(sampler.positives, BackboneConfig(dim=DIM), torch.Generator().manual_seed(5))
    learnt = {id(parameter) for parameter in sampler.trained_parameters()}
    unlearnt = {key for key, value in sampler.named_parameters() if id(value) not in learnt}
    before = _snapshot(sampler)
    loss = _train_once(backbone, sampler, batch)
    assert loss.isfinite(), f"{name}: the loss of a training step is {loss.item()}"
    still = _unmoved(sampler, before)
    stuck = [key for key in still if key not in unlearnt]
    assert not stuck, f"{name}: a training step does not move {', '.join(stuck)}"
    moved = sorted(unlearnt - set(still))
    assert not moved, (
        f"{name}: a training step moves {', '.join(moved)}, which trained_parameters() leaves out"
    )


def _train_once(backbone: Backbone, sampler: Sampler, batch: Batch) -> Tensor:
    step = TrainingStep(backbone, sampler, Objective(ObjectiveConfig(), sampler.positives))
    optimizer = torch.optim.Adam(list(step.parameter_groups(lr=0.01)))
    loss: Tensor
    loss, _ = step(batch, make_context(4))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.named_parameters()}


def _unmoved(module: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [key for key, value in module.named_parameters() if torch.equal(value, before[key])]
