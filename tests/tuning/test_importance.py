"""What the differences are due to, where that is known."""

from __future__ import annotations

import numpy as np
import pytest

from cnsdiff.base.search_space import Space
from cnsdiff.tuning.importance import LEAST_TRIALS, importances
from cnsdiff.tuning.study import Importances, Trial

SPACES = {
    "kind": Space(choices=("a", "b", None)),
    "rate": Space(low=0.001, high=0.1, log=True),
    "steps": Space(low=1, high=9, integer=True),
}


@pytest.fixture(autouse=True)
def few_and_small_forests(monkeypatch):
    monkeypatch.setattr("cnsdiff.tuning.importance._FORESTS", 4)
    monkeypatch.setattr("cnsdiff.tuning.importance._TREES", 6)


def trials(n: int, value=lambda setting: np.log10(setting["rate"])) -> list[Trial]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(n):
        setting = {
            "kind": ("a", "b", None)[rng.integers(3)],
            "rate": float(10 ** rng.uniform(-3, -1)),
            "steps": int(rng.integers(1, 10)),
        }
        found.append(
            Trial(number=number, state="completed", setting=setting, value=float(value(setting)))
        )
    return found


def test_the_setting_that_makes_the_difference_leads():
    found = importances(trials(16), SPACES, seed=0)
    assert found is not None
    assert found.leader == next(iter(found.shares)) == "rate"
    assert found.shares["rate"].share > 0.6
    assert sum(share.share for share in found.shares.values()) == pytest.approx(1)
    assert all(0 <= share.low <= share.high <= 1 for share in found.shares.values())
    assert found.n_trials == 16
    assert Importances.model_validate(found.model_dump(mode="json")) == found


def test_the_same_seed_gives_the_same_shares_and_another_others():
    found = importances(trials(8), SPACES, 1)
    assert importances(trials(8), SPACES, 1) == found
    assert importances(trials(8), SPACES, 2) != found


def test_nobody_leads_where_chance_decides():
    noise = np.random.default_rng(3)
    found = importances(trials(12, lambda setting: noise.normal()), SPACES, seed=0)
    assert found is not None
    assert found.leader is None


def test_only_what_was_trained_to_its_end_within_the_space_counts():
    known = trials(8)
    other = [
        Trial(number=8, state="pruned", setting=known[0].setting, value=9.0),
        Trial(number=9, state="failed", setting=known[0].setting),
        Trial(number=10, state="completed", setting=known[0].setting, value=9.0, same_as=0),
        Trial(number=11, state="completed", setting={**known[0].setting, "rate": 0.5}, value=9.0),
    ]
    assert importances([*known, *other], SPACES, 0) == importances(known, SPACES, 0)


def test_nothing_is_said_of_too_few_or_of_equal_trials():
    assert importances(trials(LEAST_TRIALS - 1), SPACES, 0) is None
    assert importances(trials(LEAST_TRIALS), SPACES, 0) is not None
    assert importances(trials(20, lambda setting: 1.0), SPACES, 0) is None


def test_one_setting_alone_explains_everything():
    found = importances(trials(8), {"rate": SPACES["rate"]}, 0)
    assert found is not None
    assert found.shares["rate"].share == pytest.approx(1)
