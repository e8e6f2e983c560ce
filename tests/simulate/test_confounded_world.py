"""The structural causal model against what it claims of itself."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import expit

from cnsdiff import ConfoundedWorld
from cnsdiff.base.errors import ConfigError
from cnsdiff.simulate.confounded_world import (
    LOG_START,
    PERIOD_SECONDS,
    content_map,
    item_features,
    user_features,
)

SMALL = {"n_users": 300, "n_items": 120, "exposures": 40.0, "periods": 4}


@pytest.fixture(scope="module")
def world() -> ConfoundedWorld:
    return ConfoundedWorld(**SMALL, seed=1)


def everyone(world):
    """Users and items whose broadcast is all pairs."""
    return np.arange(world.n_users)[:, None], np.arange(world.n_items)[None, :]


def all_environments(world):
    plans = [world.intervene(shift) for shift in ("popularity", "temporal", "exposure", "hybrid")]
    return [*world.periods, *(one for plan in plans for one in plan.shifted)]


def clicked_table(world, environments) -> np.ndarray:
    table = np.zeros((world.n_users, world.n_items), dtype=bool)
    clicks = world.clicks(environments)
    table[clicks["user"].to_numpy(), clicks["item"].to_numpy()] = True
    return table


# -- relevance -----------------------------------------------------------------------------------


def test_affinity_is_the_inner_product_of_variance_one(world):
    users, items = everyone(world)
    np.testing.assert_allclose(
        world.affinity(users, items), world.tastes @ world.attributes.T, rtol=1e-12, atol=1e-14
    )
    large = ConfoundedWorld(n_users=2000, n_items=500)
    assert large.affinity(*everyone(large)).var() == pytest.approx(1, rel=0.1)


def test_relevance_comes_with_its_probability(world):
    users, items = everyone(world)
    probability = world.relevance_probability(users, items)
    np.testing.assert_allclose(
        probability, expit(3 * (world.tastes @ world.attributes.T - 0.5)), rtol=1e-10
    )
    relevant = world.relevant(users, items)
    for group in np.array_split(np.argsort(probability, axis=None), 10):
        p = probability.ravel()[group]
        z = (relevant.ravel()[group].sum() - p.sum()) / np.sqrt((p * (1 - p)).sum())
        assert abs(z) < 4


def test_relevance_is_the_same_however_it_is_asked(world):
    """Bit for bit: the probabilities too, on which a draw may hang."""
    users, items = everyone(world)
    for ask in (world.relevance_probability, world.relevant):
        table = ask(users, items)
        some = np.random.default_rng(0).integers(world.n_users, size=50)
        theirs = np.random.default_rng(1).integers(world.n_items, size=(50, 7))
        assert np.array_equal(ask(some, theirs), table[some[:, None], theirs])
        assert np.array_equal(ask(some, theirs[:, 0]), table[some, theirs[:, 0]])
        assert ask(3, 5) == table[3, 5]
        assert np.array_equal(ask(3, theirs), table[3, theirs])
        assert np.array_equal(ask(users[7:9], items[:, ::-3]), table[7:9, ::-3])


def test_nothing_but_taste_and_seed_moves_relevance(world):
    """Under any environment, confounding and amount of exposure it is the same bit for bit."""
    users, items = everyone(world)
    before = world.relevant(users, items)
    for shift in ("popularity", "temporal", "exposure", "hybrid"):
        world.dataset(shift)
        assert np.array_equal(world.relevant(users, items), before)
    changes = (
        {"confounding": 0.0}, {"exposures": 5.0}, {"periods": 9}, {"season_weight": 3.0},
        {"content_noise": 2.0}, {"personalisation": 3.0}, {"promotion_groups": 2},
    )  # fmt: skip
    for change in changes:
        other = ConfoundedWorld(**{**SMALL, **change}, seed=1)
        assert np.array_equal(other.relevant(users, items), before), change
    other = ConfoundedWorld(**SMALL, seed=2)
    assert not np.array_equal(other.relevant(users, items), before)


# -- exposure ------------------------------------------------------------------------------------


def test_exposure_probability_is_the_equation(world):
    """σ(a θ·φ + b E + c), with one c for all pairs of an environment."""
    affinity = world.tastes @ world.attributes.T
    for environment in world.periods:
        probability = world.exposure_probability(np.arange(world.n_users), environment)
        logit = np.log(probability / (1 - probability))
        offset = logit - 0.5 * affinity - 1.5 * environment.salience
        np.testing.assert_allclose(offset, offset[0, 0], rtol=1e-9)


def test_laws_are_the_integrals_over_users(world):
    """Against adaptive quadrature, with c from the dense table."""
    for environment in all_environments(world):
        law = world.exposure_law(environment)
        assert law.sum() == pytest.approx(1, abs=1e-12)
        kept = 1 - environment.randomised
        dense = world.exposure_probability(np.array([0]), environment)[0]
        affinity = world.tastes[0] @ world.attributes.T
        pull = np.log(dense / (1 - dense)) - kept * 0.5 * affinity
        # A taste is normal with variance dim^-1/2 in each factor, so θ·φ_i is normal too.
        spread = kept * 0.5 * 8**-0.25 * np.linalg.norm(world.attributes, axis=1)
        means = [
            integrate.quad(lambda z, p=p, s=s: expit(p + s * z) * stats.norm.pdf(z), -9, 9)[0]
            for p, s in zip(pull[:20], spread[:20], strict=True)
        ]
        np.testing.assert_allclose(law[:20] * environment.exposures, means, rtol=1e-8)


@pytest.mark.parametrize("personalisation", [0.0, 2.0, 8.0])
def test_laws_hold_on_average_over_users(personalisation):
    world = ConfoundedWorld(
        n_users=40_000, n_items=30, exposures=10, periods=2, personalisation=personalisation
    )
    for environment in all_environments(world):
        probability = world.exposure_probability(np.arange(world.n_users), environment)
        error = probability.std(0) / np.sqrt(world.n_users) + 1e-12
        difference = probability.mean(0) - world.exposure_law(environment) * environment.exposures
        assert np.abs(difference / error).max() < 4.5, environment.label


@pytest.mark.parametrize("exposures", [5.0, 40.0, 110.0])
def test_users_are_shown_as_many_items_as_asked(exposures):
    world = ConfoundedWorld(**{**SMALL, "n_users": 3000, "exposures": exposures}, seed=2)
    for environment in all_environments(world):
        shown = world.exposure_probability(np.arange(world.n_users), environment).sum(1).mean()
        assert shown == pytest.approx(environment.exposures, rel=0.03), environment.label
    assert sum(environment.exposures for environment in world.periods) == pytest.approx(exposures)


def exposure_p_values(environments_of, seeds):
    """χ² of how often each item was shown, one p-value for each seed."""
    found = []
    for seed in range(seeds):
        world = ConfoundedWorld(n_users=400, n_items=60, exposures=20, periods=4, seed=seed)
        users, items = everyone(world)
        statistic, freedom, z_sum = 0.0, 0, np.zeros(60)
        variance_sum = np.zeros(60)
        for environment in environments_of(world):
            probability = world.exposure_probability(np.arange(world.n_users), environment)
            shown = world.exposed(users, items, environment).sum(0)
            excess, variance = (
                shown - probability.sum(0),
                (probability * (1 - probability)).sum(0),
            )
            statistic += float((excess**2 / variance).sum())
            freedom += 60
            z_sum += excess
            variance_sum += variance
        found.append(
            (
                stats.chi2.sf(statistic, freedom),
                stats.chi2.sf((z_sum**2 / variance_sum).sum(), 60),  # summed over the periods
            )
        )
    return np.array(found)


@pytest.mark.parametrize(
    "environments_of",
    [lambda w: w.periods, lambda w: w.intervene("popularity").shifted],
    ids=["logged", "do(popularity)"],
)
def test_exposure_counts_match_their_law_over_seeds(environments_of):
    p_values = exposure_p_values(environments_of, seeds=40)
    for column in p_values.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3


def test_exposure_is_drawn_anew_in_each_environment():
    """Given the probabilities, being shown in one period says nothing about another."""
    world = ConfoundedWorld(**SMALL, seed=4)
    users, items = everyone(world)
    residuals = [
        world.exposed(users, items, one) - world.exposure_probability(users[:, 0], one)
        for one in (*world.periods, *world.intervene("popularity").shifted)
    ]
    correlation = np.corrcoef([residual.ravel() for residual in residuals])
    off_diagonal = correlation[np.triu_indices(len(residuals), 1)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(world.n_users * world.n_items)


# -- clicks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", ["popularity", "temporal", "exposure", "hybrid"])
def test_a_click_is_the_first_exposure_of_what_is_relevant(world, shift):
    """Y = O·R, pair by pair, against a dense brute-force twin."""
    users, items = everyone(world)
    relevant = world.relevant(users, items)
    plan = world.intervene(shift)
    for environments in (plan.logged, plan.shifted):
        exposed = np.stack([world.exposed(users, items, one) for one in environments])
        clicks = world.clicks(environments)
        table = clicked_table(world, environments)
        assert clicks.height == table.sum()
        assert np.array_equal(table, exposed.any(0) & relevant)
        first = exposed.argmax(0)[clicks["user"].to_numpy(), clicks["item"].to_numpy()]
        assert clicks["period"].to_list() == [environments[n].label for n in first]
        moment = (clicks["timestamp"].to_numpy() - LOG_START) / PERIOD_SECONDS
        starts = np.array([one.start for one in environments])[first]
        ends = starts + np.array([one.length for one in environments])[first]
        assert ((starts - 1e-6 <= moment) & (moment < ends)).all()
        assert clicks["timestamp"].is_sorted()
        shown = world.exposures(environments)
        assert shown.height == exposed.any(0).sum()
        assert shown.filter("relevant").drop("relevant").equals(clicks)


def test_clicks_come_with_their_probability_over_the_periods(world):
    """P(Y) = P(R) (1 - Π_t (1 - P(O_t))), in total and item by item."""
    users = np.arange(world.n_users)
    missed = np.prod([1 - world.exposure_probability(users, one) for one in world.periods], axis=0)
    expected = world.relevance_probability(*everyone(world)) * (1 - missed)
    excess = clicked_table(world, world.periods) - expected
    variance = expected * (1 - expected)
    assert abs(excess.sum() / np.sqrt(variance.sum())) < 4
    z_items = excess.sum(0) / np.sqrt(variance.sum(0))
    assert stats.kstest(z_items, "norm").pvalue > 1e-3


def confounding_p_value(confounding: float, seed: int) -> float:
    """Whether salience tells more about who clicked than taste and relevance do.

    Given relevance and what exposure would be without confounding, the number of clicks of an
    item has a known mean and variance; the statistic is the salience-weighted sum of what is
    left, standard normal if salience is beside the point.
    """
    world = ConfoundedWorld(
        n_users=200, n_items=80, exposures=30, periods=3, confounding=confounding, seed=seed
    )
    twin = ConfoundedWorld(
        n_users=200, n_items=80, exposures=30, periods=3, confounding=0.0, seed=seed
    )
    users, items = everyone(world)
    relevant = world.relevant(users, items)
    missed = np.prod(
        [1 - twin.exposure_probability(users[:, 0], one) for one in twin.periods], axis=0
    )
    mean = (relevant * (1 - missed)).sum(0)
    variance = (relevant * missed * (1 - missed)).sum(0)
    salience = np.mean([one.salience for one in world.periods], axis=0)
    left = clicked_table(world, world.periods).sum(0) - mean
    z = (salience * left).sum() / np.sqrt((salience**2 * variance).sum())
    return float(2 * stats.norm.sf(abs(z)))


def test_without_confounding_popularity_says_nothing_beyond_taste():
    p_values = [confounding_p_value(0.0, seed) for seed in range(60)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-2
    assert stats.combine_pvalues(p_values, method="fisher").pvalue > 1e-2


def test_with_confounding_popularity_says_more_than_taste():
    """The same test has power: always at b = 0.5, mostly at 0.1."""
    assert max(confounding_p_value(0.5, seed) for seed in range(10)) < 1e-4
    weak = [confounding_p_value(0.1, seed) for seed in range(20)]
    assert stats.combine_pvalues(weak, method="fisher").pvalue < 1e-6


def test_without_confounding_every_environment_shows_the_same():
    world = ConfoundedWorld(**SMALL, confounding=0.0, seed=1)
    users = np.arange(world.n_users)
    first, *others = (*world.periods, *world.intervene("popularity").shifted)
    for other in others:
        assert np.array_equal(
            world.exposure_probability(users, first), world.exposure_probability(users, other)
        )
        assert np.array_equal(world.exposure_law(first), world.exposure_law(other))


# -- what else is observed -----------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_content_features_follow_attributes_as_the_noise_says(noise):
    world = ConfoundedWorld(n_items=20_000, content_noise=noise, content_features=6, seed=3)
    table = item_features(world.settings, world.attributes)
    assert table.columns == ["item", *(f"content_{n}" for n in range(6))]
    features = table.drop("item").to_numpy()
    signal = world.attributes @ content_map(world.settings).T
    np.testing.assert_allclose(signal.var(0), 1, rtol=0.06)
    left = features - signal
    for number in range(6):
        correlation = np.corrcoef(features[:, number], signal[:, number])[0, 1]
        assert correlation == pytest.approx(1 / np.sqrt(1 + noise**2), abs=0.03)
        assert left[:, number].std() == pytest.approx(noise, rel=0.03)
    if noise:
        assert np.abs(np.corrcoef(left.T) - np.eye(6)).max() < 0.04


def test_features_lie_beside_the_splits(world):
    dataset = world.dataset()
    for name, ids, given in (
        ("item_features", dataset.items, item_features(world.settings, world.attributes)),
        ("user_features", dataset.users, user_features(world.settings, world.tastes)),
    ):
        assert dataset.table(name).equals(given[ids.to_numpy()].drop(given.columns[0])), name


def test_groups_of_users_differ_in_taste():
    world = ConfoundedWorld(n_users=3000, seed=3)
    tastes = world.tastes
    groups = user_features(world.settings, tastes)["group"].to_numpy()
    assert sorted(set(groups)) == [f"group-{n}" for n in range(4)]
    samples = [tastes[groups == group] for group in sorted(set(groups))]
    assert min(stats.f_oneway(*samples).pvalue) < 1e-20
    # An attribute, not taste itself: no group is beyond doubt.
    assert all(sample.std(0).mean() > 0.6 * tastes.std(0).mean() for sample in samples)


def test_the_seed_decides_everything():
    for shift in ("popularity", "temporal", "exposure", "hybrid"):
        first, again = (ConfoundedWorld(**SMALL, seed=3).dataset(shift) for _ in range(2))
        assert first.fingerprint == again.fingerprint
        assert first.manifest == again.manifest
        other = ConfoundedWorld(**SMALL, seed=4).dataset(shift)
        assert first.fingerprint != other.fingerprint


def test_a_world_can_be_built_again_from_its_dataset(world):
    dataset = world.dataset("popularity", strength=0.3)
    settings = dataset.manifest.settings
    again = ConfoundedWorld(**settings["world"])
    assert again.dataset(**settings["shift"]).fingerprint == dataset.fingerprint


def test_blocks_do_not_show(world, monkeypatch):
    whole = world.clicks(world.periods), world.exposures(world.periods)
    monkeypatch.setattr("cnsdiff.simulate.clicks.PAIRS_AT_ONCE", 37 * 120 + 5)
    assert world.clicks(world.periods).equals(whole[0])
    assert world.exposures(world.periods).equals(whole[1])


@pytest.mark.slow
def test_memory_is_bounded_by_a_block():
    """One table of 20,000 × 2,000 float64 alone would take 320 MB."""
    world = ConfoundedWorld(n_users=20_000, n_items=2_000)
    tracemalloc.start()
    try:
        clicks = world.clicks(world.periods)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert clicks.height > 100_000
    assert peak < 150 * 2**20


# -- settings ------------------------------------------------------------------------------------

IMPOSSIBLE = [
    ({"exposures": 0}, "exposures must lie between 0 and n_items=120, not 0"),
    ({"exposures": -1}, "exposures must lie between 0 and n_items=120, not -1"),
    ({"exposures": 120}, "exposures must lie between 0 and n_items=120, not 120"),
    ({"exposures": float("nan")}, "exposures: must be a finite number"),
    ({"n_users": 0}, "n_users: input should be greater than or equal to 1"),
    ({"n_items": 1}, "n_items: input should be greater than or equal to 2"),
    ({"confounding": -1}, "confounding: input should be greater than or equal to 0"),
    ({"confounding": float("inf")}, "confounding: input should be less than or equal to 1000"),
    ({"periods": 0}, "periods: input should be greater than or equal to 1"),
    ({"persistence": 1.5}, "persistence: input should be less than or equal to 1"),
    ({"seed": -1}, "seed: input should be greater than or equal to 0"),
    ({"confunding": 1}, "unknown setting 'confunding' \\(did you mean 'confounding'\\?\\)"),
    (
        {"exposures": 119, "periods": 1, "launches": -0.1},
        "launches: input should be greater than or equal to 0",
    ),
    (
        {"exposures": 100, "periods": 2, "launches": 0.9},
        "50 exposures a period are too many for the \\d+ items of the first; lower exposures",
    ),
    ({"zzz": 1}, "unknown setting 'zzz'; its settings are n_users, "),
]


@pytest.mark.parametrize(("change", "sentence"), IMPOSSIBLE)
def test_impossible_settings(change, sentence):
    with pytest.raises(ConfigError, match="^ConfoundedWorld: " + sentence) as caught:
        ConfoundedWorld(**{**SMALL, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("confounding", [0.0, 5.0, 50.0])
def test_extreme_worlds_still_show_what_they_should(confounding):
    world = ConfoundedWorld(
        n_users=50, n_items=20, exposures=19.9, periods=1, confounding=confounding
    )
    probability = world.exposure_probability(np.arange(50), world.periods[0])
    assert np.isfinite(probability).all()
    assert probability.sum(1).mean() == pytest.approx(19.9, rel=0.02)
