"""Embedding tables cut by rows: every process has its users and its share of the items.

Process ``r`` of ``N`` has the users that are ``r`` modulo ``N``, who are those of its slices: their
rows, moments and gradients never travel. The items' parameters are cut into ``N`` blocks of rows
and put together for each step. With ``R̂_r``, the rows of the process's users, propagation is::

    users_r' = R̂_r items        items' = Σ_r R̂_rᵀ users_r

so that only sums over items are exchanged, and its gradient is propagated in the same way.
Gradients of items are *partial* wherever a process holds them, its own slices' part of a sum over
processes; they are added up where they enter propagation and where they reach the parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnsdiff.backbones.base import MF, Backbone, BackboneConfig, Embeddings
from cnsdiff.backbones.lightgcn import LightGCN, LightGCNConfig
from cnsdiff.base.errors import ConfigError
from cnsdiff.data.positives import Positives
from cnsdiff.kernels.sparse_matrix import SparseMatrix
from cnsdiff.samplers.base import SAMPLERS, Sampler
from cnsdiff.training.checkpoint import TrainingState
from cnsdiff.training.processes import Processes
from cnsdiff.training.slices import Layout, Slices
from cnsdiff.training.step import TrainingStep


def require_shardable(
    backbone: type[Any], sampler: type[Sampler], precision: str, loss: str
) -> None:
    """Raise :class:`ConfigError` for what cannot be trained on a share of the users."""
    if loss in ("sl@k", "bc"):
        raise ConfigError(
            f"training.shard: objective.loss {loss!r} needs the data of all users; take another, "
            "or set training.shard to false"
        )
    if backbone not in (MF, LightGCN):
        raise ConfigError(
            f"training.shard: the backbone {backbone.__name__} does not say how it propagates over "
            "a share of the users; take lightgcn or mf, or set training.shard to false"
        )
    if not sampler.shardable:
        able = [name for name in SAMPLERS.names() if SAMPLERS.find(name).shardable]
        raise ConfigError(
            f"training.shard: the sampler {sampler.__name__} needs the data of all users; take one "
            f"of {', '.join(able)}, or set training.shard to false"
        )
    if precision == "16-mixed":
        raise ConfigError(
            "training.shard: precision '16-mixed' skips steps by gradients that no process has "
            "whole; set precision to 'bf16-mixed' or '32-true'"
        )


class Shard(Layout):
    """The share of this process.

    Parameters
    ----------
    positives
        All training pairs.
    processes
        Who share them.

    Raises
    ------
    ConfigError
        There are more processes than users or items.
    """

    propagates_together = True

    def __init__(self, positives: Positives, processes: Processes) -> None:
        n_users, n_items, count = positives.n_users, positives.n_items, processes.count
        if count > min(n_users, n_items):
            raise ConfigError(
                f"training.shard: {n_users} users and {n_items} items are too few for {count} "
                "processes; set training.shard to false"
            )
        self.processes = processes
        self.n_users, self.n_items = n_users, n_items
        self._users = positives.pairs[:, 0].contiguous()
        self._kept = (self._users % count == processes.rank).nonzero()[:, 0]
        self._lacking = positives.rows_with_negatives()
        #: Which users, and which items, each process has.
        self.users = [slice(rank, None, count) for rank in range(count)]
        bounds = [rank * n_items // count for rank in range(count + 1)]
        self.items = [slice(*pair) for pair in itertools.pairwise(bounds)]

    @property
    def own_users(self) -> slice:
        return self.users[self.processes.rank]

    @property
    def own_items(self) -> slice:
        return self.items[self.processes.rank]

    def positives(self, whole: Positives) -> Positives:
        """The pairs of this process's users, who are renumbered; items count as in all pairs."""
        users, items = whole.pairs[self._kept].T.numpy()
        times, periods, weights = whole.timestamps, whole.periods, whole.weights
        own = Positives(
            users // self.processes.count,
            items,
            len(range(self.n_users)[self.own_users]),
            self.n_items,
            None if times is None else times[self._kept].numpy(),
            None if periods is None else periods[self._kept].numpy(),
            None if weights is None else weights[self._kept].numpy(),
        )
        own.item_counts = whole.item_counts
        return own

    # -- as the training loop asks ---------------------------------------------------------------

    def slices(
        self, positives: Positives, count: int, processes: Processes, *, lacking: bool = False
    ) -> Slices:
        device = positives.pairs.device
        rows = self._lacking.to(device) if lacking and self._lacking is not None else None
        return Slices(self._users.to(device), count, processes, self._kept.to(device), rows)

    def shared_parameters(self, step: TrainingStep) -> Iterable[nn.Parameter]:
        return step.sampler.trained_parameters()

    def device(self, device: torch.device) -> torch.device:
        # All users may not fit the device of one process.
        return torch.device("cpu")

    def embeddings(self, embeddings: Embeddings) -> Embeddings:
        users = self._collected(embeddings.users, self.users, self.n_users)
        return Embeddings(users, embeddings.items.cpu())

    def whole(self, state: TrainingState) -> TrainingState:
        return self._each(
            state,
            lambda table: self._collected(table, self.users, self.n_users),
            lambda table: self._collected(table, self.items, self.n_items),
        )

    def own(self, state: TrainingState) -> TrainingState:
        return self._each(
            state,
            lambda table: table[self.own_users].clone(),
            lambda table: table[self.own_items].clone(),
        )

    def _each(self, state: TrainingState, of_users: Any, of_items: Any) -> TrainingState:
        """The state with another table in the place of each; all else is the same for all."""
        tables = {"backbone.user_embedding": of_users, "backbone.item_embedding": of_items}

        def weights(own: dict[str, Tensor]) -> dict[str, Tensor]:
            return own | {name: tables[name](own[name]) for name in tables if name in own}

        model = weights(state.model)
        optimizer = dict(state.optimizer)
        # Adam numbers the backbone's parameters first.
        for index, change in enumerate((of_users, of_items)):
            if index in optimizer:
                optimizer[index] = {
                    name: change(value) if value.ndim == 2 else value
                    for name, value in optimizer[index].items()
                }
        best = model if state.best is state.model else weights(state.best)
        return replace(state, model=model, best=best, optimizer=optimizer)

    def _collected(self, own: Tensor, of_process: list[slice], n_rows: int) -> Tensor:
        """The whole table ``(n_rows, d)`` on the CPU, in the first process; the share elsewhere."""
        lengths = [len(range(n_rows)[rows]) for rows in of_process]
        shapes = [torch.Size((length, *own.shape[1:])) for length in lengths]
        table = (
            own.new_empty((n_rows, *own.shape[1:]), device="cpu") if self.processes.first else own
        )
        for rows, part in zip(of_process, self.processes.send_to_first(own, shapes), strict=False):
            table[rows] = part
        return table


class ShardedBackbone(nn.Module):
    """LightGCN, or MF as the same without layers, over the users of one process.

    Parameters
    ----------
    whole
        All training pairs, which the tables start from.
    positives
        Those of the shard.
    config
        Of the backbone it stands for.
    generator
        Source of the initial weights.
    shard
        Which rows these are.
    """

    user_item: SparseMatrix
    item_user: SparseMatrix

    def __init__(
        self,
        whole: Positives,
        positives: Positives,
        config: BackboneConfig,
        generator: torch.Generator,
        shard: Shard,
    ) -> None:
        super().__init__()
        self.shard = shard
        self.n_layers = config.layers if isinstance(config, LightGCNConfig) else 0
        start = Backbone(whole, config, generator).layer_zero()
        self.user_embedding = nn.Parameter(start.users.detach()[shard.own_users].clone())
        self.item_embedding = nn.Parameter(start.items.detach()[shard.own_items].clone())
        if self.n_layers:
            matrix = positives.normalised_matrix()
            self.user_item = SparseMatrix(matrix)
            self.item_user = SparseMatrix(matrix.T)
        self._gathered: Tensor | None = None

    def forward(self) -> Embeddings:
        """Embeddings of the shard's users and of all items. A collective."""
        items: Tensor = _Gathered.apply(self.item_embedding, self.shard)  # type: ignore[no-untyped-call]
        self._gathered = items
        if not self.n_layers:
            return Embeddings(self.user_embedding, items)
        graph = self.user_item, self.item_user, self.n_layers, self.shard.processes
        return Embeddings(*_Propagation.apply(graph, self.user_embedding, items))  # type: ignore[no-untyped-call]

    def layer_zero(self) -> Embeddings:
        """The free parameters behind the embeddings that ``forward`` made last."""
        items, self._gathered = self._gathered, None
        assert items is not None
        return Embeddings(self.user_embedding, items)


class _Gathered(torch.autograd.Function):
    """All items ``(I, d)`` of every process's block; its gradient comes back to it, summed."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        lengths = [rows.stop - rows.start for rows in shard.items]
        # Collectives want tensors of one shape.
        padded = own.new_zeros(max(lengths), own.shape[1])
        padded[: len(own)] = own
        parts = shard.processes.gathered(padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        shard: Shard = ctx.shard
        total = shard.processes.add_up(gradients[0].contiguous().clone())
        return total[shard.own_items].clone(), None


Graph = tuple[SparseMatrix, SparseMatrix, int, Processes]


class _Propagation(torch.autograd.Function):
    """As :class:`cnsdiff.backbones.lightgcn.LightGCN` propagates, with the users of one process.

    In the gradient of items both what comes in and what goes out is partial, so the last sum over
    users is left to whoever adds up what goes out.
    """

    @staticmethod
    def forward(ctx: Any, graph: Graph, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        ctx.graph = graph
        return _propagate(graph, users, items, items, last_is_partial=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        users, partial = gradients
        items = ctx.graph[3].add_up(partial.contiguous().clone())
        return None, *_propagate(ctx.graph, users, items, partial, last_is_partial=True)


def _propagate(
    graph: Graph, users: Tensor, items: Tensor, in_last: Tensor, *, last_is_partial: bool
) -> tuple[Tensor, Tensor]:
    """The mean over layers by Horner's rule; ``in_last`` stands for ``items`` in the last sum."""
    matrix, transpose, n_layers, processes = graph
    of_users, of_items = users, items
    for layer in range(1, n_layers + 1):
        last = layer == n_layers
        share = 1 / (n_layers + 1) if last else 1.0  # the mean, without a pass of its own
        sums = transpose.product(of_users, share)
        if not (last and last_is_partial):
            processes.add_up(sums)
        of_users = matrix.product(of_items, share).add_(users, alpha=share)
        of_items = sums.add_(in_last if last else items, alpha=share)
    return of_users, of_items
