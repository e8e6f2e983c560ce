"""Which first lines name columns, and headers that come again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data import read_interactions
from cnsdiff.data.reading.columns import ALIASES

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
SHOP = "".join(f"s{n},p{n % 3}\n" for n in range(6))
MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("session_id,sku", {"user": "session_id", "item": "sku"}),
        ("Visitor-ID,content_id", {"user": "Visitor-ID", "item": "content_id"}),
        ("product_id,client id", {"user": "client id", "item": "product_id"}),
    ],
)
def test_usual_names_are_known(read, header, columns):
    found = read(f"{header}\n{SHOP}")
    assert found.columns == columns
    assert len(found) == 6


def test_the_usual_name_goes_before_the_rarer(read):
    found = read("session_id,sku,customer_id,event_time,content\ns,k,c,2020-01-01,x\n")
    assert found.frame.rows() == [("c", "k", 1577836800)]


def test_every_known_name_is_documented():
    rows = re.findall(r"^\| (\w+) \| (`.*) \|$", DOCS.read_text(), flags=re.M)
    rows = [(role, names) for role, names in rows if role in ALIASES]
    written = {role: tuple(re.findall(r"`(\w+)`", names)) for role, names in rows}
    assert written == ALIASES


def test_no_name_is_known_for_two_roles():
    names = [name for aliases in ALIASES.values() for name in aliases]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("header", ["kunde,artikel", "who,sku", "besucher,user_id"])
def test_a_first_line_unlike_the_rest_is_asked_about(read, header):
    with pytest.raises(
        DataError, match=r"line 1: .* looks like a header.*header=True.*header=False"
    ):
        read(f"{header}\n{SHOP}", skip_bad=True)
    user, item = header.split(",")
    assert len(read(f"{header}\n{SHOP}", user=user, item=item)) == 6
    assert len(read(f"{header}\n{SHOP}", header=False)) == 7


def test_words_above_words_are_interactions(read):
    assert len(read("ann,cheese\nbob,bread\ncid,wine\n")) == 3


FIRST, SECOND = "1,4\n1,5\n2,4\n", "7,4\n8,5\n9,6\n"


@pytest.mark.parametrize("start", ["", "user_id,item_id\n"])
@pytest.mark.parametrize(
    "again", ["user_id,item_id\n", '"user_id", "item_id"\n', "customerId,movieId\n"]
)
def test_a_header_in_the_middle_is_no_interaction(read, start, again):
    content = (start + FIRST).encode() + MARK + (again + SECOND).encode()
    with pytest.raises(DataError, match=f"line {4 + bool(start)}: names the columns once more"):
        read(content)
    found = read(content, skip_bad=True)
    assert found.frame["user"].to_list() == [1, 1, 2, 7, 8, 9]
    assert found.frame.schema["item"].is_integer()
    assert [(p.rows, p.reason) for p in found.problems] == [(1, "names of columns once more")]


def test_a_header_among_ids_of_text(read):
    content = f"session_id,sku\n{SHOP}session_id,sku\n{SHOP}"
    with pytest.raises(DataError, match="line 8: names the columns once more"):
        read(content)
    assert len(read(content, skip_bad=True)) == 12


def test_ids_that_are_names_can_be_had(read):
    assert len(read("ann,cheese\nuser,item\n", header=False)) == 2
    assert len(read("user_id,item_id\nann,cheese\ncustomer,book\n")) == 2


def test_a_mark_at_the_start_of_a_line_is_no_part_of_an_id(read):
    content = MARK + MARK + b"1,4\n" + MARK + b"2,5\n" + MARK + b"\n3,6\n"
    assert read(content).frame.rows() == [(1, 4), (2, 5), (3, 6)]


def test_lines_above_the_header_do_not_hide_it(read):
    content = "export of 3 May\n# of the shop\nitem_id,user_id\n10,1\n20,2\n\n30\n"
    found = read(content, skip_bad=True)
    assert found.frame.rows() == [(1, 10), (2, 20)]
    assert [(p.rows, p.place) for p in found.problems] == [(3, "line 1")]
    with pytest.raises(DataError, match="line 1: has 1 field"):
        read(content)


def test_a_wanted_column_that_is_there_twice(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("user_id,item_id,user_id,x,x\n1,2,3,4,5\n")
    with pytest.raises(DataError, match=r"log.csv: has two columns called 'user_id'; rename"):
        read_interactions(file)
    file.write_text("user_id,item_id,x,x\n1,2,4,5\n")  # others are of no concern
    assert read_interactions(file).frame.rows() == [(1, 2)]
