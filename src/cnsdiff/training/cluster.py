"""A Ray cluster: how it is reached, and several processes that train one model on it."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cnsdiff.base.errors import CnsdiffError, ConfigError, TrainingError, reason
from cnsdiff.base.text import install_command, parameter
from cnsdiff.training.processes import PATIENCE


@contextmanager
def connected(address: str | None = None, **options: Any) -> Iterator[None]:
    """A connection to a Ray cluster, which ends with the context.

    Parameters
    ----------
    address
        ``"auto"``, ``"ray://host:10001"``, or ``"local"`` for a cluster of this process alone.
        ``None`` takes the one that the environment variable ``RAY_ADDRESS`` names or that runs on
        this machine, else one of this process alone.
    options
        Passed on to ``ray.init``.

    Raises
    ------
    ConfigError
        Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"{parameter('ray')} needs Ray; install it with: {install_command('ray')}"
        ) from error
    # A cluster started here does not call home.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    _require_answer(address or "")
    if address in (None, "local"):
        options = {"log_to_driver": False, "include_dashboard": False, **options}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError) as error:
        raise _no_answer(address or "auto", error) from error
    try:
        yield
    finally:
        ray.shutdown()


def require_room(processes: int, cpus: int, gpus: int = 0) -> None:
    """Refuse more processes than the machines of the cluster have room for; Ray would wait.

    Raises
    ------
    ConfigError
        There is room for fewer processes of so many CPUs and GPUs each.
    """
    import ray

    room = 0
    for node in ray.nodes():
        if node["Alive"]:
            free = node["Resources"]
            count = int(free.get("CPU", 0) // cpus)
            room += min(count, int(free.get("GPU", 0) // gpus)) if gpus else count
    if room < processes:
        each = f"{cpus} CPUs" + (f" and {gpus} GPUs" if gpus else "")
        raise ConfigError(
            f"{parameter('ray')}: {processes} processes of {each} each, and the cluster has room "
            f"for {room}; start fewer, or add machines"
        )


def train_on_cluster(work: Callable[[], str], processes: int, device: str, threads: int) -> str:
    """Do the work of one training in several processes of the cluster, which is connected.

    Ray Train places the processes and lets them meet, as ``torchrun`` would.

    Parameters
    ----------
    work
        What each process does, in the folder of this one; it can be pickled.
    processes
        How many.
    device
        ``"auto"`` takes a CUDA device for each process if the cluster has as many.
    threads
        CPUs of each.

    Returns
    -------
    str
        What the first process returned.

    Raises
    ------
    CnsdiffError
        What the first process that failed by itself raised.
    """
    import ray
    from ray.train import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    cuda = device.startswith("cuda")
    if device == "auto":
        cuda = ray.cluster_resources().get("GPU", 0) >= processes
    require_room(processes, threads, int(cuda))
    folder = Path.cwd()
    # It would print each line again, and the watcher is for machines that are rented by the hour.
    for name in ("RAY_TRAIN_ENABLE_PRINT_PATCH", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"):
        os.environ.setdefault(name, "0")

    def each() -> str:
        os.chdir(folder)
        torch.set_num_threads(threads)
        return work()

    with tempfile.TemporaryDirectory() as own:  # for Ray's notes, as checkpoints are ours
        trainer = TorchTrainer(
            each,
            scaling_config=ScalingConfig(
                num_workers=processes,
                use_gpu=cuda,
                resources_per_worker={"CPU": threads, **({"GPU": 1} if cuda else {})},
            ),
            torch_config=TorchConfig(
                # What is no tensor goes between CPUs in either case.
                backend="cpu:gloo,cuda:nccl" if cuda else "gloo",
                timeout_s=int(PATIENCE.total_seconds()),
            ),
            run_config=RunConfig(storage_path=own, logging_config=LoggingConfig("CRITICAL")),
        )
        # Ray takes the signal of Ctrl-C, and keeps it.
        ours = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        try:
            result = trainer.fit()
        except WorkerGroupError as error:
            raise _cause(error.worker_failures) from error
        except TrainingFailedError as error:
            raise TrainingError(f"Ray could not train: {reason(error)}") from error
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)
    said: str = result.return_value
    return said


def _cause(failures: dict[int, Exception]) -> CnsdiffError:
    """Of the failures of several processes, the one that the others follow from."""
    own: list[BaseException] = [
        getattr(error, "cause", None) or error for _, error in sorted(failures.items())
    ]
    # Who meets nobody in a collective raises a TrainingError.
    own.sort(key=lambda error: isinstance(error, TrainingError))
    if isinstance(own[0], CnsdiffError):
        return own[0]
    return TrainingError(f"a process of the cluster failed: {reason(own[0])}")


def _require_answer(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself would wait for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> ConfigError:
    reason = str(error).partition("\n")[0]
    return ConfigError(
        f"{parameter('ray')} {address}: no cluster answers ({reason}); start one with `ray start "
        "--head`"
    )
