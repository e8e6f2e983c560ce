"""The table of a benchmark on a terminal: what it says, what fits, and no test result."""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
from benchmark_parts import Inline

from cnsdiff.base.errors import TrainingError
from cnsdiff.benchmark.progress import (
    Cell,
    Forecast,
    PlainReporter,
    RichReporter,
    kind_of,
    reporter_for_terminal,
)
from cnsdiff.benchmark.run import run
from cnsdiff.benchmark.task import Method, Outcome, Task, run_task
from cnsdiff.display.screen import Screen
from cnsdiff.references import REFERENCES


def drawn(
    reporter: RichReporter, width: int = 80, height: int = 24, encoding: str = "utf-8"
) -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Screen(file=stream, width=width, height=height, color_system=None)
    console.print(reporter.picture(console))
    stream.flush()
    return [line.rstrip() for line in stream.buffer.getvalue().decode(encoding).splitlines()]


def closing(reporter: RichReporter) -> str:
    console = Screen(file=io.StringIO(), width=80, color_system=None)
    with console.capture() as told:
        console.print(reporter.closing())
    return told.get().strip()


def cell(dataset: str, method: str, done: int = 0, failed: int = 0, **more: object) -> Cell:
    known = {"total": 3, "value": 0.25 if done > failed else None, "metric": "ndcg@20", **more}
    return Cell(dataset=dataset, method=method, done=done, failed=failed, **known)


def table_of(cells: list[Cell], *tasks: Task) -> RichReporter:
    reporter = RichReporter()
    reporter.begin(sum(c.total for c in cells), sum(c.done for c in cells))
    for one in cells:
        reporter.cell(one)
    reporter.running(tasks)
    return reporter


class Watching(RichReporter):
    """Keeps every picture."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[str] = []

    def cell(self, cell: Cell) -> None:
        super().cell(cell)
        self.pictures.append("\n".join(drawn(self)))


def test_states(planned):
    task = planned()[1][2].trials[1]
    cells = [
        cell("world", "mostpop", 3),
        cell("world", "chance", 3, 2),
        cell("world", "mf", 1),
        cell("world", "ease"),
        cell("world", "dns", 2, 1),
    ]
    lines = drawn(table_of(cells, task))
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[2:7]}
    assert rows == {
        "mostpop": "✓ 0.2500", "chance": "✗2 0.2500", "mf": "▸1/3 0.2500",
        "ease": "·", "dns": "✗2/3 0.2500",
    }  # fmt: skip
    assert lines[1].split() == ["world"]
    assert lines[7] == "ndcg@20 on validation, the best so far"
    assert re.fullmatch(r"now  0:00  world mf trial seed \d training\.lr=\S+", lines[8])
    plain = drawn(table_of(cells, task), encoding="ascii")
    assert [line.split()[1] for line in plain[2:7]] == ["ok", "x2", ">1/3", "-", "x2/3"]


@pytest.mark.parametrize(("width", "height"), [(60, 12), (80, 20), (120, 40)])
def test_only_what_fits(planned, width, height):
    task = planned()[1][2].trials[0]
    cells = [
        cell(f"data-{d}", f"method-{m:02}", 3 if m < 20 else 0) for m in range(30) for d in range(9)
    ] + [cell("world", "mf", 1)]
    lines = drawn(table_of(cells, task), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "mf " in text and "world" in text, "what is under way is shown"
    n_rows = sum(line.startswith(("method-", "mf ")) for line in lines)
    n_columns = len(lines[1].split())
    hidden = [f"{31 - n_rows} more methods"] if n_rows < 31 else []
    hidden += [f"{10 - n_columns} more datasets"] if n_columns < 10 else []
    expected = "and " + ", ".join(hidden) + "; 180 of 271 are done"
    assert any(line.startswith(expected[: width - 1]) for line in lines)
    if n_rows <= 10:
        assert "method-19" not in text, "unfinished ones come before done ones"


def test_a_run_from_its_first_task_to_its_last(planned, monkeypatch, capsys):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    _, units, store = planned()

    def some(task: Task) -> Outcome:
        if task.method.name == "chance" and task.seed == 1:
            raise TrainingError("chance cannot")
        return run_task(task)

    watching = Watching()
    run(units, store, Inline(some), watching)
    assert len(watching.pictures) >= len(units) + 8
    assert "mf      ·" in watching.pictures[2]
    assert re.search(r"mostpop ✓ 0\.\d{4}", watching.pictures[-1])
    assert re.search(r"chance  ✗1 0\.\d{4}", watching.pictures[-1])
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "failed: world chance final seed 1: chance cannot" in written
    n_tasks = int(re.search(r"benchmark: (\d+) tasks, 1 failed, 0:\d\d", written).group(1))
    assert f" {n_tasks}/{n_tasks} " in watching.pictures[-1]
    # Every number is one of validation: none of what the finals measured on a test is there.
    shown = {float(n) for p in watching.pictures for n in re.findall(r" (0\.\d{4})(?!\d)", p)}
    finals = [task for unit in units for task in unit.finals(store)]
    table = store.records(finals + [t for u in units for t in u.trials])
    picked = {round(v, 4) for v in table.filter(split="valid")["value"]}
    tested = {round(v, 4) for v in table.filter(split="test_ood")["value"]}
    assert shown <= picked
    assert tested - picked, "else this would prove nothing"
    # Taken up again, all is there at once.
    again = Watching()
    run(units, store, Inline(), again)
    assert f" {n_tasks}/{n_tasks} " in again.pictures[-1]
    assert again.pictures[-1].splitlines()[2:5] == watching.pictures[-1].splitlines()[2:5]
    assert closing(again) == f"benchmark: 0 tasks and {n_tasks} before, 0:00"


@pytest.mark.parametrize(
    ("terminal", "term", "kind"),
    [(True, "xterm", RichReporter), (True, "dumb", PlainReporter), (False, "xterm", PlainReporter)],
)
def test_the_table_is_for_terminals(monkeypatch, terminal, term, kind):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", term)
    assert type(reporter_for_terminal()) is kind


# --- the forecast


def planned_task(dataset: str, method: str, kind: str = "final") -> Task:
    return Task(
        kind=kind, dataset=dataset, path="", fingerprint="",
        method=Method(method, method if method in REFERENCES else None, {}),
        setting={}, trial=0, seed=0, selections=("valid",), metric="ndcg@20", ks=(20,),
    )  # fmt: skip


def test_quick_references_tell_nothing_of_trainings():
    """A simulated plan: what is said is within a factor of two, or that nobody knows."""
    chance = np.random.default_rng(0)
    datasets = {"small": 1.0, "middle": 4.0, "large": 20.0}
    methods = {"mostpop": 0.05, "ease": 0.4, "mf": 30.0, "lightgcn": 90.0, "cnsdiff": 400.0}
    plan = [
        (
            planned_task(dataset, method),
            # What a reference costs does not grow as trainings do.
            (1 if method in REFERENCES else size) * cost * chance.lognormal(0, 0.15),
        )
        for dataset, size in datasets.items()
        for method, cost in methods.items()
        for _ in range(3)
    ]
    forecast, said = Forecast(), []
    to_do = Counter(kind_of(task) for task, _ in plan)
    true = sum(seconds for _, seconds in plan)
    for task, seconds in plan:
        to_do[kind_of(task)] -= 1
        true -= seconds
        forecast.ended(task, seconds)
        left = forecast.left(to_do)
        said.append(left is not None)
        if left is not None and task is not plan[-1][0]:
            assert 0.5 < left / true < 2, (task.dataset, task.method.name)
    # Known once a training on the last data set has told how it compares with another.
    assert not any(said[: 2 * 15 + 6])
    assert all(said[2 * 15 + 6 :])
    assert forecast.left({kind_of(planned_task("small", "mf")): 4}, 2) == pytest.approx(60, rel=0.3)


def test_finals_are_foreseen_from_trials():
    forecast = Forecast()
    forecast.ended(planned_task("shop", "mf", "trial"), 10.0)
    final = kind_of(planned_task("shop", "mf"))
    assert forecast.left({final: 3}) == pytest.approx(30)
    assert forecast.left({("shop", "mf", "final rehearsed"): 1}) is None
    assert forecast.left({("shop", "other", "final"): 1}) is None
    assert forecast.left({("shop", "other", "final"): 0}) == 0
    forecast.ended(planned_task("shop", "mf"), 14.0)
    assert forecast.left({final: 1}) == pytest.approx(14)


def test_what_was_done_before_foretells(planned):
    """A run that goes on knows from its records how long things take."""

    class Listening(PlainReporter):
        said: ClassVar[list[float | None]] = []

        def left(self, seconds: float | None) -> None:
            self.said.append(seconds)

    _, units, store = planned()
    run(units, store, Inline(), Listening())
    assert Listening.said[-1] == 0
    assert Listening.said[0] is None
    Listening.said.clear()
    for task in units[2].finals(store):
        store.forget(task)
    run(units, store, Inline(), Listening())
    assert Listening.said and None not in Listening.said
