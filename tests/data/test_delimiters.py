"""The delimiter is the one under which all lines are alike; decimal commas; delimiter."""

from __future__ import annotations

import pytest

from cnsdiff.base.errors import CnsdiffWarning, DataError
from cnsdiff.data.reading.dialects import DELIMITERS, NAMES, delimiter_of
from cnsdiff.data.reading.tables import read_features

PAIRS = [(1, 4), (1, 5), (2, 8), (3, 14), (20, 2)]
RATINGS = ["3,5", "2,5", "4", "4,5", "1"]


def lines(first: str, row: str) -> str:
    """A header, if there is one, and a line for each pair."""
    rows = [row.format(u, i, r) for (u, i), r in zip(PAIRS, RATINGS, strict=True)]
    return "\n".join([first] * bool(first) + rows) + "\n"


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("first", "row"),
    [
        ("user_id;item_id;rating", "{};{};{}"),
        ("", "{};{};{}"),
        ("kunde;artikel;note", "{};{};{}"),
        ("", "{} {} {}"),
        ("user_id item_id rating", "{} {} {}"),
        ("user_id;item_id;title", '{};{};"Film {}, The"'),
        ("", "{}\t{}\t{}"),
        ("", "{}|{}|{}"),
        ("", "{}::{}::{}"),
        ("user_id,item_id,category", "{},{},home::garden"),
        ("user_id,item_id,title", "{},{},a\tb"),
        ("user_id,item_id,title", "{},{},The Film"),
        ("user_id,item_id,genres", "{},{},Action|Comedy"),
        ("user_id,item_id,time", "{},{},2020-01-02 10:00:00"),
        ("user_id;item_id;title", "{};{};One, two"),
        ("user_id\titem_id\ttitle", "{}\t{}\tOne, two"),
    ],
)
def test_ids_come_out_whole(read, first, row, skip_bad):
    named = {"user": "kunde", "item": "artikel", "rating": "note"} if "kunde" in first else {}
    found = read(lines(first, row), skip_bad=skip_bad, **named)
    assert found.frame.select("user", "item").rows() == PAIRS
    assert found.skipped == 0
    if row.endswith("{}") or "rating" in first or named:
        assert found.frame["rating"].to_list() == [3.5, 2.5, 4.0, 4.5, 1.0]


def test_words_with_blanks_are_not_cut(read):
    content = "ann lee,red shoe\nbob ray,red hat\ncid joe,blue sock\n"
    assert read(content).frame.rows()[0] == ("ann lee", "red shoe")
    assert read("User 12,345\nUser 13,346\n").frame.rows() == [("User 12", 345), ("User 13", 346)]


@pytest.mark.parametrize("content", ["1,4;5\n2,6;7\n", "a;b,c\nd;e,f\n", "u::a,b\nv::c,d\n"])
def test_two_that_fit_alike_are_asked_about(read, content):
    with pytest.raises(DataError, match=r"line 1: .* and .* both divide .*delimiter"):
        read(content)
    with pytest.raises(DataError, match="decimal comma"):
        read(content, skip_bad=True)


def test_the_delimiter_can_be_named(read):
    assert read("1,4;5\n2,6;7\n", delimiter=";").frame.rows() == [("1,4", 5), ("2,6", 7)]
    assert read("1,4;5\n2,6;7\n", delimiter="comma").frame.rows() == [(1, "4;5"), (2, "6;7")]
    assert read("a b\tc d\n", delimiter="tab").frame.rows() == [("a b", "c d")]
    assert read("a,b c,d\n", delimiter="space").frame.rows() == [("a,b", "c,d")]
    assert read("1^2\n3^4\n", delimiter="^").frame.rows() == [(1, 2), (3, 4)]
    assert read("1~|~2\n3~|~4\n", delimiter="~|~").frame.rows() == [(1, 2), (3, 4)]
    assert read("1\x012\n3\x014\n", delimiter="\x01").frame.rows() == [(1, 2), (3, 4)]
    assert read("1\x1f2::3\n", delimiter="::").frame.rows() == [("1\x1f2", 3)]
    with pytest.raises(DataError, match="';' stands in no line: name another delimiter"):
        read("1,2\n", delimiter=";")
    for wrong in ("a", "7", '"', "\n", ""):
        with pytest.raises(DataError, match="cannot separate fields; delimiter takes"):
            read("1,2\n", delimiter=wrong)


def test_every_delimiter_that_is_looked_for_can_be_named():
    assert {delimiter_of(given) for given in (*DELIMITERS, *NAMES)} == set(DELIMITERS)


@pytest.mark.parametrize(
    ("ratings", "words"),
    [
        (["3,5", "4.5"], ["line 1", "'3,5' has a decimal comma", "'4.5' in line 2"]),
        (["1.500,5", "4,5"], ["decimal comma", "'1.500,5' in line 1"]),
        (["1,500", "2,250"], ["line 1", "'1,500'", "decimal comma", "thousands"]),
    ],
)
def test_a_comma_that_may_be_either_is_an_error(read, ratings, words):
    with pytest.raises(DataError) as caught:
        read("".join(f"{n};{n + 5};{rating}\n" for n, rating in enumerate(ratings)))
    for word in words:
        assert word in str(caught.value)


def test_quoted_decimal_commas_between_commas(read):
    assert read('1,4,"3,5"\n2,5,"0,125"\n').frame["rating"].to_list() == [3.5, 0.125]


def test_the_header_must_have_as_many_fields_as_a_line(read):
    with pytest.raises(DataError, match="header names 2 columns and the lines have 3 fields"):
        read("user,item\n1,4,x\n2,5,y\n", skip_bad=True)


def test_the_first_line_may_name_the_delimiter(read):
    found = read("sep=;\nuser_id;item_id;rating\n1;4;3,5\n2;5;x\n", skip_bad=True)
    assert found.frame.rows() == [(1, 4, 3.5)]
    assert found.problems[0].place == "line 4, column 'rating'"
    assert read("SEP=,\n1,4;5\n2,6;7\n").frame.rows() == [(1, "4;5"), (2, "6;7")]


def test_decimal_commas_of_features_are_numbers_and_told(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("item_id;price;code;title\n1;3,5;1,500;a, b\n2;;2,250;c\n3;4;3,125;e\n")
    with pytest.warns(CnsdiffWarning, match=r"'price' .* decimal comma \('3,5'\)") as told:
        found = read_features(path, "item")
    assert len(told) == 1
    assert found["price"].to_list() == [3.5, None, 4.0]
    assert found["code"].to_list() == ["1,500", "2,250", "3,125"]
