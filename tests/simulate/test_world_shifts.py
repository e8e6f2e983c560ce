"""The four shifts: what each changes, and what each leaves alone."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from cnsdiff import ConfoundedWorld
from cnsdiff.base.errors import ConfigError

SHIFTS = ("popularity", "temporal", "exposure", "hybrid", "temporal+exposure")
SMALL = {"n_users": 400, "n_items": 120, "exposures": 40.0}


@pytest.fixture(scope="module")
def world() -> ConfoundedWorld:
    return ConfoundedWorld(**SMALL, seed=1)


def saliences(environments) -> np.ndarray:
    return np.array([environment.salience for environment in environments])


def distance(dataset, split) -> float:
    """Jensen-Shannon divergence (bits) of item popularity between train and a split."""
    counts = [
        np.bincount(dataset.split(name).items, minlength=dataset.n_items)
        for name in ("train", split)
    ]
    return float(jensenshannon(*counts, base=2) ** 2)


def pairs_of(dataset) -> dict[str, set[tuple[object, object]]]:
    found = {}
    for name in dataset.split_names:
        split = dataset.split(name)
        users, items = dataset.decode_users(split.users), dataset.decode_items(split.items)
        found[name] = set(zip(users, items, strict=True))
        assert len(found[name]) == len(split)
    return found


# -- every shift ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", SHIFTS)
def test_no_pair_is_in_two_splits_and_all_is_relevant(world, shift):
    dataset = world.dataset(shift)
    assert dataset.scenario == shift
    assert dataset.split_names == ("train", "valid", "test_iid", "test_ood")
    pairs = pairs_of(dataset)
    for one, other in itertools.combinations(pairs.values(), 2):
        assert not one & other
    users, items = np.array([pair for split in pairs.values() for pair in split]).T
    assert world.relevant(users, items).all()
    log = sum(len(pairs[name]) for name in ("train", "valid", "test_iid"))
    assert len(pairs["train"]) / log == pytest.approx(0.7, abs=0.04)
    assert len(pairs["valid"]) / log == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("shift", SHIFTS)
def test_splits_carry_times_and_environments(world, shift):
    dataset, plan = world.dataset(shift), world.intervene(shift)
    logged = [environment.label for environment in plan.logged]
    shifted = [environment.label for environment in plan.shifted]
    assert dataset.periods == [*logged, *(name for name in shifted if name not in logged)]
    for name in dataset.split_names:
        split = dataset.split(name)
        assert split.timestamps is not None
        assert split.periods is not None
        used = {dataset.periods[code] for code in np.unique(split.periods)}
        assert used == set(shifted if name == "test_ood" else logged)
    assert dataset.manifest.settings["environments"] == {"logged": logged, "test_ood": shifted}


def test_the_log_is_the_same_under_shifts_of_the_same_periods(world):
    one, other = world.dataset("popularity"), world.dataset("exposure")
    for name in ("train", "valid", "test_iid"):
        assert np.array_equal(one.split(name).users, other.split(name).users)
        assert np.array_equal(one.split(name).items, other.split(name).items)
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_ood_test_is_farther_from_train_than_the_iid_test(world, shift):
    dataset = world.dataset(shift)
    assert distance(dataset, "test_ood") > 2 * distance(dataset, "test_iid")


def test_without_confounding_there_is_no_shift_but_that_of_time():
    world = ConfoundedWorld(**{**SMALL, "n_users": 2000}, confounding=0.0, seed=1)
    for shift in ("popularity", "temporal", "hybrid"):
        dataset = world.dataset(shift)
        assert distance(dataset, "test_ood") < 0.02, shift


def test_validation_and_iid_test_are_random_parts_of_the_log(world):
    dataset = world.dataset("temporal")
    train = dataset.split("train")
    for name in ("valid", "test_iid"):
        other = dataset.split(name)
        assert stats.ks_2samp(train.timestamps, other.timestamps).pvalue > 1e-3
        assert stats.ks_2samp(train.items, other.items).pvalue > 1e-3


# -- popularity ----------------------------------------------------------------------------------


def test_popularity_changes_popularity_and_nothing_else(world):
    parts = world.surroundings
    for target, sign in (("inverted", -1), ("uniform", 0)):
        plan = world.intervene("popularity", target=target)
        assert plan.logged == world.periods
        for before, after in zip(plan.logged, plan.shifted, strict=True):
            assert np.array_equal(after.popularity, sign * before.popularity)
            for name in ("season", "promotion", "start", "length", "exposures"):
                assert np.array_equal(getattr(after, name), getattr(before, name))
            assert np.array_equal(
                after.salience, parts.salience(after.popularity, after.season, after.promotion)
            )
            # E is linear in its parts: this weight, by the scale of the logged mix.
            slope = (after.salience - before.salience) / (after.popularity - before.popularity)
            np.testing.assert_allclose(slope, slope[0], rtol=1e-9)
    resampled = world.intervene("popularity", target="resampled").shifted
    assert np.array_equal(resampled[0].popularity, resampled[7].popularity)
    assert abs(np.corrcoef(resampled[0].popularity, parts.popularity[0])[0, 1]) < 0.3


def test_strength_goes_from_the_log_to_the_full_shift(world):
    full = world.intervene("popularity").shifted
    for strength in (0.0, 0.25, 0.5, 1.0):
        some = world.intervene("popularity", strength=strength).shifted
        mean = (1 - strength) * saliences(world.periods) + strength * saliences(full)
        np.testing.assert_allclose(saliences(some), mean, atol=1e-12)
    uniform = world.intervene("popularity", target="uniform").shifted
    half = world.intervene("popularity", strength=0.5).shifted
    np.testing.assert_allclose(saliences(half), saliences(uniform), atol=1e-12)


@pytest.mark.parametrize("shift", ["popularity", "exposure"])
def test_distance_grows_with_strength(shift):
    world = ConfoundedWorld(**{**SMALL, "n_users": 1000}, seed=1)
    distances = [
        distance(world.dataset(shift, strength=strength), "test_ood")
        for strength in (0.0, 0.5, 1.0)
    ]
    assert distances[0] < 0.8 * distances[1] < 0.8 * distances[2]


def test_at_strength_zero_the_test_is_another_log_of_the_same_world():
    """Exposure counts agree up to chance; the clicks are not the log's."""
    world = ConfoundedWorld(**SMALL, seed=5)
    plan = world.intervene("popularity", strength=0.0)
    log, other = world.clicks(plan.logged), world.clicks(plan.shifted)
    counts = np.array([np.bincount(one["item"], minlength=120) for one in (log, other)])
    assert stats.chi2_contingency(counts).pvalue > 1e-3
    both = log.join(other, on=["user", "item"], how="semi").height
    assert both < 0.75 * log.height


# -- temporal ------------------------------------------------------------------------------------


def test_natural_evolution_is_the_worlds_own_future(world):
    plan = world.intervene("temporal")
    assert plan.logged == world.periods[:6]
    assert plan.shifted == world.periods[6:]
    dataset = world.dataset("temporal")
    latest = max(dataset.split(name).timestamps.max() for name in ("train", "valid", "test_iid"))
    assert latest <= dataset.split("test_ood").timestamps.min()
    # Train and test together are a part of the uncut log.
    whole = set(world.clicks(world.periods).select("user", "item").iter_rows())
    assert set().union(*pairs_of(dataset).values()) <= whole


def test_frozen_time(world):
    """At strength 0 the later periods are like the last one before the cut."""
    plan = world.intervene("temporal", strength=0.0, test_periods=3)
    assert len(plan.logged) == 5
    for later in plan.shifted:
        np.testing.assert_allclose(later.salience, plan.logged[-1].salience, atol=1e-12)
        assert later.label not in {period.label for period in world.periods}
    assert [later.start for later in plan.shifted] == [5, 6, 7]


def test_an_abrupt_change_turns_seasons_and_campaigns_over(world):
    parts = world.surroundings
    plan = world.intervene("temporal", abrupt=True)
    assert plan.logged == world.periods[:6]
    for natural, later in zip(world.periods[6:], plan.shifted, strict=True):
        assert np.array_equal(later.popularity, natural.popularity)
        assert np.array_equal(later.season, -natural.season)
        lifted = set(parts.promotion_group[later.promotion > 0])
        assert lifted == {(parts.promoted[natural.start] + 4) % 8}
    across = [
        np.corrcoef(world.periods[5].salience, later.salience)[0, 1]
        for later in (world.periods[6], plan.shifted[0])
    ]
    assert across[1] < across[0] - 0.1


# -- exposure ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [None, 15.0])
def test_a_randomised_experiment_shows_all_items_alike(world, shown):
    (experiment,) = world.intervene("exposure", shown=shown).shifted
    share = (shown or 40) / 120
    probability = world.exposure_probability(np.arange(world.n_users), experiment)
    np.testing.assert_allclose(probability, share, rtol=1e-9)
    np.testing.assert_allclose(world.exposure_law(experiment), 1 / 120, rtol=1e-9)
    seen = world.exposures([experiment])
    by_item, by_user = (np.bincount(seen[key]) for key in ("item", "user"))
    expected = world.n_users * share
    chi2 = ((by_item - expected) ** 2).sum() / (expected * (1 - share))
    assert 1e-3 < stats.chi2.sf(chi2, 120) < 1 - 1e-3
    assert by_user.mean() == pytest.approx(shown or 40, rel=0.05)


def test_judgements_are_the_experiment_and_the_truth(world):
    dataset = world.dataset("exposure")
    judged = dataset.table("judgements")
    users = dataset.users.gather(judged["user"]).to_numpy()
    items = dataset.items.gather(judged["item"]).to_numpy()
    assert np.array_equal(world.relevant(users, items), judged["relevant"].to_numpy())
    seen = world.exposures(world.intervene("exposure").shifted)
    seen = seen.filter(pl.col("item").is_in(dataset.items.implode()))  # those train knows
    assert len(users) == judged.height == seen.height
    assert set(zip(users, items, strict=True)) == set(seen.select("user", "item").iter_rows())
    # About as relevant as pairs are at large, which clicks are not.
    everyone, everything = np.arange(world.n_users)[:, None], np.arange(world.n_items)[None, :]
    share = world.relevant(everyone, everything).mean()
    assert judged["relevant"].mean() == pytest.approx(share, abs=0.02)
    liked = set(zip(users[judged["relevant"]], items[judged["relevant"]], strict=True))
    pairs = pairs_of(dataset)
    assert pairs["test_ood"] <= liked
    log = pairs["train"] | pairs["valid"] | pairs["test_iid"]
    assert liked - pairs["test_ood"] <= log


@pytest.mark.parametrize("shift", ["popularity", "temporal", "hybrid"])
def test_clicks_alone_are_no_judgements(world, shift):
    assert "judgements" not in world.dataset(shift).table_names


def test_half_randomised(world):
    (half,) = world.intervene("exposure", strength=0.5).shifted
    np.testing.assert_allclose(half.salience, saliences(world.periods).mean(0), atol=1e-12)
    probability = world.exposure_probability(np.arange(5), half)
    logit = np.log(probability / (1 - probability))
    affinity = world.tastes[:5] @ world.attributes.T
    offset = logit - 0.5 * (0.5 * affinity + 1.5 * half.salience)
    np.testing.assert_allclose(offset, offset[0, 0], rtol=1e-9)


# -- hybrid --------------------------------------------------------------------------------------


def test_a_hybrid_is_the_composition(world):
    hybrid = world.intervene("hybrid")
    assert hybrid.logged == world.periods[:6]
    inverted = world.intervene("popularity").shifted[6:]
    assert np.array_equal(saliences(hybrid.shifted), saliences(inverted))
    assert [one.label for one in hybrid.shifted] == ["period-6/popularity", "period-7/popularity"]
    for name in ("temporal+popularity", "popularity+temporal"):
        spelt = world.intervene(name)
        assert np.array_equal(saliences(spelt.shifted), saliences(hybrid.shifted))
    (late,) = world.intervene("temporal+exposure").shifted
    assert (late.start, late.length) == (6, 2)
    assert late.exposures == pytest.approx(10)


# -- refusals ------------------------------------------------------------------------------------

REFUSED = [
    ("popularty", {}, r"unknown shift 'popularty' \(did you mean 'popularity'\?\); choose"),
    ("temporal+temporal", {}, "names one shift twice"),
    ("exposure+", {}, "unknown shift ''"),
    ("popularity", {"strength": 1.5}, "strength: input should be less than or equal to 1"),
    ("popularity", {"strength": float("nan")}, "strength: input should be"),
    ("popularity", {"target": "reversed"}, "target: input should be 'inverted', 'uniform' or"),
    ("temporal", {"test_periods": 8}, "test_periods 8 of 8 periods leave none to train on"),
    ("temporal", {"test_periods": 0}, "test_periods: input should be greater than or equal to 1"),
    ("exposure", {"shown": 120}, "shown must be less than the 120 items there are, not 120"),
    ("exposure", {"shown": 0}, "shown: input should be greater than 0"),
    ("exposure", {"valid": 0.6, "test_iid": 0.4}, "leave nothing to train on"),
    ("exposure", {"strenght": 1}, r"unknown setting 'strenght' \(did you mean 'strength'\?\)"),
]


@pytest.mark.parametrize(("shift", "options", "sentence"), REFUSED)
def test_impossible_shifts(world, shift, options, sentence):
    with pytest.raises(ConfigError, match="^ConfoundedWorld: .*" + sentence) as caught:
        world.dataset(shift, **options)
    assert "\n" not in str(caught.value)


def test_a_world_too_small_for_its_splits():
    for size in ({"n_users": 1, "n_items": 4}, {"n_users": 3, "n_items": 3}):
        with pytest.raises(ConfigError, match=r"leaves the \w+ split empty; raise n_users"):
            ConfoundedWorld(**size, exposures=1).dataset()


def test_one_period_cannot_be_cut():
    with pytest.raises(ConfigError, match="leave none to train on; lower test_periods or raise"):
        ConfoundedWorld(**SMALL, periods=1).dataset("temporal")
