"""The training checkpoint: one safetensors file that holds all that resuming needs.

Weights, optimiser moments and the best weights so far are tensors; the rest (epoch, history,
what it belongs to) is JSON in the file's metadata. One file, renamed into place, so that no
crash can leave parts of two epochs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from pydantic import Field
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cnsdiff.base.errors import RunError
from cnsdiff.base.settings import Record, shown, validated
from cnsdiff.base.storage import first_line, write_tensors
from cnsdiff.training.selection import EarlyStopping

VERSION = 1


class EpochRecord(TypedDict):
    """An epoch: scalars of its training, and metrics of its validation if it had one.

    ``train`` has the mean of each loss term and what was seen of the negatives, ``validation`` the
    metric that picks the epoch first.
    """

    epoch: int
    train: dict[str, float]
    validation: dict[str, float]
    seconds: float
    validation_seconds: float


class _Epoch(Record):
    epoch: int
    train: dict[str, float]
    validation: dict[str, float]
    seconds: float
    validation_seconds: float


class _Stopping(Record):
    best_epoch: int = Field(ge=0)
    best: dict[str, float]
    stale: int = Field(ge=0)


class _State(Record):
    """The JSON part of a checkpoint."""

    epoch: int = Field(ge=1)
    stopping: _Stopping
    history: list[_Epoch]
    identity: dict[str, str]


@dataclass
class Choice:
    """The epoch that an objective chose.

    Attributes
    ----------
    stopping
        Which epoch, and what it is worth.
    weights
        Those of that epoch, by name.
    validations
        What the objective measured, by epoch; of a training that is taken up again, since then.
    """

    stopping: EarlyStopping
    weights: dict[str, Tensor] = field(default_factory=dict)
    validations: dict[int, dict[str, float]] = field(default_factory=dict)


@dataclass
class TrainingState:
    """The state of a training after an epoch.

    Attributes
    ----------
    epoch
        Epochs completed.
    model, best
        Weights now, and at the best epoch.
    optimizer
        Adam's state per parameter: ``{index: {name: tensor}}``.
    stopping
        The early-stopping counters.
    history
        One record per epoch.
    identity
        What the checkpoint belongs to (configuration and dataset fingerprint).
    choices
        What each objective chose, by its name; only the first one's choice, ``best`` and
        ``stopping``, is saved.
    """

    epoch: int
    model: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    stopping: dict[str, Any] = field(default_factory=dict)
    history: list[EpochRecord] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write atomically; the file that was there stays whole until the new one is."""
        tensors = {f"model.{k}": v for k, v in self.model.items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for index, moments in self.optimizer.items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
        state = {
            "version": VERSION,
            "epoch": self.epoch,
            "stopping": self.stopping,
            "history": self.history,
            "identity": self.identity,
        }
        write_tensors(path, tensors, {"state": json.dumps(state)})

    @classmethod
    def load(cls, path: Path) -> TrainingState:
        """Read a checkpoint; :class:`RunError` if it is damaged or of another version."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        try:
            with safe_open(path, framework="pt") as file:
                # Not json: what is nested deeply ends with a RecursionError there.
                state = from_json((file.metadata() or {})["state"])
                if state["version"] != VERSION:
                    raise RunError(
                        f"{path}: checkpoint version {shown(state['version'])}, this cnsdiff reads "
                        f"{VERSION}; train again with this version"
                    )
                validated(_State, state)
                for name in file.keys():  # noqa: SIM118 (a safe_open handle is no dict)
                    group, _, rest = name.partition(".")
                    groups[group][rest] = file.get_tensor(name)
            optimizer: dict[int, dict[str, Tensor]] = {}
            for name, value in groups["optimizer"].items():
                index, _, moment = name.partition(".")
                optimizer.setdefault(int(index), {})[moment] = value
            return cls(
                epoch=state["epoch"],
                model=groups["model"],
                best=groups["best"],
                optimizer=optimizer,
                stopping=state["stopping"],
                history=state["history"],
                identity=state["identity"],
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
        """Put weights and moments back; :class:`RunError` if they are not of this model."""
        try:
            model.load_state_dict(self.best)
            model.load_state_dict(self.model)
            # Adam itself would only fail when it takes its next step.
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for index, moments in self.optimizer.items():
                shape = parameters[index].shape
                if {name: m.shape for name, m in moments.items()} != {
                    "step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape
                }:  # fmt: skip
                    raise ValueError(f"optimizer.{index} does not belong to this model")
            # The parameter groups stay as constructed.
            optimizer.load_state_dict(
                {"state": self.optimizer, "param_groups": optimizer.state_dict()["param_groups"]}
            )
        except (RuntimeError, ValueError, LookupError) as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path}: the checkpoint is damaged ({first_line(error)}); delete it to train from the "
        "start"
    )


def optimizer_moments(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """Adam's state as plain tensors."""
    return {
        index: {name: value for name, value in moments.items() if isinstance(value, Tensor)}
        for index, moments in optimizer.state_dict()["state"].items()
    }
