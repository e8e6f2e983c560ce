"""What all rows share: the options, the places where they measure, and what a finding is.

What is compared takes turns, round after round, and the ratio is the median of the rounds' own
ratios: a machine whose speed drifts slows both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cnsdiff import load_dataset
from cnsdiff.data import Dataset


@dataclass(frozen=True)
class Options:
    """What the command line says; each row takes what concerns it.

    Attributes
    ----------
    datasets
        Prepared datasets, by name.
    threads
        Numbers of CPU threads to measure with.
    rounds
        Turns that each contestant has.
    epochs
        Epochs in a turn; the first warms up.
    steps
        Training steps in a turn, where steps are timed.
    memory_users
        Users whose evaluation is measured in memory, and then four times as many.
    """

    datasets: dict[str, Path]
    threads: tuple[int, ...] = (1,)
    rounds: int = 3
    epochs: int = 3
    steps: int = 10
    memory_users: int = 20_000
    authors: str | None = None
    recbole: str | None = None
    peer_epochs: int = 2
    growth_sizes: tuple[int, ...] = (10**5, 10**6, 10**7)
    growth_rounds: int = 1
    growth_epochs: int = 2
    startup_runs: int = 7


class Place(NamedTuple):
    """A dataset and a number of threads."""

    name: str
    dataset: Dataset
    threads: int


def places(options: Options) -> Iterator[Place]:
    """Every dataset with every number of threads; PyTorch has those threads while it is in use."""
    for name, path in options.datasets.items():
        dataset = load_dataset(path)
        for threads in options.threads:
            torch.set_num_threads(threads)
            yield Place(name, dataset, threads)


@dataclass(frozen=True)
class Target:
    """What a value should be at most, or at least."""

    bound: float
    at_least: bool = False

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass
class Finding:
    """One number of the table, or why there is none.

    Attributes
    ----------
    what
        What was measured, or what was put over what.
    unit
        Of ``value``: ``×`` for a ratio.
    value, low, high
        Median, least and largest over the rounds; ``None`` where nothing was measured.
    seconds, reference_seconds
        Median seconds of ours, and of what it is compared with.
    missing
        Why it was not measured.
    details
        More numbers, by name.
    """

    row: str
    what: str
    dataset: str | None = None
    threads: int | None = None
    unit: str = "×"
    target: Target | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    reference_seconds: float | None = None
    missing: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; ``None`` without one, or without a value."""
        if self.target is None or self.value is None:
            return None
        return self.target.met_by(self.value)

    def of(self, values: Sequence[float]) -> Finding:
        """The same, with the median and the range of ``values``."""
        self.value, self.low, self.high = statistics.median(values), min(values), max(values)
        return self

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self) | {"met": self.met}

    def __str__(self) -> str:
        where = "" if self.dataset is None else f"{self.dataset}, "
        where += "" if self.threads is None else f"{self.threads} thread(s), "
        head = f"  {where}{self.what}: "
        if self.value is None:
            return f"{head}not measured: {self.missing}"
        text = f"{head}{self.value:.3g} {self.unit} ({self.low:.3g} to {self.high:.3g})"
        if self.seconds is not None and self.reference_seconds is not None:
            text += f", {self.seconds:.3g} s against {self.reference_seconds:.3g} s"
        if self.target is not None:
            text += f"; target {self.target}: {'met' if self.met else 'NOT met'}"
        return text


def at(row: str, what: str, place: Place, **more: Any) -> Finding:
    """A finding of a place."""
    return Finding(row, what, dataset=place.name, threads=place.threads, **more)


def ours_over(finding: Finding, ours: Sequence[float], reference: Sequence[float]) -> Finding:
    """``finding`` with the ratio of our seconds to the reference's, round by round."""
    return _compared(
        finding, ours, reference, [a / b for a, b in zip(ours, reference, strict=True)]
    )


def over_ours(finding: Finding, ours: Sequence[float], reference: Sequence[float]) -> Finding:
    """``finding`` with the ratio of the reference's seconds to ours, round by round."""
    return _compared(
        finding, ours, reference, [b / a for a, b in zip(ours, reference, strict=True)]
    )


def _compared(
    finding: Finding, ours: Sequence[float], reference: Sequence[float], ratios: Sequence[float]
) -> Finding:
    finding.seconds = statistics.median(ours)
    finding.reference_seconds = statistics.median(reference)
    finding.details["rounds"] = {"seconds": list(ours), "reference_seconds": list(reference)}
    return finding.of(ratios)


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """Median seconds of a call."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def peak_resident() -> int:
    """Bytes of main memory that this process has had in use at most.

    Not ``ru_maxrss``: Linux lets a child begin at its parent's.
    """
    return _status("VmHWM")


def resident() -> int:
    """Bytes of main memory in use."""
    return _status("VmRSS")


def _status(field_name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field_name:
            return 1024 * int(value.split()[0])
    raise RuntimeError(f"/proc/self/status does not tell {field_name}")
