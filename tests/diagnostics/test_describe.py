"""Descriptions against loops over the pairs."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import jensenshannon

from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.data import Dataset, Interactions, Split, load_dataset
from cnsdiff.diagnostics import describe
from cnsdiff.shifts import prepare_given

DAY = 86_400


def pairs_of(dataset, name):
    split = dataset.split(name)
    return list(zip(split.users.tolist(), split.items.tolist(), strict=True))


def popularity_rank(dataset) -> list[int]:
    counts = Counter(item for _, item in pairs_of(dataset, "train"))
    return sorted(range(dataset.n_items), key=lambda item: (-counts[item], item))


@pytest.mark.parametrize("name", ["train", "valid", "test_iid", "test_ood"])
def test_counts_by_looping(timed, name):
    found = describe(timed).splits[name]
    pairs = pairs_of(timed, name)
    assert found.pairs == len(pairs)
    assert found.density == len(pairs) / (timed.n_users * timed.n_items)
    for axis, counts in (("users", found.users), ("items", found.items)):
        size = {"users": timed.n_users, "items": timed.n_items}[axis]
        per = Counter(pair[axis == "items"] for pair in pairs)
        assert counts.present == len(per)
        assert counts.mean == pytest.approx(statistics.mean(per.values()))
        assert counts.median == statistics.median(per.values())
        differences = sum(abs(per[a] - per[b]) for a in range(size) for b in range(size))
        assert counts.gini == pytest.approx(differences / (2 * size * len(pairs)))
        entropy = -sum(n / len(pairs) * math.log(n / len(pairs)) for n in per.values())
        assert counts.effective == pytest.approx(math.exp(entropy))
    ranked = popularity_rank(timed)
    decile = {item: 10 * rank // len(ranked) for rank, item in enumerate(ranked)}
    shares = [sum(decile[i] == d for _, i in pairs) / len(pairs) for d in range(10)]
    assert found.deciles == pytest.approx(shares)
    assert found.head == pytest.approx(sum(shares[:2]))
    assert found.tail == pytest.approx(sum(shares[8:]))
    items = {item for _, item in pairs}
    assert found.top_decile_items == pytest.approx(sum(decile[i] == 0 for i in items) / len(items))
    octaves = Counter(int(math.log2(n)) for n in Counter(user for user, _ in pairs).values())
    users = sum(octaves.values())
    assert found.activity == pytest.approx([octaves[o] / users for o in range(max(octaves) + 1)])
    assert found.long_tail[0] == 0
    assert found.long_tail[-1] == 1


def test_distances_are_those_from_train(timed):
    found = describe(timed).splits
    assert found["train"].shift == {}
    before = Counter(item for _, item in pairs_of(timed, "train"))
    for name in ("valid", "test_iid", "test_ood"):
        after = Counter(item for _, item in pairs_of(timed, name))
        p, q = ([c[i] for i in range(timed.n_items)] for c in (before, after))
        assert found[name].shift["items"].observed.js == pytest.approx(jensenshannon(p, q) ** 2)
        assert set(found[name].shift) == {"items", "users", "time", "periods"}
    excess = {
        name: found[name].shift["items"].observed.js - found[name].shift["items"].chance.js
        for name in ("valid", "test_iid", "test_ood")
    }
    # Only the OOD test was drawn from another distribution.
    assert excess["test_ood"] > 0.05 > max(abs(excess["valid"]), abs(excess["test_iid"]))


def test_time(timed):
    found = describe(timed)
    train = timed.split("train").timestamps
    for name in timed.split_names:
        times, when = timed.split(name).timestamps, found.splits[name].time
        wanted = datetime.fromtimestamp(int(times.min()), UTC).replace(tzinfo=None)
        assert when.first == wanted.isoformat()
        wanted = datetime.fromtimestamp(int(times.max()), UTC).replace(tzinfo=None)
        assert when.last == wanted.isoformat()
        assert when.span_days == pytest.approx((times.max() - times.min()) / DAY)
        assert when.after_train == np.mean([t > train.max() for t in times])
        overlap = min(times.max(), train.max()) - max(times.min(), train.min())
        assert when.overlap_days == pytest.approx(max(overlap, 0) / DAY)
        assert sum(when.cells) == pytest.approx(1)
    assert found.splits["test_ood"].time.overlap_days == 0
    assert found.splits["test_ood"].time.after_train == 1
    assert found.splits["train"].time.moved_spans is None
    moved = found.splits["test_ood"].time.moved_spans
    # All of it lies later, so the distance is the difference of the means.
    days = (timed.split("test_ood").timestamps.mean() - train.mean()) / DAY
    assert moved == pytest.approx(days / ((train.max() - train.min()) / DAY))
    assert len(found.time_edges) == 51
    assert found.time_edges[0] == min(split.time.first for split in found.splits.values())
    assert found.time_edges[-1] == max(split.time.last for split in found.splits.values())


def test_times_at_one_moment_beyond_the_years_of_datetime():
    frame = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "timestamp": [4 * 10**11] * 3})
    held = pl.DataFrame({"user": [2], "item": [2], "timestamp": [4 * 10**11]})
    splits = {"train": Interactions(frame, "a"), "valid": Interactions(held, "b")}
    found = describe(Dataset.from_splits(splits, name="far", scenario="given"))
    assert found.problems == (
        "its times look like milliseconds since 1970, and are taken for seconds; prepare the "
        "dataset again",
    )
    assert found.splits["valid"].time.moved_spans is None
    assert found.splits["valid"].time.first.startswith("14645-")
    assert found.splits["valid"].shift["time"].observed.js == 0


def test_timestamps_in_one_split_only():
    frame = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1]})
    held = pl.DataFrame({"user": [2], "item": [2], "timestamp": [DAY]})
    found = describe(prepare_given(frame, valid=held))
    assert found.splits["train"].time is None
    assert found.splits["valid"].time.overlap_days is None
    assert found.splits["valid"].time.after_train is None
    assert set(found.splits["valid"].shift) == {"items", "users"}
    json.dumps(found.to_dict(), allow_nan=False)


def test_periods(timed, bare):
    split = timed.split("valid")
    labels = [timed.periods[code] for code in split.periods]
    found = describe(timed).splits["valid"].periods
    assert found == {
        label: pytest.approx(labels.count(label) / len(labels)) for label in timed.periods
    }
    assert describe(bare).splits["train"].periods is None


def test_overlaps(timed):
    found = {(o.left, o.right): o for o in describe(timed).overlaps}
    assert list(found) == list(combinations(timed.split_names, 2))
    for (left, right), overlap in found.items():
        a, b = pairs_of(timed, left), pairs_of(timed, right)
        assert overlap.pairs == len(set(a) & set(b)) == 0
        for axis, jaccard in ((0, overlap.users_jaccard), (1, overlap.items_jaccard)):
            one, other = {pair[axis] for pair in a}, {pair[axis] for pair in b}
            assert jaccard == pytest.approx(len(one & other) / len(one | other))
    assert describe(timed).problems == ()


def test_splits_that_overlap_are_a_problem():
    train = pl.DataFrame({"user": [1, 1, 2, 3], "item": [1, 2, 1, 3]})
    iid = pl.DataFrame({"user": [2, 3], "item": [2, 1]})
    ood = pl.DataFrame({"user": [3, 2], "item": [1, 3]})
    with pytest.warns(CnsdiffWarning, match="1 of 2 pairs"):
        found = describe(prepare_given(train, test_iid=iid, test_ood=ood))
    assert [o.pairs for o in found.overlaps] == [0, 0, 1]
    assert found.problems == (
        "1 pairs are both in test_iid and in test_ood; prepare the dataset again from splits that "
        "do not overlap",
    )


def test_cold_pairs_come_from_the_manifest():
    train = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1]})
    ood = pl.DataFrame({"user": [2, 2, 9, 9], "item": [2, 7, 1, 7]})
    dataset = prepare_given(train, test_ood=ood)
    assert describe(dataset).splits["test_ood"].dropped_unknown == 3
    assert describe(dataset).splits["train"].dropped_unknown == 0
    counts = dataset.manifest.splits
    counts["test_ood"] = counts["test_ood"].model_copy(update={"dropped_unknown": None})
    assert describe(dataset).splits["test_ood"].dropped_unknown is None


def test_train_alone():
    found = describe(prepare_given(pl.DataFrame({"user": [1], "item": [5]})))
    assert list(found.splits) == ["train"]
    assert found.overlaps == ()
    assert found.splits["train"].items.gini == 0
    assert found.splits["train"].deciles == (1.0, *[0.0] * 9)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["n_items"] == 1


def test_the_seed_moves_nothing_but_chance(timed):
    first, same, other = describe(timed), describe(timed), describe(timed, seed=1)
    assert first == same
    ours, theirs = (one.splits["test_ood"].shift["items"] for one in (first, other))
    assert ours.observed == theirs.observed
    assert ours.chance != theirs.chance
    assert (first.seed, other.seed, first.draws) == (0, 1, 5)


def test_chance_of_one_split_does_not_depend_on_the_others(timed):
    splits = {name: timed.split(name) for name in ("train", "test_ood")}
    manifest = only(timed.manifest, splits)
    fewer = Dataset(users=timed.users, items=timed.items, manifest=manifest, splits=splits)
    for axis in ("items", "users", "periods"):
        found = (describe(one).splits["test_ood"].shift[axis] for one in (timed, fewer))
        assert next(found) == next(found)


def test_saved_and_loaded(timed, tmp_path):
    made = describe(timed)
    again = prepare_again(timed, tmp_path)
    assert describe(again) == made


def only(manifest, splits):
    return manifest.model_copy(update={"splits": {n: manifest.splits[n] for n in splits}})


def prepare_again(dataset, folder):
    copy = Dataset(
        users=dataset.users,
        items=dataset.items,
        manifest=dataset.manifest,
        splits={name: dataset.split(name) for name in dataset.split_names},
    )
    return load_dataset(copy.save(folder / "copy"))


def test_json_is_plain_and_complete(timed):
    found = describe(timed)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["splits"]["test_ood"]["shift"]["items"]["observed"]["js"] == (
        found.splits["test_ood"].shift["items"].observed.js
    )
    assert document["fingerprint"] == timed.fingerprint
    assert document["splits"]["valid"]["periods"].keys() == {"summer", "winter"}
    assert len(document["overlaps"]) == 6
    assert len(document["splits"]["train"]["long_tail"]) == 101


def test_table(timed, bare):
    found = describe(timed)
    table = found.table()
    assert table["split"].to_list() == ["train", "valid", "test_iid", "test_ood"]
    assert table["items_js"].to_list() == [None] + [
        found.splits[name].shift["items"].observed.js for name in found.splits if name != "train"
    ]
    last = table.row(3, named=True)
    assert last["items_js_chance"] == found.splits["test_ood"].shift["items"].chance.js
    assert last["time_wasserstein"] == found.splits["test_ood"].shift["time"].observed.wasserstein
    assert last["pairs"] == len(timed.split("test_ood"))
    assert last["users_mean"] == found.splits["test_ood"].users.mean
    # Tables of several datasets go under one another.
    both = pl.concat([table, describe(bare).table()], how="diagonal_relaxed")
    assert both.height == 6


def test_an_empty_split(timed):
    nobody = np.array([], dtype=np.int64)
    splits = {"train": timed.split("train"), "valid": Split("valid", nobody, nobody)}
    manifest = only(timed.manifest, splits)
    dataset = Dataset(users=timed.users, items=timed.items, manifest=manifest, splits=splits)
    with pytest.raises(DataError, match=r"timed: its valid split has no pairs; prepare"):
        describe(dataset)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "iid", "ood"), [("food", 0.046, 0.063), ("yelp2018", 0.028, 0.48)]
)
def test_published_datasets(shared_data, name, iid, ood):
    folder = shared_data / name
    dataset = prepare_given(
        folder / "train.txt",
        test_iid=folder / "test_iid.txt",
        test_ood=folder / "test_ood.txt",
        skip_bad=True,
    )
    splits = describe(dataset).splits
    items = {split: splits[split].shift["items"] for split in ("test_iid", "test_ood")}
    assert round(items["test_iid"].observed.js, 3) == iid
    assert items["test_ood"].observed.js == pytest.approx(ood, abs=2e-3)
    excess = {split: shift.observed.js - shift.chance.js for split, shift in items.items()}
    if name == "yelp2018":
        # A random hold-out and nothing more, beside a test without any popular item.
        assert abs(excess["test_iid"]) < 0.001
        assert splits["test_ood"].head == 0
    else:
        # Even the IID test of food is no random hold-out.
        assert excess["test_ood"] > 1.5 * excess["test_iid"] > 0.015
