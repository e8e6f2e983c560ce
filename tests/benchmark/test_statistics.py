"""The benchmark's statistics on results whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import scipy.stats
from polars.testing import assert_frame_equal

from cnsdiff.base.errors import InputError
from cnsdiff.benchmark.headline import ALL, headline, rivals_in
from cnsdiff.benchmark.statistics import METRICS, compare, over_users, summarise
from cnsdiff.evaluation.significance import (
    holm,
    improvement_interval,
    paired_bootstrap,
    seed_interval,
)

GROUPS = {"MostPop": "reference", "dns": "sampler", "mixgcf": "sampler", "ours": "ours"}
#: Dataset -> selections, with the one that anticipates its shift.
SELECTIONS = {
    "food": {"valid": False, "recency": True},
    "yelp": {"valid": False, "inverse-popularity": True},
}
SEEDS = (0, 1, 2)
N_USERS = 120
LEVELS = {"MostPop": 0.1, "dns": 0.22, "mixgcf": 0.2, "ours": 0.3}

PerUser = Callable[[str, str, str, int, str], pl.DataFrame]


def users_of(dataset: str, method: str, selection: str, seed: int, split: str) -> pl.DataFrame:
    """Values of users that differ much, of methods that differ little, and of seeds that do."""
    shared = np.random.default_rng(list(f"{dataset}{split}".encode()))
    easy = shared.random((N_USERS, len(METRICS)))
    own = np.random.default_rng(list(f"{dataset}{method}{selection}{seed}{split}".encode()))
    values = LEVELS[method] + 0.5 * easy + own.normal(0, 0.05, easy.shape)
    order = own.permutation(N_USERS)
    columns = dict(zip(METRICS, values.T[:, order], strict=True))
    return pl.DataFrame({"user": order + 7, **columns})


def seeds_of(method: str) -> tuple[int, ...]:
    return SEEDS[:1] if method == "MostPop" else SEEDS


def table(per_user: PerUser = users_of) -> pl.DataFrame:
    rows = []
    for dataset, selections in SELECTIONS.items():
        for method, group in GROUPS.items():
            for selection, anticipated in selections.items():
                for seed in seeds_of(method):
                    for split in ("test_iid", "test_ood"):
                        frame = per_user(dataset, method, selection, seed, split)
                        key = (dataset, method, group, selection, anticipated, seed, split)
                        rows += [(*key, name, frame[name].mean(), frame.height) for name in METRICS]
    names = "dataset method group selection anticipated seed split metric value n_users"
    return pl.DataFrame(rows, schema=names.split(), orient="row")


RESULTS = table()


def values_of(results: pl.DataFrame, **key: str) -> list[float]:
    return results.filter(**key).sort("seed")["value"].to_list()


# --- summarise


def test_summary_is_the_interval_over_seeds():
    summary = summarise(RESULTS)
    assert summary.height == 2 * 4 * 2 * 2 * 4
    for row in summary.iter_rows(named=True):
        key = {name: row[name] for name in ("dataset", "method", "selection", "split", "metric")}
        wanted = seed_interval(values_of(RESULTS, **key))
        found = [row[name] for name in ("mean", "low", "high", "n_seeds")]
        assert found == pytest.approx(
            [wanted.value, wanted.low, wanted.high, wanted.n], nan_ok=True
        )
        assert row["group"] == GROUPS[row["method"]]
        assert row["anticipated"] == SELECTIONS[row["dataset"]][row["selection"]]
    one = summary.filter(method="MostPop")
    assert one["low"].is_nan().all() and one["n_seeds"].unique().to_list() == [1]
    assert summary["method"].unique(maintain_order=True).to_list() == list(GROUPS)


def test_one_seed_has_the_interval_over_users():
    one = RESULTS.filter(pl.col("seed") == pl.col("seed").min().over("method"))
    summary = over_users(summarise(one), one, users_of)
    assert_frame_equal(summary.drop("low", "high"), summarise(one).drop("low", "high"))
    for row in summary.iter_rows(named=True):
        seed = one.filter(method=row["method"])["seed"][0]
        users = users_of(row["dataset"], row["method"], row["selection"], seed, row["split"])
        values = users[row["metric"]].to_numpy().astype(np.float64)
        wanted = scipy.stats.t.interval(
            0.95, len(values) - 1, loc=row["mean"], scale=scipy.stats.sem(values)
        )
        assert (row["low"], row["high"]) == pytest.approx(wanted)


def test_what_users_do_not_tell_has_no_interval():
    other = RESULTS.filter(seed=0, metric="recall@10").with_columns(metric=pl.lit("gini@20"))
    one = pl.concat([RESULTS.filter(seed=0), other])
    summary = over_users(summarise(one), one, users_of)
    assert summary.filter(metric="gini@20")["low"].is_nan().all()
    assert summary.filter(pl.col("metric") != "gini@20")["low"].is_finite().all()


def test_order_of_rows_changes_no_number():
    key = ["dataset", "method", "selection", "split", "metric"]
    shuffled = summarise(RESULTS.sample(fraction=1, shuffle=True, seed=0))
    assert_frame_equal(summarise(RESULTS).sort(key), shuffled.sort(key))


def test_a_missing_value_shows():
    at = (pl.col("method") == "dns") & (pl.col("seed") == 1)
    for hole in (None, math.nan):
        holed = RESULTS.with_columns(value=pl.when(at).then(pl.lit(hole)).otherwise("value"))
        summary = summarise(holed)
        assert summary.filter(method="dns")["mean"].is_nan().all()
        assert summary.filter(method="ours")["mean"].is_finite().all()


def test_results_that_cannot_be():
    with pytest.raises(InputError, match="food, MostPop, valid, 0, test_iid, recall@10 more than"):
        summarise(pl.concat([RESULTS, RESULTS[:1]]))
    with pytest.raises(InputError, match="lack the column group"):
        summarise(RESULTS.drop("group"))


# --- compare


def test_comparison_is_the_paired_bootstrap_of_means_over_seeds():
    found = compare(RESULTS, users_of, baseline="dns", metrics=("ndcg@20",), n_resamples=2000)
    assert found.height == 2 * 2 * 3
    for (dataset, selection), rows in found.group_by("dataset", "selection"):

        def means(method: str, place: tuple[str, str] = (dataset, selection)) -> np.ndarray:
            frames = [users_of(place[0], method, place[1], s, "test_ood") for s in seeds_of(method)]
            by_user: dict[int, list[float]] = {}
            for frame in frames:
                for user, value in frame.select("user", "ndcg@20").iter_rows():
                    by_user.setdefault(user, []).append(value)
            return np.array([np.mean(by_user[user]) for user in sorted(by_user)])

        for row in rows.iter_rows(named=True):
            one = paired_bootstrap(means(row["method"]), means("dns"), seed=0, n_resamples=2000)
            assert row["difference"] == pytest.approx(one.value)
            assert (row["low"], row["high"]) == pytest.approx((one.low, one.high))
            assert row["p"] == pytest.approx(one.p_value)
            assert row["n_users"] == N_USERS
        assert rows["p_holm"].to_numpy() == pytest.approx(holm(rows["p"].to_numpy()))
        assert rows["method"].to_list() == ["MostPop", "mixgcf", "ours"]
        assert rows["baseline"].unique().to_list() == ["dns"]
    ours = found.filter(method="ours")
    assert (ours["difference"] > 0.05).all() and (ours["p_holm"] < 0.01).all()


def test_differences_are_those_of_the_results():
    found = compare(RESULTS, users_of, baseline="MostPop", n_resamples=200, split="test_iid")
    means = summarise(RESULTS).filter(split="test_iid")
    for row in found.iter_rows(named=True):
        key = {name: row[name] for name in ("dataset", "selection", "metric")}
        own = means.filter(method=row["method"], **key)["mean"].item()
        other = means.filter(method="MostPop", **key)["mean"].item()
        assert row["difference"] == pytest.approx(own - other)
        assert row["low"] <= row["difference"] <= row["high"]


def test_best_of_a_group_may_differ_by_metric():
    def per_user(dataset: str, method: str, selection: str, seed: int, split: str) -> pl.DataFrame:
        frame = users_of(dataset, method, selection, seed, split)
        ahead = method == "mixgcf" and dataset == "yelp"
        return frame.with_columns(pl.col("recall@10") + 0.4 * ahead)

    results = table(per_user)
    found = compare(results, per_user, baseline="best:sampler", n_resamples=100)
    best = {(row["dataset"], row["metric"]): row["baseline"] for row in found.iter_rows(named=True)}
    wanted = {(d, m): "dns" for d in SELECTIONS for m in METRICS} | {
        ("yelp", "recall@10"): "mixgcf"
    }
    assert best == wanted
    assert found.filter(pl.col("method") == pl.col("baseline")).is_empty()
    yelp = found.filter(dataset="yelp", metric="recall@10", selection="valid")
    assert yelp["method"].to_list() == ["MostPop", "dns", "ours"]
    assert (yelp["difference"] < 0).all()


def test_without_the_baseline_there_is_nothing_to_compare():
    partial = RESULTS.filter((pl.col("dataset") == "food") | (pl.col("method") != "dns"))
    found = compare(partial, users_of, baseline="dns", n_resamples=10)
    assert found["dataset"].unique().to_list() == ["food"]
    assert compare(RESULTS, users_of, baseline="dns", split="valid").schema == found.schema


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"baseline": "dms"}, "no method 'dms' \\(did you mean 'dns'"),
        ({"baseline": "best:samplers"}, "no group 'samplers' \\(did you mean 'sampler'"),
        ({"baseline": "dns", "metrics": ["ndcg@5"]}, "no metric 'ndcg@5'"),
    ],
)
def test_unknown_names(asked, message):
    with pytest.raises(InputError, match=message):
        compare(RESULTS, users_of, **asked)


def test_users_must_be_the_same():
    def fewer(dataset: str, method: str, selection: str, seed: int, split: str) -> pl.DataFrame:
        frame = users_of(dataset, method, selection, seed, split)
        return frame[1:] if (method, seed) == ("ours", 2) else frame

    with pytest.raises(InputError, match="food, ours, selected on valid, seed 2, test_ood"):
        compare(RESULTS, fewer, baseline="dns", n_resamples=10)
    with pytest.raises(InputError, match=r"no ndcg@20 of each user"):
        compare(RESULTS, lambda *key: users_of(*key).drop("ndcg@20"), baseline="dns")


def test_only_the_seeds_of_the_split_are_read():
    asked = set()

    def per_user(dataset: str, method: str, selection: str, seed: int, split: str) -> pl.DataFrame:
        asked.add((method, seed, split))
        return users_of(dataset, method, selection, seed, split)

    lost = (pl.col("method") == "ours") & (pl.col("seed") == 1) & (pl.col("split") == "test_ood")
    compare(RESULTS.filter(~lost), per_user, baseline="dns", n_resamples=10)
    wanted = {(method, seed, "test_ood") for method in GROUPS for seed in seeds_of(method)}
    assert asked == wanted - {("ours", 1, "test_ood")}


# --- headline


def test_headline_by_hand():
    rows = [
        ("a", "ours", "ours", 0, "recall@20", 0.30),
        ("a", "ours", "ours", 1, "recall@20", 0.34),
        ("a", "dns", "sampler", 0, "recall@20", 0.19),
        ("a", "dns", "sampler", 1, "recall@20", 0.21),
        ("a", "random", "sampler", 0, "recall@20", 0.1),
        ("b", "ours", "ours", 0, "recall@20", 0.09),
        ("b", "ours", "ours", 1, "recall@20", 0.09),
        ("b", "dns", "sampler", 0, "recall@20", 0.0),
        ("b", "dns", "sampler", 1, "recall@20", 0.0),
        ("b", "random", "sampler", 0, "recall@20", 0.1),
        ("c", "ours", "ours", 0, "recall@20", 0.1),
        ("c", "ours", "ours", 1, "recall@20", 0.1),
        ("c", "dns", "sampler", 0, "recall@20", 0.0),
        ("c", "dns", "sampler", 1, "recall@20", 0.0),
    ]
    names = ["dataset", "method", "group", "seed", "metric", "value"]
    results = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        selection=pl.lit("valid"), anticipated=pl.lit(False), split=pl.lit("test_ood")
    )
    found = headline(results, "ours", ["sampler"], metrics=("recall@20",))
    (gain,) = found.gains.iter_rows(named=True)
    # .32 / .2 - 1 = .6 and .09 / .1 - 1 = -.1; nothing to divide by on c.
    assert gain["mean"] == pytest.approx(0.25)
    assert gain["median"] == pytest.approx(0.25)
    assert (gain["n_seeds"], gain["n_cells"], gain["n_left_out"]) == (2, 2, 1)
    assert found.cells["rival"].to_list() == ["dns", "random", None]
    assert found.cells["gain"].to_list() == pytest.approx([0.6, -0.1, math.nan], nan_ok=True)
    assert found.cells["rival_value"].to_list()[:2] == pytest.approx([0.2, 0.1])
    assert found.cells["n_rivals"].to_list() == [2, 2, 1]
    ranks = {row["method"]: (row["rank"], row["n_cells"]) for row in found.ranks.to_dicts()}
    assert ranks == {
        # Over a and b, which have all three.
        "ours": (1.5, 2),
        "dns": (2.5, 2),
        "random": (2, 2),
    }


def test_where_no_cell_has_all_methods_those_that_all_cells_have_are_ranked():
    rows = [
        ("a", "ours", "ours", 0.3),
        ("a", "dns", "sampler", 0.2),
        ("a", "recent", "reference", 0.4),
        ("b", "ours", "ours", 0.1),
        ("b", "dns", "sampler", 0.2),
        ("b", "ips", "objective", 0.3),
    ]
    results = pl.DataFrame(
        rows, schema=["dataset", "method", "group", "value"], orient="row"
    ).with_columns(
        **{"seed": pl.lit(0), "metric": pl.lit("recall@20"), "split": pl.lit("test_ood")},
        **{"selection": pl.lit("valid"), "anticipated": pl.lit(False)},
    )
    found = headline(results, "ours", ["sampler"], metrics=("recall@20",))
    assert found.ranks.select("method", "rank", "n_cells").rows() == [
        ("ours", 1.5, 2),
        ("dns", 1.5, 2),
    ]


def test_headline_of_every_selection():
    found = headline(RESULTS, "ours", ["sampler"])
    assert found.gains["selection"].to_list() == ["valid", "anticipated"]
    assert found.gains["n_cells"].to_list() == [8, 8]
    assert found.cells["selection"].to_list() == ["valid"] * 8 + ["anticipated"] * 8
    own = {"food": "recency", "yelp": "inverse-popularity"}
    for row in found.gains.iter_rows(named=True):
        cells = [(d, m) for d in SELECTIONS for m in METRICS]
        values = np.array(
            [
                [
                    values_of(
                        RESULTS,
                        dataset=d,
                        metric=m,
                        method=method,
                        split="test_ood",
                        selection=own[d] if row["selection"] == "anticipated" else "valid",
                    )
                    for method in ("ours", "dns", "mixgcf")
                ]
                for d, m in cells
            ]
        )
        wanted = improvement_interval(values[:, 0].T, values[:, 1:].transpose(2, 0, 1))
        interval = (wanted.mean, wanted.interval.low, wanted.interval.high)
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(interval)
        assert row["n_seeds"] == 3
        chosen = found.cells.filter(selection=row["selection"])
        assert chosen["gain"].to_numpy() == pytest.approx(wanted.gains)
    assert found.ranks.filter(selection="valid").select("method", "rank").rows() == [
        ("MostPop", 4),
        ("dns", 2),
        ("mixgcf", 3),
        ("ours", 1),
    ]


def with_method(results: pl.DataFrame, method: str, group: str, value: float) -> pl.DataFrame:
    """One more method, everywhere at one value."""
    rows = results.filter(method="ours").with_columns(
        method=pl.lit(method), group=pl.lit(group), value=pl.lit(value)
    )
    return pl.concat([results, rows])


def test_headline_over_the_best_of_all_others():
    results = with_method(RESULTS, "MF", "objective", 0.55)
    results = with_method(results, "twin", "ours", 0.9)
    results = with_method(results, "half", "ablation", 0.95)
    found = headline(results, "ours")
    assert found.gains.select("selection", "group").rows() == [
        ("valid", "sampler"),
        ("valid", "all others"),
        ("anticipated", "sampler"),
        ("anticipated", "all others"),
    ]
    means = summarise(results).filter(split="test_ood", selection="valid")
    for group, methods in (
        ("sampler", ["dns", "mixgcf"]),
        ("all others", ["MostPop", "dns", "mixgcf", "MF"]),
    ):
        gains = []
        for dataset in SELECTIONS:
            for metric in METRICS:
                here = means.filter(dataset=dataset, metric=metric)
                value = dict(here.select("method", "mean").iter_rows())
                best = max(methods, key=value.__getitem__)
                gains.append(value["ours"] / value[best] - 1)
                cell = found.cells.filter(
                    selection="valid", group=group, dataset=dataset, metric=metric
                ).row(0, named=True)
                assert (cell["rival"], cell["n_rivals"]) == (best, len(methods))
                assert cell["gain"] == pytest.approx(gains[-1])
        row = found.gains.filter(selection="valid", group=group).row(0, named=True)
        assert row["mean"] == pytest.approx(np.mean(gains))
        assert row["median"] == pytest.approx(np.median(gains))
        assert row["low"] < row["mean"] < row["high"]
    assert "MF" in set(found.cells["rival"])
    assert found.ranks.filter(selection="valid")["method"].to_list() == [
        "MostPop", "dns", "mixgcf", "ours", "MF", "twin",
    ]  # fmt: skip
    # Against another's method ours are rivals, their parts are not.
    assert rivals_in(results, "dns", ALL) == ["MostPop", "mixgcf", "ours", "MF", "twin"]
    assert rivals_in(results, "half", ALL) == ["MostPop", "dns", "mixgcf", "MF"]
    assert rivals_in(results, "ours", "ablation") == ["half"]


def test_a_cell_with_a_small_rival_moves_the_mean_alone():
    small = (pl.col("dataset") == "yelp") & (pl.col("metric") == "ndcg@10")
    small &= pl.col("group") != "ours"
    results = RESULTS.with_columns(value=pl.when(small).then(1e-4).otherwise("value"))
    before, after = (headline(r, "ours", ["sampler"]).gains for r in (RESULTS, results))
    assert after["mean"][0] > before["mean"][0] + 100
    assert after["median"][0] == pytest.approx(before["median"][0], abs=0.1)


def test_selections_with_a_dial_are_apart():
    dialled = RESULTS.with_columns(
        selection=pl.col("selection") + "+dial", value=pl.col("value") * 2
    )
    found = headline(pl.concat([RESULTS, dialled]), "ours", ["sampler"])
    names = ["valid", "anticipated", "valid+dial", "anticipated+dial"]
    assert found.gains["selection"].to_list() == names
    assert found.gains["n_cells"].to_list() == [8] * 4
    plain, other = (
        found.cells.filter(pl.col("selection").str.ends_with("+dial") == dial) for dial in (0, 1)
    )
    assert (plain["value"] * 2).to_list() == pytest.approx(other["value"].to_list())


def test_headline_against_each_rival_by_itself():
    # One rival is missing on a dataset, and one is better everywhere.
    results = RESULTS.filter(~((pl.col("method") == "mixgcf") & (pl.col("dataset") == "yelp")))
    results = with_method(results, "MF", "objective", 0.95)
    duels = headline(results, "ours").duels
    assert duels.select("selection", "method", "group", "rival").rows() == [
        (selection, "ours", group, rival)
        for selection in ("valid", "anticipated")
        for group, rival in (
            ("sampler", "dns"),
            ("sampler", "mixgcf"),
            ("reference", "MostPop"),
            ("objective", "MF"),
        )
    ]
    means = summarise(results).filter(split="test_ood", selection="valid")
    for row in duels.filter(selection="valid").iter_rows(named=True):
        gains = []
        for dataset in SELECTIONS:
            for metric in METRICS:
                here = means.filter(dataset=dataset, metric=metric)
                value = dict(here.select("method", "mean").iter_rows())
                if row["rival"] in value:
                    gains.append(value["ours"] / value[row["rival"]] - 1)
        assert row["n_cells"] == len(gains) == (4 if row["rival"] == "mixgcf" else 8)
        assert row["n_won"] == sum(gain > 0 for gain in gains)
        assert (row["mean"], row["median"]) == pytest.approx((np.mean(gains), np.median(gains)))
        assert row["low"] < row["mean"] < row["high"]
    assert duels.filter(rival="MF")["n_won"].to_list() == [0, 0]
    assert duels.filter(rival="MostPop")["n_won"].to_list() == [8, 8]


def test_headline_of_another_split():
    iid = headline(RESULTS, "ours", ["sampler"], split="test_iid")
    alone = headline(RESULTS.filter(split="test_iid"), "ours", ["sampler"], split="test_iid")
    for found, wanted in zip(vars(iid).values(), vars(alone).values(), strict=True):
        assert_frame_equal(found, wanted)
    ood = headline(RESULTS, "ours", ["sampler"])
    assert iid.gains["mean"].to_list() != ood.gains["mean"].to_list()


def test_a_method_without_seeds_stands_beside_each():
    # Against a fixed rival the interval is that of ours alone, divided by the rival's value.
    found = headline(RESULTS, "ours", ["reference"], metrics=("ndcg@20",))
    row = found.gains.filter(selection="valid").row(0, named=True)
    key = {"selection": "valid", "split": "test_ood", "metric": "ndcg@20"}
    gains = [
        np.array(values_of(RESULTS, dataset=d, method="ours", **key))
        / values_of(RESULTS, dataset=d, method="MostPop", **key)[0]
        - 1
        for d in SELECTIONS
    ]
    wanted = seed_interval(np.mean(gains, axis=0))
    assert (row["low"], row["high"]) == pytest.approx((wanted.low, wanted.high))
    fixed = headline(RESULTS, "MostPop", ["sampler"]).gains
    assert fixed["n_seeds"].to_list() == [3, 3] and (fixed["mean"] < 0).all()


def test_only_common_seeds_are_paired():
    lost = (pl.col("method") == "dns") & (pl.col("seed") == 0) & (pl.col("dataset") == "yelp")
    partial = RESULTS.filter(~lost)
    found = headline(partial, "ours", ["sampler"])
    wanted = headline(
        RESULTS.filter((pl.col("seed") > 0) | (pl.col("method") == "MostPop")),
        "ours",
        ["sampler"],
    )
    assert_frame_equal(found.gains, wanted.gains)
    assert found.gains["n_seeds"].to_list() == [2, 2]
    apart = RESULTS.filter(pl.col("method") != "dns").vstack(
        RESULTS.filter(method="dns").with_columns(pl.col("seed") + 10)
    )
    with pytest.raises(InputError, match="no seed is common to ours, mixgcf, dns"):
        headline(apart, "ours", ["sampler"])


def test_a_rival_that_was_not_run_everywhere():
    partial = RESULTS.filter((pl.col("dataset") == "food") | (pl.col("method") != "dns"))
    cells = headline(partial, "ours", ["sampler"], metrics=("ndcg@20",)).cells
    valid = cells.filter(selection="valid")
    assert valid.select("dataset", "rival", "n_rivals").rows() == [
        ("food", "dns", 2),
        ("yelp", "mixgcf", 1),
    ]


@pytest.mark.parametrize(
    ("ours", "group", "message"),
    [
        ("our", "sampler", "no method 'our' \\(did you mean 'ours'"),
        ("ours", "references", "no group 'references' \\(did you mean 'reference'"),
        ("ours", "ours", "no method but ours"),
    ],
)
def test_headline_of_unknown_names(ours, group, message):
    with pytest.raises(InputError, match=message):
        headline(RESULTS, ours, ["sampler", group])


def test_one_anticipated_selection_for_each_dataset():
    with pytest.raises(InputError, match="two selections"):
        headline(RESULTS.with_columns(anticipated=pl.lit(True)), "ours", ["sampler"])
