"""Exposure shift: a randomised table as the OOD test, and as judgements."""

from __future__ import annotations

import polars as pl
import pytest

from cnsdiff import prepare
from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.data import Interactions, Source
from cnsdiff.shifts import Exposure, Filters, Popularity, Temporal, UserGroup

LOG = [(u, i, 5.0 if (u + i) % 3 else 1.0) for u in range(8) for i in range(8) if (u * i) % 2 == 0]
SHOWN = [
    (1, 1, 5.0),  # liked and new
    (1, 3, 4.0),  # liked and new
    (1, 3, 1.0),  # the same pair again: the first counts
    (3, 1, 3.0),  # neither
    (3, 3, 2.0),  # disliked
    (3, 5, 1.0),  # disliked
    (2, 3, 5.0),  # in the log as liked
    (0, 3, 5.0),  # in the log as disliked
    (99, 1, 5.0),  # a user that train does not know
]


def table(rows, source="x.csv"):
    return Interactions(pl.DataFrame(rows, ["user", "item", "rating"], orient="row"), source)


def make(threshold=4.0, shown=None, **settings):
    tables = {"log": table(LOG), "randomised": table(shown or SHOWN, "random.csv")}
    return Exposure(**settings)(Source(tables, name="tiny"), filters=Filters(threshold))


def judged(dataset):
    frame = dataset.table("judgements")
    users, items = dataset.decode_users(frame["user"]), dataset.decode_items(frame["item"])
    return set(zip(users, items, frame["relevant"], strict=True))


def test_the_test_is_what_is_liked_and_new(named):
    dataset = make()
    assert named(dataset, "test_ood").rows() == [(1, 1), (1, 3)]
    counts = dataset.manifest.splits["test_ood"]
    assert counts.read == len(SHOWN)
    assert counts.below_threshold == 4
    assert counts.in_log == 2
    assert counts.dropped_unknown == 1
    side = named(dataset, "train", "valid", "test_iid")
    assert set(side.rows()) == {(u, i) for u, i, rating in LOG if rating == 5}


LIKED = {(1, 1, True), (1, 3, True), (2, 3, True), (0, 3, True)}


@pytest.mark.parametrize(
    ("below", "disliked"),
    [
        ("auto", {(3, 3, False), (3, 5, False)}),
        (2, {(3, 3, False), (3, 5, False)}),
        (1, {(3, 5, False)}),
        (None, {(3, 1, False), (3, 3, False), (3, 5, False)}),
        # Never what the threshold calls liked.
        (4.5, {(3, 1, False), (3, 3, False), (3, 5, False)}),
    ],
)
def test_judgements(below, disliked):
    assert judged(make(negative_threshold=below)) == LIKED | disliked


def exposures(dataset):
    return dict(zip(dataset.items, dataset.table("exposures")["exposures"], strict=True))


def counted(pairs, dataset):
    """How many of the pairs each item of train has."""
    return {item: sum(i == item for _, i in pairs) for item in dataset.items}


@pytest.mark.parametrize("seed", range(5))
def test_what_the_log_exposed_liked_or_not(named, seed):
    tables = {"log": table(LOG), "randomised": table(SHOWN, "random.csv")}
    dataset = Exposure()(Source(tables), filters=Filters(4.0), seed=seed)
    disliked = [(u, i) for u, i, rating in LOG if rating == 1]
    train = named(dataset, "train").rows()
    assert exposures(dataset) == counted(disliked + train, dataset)
    # Less than what was rated, by what is held out.
    held_out = named(dataset, "valid", "test_iid").rows()
    rated = counted([(u, i) for u, i, _ in LOG], dataset)
    assert sum(rated.values()) - sum(exposures(dataset).values()) == len(held_out) > 0


def test_exposures_say_nothing_of_the_held_out_pairs(named):
    """They are what they would be, had the log never had these pairs."""
    # Rated twice, so that a held-out pair has a dislike to its name as well.
    log = [row for u, i, rating in LOG for row in ((u, i, rating), (u, i, 2.0))]
    tables = {"log": table(log), "randomised": table(SHOWN, "random.csv")}
    dataset = Exposure()(Source(tables), filters=Filters(4.0))
    held_out = set(named(dataset, "valid", "test_iid").rows())
    assert held_out
    others = {(u, i) for u, i, _ in log} - held_out
    assert exposures(dataset) == counted(others, dataset)


def test_only_this_scenario_knows_what_was_exposed():
    frame = table(LOG).frame.with_columns(timestamp=pl.int_range(len(LOG)))
    for scenario in (Temporal(), Popularity(), UserGroup()):
        dataset = scenario(Interactions(frame, "x.csv"), filters=Filters(4.0))
        assert "exposures" not in dataset.table_names


def test_watch_ratios_have_no_scale_of_five():
    shown = [(1, 1, 9.5), (1, 3, 1.9), (3, 1, 0.1), (3, 3, 2.0)]
    dataset = make(threshold=2.0, shown=shown)
    assert judged(dataset) == {(1, 1, True), (1, 3, False), (3, 1, False), (3, 3, True)}


def test_kuairec(tmp_path):
    rng_rows = [(u, v, 2.5 if (u + v) % 2 else 0.3) for u in range(9) for v in range(9) if u != v]
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"

    def write(name, rows):
        lines = (f"{u},{v},10,20,now,20200705,1593878903.4,{r}\n" for u, v, r in rows)
        (tmp_path / name).write_text(header + "".join(lines))
        return tmp_path / name

    big = write("big_matrix.csv", [row for row in rng_rows if row[0] + row[1] < 12])
    small = write("small_matrix.csv", [row for row in rng_rows if row[0] + row[1] >= 12])
    dataset = prepare(big, "exposure", randomised=small, threshold=2.0, rating="watch_ratio")
    assert dataset.name == "big_matrix-exposure"
    kept = dataset.manifest.splits["test_ood"]
    # u + v odd and at least 12.
    liked = sum(row[0] + row[1] in (13, 15) for row in rng_rows)
    assert kept.rows == liked
    assert dataset.table("judgements")["relevant"].sum() == liked
    assert dataset.manifest.source["files"] == {
        "log": "big_matrix.csv",
        "randomised": "small_matrix.csv",
    }


def test_clicks_without_ratings():
    log, shown = table(LOG).frame.drop("rating"), table(SHOWN).frame.drop("rating")
    source = Source({"log": Interactions(log, "a"), "randomised": Interactions(shown, "b")})
    dataset = Exposure()(source)
    assert dataset.table_names == ()
    assert len(dataset.split("test_ood")) == 5


def test_ids_of_different_types_meet(named):
    texts = table(SHOWN).frame.with_columns(pl.col("user", "item").cast(pl.String))
    source = Source({"log": table(LOG), "randomised": Interactions(texts, "b")})
    dataset = Exposure()(source, filters=Filters(4))
    assert named(dataset, "test_ood").rows() == [("1", "1"), ("1", "3")]
    assert dataset.manifest.splits["test_ood"].in_log == 2
    assert dataset.table("judgements").height == 6
    assert exposures(dataset) == {
        str(item): count for item, count in exposures(make()).items() if str(item) in dataset.items
    }


def test_refusals():
    with pytest.raises(ConfigError, match=r"random.csv: has ratings.*give threshold"):
        make(threshold=None)
    with pytest.raises(
        DataError, match=r"needs a table 'randomised'.*exposed interactions as randomised=\.\.\."
    ):
        Exposure()(table(LOG))
    with pytest.raises(DataError, match=r"random.csv: the test_ood split has no pairs"):
        make(shown=[(2, 3, 5.0)])


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "rows", "in_log", "judgements"),
    [("coat", 749, 91, (840, 2601)), ("yahoo-r3", 4671, 0, None)],
)
def test_published_experiments(shared_data, name, rows, in_log, judgements):
    folder = shared_data / name
    log, randomised = folder / "user.txt", folder / "random.txt"
    dataset = prepare(log, "exposure", randomised=randomised, threshold=4)
    counts = dataset.manifest.splits["test_ood"]
    assert (counts.rows, counts.in_log) == (rows, in_log)
    # Counted anew from the files, without the library.
    first, second = (
        pl.read_csv(file, has_header=False, new_columns=["user", "item", "rating"])
        for file in (log, randomised)
    )
    seen = first.filter(pl.col("rating") >= 4)
    known = second.join(seen, on="user", how="semi").join(seen, on="item", how="semi")
    liked = known.filter(pl.col("rating") >= 4)
    assert liked.join(first, on=["user", "item"], how="anti").height == rows
    found = dataset.table("judgements")["relevant"]
    expected = (liked.height, known.filter(pl.col("rating") <= 2).height)
    assert (found.sum(), (~found).sum()) == expected
    assert judgements in (None, expected)
