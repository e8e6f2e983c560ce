"""The training checkpoint: one safetensors file that holds all that resuming needs.

Weights, optimiser moments and the best weights so far are tensors; the rest (epoch, history,
what it belongs to) is JSON in the file's metadata. One file, renamed into place, so that no
crash can leave parts of two epochs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cnsdiff.errors import RunError
from cnsdiff.storage import write_tensors

VERSION = 1


@dataclass
class TrainingState:
    """Where training stands after an epoch.

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
        One record of scalars per epoch.
    identity
        What the checkpoint belongs to (configuration and dataset fingerprint).
    """

    epoch: int
    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    stopping: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)

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
                state = json.loads((file.metadata() or {})["state"])
                if state["version"] != VERSION:
                    raise RunError(
                        f"{path}: checkpoint version {state['version']}, this cnsdiff reads "
                        f"{VERSION}; train again with this version"
                    )
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
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{path}: the checkpoint is damaged ({error}); delete it to train from the start"
            ) from error


def optimizer_moments(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """Adam's state as plain tensors."""
    return {
        index: {name: value for name, value in moments.items() if isinstance(value, Tensor)}
        for index, moments in optimizer.state_dict()["state"].items()
    }


def restore_moments(
    optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]
) -> None:
    """Put saved moments back; the parameter groups stay as constructed."""
    optimizer.load_state_dict(
        {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
    )
