"""Embeddings of other systems, in every form that is read."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from audit_parts import log_frame

from cnsdiff import Recommender
from cnsdiff.audit.vectors import Vectors, VectorScorer, read_vectors
from cnsdiff.base.errors import DataError
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
        ({"users": np.array([{}, {}], dtype=object)}, "holds Python objects, which are not read"),
        ({"users": np.array(5)}, "1 user ids"),
        ({"users": np.array([[1], [2]])}, "cannot be read|cannot serve as ids"),
        ({"users": np.array([1.0, np.nan])}, "a user id is missing"),
        ({"users": np.array([1.5, 2.0])}, "cannot serve as ids"),
        ({"item_embeddings": np.zeros((3, 0))}, r"vectors of shape \(3, 0\)"),
        ({"item_embeddings": np.zeros(3)}, r"vectors of shape \(3,\)"),
        ({"item_embeddings": V.astype(complex)}, "vectors of complex128"),
        ({"item_embeddings": V.astype(str)}, "vectors of <U32"),
        ({"item_embeddings": V.astype(object)}, "holds Python objects"),
        ({"item_embeddings": np.full((3, 2), 3e38)}, "too large a one"),
        ({"item_embeddings": np.full((3, 2), 1e300)}, "too large a one"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, changes, words):
    file = broken(tmp_path, **changes)
    with pytest.raises(DataError, match=words) as error:
        read_vectors(file)
    assert "\n" not in str(error.value)


def header(shape: object, descr: str = "<f4", before: bytes = b"\x93NUMPY\x01\x00") -> bytes:
    """A ``.npy`` file that says so of itself, and has 64 bytes."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return before + len(text).to_bytes(2, "little") + text.encode() + b"x" * 64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header((10**12, 4)), "too few bytes"),
        (header((2**63, 2**63)), "too few bytes"),
        (header((-1, -16)), "too few bytes"),
        (header((10**12,), "|O"), "Python objects"),
        (header((4, 4), before=b"\x93NUMPX\x01\x00"), "is damaged"),
        (header((4, 4), before=b"\x93NUMPY\x09\x00"), "is damaged"),
        (header("(", "<f4"), "is damaged"),
        (header((4, 4), "nonsense"), "is damaged"),
        (b"", "is damaged"),
        (b"x", "is damaged"),
    ],
)
def test_a_damaged_array_is_one_sentence(tmp_path, content, words):
    """Also within the bounds of memory, whatever its header says."""
    for name, array in (("user_ids", USERS), ("item_ids", ITEMS), ("user_vectors", U)):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "item_vectors.npy").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        read_vectors(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'item_vectors.npy'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["no zip", "magic", "cut", "member"])
def test_a_damaged_archive_is_one_sentence(tmp_path, damage):
    file = broken(tmp_path)
    data = bytearray(file.read_bytes())
    if damage == "no zip":
        data = bytearray(b"hello")
    elif damage == "magic":
        data[:4] = b"PK\x07\x08"
    elif damage == "cut":
        del data[-60:]
    else:
        data[40:60] = bytes(20)
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be read as embeddings|is damaged") as error:
        read_vectors(file)
    assert str(error.value).startswith(str(file))
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
