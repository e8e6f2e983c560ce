"""One epoch: every training interaction once, in batches of a random order.

All its randomness is drawn from streams derived from ``(seed, purpose, epoch)``, and slices of
batches from streams of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cnsdiff.base.errors import TrainingError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.samplers.base import Batch
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.probe import Probe
from cnsdiff.training.progress import Reporter
from cnsdiff.training.several.layout import Layout
from cnsdiff.training.several.processes import Processes
from cnsdiff.training.several.slices import Part, Slices, Step, Streams
from cnsdiff.training.step import Cut, TrainingStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Steps between readings of the loss from the device (each is a synchronisation).
_READ_EVERY = 20

Scalars = dict[str, Tensor]


@dataclass(frozen=True)
class Epochs:
    """What all epochs of a training have in common.

    Attributes
    ----------
    step, optimizer
        What is trained.
    pairs
        ``(n, 2)`` user and item of the training interactions.
    slices
        Who computes what of each batch.
    checkpoint
        Where the last epoch was saved, for messages.
    """

    config: TrainingConfig
    seed: int
    fabric: Fabric
    processes: Processes
    layout: Layout
    probe: Probe | None
    step: TrainingStep
    optimizer: torch.optim.Optimizer
    pairs: Tensor
    slices: Slices
    checkpoint: Path | None

    @property
    def batch_size(self) -> int:
        return self.config.batch_size_for(self.slices.n_rows)

    @property
    def n_steps(self) -> int:
        return math.ceil(self.slices.n_rows / self.batch_size)

    def train(self, epoch: int, reporter: Reporter) -> dict[str, float]:
        """Train over all pairs once; the mean of each scalar, and what the probe saw.

        Raises
        ------
        TrainingError
            A loss or a weight became NaN or infinite.
        """
        device, n_rows = self.fabric.device, self.slices.n_rows
        order_stream = torch_generator(self.seed, "order", epoch, device=device)
        order = torch.randperm(n_rows, generator=order_stream, device=device)
        alike = self.step.sampler.shares_draws
        streams = Streams(self.seed, epoch, self.slices, alike=alike, device=device)
        parameters = list(self.layout.shared_parameters(self.step))
        self.step.train()
        sums: Scalars = {}
        if self.probe is not None:
            self.probe.begin(epoch, self.n_steps)
        for number, step in enumerate(self.slices.epoch(order, self.batch_size)):
            looked_at = self.probe is not None and self.probe.looks_at(number)
            self.optimizer.zero_grad(set_to_none=True)
            scalars = self._backward(step, epoch, streams, self.probe if looked_at else None)
            self.processes.add_up_gradients(parameters)
            self.optimizer.step()
            streams.catch_up(step)
            _add(sums, scalars, step.rows / n_rows)
            values = None
            if number % _READ_EVERY == 0:
                values = self.processes.added({k: float(v) for k, v in scalars.items()})
                self._require_finite(epoch, number + 1, values)
            reporter.step(epoch, values)
        means = self.processes.added({name: float(value) for name, value in sums.items()})
        self._require_finite(epoch, number + 1, means)
        finite = all(bool(p.isfinite().all()) for p in self.step.parameters())
        if not self.processes.every(finite):
            self._require_finite(epoch, number + 1, {"weights": math.nan})
        seen = self.processes.from_first(lambda: dict(self.probe.scalars()) if self.probe else {})
        return means | seen

    def _backward(self, step: Step, epoch: int, streams: Streams, probe: Probe | None) -> Scalars:
        """Gradients of this process's slices of a batch; scalars, as their share in its mean."""
        filled = [part for part in step.parts if len(part.index)]
        scalars: Scalars = {}
        if len(filled) == 1 and not self.layout.propagates_together:
            loss = self._loss(filled[0], epoch, streams, probe, None, scalars)
            self.fabric.backward(loss)
        elif filled or self.layout.propagates_together:
            # Once for all slices: propagation costs more than they do.
            with self.fabric.autocast():
                cut = Cut(self.step.propagate())
            for part in filled:
                loss = self._loss(part, epoch, streams, probe, cut, scalars)
                self.fabric.backward(loss)
            cut.backward()
        return scalars

    def _loss(
        self,
        part: Part,
        epoch: int,
        streams: Streams,
        probe: Probe | None,
        cut: Cut | None,
        scalars: Scalars,
    ) -> Tensor:
        """A slice's part in the loss of the batch; its scalars are added to ``scalars``."""
        users, items = self.pairs.index_select(0, part.index).t().contiguous()
        context = streams.context(part.number, (epoch - 1) / self.config.epochs, epoch)
        with self.fabric.autocast():
            loss, found = self.step(
                Batch(part.index, users, items),
                context,
                probe if part.number == 0 else None,
                None if cut is None else cut.propagated,
            )
        _add(scalars, found, part.share)
        scaled: Tensor = loss if part.share == 1 else part.share * loss
        return scaled

    def _require_finite(self, epoch: int, number: int, values: Mapping[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if not broken:
            return
        kept = f"; {self.checkpoint} keeps epoch {epoch - 1}" if self.checkpoint else ""
        raise TrainingError(
            f"training stopped in epoch {epoch}, step {number}: {', '.join(broken)} became NaN or "
            f"infinite{kept if epoch > 1 else ''}; lower training.lr (now {self.config.lr:g}) or "
            "raise objective.temperature"
        )


def _add(sums: Scalars, scalars: Mapping[str, Tensor], share: float) -> None:
    for name, value in scalars.items():
        part = value if share == 1 else value * share
        sums[name] = sums[name] + part if name in sums else part
