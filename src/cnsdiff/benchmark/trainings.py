"""How the methods of a benchmark trained, beside what they reached."""

from __future__ import annotations

import polars as pl

from cnsdiff.benchmark.task import DIALLED
from cnsdiff.display.tables import Cell, Column, Table

_COLUMNS = (
    Column("dial", "dial", digits=2),
    Column("epoch", "best epoch", digits=1),
    Column("epochs", "epochs", digits=1),
    Column("seconds", "seconds", digits=1),
)


def trainings(results: pl.DataFrame) -> list[Table]:
    """One table per dataset: a row per selection and method, means over seeds.

    Parameters
    ----------
    results
        The table of :func:`cnsdiff.benchmark.run.collect`.

    The dial is NaN where the selection picks none; epochs are where nothing is trained by epochs.
    """
    place = ["dataset", "selection", "method"]
    trained = pl.col("epochs") > 0
    of_seeds = results.group_by(*place, "seed", maintain_order=True).agg(
        dial=pl.col("value").filter(split="valid", metric=DIALLED).first(),
        epoch=pl.col("epoch").filter(trained).first(),
        epochs=pl.col("epochs").filter(trained).first(),
        seconds=pl.col("seconds").first(),
    )
    names = [column.name for column in _COLUMNS]
    means = of_seeds.group_by(place, maintain_order=True).agg(pl.col(names).mean())
    means = means.with_columns(pl.col(names).fill_null(float("nan")))
    tables = []
    for (dataset,), here in means.group_by("dataset", maintain_order=True):
        selections = here["selection"].unique(maintain_order=True)
        rows = [
            ((row["selection"], row["method"]), tuple(Cell(row[name]) for name in names))
            for selection in selections
            for row in here.filter(selection=selection).iter_rows(named=True)
        ]
        table = Table(
            f"{dataset}, how the methods trained",
            ("selection", "method"),
            _COLUMNS,
            tuple(rows),
            (
                "means over seeds",
                "seconds of a fit with all its validations; selections that picked the same "
                "setting share it",
            ),
        )
        tables.append(table)
    return tables
