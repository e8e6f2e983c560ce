"""The training loop: epochs, validation, early stopping, checkpoints, resuming.

It knows scalars and files; nothing of samplers or losses. An epoch sees every training interaction
once, in batches of a random order. All its randomness is drawn from streams derived from
``(seed, purpose, epoch)``, and slices of batches from streams of their own: the state after an
epoch is a function of the state before it, so that a resumed run repeats an undisturbed one bit by
bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cnsdiff.base.errors import ConfigError, RunError, TrainingError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data.positives import Positives
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.kernels.memory import freed_memory_kept
from cnsdiff.samplers.base import Batch
from cnsdiff.training.checkpoint import Choice, EpochRecord, TrainingState, optimizer_moments
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.probe import FalseNegativeProbe
from cnsdiff.training.processes import Processes
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import EarlyStopping, Selects
from cnsdiff.training.slices import Layout, Slices, Step, Streams, number_of_slices
from cnsdiff.training.step import Cut, TrainingStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Steps between readings of the loss from the device (each is a synchronisation).
_READ_EVERY = 20

#: In a checkpoint's identity: how many slices a batch has (one in those from before slices).
_SLICES = "slices"

Scalars = dict[str, Tensor]


class Trainer:
    """Trains a :class:`TrainingStep` on the pairs it is given.

    Parameters
    ----------
    config
        Epochs, batch size, learning rate, patience.
    step, positives
        What is trained, and the pairs it is trained on.
    seed
        The one seed.
    fabric
        Device and precision.
    checkpoint
        File to write after each epoch and to resume from; ``None`` keeps nothing on disk.
    identity
        What the run is (configuration and data fingerprints); a checkpoint of another is
        refused.
    probe
        Shown the negatives of each batch (of its first slice); what it saw goes into the epoch's
        record. Of several processes, the first alone has one.
    processes
        Those that train together, each of which has a trainer; alone by default.
    layout
        Where the tables lie; whole in every process by default.

    Raises
    ------
    ConfigError
        The slices cannot be shared by the processes, or several processes cannot train this step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        step: TrainingStep,
        positives: Positives,
        *,
        seed: int,
        fabric: Fabric,
        checkpoint: Path | None = None,
        identity: Mapping[str, str] | None = None,
        probe: FalseNegativeProbe | None = None,
        processes: Processes | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.config, self.step, self.positives = config, step, positives
        self.seed, self.fabric = seed, fabric
        self.checkpoint, self.identity = checkpoint, dict(identity or {})
        self.probe = probe
        self.processes, self.layout = processes or Processes(), layout or Layout()
        self.n_slices = number_of_slices(config.slices, self.processes)
        sampler = step.sampler
        memory = sampler.state_dict().keys() - dict(sampler.named_parameters()).keys()
        if self.processes.several and memory:
            raise ConfigError(
                f"the sampler {sampler.config.name!r} remembers more than its parameters from one "
                "batch to the next, which several processes would remember differently; train it "
                "in one process"
            )

    def fit(
        self,
        selection: Selects | None,
        reporter: Reporter,
        *,
        stop: Callable[[EpochRecord], bool] | None = None,
    ) -> TrainingState:
        """Train until the end, until no objective has patience left, or until told to stop.

        The step is left with the weights of the epoch that the first objective chose.

        Parameters
        ----------
        selection
            Its objectives each choose an epoch. A checkpoint keeps the first one's choice. Without
            one, all epochs train, and the last is chosen.
        reporter
            Told of progress.
        stop
            Asked after each epoch whether it shall be the last, whatever the patience; where
            training goes on, of the epoch before, too.

        Raises
        ------
        TrainingError
            If the loss or a weight becomes NaN or infinite. The last checkpoint stays.
        RunError
            If the checkpoint found belongs to another configuration or dataset.
        """
        config, step, device = self.config, self.step, self.fabric.device
        objectives = {"": None} if selection is None else dict(selection.objectives)
        assert self.checkpoint is None or len(objectives) == 1
        # Prepare: the step on its device, the optimiser, what a checkpoint says, the batches.
        step.to(device)
        groups = list(step.parameter_groups(config.lr))
        optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, fused=True)
        # The wrapped module is not called: Fabric cannot convert the inputs of this one.
        _, optimizer = self.fabric.setup(step, optimizer)
        state = self._resume(optimizer)
        slices = self.layout.slices(
            self.positives, self._slices_of(state), self.processes, lacking=step.needs_free_items
        )
        batch_size = config.batch_size_for(slices.n_rows)
        n_steps = math.ceil(slices.n_rows / batch_size)
        patience = config.patience_in_validations(n_steps)
        choices = state.choices = {
            name: Choice(
                EarlyStopping((), None)  # each epoch is better than the one before
                if objective is None
                else EarlyStopping(objective.selection_metrics, patience)
            )
            for name, objective in objectives.items()
        }
        first_name, first = next(iter(choices.items()))
        if state.epoch:
            first.weights = state.best
            for name in ("best_epoch", "best", "stale"):
                setattr(first.stopping, name, state.stopping[name])
        with reporter, freed_memory_kept(), _deterministic(device):
            if state.epoch:
                reporter.note(f"going on after epoch {state.epoch}")
            reporter.before(state.history, first.stopping)
            reporter.begin(state.epoch, config.epochs, n_steps)
            epochs = range(state.epoch + 1, config.epochs + 1)
            if state.history and self._told_to_stop(stop, state.history[-1]):
                epochs = range(0)
            for epoch in epochs:
                # An objective out of patience would have ended a training of its own.
                waiting = [name for name in choices if not choices[name].stopping.should_stop]
                if not waiting:
                    break
                # Train.
                started = time.perf_counter()
                means = self._train_epoch(epoch, optimizer, slices, batch_size, n_steps, reporter)
                trained = time.perf_counter()
                # Validate: each objective may find the epoch the best so far.
                validation: dict[str, float] = {}
                improved: list[str] = []
                if epoch % config.validate_every == 0 or epoch == config.epochs:
                    values = self._validated(selection, waiting)
                    for name in waiting:
                        choice = choices[name]
                        picking = {key: values[name][key] for key in choice.stopping.metrics}
                        choice.validations[epoch] = picking | values[name]  # those come first
                        if choice.stopping.update(epoch, values[name]):
                            improved.append(name)
                    validation = choices[waiting[0]].validations[epoch]
                # Record, save and report.
                record: EpochRecord = {
                    "epoch": epoch,
                    "train": means,
                    "validation": validation,
                    "seconds": trained - started,
                    "validation_seconds": time.perf_counter() - trained,
                }
                state.epoch = epoch
                state.history.append(record)
                state.model = _weights(step)  # fresh copies each epoch: sharing is safe
                for name, choice in choices.items():
                    if name in improved or not choice.weights:
                        choice.weights = state.model
                state.optimizer = optimizer_moments(optimizer)
                state.best, state.stopping = first.weights, asdict(first.stopping)
                self._save(state)
                reporter.epoch(record, best=selection is not None and first_name in improved)
                if self._told_to_stop(stop, record):
                    break
        optimizer.zero_grad(set_to_none=True)  # their room is needed
        step.load_state_dict(state.best, strict=False)
        step.eval()
        return self.layout.whole(state)

    def _told_to_stop(
        self, stop: Callable[[EpochRecord], bool] | None, record: EpochRecord
    ) -> bool:
        return stop is not None and self.processes.from_first(partial(stop, record))

    def _train_epoch(
        self,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        slices: Slices,
        batch_size: int,
        n_steps: int,
        reporter: Reporter,
    ) -> dict[str, float]:
        """Train over all pairs once; the mean of each scalar, and what the probe saw.

        Raises
        ------
        TrainingError
            A loss or a weight became NaN or infinite.
        """
        step, probe, device, n_rows = self.step, self.probe, self.fabric.device, slices.n_rows
        order_stream = torch_generator(self.seed, "order", epoch, device=device)
        order = torch.randperm(n_rows, generator=order_stream, device=device)
        streams = Streams(self.seed, epoch, slices, alike=step.sampler.shares_draws, device=device)
        shared = list(self.layout.shared_parameters(step))
        step.train()
        if probe is not None:
            probe.begin(epoch, n_steps)
        sums: Scalars = {}
        for number, batch in enumerate(slices.epoch(order, batch_size)):
            looked_at = probe is not None and probe.looks_at(number)
            optimizer.zero_grad(set_to_none=True)
            scalars = self._backward(batch, epoch, streams, probe if looked_at else None)
            self.processes.add_up_gradients(shared)
            optimizer.step()
            streams.catch_up(batch)
            _add(sums, scalars, batch.rows / n_rows)
            values = None
            if number % _READ_EVERY == 0:
                values = self.processes.added({k: float(v) for k, v in scalars.items()})
                self._require_finite(epoch, number + 1, values)
            reporter.step(epoch, values)
        means = self.processes.added({name: float(value) for name, value in sums.items()})
        self._require_finite(epoch, number + 1, means)
        finite = all(bool(p.isfinite().all()) for p in step.parameters())
        if not self.processes.every(finite):
            self._require_finite(epoch, number + 1, {"weights": math.nan})
        return means | self.processes.from_first(lambda: dict(probe.scalars()) if probe else {})

    def _backward(
        self, batch: Step, epoch: int, streams: Streams, probe: FalseNegativeProbe | None
    ) -> Scalars:
        """Gradients of this process's slices of a batch; scalars, as their share in its mean."""
        filled = [part for part in batch.parts if len(part.index)]
        together = self.layout.propagates_together or len(filled) > 1
        cut = None
        if together:
            # Once for all slices: propagation costs more than they do.
            with self.fabric.autocast():
                cut = Cut(self.step.propagate())
        scalars: Scalars = {}
        for part in filled:
            users, items = self.positives.pairs.index_select(0, part.index).t().contiguous()
            weights = self.positives.weights
            if weights is not None:
                weights = weights.index_select(0, part.index)
            context = streams.context(part.number, (epoch - 1) / self.config.epochs, epoch)
            with self.fabric.autocast():
                loss, terms = self.step(
                    Batch(part.index, users, items, weights),
                    context,
                    probe if part.number == 0 else None,
                    None if cut is None else cut.propagated,
                )
            _add(scalars, terms, part.share)
            self.fabric.backward(loss if part.share == 1 else part.share * loss)
        if cut is not None:
            cut.backward()
        return scalars

    def _require_finite(self, epoch: int, number: int, values: Mapping[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if not broken:
            return
        saved = f"; {self.checkpoint} keeps epoch {epoch - 1}" if self.checkpoint else ""
        raise TrainingError(
            f"training stopped in epoch {epoch}, step {number}: {', '.join(broken)} became NaN or "
            f"infinite{saved if epoch > 1 else ''}; lower training.lr (now {self.config.lr:g}) or "
            "raise objective.temperature"
        )

    def _validated(
        self, selection: Selects | None, names: list[str]
    ) -> dict[str, dict[str, float]]:
        if selection is None:
            return {name: {} for name in names}
        self.step.eval()
        with torch.no_grad():
            embeddings = self.layout.embeddings(self.step.embeddings())
            return self.processes.from_first(lambda: selection(EmbeddingScorer(*embeddings), names))

    def _save(self, state: TrainingState) -> None:
        path = self.checkpoint
        if path is not None:
            whole = self.layout.whole(state)
            self.processes.from_first(lambda: whole.save(path))

    def _resume(self, optimizer: torch.optim.Optimizer) -> TrainingState:
        """The state to go on from: the checkpoint's if there is one, else the beginning."""
        path = self.checkpoint if self.checkpoint and self.checkpoint.exists() else None
        if path is not None:
            state = TrainingState.load(path)
        else:
            identity = {**self.identity, _SLICES: str(self.n_slices)}
            state = TrainingState(epoch=0, identity=identity)
        if self.processes.from_first(lambda: state.epoch) != state.epoch:
            raise RunError(
                f"{self.checkpoint}: not all processes see the same checkpoint; put the run where "
                "all can read it"
            )
        if path is None:
            return state
        for what, value in self.identity.items():
            if state.identity.get(what) != value:
                raise RunError(
                    f"{path}: belongs to another {what}; resume with the same {what}, or choose "
                    "another directory"
                )
        state = self.layout.own(state)
        state.restore(self.step, optimizer, path)
        return state

    def _slices_of(self, state: TrainingState) -> int:
        """Number of slices that the training began with, however many processes go on with it."""
        count = int(state.identity.get(_SLICES, "1"))
        if count % self.processes.count:
            raise RunError(
                f"{self.checkpoint}: was begun with batches in {count} slice(s), which "
                f"{self.processes.count} processes cannot share evenly; go on with {count} "
                "process(es)"
            )
        return count


def _add(sums: Scalars, scalars: Mapping[str, Tensor], share: float) -> None:
    for name, value in scalars.items():
        part = value if share == 1 else value * share
        sums[name] = sums[name] + part if name in sums else part


def _weights(step: TrainingStep) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in step.state_dict().items()}


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Ask for deterministic kernels on a GPU, where sums may otherwise change their order."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
