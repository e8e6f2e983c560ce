"""Two shifts at once: the second chooses among what the first holds out."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from cnsdiff.base.errors import CnsdiffWarning, ConfigError
from cnsdiff.shifts import Hybrid, Noise, Popularity, Temporal, UserGroup
from cnsdiff.testing import tiny_source


def test_the_past_trains_and_the_future_is_resampled(long_tail, named):
    dataset = Hybrid()(long_tail)
    alone = Temporal()(long_tail)
    side = ("train", "valid", "test_iid")
    assert set(named(dataset, *side).rows()) == set(named(alone, *side).rows())
    future = named(alone, "test_ood")
    ood = named(dataset, "test_ood")
    assert ood.join(future, on=["user", "item"], how="semi").height == ood.height
    # Half of the future, its items as alike as their rows allow.
    assert ood.height == int(future.height / 2 + 0.5)
    level = np.bincount(ood["item"], minlength=100)
    there = np.bincount(future["item"], minlength=100)
    assert (level[there > level] >= level.max() - 1).all()
    found = dataset.manifest.log
    assert found["left_out"] == len(long_tail) - named(dataset, *dataset.split_names).height
    assert found["cut"] == alone.manifest.log["cut"]


def test_few_users_of_the_future_are_warned_of(long_tail):
    with pytest.warns(CnsdiffWarning, match=r"only \d+ users known before the cut") as told:
        dataset = Hybrid(first={"quantile": 0.95})(long_tail)
    assert f"only {len(set(dataset.split('test_ood').users))} users" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Hybrid(first="noise")(tiny_source(n_users=30, n_items=30))


def test_what_the_first_does_not_know_is_no_candidate():
    source = tiny_source(n_users=30, n_items=300)
    dataset = Hybrid(first=Temporal(quantile=0.5))(source)
    assert dataset.manifest.splits["test_ood"].dropped_unknown == 0
    assert dataset.manifest.log["unknown_to_first"] == 0
    assert dataset.n_new_items > 0
    bare = Hybrid(first=Temporal(quantile=0.5))(replace(source, features={}))
    assert bare.manifest.log["unknown_to_first"] > 0
    assert bare.n_new_items == 0
    assert np.array_equal(bare.split("test_ood").items, dataset.split("test_ood").items)


def test_both_corrupt_what_is_observed(long_tail, named):
    dataset = Hybrid(first=Noise(kind="drop", strength=0.3), second=Popularity(ood_share=0.3))(
        long_tail
    )
    held_out = int(0.2 * len(long_tail) + 0.5)
    side = len(long_tail) - held_out
    assert named(dataset, "train", "valid", "test_iid").height == side - int(0.3 * side + 0.5)
    flipped = Hybrid(second=Noise(strength=0.5))(long_tail)
    known = set(long_tail.frame.select("user", "item").rows())
    trained = named(flipped, "train", "valid", "test_iid").select("user", "item").rows()
    assert sum(pair not in known for pair in trained) == int(0.5 * len(trained) + 0.5)
    assert all(pair in known for pair in named(flipped, "test_ood")[["user", "item"]].rows())


def test_parts_may_be_given_in_several_forms():
    assert Hybrid(first="user-group").first == UserGroup()
    assert Hybrid(second={"name": "popularity", "strength": 2}).second == Popularity(strength=2)
    changed = Hybrid(second={"strength": 2}).second
    assert (changed.strength, changed.ood_share, changed.max_share) == (2, 0.5, 1)
    assert Hybrid(first={"gap": "1d"}).first == Temporal(gap=86_400)


def test_the_manifest_names_both_parts(long_tail):
    settings = Hybrid(second={"strength": 2})(long_tail).manifest.settings
    assert settings["first"] == {
        "name": "temporal", "quantile": 0.8, "at": None, "gap": 0, "horizon": None, "back": 0
    }  # fmt: skip
    assert settings["second"]["name"] == "popularity"
    assert settings["second"]["strength"] == 2
    assert "valid_share" not in settings["second"]
    again = Hybrid(**{key: settings[key] for key in Hybrid().settings()})
    assert again.settings() == {key: settings[key] for key in Hybrid().settings()}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"second": "temporal"}, "temporal cannot be the second"),
        ({"first": "exposure"}, "first must be a scenario whose OOD test is rows of the log"),
        ({"second": "given"}, "second must be .* 'given' is not"),
        ({"second": 3}, "second must be .* 3 is not"),
        ({"first": "tempral"}, r"no scenario is called 'tempral' \(did you mean 'temporal'"),
        ({"second": {"strenth": 1}}, "scenario popularity: unknown setting 'strenth'"),
        ({"first": {"test_share": 0.1}}, "test_share is set in first, and it belongs to"),
        ({"third": "noise"}, "scenario hybrid: unknown setting 'third'"),
    ],
)
def test_wrong_parts(parts, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Hybrid(**parts)
