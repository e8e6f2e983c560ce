"""The processes that train one model together, as ``torchrun`` starts them; or this one alone.

Fabric places each process on one device. What they exchange is here, through
:mod:`torch.distributed`: gloo for tensors on the CPU, NCCL for those on CUDA devices. Whoever is
alone exchanges nothing, and pays nothing for the possibility.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cnsdiff.base.errors import CnsdiffError, ConfigError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")

#: The others wait while the first validates, which takes long on a large log.
PATIENCE = timedelta(days=1)
#: News of a signal to all processes may come after that of the end of one of them.
_SIGNAL_LAG = 1.0
#: For the one process that tells of a failure to have told.
_TELLING = timedelta(seconds=5)

#: Each group has a name of its own in the store, where the keys of those before it remain.
_groups = itertools.count()


@dataclass(frozen=True)
class Place:
    """The rank of this process, and its rank on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0


def place() -> Place:
    """The place of this process, from the environment variables that ``torchrun`` sets."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in os.environ for name in names):
        return Place()
    return Place(*(int(os.environ[name]) for name in names[:3]))


class Processes:
    """All processes, as this one sees them.

    Every method but the properties is a collective: all processes call it, in the same order.

    Parameters
    ----------
    rank, count
        Which of how many; the process group of :mod:`torch.distributed` exists if there are
        several.

    Raises
    ------
    TrainingError
        From any collective, when another process has ended.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files, reports and validates."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    def from_first(self, make: Callable[[], T]) -> T:
        """The result of ``make`` in the first process, in all; its exception is raised in all."""
        if not self.several:
            return make()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = make()
            except CnsdiffError as error:
                outcome[1] = error
        with _together():
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def from_process(self, rank: int, value: T) -> T:
        """The ``value`` that the process ``rank`` has."""
        if not self.several:
            return value
        box = [value]
        with _together():
            dist.broadcast_object_list(box, src=rank)
        return box[0]

    def every(self, flag: bool) -> bool:
        """Whether ``flag`` holds in all processes."""
        return all(self._all(flag))

    def added(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum over processes of each named number; one that lacks it adds nothing."""
        total: dict[str, float] = {}
        for own in self._all(dict(values)):
            for name, value in own.items():
                total[name] = total[name] + value if name in total else value
        return total

    def _all(self, value: T) -> list[T]:
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.count
        with _together():
            dist.all_gather_object(values, value)
        return values

    def add_up(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.several:
            with _together():
                dist.all_reduce(tensor)
        return tensor

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each parameter's gradient over processes, in place.

        One that has none in any process has none afterwards; else who has none counts as zero.
        """
        if not self.several:
            return
        learnt = list(parameters)
        present = torch.tensor([parameter.grad is not None for parameter in learnt]).float()
        for parameter in learnt:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with _together():
            tensors = [present, *(parameter.grad for parameter in learnt)]
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()
        for parameter, known in zip(learnt, present.tolist(), strict=True):
            if not known:
                parameter.grad = None

    def gathered(self, part: Tensor) -> list[Tensor]:
        """The tensors, all of one shape, of all processes in their order."""
        parts = [torch.empty_like(part) for _ in range(self.count)]
        with _together():
            dist.all_gather(parts, part.contiguous())
        return parts

    def send_to_first(self, part: Tensor, shapes: Iterable[torch.Size]) -> Iterator[Tensor]:
        """In the first process, every process's tensor in order, one at a time, on the CPU.

        ``shapes`` are those of all processes. The others send theirs and get nothing.
        """
        part = part.detach().cpu().contiguous()
        if not self.first:
            with _together():
                dist.send(part, dst=0)
            return
        for rank, shape in enumerate(shapes):
            if rank == 0:
                yield part
                continue
            received = torch.empty(shape, dtype=part.dtype)
            with _together():
                dist.recv(received, src=rank)
            yield received


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or that a process group was made of already.

    A group made here ends with the context.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size())
        return
    here = place()
    if here.count == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        # What is no tensor goes between CPUs in either case.
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"cnsdiff/{next(_groups)}", _store()),
        rank=here.rank,
        world_size=here.count,
        timeout=PATIENCE,
    )
    yield Processes(here.rank, here.count)
    # Not after an error: to leave a group in which others still wait may itself wait for them.
    dist.destroy_process_group()


def tells_of_failure() -> bool:
    """Whether this process reports a failure that others may share.

    True for the first that asks, which calls :func:`told` when it has spoken. The others get their
    answer after that, so that none ends, and takes the rest with it, before.
    """
    if place().count == 1:
        return True
    try:
        if _store().add("failures", 1) == 1:
            return True
        _store().wait(["told"], _TELLING)
    except RuntimeError:  # the store has gone with its process, or nobody told in time
        return not _claimed()
    return False


def told() -> None:
    """The failure has been told."""
    if place().count > 1:
        with contextlib.suppress(RuntimeError):
            _store().set("told", "yes")


def _claimed() -> bool:
    with contextlib.suppress(RuntimeError):
        return bool(_store().add("failures", 0))
    return False


@functools.cache
def _store() -> Store:
    """The address at which the processes meet."""
    store: Store = next(iter(rendezvous("env://")))[0]
    return store


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        time.sleep(_SIGNAL_LAG)  # an interrupt of all is raised here, and is what is to be told
        raise TrainingError(
            "another of the training processes has ended; its own message says why"
        ) from error


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
            f"device: {name!r} not found ({available} CUDA devices found); "
            f"set device to auto or cpu{fewer}"
        )
    return Fabric(accelerator="cuda", devices=[number], precision=precision)  # type: ignore[arg-type]
