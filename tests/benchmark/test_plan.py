"""From a grid to its tasks: who sets what, which settings are tried, and which finals follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmark_parts import small_grid
from pydantic import ValidationError

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.search_space import Space
from cnsdiff.benchmark.plan import Unit, plan, settings_of
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Outcome, Task


@pytest.fixture
def units(world_path):
    """The units of the small grid with changes, by method."""

    def planned(**changes: Any) -> dict[str, Unit]:
        grid = small_grid(world_path, **changes)
        found = plan(grid, {"world": world_path}, threads=1)
        return {unit.trials[0].method.name: unit for unit in found}

    return planned


@pytest.fixture
def store(world_path, tmp_path) -> Store:
    made = Store(tmp_path / "out")
    made.open(small_grid(world_path))
    return made


def measured(store: Store, task: Task, values: dict[str, float]) -> None:
    """As if a trial had found these values of the objectives."""
    rows = [
        {"selection": name, "split": "valid", "metric": f"{task.metric} (selected)", "value": v}
        for name, v in values.items()
    ]
    # What else a trial records must not be taken for what selects.
    rows += [{**row, "split": "train", "metric": "loss", "value": 99.0} for row in rows]
    store.add(task, Outcome(pl.DataFrame(rows), None))


# --- trials


def test_the_trials_of_each_unit(units, world_path, world):
    found = units(**{"search.seed": 5})
    assert list(found) == ["mostpop", "chance", "mf"]
    for name, n in {"mostpop": 1, "chance": 1, "mf": 3}.items():
        unit = found[name]
        assert [t.trial for t in unit.trials] == list(range(n))
        assert unit.searches == (n > 1)
        for task in unit.trials:
            assert (task.kind, task.dataset, task.path) == ("trial", "world", str(world_path))
            assert (task.fingerprint, task.seed) == (world.fingerprint, 5)
            assert task.selections == unit.selections == ("valid", "inverse-popularity")
            assert (task.metric, task.ks, task.threads) == ("ndcg@20", (10, 20), 1)
    space = {"training.lr": Space(low=0.001, high=0.1, log=True)}
    for number, task in enumerate(found["mf"].trials):
        assert task.setting == settings_of(number, space, 5)
        if number:
            assert task.method.config(0).training.lr == task.setting["training.lr"]


@pytest.mark.parametrize(("trials", "kept"), [(1, 0), (2, 1), (3, 2), (5, 2)])
def test_settings_written_out_come_before_those_drawn(units, trials, kept):
    tries = [{"training.lr": 0.25}, {"objective.l2": 0.5}]
    found = units(
        **{
            "search.trials": trials,
            "methods.mf.tries": tries,
            "methods.chance.tries": [{"seed": 5}],
        }
    )
    own, *others = found["mf"].trials
    assert own.setting == {}
    assert len(others) == trials - 1
    assert [task.setting for task in others[:kept]] == tries[:kept]
    space = {"training.lr": Space(low=0.001, high=0.1, log=True)}
    for number, task in enumerate(others[kept:], kept + 1):
        assert task.setting == settings_of(number, space, 0)
    if kept == 2:
        assert others[0].method.config(0).training.lr == 0.25
        assert others[1].method.config(0).objective.l2 == 0.5
    # Without a space there is nothing to draw, but what is written out is tried.
    assert len(found["chance"].trials) == min(trials, 2)


def test_methods_are_tried_at_the_same_values(units):
    found = units(**{"methods.other": {"search": {"objective.l2": {"low": 0, "high": 1}}}})
    for ours, theirs in zip(found["mf"].trials[1:], found["other"].trials[1:], strict=True):
        assert theirs.setting.keys() == {"training.lr", "objective.l2"}
        assert theirs.setting["training.lr"] == ours.setting["training.lr"]


def test_no_setting_is_tried_twice(units, store):
    changes = {
        "search.trials": 12,
        "methods.knn": {"reference": "itemknn", "search": {"neighbours": {"choices": [5, None]}}},
    }
    unit = units(**changes)["knn"]
    assert [t.setting.get("neighbours", "own") for t in unit.trials[:1]] == ["own"]
    assert len(unit.trials) == 3
    assert len({t.key for t in unit.trials}) == 3
    assert [t.trial for t in unit.trials] == sorted(t.trial for t in unit.trials)
    # Numbers may have gaps then.
    for task in unit.trials:
        measured(store, task, {"valid": float(task.trial), "inverse-popularity": 0.0})
    assert [t.trial for t in unit.finals(store)] == [0, unit.trials[-1].trial]
    assert unit.finals(store)[1].method == unit.trials[-1].method


def test_seeds(units):
    found = units(seeds=[4, 2, 9])
    assert found["mf"].seeds == found["chance"].seeds == (4, 2, 9)
    assert found["mostpop"].seeds == (4,), "nothing in it is drawn"


# --- finals


def test_without_a_search_finals_need_no_trials(units, store):
    unit = units(**{"search.trials": 1})["mf"]
    assert not unit.searches
    finals = unit.finals(store)
    assert [(t.kind, t.seed, t.selections) for t in finals] == [
        ("final", 0, ("valid", "inverse-popularity")),
        ("final", 1, ("valid", "inverse-popularity")),
    ]
    assert unit.most_finals == len(finals) == 2
    assert [t.method for t in finals] == [unit.trials[0].method] * 2


def test_finals_wait_for_all_trials(units, store):
    unit = units()["mf"]
    assert unit.most_finals == 4
    for task in unit.trials:
        assert unit.finals(store) is unit.picked(store) is None
        measured(store, task, {"valid": 0.1, "inverse-popularity": 0.1})
    assert unit.finals(store) is not None


def test_objectives_pick_their_own(units, store):
    unit = units()["mf"]
    values = [(0.1, 0.9), (0.3, 0.2), (0.2, 0.3)]
    for task, (plain, shifted) in zip(unit.trials, values, strict=True):
        measured(store, task, {"valid": plain, "inverse-popularity": shifted})
    picked = unit.picked(store)
    assert {on: task.trial for on, task in picked.items()} == {"valid": 1, "inverse-popularity": 0}
    finals = unit.finals(store)
    assert [(t.trial, t.seed, t.selections) for t in finals] == [
        (0, 0, ("inverse-popularity",)),
        (0, 1, ("inverse-popularity",)),
        (1, 0, ("valid",)),
        (1, 1, ("valid",)),
    ]
    for task in finals:
        assert task.kind == "final"
        assert task.method == unit.trials[task.trial].method
        assert task.setting == unit.trials[task.trial].setting


def test_objectives_that_agree_share(units, store):
    unit = units()["mf"]
    for task in unit.trials:
        measured(store, task, {"valid": task.trial, "inverse-popularity": task.trial})
    finals = unit.finals(store)
    assert [(t.trial, t.seed, t.selections) for t in finals] == [
        (2, 0, ("valid", "inverse-popularity")),
        (2, 1, ("valid", "inverse-popularity")),
    ]


def test_the_first_of_equals(units, store):
    unit = units()["mf"]
    for task in reversed(unit.trials):
        measured(store, task, {"valid": 0.2, "inverse-popularity": float(task.trial > 0)})
    picked = {on: task.trial for on, task in unit.picked(store).items()}
    assert picked == {"valid": 0, "inverse-popularity": 1}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_failed_is_not_picked(units, store, bad):
    unit = units()["mf"]
    store.add_failure(unit.trials[0], "it rained")
    measured(store, unit.trials[1], {"valid": bad, "inverse-popularity": 0.1})
    measured(store, unit.trials[2], {"valid": 0.01, "inverse-popularity": bad})
    picked = {on: task.trial for on, task in unit.picked(store).items()}
    assert picked == {"valid": 2, "inverse-popularity": 1}


def test_an_objective_that_nothing_measured(units, store):
    unit = units()["mf"]
    for task in unit.trials:
        measured(store, task, {"valid": 0.1, "inverse-popularity": float("nan")})
    assert [t.selections for t in unit.finals(store)] == [("valid",)] * 2


def test_all_trials_failed(units, store):
    unit = units()["mf"]
    for task in unit.trials:
        store.add_failure(task, "it rained")
    assert unit.finals(store) == []


# --- who sets what


def test_the_later_wins(units):
    """Preset, then grid, dataset, method, and what is searched."""
    base = {"search_space": {}, "methods.m.preset": "ssm-lightgcn"}

    def lr(**changes: Any) -> float:
        return units(**{**base, **changes})["m"].trials[-1].method.config(0).training.lr

    added: dict[str, Any] = {}
    assert lr() == 0.005
    for place, value in (
        ("set.training.lr", 0.1),
        ("datasets.world.set.training.lr", 0.2),
        ("methods.m.set.training.lr", 0.3),
        ("methods.m.search", {"training.lr": {"choices": [0.4]}}),
    ):
        added[place] = value
        expected = 0.4 if isinstance(value, dict) else value
        assert lr(**added) == expected


def test_of_searches_the_methods_own_wins(units):
    found = units(**{"methods.m.search": {"training.lr": {"choices": [0.7]}}})
    assert [t.setting for t in found["m"].trials] == [{}, {"training.lr": 0.7}]
    assert all(0.001 <= t.setting["training.lr"] <= 0.1 for t in found["mf"].trials[1:])


def test_a_preset_as_published(units):
    """``shared: false`` keeps it from all that the grid sets and searches, but not the budget."""
    changes = {
        "methods.theirs": {"preset": "ssm-lightgcn", "shared": False},
        "datasets.world.set.training.batch_size": 77,
        "set.training.select_half_life": 0.5,
        "budget.epochs": 13,
    }
    unit = units(**changes)["theirs"]
    assert len(unit.trials) == 1
    config = unit.trials[0].method.config(0)
    assert config.training.epochs == 13
    assert config.training.select_half_life == 0.5, "what selects is the same for all"
    assert (config.training.batch_size, config.training.lr) == (2048, 0.005)
    assert (config.backbone.name, config.backbone.dim) == ("lightgcn", 64)
    own = units(**changes, **{"methods.theirs.set.training.lr": 0.25})["theirs"]
    assert own.trials[0].method.config(0).training.lr == 0.25
    changes["methods.theirs"] = {"preset": "ssm-lightgcn", "shared": True}
    shared = units(**changes)["theirs"]
    assert len(shared.trials) == 3
    assert shared.trials[0].method.config(0).training.batch_size == 77


def test_a_search_of_its_own_despite_that(units):
    theirs = {"shared": False, "search": {"objective.l2": {"low": 0, "high": 1}}}
    unit = units(**{"methods.theirs": theirs})["theirs"]
    assert [t.setting.keys() for t in unit.trials] == [set(), {"objective.l2"}, {"objective.l2"}]


def test_references_take_options_only(units):
    ease = {"reference": "ease", "options": {"l2": 5}}
    unit = units(**{"methods.ease": ease, "set.training.select_strength": 2.0})["ease"]
    assert len(unit.trials) == 1, "the shared search is of settings that it does not have"
    assert unit.trials[0].method.options == {"l2": 5}
    assert unit.trials[0].settings == {"select_strength": 2.0}
    ease["search"] = {"l2": {"low": 1, "high": 10}}
    unit = units(**{"methods.ease": ease})["ease"]
    assert [t.method.build_reference(0).l2 for t in unit.trials] == [
        5,
        *(t.setting["l2"] for t in unit.trials[1:]),
    ]


def test_budget_and_search_of_a_dataset(units):
    grid = {"budget": {"epochs": 5, "minutes": 2}, "search": {"trials": 2, "seed": 1}}
    tasks = units(**grid)["mf"].trials
    assert [(t.seconds, t.seed, t.method.config(0).training.epochs) for t in tasks] == [
        (120.0, 1, 5)
    ] * 2
    own = {"datasets.world.budget": {"epochs": 9}, "datasets.world.search": {"trials": 4}}
    tasks = units(**grid, **own)["mf"].trials
    assert [(t.seconds, t.seed, t.method.config(0).training.epochs) for t in tasks] == [
        (None, 0, 9)
    ] * 4


def test_the_budget_is_the_number_of_epochs(units):
    assert units(**{"budget.epochs": 5})["mf"].trials[0].method.config(0).training.epochs == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"set.training.epochs": 77},
            "set: training.epochs is the same for all methods; say it in",
        ),
        ({"methods.mf.set.training.epochs": 7}, r"methods.mf.set: training.epochs is the same"),
        ({"datasets.world.set": {"training.select_on": "recency"}}, "say it in select_on"),
        ({"methods.mf.search": {"training.epochs": {"choices": [1, 2]}}}, "methods.mf.search: tr"),
        ({"methods.mf.set.training.select_strength": 2.0}, "say it in the grid's set or a dataset"),
        (
            {"methods.mf.tries": [{"training.epochs": 9}, {"objective.l2": 0.5}]},
            r"methods.mf.tries\[0\]: training.epochs is the same for all methods; say it in budget",
        ),
        (
            {"search_space": {"training.select_half_life": {"low": 0.1, "high": 0.2}}},
            "search_space: training.select_half_life is the same",
        ),
    ],
)
def test_what_is_the_same_for_all_is_no_methods_to_change(units, changes, words):
    with pytest.raises(ValueError, match=words):
        units(**changes)


@pytest.mark.parametrize("place", ["set", "datasets.world.set"])
def test_the_shape_of_an_objective_can_be_set_for_all(units, place):
    task = units(**{f"{place}.training": {"select_strength": 2.0}})["mf"].trials[0]
    assert task.settings == {"select_strength": 2.0}


def test_methods_of_a_dataset(units):
    assert list(units(**{"datasets.world.methods": ["mf", "mostpop"]})) == ["mf", "mostpop"]


# --- found when planning


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods.m.set.training.lrr": 1}, "methods.m: unknown key 'training.lrr'"),
        ({"methods.m.set.training.lr": -1}, "methods.m: training.lr: "),
        ({"methods.m.preset": "papr"}, "no preset is called 'papr' (did you mean 'paper'?)"),
        ({"methods.m.set.sampler.name": "dsn"}, "no sampler is called 'dsn'"),
        ({"methods.m.reference": "eese"}, "methods.m: no reference is called 'eese' (did you"),
        (
            {"methods.m": {"reference": "ease", "options": {"lamda": 1}}},
            "methods.m: EASE.__init__() got an unexpected keyword argument 'lamda'",
        ),
        (
            {"methods.m": {"reference": "ease", "search": {"lamda": {"low": 1, "high": 2}}}},
            "methods.m: EASE.__init__() got an unexpected keyword argument 'lamda'",
        ),
        ({"methods.m.search": {"training.lr": {"low": -2, "high": -1}}}, "methods.m: training.lr"),
        (
            {"methods.m.search": {"training": {"choices": [1]}}},
            "methods.m: in what is searched, 'training' is set twice",
        ),
        ({"set.training": 5}, "set: training must be a section with keys, not 5"),
        ({"methods.m.set.training": None}, "methods.m.set: training must be a section with keys"),
        ({"datasets.world.set.training": 5}, "the dataset's set: training must be a section"),
        ({"set.training.select_slices": 1}, "set: training.select_slices: "),
        ({"set.training.select_slice": 3}, "set: unknown key 'training.select_slice'"),
        ({"set.sampler": "dns"}, "methods.mf: sampler must be a section with keys, not 'dns'"),
    ],
)
def test_what_can_never_run_is_refused(units, changes, words):
    changes = {**changes, "methods.m.group": "sampler"}
    with pytest.raises(ConfigError) as caught:
        units(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_references_alone_are_checked_too(world_path):
    grid = small_grid(
        world_path, methods={"pop": {"reference": "mostpop"}}, **{"set.training.select_slices": 1}
    )
    with pytest.raises(ConfigError, match=r"set: training\.select_slices"):
        plan(grid, {"world": world_path})


def test_a_dataset_without_validation(world, tmp_path):
    splits = {n: c for n, c in world.manifest.splits.items() if n != "valid"}
    world.manifest = world.manifest.model_copy(update={"splits": splits})
    path = world.save(tmp_path / "untested")
    with pytest.raises(ConfigError, match=r"datasets\.world: has no valid split"):
        plan(small_grid(path), {"world": path})


# --- keys


def key(world_path: Path, **changes: Any) -> str:
    grid = small_grid(world_path, **changes)
    unit = next(u for u in plan(grid, {"world": world_path}) if u.trials[0].method.name == "mf")
    return unit.trials[-1].key


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({}, False),
        ({"set.training.lr": 0.5}, False),  # is searched
        ({"set.training.batch_size": 64}, True),
        ({"datasets.world.set.training.batch_size": 64}, True),
        ({"methods.mf.set.sampler.name": "random"}, False),
        ({"methods.mf.set.sampler.name": "dns"}, True),
        ({"methods.mf.preset": "bpr-lightgcn"}, True),
        ({"search.seed": 1}, True),
        ({"budget.epochs": 9}, True),
        ({"budget.minutes": 1}, True),
        ({"select_on": ["valid"]}, True),
        ({"select_metric": "recall@20"}, True),
        ({"ks": [5, 20]}, True),
        ({"datasets.world.anticipate": "recency"}, True),
        ({"set.training.select_strength": 0.5}, True),
        ({"search_space": {"training.lr": {"low": 0.001, "high": 0.2, "log": True}}}, True),
        ({"search.trials": 4}, True),  # another last trial
        ({"seeds": [7]}, False),
        ({"ks": [20, 10]}, False),
        ({"select_on": ["anticipated", "valid"]}, False),
        ({"methods.mf.group": "other"}, False),
        ({"datasets.world.scenario": "popularity"}, False),
        ({"methods.more": {}}, False),
        ({"name": "other"}, False),
    ],
)
def test_a_task_is_named_by_all_that_its_result_depends_on(world_path, changes, changed):
    assert (key(world_path) != key(world_path, **changes)) is changed


@pytest.mark.parametrize(
    ("field", "value", "changed"),
    [
        ("kind", "final", True),
        ("fingerprint", "other", True),
        ("dataset", "other", True),
        ("seed", 8, True),
        ("selections", ("valid",), True),
        ("metric", "recall@20", True),
        ("ks", (20,), True),
        ("settings", {"select_strength": 2.0}, True),
        ("seconds", 3.0, True),
        ("threads", 7, False),
        ("path", "/moved", False),
        ("trial", 7, False),
        ("setting", {"told": 1}, False),
    ],
)
def test_fields_of_a_task(units, field, value, changed):
    task = units()["mf"].trials[0]
    assert (replace(task, **{field: value}).key != task.key) is changed


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "x"), ("reference", "ease"), ("options", {"a": 1}), ("preset", "paper")],
)
def test_fields_of_its_method(units, field, value):
    task = units()["mf"].trials[0]
    other = replace(task, method=replace(task.method, **{field: value}))
    assert other.key != task.key


def test_a_budget_of_cpu(planned):
    plain = planned()[1][2].trials[0]
    clocked = planned("clock", **{"budget.minutes": 2.0})[1][2].trials[0]
    counted = planned("cpu", **{"budget.cpu_minutes": 2.0})[1][2].trials[0]
    assert (counted.seconds, counted.cpu_seconds) == (None, 120.0)
    assert (clocked.seconds, clocked.cpu_seconds) == (120.0, None)
    assert len({plain.key, clocked.key, counted.key}) == 3
    with pytest.raises(ValidationError, match="one of minutes and cpu_minutes"):
        planned("both", **{"budget.minutes": 2.0, "budget.cpu_minutes": 2.0})
