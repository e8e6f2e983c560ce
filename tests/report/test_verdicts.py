"""The sentence that a page begins with agrees with the numbers below it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.audit.wording import can_tell, verdict
from cnsdiff.benchmark.findings import benchmark_verdict
from cnsdiff.evaluation import SplitEvaluation
from cnsdiff.evaluation.kept import UserAccuracy, kept
from cnsdiff.evaluation.significance import Interval, bootstrap_means
from cnsdiff.report.accuracy import Measured, Standing
from cnsdiff.report.run import verdict_on_tests

NUMBER = r"(-?\d+(?:\.\d+)?)"


@st.composite
def losses(draw) -> Interval:
    low, value, high = sorted(draw(st.lists(st.floats(-2, 1), min_size=3, max_size=3)))
    return Interval(value, low, high)


@given(losses())
def test_an_audit_says_what_is_lost(lost):
    sentence = verdict("It", "ndcg@20", [("if popularity shifted", lost)])
    shown = re.search(rf"would (lose|gain) {NUMBER}%", sentence)
    assert (shown is not None) == (lost.sign != 0)
    if shown:
        sign = {"lose": 1, "gain": -1}[shown[1]]
        # Whole per cent, and a digit more below 1.
        assert sign * float(shown[2]) == pytest.approx(100 * lost.value, abs=0.5001)
    elif can_tell(lost):
        assert "lose nothing" in sentence
    else:
        assert "cannot tell" in sentence
    ends = re.search(rf"\({NUMBER}(?:–| to ){NUMBER}%\)", sentence)
    wanted = (-lost.high, -lost.low) if lost.sign < 0 else (lost.low, lost.high)
    assert (float(ends[1]), float(ends[2])) == pytest.approx(
        [100 * end for end in wanted], abs=0.5001
    )


@pytest.mark.parametrize("share", [0.2, 0.744, 1.3])
def test_the_report_of_a_run_says_what_is_kept(share):
    rng = np.random.default_rng(0)
    values = {"test_iid": rng.random((80, 2)) + 0.1}
    values["test_ood"] = values["test_iid"] * [share, 0.5] + rng.random((80, 2)) / 50
    tests = [UserAccuracy(np.arange(80), values[test]) for test in ("test_iid", "test_ood")]
    results = kept(*tests, seed=0)
    models, differences = [], {}
    for at, name in enumerate(("mine", "EASE")):
        splits = {
            test: SplitEvaluation({"ndcg@20": float(rows[:, at].mean())}, 80, 0)
            for test, rows in values.items()
        }
        models.append(Measured(name, None, None, splits))
    for test, rows in values.items():
        (differences["EASE", test],) = bootstrap_means(rows[:, :1] - rows[:, 1:], seed=0)
    shares = dict(zip(("mine", "EASE"), results.kept, strict=True))
    standing = Standing(tuple(models), "ndcg@20", ("ndcg@20",), {}, differences, shares)
    sentence, summary = verdict_on_tests(standing, SimpleNamespace(scenario="popularity"))

    iid, ood = (models[0].splits[test]["ndcg@20"] for test in ("test_iid", "test_ood"))
    moved = re.search(rf"{NUMBER}\s→\s{NUMBER}", sentence)
    assert (float(moved[1]), float(moved[2])) == pytest.approx((iid, ood), abs=5e-5)
    assert results.kept[0].value == pytest.approx(ood / iid)
    shown = re.search(rf"Keeps {NUMBER}% \({NUMBER}–{NUMBER}%\)", sentence)
    if ood >= iid:
        assert shown is None and "Loses nothing" in sentence
    else:
        wanted = [100 * x for x in (ood / iid, results.kept[0].low, results.kept[0].high)]
        assert [float(x) for x in shown.groups()] == pytest.approx(wanted, abs=0.5001)
    reference = re.search(rf"EASE {NUMBER}% \(", summary)
    assert float(reference[1]) == pytest.approx(100 * results.kept[1].value, abs=0.5001)


@given(st.lists(st.floats(0.001, 0.9), min_size=2, max_size=5, unique=True), st.integers(1, 3))
def test_a_benchmark_names_the_best_with_its_number(means, n_datasets):
    rows = [
        {
            "dataset": f"d{at}",
            "method": f"m{method}",
            "group": "sampler",
            "selection": "valid",
            "anticipated": False,
            "split": "test_ood",
            "metric": "ndcg@20",
            "mean": mean,
        }
        for at in range(n_datasets)
        for method, mean in enumerate(means)
    ]
    sentence = benchmark_verdict(pl.DataFrame(rows), "ndcg@20")
    best = int(np.argmax(means))
    shown = re.search(rf": m(\d) with {NUMBER}", sentence)
    assert int(shown[1]) == best
    assert f"of {len(means)} methods" in sentence
    if n_datasets == 1:
        assert float(shown[2]) == pytest.approx(means[best], abs=5e-5)
    else:
        assert float(shown[2]) == 1.0
        assert f"best on {n_datasets} of {n_datasets} datasets" in sentence
