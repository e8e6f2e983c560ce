"""Where the tasks of a benchmark run: here, in processes of this machine, or on a Ray cluster.

All take a task and give a future. A task that fails, or whose process dies, fails alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.connection import wait
from typing import Any, TypedDict

import torch

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.text import install_command, parameter
from cnsdiff.benchmark.progress import describe
from cnsdiff.benchmark.task import Outcome, Task, run_task
from cnsdiff.training.cluster import connected
from cnsdiff.training.progress import SparseReporter


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(AbstractContextManager["Workers"]):
    """Runs tasks; a context manager, whose end is the workers' end."""

    @abstractmethod
    def submit(self, task: Task) -> Future[Outcome]:
        """Run a task when there is room for it."""


class ThisProcess(Workers):
    """Runs each task at once in this process: nothing to start, and nothing to install."""

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        before = torch.get_num_threads()  # a task sets its own
        try:
            future.set_result(run_task(task))
        except Exception as error:
            future.set_exception(error)
        finally:
            torch.set_num_threads(before)
        return future

    def __exit__(self, *error: object) -> None:
        return None


class LocalWorkers(Workers):
    """Processes of this machine, started afresh (a fork would share PyTorch's threads).

    Parameters
    ----------
    n
        How many.
    lines
        Whether each writes a line on standard error every 30 s of a training.
    """

    def __init__(self, n: int, *, lines: bool = False) -> None:
        try:
            import pebble
        except ImportError as error:
            raise ConfigError(
                f"a benchmark needs pebble; install it with: {install_command('bench')}"
            ) from error
        context: Any = multiprocessing.get_context("spawn")
        self._lines = lines
        self._pool: Any = pebble.ProcessPool(max_workers=n, initializer=_serve, context=context)

    def submit(self, task: Task) -> Future[Outcome]:
        with _ctrl_c_held():
            future: Future[Outcome] = self._pool.schedule(_run, args=[task, self._lines])
        return future

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()


def _run(task: Task, lines: bool) -> Outcome:
    return run_task(task, SparseReporter(f"benchmark: {describe(task)}") if lines else None)


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Threads that begin here, and the processes they start, are born deaf to the terminal.

    The pool starts its threads with the first task. A process that is interrupted before it can
    say that it ignores that would die with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve() -> None:
    """Leave it to the parent to end this process in order, and end with it if it is killed."""
    # The terminal sends these to all processes.
    for name in {"SIGINT", "SIGHUP"} & set(dir(signal)):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent.sentinel], daemon=True).start()


def _end_with(sentinel: int) -> None:
    # The system makes it ready when the parent is gone, however it went, on every platform; what
    # Linux has for this (PR_SET_PDEATHSIG) looks at the thread that started the process.
    wait([sentinel])
    os._exit(1)


class RayWorkers(Workers):
    """A Ray cluster, on which the datasets' directories can be read by the same path.

    Parameters
    ----------
    address
        Of the cluster (``"auto"``, ``"ray://host:10001"``), or ``"local"`` for one of this
        process alone.
    threads
        CPUs that a task asks for.
    gpus
        GPUs that a task asks for; Ray hides all others from it. May be a part of one.
    lines
        As of the local workers; Ray passes them on, other than from a cluster of this process.
    options
        Passed on to ``ray.init``.
    """

    def __init__(
        self, address: str, threads: int, *, gpus: float = 0.0, lines: bool = False, **options: Any
    ) -> None:
        self._connection = ExitStack()
        self._connection.enter_context(connected(address, **options))
        import ray

        try:
            _require_room(ray.nodes(), {"CPU": threads, "GPU": gpus})
        except ConfigError:
            self._connection.close()
            raise
        self._run = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_run)
        self._lines = lines

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = self._run.remote(task, self._lines).future()
        return future

    def __exit__(self, *error: object) -> None:
        self._connection.close()


class _Node(TypedDict):
    """Fields of a machine as Ray describes it."""

    Alive: bool
    Resources: dict[str, float]


def _require_room(nodes: list[_Node], task: dict[str, float]) -> None:
    """Refuse tasks that no machine of the cluster could take; Ray would wait for one that can."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(m.get(kind, 0) >= n for kind, n in task.items()) for m in machines):
        return
    wanted = " and ".join(f"{n:g} {kind}s" for kind, n in task.items() if n)
    raise ConfigError(
        f"{parameter('ray')}: a task asks for {wanted}, and none of the {len(machines)} machines "
        f"of the cluster has as many; lower {parameter('threads')} or {parameter('gpus')}"
    )
