"""``cnsdiff update``: from a file, a directory or a store; interrupted, activated, refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from cnsdiff import Dataset, Interactions, Recommender
from cnsdiff.base.errors import CnsdiffWarning
from cnsdiff.data import load_dataset
from cnsdiff.recommender.run_directory import dataset_kept_in
from cnsdiff.serving.records import Event, Version
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store
from cnsdiff.serving.version import content_of
from cnsdiff.training.progress import PlainReporter

DAY = 86_400


def log() -> pl.DataFrame:
    """Users whose taste is one of three; new items from the middle on."""
    rng = np.random.default_rng(0)
    n = 2400
    times = np.sort(rng.integers(0, 100 * DAY, n))
    users = rng.integers(0, 60, n)
    items = (users % 3) * 15 + rng.integers(0, 15, n) + 100 * (times > 60 * DAY)
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": times})
    return frame.unique(["user", "item"], keep="first", maintain_order=True)


def parts() -> tuple[pl.DataFrame, pl.DataFrame]:
    late = pl.col("timestamp") > 60 * DAY
    return log().filter(~late), log().filter(late)


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    """A run on the whole log until then, as ``train LOG`` leaves it."""
    place = tmp_path_factory.mktemp("update") / "run"
    dataset = Dataset.from_splits(
        {"train": Interactions(parts()[0], "shop")}, name="shop", scenario="given"
    )
    with dataset_kept_in(place, dataset):
        training = {"epochs": 3, "fhn_every": None}
        Recommender("mf", training=training, threads=1).fit(dataset, run=place)
    return place


@pytest.fixture
def run(old_run, tmp_path):
    return shutil.copytree(old_run, tmp_path / "run")


@pytest.fixture
def since(tmp_path):
    """New interactions as a file."""
    parts()[1].write_csv(tmp_path / "since.csv")
    return tmp_path / "since.csv"


@pytest.fixture
def store(run, tmp_path):
    """The same as events of a service that answers by the old run."""
    url = f"sqlite:///{tmp_path / 'events.db'}"
    with Store.open(url) as store:
        rows = enumerate(parts()[1].rows())
        store.add_events([Event(f"e{n}", str(u), str(i), float(t)) for n, (u, i, t) in rows])
        store.add_version(Version("run", str(run), 0.0, {"content": content_of(run)}))
        store.activate("run")
    return url


def weights(place):
    return load_file(place / "weights.safetensors")


def same(one, other) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_from_a_file(cli, run, since, tmp_path):
    out = tmp_path / "new"
    done = cli("update", run, "--events", since, "--out", out)
    assert done.code == 0, done.err
    assert "rehearsed: ndcg@20" in done.out and f"cnsdiff recommend {out}" in done.out
    assert "training begins at the vectors of the run" in done.err
    figures = json.loads((out / "update.json").read_text())
    assert figures["better"] and figures["new"] > figures["old"]
    assert figures["interval"][0] <= figures["new"] - figures["old"] <= figures["interval"][1]
    new = Recommender.load(out)
    assert new.model_.train.nnz == len(log())
    # What the command wrote can be updated again.
    assert new.dataset_path_ == out / "dataset"


def test_a_directory_and_json(cli, run, tmp_path):
    folder = tmp_path / "events"
    folder.mkdir()
    frame = parts()[1]
    frame[:300].write_csv(folder / "a.csv")
    frame[300:].write_parquet(folder / "b.parquet")
    done = cli("update", run, "--events", folder, "--out", tmp_path / "new", "--anew", "--json")
    assert done.json["new_pairs"] == len(frame)
    assert "training begins anew" in done.err
    assert Recommender.load(tmp_path / "new").model_.train.nnz == len(log())


def test_the_same_command_goes_on(cli, run, since, tmp_path, monkeypatch):
    assert cli("update", run, "--events", since, "--out", tmp_path / "undisturbed").code == 0
    real, pressed = PlainReporter.epoch, []

    def press(self, record, *, best):
        real(self, record, best=best)
        if (tmp_path / "new" / "refit.safetensors").exists() and not pressed:
            pressed.append(1)
            raise KeyboardInterrupt

    monkeypatch.setattr(PlainReporter, "epoch", press)
    command = ("update", run, "--events", since, "--out", tmp_path / "new")
    done = cli(*command)
    assert done.code == 130 and "give the same command again" in done.err
    since.write_text("user,item,timestamp\n1,1,99999999\n")  # what comes later is of the next
    done = cli(*command)
    assert done.code == 0, done.err
    assert "going on with the events that were there" in done.err
    assert same(tmp_path / "new", tmp_path / "undisturbed")
    assert "finished run" in cli(*command).refused("choose another directory")


def test_a_store_is_answered_by_the_update(cli, run, store, tmp_path):
    file = store.removeprefix("sqlite:///")
    done = cli("update", run, "--events", file, "--out", tmp_path / "new", "--activate", "--json")
    assert done.json["better"]
    with Store.open(store) as opened:
        name = opened.activation().active
        assert name == f"new-{content_of(tmp_path / 'new')[:8]}"
        assert opened.activation().previous == "run"
        (version,) = [v for v in opened.versions() if v.name == name]
        assert version.path == str(tmp_path / "new")
        assert version.figures["new"] == version.figures["rehearsed"] == done.json["new"]
        # A service takes it, as the run that it is.
        Service(opened).start().close()


def test_an_update_is_without_those_who_were_forgotten(cli, run, store, tmp_path):
    with Store.open(store) as opened:
        opened.forget("7")
    done = cli("update", run, "--events", store, "--out", tmp_path / "new")
    assert done.code == 0, done.err
    users = Recommender.load(tmp_path / "new").users_.to_list()
    assert 7 in Recommender.load(run).users_.to_list()
    assert 7 not in users and 8 in users
    assert 7 not in Recommender.load(tmp_path / "new").model_.seen.others.to_list()


def test_types_of_events(cli, run, store, tmp_path):
    with Store.open(store) as opened:
        opened.add_events([Event("bought", "3", "500", 99.0 * DAY, "purchase")])
    command = ("update", run, "--events", store, "--out", tmp_path / "new")
    cli(*command, "--types", "cart").refused("has no event 'cart'", "'purchase' (1)")
    done = cli(*command, "--types", "purchase", "--json")
    assert done.json["new_pairs"] == 1
    assert "old and new are not compared: " in done.err


def test_ids_of_another_type_are_left_out(cli, run, store, tmp_path):
    with Store.open(store) as opened:
        opened.add_events([Event("stray", "1", "unk", 6e6)])
    done = cli("update", run, "--events", store, "--out", tmp_path / "new")
    assert done.code == 0, done.err
    assert "left out 1 of" in done.err and "ids are of another type" in done.err
    assert Recommender.load(tmp_path / "new").items_.dtype == pl.Int64


def test_a_worse_update_is_not_activated(cli, run, store, tmp_path, monkeypatch):
    from cnsdiff.recommender.update import Comparison, Updating

    worse = Comparison(
        metric="ndcg@20", old=0.2, new=0.1, interval=[-0.2, 0.0], users=50, pairs=99, moment=1.0
    )
    monkeypatch.setattr(Updating, "compare", lambda *_, **__: worse)
    done = cli("update", run, "--events", store, "--out", tmp_path / "new", "--activate")
    assert done.code == 1
    assert "not activated" in done.err and "0.1000" in done.err and "0.2000" in done.err
    assert Recommender.load(tmp_path / "new").model_.train.nnz == len(log())
    with Store.open(store) as opened:
        assert opened.activation().active == "run"


def test_an_update_ends_no_trial(cli, run, store, tmp_path):
    out = tmp_path / "new"
    with Store.open(store) as opened:
        opened.add_version(Version("tried", str(run), 0.0, {"content": content_of(run)}))
        before = opened.activate("tried", share=0.5)
    done = cli("update", run, "--events", store, "--out", out, "--activate")
    assert done.code == 1
    assert f"{out}: is kept, but the version 'new-" in done.err
    assert "as 'tried' is on trial (a canary for 0.5 of the users); end that" in done.err
    with Store.open(store) as opened:
        assert opened.activation() == before
        assert f"new-{content_of(out)[:8]}" in [version.name for version in opened.versions()]


def test_refusals(cli, run, since, store, tmp_path):
    out = ("--out", tmp_path / "new")
    cli("update", run, "--events", since, *out, "--activate").refused("needs the store")
    cli("update", run, "--events", f"sqlite:///{tmp_path}/no.db", *out).refused("no store")
    cli("update", run, "--events", tmp_path / "no.csv", *out).refused("no such file")
    cli("update", tmp_path, "--events", since, *out).refused("is not a run directory")
    with Store.open(f"sqlite:///{tmp_path / 'few.db'}") as few:
        few.add_events([Event("a", "1", "1", 99.0 * DAY), Event("b", "2", "200", 99.0 * DAY)])
    done = cli("update", run, "--events", f"sqlite:///{tmp_path / 'few.db'}", *out, "--activate")
    done.refused("too few to tell whether an update is better")
    assert not (tmp_path / "new").exists()


def test_new_items_have_the_features_that_were_put(cli, tmp_path):
    """To the service, which keeps them in its store."""
    old, since = parts()
    rng = np.random.default_rng(0)

    def table(items):
        taste = items % 100 // 15
        return pl.DataFrame(
            {
                "item": items,
                "genre": [f"{'new' if i >= 100 else 'old'} {i % 100 // 15}" for i in items],
                "price": (10.0 * taste + rng.normal(size=len(items))).to_list(),
                "image": np.eye(3, dtype=np.float32)[taste.to_numpy()].tolist(),
            },
            schema_overrides={"image": pl.List(pl.Float32)},
        )

    dataset = Dataset.from_splits(
        {"train": Interactions(old, "shop")},
        name="shop",
        scenario="given",
        tables={"item_features": table(old["item"].unique().sort())},
    )
    place = tmp_path / "run"
    with dataset_kept_in(place, dataset):
        training = {"epochs": 3, "fhn_every": None}
        model = Recommender("mf", training=training, content={"prior": "ridge"}, threads=1)
        model.fit(dataset, run=place)
    put = table(since["item"].unique().sort())
    new = [item for item in put["item"] if item >= 100]
    odd = {"genre": ["new 1", "new 2"], "price": "dear", "image": [1.0]}
    url = f"sqlite:///{tmp_path / 'events.db'}"
    with Store.open(url) as store:
        rows = enumerate(since.rows())
        store.add_events([Event(f"e{n}", str(u), str(i), float(t)) for n, (u, i, t) in rows])
        store.put_items({str(row.pop("item")): {**row, "stock": 1} for row in put.to_dicts()})
        store.put_items({str(new[0]): odd, "0": {"price": 99.0}, "7.0": {"price": 99.0}, "x": {}})
    with pytest.warns(CnsdiffWarning, match="does not fit the type") as warnings:
        done = cli("update", place, "--events", url, "--out", tmp_path / "new")
    assert done.code == 0, done.err
    assert sorted(str(own.message).split("'")[1] for own in warnings) == ["image", "price"]
    data = load_dataset(tmp_path / "new" / "dataset")
    features = data.table("item_features").with_columns(data.items.alias("item"))
    assert features.columns == ["genre", "price", "image", "item"]
    expected = {row["item"]: row for row in put.to_dicts()}
    expected[new[0]] = {"item": new[0], "genre": "new 1|new 2", "price": None, "image": None}
    before = dataset.table("item_features").with_columns(dataset.items.alias("item")).to_dicts()
    expected |= {row["item"]: row for row in before}  # what was known of an item stays
    assert set(new) <= set(data.items)
    for row in features.to_dicts():
        assert row == expected[row["item"]]
    # The content model has learnt the words, which came with new items alone.
    (genre,) = [
        column
        for column in Recommender.load(tmp_path / "new").model_.content.encoder.columns
        if column.name == "genre"
    ]
    assert {"new 0", "new 1", "new 2"} <= set(genre.words)
