"""Checks of what every scenario must keep."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from cnsdiff.data import SPLITS, Dataset, Interactions, Source
from cnsdiff.shifts.base import Filters, Scenario
from cnsdiff.shifts.drawing import rounded
from cnsdiff.shifts.log_scenario import LogScenario

_FILTERS = Filters(threshold=3)


def tiny_source(n_users: int = 60, n_items: int = 40, seed: int = 0) -> Source:
    """A small long-tailed log with everything a scenario may ask for.

    Ratings, timestamps of one year, periods, a randomised table, and features: the users'
    ``age`` and ``country``, the items' ``price``. Ids are text; some pairs occur twice.
    """
    rng = np.random.default_rng(seed)
    n = 20 * n_users
    log = pl.DataFrame(
        {
            "user": rng.integers(n_users, size=n),
            "item": (n_items * rng.random(n) ** 2).astype(np.int64),
            "rating": rng.integers(1, 6, size=n).astype(np.float64),
            "timestamp": 1_577_836_800 + rng.integers(365 * 86_400, size=n),
            "period": rng.choice(["app", "web"], size=n),
        }
    )
    shown = pl.DataFrame(
        {
            "user": np.repeat(np.arange(n_users), 8),
            "item": rng.integers(n_items, size=8 * n_users),
            "rating": rng.integers(1, 6, size=8 * n_users).astype(np.float64),
        }
    )
    texts = (pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item"))
    users = pl.DataFrame(
        {
            "user": [f"u{number}" for number in range(n_users)],
            "age": 20 + np.arange(n_users) % 40,
            "country": ["is", "pt", "jp"] * (n_users // 3),
        }
    )
    items = pl.DataFrame(
        {"item": [f"i{number}" for number in range(n_items)], "price": np.arange(n_items) / 2}
    )
    return Source(
        {
            "log": Interactions(log.with_columns(texts), "tiny.csv"),
            "randomised": Interactions(shown.with_columns(texts), "tiny-random.csv"),
        },
        {"user_features": users, "item_features": items},
        name="tiny",
        provenance={"licence": "made up"},
    )


def check_scenario(
    scenario: Scenario, source: Source | None = None, *, filters: Filters = _FILTERS
) -> None:
    """Hold a scenario to its contract.

    - There are the four splits, none empty, and no pair is in two of them.
    - The same seed gives the same fingerprint; for one that divides a log, another seed another.
    - The manifest names the scenario and holds its settings, the filters and the seed, in JSON.
    - What it is given stays as it is.

    And for a :class:`~cnsdiff.shifts.LogScenario`:

    - valid and test_iid have exactly their shares of the training side;
    - they come from the training side: with other shares, the four splits change places among
      train, valid and test_iid only, and the OOD test stays the same;
    - no pair of valid and test_iid is unknown to train.

    Parameters
    ----------
    scenario
        With the settings to check it under.
    source, filters
        What to divide; :func:`tiny_source` with ratings of 3 and more by default.

    Raises
    ------
    AssertionError
        The contract is broken.
    """
    source = tiny_source() if source is None else source
    before = [given.frame.clone() for given in source.tables.values()]
    dataset = scenario(source, filters=filters, seed=0)
    after = [given.frame for given in source.tables.values()]
    assert all(a.equals(b) for a, b in zip(before, after, strict=True)), "it changed its input"
    assert dataset.split_names == SPLITS, f"its splits are {', '.join(dataset.split_names)}"
    pairs = {name: _pairs(dataset, name) for name in SPLITS}
    everything = np.concatenate(list(pairs.values()))
    # What valid shares with a test is taken out of it, and counted.
    shared = dataset.manifest.splits["valid"].overlap_test
    assert len(np.unique(everything)) == len(everything) and not shared, "a pair is in two splits"
    _check_manifest(scenario, dataset, filters)
    again = scenario(source, filters=filters, seed=0)
    assert again.fingerprint == dataset.fingerprint, "the same seed gives another dataset"
    if isinstance(scenario, LogScenario):
        other = scenario(source, filters=filters, seed=1)
        assert other.fingerprint != dataset.fingerprint, "another seed gives the same dataset"
        _check_iid(scenario, dataset, source, filters)


def _check_manifest(scenario: Scenario, dataset: Dataset, filters: Filters) -> None:
    settings = dataset.manifest.settings
    assert dataset.scenario == scenario.name, f"the manifest calls it {dataset.scenario!r}"
    asked = {**scenario.settings(), **filters.settings()}
    if isinstance(scenario, LogScenario):
        asked["seed"] = 0
    missing = {key for key, value in asked.items() if settings.get(key, ...) != value}
    assert not missing, f"the manifest lacks the settings {sorted(missing)}"
    json.dumps(dataset.manifest.to_dict())
    assert len(dataset.fingerprint) == 64, "there is no fingerprint"


def _check_iid(scenario: LogScenario, dataset: Dataset, source: Source, filters: Filters) -> None:
    shares = {"valid": scenario.valid_share, "test_iid": scenario.test_share}
    side = sum(len(dataset.split(name)) for name in ("train", *shares))
    for name, share in shares.items():
        size, wanted = len(dataset.split(name)), rounded(share, side)
        assert size == wanted, f"{name} has {size} pairs, and its share of {side} is {wanted}"
        lost = dataset.manifest.splits[name].dropped_unknown
        assert lost == 0, f"{lost} pairs of {name} were unknown to train"
    halves = {"valid_share": scenario.valid_share / 2, "test_share": scenario.test_share / 2}
    smaller = scenario.model_copy(update=halves)(source, filters=filters, seed=0)
    side_names = ("train", *shares)
    assert _named(dataset, *side_names) == _named(smaller, *side_names), (
        "valid or test_iid is not from the training side alone"
    )
    assert _named(dataset, "test_ood") == _named(smaller, "test_ood"), (
        "the OOD test depends on the shares of the IID splits"
    )


def _pairs(dataset: Dataset, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    split = dataset.split(name)
    return split.users * dataset.n_items + split.items


def _named(dataset: Dataset, *names: str) -> set[tuple[object, object]]:
    """The pairs of these splits by their ids, which do not depend on the numbering."""
    splits = [dataset.split(name) for name in names]
    users = dataset.decode_users(np.concatenate([split.users for split in splits]))
    items = dataset.decode_items(np.concatenate([split.items for split in splits]))
    return set(zip(users, items, strict=True))
