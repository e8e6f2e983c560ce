"""Embeddings of other systems, in every form that is read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from audit_parts import log_frame

from cnsdiff import Recommender
from cnsdiff.audit.vectors import Vectors, VectorScorer, read_vectors
from cnsdiff.errors import DataError
from cnsdiff.export import to_numpy, to_parquet
from cnsdiff.shifts import prepare

USERS, ITEMS = ["a", "b"], [3, 1, 2]
U, V = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.5, 0.0], [0.0, 3.0]])


def write_npz(path):
    np.savez(path, users=USERS, items=ITEMS, user_embeddings=U, item_embeddings=V)


def write_table(path):
    rows = [("user", u, v.tolist()) for u, v in zip(USERS, U, strict=True)]
    rows += [("item", str(i), v.tolist()) for i, v in zip(ITEMS, V, strict=True)]
    pl.DataFrame(rows, schema=["kind", "id", "vector"], orient="row").write_parquet(path)


@pytest.mark.parametrize(("name", "write"), [("v.npz", write_npz), ("v.parquet", write_table)])
def test_ids_and_vectors_come_back(tmp_path, name, write):
    write(tmp_path / name)
    found = read_vectors(tmp_path / name)
    assert found.users.to_list() == USERS
    assert found.items.to_list() == ITEMS
    assert np.array_equal(found.user_vectors, U)
    assert np.array_equal(found.item_vectors, V)


def test_what_cnsdiff_exports_is_read(tmp_path):
    dataset = prepare(log_frame(), "popularity", threshold=4)
    model = Recommender(seed=0, training={"epochs": 1}).fit(dataset)
    to_parquet(model, tmp_path / "parquet")
    to_numpy(model, tmp_path / "numpy")
    one, other = read_vectors(tmp_path / "parquet"), read_vectors(tmp_path / "numpy")
    assert one.users.to_list() == other.users.to_list() == dataset.users.to_list()
    assert np.array_equal(one.item_vectors, other.item_vectors)


def test_scores_are_inner_products_and_what_is_unknown_is_never_recommended():
    dataset = prepare(log_frame(), "popularity", threshold=4)
    users, items = dataset.users.to_list(), dataset.items.to_list()
    rng = np.random.default_rng(0)
    vectors = Vectors(
        pl.Series([users[2], 10_000]),
        pl.Series([items[1], items[4], 10_000]),
        rng.normal(size=(2, 3)).astype(np.float32),
        rng.normal(size=(3, 3)).astype(np.float32),
        "v.npz",
    )
    scorer = VectorScorer(vectors, dataset)
    assert scorer.counts == {"unknown_users": 1, "unknown_items": 1, "users": 1, "items": 2}
    scores = scorer.score_block(torch.tensor([2, 0]), 0, dataset.n_items)
    known = torch.zeros(dataset.n_items, dtype=torch.bool)
    known[[1, 4]] = True
    assert torch.equal(scores.isfinite()[0], known)
    assert not scores[1].isfinite().any()
    expected = vectors.user_vectors[0] @ vectors.item_vectors[1]
    assert float(scores[0, 4]) == pytest.approx(float(expected), rel=1e-5)


def broken(tmp_path, **changes):
    given = {"users": USERS, "items": ITEMS, "user_embeddings": U, "item_embeddings": V}
    file = tmp_path / "v.npz"
    np.savez(file, **{k: v for k, v in {**given, **changes}.items() if v is not None})
    return file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"items": None}, "has no array 'items'"),
        ({"users": ["a"]}, "1 user ids"),
        ({"users": ["a", "a"]}, "user 'a' has two vectors"),
        ({"user_embeddings": np.array([[1.0, np.nan], [0.0, 1.0]])}, "vector of user 'a'"),
        ({"user_embeddings": np.ones((2, 5))}, "5 numbers"),
        ({"users": np.array([{}, {}], dtype=object)}, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, changes, words):
    file = broken(tmp_path, **changes)
    with pytest.raises(DataError, match=words) as error:
        read_vectors(file)
    assert "\n" not in str(error.value)


def test_other_files_are_refused_with_what_is_read(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("hello")
    pl.DataFrame({"kind": ["user"], "id": [1], "v": [[1.0]]}).write_parquet(tmp_path / "x.parquet")
    rows = pl.DataFrame({"kind": ["user", "item"], "id": [1, 1], "vector": [[1.0], [1.0, 2.0]]})
    rows.write_parquet(tmp_path / "ragged.parquet")
    for name in ("empty", "text.parquet", "x.parquet"):
        with pytest.raises(DataError, match=r"an \.npz file with users"):
            read_vectors(tmp_path / name)
    with pytest.raises(DataError, match="1 numbers and items' 2"):
        read_vectors(tmp_path / "ragged.parquet")
