"""What a benchmark has found: means, tests and the headline, and the tables that show them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.headline import ALL, Headline, headline, rivals_in
from cnsdiff.benchmark.run import Results
from cnsdiff.benchmark.statistics import BEST, compare, summarise
from cnsdiff.benchmark.tables import headline_tables, leaderboard, overview
from cnsdiff.benchmark.trainings import trainings
from cnsdiff.display.tables import Table

#: The method whose average improvement is computed unless another is named.
OURS = "cnsdiff"
#: The group that it is compared with.
RIVALS = "sampler"
#: The parts of the tables.
PARTS = ("leaderboards", "trainings", "overview", "headline")


@dataclass(frozen=True)
class Findings:
    """What the results of a grid say.

    Attributes
    ----------
    k
        The largest cut-off, of the tables.
    table
        As in :class:`~cnsdiff.benchmark.run.Results`.
    summary
        Means over seeds (:func:`~cnsdiff.benchmark.statistics.summarise`).
    comparison
        Tests against the baseline (:func:`~cnsdiff.benchmark.statistics.compare`); ``None`` where
        the results have no baseline.
    headline
        Of one method; ``None`` where it or its rivals are missing.
    """

    k: int
    table: pl.DataFrame
    summary: pl.DataFrame
    comparison: pl.DataFrame | None
    headline: Headline | None

    @property
    def metric(self) -> str:
        """The one of the overview: NDCG at the largest cut-off."""
        return f"ndcg@{self.k}"

    def tables(self) -> dict[str, list[Table]]:
        """All tables, by the part of :data:`PARTS` they belong to."""
        k = self.k
        columns = [
            ("test_iid", f"ndcg@{k}"), ("test_ood", f"recall@{k}"), ("test_ood", f"ndcg@{k}")
        ]  # fmt: skip
        tables = (
            leaderboard(self.summary, self.comparison, columns=columns),
            trainings(self.table),
            [
                *overview(self.summary, self.comparison, metric=self.metric),
                *overview(self.summary, split="test_iid", metric=self.metric),
            ],
            [] if self.headline is None else headline_tables(self.headline),
        )
        return dict(zip(PARTS, tables, strict=True))


def find(
    grid: Grid,
    results: Results,
    *,
    baseline: str | None = None,
    ours: str | None = None,
    rivals: str = RIVALS,
) -> Findings | None:
    """What the results say; ``None`` while there are none.

    Parameters
    ----------
    grid
        Of the results.
    results
        What is there of them.
    baseline
        Method to test the others against; by default the best of ``rivals``.
    ours
        Method whose average improvement is computed; by default :data:`OURS`, if the grid has it.
    rivals
        Group that ``ours`` and the tests compare with; ``ours`` with all others too.
    """
    table = results.table
    if not table.height:
        return None
    if ours is None and OURS in grid.methods:
        ours = OURS
    metrics = [f"{metric}@{k}" for k in grid.ks for metric in ("recall", "ndcg")]
    tested = None
    if (rivals if baseline is None else baseline) in set(
        table["group" if baseline is None else "method"]
    ):
        against = f"{BEST}{rivals}" if baseline is None else baseline
        tested = compare(table, results.per_user, baseline=against, metrics=metrics)
    found = None
    if ours is not None and ours in set(table["method"]):
        groups = [group for group in (rivals, ALL) if rivals_in(table, ours, group)]
        if groups:
            found = headline(table, ours, groups, metrics=metrics)
    return Findings(max(grid.ks), table, summarise(table), tested, found)
