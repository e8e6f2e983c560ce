"""Popularity, season and promotion: each moves exposure when and where it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cnsdiff import ConfoundedWorld, load_dataset
from cnsdiff.simulate import WorldTruth

ONLY = {"popularity_weight": 0.0, "season_weight": 0.0, "promotion_weight": 0.0}
SIZE = {"n_users": 400, "n_items": 240, "exposures": 60.0}


def shown_by_group(world, groups) -> np.ndarray:
    """How often each group of items was shown in each period, ``(T, groups)``; simulated."""
    everyone, items = np.arange(world.n_users)[:, None], np.arange(world.n_items)[None, :]
    counts = [world.exposed(everyone, items, period).sum(0) for period in world.periods]
    return np.array([np.bincount(groups, weights=count) for count in counts])


@pytest.mark.parametrize("weights", [(1, 0.5, 0.5), (2, 0, 0), (0, 1, 0), (0, 0, 7), (0.1, 3, 1)])
def test_the_environment_is_standardised_whatever_the_mix(weights):
    names = ("popularity_weight", "season_weight", "promotion_weight")
    world = ConfoundedWorld(**SIZE, **dict(zip(names, weights, strict=True)), seed=1)
    salience = np.array([period.salience for period in world.periods])
    assert salience.shape == (8, 240)
    assert salience.mean() == pytest.approx(0, abs=1e-12)
    assert salience.std() == pytest.approx(1, abs=1e-12)
    parts = world.surroundings
    mixed = weights[0] * parts.popularity + weights[1] * parts.season + weights[2] * parts.promotion
    assert np.corrcoef(salience.ravel(), mixed.ravel())[0, 1] == pytest.approx(1, abs=1e-12)


def test_an_environment_without_parts_is_none():
    world = ConfoundedWorld(**SIZE, **ONLY, seed=1)
    assert not np.array([period.salience for period in world.periods]).any()


@pytest.mark.parametrize("persistence", [0.0, 0.5, 0.95, 1.0])
def test_popularity_drifts_as_an_ar1_process(persistence):
    world = ConfoundedWorld(n_items=20_000, periods=5, persistence=persistence, seed=2)
    drift = world.surroundings.popularity
    np.testing.assert_allclose(drift.std(1), 1, atol=0.03)
    for lag in (1, 2, 4):
        correlation = np.corrcoef(drift[0], drift[lag])[0, 1]
        assert correlation == pytest.approx(persistence**lag, abs=0.03)
    if persistence < 1:
        innovation = drift[1] - persistence * drift[0]
        assert stats.kstest(innovation / np.sqrt(1 - persistence**2), "norm").pvalue > 1e-3


def test_seasons_come_and_go_and_come_back():
    world = ConfoundedWorld(n_items=400, periods=16, season_length=8, seasons=4, seed=2)
    season, group = world.surroundings.season, world.surroundings.season_group
    np.testing.assert_allclose(season[8:], season[:8], atol=1e-12)
    assert season[:8].mean() == pytest.approx(0, abs=1e-12)
    assert (season[:8] ** 2).mean() == pytest.approx(1, abs=1e-12)
    for number in range(4):
        own = season[:, group == number]
        assert (own == own[:, :1]).all()
        # A quarter of 8 periods lies between one group and the next.
        assert own[:8, 0].argmax() == 2 * number


def test_seasons_move_exposure_in_their_period():
    world = ConfoundedWorld(**SIZE, **{**ONLY, "season_weight": 1.0}, seed=2)
    group = world.surroundings.season_group
    shown = shown_by_group(world, group) / np.bincount(group)
    for number in range(4):
        peak, trough = 2 * number, (2 * number + 4) % 8
        assert shown[:, number].argmax() == peak
        assert shown[:, number].argmin() == trough
        assert shown[peak, number] > 5 * shown[trough, number]


def test_promotions_move_exposure_in_their_period():
    world = ConfoundedWorld(**SIZE, **{**ONLY, "promotion_weight": 1.0}, seed=2)
    group, promoted = world.surroundings.promotion_group, world.surroundings.promoted
    assert len(promoted) == 8
    assert (promoted[1:] != promoted[:-1]).all()
    assert 0 <= promoted.min() <= promoted.max() < 8
    assert len(set(promoted)) > 2
    shown = shown_by_group(world, group) / np.bincount(group)
    assert np.array_equal(shown.argmax(1), promoted)
    others = np.ma.masked_array(shown, mask=np.eye(8, dtype=bool)[promoted])
    assert (shown.max(1) > 5 * others.mean(1)).all()


def test_one_promotion_group_promotes_nothing():
    world = ConfoundedWorld(**SIZE, promotion_groups=1, seed=2)
    assert not world.surroundings.promotion.any()
    for abrupt in (False, True):
        world.dataset("temporal", abrupt=abrupt)


def test_periods_have_names_in_order():
    labels = [period.label for period in ConfoundedWorld(**SIZE, periods=12).periods]
    assert labels == sorted(labels)
    assert (labels[0], labels[11]) == ("period-00", "period-11")


def test_items_come_while_the_log_runs():
    settings = {"n_users": 500, "n_items": 400, "exposures": 40.0, "periods": 10, "seed": 4}
    world = ConfoundedWorld(**settings, launches=0.3)
    launched = world.surroundings.launched
    late = launched > 0
    assert late.mean() == pytest.approx(0.3, abs=0.07)
    counts = np.bincount(launched[late], minlength=10)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    everyone, items = np.arange(500)[:, None], np.arange(400)[None, :]
    for number, period in enumerate(world.periods):
        absent = launched > number
        shown = world.exposed(everyone, items, period)
        assert not shown[:, absent].any()
        assert shown[:, ~absent].any(0).mean() > 0.5
        law = world.exposure_law(period)
        assert (law[absent] == 0).all()
        assert law.sum() == pytest.approx(1)
        # How much is shown does not depend on what there is.
        assert shown.sum(1).mean() == pytest.approx(4, abs=0.3)


def test_launches_move_nothing_else():
    plain, other = ConfoundedWorld(**SIZE, seed=1), ConfoundedWorld(**SIZE, seed=1, launches=0.5)
    assert not plain.surroundings.launched.any()
    for before, after in zip(plain.periods, other.periods, strict=True):
        assert before.available.all()
        np.testing.assert_array_equal(before.salience, after.salience)
    everyone, items = np.arange(400)[:, None], np.arange(240)[None, :]
    np.testing.assert_array_equal(plain.relevant(everyone, items), other.relevant(everyone, items))


def test_the_truth_knows_what_was_not_there_yet(tmp_path):
    world = ConfoundedWorld(**SIZE, seed=1, launches=0.5)
    dataset = load_dataset(world.dataset("temporal").save(tmp_path / "world"))
    late = world.surroundings.launched[dataset.items.to_numpy()] > 0
    assert 0 < late.sum() < len(late)
    law = WorldTruth.of(dataset).exposure_law("period-0")
    np.testing.assert_array_equal(law == 0, late)
