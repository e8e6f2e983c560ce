"""Delimited text, adjacency and RecBole files that are well formed."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data import Interactions, read_interactions
from cnsdiff.data.reading import lines, text
from cnsdiff.data.reading.tables import read_features


def rows(interactions: Interactions) -> list[tuple]:
    return interactions.frame.rows()


SEPARATORS = [" ", "   ", "\t", " \t ", ",", ", ", "::", ";", "|"]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("header", [True, False])
def test_every_separator_width_and_header(read, separator, width, header):
    names = ["user_id", "movieId", "stars", "time"][:width]
    table = [["1", "10", "4.5", "100"], ["2", "20", "3", "200"], ["1", "30", "5", "300"]]
    lines = [separator.join(names)] * header + [separator.join(row[:width]) for row in table]
    found = read("\n".join(lines) + "\n")
    assert found.frame.columns == ["user", "item", "rating", "timestamp"][:width]
    expected = [(1, 10, 4.5, 100), (2, 20, 3.0, 200), (1, 30, 5.0, 300)]
    assert rows(found) == [row[:width] for row in expected]
    assert found.frame.schema["user"] == pl.Int64
    assert found.skipped == 0


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_blank_lines_bom_and_no_last_newline(read, ending):
    found = read(b"\xef\xbb\xbf" + ending.join(["1 2", "", "  ", "3 4"]).encode())
    assert rows(found) == [(1, 2), (3, 4)]


def test_gzip(read):
    first, second = gzip.compress(b"1,2\n"), gzip.compress(b"3,4\n")
    assert rows(read(first + second, "log.csv.gz")) == [(1, 2), (3, 4)]


def test_a_gzip_that_would_fill_the_memory(read, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_ALWAYS", 1 << 20)
    packed = gzip.compress(b"1,2\n" * (1 << 20), 9)
    with pytest.raises(DataError, match="unpacks to more than 300 times its size"):
        read(packed, "log.csv.gz")
    (tmp_path / "items.csv.gz").write_bytes(packed)
    with pytest.raises(DataError, match="unpacks to more than 300 times its size"):
        read_features(tmp_path / "items.csv.gz", "item")


@pytest.mark.parametrize("ids", [["007", "7"], ["1", "+2"], ["1", "x"], ["1", str(2**70)]])
def test_ids_that_integers_would_change_stay_text(read, ids):
    found = read("".join(f"{user} 5\n" for user in ids))
    assert found.frame["user"].to_list() == ids
    assert found.frame["item"].to_list() == [5, 5]


def test_quoted_fields(read):
    content = 'user,item,rating\n"Ann, Sr.","the ""best""",5\nBob,plain,4\n'
    assert rows(read(content)) == [("Ann, Sr.", 'the "best"', 5.0), ("Bob", "plain", 4.0)]


def test_quotes_that_begin_after_the_sample(read):
    content = "".join(f"u{n},i{n}\n" for n in range(1500)) + '"u,1","i 1"\n'
    assert rows(read(content))[-1] == ("u,1", "i 1")


def test_a_quote_within_a_field_is_a_character(read):
    assert rows(read('u1,7" vinyl\nu2,12" vinyl\nu3,cd\n'))[:2] == [
        ("u1", '7" vinyl'),
        ("u2", '12" vinyl'),
    ]


def test_columns_in_any_order_and_beside_others(read):
    content = "title,rating,item_id,x,user_id\nA,5,1,?,2\nB,3,4,?,5\n"
    assert rows(read(content)) == [(2, 1, 5.0), (5, 4, 3.0)]


def test_columns_by_name_and_none(read):
    content = "who;what;rating;date\na;b;1;yesterday\n"
    found = read(content, user="who", item="what", timestamp="none", rating="none")
    assert found.frame.columns == ["user", "item"]
    assert rows(found) == [("a", "b")]


def test_columns_by_position(read):
    found = read("x 1 9 2\ny 3 9 4\n", user="2", item="4", rating="none", timestamp="none")
    assert rows(found) == [(1, 2), (3, 4)]


def test_more_than_four_columns_by_position(read):
    assert rows(read("a,b,c,d,e\nf,g,h,i,j\n", user="5", item="1")) == [("e", "a"), ("j", "f")]


def test_third_field_of_dates_is_a_time(read):
    assert rows(read("a,b,1970-01-02\nc,d,1970-01-03\n")) == [("a", "b", 86400), ("c", "d", 172800)]


def test_ids_that_open_like_markup(read):
    assert rows(read("<b> [x]\n", format="text")) == [("<b>", "[x]")]


def test_third_field_of_large_numbers_is_a_time(read):
    found = read("1 2 1700000000\n3 4 1700000001\n")
    assert found.frame.columns == ["user", "item", "timestamp"]
    assert found.frame["timestamp"].to_list() == [1700000000, 1700000001]


def test_header_told_or_denied(read):
    assert len(read("user,item\na,b\n", header=False)) == 2
    assert rows(read("user,item\na,b\n", header=True)) == [("a", "b")]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("1970-01-02", 86400),
        ("1970-01-01 00:01:00", 60),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01T00:00:00.5", 0.5),
        ("1970-01-01T00:01", 60),
        ("12.5", 12.5),
        ("1e3", 1000.0),
    ],
)
def test_times(read, given, seconds):
    assert read(f"user,item,timestamp\n1,2,{given}\n").frame["timestamp"].to_list() == [seconds]


def test_recbole(read):
    content = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t881250949\n"
    for name in ("ml.inter", "ml.txt"):
        assert rows(read(content, name)) == [(1, 2, 3.0, 881250949)]
    assert rows(read(content, "ml.inter", user="item_id", item="user_id"))[0][:2] == (2, 1)


def test_adjacency_is_told_by_itself_when_clear(read):
    found = read("0 10 11 12 13 14\n1 10\n2 12 13 14 15 16 17 18\n3 1 2\n")
    assert len(found) == 5 + 1 + 7 + 2
    assert rows(found)[:2] == [(0, 10), (0, 11)]
    assert found.frame.columns == ["user", "item"]


def test_adjacency_when_asked_for(read):
    assert rows(read("a x y\nb z\n", format="adjacency")) == [("a", "x"), ("a", "y"), ("b", "z")]
    assert rows(read("7,1,2\n", format="adjacency")) == [(7, 1), (7, 2)]
    assert rows(read("7 1 2 \n", format="adjacency")) == [(7, 1), (7, 2)]


def test_skip_bad_counts_every_kind_of_bad_row(read):
    content = "user,item,rating\n1,2,3\n1,2\n1,2,3,4\n,2,3\n1,2,x\n1,2,nan\n\n5,6,1\n"
    found = read(content, skip_bad=True)
    assert rows(found) == [(1, 2, 3.0), (5, 6, 1.0)]
    assert found.skipped == 5
    assert [(p.rows, p.reason, p.place, p.example) for p in found.problems] == [
        (1, "fewer fields than 3", "line 3", "1,2"),
        (1, "more fields than 3", "line 4", "1,2,3,4"),
        (1, "an empty user", "line 5, column 'user'", ""),
        (2, "a rating that is no number", "line 6, column 'rating'", "x"),
    ]


def test_skip_bad_counts_an_open_quote_and_a_user_without_items(read):
    assert read('user,item\n"a",b\n"c,d\n', skip_bad=True).skipped == 1
    found = read("1 2 3\n4\n", format="adjacency", skip_bad=True)
    assert found.skipped == 1
    assert str(found.problems[0]) == "1 row with a user without items (first in line 2: '4')"


def test_an_example_is_shortened_and_shows_control_characters(read):
    found = read("1,2\n3,4\n\x1b[31m" + "x" * 100 + "\n", skip_bad=True)
    assert str(found.problems[0]) == (
        "1 row with fewer fields than 2 (first in line 3: '\\x1b[31m" + "x" * 54 + "…')"
    )


def test_line_numbers_hold_across_blocks(read, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK", 256)
    good = [f"{n} {n + 1} 1" for n in range(400)]
    good[123] = "broken"
    good[300] = "1 2 3 4"
    found = read("\n".join(good), skip_bad=True)
    assert found.skipped == 2
    assert found.frame["user"].to_list() == [n for n in range(400) if n not in (123, 300)]


def test_path_as_text(tmp_path: Path):
    (tmp_path / "a.txt").write_text("1 2\n")
    assert read_interactions(str(tmp_path / "a.txt")).source == str(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("log", "names"),
    [
        ("Покупатель,Товар,Оценка\nЛи,сыр,5\nЯн,хлеб,4\n", ("Покупатель", "Товар")),
        ("who;what;when\na;b;2024-01-02\nc;d;2024-01-03\n", ("who", "what")),
        ("clé\tchose\n1\t2\n3\t4\n", ("clé", "chose")),
    ],
)
def test_words_above_numbers_or_times_are_a_header(read, log, names):
    with pytest.raises(DataError, match=rf"hold the users and the items.*{names[0]}.*user='NAME'"):
        read(log)
    assert len(read(log, user=names[0], item=names[1])) == 2


@pytest.mark.parametrize("first", ["a,b,n/a", "a,b,", "a,b,7", "a,b,2024-01-01"])
def test_a_first_line_of_values_is_no_header(read, first):
    assert len(read(f"{first}\nc,d,5\ne,f,4\n", skip_bad=True)) in (2, 3)


def test_it_says_what_the_file_calls_each_column(read):
    found = read("customer,sku,when\n1,10,100\n", timestamp="when")
    assert found.columns == {"user": "customer", "item": "sku", "timestamp": "when"}
    assert read("1 10 4.5\n2 20 3\n").columns == {"user": "1", "item": "2", "rating": "3"}


def test_times_before_ratings_without_a_header(tmp_path):
    file = tmp_path / "log.txt"
    file.write_text("".join(f"{u},{u + 1},{1_500_000_000 + u},{u % 5 + 1}\n" for u in range(9)))
    frame = read_interactions(file).frame
    assert frame["rating"].to_list() == [u % 5 + 1 for u in range(9)]
    assert frame["timestamp"].min() == 1_500_000_000
