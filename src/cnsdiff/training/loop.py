"""The training loop: epochs, validation, early stopping, checkpoints, resuming.

It knows batches, scalars and files; nothing of samplers or losses. All randomness of an epoch
is drawn from streams derived from ``(seed, purpose, epoch)``, so the state after an epoch is a
function of the state before it, and a resumed run repeats an undisturbed one bit by bit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.errors import RunError, TrainingError
from cnsdiff.memory import freed_memory_kept
from cnsdiff.samplers.base import Batch, Context
from cnsdiff.seeding import torch_generator
from cnsdiff.training.checkpoint import TrainingState, optimizer_moments, restore_moments
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.early_stopping import EarlyStopping
from cnsdiff.training.probe import Probe
from cnsdiff.training.progress import Reporter
from cnsdiff.training.step import TrainingStep

#: Metrics by name of the given embeddings on the split that selects.
Validate = Callable[[Embeddings], Mapping[str, float]]

#: Steps between readings of the loss from the device (each is a synchronisation).
_READ_EVERY = 20


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
        Shown the negatives of each batch; what it saw goes into the epoch's record.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        seed: int,
        fabric: Fabric,
        checkpoint: Path | None = None,
        identity: Mapping[str, str] | None = None,
        probe: Probe | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.fabric = fabric
        self.checkpoint = checkpoint
        self.identity = dict(identity or {})
        self.probe = probe

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
        step.to(self.fabric.device)
        groups = list(step.parameter_groups(config.lr))
        optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, fused=True)
        # The wrapped module is not called: Fabric cannot convert the inputs of this one.
        _, optimizer = self.fabric.setup(step, optimizer)
        metrics = config.selection_metrics
        pairs = positives.pairs
        n_steps = math.ceil(len(pairs) / config.batch_size)
        stopping = EarlyStopping(metrics, config.patience_in_validations(n_steps))
        state = self._resume(step, optimizer, stopping)
        with reporter, freed_memory_kept(), _deterministic(self.fabric.device):
            if state.epoch:
                reporter.note(f"going on after epoch {state.epoch}")
            reporter.begin(state.epoch, config.epochs, n_steps)
            for epoch in range(state.epoch + 1, config.epochs + 1):
                if stopping.should_stop:
                    break
                started = time.perf_counter()
                means = self._epoch(epoch, step, optimizer, pairs, reporter)
                trained = time.perf_counter()
                validation: dict[str, float] = {}
                best = False
                if epoch % config.validate_every == 0 or epoch == config.epochs:
                    step.eval()
                    with torch.no_grad():
                        values = validate(step.embeddings())
                    validation = {name: values[name] for name in metrics} | dict(values)
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
                if self.checkpoint is not None:
                    state.save(self.checkpoint)
                reporter.epoch(record, best=best)
                if stop is not None and stop():
                    break
        step.load_state_dict(state.best, strict=False)
        step.eval()
        return state

    def _epoch(
        self,
        epoch: int,
        step: TrainingStep,
        optimizer: torch.optim.Optimizer,
        pairs: Tensor,
        reporter: Reporter,
    ) -> dict[str, float]:
        """Train over all pairs once; the mean of each scalar, and what the probe saw."""
        device = self.fabric.device
        order_stream = torch_generator(self.seed, "order", epoch, device=device)
        context = Context(
            progress=(epoch - 1) / self.config.epochs,
            negatives=torch_generator(self.seed, "negatives", epoch, device=device),
            noise=torch_generator(self.seed, "noise", epoch, device=device),
            epoch=epoch,
        )
        order = torch.randperm(len(pairs), generator=order_stream, device=device)
        batches = torch.split(order, self.config.batch_size)
        step.train()
        sums: dict[str, Tensor] = {}
        if self.probe is not None:
            self.probe.begin(epoch, len(batches))
        for number, index in enumerate(batches):
            users, items = pairs.index_select(0, index).t().contiguous()
            looked_at = self.probe is not None and self.probe.looks_at(number)
            probe = self.probe if looked_at else None
            optimizer.zero_grad(set_to_none=True)
            with self.fabric.autocast():
                loss, scalars = step(Batch(index, users, items), context, probe)
            self.fabric.backward(loss)
            optimizer.step()
            for name, value in scalars.items():
                share = value * (len(index) / len(pairs))
                sums[name] = sums[name] + share if name in sums else share
            read = number % _READ_EVERY == 0
            values = {k: float(v) for k, v in scalars.items()} if read else None
            if values is not None:
                self._require_finite(epoch, number + 1, values)
            reporter.step(epoch, values)
        means = {name: float(value) for name, value in sums.items()}
        self._require_finite(epoch, number + 1, means)
        if not all(bool(p.isfinite().all()) for p in step.parameters()):
            self._require_finite(epoch, number + 1, {"weights": math.nan})
        return means if self.probe is None else means | dict(self.probe.scalars())

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

    def _resume(
        self, step: TrainingStep, optimizer: torch.optim.Optimizer, stopping: EarlyStopping
    ) -> TrainingState:
        """The state to go on from: the checkpoint's if there is one, else the beginning."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return TrainingState(0, {}, {}, {}, {}, [], self.identity)
        state = TrainingState.load(self.checkpoint)
        for what, value in self.identity.items():
            if state.identity.get(what) != value:
                raise RunError(
                    f"{self.checkpoint}: belongs to another {what}; resume with the same {what}, "
                    "or choose another --out"
                )
        step.load_state_dict(state.model, strict=False)
        restore_moments(optimizer, state.optimizer)
        for name in ("best_epoch", "best", "stale"):
            setattr(stopping, name, state.stopping[name])
        return state


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
