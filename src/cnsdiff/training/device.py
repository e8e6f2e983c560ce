"""Choosing the device; Lightning Fabric does the rest."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from cnsdiff.errors import ConfigError


def make_fabric(device: str, precision: str, threads: int | None = None) -> Fabric:
    """A Fabric on one device.

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
        The device is unknown or absent.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and (kind == "cpu" or not index.isdigit())):
        raise ConfigError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, …")
    if kind == "cpu":
        return Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    number = int(index or 0)
    if number >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {device!r} is not there ({torch.cuda.device_count()} CUDA devices found); "
            "set device to auto or cpu"
        )
    return Fabric(accelerator="cuda", devices=[number], precision=precision)  # type: ignore[arg-type]
