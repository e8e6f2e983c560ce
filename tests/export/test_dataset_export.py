"""Datasets for other tools: what is read back is what was written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml

import cnsdiff
from cnsdiff import ConfoundedWorld, prepare_given, read_interactions
from cnsdiff.base.errors import DataError, InputError
from cnsdiff.export import dataset_to_csv, dataset_to_parquet, dataset_to_recbole
from cnsdiff.export.dataset_recbole import READ_AS_MISSING


def pairs(dataset, name):
    """A split under the ids as given."""
    split = dataset.split(name)
    table = {
        "user": dataset.decode_users(split.users),
        "item": dataset.decode_items(split.items),
        "timestamp": split.timestamps,
        "period": pl.Series(dataset.periods).gather(split.periods),
    }
    return pl.DataFrame(table)


@pytest.mark.parametrize(
    ("write", "suffix"), [(dataset_to_csv, "csv"), (dataset_to_parquet, "parquet")]
)
def test_plain_tables_give_the_same_dataset_again(tmp_path, write, suffix):
    world = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset(shift="temporal")
    manifest = write(world, tmp_path / "out")
    files = {name: tmp_path / "out" / f"{name}.{suffix}" for name in world.split_names}
    assert manifest["rows"] == {name: len(world.split(name)) for name in world.split_names}
    again = prepare_given(**files)
    for name in world.split_names:
        assert pairs(again, name).equals(pairs(world, name))


@pytest.mark.parametrize(
    ("write", "suffix"), [(dataset_to_csv, "csv"), (dataset_to_parquet, "parquet")]
)
def test_plain_tables_keep_awkward_ids(dataset, tmp_path, write, suffix):
    write(dataset, tmp_path / "out")
    for name in dataset.split_names:
        read = read_interactions(tmp_path / "out" / f"{name}.{suffix}")
        assert read.frame.equals(pairs(dataset, name))
    read = pl.read_csv if suffix == "csv" else pl.read_parquet
    features = read(tmp_path / "out" / f"user_features.{suffix}")
    known = dict(zip(features["user"], features["country"], strict=True))
    truth = dataset.table("user_features")["country"]
    assert known == {
        user: country
        for user, country in zip(dataset.users, truth, strict=True)
        if country is not None
    }


def test_lists_become_columns_in_csv(dataset, tmp_path):
    dataset_to_csv(dataset, tmp_path / "out")
    items = pl.read_csv(tmp_path / "out" / "item_features.csv")
    given = dataset.table("item_features")
    known = given.filter(pl.col("price").is_not_null())
    assert items["size_1"].to_list() == [1.5] * known.height
    assert items["tags_0"].to_list() == known["tags"].list.get(0, null_on_oob=True).to_list()
    assert {"tags_1", "size_0"} <= set(items.columns)
    assert not {"tags_2", "size_2", "tags"} & set(items.columns)


def test_judgements_and_truth_come_along(tmp_path):
    world = ConfoundedWorld(n_users=40, n_items=30, exposures=20, seed=0).dataset()
    dataset_to_parquet(world, tmp_path / "out")
    judged = pl.read_parquet(tmp_path / "out" / "judgements.parquet")
    table = world.table("judgements")
    assert judged["user"].to_list() == world.users.gather(table["user"]).to_list()
    assert judged["relevant"].equals(table["relevant"])
    truth = pl.read_parquet(tmp_path / "out" / "truth_users.parquet")
    assert truth["user"].to_list() == world.users.to_list()
    assert truth["taste"].equals(world.table("truth_users")["taste"])


# -- RecBole -------------------------------------------------------------------------------------


@pytest.fixture
def recbole(dataset, tmp_path):
    """The folder of the awkward dataset as RecBole's files."""
    dataset_to_recbole(dataset, tmp_path / "shop")
    return tmp_path / "shop"


def test_our_reader_reads_the_same_interactions(dataset, recbole):
    for name in dataset.split_names:
        read = read_interactions(recbole / f"shop.{name}.inter")
        assert read.frame.equals(pairs(dataset, name))


def as_recbole_reads(file, separator="\t"):
    """Columns by name, as RecBole 1.2 reads an atomic file: typed by the header, by pandas."""
    with file.open(encoding="utf-8") as lines:
        typed = lines.readline()[:-1].split(separator)
    kinds = {name: np.float64 if name.split(":")[1] == "float" else str for name in typed}
    frame = pd.read_csv(
        file, delimiter=separator, usecols=typed, dtype=kinds, encoding="utf-8", engine="python"
    )
    frame.columns = [name.split(":")[0] for name in typed]
    return frame, dict(name.split(":") for name in typed)


def test_recbole_reads_the_same_interactions(dataset, recbole):
    for name in dataset.split_names:
        frame, kinds = as_recbole_reads(recbole / f"shop.{name}.inter")
        assert kinds == {
            "user_id": "token",
            "item_id": "token",
            "timestamp": "float",
            "environment": "token",
        }
        expected = pairs(dataset, name)
        assert frame["user_id"].tolist() == expected["user"].to_list()
        assert frame["item_id"].tolist() == expected["item"].to_list()
        assert frame["timestamp"].tolist() == expected["timestamp"].to_list()
        assert frame["environment"].tolist() == expected["period"].to_list()


def test_features_are_typed_and_every_item_has_a_row(dataset, recbole):
    frame, kinds = as_recbole_reads(recbole / "shop.item")
    # What is called as a user's feature, or as a field of RecBole's own, is told apart.
    assert kinds == {
        "item_id": "token",
        "name": "token",
        "tags": "token_seq",
        "size": "float_seq",
        "price": "float",
        "item_label": "token",
        "item_country": "token",
    }
    assert frame["item_id"].tolist() == dataset.items.to_list()
    given = dataset.table("item_features")
    row = given["name"].to_list().index('c\n"d"')
    assert frame["name"][row] == 'c\n"d"'
    row = given["tags"].to_list().index(["x", "y"])
    assert frame["tags"][row] == "x y"
    assert frame["size"][row] == "0.5 1.5"
    nothing = given["price"].is_null().to_numpy()
    assert frame["price"].isna().to_numpy().tolist() == nothing.tolist()
    assert nothing.any()
    users, kinds = as_recbole_reads(recbole / "shop.user")
    assert kinds["age"] == "token"
    assert len(users) == dataset.n_users


def test_what_recbole_takes_for_missing_is_counted(dataset, tmp_path):
    manifest = dataset_to_recbole(dataset, tmp_path / "shop")
    namibia = int((dataset.table("user_features")["country"] == "NA").sum())
    null = int((dataset.table("item_features")["name"] == "null").sum())
    assert manifest["read_as_missing"] == {"user.user_country": namibia, "item.name": null}


def test_settings_name_files_that_are_there(dataset, recbole):
    for name, test in (("iid", "test_iid"), ("ood", "test_ood")):
        settings = yaml.safe_load((recbole / f"{name}.yaml").read_text(encoding="utf-8"))
        assert settings["benchmark_filename"] == ["train", "valid", test]
        assert (settings["dataset"], settings["data_path"]) == ("shop", str(recbole.parent))
        for split in settings["benchmark_filename"]:
            assert (recbole / f"{settings['dataset']}.{split}.inter").is_file()
        loaded = settings["load_col"]
        assert loaded["inter"] == ["user_id", "item_id", "timestamp", "environment"]
        for side in ("user", "item"):
            assert loaded[side] == as_recbole_reads(recbole / f"shop.{side}")[0].columns.tolist()
        assert settings["eval_args"]["mode"] == "full"


def relabelled(**ids):
    """A tiny dataset, of which one user or item has another id."""
    rng = np.random.default_rng(0)
    log = pl.DataFrame({"user": rng.integers(40, size=400), "item": rng.integers(40, size=400)})
    log = log.with_columns(
        pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item")
    )
    for side, value in ids.items():
        log = log.with_columns(pl.col(side).replace({f"{side[0]}3": value}))
    return cnsdiff.prepare(log, "noise", literal_ids=True)


@pytest.mark.parametrize("torn", ["a\tb", "a\nb", "a\rb"])
def test_ids_that_the_files_would_tear_apart(tmp_path, torn):
    with pytest.raises(DataError, match=r"the item id 'a\\.b' holds a tab or a line break.*csv"):
        dataset_to_recbole(relabelled(item=torn), tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["NA", "null", "None"])
def test_ids_that_recbole_would_drop(tmp_path, word):
    assert word in READ_AS_MISSING
    with pytest.raises(DataError, match=f"the user id '{word}' is read as a missing value"):
        dataset_to_recbole(relabelled(user=word), tmp_path / "out")


def test_the_words_for_missing_are_those_of_pandas():
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(READ_AS_MISSING) == STR_NA_VALUES


def test_features_that_cannot_be_written(tmp_path):
    plain = relabelled()

    def with_features(**columns):
        table = pl.DataFrame({"item": plain.items, **columns})
        log = pl.concat([pairs_only(plain, name) for name in plain.split_names])
        return cnsdiff.prepare(log, "noise", item_features=table)

    n = plain.n_items
    with pytest.raises(DataError, match=r"'tags' lists 'two words', and in RecBole a space"):
        dataset_to_recbole(with_features(tags=[["two words"]] * n), tmp_path / "out")
    with pytest.raises(DataError, match="two item features would be called 'item_label'"):
        dataset_to_recbole(with_features(label=[1] * n, item_label=[2] * n), tmp_path / "out")
    with pytest.raises(DataError, match=r"feature 'a\\tb' cannot be a field"):
        dataset_to_recbole(with_features(**{"a\tb": [1] * n}), tmp_path / "out")


def pairs_only(dataset, name):
    split = dataset.split(name)
    ids = {"user": dataset.decode_users(split.users), "item": dataset.decode_items(split.items)}
    return pl.DataFrame(ids)


def test_recbole_needs_three_splits(dataset, tmp_path):
    lone = prepare_given(pairs(dataset, "train"), name="lone")
    with pytest.raises(DataError, match="lone: RecBole needs train, valid and a test split"):
        dataset_to_recbole(lone, tmp_path / "out")
    with_one = prepare_given(
        pairs(dataset, "train"), valid=pairs(dataset, "valid"), test_ood=pairs(dataset, "test_ood")
    )
    files = dataset_to_recbole(with_one, tmp_path / "out")["files"]
    assert [name for name in files if name.endswith(".yaml")] == ["ood.yaml"]


@pytest.mark.parametrize("write", [dataset_to_csv, dataset_to_parquet, dataset_to_recbole])
def test_what_is_replaced(dataset, tmp_path, write):
    write(dataset, tmp_path / "out")
    with pytest.raises(InputError, match="already exists"):
        write(dataset, tmp_path / "out")
    write(dataset, tmp_path / "out", overwrite=True)
    saved = cnsdiff.Dataset.from_splits(
        {"train": replace(read_interactions(pairs(dataset, "train")), source="x")},
        name="x",
        scenario="given",
    ).save(tmp_path / "saved")
    with pytest.raises(InputError, match="is not an export"):
        write(dataset, saved, overwrite=True)
    cnsdiff.load_dataset(saved)
