"""Published data sets, as their authors left them."""

from __future__ import annotations

import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data import load_dataset, read_interactions
from cnsdiff.shifts import prepare_given

pytestmark = pytest.mark.real


def prepare(folder, **options):
    return prepare_given(
        folder / "train.txt",
        valid=folder / "valid_iid.txt",
        test_iid=folder / "test_iid.txt",
        test_ood=folder / "test_ood.txt",
        **options,
    )


def rows(dataset) -> list[int]:
    return [len(dataset.split(name)) for name in dataset.split_names]


def test_food(shared_data, tmp_path):
    dataset = load_dataset(prepare(shared_data / "food").save(tmp_path / "food"))
    assert rows(dataset) == [106_253, 20_468, 43_183, 46_149]
    assert (dataset.n_users, dataset.n_items) == (7_732, 6_293)
    for counts in dataset.manifest.splits.values():
        assert counts.read == counts.rows


def test_yelp2018_has_two_broken_lines(shared_data):
    with pytest.raises(DataError, match=r"train.txt, line 1: has 1 field .*skip_bad=True"):
        prepare(shared_data / "yelp2018")
    dataset = prepare(shared_data / "yelp2018", skip_bad=True)
    assert rows(dataset) == [238_514, 47_570, 95_173, 16_346]
    assert (dataset.n_users, dataset.n_items) == (8_093, 13_879)
    assert dataset.manifest.splits["train"].skipped == 2


def test_yahoo_r3(shared_data):
    log = read_interactions(shared_data / "yahoo-r3" / "user.txt")
    assert (len(log), log.n_users, log.n_items) == (311_704, 15_400, 1_000)
    assert set(log.frame["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert len(read_interactions(shared_data / "yahoo-r3" / "random.txt")) == 54_000


def test_coat_pairs_seen_in_train_leave_the_test(shared_data):
    folder = shared_data / "coat"
    dataset = prepare_given(folder / "user.txt", test_ood=folder / "random.txt", threshold=4)
    assert dataset.manifest.splits["train"].read == 6_960
    assert dataset.manifest.splits["test_ood"].overlap_train == 91


def test_feature_maps_are_no_interactions(shared_data):
    for name in ("item_features.ascii", "item_features_map.txt"):
        with pytest.raises(DataError):
            read_interactions(shared_data / "coat" / name)
