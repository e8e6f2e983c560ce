"""The trainings under each shift, and each one's share of the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cnsdiff.audit.shifts import CERTAIN, Shift
from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.text import parameter
from cnsdiff.benchmark.grid import ANTICIPATED, DIAL, PLAIN, DatasetEntry, Grid, MethodEntry
from cnsdiff.benchmark.plan import Unit
from cnsdiff.benchmark.progress import Reporter
from cnsdiff.benchmark.run import settle
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Outcome, Task
from cnsdiff.benchmark.workers import Workers
from cnsdiff.display.wording import duration
from cnsdiff.recommender.presets import DEFAULT

#: Cut-offs, so that shorter lists of other recommenders can be judged too.
KS = (1, 5, 10, 20)
#: What picks: plain validation, with and without the dial, and the shift that is expected.
PLAIN_DIAL, EXPECTED = PLAIN + DIAL, ANTICIPATED + DIAL
#: The recommender that people have: its loss is the verdict.
USUAL = "usual"
OURS = "exposure"
#: Labels of methods in the audits of earlier versions.
FORMER = {"cnsdiff": OURS}
REFERENCES = ("mostpop", "recent-mostpop", "itemknn", "ease")


@dataclass(frozen=True)
class Kind:
    """A method of the audit.

    Attributes
    ----------
    title
        For tables.
    about
        What it is, in a few words.
    plain
        The selection by which it is read when no shift is expected.
    preset
        The configuration that it is trained with; ``None`` for a reference.
    """

    title: str
    about: str
    plain: str
    preset: str | None


#: In order of simplicity: of methods that are level an audit advises the first.
METHODS: dict[str, Kind] = {
    "mostpop": Kind("MostPop", "the most popular items for everybody", PLAIN, None),
    "recent-mostpop": Kind(
        "recent MostPop", "the items most popular of late, for everybody", PLAIN, None
    ),
    "itemknn": Kind("ItemKNN", "items like those a user has, by cosine", PLAIN, None),
    "ease": Kind("EASE", "a linear model of items, in closed form", PLAIN, None),
    USUAL: Kind(
        "the usual recommender",
        "LightGCN with BPR and random negatives, as usually trained",
        PLAIN,
        "bpr-lightgcn",
    ),
    OURS: Kind("exposure sampling", "the default of cnsdiff", PLAIN_DIAL, DEFAULT),
}


def require_metric(metric: str) -> str:
    """The metric, if an audit measures it.

    Raises
    ------
    ConfigError
        It does not.
    """
    known = [f"{name}@{k}" for name in ("recall", "ndcg") for k in KS]
    if metric not in known:
        raise ConfigError(
            f"{parameter('metric')} {metric}: is not measured{did_you_mean(metric, known)}; there "
            f"are {', '.join(known)}"
        )
    return metric


def ease_left_out(
    n_items: int, seconds: float, memory: float, *, speed: float | None = None
) -> str | None:
    """Why EASE cannot be fitted on so many items, in a sentence; ``None`` if it can.

    One fit may take so many ``seconds`` and half of the free bytes of ``memory``; ``speed``, in
    floating-point operations a second, is measured by default.
    """
    needed = 3 * 4 * n_items**2
    if n_items > 25_000 or needed > memory / 2:
        return (
            f"EASE needs a dense matrix of {n_items:,} × {n_items:,} items, about "
            f"{needed / 1e9:.0f} GB, and was left out."
        )
    # A Cholesky factor and an inverse; the product of the pairs with themselves comes cheaper.
    takes = 1.2 * n_items**3 / (speed or _speed())
    if takes > seconds:
        return (
            f"EASE would take about {duration(takes)} on {n_items:,} items, too much of the "
            "budget, and was left out; a longer budget brings it back."
        )
    return None


def _speed() -> float:
    """Floating-point operations of a matrix product in a second on this machine."""
    matrix = torch.ones(512, 512)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * 512**3 / max(time.perf_counter() - started, 1e-6)


def audit_grid(
    shifts: Sequence[Shift],
    paths: Mapping[str, Path],
    *,
    ease: bool,
    seed: int,
    metric: str,
    times: bool = False,
) -> Grid:
    """Every method under every shift, one seed and no search; the clock is not the grid's.

    What is popular of late is known only if the log has ``times``.
    """
    absent = {"ease": not ease, "recent-mostpop": not times}
    references = [name for name in REFERENCES if not absent.get(name)]
    options = {"recent-mostpop": {"half_life": "auto"}}
    return Grid(
        name="audit",
        datasets={
            shift.name: DatasetEntry(
                path=str(paths[shift.name]),
                anticipate=shift.anticipate,
                scenario=shift.name,
                set=dict(shift.training),
            )
            for shift in shifts
        },
        methods={
            **{
                name: MethodEntry(reference=name, group="reference", options=options.get(name, {}))
                for name in references
            },
            USUAL: MethodEntry(preset="bpr-lightgcn", group="usual"),
            OURS: MethodEntry(group="ours"),
        },
        seeds=(seed,),
        # Of false negatives an audit says nothing.
        set={"training": {"fhn_every": None}},
        select_on=(PLAIN, PLAIN_DIAL, EXPECTED),
        select_metric=metric,
        ks=KS,
    )


# --- The clock

#: A training gets at least so many seconds, or is not begun.
LEAST_SHARE = 1.0
#: References may take this share of a budget.
REFERENCE_SHARE = 0.3


class Clock:
    """The time left of a budget, in seconds.

    ``spent`` were used before, by a run that this one goes on with; ``reserve`` are kept for what
    comes after the trainings; the budget began at ``started`` by ``now``, at once by default.
    """

    def __init__(
        self,
        budget: float,
        *,
        spent: float = 0.0,
        reserve: float = 0.0,
        started: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget, self.spent, self.reserve = budget, spent, reserve
        self._now = now
        self._started = now() if started is None else started
        self._late = 0.0

    @property
    def passed(self) -> float:
        """Seconds since the budget began."""
        return self._now() - self._started

    @property
    def left(self) -> float:
        """Seconds for training; below 0 when there are none."""
        return self.budget - self.spent - self.reserve - self.passed

    def allot(self, n: float) -> float | None:
        """Seconds for the next of ``n`` trainings of which one runs at a time.

        What is left over ``n`` (a training that is to have more counts as several), less what
        trainings took beyond their share before, to end an epoch and to be tested. ``None`` if
        even a training of no length would end too late.
        """
        if self.left < max(self._late, LEAST_SHARE):
            return None
        return max(self.left / max(n, 1.0) - self._late, LEAST_SHARE)

    def overran(self, seconds: float) -> None:
        """Seconds by which a training exceeded its share."""
        self._late = max(self._late, seconds)


# --- The trainings


def tasks_of(units: Sequence[Unit], people: Mapping[str, tuple[int, ...]]) -> list[Task]:
    """The runs: references of all shifts first, then the trainings, shift by shift.

    Of ``people`` under each shift the lists are kept.
    """
    tasks = [
        replace(
            task := unit.trials[0],
            kind="final",
            seed=seed,
            selections=unit.selections,
            people=people.get(task.dataset, ()),
        )
        for unit in units
        for seed in unit.seeds
    ]
    return sorted(tasks, key=lambda task: task.method.reference is None)


def _weight(task: Task) -> int:
    """How much of the time a training gets, beside another."""
    return 2 if task.dataset in CERTAIN else 1


def spent(tasks: Sequence[Task], store: Store) -> float:
    """Seconds of what the store has of these tasks already."""
    records = store.records(tasks)
    return float(records.unique("key")["seconds"].sum())


def forget(tasks: Sequence[Task], store: Store, *, cut_short: bool) -> int:
    """Remove what failed, and with ``cut_short`` what the clock ended, and say how many."""
    again = 0
    for task in tasks:
        record = store.read(task)
        if record is not None and (
            record["status"][0] == "failed" or (cut_short and record["stopped_by"][0] == "time")
        ):
            store.forget(task)
            again += 1
    return again


def run_in_time(
    tasks: Sequence[Task],
    store: Store,
    workers: Workers,
    clock: Clock,
    *,
    n_workers: int = 1,
    reporter: Reporter | None = None,
) -> list[Task]:
    """Run what the store does not have, and return the tasks that the clock left no time for.

    References come first, as without them no number means anything, but take no more than
    :data:`REFERENCE_SHARE` of the budget: MostPop always runs, and another is left out once they
    have had that much, or would have it by what the same one took under another shift. Each
    training gets the time left over the trainings left, one for the shift that is certain twice as
    much; what one does not use goes to the next. Every result is in the (opened) store as soon as
    it is there; ``n_workers`` of the (entered) workers run at once.
    """
    reporter = reporter or Reporter()
    queue = [task for task in tasks if store.status(task) is None]
    left_out: list[Task] = []
    pending: dict[Future[Outcome], tuple[Task, float, float]] = {}
    of_references = 0.0
    longest: dict[str, float] = {}
    with ExitStack() as stack:
        stack.enter_context(reporter)
        reporter.begin(len(tasks), len(tasks) - len(queue))
        while queue or pending:
            while queue and len(pending) < n_workers:
                task = queue.pop(0)
                name, seconds = task.method.name, None
                if task.method.reference is None:
                    weights = sum(map(_weight, (task, *queue)))
                    seconds = clock.allot(weights / _weight(task) / n_workers)
                    runs = seconds is not None
                else:
                    expected = of_references + longest.get(name, 0.0) / n_workers
                    runs = name == REFERENCES[0] or expected < REFERENCE_SHARE * clock.budget
                if not runs:
                    left_out.append(task)
                    reporter.fewer(1)
                    continue
                started = time.monotonic()
                # The clock is no part of what a task is: its result is found again without it.
                future = workers.submit(replace(task, seconds=seconds))
                pending[future] = (task, seconds or 0.0, started)
            # Where everything left was left out, nothing is pending.
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                task, seconds, started = pending.pop(future)
                settle(task, future, store, reporter)
                took = time.monotonic() - started
                if task.method.reference is not None:
                    of_references += took / n_workers
                    longest[task.method.name] = max(longest.get(task.method.name, 0.0), took)
                record = store.read(task)
                if record is not None and record["stopped_by"][0] == "time":
                    clock.overran(took - seconds)
    return left_out
