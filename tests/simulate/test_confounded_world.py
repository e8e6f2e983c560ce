"""The simulated world against what it claims of itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from cnsdiff import ConfoundedWorld
from cnsdiff.errors import ConfigError

INTERVENTIONS = ("invert", "uniform", "resample")
SMALL = {"n_users": 300, "n_items": 120, "exposures": 30.0}


@pytest.fixture(scope="module")
def world() -> ConfoundedWorld:
    return ConfoundedWorld(**SMALL, seed=1)


def everyone(world: ConfoundedWorld) -> np.ndarray:
    return np.arange(world.n_users)


def saliences(world: ConfoundedWorld) -> dict[str, np.ndarray]:
    return {"log": world.salience, **{name: world.intervene(name) for name in INTERVENTIONS}}


def test_the_seed_decides_everything():
    for intervention in INTERVENTIONS:
        first, again = (ConfoundedWorld(**SMALL, seed=3).dataset(intervention) for _ in range(2))
        assert first.fingerprint == again.fingerprint
        assert first.manifest == again.manifest
        other = ConfoundedWorld(**SMALL, seed=4).dataset(intervention)
        assert first.fingerprint != other.fingerprint


def test_the_log_is_the_same_under_every_intervention(world):
    sets = [world.dataset(name) for name in INTERVENTIONS]
    for name in ("train", "valid", "test_iid"):
        for other in sets[1:]:
            assert np.array_equal(sets[0].split(name).users, other.split(name).users)
            assert np.array_equal(sets[0].split(name).items, other.split(name).items)
    assert len({dataset.fingerprint for dataset in sets}) == 3
    assert sets[0].scenario == "exposure-invert"
    assert sets[0].manifest["settings"]["confounding"] == world.confounding


def test_interventions(world):
    assert np.array_equal(world.intervene("invert"), -world.salience)
    assert not world.intervene("uniform").any()
    resampled = world.intervene("resample")
    assert abs(np.corrcoef(resampled, world.salience)[0, 1]) < 0.3
    assert np.array_equal(resampled, world.intervene("resample"))
    with pytest.raises(ConfigError, match="choose invert, uniform or resample"):
        world.intervene("reverse")


def test_exposure_follows_salience_and_an_intervention_turns_it(world):
    users = everyone(world)
    shown = {
        name: world.exposure_probability(users, salience).mean(0)
        for name, salience in saliences(world).items()
    }
    assert stats.spearmanr(shown["log"], world.salience).statistic > 0.95
    assert stats.spearmanr(shown["invert"], world.salience).statistic < -0.95
    assert abs(stats.spearmanr(shown["uniform"], world.salience).statistic) < 0.3


def test_without_confounding_salience_does_not_matter():
    world = ConfoundedWorld(**SMALL, confounding=0.0, seed=1)
    users = everyone(world)
    tables = [world.exposure_probability(users, value) for value in saliences(world).values()]
    for table in tables[1:]:
        assert np.array_equal(tables[0], table)


def test_relevance_knows_no_environment(world):
    """The same relevance, and the same relevant pairs, in every log."""
    users = everyone(world)
    before = world.relevance_probability(users).copy()
    clicks = {
        name: set(zip(*world.clicks(salience, name), strict=True))
        for name, salience in saliences(world).items()
    }
    assert np.array_equal(world.relevance_probability(users), before)
    other = ConfoundedWorld(**{**SMALL, "exposures": 90.0}, confounding=0.0, seed=1)
    assert np.array_equal(other.relevance_probability(users), before)
    # With everything shown, the clicks are the relevance: each log is a part of it.
    shown = ConfoundedWorld(**{**SMALL, "exposures": 119.999999}, personalisation=0, seed=1)
    relevant = set(zip(*shown.clicks(np.zeros(120), "all"), strict=True))
    for name, pairs in clicks.items():
        assert pairs <= relevant, name


@pytest.mark.parametrize("exposures", [5.0, 30.0, 100.0])
def test_users_are_shown_as_many_items_as_asked(exposures):
    world = ConfoundedWorld(**{**SMALL, "exposures": exposures}, seed=2)
    for name, salience in saliences(world).items():
        shown = world.exposure_probability(everyone(world), salience).sum(1).mean()
        assert shown == pytest.approx(exposures, rel=0.06), name


def test_probabilities_do_not_depend_on_who_is_asked(world):
    users = everyone(world)
    for table in (
        world.relevance_probability,
        lambda u: world.exposure_probability(u, world.salience),
    ):
        np.testing.assert_allclose(table(users)[7:9], table(users[7:9]), rtol=1e-12)


@pytest.mark.parametrize("name", ["log", *INTERVENTIONS])
def test_clicks_come_with_the_probability_of_relevance_times_exposure(world, name):
    users = everyone(world)
    salience = saliences(world)[name]
    expected = world.relevance_probability(users) * world.exposure_probability(users, salience)
    clicked = np.zeros_like(expected)
    clicked[world.clicks(salience, name)] = 1
    # In total, and over deciles of the probability.
    z = (clicked.sum() - expected.sum()) / np.sqrt((expected * (1 - expected)).sum())
    assert abs(z) < 4
    groups = np.array_split(np.argsort(expected, axis=None), 10)
    pairs = [(clicked.ravel()[g].sum(), expected.ravel()[g]) for g in groups]
    chi2 = sum((o - e.sum()) ** 2 / (e * (1 - e)).sum() for o, e in pairs)
    assert stats.chi2.sf(chi2, df=10) > 1e-4
    # And item by item.
    z_items = (clicked - expected).sum(0) / np.sqrt((expected * (1 - expected)).sum(0))
    assert stats.kstest(z_items, "norm").pvalue > 1e-4


def test_blocks_do_not_show(world, monkeypatch):
    whole = world.clicks(world.salience, "log")
    monkeypatch.setattr("cnsdiff.simulate.confounded_world._BLOCK", 37)
    for ours, theirs in zip(whole, world.clicks(world.salience, "log"), strict=True):
        assert np.array_equal(ours, theirs)


def pairs_of(dataset) -> dict[str, set[tuple[object, object]]]:
    found = {}
    for name in dataset.split_names:
        split = dataset.split(name)
        users, items = dataset.decode_users(split.users), dataset.decode_items(split.items)
        found[name] = set(zip(users, items, strict=True))
        assert len(found[name]) == len(split)
    return found


@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_no_pair_is_in_two_splits(world, intervention):
    dataset = world.dataset(intervention)
    assert dataset.split_names == ("train", "valid", "test_iid", "test_ood")
    for one, other in itertools.combinations(pairs_of(dataset).values(), 2):
        assert not one & other
    log = sum(len(dataset.split(name)) for name in ("train", "valid", "test_iid"))
    assert len(dataset.split("train")) / log == pytest.approx(0.7, abs=0.05)


def test_the_log_is_popular_and_the_uniform_test_is_not(world):
    dataset = world.dataset("uniform")
    counts = np.bincount(dataset.split("train").items, minlength=dataset.n_items)
    popularity = {name: counts[dataset.split(name).items].mean() for name in dataset.split_names}
    assert popularity["test_iid"] > 1.3 * popularity["test_ood"]


@pytest.mark.parametrize("exposures", [0, -1, 120, 500])
def test_impossible_exposures(exposures):
    with pytest.raises(ConfigError, match=r"exposures must lie between 0 and n_items=120"):
        ConfoundedWorld(**{**SMALL, "exposures": exposures})
