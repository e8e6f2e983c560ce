"""Statistics of a benchmark's results: means over seeds, tests over users.

All take ``results``, the long table of :func:`cnsdiff.benchmark.findings.collect`: one row per
dataset, method, selection, seed, split and metric, with the columns ``dataset``, ``method``,
``group``, ``selection``, ``anticipated``, ``seed``, ``split``, ``metric`` and ``value``. Larger
values are better. Methods and datasets keep the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import InputError, did_you_mean
from cnsdiff.benchmark.task import PER_USER_SPLITS
from cnsdiff.evaluation.significance import N_RESAMPLES, bootstrap_means, half_width, holm

#: ``per_user(dataset, method, selection, seed, split)``: ``user`` and one column per metric.
PerUser = Callable[[str, str, str, int, str], pl.DataFrame]

#: The paper's headline is over these.
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
#: A baseline ``"best:GROUP"`` is the best method of that group.
BEST = "best:"

_CELL = ["dataset", "method", "group", "selection", "anticipated", "split", "metric"]


def summarise(results: pl.DataFrame, *, level: float = 0.95) -> pl.DataFrame:
    """Mean over seeds and its t-interval.

    Returns
    -------
    polars.DataFrame
        dataset, method, group, selection, anticipated, split, metric, mean, low, high, n_seeds;
        ``low`` and ``high`` are NaN with one seed. A value that is missing makes all NaN.

    Raises
    ------
    InputError
        A column is missing, or a result is there twice.
    """
    check(results)
    summary = (
        results.with_columns(pl.col("value").fill_null(float("nan")))
        .group_by(_CELL, maintain_order=True)
        .agg(
            mean=pl.col("value").mean(),
            deviation=pl.col("value").std().fill_null(float("nan")),
            n_seeds=pl.len().cast(pl.Int64),
        )
    )
    half = half_width(summary["deviation"].to_numpy(), summary["n_seeds"].to_numpy(), level)
    low, high = summary["mean"].to_numpy() - half, summary["mean"].to_numpy() + half
    return summary.select(*_CELL, "mean", low=low, high=high, n_seeds="n_seeds")


def over_users(summary: pl.DataFrame, results: pl.DataFrame, per_user: PerUser) -> pl.DataFrame:
    """The summary of results of one seed each, with the t-interval of the mean over users.

    Parameters
    ----------
    summary
        From :func:`summarise`.
    results
        What was summed up.
    per_user
        Every user's values. Metrics that it does not have keep their unknown interval.
    """
    place = ["dataset", "method", "selection", "split"]
    runs = results.filter(pl.col("split").is_in(PER_USER_SPLITS)).unique(
        [*place, "seed"], maintain_order=True
    )
    parts = []
    for dataset, method, selection, split, seed in runs.select(*place, "seed").iter_rows():
        users = per_user(dataset, method, selection, seed, split).drop("user").cast(pl.Float64)
        deviation = users.select(pl.all().std()).transpose(
            include_header=True, header_name="metric", column_names=["deviation"]
        )
        where = zip(place, (dataset, method, selection, split), strict=True)
        parts.append(
            deviation.with_columns(*(pl.lit(v).alias(k) for k, v in where), n_users=users.height)
        )
    if not parts:
        return summary
    spread = summary.join(
        pl.concat(parts, how="diagonal_relaxed"), [*place, "metric"], "left", maintain_order="left"
    )
    half = half_width(
        spread["deviation"].cast(pl.Float64).fill_null(float("nan")).to_numpy(),
        spread["n_users"].fill_null(0).to_numpy(),
    )
    mean = summary["mean"].to_numpy()
    return summary.with_columns(low=mean - half, high=mean + half)


def compare(
    results: pl.DataFrame,
    per_user: PerUser,
    *,
    baseline: str,
    metrics: Sequence[str] = METRICS,
    split: str = "test_ood",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
) -> pl.DataFrame:
    """Test every method against a baseline, on the same users of each dataset.

    Parameters
    ----------
    results
        Says which methods and seeds there are.
    per_user
        Their users' values; averaged over a method's seeds before the test.
    baseline
        A method, or ``"best:GROUP"``: for each dataset, selection and metric, the method of the
        group with the best mean. It is picked by the values it is then tested on, so its lead
        over others is partly chance, and another's lead over it is understated.
    metrics, split
        What is compared.
    seed, n_resamples, level
        Of :func:`cnsdiff.evaluation.significance.paired_bootstrap`.

    Returns
    -------
    polars.DataFrame
        dataset, method, group, selection, split, metric, baseline, difference, low, high, p,
        p_holm, n_users; ``p_holm`` over the methods of one dataset, selection and metric. No rows
        for the baseline itself, nor where it was not run.

    Raises
    ------
    InputError
        The baseline or a metric is unknown, or methods were not measured on the same users.
    """
    summary = summarise(results)
    require("metric", metrics, summary)
    if baseline.startswith(BEST):
        require("group", [baseline.removeprefix(BEST)], summary)
    else:
        require("method", [baseline], summary)
    chosen = summary.filter(pl.col("split") == split, pl.col("metric").is_in(list(metrics)))
    rows: list[tuple[object, ...]] = []
    for (dataset, selection), here in chosen.group_by("dataset", "selection", maintain_order=True):
        baselines = {name: _baseline(here.filter(metric=name), baseline) for name in metrics}
        rivals = {name: rival for name, rival in baselines.items() if rival is not None}
        if not rivals:
            continue
        # (U, M, K): users, methods and metrics.
        groups = dict(here.select("method", "group").iter_rows())
        methods = list(groups)
        runs = results.filter(dataset=dataset, selection=selection, split=split)
        place = (str(dataset), str(selection), split)
        values = _user_values(per_user, runs, methods, list(rivals), place)
        rival_at = [methods.index(rival) for rival in rivals.values()]
        baseline_values = values[:, rival_at, np.arange(len(rivals))]
        differences = bootstrap_means(
            (values - baseline_values[:, None]).reshape(len(values), -1),
            seed=seed,
            n_resamples=n_resamples,
            level=level,
        )
        for at, (metric, rival) in enumerate(rivals.items()):
            tests = dict(zip(methods, differences[at :: len(rivals)], strict=True))
            del tests[rival]
            adjusted = holm([test.p_value for test in tests.values()]).tolist()
            for (method, test), p_holm in zip(tests.items(), adjusted, strict=True):
                names = (dataset, method, groups[method], selection, split, metric, rival)
                rows.append((*names, test.value, test.low, test.high, test.p_value, p_holm, test.n))
    return pl.DataFrame(rows, schema=_COMPARISON, orient="row")


_COMPARISON = {
    **dict.fromkeys(
        ("dataset", "method", "group", "selection", "split", "metric", "baseline"), pl.String
    ),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm"), pl.Float64),
    "n_users": pl.Int64,
}


def _baseline(rows: pl.DataFrame, baseline: str) -> str | None:
    """The baseline's method among the rows of one metric, or ``None`` if it is not there."""
    if not baseline.startswith(BEST):
        return baseline if baseline in rows["method"] else None
    group = rows.filter(pl.col("group") == baseline.removeprefix(BEST), pl.col("mean").is_finite())
    best_first = group.sort("mean", descending=True, maintain_order=True)["method"].to_list()
    return best_first[0] if best_first else None


def _user_values(
    per_user: PerUser,
    runs: pl.DataFrame,
    methods: Sequence[str],
    metrics: Sequence[str],
    place: tuple[str, str, str],
) -> NDArray[np.float64]:
    """``(U, M, K)`` metrics of each user under each method, averaged over its seeds."""
    dataset, selection, split = place
    users: pl.Series | None = None
    values = []
    for method in methods:
        seeds = runs.filter(method=method)["seed"].unique().sort()
        of_seeds = []
        for seed in seeds:
            frame = per_user(dataset, method, selection, seed, split).sort("user")
            where = f"{dataset}, {method}, selected on {selection}, seed {seed}, {split}"
            if missing := [name for name in metrics if name not in frame.columns]:
                raise InputError(f"{where}: no {', '.join(missing)} of each user was kept")
            users = frame["user"] if users is None else users
            if not frame["user"].equals(users):
                raise InputError(f"{where}: was measured on other users than the methods before it")
            of_seeds.append(frame.select(metrics).to_numpy())
        values.append(np.mean(of_seeds, axis=0, dtype=np.float64))
    return np.stack(values, axis=1)


def check(results: pl.DataFrame) -> None:
    """Raise :class:`InputError` if a column is missing or a result is there twice."""
    needed = [*_CELL, "seed", "value"]
    if missing := [name for name in needed if name not in results.columns]:
        raise InputError(f"the results lack the column {', '.join(missing)}")
    key = ["dataset", "method", "selection", "seed", "split", "metric"]
    twice = results.filter(results.select(key).is_duplicated())
    if twice.height:
        first = ", ".join(str(twice[name][0]) for name in key)
        raise InputError(f"the results hold {first} more than once")


def require(column: str, names: Iterable[str], results: pl.DataFrame) -> None:
    """Raise :class:`InputError` if one of the names is not in the column."""
    known = distinct(results, column)
    for name in names:
        if name not in known:
            raise InputError(
                f"the results have no {column} {name!r}{did_you_mean(name, known)}; they have "
                f"{', '.join(known)}"
            )


def distinct(rows: pl.DataFrame, column: str) -> list[str]:
    """The names in a column, in the order in which they first come."""
    return rows[column].unique(maintain_order=True).to_list()
