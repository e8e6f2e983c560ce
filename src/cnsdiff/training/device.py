"""Choosing the device; Lightning Fabric does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cnsdiff.base.errors import ConfigError
from cnsdiff.training.several.processes import place

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(device: str, precision: str, threads: int | None = None) -> Fabric:
    """A Fabric on one device: this process's, if it is one of several.

    Parameters
    ----------
    device
        ``"auto"`` (CUDA if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    precision
        As Fabric names it: ``"32-true"``, ``"bf16-mixed"``, …
    threads
        CPU threads for PyTorch; ``None`` leaves its choice.

    Raises
    ------
    ConfigError
        The device is unknown or absent, or there are fewer than processes on this machine.
    """
    # It takes a second to import, and reading a model needs none of it.
    from lightning_fabric import Fabric

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and (kind == "cpu" or not index.isdecimal())):
        raise ConfigError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, …")
    if kind == "cpu":
        return Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    here = place()
    if index and here.count > 1:
        raise ConfigError(
            f"device: {device!r} is one device, and each of {here.count} processes takes its own; "
            "set device to cuda"
        )
    number = int(index or here.local_rank)
    available = torch.cuda.device_count()
    if number >= available:
        name = device if index or not here.local_rank else f"cuda:{number}"
        fewer = " or start fewer processes" if available and here.local_rank else ""
        raise ConfigError(
            f"device: {name!r} is not there ({available} CUDA devices found); "
            f"set device to auto or cpu{fewer}"
        )
    return Fabric(accelerator="cuda", devices=[number], precision=precision)  # type: ignore[arg-type]
