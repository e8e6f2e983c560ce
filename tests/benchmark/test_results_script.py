"""The tables and the figure of ``benchmarks/results.py``."""

from __future__ import annotations

from types import ModuleType

import polars as pl
import pytest
from scripts import load_script

from cnsdiff.benchmark.grid import Grid


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("benchmarks/results.py")


METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def table(*rows: tuple[str, str, str, str, bool, float]) -> pl.DataFrame:
    """Every metric of the OOD test alike, with one seed."""
    names = ("dataset", "method", "group", "selection", "anticipated", "value")
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        seed=pl.lit(0), split=pl.lit("test_ood")
    )
    return frame.join(pl.DataFrame({"metric": METRICS}), how="cross")


RESULTS = table(
    ("shop", "dns", "sampler", "valid+dial", False, 0.10),
    ("shop", "dns", "sampler", "rehearsal+dial", True, 0.20),
    ("shop", "exposure", "ours", "valid+dial", False, 0.30),
    ("shop", "exposure", "ours", "rehearsal+dial", True, 0.40),
    ("coat", "dns", "sampler", "valid+dial", False, 0.02),
    ("coat", "dns", "sampler", "drift+dial", True, 0.04),
    ("coat", "exposure", "ours", "valid+dial", False, 0.01),
    ("coat", "exposure", "ours", "drift+dial", True, 0.03),
    ("coat", "noise", "ablation", "drift+dial", True, 1.00),
    ("coat", "dns", "sampler", "drift", True, 9.0),  # without the dial: of neither rule
)
GRID = Grid.model_validate(
    {
        "name": "both",
        "datasets": {
            "shop": {"simulate": {"shift": "temporal"}, "anticipate": "rehearsal"},
            "coat": {"simulate": {"shift": "exposure"}, "anticipate": "drift"},
        },
        "methods": {"dns": {}, "exposure": {}},
        "select_on": ["valid+dial", "anticipated+dial", "anticipated"],
    }
)


def test_the_default_rule_rehearses_where_there_are_times_and_validates_elsewhere(
    script: ModuleType,
) -> None:
    rules = script.by_rule(RESULTS, GRID)
    values = {
        rule: {
            (dataset, method): value
            for dataset, method, value in rows.filter(pl.col("metric") == "ndcg@20")
            .select("dataset", "method", "value")
            .iter_rows()
            if method != "noise"
        }
        for rule, rows in rules.items()
    }
    assert values == {
        "named": {
            **{("shop", "dns"): 0.20, ("shop", "exposure"): 0.40},
            **{("coat", "dns"): 0.04, ("coat", "exposure"): 0.03},
        },
        "default": {
            **{("shop", "dns"): 0.20, ("shop", "exposure"): 0.40},
            **{("coat", "dns"): 0.02, ("coat", "exposure"): 0.01},
        },
    }


def test_tables_have_gains_and_ranks(script: ModuleType) -> None:
    more = table(("coat", "ease", "reference", "drift+dial", True, 0.001))
    results = script.by_rule(pl.concat([RESULTS, more]), GRID)["named"]
    printed = script.tables(results, "exposure", ["shop"])
    best = "| the best sampler of each cell"
    assert f"{best} | all | +37.5% ± - | +37.5% | 4 of 8 | 1 |" in printed
    assert f"{best} | real ones | -25.0% ± - | -25.0% | 0 of 4 | 1 |" in printed
    assert "| dns | +37.5% | +37.5% | 4 of 8 |" in printed
    assert "| ease | +2900.0% | +2900.0% | 4 of 4 |" in printed
    # Ranked are the methods that both datasets have.
    assert "| exposure | 1.50 | 8 | 75% coat |" in printed
    assert "| dns | 1.50 | 8 | 100% coat |" in printed  # of the simulated set it has half
    assert printed.count("ease") == 1
    assert "noise" not in printed


def test_a_table_has_ours_beside_the_best_of_each_dataset(script: ModuleType) -> None:
    again = RESULTS.with_columns(
        value=pl.col("value") + pl.when(pl.col("dataset") == "coat").then(0.01).otherwise(0.0),
        seed=pl.lit(1),
    )
    results = script.by_rule(pl.concat([RESULTS, again.filter(dataset="coat")]), GRID)["named"]
    _, _, shop, coat = script.beside_the_best(results).splitlines()
    assert shop == "| shop | **0.4000** | - | - | - | 0.2000 `dns` | 0.2000 `dns` |"
    half = 12.706 * 0.005  # t of one degree of freedom times the deviation over the root of 2
    expected = f"0.0350 ± {half:.4f} | - | - | - | **0.0450** ± {half:.4f} `dns`"
    assert coat.startswith(f"| coat | {expected}")


def test_the_figure_has_each_method_as_a_share_of_the_best(script: ModuleType) -> None:
    shares = script.shares(script.by_rule(RESULTS, GRID)["named"])
    assert shares == {
        "shop": {"dns": 0.5, "exposure": 1.0},
        "coat": {"dns": 1.0, "exposure": pytest.approx(0.75)},
    }
    (axes,) = script.draw(shares).axes
    assert [text.get_text() for text in axes.texts] == ["exposure", "dns"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["shop", "coat"]
