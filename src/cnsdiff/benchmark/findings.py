"""Findings of a benchmark: means, tests and the headline, and the tables that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from cnsdiff.base.errors import RunError
from cnsdiff.base.settings import first_problem
from cnsdiff.base.storage import first_line
from cnsdiff.benchmark.grid import DIAL, OURS, Grid, selected
from cnsdiff.benchmark.headline import ABLATION, ALL, Headline, headline, pooled, rivals_in
from cnsdiff.benchmark.plan import Unit, place_of, plan
from cnsdiff.benchmark.statistics import BEST, compare, over_users, summarise
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.tables import headline_tables, leaderboard, overview, trainings
from cnsdiff.benchmark.task import PER_USER_METRICS, PER_USER_SPLITS, Task
from cnsdiff.data import load_dataset
from cnsdiff.display.tables import Table
from cnsdiff.display.wording import ON_SPLIT, metric_title, number
from cnsdiff.recommender.config import read_yaml


@dataclass(frozen=True)
class Results:
    """Results of a benchmark so far.

    Attributes
    ----------
    table
        One row per dataset, method, selection, seed, split and metric, of the finals that are
        there: with ``scenario``, ``group``, ``anticipated``, ``setting`` and how it trained. The
        rows of a pool's datasets name it in the column ``pool``.
    failures
        One row per task that failed: dataset, method, kind, seed, setting, error.
    missing
        Finals still missing; those of unfinished searches are counted as one each.
    store, tasks
        Where the results of each user are, and the final of each dataset, method, selection and
        seed.
    pools
        The datasets of each pool.
    """

    table: pl.DataFrame
    failures: pl.DataFrame
    missing: int
    store: Store
    tasks: dict[tuple[str, str, str, int], Task]
    pools: Mapping[str, Sequence[str]]

    def per_user(
        self, dataset: str, method: str, selection: str, seed: int, split: str
    ) -> pl.DataFrame:
        """Every user's accuracy in one final: ``user`` and the metrics, in order of users.

        Of a pool, the mean of a user over the datasets that judge it: users are drawn again as a
        whole, however often they occur.
        """
        if dataset not in self.pools:
            frame = self.store.per_user(self.tasks[dataset, method, selection, seed])
            return frame.filter(selection=selection, split=split).drop("selection", "split")
        parts = []
        for member in self.pools[dataset]:
            # Each dataset numbers its users anew.
            frame = self.per_user(member, method, selection, seed, split)
            ids = load_dataset(self.tasks[member, method, selection, seed].path).users
            named = ids.cast(pl.String).gather(frame["user"])
            parts.append(frame.with_columns(pl.exclude("user").cast(pl.Float64), user=named))
        return pl.concat(parts).group_by("user").mean().sort("user")

    def with_pools(self) -> pl.DataFrame:
        """The table with the pools in place of their datasets.

        A pool has the recalls and NDCGs of the tests: means over its users of their means over
        its datasets, from the finals that are there on all of these.
        """
        parts = [self.table.filter(pl.col("pool").is_null())]
        rows = self.table.filter(
            pl.col("pool").is_not_null(),
            pl.col("split").is_in(PER_USER_SPLITS),
            pl.col("metric").str.split("@").list.first().is_in(PER_USER_METRICS),
        )
        own = ["pool", "method", "selection", "seed", "split"]
        for place, here in rows.group_by(own, maintain_order=True):
            pool, method, selection, seed, split = place
            if here["dataset"].n_unique() < len(self.pools[str(pool)]):
                continue
            names = str(pool), str(method), str(selection)
            users = self.per_user(*names, int(str(seed)), str(split))
            first = here.unique("metric", keep="first", maintain_order=True)
            means = pl.Series(
                [users[metric].mean() for metric in first["metric"]], dtype=pl.Float64
            )
            parts.append(
                first.with_columns(
                    pl.lit(None).cast(first.schema[name]).alias(name)
                    for name in ("key", "setting", "trial", "epoch", "fingerprint")
                ).with_columns(
                    dataset="pool",
                    value=means,
                    n_users=pl.lit(users.height, pl.Int64),
                    seconds=pl.lit(here.unique("dataset")["seconds"].sum(), pl.Float64),
                )
            )
        return pl.concat(parts)


def collect(grid: Grid, units: tuple[Unit, ...], store: Store) -> Results:
    """Read what the store has of these units."""
    trials = [task for unit in units if unit.searches for task in unit.trials]
    planned = [unit.finals(store) for unit in units]
    finals = [task for tasks in planned for task in tasks or ()]
    missing = planned.count(None) + sum(store.status(task) is None for task in finals)
    records = store.records(finals)
    failures = pl.concat([store.records(trials), records]).filter(status="failed")
    groups = {name: entry.group for name, entry in grid.methods.items()}
    scenarios = {name: entry.scenario for name, entry in grid.datasets.items()}
    anticipated = {name: entry.anticipate for name, entry in grid.datasets.items()}
    dataset, objective = pl.col("dataset"), pl.col("selection").str.strip_suffix(DIAL)
    own = dataset.replace_strict(anticipated, return_dtype=pl.String)
    table = records.filter(status="ok").with_columns(
        group=pl.col("method").replace_strict(groups, return_dtype=pl.String),
        scenario=dataset.replace_strict(scenarios, return_dtype=pl.String),
        anticipated=objective.eq(own).fill_null(False),
    )
    pool = pl.col("dataset").replace_strict(
        {name: entry.pool for name, entry in grid.datasets.items()}, return_dtype=pl.String
    )
    return Results(
        table=table.drop("status", "error").with_columns(pool=pool),
        failures=failures.select("dataset", "method", "kind", "seed", "setting", "error"),
        missing=missing,
        store=store,
        tasks={
            (task.dataset, task.method.name, selection, task.seed): task
            for task in finals
            for selection in task.selections
        },
        pools=grid.pools,
    )


#: The group that our own method is compared with.
RIVALS = "sampler"
#: The parts of the tables.
PARTS = ("leaderboards", "trainings", "overview", "headline")


@dataclass(frozen=True)
class Findings:
    """Findings from the results of a grid.

    Attributes
    ----------
    k
        The largest cut-off, of the tables.
    table
        As in :class:`~Results`, with the pools in place of their datasets.
    apart
        The rows of all datasets, those of a pool each by itself.
    summary
        Means over seeds (:func:`~cnsdiff.benchmark.statistics.summarise`); where there is one
        seed each, with intervals over users.
    members
        The same of the datasets of pools.
    comparison
        Tests against the baseline (:func:`~cnsdiff.benchmark.statistics.compare`); ``None`` where
        the results have no baseline.
    headline
        Of one method; ``None`` where it or its rivals are missing.
    """

    k: int
    table: pl.DataFrame
    apart: pl.DataFrame
    summary: pl.DataFrame
    members: pl.DataFrame
    comparison: pl.DataFrame | None
    headline: Headline | None

    @property
    def metric(self) -> str:
        """The one of the overview: NDCG at the largest cut-off."""
        return f"ndcg@{self.k}"

    def tables(self) -> dict[str, list[Table]]:
        """All tables, by the part of :data:`PARTS` they belong to."""
        columns = [
            ("test_iid", self.metric),
            ("test_ood", f"recall@{self.k}"),
            ("test_ood", self.metric),
        ]
        tables = (
            [
                *leaderboard(self.summary, self.comparison, columns=columns),
                *leaderboard(self.members, columns=columns),
            ],
            trainings(self.apart),
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
    """Findings from the results; ``None`` while there are none.

    Parameters
    ----------
    grid
        Of the results.
    results
        What is there of them.
    baseline
        Method to test the others against; by default the best of ``rivals``.
    ours
        Method whose average improvement is computed; by default the first of the
        group :data:`~cnsdiff.benchmark.grid.OURS`.
    rivals
        Group that ``ours`` and the tests compare with; ``ours`` with all others too.
    """
    table = results.with_pools()
    if not table.height:
        return None
    if ours is None:
        ours = next((name for name, m in grid.methods.items() if m.group == OURS), None)
    metrics = [f"{metric}@{k}" for k in grid.ks for metric in ("recall", "ndcg")]
    comparison = gains = None
    column, name = ("group", rivals) if baseline is None else ("method", baseline)
    if name in set(table[column]):
        against = f"{BEST}{rivals}" if baseline is None else baseline
        comparison = compare(table, results.per_user, baseline=against, metrics=metrics)
    if ours is not None and ours in set(table["method"]):
        groups = [group for group in (rivals, ALL) if rivals_in(table, ours, group)]
        if groups:
            gains = headline(table, ours, groups, metrics=metrics)

    def summary_of(rows: pl.DataFrame) -> pl.DataFrame:
        summary = summarise(rows)
        if (summary["n_seeds"] > 1).any():
            return summary
        return over_users(summary, rows, results.per_user)

    return Findings(
        k=max(grid.ks),
        table=table,
        apart=results.table,
        summary=summary_of(table),
        members=summary_of(results.table.filter(pl.col("pool").is_not_null())),
        comparison=comparison,
        headline=gains,
    )


def read_stored(path: Path) -> tuple[Grid, Results]:
    """The grid and what there is of its results.

    The tasks of a grid are told apart by the content of its datasets too, so these have to be
    there: most are kept in the directory itself, one given by its path is not.

    Raises
    ------
    RunError
        There is no grid, it is of another version, or a dataset is gone.
    """
    file = path / "grid.yaml"
    try:
        grid = Grid.model_validate(read_yaml(file))
    except FileNotFoundError as error:
        raise RunError(f"{path}: holds no benchmark (no grid.yaml)") from error
    except ValidationError as error:
        problem = first_problem(error)
        keys = ".".join(map(str, problem.keys))
        raise RunError(
            f"{file}: {keys}: {problem.message}; use the version of cnsdiff that wrote it"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file}: cannot be read ({first_line(error)}); run the benchmark again to restore it"
        ) from error
    store = Store(path)
    datasets = {name: place_of(name, entry, store.data) for name, entry in grid.datasets.items()}
    for name, place in datasets.items():
        if not place.is_dir():
            raise RunError(
                f"{place}: the dataset {name!r} of the benchmark is gone, and without it its "
                "results cannot be told from those of another; restore it, or run cnsdiff "
                "benchmark with the grid again"
            )
    return grid, collect(grid, plan(grid, datasets), store)


def deployed(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of one selection: that which anticipates the shift where there is one.

    It is what one would deploy. Of a summary, with the name of the selection as ``label``.
    """
    rows = rows.with_columns(label=pooled())
    labels = rows["label"].unique(maintain_order=True).to_list()
    label = next((name for name in labels if name.startswith("anticipated")), None)
    return rows.filter(label=label or (labels[0] if labels else ""))


def benchmark_verdict(summary: pl.DataFrame, metric: str, split: str = "test_ood") -> str | None:
    """The best rank over all datasets; ``None`` where fewer than two methods can be ranked.

    Parameters
    ----------
    summary
        From :func:`cnsdiff.benchmark.statistics.summarise`.
    metric
        Such as ``"ndcg@20"``.
    """
    rows = summary.filter(pl.col("mean").is_finite(), split=split, metric=metric)
    rows = deployed(rows.filter(pl.col("group") != ABLATION))
    n_datasets = rows["dataset"].n_unique()
    # Methods that every dataset has are ranked among themselves.
    ranked = (
        rows.filter(pl.len().over("method") == n_datasets)
        .with_columns(rank=pl.col("mean").rank(descending=True).over("dataset"))
        .group_by("method", maintain_order=True)
        .agg(rank=pl.col("rank").mean(), best=(pl.col("rank") == 1).sum())
        .sort("rank", maintain_order=True)
    )
    if ranked.height < 2:
        return None
    first, second = ranked.head(2).iter_rows(named=True)
    where = ON_SPLIT.get(split, split)
    chosen = f"({metric_title(metric)}, {selected(rows['label'][0])})"
    if n_datasets == 1:
        values = dict(rows.select("method", "mean").iter_rows())
        best, next_best = (
            f"{row['method']} with {number(values[row['method']])}" for row in (first, second)
        )
        return f"Best {where}: {best}, then {next_best}, of {ranked.height} methods {chosen}."
    return (
        f"Best average rank {where}: {first['method']} with {first['rank']:.2f}, best on "
        f"{first['best']} of {n_datasets} datasets, then {second['method']} with "
        f"{second['rank']:.2f}, of {ranked.height} methods {chosen}."
    )
