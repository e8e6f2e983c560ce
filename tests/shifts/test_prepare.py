"""One call from a log to a dataset."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import cnsdiff
from cnsdiff import catalogue, prepare
from cnsdiff.base.errors import CnsdiffWarning, ConfigError, DataError
from cnsdiff.shifts import Filters, Popularity, Temporal, UserGroup
from cnsdiff.testing import tiny_source


@pytest.fixture
def shop(tmp_path, tiny):
    folder = tmp_path / "logs"
    folder.mkdir()
    names = {"user": "who", "item": "what", "rating": "stars"}
    tiny.tables["log"].frame.rename(names).write_csv(folder / "shop.csv")
    tiny.features["user_features"].write_csv(folder / "people.csv")
    return folder / "shop.csv"


READING = {"user": "who", "item": "what", "rating": "stars", "period": "none"}


def test_a_file_a_frame_and_interactions_give_the_same(shop, tiny):
    same = {"strength": 2, "threshold": 3, "seed": 5, "user_core": 2}
    by_file = prepare(shop, "popularity", **same, **READING)
    frame = tiny.tables["log"].frame.drop("period")
    by_frame = prepare(frame.to_pandas(), "popularity", **same)
    by_hand = Popularity(strength=2)(
        cnsdiff.read_interactions(frame), filters=Filters(3, 2), seed=5
    )
    assert by_file.fingerprint == by_frame.fingerprint == by_hand.fingerprint
    assert by_file.name == "shop-popularity"
    assert by_frame.name == "unnamed-popularity"
    assert by_file.manifest.source["files"] == {"log": "shop.csv"}


def test_features_and_licence(shop):
    features = shop.parent / "people.csv"
    dataset = prepare(
        *(shop, "user-group"),
        **{"attribute": "country", "value": "jp", "licence": "ours", "name": "japan"},
        user_features=features,
        **READING,
    )
    assert dataset.name == "japan"
    assert dataset.table("user_features")["country"].value_counts().height == 3
    source = dataset.manifest.source
    assert source["licence"] == "ours"
    assert source["files"] == {"log": "shop.csv", "user_features": "people.csv"}


def test_features_of_several_files(tmp_path):
    log = pl.DataFrame({"user": [1, 1, 2, 2], "item": [7, 8, 7, 9]})
    items = pl.DataFrame({"item": [9, 8, 7], "brand": ["x", "y", "z"]})
    items.write_csv(tmp_path / "items.csv")
    np.save(tmp_path / "image.npy", np.eye(3))
    files = {"": tmp_path / "items.csv", "image": tmp_path / "image.npy"}
    dataset = cnsdiff.shifts.prepare_given(log, item_features=files)
    table = dataset.table("item_features").with_columns(item=dataset.items)
    assert table.sort("item").rows() == [
        ("z", [0.0, 0.0, 1.0], 7),
        ("y", [0.0, 1.0, 0.0], 8),
        ("x", [1.0, 0.0, 0.0], 9),
    ]
    told = dataset.manifest.source["files"]
    assert told["item_features"] == "items.csv, image=image.npy"


def test_each_file_of_features_is_of_the_log(fetched, tmp_path, monkeypatch):
    log = pl.DataFrame({"user": [1, 1], "item": [7, 8]})
    own = pl.DataFrame({"item": [7, 8], "brand": ["x", "y"]})
    strangers = pl.DataFrame({"item": ["a", "b"], "x": [1, 2]})
    few = pl.DataFrame({"item": [8, 9], "x": [1, 2]})
    with pytest.raises(DataError, match=r"sound=DataFrame: none of its 2 items .* it has 'a'"):
        cnsdiff.shifts.prepare_given(log, item_features={"": own, "sound": strangers})
    words = "sound=DataFrame: has features of 1 of the 2 items of DataFrame, and of 1 that are not"
    with pytest.warns(CnsdiffWarning, match=words) as warnings:
        cnsdiff.shifts.prepare_given(log, item_features={"": own, "sound": few, "image": np.eye(2)})
    assert len(warnings) == 1
    # Beside a fetched data set, features are of its items.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"DataFrame: none of its 2 items is in .*: it has 'a'"):
        prepare("ml-100k", "popularity", item_features={"sound": strangers})


def test_a_source_and_a_scenario_object(tiny):
    scenario = Temporal(quantile=0.6)
    dataset = prepare(tiny, scenario, threshold=4)
    assert dataset.fingerprint == scenario(tiny, filters=Filters(4)).fingerprint
    assert dataset.name == "tiny-temporal"
    for wrong, sentence in (
        ({"quantile": 0.5}, "'quantile' is given beside a Temporal that has its settings already"),
        ({"licence": "x"}, "a Source holds all that is read, so 'licence' belongs into it"),
        ({"user": "who"}, "so 'user' belongs into it"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            prepare(tiny, scenario, **wrong)


def test_unknown_keywords_are_settings_of_the_scenario(tiny):
    with pytest.raises(ConfigError, match=r"popularity: unknown setting 'tresh' "):
        prepare(tiny, "popularity", tresh=3)


@pytest.fixture
def fetched(monkeypatch):
    """A catalogue in which ml-100k is here and ml-1m is not."""
    source = tiny_source()
    provenance = {"threshold": 4.0, "files": {"u.data": {"bytes": 1}}, "licence": "research"}
    source = type(source)(source.tables, source.features, "ml-100k", provenance)
    real = catalogue.load

    def load(name):
        return source if name == "ml-100k" else real(name)

    monkeypatch.setattr(catalogue, "load", load)
    return source


def test_a_fetched_data_set_brings_its_threshold_and_features(fetched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = prepare("ml-100k", "popularity")
    assert usual.name == "ml-100k-popularity"
    assert usual.manifest.settings["threshold"] == 4
    assert usual.table_names == ("user_features", "item_features")
    assert usual.manifest.source["licence"] == "research"
    all_of_it = prepare("ml-100k", "popularity", threshold=0)
    assert all_of_it.manifest.log["below_threshold"] == 0
    group = UserGroup(attribute="vip", value=1)
    own = pl.DataFrame({"user": [f"u{k}" for k in range(60)], "vip": [0, 1, 0] * 20})
    replaced = prepare("ml-100k", group, user_features=own, licence="mine")
    assert replaced.table("user_features").columns == ["vip"]
    source = replaced.manifest.source
    assert source["licence"] == "mine"
    assert source["files"] == {"u.data": {"bytes": 1}, "user_features": "DataFrame"}


def test_a_file_of_that_name_comes_first(fetched, tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    tiny.tables["log"].frame.write_csv("ml-100k")
    dataset = prepare("ml-100k", "popularity")
    assert dataset.manifest.settings["threshold"] is None
    assert dataset.manifest.source["files"] == {"log": "ml-100k"}


def test_names_that_are_nothing(fetched, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNSDIFF_HOME", str(tmp_path))
    (tmp_path / "ratings.csv").touch()
    for name, sentence in (
        ("ml-101k", r"ml-101k: no such file, and no data set.*\(did you mean 'ml-100k'\?\)"),
        ("rating.csv", r"rating.csv: no such file.*\(did you mean 'ratings.csv'\?\)"),
        ("logs/rating.csv", r"logs/rating.csv: no such file"),
    ):
        with pytest.raises(DataError, match=sentence):
            prepare(name, "popularity")
    with pytest.raises(cnsdiff.CnsdiffError, match="cnsdiff data fetch ml-1m"):
        prepare("ml-1m", "popularity")
    with pytest.raises(cnsdiff.CnsdiffError, match="cnsdiff data fetch amazon-2023/Video_Games"):
        prepare("amazon-2023/Video_Games", "popularity")
    with pytest.raises(ConfigError, match=r"ml-100k: .* 'user' cannot be chosen"):
        prepare("ml-100k", "popularity", user="who")
