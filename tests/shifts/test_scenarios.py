"""What holds for every scenario: the contract, the registry, the documentation."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

from cnsdiff import load_dataset
from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.data import Interactions, Source
from cnsdiff.shifts import (
    SCENARIOS,
    Exposure,
    Filters,
    Given,
    Hybrid,
    Log,
    LogScenario,
    Noise,
    Parts,
    Popularity,
    Scenario,
    Temporal,
    UserGroup,
    register_scenario,
)
from cnsdiff.shifts.base import NO_FILTERS
from cnsdiff.testing import check_scenario

DOCS = Path(__file__).parents[2] / "docs" / "scenarios.md"
ALL = [
    Popularity(),
    Popularity(target="inverted", ood_share=0.05, valid_share=0.05),
    Temporal(),
    Temporal(at="2020-09-01", gap="3d", test_share=0.3),
    Exposure(),
    Hybrid(),
    Hybrid(first="user-group", second="noise"),
    UserGroup(),
    UserGroup(attribute="age", range=(20, 30), strength=0.5),
    Noise(),
    Noise(kind="drop", strength=0.4),
]


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_contract(scenario):
    check_scenario(scenario)


def test_contract_of_ready_splits(tiny):
    made = Popularity()(tiny, filters=Filters(3))
    splits = {}
    for name in made.split_names:
        split = made.split(name)
        ids = [made.decode_users(split.users), made.decode_items(split.items)]
        splits[name] = Interactions(pl.DataFrame(dict(zip(("user", "item"), ids, strict=True))), "")
    check_scenario(Given(), Source(splits), filters=Filters())


def test_every_scenario_is_checked():
    elsewhere = {"given", "new-items"}  # above, and in tests/content/test_new_items.py
    assert {scenario.name for scenario in ALL} | elsewhere == set(SCENARIOS.names())


_CALLS = itertools.count()


class Halves(LogScenario):
    """Breaks the contract as told."""

    name: ClassVar[str] = "halves"
    fault: str = ""

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        middle = len(log) // 2
        if self.fault == "restless":
            middle = len(log) // 2 + next(_CALLS) % 50
        if self.fault == "peeks at shares":
            middle = int(len(log) * (0.4 + self.valid_share))
        return Parts(np.arange(middle), np.arange(middle, len(log)))

    def __call__(self, source, *, filters=NO_FILTERS, seed=0):
        dataset = super().__call__(source, filters=filters, seed=seed)
        if self.fault == "misnamed":
            dataset.manifest = dataset.manifest.model_copy(update={"scenario": "thirds"})
        if self.fault == "forgets its seed":
            del dataset.manifest.settings["seed"]
        if self.fault == "writes no JSON":
            dataset.manifest.log["when"] = {1, 2}
        if self.fault == "leaves valid out":
            del dataset.manifest.splits["valid"]
        return dataset

    def _draw_iid(self, log, train, rng):
        if self.fault == "ignores its seed":
            rng = np.random.default_rng(0)
        held_out = super()._draw_iid(log, train, rng)
        if self.fault == "miscounts":
            held_out["valid"] = held_out["valid"][1:]
        if self.fault == "leaks":
            held_out["valid"][:3] = held_out["test_iid"][:3]
        return held_out


@pytest.mark.filterwarnings("ignore:.*left out of valid:cnsdiff.base.errors.CnsdiffWarning")
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("ignores its seed", "another seed gives the same dataset"),
        ("restless", "the same seed gives another dataset"),
        ("peeks at shares", "valid or test_iid is not from the training side alone"),
        ("misnamed", "the manifest calls it 'thirds'"),
        ("forgets its seed", r"lacks the settings \['seed'\]"),
        ("leaves valid out", "its splits are train, test_iid, test_ood"),
        ("miscounts", "valid has .* pairs, and its share"),
        ("leaks", "a pair is in two splits"),
    ],
)
def test_the_contract_catches(fault, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_scenario(Halves(fault=fault))


def test_the_contract_accepts_a_sound_one_and_wants_json():
    check_scenario(Halves())
    with pytest.raises(TypeError, match="JSON"):
        check_scenario(Halves(fault="writes no JSON"))


# -- settings and parts --------------------------------------------------------------------------


def test_settings_are_frozen_and_unknown_ones_name_the_nearest():
    with pytest.raises(Exception, match="frozen"):
        Popularity().strength = 2
    with pytest.raises(ConfigError, match=r"popularity: unknown setting 'strenth' \(did you mean"):
        Popularity(strenth=1)
    with pytest.raises(
        ConfigError, match="scenario given: unknown setting 'strength'; it has none"
    ):
        Given(strength=1)


class Fixed(LogScenario):
    """Any parts."""

    name: ClassVar[str] = "fixed"
    train: list[int]
    ood: list[int]

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        return Parts(np.array(self.train, dtype=int), np.array(self.ood, dtype=int))


@pytest.mark.parametrize(
    ("train", "ood", "sentence"),
    [
        (range(300), range(299, 320), "uses row 299 of the log twice"),
        (range(300), [], "leaves none of the .* rows for test_ood"),
        ([], range(300), "leaves none of the .* rows for train"),
        (range(4), range(300, 400), "valid_share 0.1 of 4 training rows is no row"),
        (range(0, 600, 15), range(601, 650), "of the 40 training rows can be held out"),
    ],
)
def test_parts_that_cannot_be(tiny, train, ood, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Fixed(train=list(train), ood=list(ood))(tiny)


@pytest.mark.parametrize(("column", "word"), [("user", "1 user"), ("item", "1 item")])
@pytest.mark.parametrize("name", ["popularity", "temporal", "hybrid", "user-group", "noise"])
def test_one_user_or_one_item(tiny, column, word, name):
    frame = tiny.tables["log"].frame.with_columns(pl.lit("x").alias(column))
    with pytest.raises(DataError, match=f"tiny.csv: has {word}, and a scenario"):
        SCENARIOS.find(name)()(Interactions(frame, "tiny.csv"))


def test_nothing_left_after_the_core(tiny):
    with pytest.raises(DataError, match="has no users after threshold and the k-core"):
        Popularity()(tiny, filters=Filters(user_core=500))


def test_counts_add_up(tiny):
    dataset = Temporal(gap="30d")(tiny, filters=Filters(threshold=2, user_core=5))
    log, splits = dataset.manifest.log, dataset.manifest.splits
    lost = ("below_threshold", "duplicates", "outside_k_core", "left_out")
    dropped = splits["test_ood"].dropped_unknown
    kept = sum(counts.rows for counts in splits.values())
    assert log["read"] == kept + dropped + sum(log[reason] for reason in lost)
    assert min(log[reason] for reason in ("below_threshold", "duplicates", "left_out")) > 0


def test_features_environments_and_times_come_along(tiny, named, tmp_path):
    dataset = Popularity()(tiny)
    assert dataset.table_names == ("user_features", "item_features")
    ages = tiny.features["user_features"]
    found = dataset.table("user_features")["age"]
    assert dict(zip(dataset.users, found, strict=True)) == dict(ages.select("user", "age").rows())
    assert sorted(dataset.periods) == ["app", "web"]
    log = tiny.tables["log"].deduplicated().frame
    everything = named(dataset, *dataset.split_names)
    assert everything.sort("user", "item").equals(
        log.select("user", "item", "timestamp").sort("user", "item")
    )
    loaded = load_dataset(dataset.save(tmp_path / "data"))
    assert loaded.fingerprint == dataset.fingerprint
    assert loaded.manifest.log == dataset.manifest.log


# -- registry and documentation ------------------------------------------------------------------


def test_registry(monkeypatch):
    monkeypatch.setattr(SCENARIOS, "_classes", dict(SCENARIOS._classes))
    assert SCENARIOS.find("popularity") is Popularity
    with pytest.raises(ConfigError, match=r"no scenario is called 'givn' \(did you mean 'given'"):
        SCENARIOS.find("givn")
    register_scenario(Halves)
    assert "halves" in SCENARIOS.names()
    assert SCENARIOS.find("halves") is Halves


@pytest.mark.parametrize(
    "model",
    [LogScenario, *(SCENARIOS.find(name) for name in SCENARIOS.names() if name != "given")],
    ids=lambda model: model.__name__,
)
def test_every_setting_is_documented_with_its_default(model):
    text = DOCS.read_text(encoding="utf-8").split(f"### {model.__name__}\n", 1)[1]
    body = re.split(r"\n#+ ", text)[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", body, flags=re.MULTILINE))
    own = model.own_settings() if model is not LogScenario else list(model.model_fields)
    defaults = {}
    for name in own:
        default = model.model_fields[name].default
        default = default.name if isinstance(default, Scenario) else default
        defaults[name] = default if isinstance(default, str) else json.dumps(default)
    assert documented == defaults
