"""Popularity shift: the distribution, the exact counts, the caps."""

from __future__ import annotations

import numpy as np
import pytest

from cnsdiff.base.errors import ConfigError
from cnsdiff.data.interactions import Interactions
from cnsdiff.shifts import Popularity
from cnsdiff.shifts.popularity import apportion


def counts_of(frame, n_items=100):
    return np.bincount(frame["item"].to_numpy(), minlength=n_items)


@pytest.mark.parametrize("strength", [0, 0.5, 1, 2])
def test_item_counts_are_those_of_the_law(long_tail, named, strength):
    share = 0.02 if strength < 2 else 0.004
    scenario = Popularity(strength=strength, ood_share=share)
    dataset = scenario(long_tail)
    ood = counts_of(named(dataset, "test_ood"))
    popularity = counts_of(long_tail.frame)
    wanted = int(share * len(long_tail) + 0.5)
    assert ood.sum() == wanted
    quota = wanted * popularity ** (1.0 - strength) / (popularity ** (1.0 - strength)).sum()
    assert quota.max() < popularity.min() / 2 or strength == 0, "no cap should bind here"
    assert (np.abs(ood - quota) < 1).all()
    assert dataset.manifest.log["distance_to_target"] <= 100 / wanted


def test_caps_hold_and_the_rest_is_shared_in_proportion(long_tail, named):
    dataset = Popularity(ood_share=0.3, max_share=0.5)(long_tail)
    ood = counts_of(named(dataset, "test_ood"))
    popularity = counts_of(long_tail.frame)
    assert ood.sum() == int(0.3 * len(long_tail) + 0.5)
    assert (ood <= popularity // 2).all()
    # Few rows are anchored here, so the caps are nearly always half of an item's rows.
    expected = apportion(ood.sum(), np.ones(100), popularity // 2)
    assert np.abs(ood - expected).max() <= 12
    found = dataset.manifest.log
    assert found["items_at_cap"] > 10
    distance = np.abs(ood / ood.sum() - 0.01).sum() / 2
    assert found["distance_to_target"] == pytest.approx(distance, abs=1e-4)


def test_the_shift_grows_with_the_strength(long_tail, named):
    means = []
    for strength in (0, 0.5, 1, 1.5, 2):
        dataset = Popularity(strength=strength)(long_tail)
        popularity = counts_of(long_tail.frame)
        means.append(popularity[named(dataset, "test_ood")["item"].to_numpy()].mean())
    assert (np.diff(means) < -5).all()


def test_which_rows_of_an_item_is_a_matter_of_chance(long_tail, named):
    drawn = [named(Popularity()(long_tail, seed=seed), "test_ood") for seed in (0, 1)]
    common = drawn[0].join(drawn[1], on=["user", "item"])
    assert common.height < 0.5 * drawn[0].height
    assert (counts_of(drawn[0]) == counts_of(drawn[1])).mean() > 0.8


def test_every_user_and_item_is_known_and_nothing_is_lost(long_tail, named):
    dataset = Popularity(strength=2, ood_share=0.3)(long_tail)
    everything = named(dataset, *dataset.split_names)
    assert everything.sort("timestamp").equals(long_tail.frame.sort("timestamp"))
    assert dataset.n_users == long_tail.n_users
    assert dataset.n_items == long_tail.n_items
    assert dataset.manifest.log["left_out"] == 0


def test_targets_by_name():
    assert Popularity() == Popularity(strength=1.0)
    assert Popularity(target="uniform").strength == 1
    assert Popularity(target="inverted").strength == 2
    assert Popularity(target="tempered", strength=0.3).strength == 0.3
    for settings, sentence in (
        ({"target": "tempered"}, "target 'tempered' needs a strength"),
        ({"target": "uniform", "strength": 2}, "target 'uniform' is strength 1, and strength 2"),
        ({"target": "unifrom"}, "target: input should be 'uniform', 'inverted' or 'tempered'"),
        ({"strength": -1}, "strength: input should be greater than or equal to 0"),
        ({"ood_share": 0}, "ood_share: input should be greater than 0"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Popularity(**settings)


def test_more_than_the_caps_hold(long_tail):
    with pytest.raises(ConfigError, match=r"shop.csv: at most \d+ of the \d+ rows.*ood_share asks"):
        Popularity(ood_share=0.6)(long_tail)


def test_a_log_of_singletons_has_nothing_to_spare(long_tail):
    lonely = Interactions(long_tail.frame.unique("item", keep="first").unique("user"), "x.csv")
    with pytest.raises(ConfigError, match="at most 0 of the"):
        Popularity()(lonely)
