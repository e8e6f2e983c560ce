"""Lists of other recommenders: read, placed, measured as by hand; and files that are wrong."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from audit_parts import log_frame

from cnsdiff.audit.external import judge_external, parse_names, read_externals
from cnsdiff.audit.lists import place_lists, read_lists
from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.shifts import prepare


@pytest.fixture(scope="module")
def dataset():
    return prepare(log_frame(), "popularity", threshold=4, test_share=0.111)


def test_lists_are_measured_as_by_hand(dataset, tmp_path):
    """Ranks in any order, train pairs and unknown ids among them, some users without a list."""
    rng = np.random.default_rng(0)
    rows = []
    for user in dataset.users.to_list()[:120]:
        items = rng.permutation(dataset.items.to_list())[:30]
        ranks = rng.permutation(100)[:30]
        rows += [(user, int(item), int(rank)) for item, rank in zip(items, ranks, strict=True)]
    rows += [(99_999, 1, 1), (dataset.users[0], 88_888, 101)]
    file = tmp_path / "mine.csv"
    shuffled = [rows[at] for at in rng.permutation(len(rows))]
    pl.DataFrame(shuffled, schema=["user_id", "itemId", "Rank"], orient="row").write_csv(file)
    (external,) = read_externals(parse_names([str(file)], "recommendations"), [], {})
    assert external.name == "mine"
    found = judge_external(external, dataset, SHIFTS["popularity"], "ndcg@10", seed=0)
    train = pairs(dataset, "train")
    for test in ("test_iid", "test_ood"):
        frame = found.settings[0].per_user[test]
        held = pairs(dataset, test)
        for row in frame.iter_rows(named=True):
            user = dataset.users[row["user"]]
            own = sorted((r, i) for u, i, r in rows if u == user)
            known = [i for _, i in own if i in dataset.items and (user, i) not in train][:10]
            wanted = {i for u, i in held if u == user}
            hits = [i in wanted for i in known]
            dcg = sum(hit / np.log2(at + 2) for at, hit in enumerate(hits))
            ideal = sum(1 / np.log2(at + 2) for at in range(min(len(wanted), 10)))
            assert row["ndcg@10"] == pytest.approx(dcg / ideal)
            assert row["recall@10"] == pytest.approx(sum(hits) / len(wanted))
        users = set(dataset.users.gather(frame["user"].cast(pl.UInt32)).to_list())
        assert found.without_list[test] == len(users - {u for u, _, _ in rows})
    assert found.counts["unknown_users"] == 1
    assert found.counts["unknown_items"] == 1
    assert found.counts["in_train"] == sum((u, i) in train for u, i, _ in rows)
    assert found.k == 10


def pairs(dataset, split) -> set[tuple[int, int]]:
    found = dataset.split(split)
    users, items = dataset.decode_users(found.users), dataset.decode_items(found.items)
    return set(zip(users.to_list(), items.to_list(), strict=True))


def test_short_lists_are_judged_at_the_length_that_counts(dataset, tmp_path):
    file = tmp_path / "short.csv"
    train = pairs(dataset, "train")
    items = dataset.items.to_list()
    fresh = {u: [i for i in items if (u, i) not in train] for u in dataset.users}
    known = {u: [i for i in items if (u, i) in train] for u in dataset.users}

    def judged(lists):
        rows = [(user, item) for user, own in lists.items() for item in own]
        pl.DataFrame(rows, schema=["user", "item"], orient="row").write_csv(file)
        (external,) = read_externals(parse_names([str(file)], "recommendations"), [], {})
        return judge_external(external, dataset, SHIFTS["popularity"], "ndcg@20", seed=0)

    found = judged({user: own[:7] for user, own in fresh.items()})
    assert (found.k, found.counts["longest"], found.counts["length"]) == (5, 7, 7)
    assert found.counts["ordered_by"] == "rows"
    # What is in train is left out, and what is left is too short for more.
    found = judged({user: known[user][:4] + fresh[user][:3] for user in fresh})
    assert (found.k, found.counts["longest"], found.counts["length"]) == (1, 7, 3)


def test_scores_order_a_list_and_ties_keep_the_order_of_the_file(tmp_path):
    file = tmp_path / "scored.parquet"
    pl.DataFrame(
        {"user": ["a", "a", "a", "b"], "item": [1, 2, 3, 4], "score": [0.5, 0.9, 0.9, -1.0]}
    ).write_parquet(file)
    found = read_lists(file)
    assert found.frame.rows() == [("a", 2), ("a", 3), ("a", 1), ("b", 4)]
    assert found.ordered_by == "score"


def test_ranks_win_over_scores_and_columns_may_be_named(tmp_path):
    file = tmp_path / "both.csv"
    file.write_text("who,item,rank,mine\n1,10,2,9\n1,11,1,3\n")
    columns = {"user": "who"}
    assert read_lists(file, columns).frame["item"].to_list() == [11, 10]
    file.write_text("who,item,mine\n1,11,3\n1,10,9\n")
    found = read_lists(file, {**columns, "score": "mine"})
    assert found.frame["item"].to_list() == [10, 11]
    with pytest.raises(DataError, match=r"has no column 'mien' .did you mean 'mine'"):
        read_lists(file, {**columns, "score": "mien"})


def test_one_file_may_hold_the_lists_of_all_shifts(dataset, tmp_path):
    file = tmp_path / "all.csv"
    file.write_text("shift,user,item,rank\npopularity,1,2,1\ntemporal,1,3,1\npopularity,1,3,2\n")
    lists = read_lists(file)
    assert lists.under("popularity").frame.rows() == [(1, 2), (1, 3)]
    assert lists.under("temporal").frame.rows() == [(1, 3)]
    assert lists.under("hybrid") is None
    (external,) = read_externals(parse_names([f"us={file}"], "recommendations"), [], {})
    assert external.of_this_shift("popularity")
    assert external.under("hybrid") is None


def test_the_places_of_a_list(dataset, tmp_path):
    file = tmp_path / "one.csv"
    user = dataset.users[0]
    own = next(item for u, item in sorted(pairs(dataset, "train")) if u == user)
    others = [item for item in dataset.items if (user, item) not in pairs(dataset, "train")][:2]
    rows = "\n".join(f"{user},{item}" for item in (others[0], own, others[1]))
    file.write_text(f"user,item\n{rows}\n")
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    placed = place_lists(read_lists(file), dataset, train, 3)
    ids = dataset.items.to_list()
    assert [ids[i] for i in placed.items[0].tolist() if i >= 0] == others
    assert [ids[i] for i in placed.with_train[0].tolist()] == [others[0], own, others[1]]
    assert (placed.items[1:] == -1).all()


WRONG = {
    "user,rank\n1,1\n": ("no column is known to hold the items", "'rank'", "item="),
    "thing,item\n1,1\n": ("no column is known to hold the users", "user="),
    "user,item,rank\n1,1\n1,2,2,2\n1,3,3\n1,4,4\n": ("line",),
    "user,item,score\n1,1,0.5\n1,2,NaN\n": ("line 3", "'score'", "not a finite number"),
    "user,item,score\n1,1,0.5\n1,2,\n": ("line 3", "nothing is not a finite number"),
    "user,item,score\n1,1,0.5\n1,2,high\n": ("line 3", "'high'"),
    "user,item,rank\n1,1,1\n2,1,1\n1,2,1\n": ("line 4", "user 1 has the rank 1 twice"),
    "user,item,score\n1,7,1\n1,7,2\n": ("line 3", "user 1 has the item 7 twice"),
    "user,item,rank\n,1,1\n": ("line 2", "the user is empty"),
    "shift,user,item\npopularty,1,1\n": ("line 2", "did you mean 'popularity'"),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_bad_file_is_one_sentence_that_names_the_place(text, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        read_lists(file)
    assert str(error.value).startswith(f"{file}")
    assert "\n" not in str(error.value)
    for words in WRONG[text]:
        assert words in str(error.value)


def test_unknown_ids_alone_are_refused_with_those_that_there_are(dataset, tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("user,item\nanna,12\n")
    (external,) = read_externals(parse_names([str(file)], "recommendations"), [], {})
    with pytest.raises(DataError, match=f"users are called {dataset.users[0]}"):
        judge_external(external, dataset, SHIFTS["popularity"], "ndcg@20", seed=0)


def test_names_of_recommenders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "x=y.csv"):
        (tmp_path / name).touch()

    def parsed(*texts):
        return [(g.name, g.shift, g.file.name) for g in parse_names(texts, "recommendations")]

    assert parsed("a.csv", "ours=b.csv") == [("a", None, "a.csv"), ("ours", None, "b.csv")]
    assert parsed("popularity=a.csv", "temporal=b.csv") == [
        ("yours", "popularity", "a.csv"),
        ("yours", "temporal", "b.csv"),
    ]
    assert parsed("ours:hybrid=a.csv") == [("ours", "hybrid", "a.csv")]
    assert parsed("x=y.csv") == [("x=y", None, "x=y.csv")]
    for texts, words in (
        (["c.csv"], "there is no file c.csv"),
        (["ours:nothing=a.csv"], "no shift is called 'nothing'"),
        (["ease=a.csv"], "'ease' is taken"),
        (["n=a.csv", "n=b.csv"], "'n' has two files"),
    ):
        with pytest.raises(ConfigError, match=words):
            parsed(*texts)
