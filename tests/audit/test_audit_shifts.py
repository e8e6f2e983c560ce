"""Which shifts a log allows, and how much of it a budget is enough for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from audit_parts import log_frame

from cnsdiff.audit.log import Log, seconds_a_shift, thinned
from cnsdiff.audit.shifts import SHIFTS, plan_shifts
from cnsdiff.audit.training import audit_grid, ease_left_out
from cnsdiff.base.errors import ConfigError
from cnsdiff.data import Interactions, Source
from cnsdiff.evaluation.anticipation import PEOPLE
from cnsdiff.recommender.config import nested, resolve_config
from cnsdiff.shifts import SCENARIOS


def log_of(*columns: str, randomised: bool = False) -> Log:
    frame = log_frame().select("user", "item", *columns)
    tables = {"log": Interactions(frame, "log.csv")}
    if randomised:
        tables["randomised"] = Interactions(frame.head(10), "random.csv")
    return Log(Source(tables, name="log"), "0", None, ())


def names(log: Log, most: int = 9, asked: tuple[str, ...] = ()) -> list[str]:
    return [shift.name for shift in plan_shifts(log, most, asked)[0]]


def test_columns_decide_which_shifts_there_are():
    assert names(log_of()) == ["popularity", "user-group"]
    assert names(log_of("timestamp")) == ["temporal", "hybrid", "popularity", "user-group"]
    assert names(log_of(randomised=True)) == ["popularity", "exposure", "user-group"]
    assert names(log_of("timestamp", randomised=True)) == list(SHIFTS)


def test_what_is_left_out_says_what_would_bring_it_back():
    reasons = {absent.name: absent.reason for absent in plan_shifts(log_of(), 9)[1]}
    assert reasons.keys() == {"exposure", "temporal", "hybrid"}
    assert "timestamp=" in reasons["temporal"]
    assert "randomised=" in reasons["exposure"]
    assert f"ask some {PEOPLE} people" in reasons["exposure"]
    assert "target_sample=" in reasons["exposure"]


def test_with_little_time_the_certain_are_measured():
    shifts, left_out = plan_shifts(log_of("timestamp"), 2)
    assert [shift.name for shift in shifts] == ["temporal", "hybrid"]
    reasons = {absent.name: absent.reason for absent in left_out}
    assert "shifts=['popularity']" in reasons["popularity"]
    assert names(log_of(), 0) == ["popularity"]


def test_what_is_asked_for_is_measured_whatever_the_budget():
    assert names(log_of("timestamp"), 1, ("popularity", "hybrid")) == ["hybrid", "popularity"]
    with pytest.raises(ConfigError, match="did you mean 'temporal'"):
        names(log_of("timestamp"), 1, ("temporl",))
    with pytest.raises(ConfigError, match=r"shifts temporal: .*timestamp="):
        names(log_of(), 1, ("temporal",))


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=lambda shift: shift.name)
def test_every_shift_is_a_scenario_with_settings_that_it_has(shift, tmp_path):
    SCENARIOS.find(shift.name)(**shift.settings)
    grid = audit_grid([shift], {shift.name: tmp_path}, ease=True, seed=4, metric="ndcg@10")
    assert grid.selections(shift.name) == ("valid", "valid+dial", f"{shift.anticipate}+dial")
    assert grid.seeds == (4,)


def test_a_larger_log_needs_more_time():
    def pairs(n_users: int, n_items: int, rows: int) -> Interactions:
        frame = pl.select(user=pl.int_range(rows) % n_users, item=pl.int_range(rows) % n_items)
        return Interactions(frame, "log.csv")

    small = seconds_a_shift(pairs(100, 50, 1000))
    assert seconds_a_shift(pairs(1000, 50, 200_000)) == 4 * small
    assert seconds_a_shift(pairs(10_000, 6000, 30_000)) == 3 * small


def test_repeats_and_heavy_users_take_no_place_from_others():
    rng = np.random.default_rng(0)
    pairs = pl.DataFrame({"user": rng.integers(100, size=900), "item": rng.integers(50, size=900)})
    bot = pl.DataFrame({"user": [999] * 800, "item": np.arange(800)})
    interactions = Interactions(pl.concat([pairs] * 4 + [bot]), "log")
    whole = Log(Source({"log": interactions}), "", None, ())
    limit = {"seed": 0, "most": 900, "max_per_user": 100}
    assert thinned(whole, 600, 1, **limit) is whole
    fewer = thinned(whole, 600, 1, **{**limit, "most": 300}).interactions
    kept = fewer.deduplicated().without_heavy_users(100)
    assert 150 < len(kept) <= 300
    assert kept.funnel[-1].left_out[0].rows == 800


def test_a_log_that_is_too_large_is_thinned_by_whole_users_and_says_so():
    whole = log_of("timestamp")
    assert thinned(whole, 600, 4, seed=0, most=None) is whole
    assert thinned(whole, 600, 4, seed=0, most=0) is whole
    fewer = thinned(whole, 600, 4, seed=0, most=1000)
    counts = fewer.interactions.frame["user"].value_counts()["count"]
    assert counts.unique().to_list() == [24]  # all rows of whoever was drawn
    assert 500 < len(fewer.interactions) <= 1000
    assert fewer.n_drawn == fewer.interactions.n_users
    assert f"Of 160 users {fewer.n_drawn} were drawn at random" in fewer.notes[-1]
    again = thinned(whole, 600, 4, seed=0, most=1000)
    assert again.interactions.frame.equals(fewer.interactions.frame)
    other = thinned(whole, 600, 4, seed=1, most=1000)
    assert not other.interactions.frame.equals(fewer.interactions.frame)


def test_ease_is_left_out_where_it_does_not_fit_with_the_reason():
    assert ease_left_out(1000, 5, 1e10, speed=1e10) is None
    slow = ease_left_out(14_000, 20, 1e11, speed=1e10)
    assert "5 min 29 s" in slow
    assert "longer budget" in slow
    assert "2 GB" in ease_left_out(14_000, 1e9, 3e9, speed=1e10)
    assert ease_left_out(30_000, 1e9, 1e12, speed=1e12)


def test_a_command_selects_as_the_audit_does():
    for shift in SHIFTS.values():
        trained = resolve_config(nested(shift.training)).training
        assert trained.select_slice_by == shift.selection.select_slice_by
    assert SHIFTS["user-group"].selection.select_slice_by == "activity"
