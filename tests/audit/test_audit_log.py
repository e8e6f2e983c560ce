"""What counts as positive, and what was shown at random."""

from __future__ import annotations

import polars as pl
import pytest

from cnsdiff.audit.log import Reading, choose_threshold, read_log
from cnsdiff.data import Interactions


def rated(*values: float) -> Interactions:
    n = len(values)
    frame = pl.DataFrame({"user": range(n), "item": range(n), "rating": list(map(float, values))})
    return Interactions(frame, "log.csv", columns={"rating": "stars"})


@pytest.mark.parametrize(
    ("values", "threshold"),
    [
        ((1, 2, 3, 4, 5), 4),
        ((0.5, 3, 4.5, 5), 4),
        ((1, 2, 3, 4), 3),
        ((0, 1, 1), 1),
        ((-1, 0, 1), 1),
        ((1, 3, 5, 7, 9, 10), 7),
        ((1, 1, 1), None),
        ((1, 17, 250), None),
        ((0.01, 0.5, 0.93), None),
        ((-10, 3, 9), None),
    ],
)
def test_the_threshold_that_a_scale_usually_has_is_chosen_and_said(values, threshold):
    found, why = choose_threshold(rated(*values), None)
    assert found == threshold
    assert "'stars'" in why
    if threshold is not None:
        assert "threshold changes that" in why
        share = sum(v >= threshold for v in values) / len(values)
        assert f"{100 * share:.0f}% of {len(values)} rows" in why


def test_what_is_asked_for_stands_and_what_is_usual_comes_next():
    assert choose_threshold(rated(1, 5), 2.0, 4.0)[0] == 2.0
    found, why = choose_threshold(rated(1, 5), None, 3.0)
    assert found == 3.0
    assert "as usual for this data set" in why


def test_without_ratings_there_is_nothing_to_choose():
    frame = pl.DataFrame({"user": [1], "item": [2]})
    assert choose_threshold(Interactions(frame, "log.csv"), None) == (None, "")


def test_rows_shown_at_random_are_told_by_their_period(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("user,item,env\n1,1,feed\n1,2,Random\n2,1,feed\n2,3,random\n")
    found = read_log(Reading(str(file)))
    assert len(found.interactions) == 2
    assert len(found.source.tables["randomised"]) == 2
    assert any("2 rows were shown at random, says 'env'" in note for note in found.notes)
    assert found.columns == {"user": "user", "item": "item", "period": "env"}


def test_the_checksum_is_of_all_that_is_read(tmp_path):
    file, beside = tmp_path / "log.csv", tmp_path / "random.csv"
    file.write_text("user,item\n1,1\n1,2\n")
    beside.write_text("user,item\n1,3\n")
    alone = read_log(Reading(str(file))).checksum
    both = read_log(Reading(str(file), randomised=beside)).checksum
    beside.write_text("user,item\n1,4\n")
    other = read_log(Reading(str(file), randomised=beside)).checksum
    assert len({alone, both, other}) == 3
    assert read_log(Reading(str(file))).checksum == alone
    items, sound = tmp_path / "items.csv", tmp_path / "sound.csv"
    items.write_text("item,price\n1,2\n2,3\n")
    sound.write_text("item,loud\n1,2\n2,3\n")
    one = read_log(Reading(str(file), item_features=items)).checksum
    two = read_log(Reading(str(file), item_features={"": items, "sound": sound})).checksum
    sound.write_text("item,loud\n1,2\n2,4\n")
    three = read_log(Reading(str(file), item_features={"": items, "sound": sound})).checksum
    assert len({alone, one, two, three}) == 4
