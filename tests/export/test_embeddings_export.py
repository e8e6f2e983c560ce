"""Embeddings for other tools: what a stranger ranks by them is what ``recommend`` gives."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.base.errors import ConfigError, DataError, InputError, NotFittedError, StorageError
from cnsdiff.base.storage import sha256
from cnsdiff.export import to_faiss, to_numpy, to_parquet
from cnsdiff.export.embeddings import id_array

DIALS = [None, 0.0, -1.4, 4.0]
K = 6


def lists(model, dial):
    """What the model itself recommends: item ids by user id."""
    table = model.recommend(model.users_, K, dial=dial)
    groups = table.group_by("user", maintain_order=True).agg("item")
    return dict(zip(groups["user"], groups["item"].to_list(), strict=True))


def without_seen(ranked, seen, items):
    """The first K of each row of item numbers that the user has not seen, as ids."""
    return [
        [items[number] for number in row if number not in gone][:K]
        for row, gone in zip(ranked, seen, strict=True)
    ]


@pytest.mark.parametrize("dial", DIALS)
def test_parquet_ranks_as_recommend_does(model, tmp_path, dial):
    manifest = to_parquet(model, tmp_path / "out", dial=dial)
    users = pl.read_parquet(tmp_path / "out" / "users.parquet")
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert users["id"].to_list() == model.users_.to_list()
    assert users.schema["embedding"] == pl.Array(pl.Float32, manifest["dim"])
    scores = users["embedding"].to_numpy() @ items["embedding"].to_numpy().T
    pairs = pl.read_parquet(tmp_path / "out" / "seen.parquet")
    seen = {user: set() for user in users["id"]}
    for user, item in pairs.rows():
        seen[user].add(item)
    expected = lists(model, dial)
    names = items["id"].to_list()
    for user, row in zip(users["id"], scores, strict=True):
        ranked = [names[n] for n in np.argsort(-row, kind="stable")]
        assert [item for item in ranked if item not in seen[user]][:K] == expected[user]
    given = model.score(users["id"], [names[5]] * len(users), dial=dial)
    assert np.allclose(scores[:, 5], given, rtol=1e-5, atol=1e-6)


def test_parquet_is_a_list_of_fixed_size_for_others_too(model, tmp_path):
    to_parquet(model, tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "items.parquet")
    assert str(schema.field("embedding").type).startswith("fixed_size_list<")
    assert schema.field("embedding").type.list_size == model.item_embeddings_.shape[1] + 1


@pytest.mark.parametrize("dial", DIALS)
def test_numpy_ranks_as_recommend_does(model, tmp_path, dial):
    to_numpy(model, tmp_path / "out", dial=dial)
    part = {
        name: np.load(tmp_path / "out" / f"{name}.npy", allow_pickle=False, mmap_mode="r")
        for name in ("user_ids", "item_ids", "user_vectors", "item_vectors", "seen")
    }
    assert part["user_ids"].tolist() == model.users_.to_list()
    scores = part["user_vectors"] @ part["item_vectors"].T
    scores[part["seen"][:, 0], part["seen"][:, 1]] = -np.inf
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    assert dict(
        zip(part["user_ids"].tolist(), part["item_ids"][ranked].tolist(), strict=True)
    ) == lists(model, dial)


@pytest.mark.parametrize("dial", DIALS)
@pytest.mark.parametrize("index", ["auto", "flat"])
def test_faiss_ranks_as_recommend_does(model, tmp_path, dial, index):
    faiss = pytest.importorskip("faiss")
    manifest = to_faiss(model, tmp_path / "out", dial=dial, index=index)
    assert manifest["index"] == {"kind": "flat", "recall": 1.0}
    built = faiss.read_index(str(tmp_path / "out" / "items.faiss"))
    users, items, vectors, pairs = (
        np.load(tmp_path / "out" / f"{name}.npy")
        for name in ("user_ids", "item_ids", "user_vectors", "seen")
    )
    seen = [set(pairs[pairs[:, 0] == row, 1]) for row in range(len(users))]
    _, ranked = built.search(vectors, K + max(map(len, seen)))
    found = without_seen(ranked, seen, items)
    assert dict(zip(users.tolist(), found, strict=True)) == lists(model, dial)


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_an_approximate_index_says_how_much_it_finds(model, tmp_path, index):
    faiss = pytest.importorskip("faiss")
    facts = to_faiss(model, tmp_path / "one", index=index)["index"]
    assert facts["kind"] == index
    built = faiss.read_index(str(tmp_path / "one" / "items.faiss"))
    vectors = np.load(tmp_path / "one" / "user_vectors.npy")
    to_numpy(model, tmp_path / "exact")
    scores = vectors @ np.load(tmp_path / "exact" / "item_vectors.npy").T
    k = min(20, scores.shape[1])
    exact = np.argsort(-scores, axis=1)[:, :k]
    _, found = built.search(vectors, k)
    hits = [len(set(a) & set(b)) / k for a, b in zip(exact, found, strict=True)]
    assert facts["recall"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert facts["recall"] > 0.3
    to_faiss(model, tmp_path / "two", index=index)
    assert sha256(tmp_path / "one" / "items.faiss") == sha256(tmp_path / "two" / "items.faiss")


def test_auto_takes_clusters_where_there_are_many_items(model, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("cnsdiff.export.embeddings_faiss.FLAT_UP_TO", 10)
    assert to_faiss(model, tmp_path / "out")["index"]["kind"] == "ivf"


def test_one_export_is_read_at_any_dial_by_turning_the_users_last_coordinate(model, tmp_path):
    to_numpy(model, tmp_path / "out", dial=1)
    asked = np.load(tmp_path / "out" / "user_vectors.npy")
    items = np.load(tmp_path / "out" / "item_vectors.npy")
    assert np.all(asked[:, -1] == 1)
    for dial in (-2.0, 0.0, 0.7):
        asked[:, -1] = dial
        given = model.score(model.users_, [model.items_[3]] * len(asked), dial=dial)
        assert np.allclose(asked @ items[3], given, rtol=1e-5, atol=1e-6)


def test_at_dial_0_the_vectors_are_the_models_own(model, tmp_path):
    manifest = to_numpy(model, tmp_path / "out", dial=0)
    own = model.item_embeddings_.numpy()
    assert np.array_equal(np.load(tmp_path / "out" / "item_vectors.npy"), own)
    assert manifest["dim"] == manifest["model_dim"] == own.shape[1]
    assert manifest["last_coordinate"] == "the model's own"


def test_the_manifest_says_what_is_there(model, dataset, tmp_path):
    manifest = to_numpy(model, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8")) == manifest
    assert manifest["dial"] == model.dial_ == 0.7
    assert manifest["last_coordinate"] == "the dial's share"
    assert (manifest["n_users"], manifest["n_items"]) == (dataset.n_users, dataset.n_items)
    assert manifest["dataset"]["fingerprint"] == dataset.fingerprint
    for name, facts in manifest["files"].items():
        assert facts["sha256"] == sha256(tmp_path / "out" / name)


def test_integer_ids_stay_integers(tmp_path):
    world = ConfoundedWorld(n_users=40, n_items=30, exposures=20, seed=0).dataset()
    model = Recommender("mf", "random", training={"epochs": 1}, threads=1).fit(world)
    to_numpy(model, tmp_path / "numpy")
    ids = np.load(tmp_path / "numpy" / "user_ids.npy")
    assert ids.dtype == np.int64
    assert ids.tolist() == world.users.to_list()
    to_parquet(model, tmp_path / "parquet")
    assert pl.read_parquet(tmp_path / "parquet" / "items.parquet")["id"].equals(world.items)


def test_text_that_numpy_cannot_keep():
    assert id_array(pl.Series(["a", "ünï 名前"])).tolist() == ["a", "ünï 名前"]
    with pytest.raises(DataError, match=r"'a\\x00' ends in a null character.*parquet"):
        id_array(pl.Series(["b", "a\0"]))


def test_refusals(model, tmp_path, monkeypatch):
    with pytest.raises(NotFittedError):
        to_numpy(Recommender(), tmp_path / "out")
    with pytest.raises(InputError, match="the dial is inf"):
        to_numpy(model, tmp_path / "out", dial=float("inf"))
    with pytest.raises(ConfigError, match=r"no index 'hnws' \(did you mean 'hnsw'\?\)"):
        to_faiss(model, tmp_path / "out", index="hnws")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"install 'cnsdiff\[faiss\]'"):
        to_faiss(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_replaced_and_what_is_not(model, tmp_path):
    out = tmp_path / "out"
    to_numpy(model, out)
    with pytest.raises(InputError, match=r"already exists; .*overwrite=True"):
        to_parquet(model, out)
    to_parquet(model, out, overwrite=True)
    assert not (out / "user_ids.npy").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"'notes\.txt' beside the export"):
        to_numpy(model, out, overwrite=True)
    run = model.save(tmp_path / "run")
    for taken in (run, tmp_path):
        with pytest.raises(InputError, match="holds something that is not an export"):
            to_numpy(model, taken, overwrite=True)
    assert Recommender.load(run).users_.equals(model.users_)


@pytest.mark.parametrize("write", [to_parquet, to_numpy, to_faiss])
def test_a_full_disk_leaves_the_old_export(model, tmp_path, full_disk, write):
    to_numpy(model, tmp_path / "out", dial=0)
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    write(model, tmp_path / "whole")
    sizes = {file.stat().st_size for file in (tmp_path / "whole").iterdir()}
    shutil.rmtree(tmp_path / "whole")
    for room in (2000, max(sizes) - 1):  # the last byte, too
        with full_disk(room), pytest.raises(StorageError, match="the disk is full"):
            write(model, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
