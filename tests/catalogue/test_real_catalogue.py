"""Published files got by hand, as the catalogue reads them."""

from __future__ import annotations

import numpy as np
import pytest
from polars.testing import assert_frame_equal

from cnsdiff.catalogue import fetch, load

pytestmark = pytest.mark.real


def test_coat(shared_data, tmp_path):
    fetch("coat", local_copy=shared_data / "coat", home=tmp_path)
    source = load("coat", home=tmp_path)
    log, randomised = source.tables["log"], source.tables["randomised"]
    assert (len(log), log.n_users, len(randomised)) == (6_960, 290, 4_640)
    assert set(log.frame.group_by("user").len()["len"]) == {24}
    assert set(randomised.frame.group_by("user").len()["len"]) == {16}
    users, items = source.features["user_features"], source.features["item_features"]
    assert users.columns == ["user", "gender", "age", "location", "fashioninterest"]
    assert items.columns == ["item", "gender", "jackettype", "color", "onfrontpage"]
    assert (users.height, items.height) == (290, 300)
    assert sum(map(sum, users.null_count().rows())) == 0
    flags = np.loadtxt(shared_data / "coat" / "user_features.ascii")
    assert users["gender"].eq("men").sum() == flags[:, 0].sum()
    assert users["fashioninterest"].eq("very").sum() == flags[:, -1].sum()


def test_coat_in_the_form_of_its_archive(shared_data, tmp_path, zipped):
    folder = shared_data / "coat"
    files = {}
    for name, matrix in (("user", "train"), ("random", "test")):
        triples = np.loadtxt(folder / f"{name}.txt", delimiter=",", dtype=int)
        dense = np.zeros((290, 300), dtype=int)
        dense[triples[:, 0], triples[:, 1]] = triples[:, 2]
        files[f"coat/{matrix}.ascii"] = "\n".join(" ".join(map(str, row)) for row in dense)
    for path in folder.glob("*_features*"):
        files[f"coat/user_item_features/{path.name}"] = path.read_bytes()
    (tmp_path / "coat.zip").write_bytes(zipped(files))
    fetch("coat", local_copy=folder, home=tmp_path / "triples")
    fetch("coat", local_copy=tmp_path / "coat.zip", home=tmp_path / "matrices")
    one, other = (load("coat", home=tmp_path / name) for name in ("triples", "matrices"))
    for role in ("log", "randomised"):
        pairs = ["user", "item"]
        assert_frame_equal(one.tables[role].frame.sort(pairs), other.tables[role].frame.sort(pairs))
    for name, table in one.features.items():
        assert_frame_equal(table, other.features[name])


def test_yahoo_r3(shared_data, tmp_path):
    fetch("yahoo-r3", local_copy=shared_data / "yahoo-r3", accept_terms=True, home=tmp_path)
    source = load("yahoo-r3", home=tmp_path)
    log, randomised = source.tables["log"], source.tables["randomised"]
    assert (len(log), log.n_users, log.n_items) == (311_704, 15_400, 1_000)
    assert (len(randomised), randomised.n_users) == (54_000, 5_400)
    assert source.features == {}
    assert source.provenance["threshold"] == 4.0
