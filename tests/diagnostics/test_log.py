"""A log before it is divided, against plain counts over its rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from cnsdiff.data import Interactions, read_interactions
from cnsdiff.data.interactions import Problem, Step
from cnsdiff.diagnostics import describe_log
from cnsdiff.diagnostics.log import funnel_lines

DAY = 86_400


def shop(n_users: int = 200, days: int = 100, seed: int = 0) -> pl.DataFrame:
    """Users of a few to some dozen rows, all over the time."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), rng.geometric(0.08, n_users))
    return pl.DataFrame(
        {
            "user": users,
            "item": rng.integers(0, 300, len(users)),
            "timestamp": 1_600_000_000 + rng.integers(0, days * DAY, len(users)),
        }
    )


def with_bot(frame: pl.DataFrame, rows: int, user: int = 999) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    times = rng.choice(frame["timestamp"].to_numpy(), rows)
    bot = {"user": np.full(rows, user), "item": np.arange(rows) % 300, "timestamp": times}
    return pl.concat([frame, pl.DataFrame(bot)])


def test_a_crawler_is_named_and_the_option_leaves_it_alone_out():
    frame = shop()
    assert describe_log(read_interactions(frame)).heavy is None
    log = read_interactions(with_bot(frame, 2_000))
    about = describe_log(log)
    heavy = about.heavy
    assert heavy is not None
    assert (heavy.users, heavy.example, heavy.rows) == (1, "999", 2_000)
    assert heavy.share == 2_000 / len(log)
    pairs = Counter(user for user, _ in set(frame.select("user", "item").iter_rows()))
    assert heavy.max_per_user == max(pairs.values())
    kept = log.deduplicated().without_heavy_users(heavy.max_per_user)
    assert set(kept.frame["user"]) == set(frame["user"])
    (told,) = [remark for remark in about.remarks() if "One user of" in remark]
    assert f"max_per_user={heavy.max_per_user} leaves it out" in told
    assert about.remarks(heavy.max_per_user) == []


def test_many_rows_of_few_pairs_are_no_matter_for_a_limit_on_pairs():
    frame = shop()
    same = pl.DataFrame({"user": [999] * 3_000, "item": [1] * 3_000, "timestamp": [1.6e9] * 3_000})
    log = read_interactions(pl.concat([frame, same.cast(frame.schema)]))
    assert describe_log(log).heavy is None


def test_repeats_are_those_of_a_plain_count():
    frame = shop(60, seed=3)
    frame = pl.concat([frame, frame.head(7)])
    about = describe_log(read_interactions(frame))
    pairs, rows = Counter(frame.select("user", "item").rows()), Counter(frame.rows())
    assert about.repeats == len(frame) - len(pairs)
    assert about.exact_repeats == len(frame) - len(rows)
    assert about.exact_repeats >= 7
    assert about.most_repeated == max(pairs.values())


def test_weeks_are_those_of_a_plain_count():
    frame = shop()
    about = describe_log(read_interactions(frame))
    start = frame["timestamp"].min()
    expected: list[Counter] = [Counter(), Counter(), Counter()]
    seen: tuple[set, set] = set(), set()
    for user, item, time in frame.sort("timestamp").iter_rows():
        week = (time - start) // (7 * DAY)
        expected[0][week] += 1
        for place, one in enumerate((user, item)):
            expected[place + 1][week] += one not in seen[place]
            seen[place].add(one)
    for key, counts in zip(("rows", "new_users", "new_items"), expected, strict=True):
        assert [getattr(week, key) for week in about.weeks] == [
            counts[number] for number in range(len(about.weeks))
        ]
    assert about.weeks[0].start == "2020-09-13 " + about.weeks[0].start[-8:]


def test_users_who_come_once_are_told():
    frame = shop()
    firsts = frame.group_by("user").agg(pl.col("timestamp").min().alias("first"))
    once = frame.join(firsts, on="user").with_columns(timestamp=pl.col("first") + pl.col("item"))
    about = describe_log(read_interactions(once.drop("first")))
    assert about.single_sitting == 1.0
    assert any("100% of the users with two rows and more" in told for told in about.remarks())
    spread = describe_log(read_interactions(frame))
    assert spread.single_sitting is not None
    assert spread.single_sitting < 0.2
    assert spread.remarks() == []
    assert describe_log(read_interactions(frame.drop("timestamp"))).single_sitting is None


def test_events_are_told_until_they_are_chosen():
    frame = shop().with_columns(
        event_type=pl.Series(np.resize(["view", "view", "buy"], shop().height))
    )
    log = read_interactions(frame)
    about = describe_log(log)
    assert about.events == dict(Counter(frame["event_type"].to_list()).most_common())
    (told,) = about.remarks()
    assert "events={'buy': 1, 'view': 0.5}" in told
    assert describe_log(log.of_events(["buy"])).remarks() == []


def test_an_id_is_data():
    frame = shop().with_columns(pl.col("user").cast(pl.String))
    bot = with_bot(shop(), 2_000).with_columns(
        pl.col("user").cast(pl.String).replace("999", "[red]\x1b[2Jbot")
    )
    (told,) = describe_log(Interactions(bot, "log")).remarks()
    assert "'[red]\\x1b[2Jbot'" in told
    assert frame.height < bot.height


@pytest.mark.parametrize("missing", [True, False])
def test_the_funnel_in_words_adds_up(missing):
    left = Problem("an empty user", 3, "line 2, column 'who'", "", missing)
    funnel = (Step("read", 10), Step("readable", 7, (left,)), Step("pairs", 5, (Problem("r", 2),)))
    lines = funnel_lines(funnel)
    assert [rows for _, rows in lines] == [10, -3, 7, -2, 5]
    kind = "missing id" if missing else "malformed"
    assert lines[1][0] == f"  {kind}: an empty user (line 2, column 'who')"


@pytest.mark.real
@pytest.mark.parametrize(
    "file", ["grocery/train.csv", "food/train.txt", "yelp2018/train.txt", "yahoo-r3/user.txt"]
)
def test_customers_of_real_logs_are_not_heavy(shared_data, file):
    assert describe_log(read_interactions(shared_data / file, skip_bad=True)).heavy is None
