"""Output shared by the commands: tables for people, JSON for machines."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from cnsdiff.base.storage import unused
from cnsdiff.base.text import Command, say_json, visible
from cnsdiff.display.render import rich_table
from cnsdiff.display.screen import Screen, literal
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title, percent

if TYPE_CHECKING:
    from cnsdiff.data import Dataset
    from cnsdiff.data.directory import DatasetManifest
    from cnsdiff.data.interactions import Step
    from cnsdiff.evaluation import Evaluation

#: Shown for each split; the rest is in --json and metrics.parquet.
HEADLINE = ("recall", "ndcg")


def console() -> Screen:
    """Standard output; wide enough not to cut tables when it is a file or a pipe."""
    return Screen(width=None if sys.stdout.isatty() else 120)


def print_json(value: Any) -> None:
    """One JSON document on standard output; NaN becomes null."""
    say_json(value, allow_nan=False, default=str)


def print_table(screen: Screen, table: Table, *, narrow: bool = False) -> None:
    """A table in the width of the screen, and its notes; see :func:`rich_table`."""
    screen.print(rich_table(table, narrow=narrow))
    for text in table.notes:
        screen.print(text)


def note(text: str) -> Text:
    """A remark on what was done."""
    return Text.assemble(("note: ", "yellow"), visible(text))


def print_next(screen: Screen, *commands: Command) -> None:
    """Commands to go on with, and what each is for; never broken, so that they can be copied."""
    screen.print("Next:")
    widest = max(len(str(command)) for command in commands)
    beside = widest + max(len(command.purpose) for command in commands) + 6 <= screen.width
    for command in commands:
        wide = (f"  {command!s:<{widest}}  # {command.purpose}",)
        for line in wide if beside else (f"  # {command.purpose}", f"  {command}"):
            screen.print(line, soft_wrap=True)


def train_on(dataset: Path, purpose: str) -> Command:
    """The command that trains on a dataset, into a directory that is free."""
    run = Path("runs") / dataset.resolve().name
    return Command("train", dataset, out=unused(run), purpose=purpose)


def after_dataset(path: Path, splits: Sequence[str]) -> tuple[Command, ...]:
    """Next commands for a new dataset of these splits."""
    train = train_on(path, "a model")
    if set(splits) == {"train"}:  # nothing to compare it with, or to judge by
        return (Command("data describe", path, purpose="what is in it"), train)
    return (
        Command("data describe", path, purpose="how large the shift is"),
        Command("evaluate", path, purpose="what references make of it"),
        train,
    )


def print_facts(screen: Screen, title: str, facts: Mapping[str, str]) -> None:
    """A few facts, a line each: in a frame on a terminal, plain elsewhere."""
    if not screen.is_terminal:
        for name, fact in {"": title, **facts}.items():
            line = f"{name}: {fact}" if name else fact
            screen.print(line, soft_wrap=True)
        return
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, fact in facts.items():
        grid.add_row(name, Text(visible(fact), overflow="fold"))
    screen.print(
        Panel(grid, title=literal(title), title_align="left", expand=False, padding=(0, 1))
    )


def funnel_table(funnel: Sequence[Step]) -> Table:
    """From the rows of a log to its pairs: what is left after each step, and why others went."""
    from cnsdiff.diagnostics.log import funnel_lines

    lines = [([label], [rows]) for label, rows in funnel_lines(funnel)]
    return Table.of("", ["log"], [Column("rows", "rows", 0)], lines)


def print_dataset(screen: Screen, dataset: Dataset) -> None:
    """Name and size of a new dataset, and the counts of its splits."""
    screen.print(f"{dataset.name}: {dataset.n_users:,} users, {dataset.n_items:,} items")
    print_table(screen, _counts_table(dataset.manifest))


def _counts_table(manifest: DatasetManifest) -> Table:
    """Rows of each split, and those left out of it."""
    columns = {
        "rows": "pairs",
        "users": "users",
        "items": "items",
        "skipped": "malformed",
        "below_threshold": "below threshold",
        "users_without_positives": "users without positives",
        "duplicates": "duplicates",
        "of_heavy_users": "of heavy users",
        "outside_k_core": "outside k-core",
        "in_log": "in the log",
        "overlap_train": "also in train",
        "overlap_test": "also in a test",
        "overlap_test_iid": "also in test_iid",
        "dropped_unknown": "unknown to train",
    }
    splits = {name: counts.model_dump() for name, counts in manifest.splits.items()}
    always = ("rows", "users", "items")
    used = [c for c in columns if c in always or any(counts.get(c) for counts in splits.values())]
    return Table.of(
        "",
        ["split"],
        [Column(column, columns[column], 0) for column in used],
        [([split], [counts[column] or 0 for column in used]) for split, counts in splits.items()],
    )


def comparison_table(
    title: str, evaluations: dict[str, Evaluation], ks: Sequence[int], *, label_width: int = 0
) -> Table:
    """Headline metrics: a group of rows per model, one per split and one for what is kept."""
    metrics = [f"{metric}@{k}" for k in sorted(ks) for metric in HEADLINE]
    rows: list[tuple[list[str], list[Cell | float]]] = []
    for label, evaluation in evaluations.items():
        rows += [
            ([label, SPLIT_TITLES[split]], [result[metric] for metric in metrics])
            for split, result in evaluation.splits.items()
        ]
        if {"test_iid", "test_ood"} <= set(evaluation.splits):
            kept = evaluation.kept()
            rows.append(([label, "kept"], [_share(kept[metric]) for metric in metrics]))
    on = max(map(len, SPLIT_TITLES.values()))
    # The titles are as wide as what may come below them.
    labels = ["model".ljust(label_width), "on".ljust(on)]
    return Table.of(title, labels, [Column(name, metric_title(name)) for name in metrics], rows)


def _share(value: float) -> Cell:
    return Cell(value, text=percent(value))


class GrowingComparison:
    """A :func:`comparison_table` whose rows are printed as soon as a model is measured.

    What has been printed stands, whatever becomes of the models after it.

    Parameters
    ----------
    screen
        Where to.
    title, ks
        As of the table.
    labels
        What models will be called, as far as known: the widest sets the column's width.
    """

    def __init__(
        self, screen: Screen, title: str, labels: Sequence[str], ks: Sequence[int]
    ) -> None:
        self._screen, self._title, self._ks = screen, title, ks
        self._width = max(map(len, labels), default=0)
        self._evaluations: dict[str, Evaluation] = {}
        self._printed: list[str] = []

    def add(self, label: str, evaluation: Evaluation) -> None:
        """Print the rows of one more model."""
        self._evaluations[label] = evaluation
        *lines, _ = self._lines()
        if lines[: len(self._printed)] == self._printed:
            self._print(lines[len(self._printed) :])
            self._printed = lines

    def close(self) -> None:
        """Print the last line, or all anew where a wide number moved the columns."""
        if not self._evaluations:
            return
        *lines, last = self._lines()
        self._print([last] if lines == self._printed else ["", *lines, last])

    def _lines(self) -> list[str]:
        table = comparison_table(self._title, self._evaluations, self._ks, label_width=self._width)
        with self._screen.capture() as captured:
            print_table(self._screen, table)
        return captured.get().rstrip("\n").split("\n")

    def _print(self, lines: Sequence[str]) -> None:
        self._screen.file.write("".join(f"{line}\n" for line in lines))
        self._screen.file.flush()


def metrics_table(title: str, evaluation: Evaluation) -> Table:
    """All metrics of one model, a row each: its value on every split, and what is kept."""
    kept = evaluation.kept() if {"test_iid", "test_ood"} <= set(evaluation.splits) else {}
    columns = [Column(split, SPLIT_TITLES[split]) for split in evaluation.splits]
    rows = []
    for metric in next(iter(evaluation.splits.values())).metrics:
        values: list[Cell | float] = [result[metric] for result in evaluation.splits.values()]
        if kept:
            values.append(_share(kept.get(metric, math.nan)))
        rows.append(([metric_title(metric)], values))
    return Table.of(
        title, ["metric"], [*columns, *([Column("kept", "kept")] if kept else [])], rows
    )


def user_counts(evaluation: Evaluation) -> str:
    """Number of users behind each split's means."""
    parts = [
        f"{SPLIT_TITLES[name]} {split.n_users:,} users ({split.n_users_without_test:,} without "
        "test items left out)"
        for name, split in evaluation.splits.items()
    ]
    return "; ".join(parts)
