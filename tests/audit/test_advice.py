"""What to do about a shift: the rules by which an audit advises, and the price of its advice."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.audit.advice import LEVEL, advice, break_even, break_even_words, decide
from cnsdiff.audit.judging import TESTS, Choice, Judged, Setting, choose, forecast, judge
from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.record import FEW_USERS
from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.audit.training import METHODS
from cnsdiff.data import Source
from cnsdiff.display.wording import number
from cnsdiff.evaluation.kept import UserAccuracy, kept, lost
from cnsdiff.evaluation.significance import Interval, bootstrap_means

RECENT = "inverse-popularity+dial"


def exactly(value: float) -> Interval:
    return Interval(value, value, value)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_at_the_break_even_nothing_is_expected_to_change(gain, cost):
    least = break_even(exactly(gain), exactly(-cost))
    assert least * gain == pytest.approx((1 - least) * cost)
    assert 0 < least < 1


@pytest.mark.parametrize("gain, paid", [(0.0, 0.0), (0.1, 0.02), (0.1, 0.0), (-0.1, -0.1)])
def test_without_a_trade_there_is_no_break_even(gain, paid):
    assert break_even(exactly(gain), exactly(paid)) is None


def test_the_break_even_in_words():
    gained, paid = Interval(0.03, 0.02, 0.04), Interval(-0.01, -0.02, -0.005)
    least = break_even(gained, paid)
    assert break_even_words(least, gained, paid) == (
        "Worth it if you are more than 25% sure of this shift."
    )
    unsure = break_even_words(least, gained, Interval(-0.01, -0.02, 0.005))
    assert unsure.endswith("what it costs today, this log cannot tell from nothing.")
    assert break_even_words(None, exactly(0), exactly(0)) == ""
    assert "however unlikely" in break_even_words(None, gained, exactly(0.01))


def measured(
    rows: dict[str, tuple[float, float, float]], n: int = 400, noise: float = 0.02
) -> Judged:
    """Rows by ``METHOD/SELECTION``: validation, and the means of the IID and the OOD test."""
    rng = np.random.default_rng(5)
    users = np.arange(n)
    own = []
    for key, (validation, *levels) in rows.items():
        method, selection = key.split("/")
        per_user = {}
        for test, level in zip(TESTS, levels, strict=True):
            spread = rng.normal(size=n) * noise
            values = level + spread - spread.mean()
            per_user[test] = pl.DataFrame({"user": users, "ndcg@20": values, "recall@20": values})
        own.append(Setting(method, selection, validation, 0.0, 1, 1.0, "patience", per_user))
    dataset = SimpleNamespace(n_users=n, split=lambda _: SimpleNamespace(users=users))
    return judge(own, dataset, "ndcg@20", seed=0)


def chosen_by(judged: Judged) -> Choice:
    return choose(judged.settings, "inverse-popularity")


CASES = {
    # The one for the shift is shown better than the best today.
    "expected": (
        {"exposure/valid": (0.5, 0.5, 0.2), f"exposure/{RECENT}": (0.4, 0.4, 0.3)},
        False,
        f"exposure/{RECENT}",
    ),
    # It is not, so the best today stays.
    "plain": (
        {"exposure/valid": (0.5, 0.5, 0.2), f"usual/{RECENT}": (0.4, 0.4, 0.199)},
        False,
        "exposure/valid",
    ),
    # Validation misses the one that the test shows better than its choice.
    "better": (
        {
            "exposure/valid": (0.5, 0.5, 0.2),
            f"exposure/{RECENT}": (0.4, 0.4, 0.3),
            f"ease/{RECENT}": (0.3, 0.3, 0.35),
        },
        False,
        f"ease/{RECENT}",
    ),
    # A simpler one is level with it on both tests.
    "simpler": (
        {
            "exposure/valid": (0.5, 0.4, 0.2),
            f"exposure/{RECENT}": (0.4, 0.4, 0.3),
            f"itemknn/{RECENT}": (0.3, 0.4, 0.2995),
        },
        False,
        f"itemknn/{RECENT}",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_of_the_advice(case):
    rows, certain, use = CASES[case]
    judged = measured(rows)
    decision = decide(judged, chosen_by(judged), certain=certain)
    assert (decision.case, decision.use.key) == (case, use)


def test_a_lead_that_the_number_of_rivals_explains_is_a_reason_to_try_both():
    crowd = {f"{method}/valid": (0.1, 0.2, 0.25) for method in METHODS if method != "ease"}
    crowd |= {f"{method}/{RECENT}": (0.1, 0.2, 0.25) for method in METHODS if method != "ease"}
    crowd["usual/valid"] = (0.5, 0.3, 0.25)
    # 2.4 standard errors of a difference, as 2 * 0.02² / 400 is its variance.
    crowd["ease/valid"] = (0.2, 0.3, 0.25 + 2.4 * math.sqrt(2 * 0.02**2 / 400))
    judged = measured(crowd)
    decision = decide(judged, chosen_by(judged), certain=False)
    assert (decision.case, decision.doubtful) == ("both", True)
    assert (decision.use.key, decision.best.key) == ("usual/valid", "ease/valid")
    made = advised(judged)
    said = made.words
    assert said.startswith("Try both the usual recommender, which validation chooses, and EASE: ")
    assert "may lead so far by chance" in said
    over = re.findall(r"\+0\.\d+ \(\+[^)]+\)", said)
    assert len(over) == len(set(over)) == 1  # the difference of the two is told once
    assert said.count("the usual recommender") == 1
    usual, ease = made.commands
    assert "--preset bpr-lightgcn" in usual and usual.endswith("--out r")
    assert "--backbone ease" in ease and ease.endswith("--out r-ease")


def test_a_simpler_one_that_costs_more_today_is_not_level():
    rows, _, _ = CASES["simpler"]
    judged = measured(rows | {f"itemknn/{RECENT}": (0.3, 0.3, 0.2995)})
    assert decide(judged, chosen_by(judged), certain=False).case == "expected"


def test_a_certain_shift_needs_no_gain_over_today():
    rows = {"usual/valid": (0.5, 0.5, 0.2), f"ease/{RECENT}": (0.4, 0.4, 0.2)}
    judged = measured(rows)
    choice = chosen_by(judged)
    assert decide(judged, choice, certain=True).use.key == f"ease/{RECENT}"
    assert decide(judged, choice, certain=False).use.key == "usual/valid"


def test_recent_mostpop_is_not_advised_as_plain_validation_places_it():
    rows = {"usual/valid": (0.5, 0.5, 0.2), "recent-mostpop/valid": (0.1, 0.1, 0.4)}
    judged = measured(rows)
    assert decide(judged, chosen_by(judged), certain=True).use.key == "usual/valid"
    judged = measured(rows | {f"recent-mostpop/{RECENT}": (0.1, 0.1, 0.4)})
    assert decide(judged, chosen_by(judged), certain=True).use.key == f"recent-mostpop/{RECENT}"


def advised(judged: Judged, shift: str = "popularity"):
    return advice(
        SHIFTS[shift],
        judged,
        chosen_by(judged),
        reading=Reading("shop.csv"),
        log=Log(Source({}, name="x"), "0", 4.0, ()),
        seed=0,
        run=Path("r"),
    )


def test_too_few_users_get_no_advice_no_interval_and_no_mark():
    """But how many would be needed, by the spread of what users gain."""
    rows, _, _ = CASES["expected"]
    judged = measured(rows, n=FEW_USERS - 1, noise=0.2)
    made = advised(judged)
    assert (made.case, made.commands, made.break_even) == ("too few", [], None)
    for record in (made.brings, made.costs):
        assert record.sign == 0 and math.isnan(record.difference.low)
        assert record.p == 1
    of_row = judged.accuracies(judged.settings[0])
    assert all(math.isnan(end) for end in (of_row.ood.low, of_row.ood.high))
    (plain, other) = (s.values("test_ood", "ndcg@20") for s in judged.settings)
    needed = (1.96 * (other - plain).std(ddof=1) / (0.1 * plain.mean())) ** 2
    assert made.words.startswith("No advice: the IID test has 99 users")
    assert f"About {math.ceil(needed):,} in each" in made.words


def test_differences_are_those_of_a_paired_bootstrap():
    judged = measured(CASES["better"][0], n=300, noise=0.3)
    first, second = judged.settings[:2]
    ours = judged.difference("test_ood", first, second)
    columns = first.values("test_ood", "ndcg@20") - second.values("test_ood", "ndcg@20")
    (other,) = bootstrap_means(columns[:, None], seed=3)
    assert ours.value == pytest.approx(other.value)
    assert [ours.low, ours.high] == pytest.approx([other.low, other.high], abs=0.004)
    assert ours.p_value == pytest.approx(other.p_value, abs=0.03)
    same = judged.difference("test_ood", first, first)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


LEVELS = st.floats(0.1, 0.4)


@st.composite
def tables(draw) -> Judged:
    keys = [f"{method}/{reading}" for method in METHODS for reading in ("valid", RECENT)]
    keys = draw(st.lists(st.sampled_from(keys), min_size=2, max_size=6, unique=True))
    keys = [key for key in keys if key != f"mostpop/{RECENT}"]
    if not any(key.endswith("/valid") for key in keys):
        keys.append("usual/valid")
    rows = {key: tuple(draw(LEVELS) for _ in range(3)) for key in keys}
    return measured(rows, n=150, noise=draw(st.sampled_from([0.01, 0.1, 0.5])))


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(["popularity", "temporal"]))
def test_advice_is_borne_out_by_its_numbers(judged, shift):
    made = advised(judged, shift)
    rows = {s.key: s for s in judged.settings}
    use, plain = rows[made.use], rows[made.plain]
    ood = {key: judged.accuracies(s).ood.value for key, s in rows.items()}
    # Nothing that is offered is shown better than what is advised ...
    offered = [s for s in rows.values() if s.key != "recent-mostpop/valid"]
    if made.case == "both":
        assert made.words.startswith(f"Try both {use.title}, ")
        assert (made.use, len(made.commands)) == (made.chosen, 2)
        assert rows[made.best].title in made.words
        use = rows[made.best]
    assert all(judged.difference("test_ood", s, use).sign <= 0 for s in offered)
    if made.case == "both":
        return
    # ... and no simpler method is level with it.
    for s in offered:
        if list(METHODS).index(s.method) < list(METHODS).index(use.method):
            worse = [judged.difference(test, s, use).sign < 0 for test in TESTS]
            less = [
                s.values(test, "ndcg@20").mean() < LEVEL * use.values(test, "ndcg@20").mean()
                for test in TESTS
            ]
            beaten = any(judged.difference("test_ood", t, s).sign > 0 for t in offered)
            assert any((*worse, *less, beaten)), (s.key, made.words)
    # The words say what the numbers do.
    assert use.title in made.words
    assert number(ood[made.use]) in made.words
    kept = made.words.startswith("Keep ")
    assert not kept or made.use == made.plain
    if use is not plain:
        over = judged.difference("test_ood", use, plain)
        assert ("no difference that this log" in made.words.split(". ")[0]) == (over.sign == 0)
    validation = {s.key: s.validation for s in judged.settings}
    if made.best != made.chosen:
        assert f"Validation chose {rows[made.chosen].title}; the test shows" in made.words
    if made.case == "simpler" and made.best == made.plain:  # what was said of these is not again
        assert f"level with {rows[made.plain].title}." in made.words
    if made.use == made.expected:
        assert "What validation chooses for the shift" not in made.words
    if made.best != made.chosen:
        assert ood[made.best] > ood[made.chosen]
        assert validation[made.chosen] == max(
            validation[key] for key in (made.chosen, made.plain if not kept else made.chosen)
        ) or made.chosen in (made.expected, made.plain)
    percents = re.findall(r"more than (\d+)% sure", made.break_even_words)
    if percents:
        assert int(percents[0]) == pytest.approx(100 * made.break_even, abs=0.5001)
    assert (made.break_even is None) or 0 < made.break_even < 1


def test_a_forecast_holds_what_other_users_lose_and_the_interval_of_an_estimate_does_not():
    """Pairs of samples of one population: each forecasts what the other will show."""
    rng = np.random.default_rng(0)
    losses = []
    for seed in range(240):
        hit = [rng.random((150, 1)) < share for share in (0.4, 0.2)]
        iid, ood = (UserAccuracy(np.arange(150), values.astype(float)) for values in hit)
        (share,) = kept(iid, ood, seed=seed, n_resamples=300).kept
        losses.append(lost(share))
    pairs = list(zip(losses[::2], losses[1::2], strict=True))
    pairs += [(second, first) for first, second in pairs]

    def held(interval: Callable[[Interval], Interval]) -> float:
        """Share of forecasts that hold."""
        ends = [(interval(first), second.value) for first, second in pairs]
        return float(np.mean([own.low <= true <= own.high for own, true in ends]))

    assert held(forecast) == pytest.approx(0.95, abs=0.04)
    assert held(lambda own: own) == pytest.approx(0.83, abs=0.06)


@given(st.floats(-2, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_forecast_is_wider_than_the_estimate_and_nobody_loses_more_than_everything(
    value, below, above
):
    own = Interval(value, value - below, min(1.0, value + above))
    wide = forecast(own)
    assert wide.low <= own.low
    assert own.high <= wide.high <= 1
    assert wide.value == value
