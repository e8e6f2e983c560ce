"""Row ``step_floor``: our training step over the arithmetic that it cannot do without.

The floor is, timed bare on data prepared beforehand, with the shapes of the same step:

- the sparse products of propagation: ``K`` layers, users and items, forward and backward (eight of
  them at ``K = 2``), by the fastest kernel known here (bags of embeddings);
- the dense products of a softmax over shared negatives: logits, gradient by rows, gradient by
  columns (none for BPR);
- the traffic of embeddings and optimiser: rows of the batch gathered from the propagated tables and
  from the free ones (for L2), their gradients added in the same places, one fused Adam update.

No loss, no drawing of negatives, no addition of layers, no autograd. Both take turns where the
training loop keeps its freed memory, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from measurement import Finding, Options, Target, at, ours_over, places, seconds_of
from steps import Steps
from torch import Tensor

from cnsdiff.backbones.lightgcn import normalised_adjacency
from cnsdiff.kernels.memory import freed_memory_kept
from cnsdiff.samplers import SharedItems

ROW = "step_floor"
TARGET = Target(1.25)
PRESETS = ("bpr-lightgcn", "default")


class Floor:
    """The bare work of a step, part by part."""

    def __init__(self, steps: Steps) -> None:
        backbone = steps.step.backbone
        users, items = (table.detach().clone() for table in backbone.layer_zero())
        self._tables = users, items
        self._n_layers = steps.config.backbone.layers
        self._bags = [_bags(matrix.csr) for matrix in normalised_adjacency(steps.positives)]
        batch = steps.batch()
        with torch.no_grad():
            drawn = steps.step.sampler(batch, backbone(), steps.context)
        # By table: the rows that a step reads and writes.
        self._rows = (batch.users,), (batch.positives, drawn.items.flatten())
        self._gathered = [
            [table.new_empty(len(rows), table.shape[1]) for rows in picked]
            for table, picked in zip(self._tables, self._rows, strict=True)
        ]
        self._gradients = torch.zeros_like(users), torch.zeros_like(items)
        parameters = [torch.nn.Parameter(table.clone()) for table in self._tables]
        for parameter in parameters:
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        self._of_parameters = [parameter.grad for parameter in parameters]
        self._adam = torch.optim.Adam(parameters, lr=1e-3, fused=True)
        self._shared = isinstance(drawn, SharedItems)
        if self._shared:
            rows, columns = users[batch.users], items[drawn.items.flatten()]
            logits = rows @ columns.T
            self._dense = rows, columns, logits, torch.empty_like(rows), torch.empty_like(columns)

    def sparse(self) -> None:
        """Propagation, forward and backward."""
        of_users, of_items = self._bags
        users, items = self._tables
        for _ in range(2 * self._n_layers):
            of_users(items)
            of_items(users)

    def dense(self) -> None:
        """The products of a softmax over shared negatives."""
        if self._shared:
            rows, columns, logits, by_rows, by_columns = self._dense
            torch.mm(rows, columns.T, out=logits)
            torch.mm(logits, columns, out=by_rows)
            torch.mm(logits.T, rows, out=by_columns)

    def traffic(self) -> None:
        """Rows gathered and scattered, and the optimiser's update."""
        with torch.no_grad():
            for k, table in enumerate(self._tables):
                gradient, free = self._gradients[k], self._of_parameters[k]
                gradient.zero_()
                for rows, values in zip(self._rows[k], self._gathered[k], strict=True):
                    # Once from the propagated table and once from the free one.
                    for target in (gradient, free):
                        torch.index_select(table, 0, rows, out=values)
                        target.index_add_(0, rows, values)
        self._adam.step()

    def __call__(self) -> None:
        self.sparse()
        self.dense()
        self.traffic()


def _bags(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """The product of a CSR matrix with a table."""
    columns, ends, values = matrix.col_indices(), matrix.crow_indices(), matrix.values()

    def product(table: Tensor) -> Tensor:
        return F.embedding_bag(
            columns, table, ends, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    return product


def measure(options: Options) -> Iterator[Finding]:
    for place in places(options):
        for preset in PRESETS:
            with freed_memory_kept():
                steps = Steps(place.dataset, preset)
                floor = Floor(steps)
                parts: dict[str, Callable[[], None]] = {
                    "sparse": floor.sparse,
                    "dense": floor.dense,
                    "traffic": floor.traffic,
                }
                steps()  # both warm up
                floor()
                ours, bare = [], []
                of_parts: dict[str, list[float]] = {name: [] for name in parts}
                for _ in range(options.rounds):
                    ours.append(seconds_of(steps, options.steps))
                    bare.append(seconds_of(floor, options.steps))
                    for name, part in parts.items():
                        of_parts[name].append(seconds_of(part, options.steps))
            finding = at(ROW, f"training step over its floor, {preset}", place, target=TARGET)
            finding.details["floor_parts"] = of_parts
            finding.details["batch"] = steps.batch_size
            yield ours_over(finding, ours, bare)
