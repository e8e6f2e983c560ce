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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError, RunError, TrainingError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data.positives import Positives
from cnsdiff.kernels.memory import freed_memory_kept
from cnsdiff.samplers.base import Batch
from cnsdiff.training.checkpoint import TrainingState, optimizer_moments
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.probe import FalseNegativeProbe
from cnsdiff.training.processes import Processes
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import EarlyStopping
from cnsdiff.training.slices import Layout, Part, Slices, Step, Streams, number_of_slices
from cnsdiff.training.step import Cut, TrainingStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Metrics by name of the given embeddings on the split that selects.
Validate = Callable[[Embeddings], Mapping[str, float]]

#: In a checkpoint's identity: how many slices a batch has (one in those from before slices).
_SLICES = "slices"


class Trainer:
    """Trains a :class:`TrainingStep` on the pairs it is given.

    Parameters
    ----------
    config
        Epochs, batch size, learning rate, stopping.
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
        The slices cannot be shared by the processes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        seed: int,
        fabric: Fabric,
        checkpoint: Path | None = None,
        identity: Mapping[str, str] | None = None,
        probe: FalseNegativeProbe | None = None,
        processes: Processes | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.fabric = fabric
        self.checkpoint = checkpoint
        self.identity = dict(identity or {})
        self.probe = probe
        self.processes = processes or Processes()
        self.layout = layout or Layout()
        self.n_slices = number_of_slices(config.slices, self.processes)

    def require_fit(self, step: TrainingStep) -> None:
        """Raise :class:`ConfigError` if several processes cannot train this step together."""
        sampler = step.sampler
        kept = sampler.state_dict().keys() - dict(sampler.named_parameters()).keys()
        if self.processes.several and kept:
            raise ConfigError(
                f"the sampler {sampler.config.name!r} remembers more than its parameters from one "
                "batch to the next, which several processes would remember differently; train it "
                "in one process"
            )

    def fit(
        self,
        step: TrainingStep,
        positives: Positives,
        validate: Validate,
        reporter: Reporter,
        *,
        stop: Callable[[], bool] | None = None,
    ) -> TrainingState:
        """Train to the end or until stopped early, and leave ``step`` with the best weights.

        ``stop`` is asked after each epoch whether it shall be the last, whatever the patience.

        Raises
        ------
        TrainingError
            If the loss or a weight becomes NaN or infinite. The last checkpoint stays.
        RunError
            If the checkpoint found belongs to another configuration or dataset.
        """
        config = self.config
        self.require_fit(step)
        step.to(self.fabric.device)
        groups = list(step.parameter_groups(config.lr))
        optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, fused=True)
        # The wrapped module is not called: Fabric cannot convert the inputs of this one.
        _, optimizer = self.fabric.setup(step, optimizer)
        metrics = config.selection_metrics
        state = self._resume(step, optimizer)
        slices = self.layout.slices(
            positives, self._slices_of(state), self.processes, lacking=step.needs_free_items
        )
        epochs = Epochs(
            config=config,
            seed=self.seed,
            fabric=self.fabric,
            processes=self.processes,
            layout=self.layout,
            probe=self.probe,
            step=step,
            optimizer=optimizer,
            pairs=positives.pairs,
            slices=slices,
            checkpoint=self.checkpoint,
        )
        stopping = EarlyStopping(metrics, config.patience_in_validations(epochs.n_steps))
        for name in ("best_epoch", "best", "stale") if state.epoch else ():
            setattr(stopping, name, state.stopping[name])
        with reporter, freed_memory_kept(), _deterministic(self.fabric.device):
            if state.epoch:
                reporter.note(f"going on after epoch {state.epoch}")
            reporter.before(state.history, stopping)
            reporter.begin(state.epoch, config.epochs, epochs.n_steps)
            for epoch in range(state.epoch + 1, config.epochs + 1):
                if stopping.should_stop:
                    break
                started = time.perf_counter()
                means = epochs.train(epoch, reporter)
                trained = time.perf_counter()
                validation: dict[str, float] = {}
                best = False
                if epoch % config.validate_every == 0 or epoch == config.epochs:
                    values = self._validated(step, validate)
                    validation = {name: values[name] for name in metrics} | values
                    best = stopping.update(epoch, values)
                record = {
                    "epoch": epoch,
                    "train": means,
                    "validation": validation,
                    "seconds": trained - started,
                    "validation_seconds": time.perf_counter() - trained,
                }
                state.epoch = epoch
                state.history.append(record)
                state.model = _weights(step)
                if best or not state.best:
                    state.best = state.model  # fresh copies each epoch: sharing is safe
                state.optimizer = optimizer_moments(optimizer)
                state.stopping = asdict(stopping)
                self._save(state)
                reporter.epoch(record, best=best)
                if stop is not None and self.processes.from_first(stop):
                    break
        step.load_state_dict(state.best, strict=False)
        step.eval()
        return self.layout.whole(state)

    def _validated(self, step: TrainingStep, validate: Validate) -> dict[str, float]:
        step.eval()
        with torch.no_grad():
            embeddings = self.layout.embeddings(step.embeddings())
            return self.processes.from_first(lambda: dict(validate(embeddings)))

    def _save(self, state: TrainingState) -> None:
        path = self.checkpoint
        if path is not None:
            whole = self.layout.whole(state)
            self.processes.from_first(lambda: whole.save(path))

    def _resume(self, step: TrainingStep, optimizer: torch.optim.Optimizer) -> TrainingState:
        """The state to go on from: the checkpoint's if there is one, else the beginning."""
        state = TrainingState(0, {}, {}, {}, {}, [], {**self.identity, _SLICES: str(self.n_slices)})
        found = self.checkpoint is not None and self.checkpoint.exists()
        if self.checkpoint is not None and found:
            state = TrainingState.load(self.checkpoint)
        if self.processes.from_first(lambda: state.epoch) != state.epoch:
            raise RunError(
                f"{self.checkpoint}: not all processes see the same checkpoint; put the run where "
                "all can read it"
            )
        if self.checkpoint is None or not found:
            return state
        for what, value in self.identity.items():
            if state.identity.get(what) != value:
                raise RunError(
                    f"{self.checkpoint}: belongs to another {what}; resume with the same {what}, "
                    "or choose another directory"
                )
        state = self.layout.own(state)
        state.restore(step, optimizer, self.checkpoint)
        return state

    def _slices_of(self, state: TrainingState) -> int:
        """How many slices the training began with, however many processes go on with it."""
        count = int(state.identity.get(_SLICES, "1"))
        if count % self.processes.count:
            raise RunError(
                f"{self.checkpoint}: was begun with batches in {count} slice(s), which "
                f"{self.processes.count} processes cannot share evenly; go on with {count} "
                "process(es)"
            )
        return count


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
    probe: FalseNegativeProbe | None
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

    def _backward(
        self, step: Step, epoch: int, streams: Streams, probe: FalseNegativeProbe | None
    ) -> Scalars:
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
        probe: FalseNegativeProbe | None,
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
