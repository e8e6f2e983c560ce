"""Quoted fields: blanks around them, line breaks in them, and quotes that are left open."""

from __future__ import annotations

import csv
import io
import random

import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data.reading.tables import read_features

REVIEWS = (
    'user_id,item_id,review,rating\n1,10,"nice\n7,8,9,5\nend",4\n2,11,"ok",5\n'
    '3,12,"x\n\n""y"" z",1\n'
)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_field_goes_on_over_lines(read, skip_bad):
    found = read(REVIEWS, skip_bad=skip_bad)
    assert found.frame.rows() == [(1, 10, 4.0), (2, 11, 5.0), (3, 12, 1.0)]
    assert found.skipped == 0


def test_lines_are_numbered_as_in_the_file(read):
    with pytest.raises(DataError, match=r"line 10, column 'rating': 'bad'"):
        read(REVIEWS + "4,13,x,2\n5,14,x,bad\n")
    with pytest.raises(DataError, match=r"line 6: has 3 fields"):
        read(REVIEWS.replace('"ok",5\n', '"ok",5\n2,11,x\n'))


def test_two_long_fields_in_one_record(read):
    content = 'user,item,title,text\n1,2,"a\nb","c\nd"\n3,4,x,"e\nf"\n'
    assert read(content).frame.rows() == [(1, 2), (3, 4)]


def test_features_keep_their_lines(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text('item,text,n\n1,"a\n\nb",5\n2, "c, d" ,6\n')
    assert read_features(path, "item").rows() == [(1, "a\n\nb", 5), (2, "c, d", 6)]


def test_an_open_quote_swallows_nothing(read):
    rows = [f'{n},{n + 1},"t{n}"' for n in range(50)]
    rows[20] = '20,21,"open'
    rows[30] = '30,31,"also open'
    with pytest.raises(DataError, match="line 21: a quote is not closed"):
        read("\n".join(rows), rating="none")
    found = read("\n".join(rows), skip_bad=True, rating="none")
    assert found.frame["user"].to_list() == [n for n in range(50) if n not in (20, 30)]
    assert [(p.rows, p.place) for p in found.problems] == [(2, "line 21")]


def test_an_open_quote_that_a_far_one_would_close_swallows_nothing(read):
    rows = [f"{n},{n + 1},t" for n in range(80)]
    rows[20] = '20,21,"open'
    rows[60] = '60,61,close"'
    found = read("\n".join(rows), skip_bad=True, rating="none")
    assert len(found) == 79
    assert found.skipped == 1


def test_blanks_around_fields(read):
    for content in (
        'user_id, item_id\n"1", "4"\n"2" , "5"\n',
        'user_id, item_id,title\n1, 4,"F"\n2 , 5 ,"G"',
    ):
        assert read(content).frame.rows() == [(1, 4), (2, 5)]
    kept = read('u, i,w\n" a ", "b, ""c"" ","x"\n"d",e,"y"\n', user="u", item="i")
    assert kept.frame.rows() == [(" a ", 'b, "c" '), ("d", "e")]


def test_quoted_fields_between_blanks(read):
    content = 'user item rating\n"ann lee"  "x ""y"""\t4\nbob z 5\n'
    assert read(content).frame.rows() == [("ann lee", 'x "y"', 4.0), ("bob", "z", 5.0)]


def test_careless_quotes_within_a_field(read):
    content = 'user,item,text\n1,2,"say "hi" now"\n3,4,7" vinyl\n5,6,"7"" and 12"" now"\n'
    assert read(content).frame.rows() == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_csv_writer_writes_is_read(read, seed):
    draw = random.Random(seed)
    words = ["a", "b c", "x,y", 'he said "no"', "two\nlines", "", ' "', "7,8,9", "\n", '",']
    ids = [word for word in words if "\n" not in word]
    delimiter = draw.choice(",;|\t")
    rows = [
        [f"u{n}", draw.choice(ids) + "z", f"{draw.random():.3f}", draw.choice(words)]
        for n in range(200)
    ]
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=delimiter, quoting=draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    )
    writer.writerows([["user_id", "item_id", "rating", "title"], *rows])
    found = read(text.getvalue().replace("\r\n", "\n"))
    assert found.frame["user"].to_list() == [row[0] for row in rows]
    assert found.frame["item"].to_list() == [row[1] for row in rows]


def test_an_id_never_goes_on_over_lines(read):
    content = '1,"4\n2,5"\n3,"6"\n'
    with pytest.raises(DataError, match=r"line 1, column '2': the item goes on over several lines"):
        read(content)
    found = read(content, skip_bad=True)
    assert found.frame.rows() == [(3, 6)]
    assert str(found.problems[0]) == (
        r"1 row with a line break in the item (first in line 1: '4\n2,5')"
    )
