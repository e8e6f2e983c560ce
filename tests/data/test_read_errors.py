"""Bad input gets one sentence that names the place and the mend."""

from __future__ import annotations

import contextlib
import gzip

import polars as pl
import pytest

from cnsdiff.base.errors import CnsdiffError, DataError
from cnsdiff.data import read_interactions

GOOD = "1 2 3\n" * 3
CASES = {
    "empty": ("", {}, ["is empty"]),
    "blank": ("\n  \n\n", {}, ["is empty"]),
    "header only": ("user,item\n", {}, ["header but no interactions"]),
    "too few": (GOOD + "\n4 5\n", {}, ["line 5:", "2 fields", "3 are expected", "skip_bad=True"]),
    "one field": ("0\n" + GOOD, {}, ["line 1:", "1 field where", "skip_bad=True"]),
    "too many": (GOOD + "1 2 3 4\n", {}, ["line 4:", "4 fields", "skip_bad=True"]),
    "rating": (GOOD + "1 2 good\n", {}, ["line 4", "column '3'", "'good'", "skip_bad=True"]),
    "nan rating": (GOOD + "1 2 nan\n", {}, ["line 4", "'nan' is not a number"]),
    "empty rating": ("user,item,rating\n1,2,\n", {}, ["line 2", "'rating'", "rating is empty"]),
    "time": ("user,item,time\n\n1,2,3\n1,2,soon\n", {}, ["line 4", "'time'", "'soon'", "or date"]),
    "first rating": ("1 2 x\n3 4 y\n", {}, ["line 1", "'x' is not a number"]),
    "rating after blank and bad": (
        *("1 2 3\n\n1 2\n4 5 six\n", {}),
        ["line 3", "2 fields"],
    ),
    "empty id": (
        "user,item\na,b\n,c\n",
        {},
        ["line 3", "'user'", "user is empty", "skip_bad=True"],
    ),
    "quote": ('user,item\n"a",b\n"c,d\n', {}, ["line 3", "quote is not closed", "skip_bad=True"]),
    "missing column": (
        *("user_id,item_id\n1,2\n", {"user": "user_ids"}),
        ["'user_ids'", "did you mean 'user_id'", "'item_id'", "user='NAME'"],
    ),
    "unknown names": ("kunde,artikel\n1,2\n3,4\n", {}, ["'kunde', 'artikel'", "user='NAME'"]),
    "no item": ("user,thing,rating\n1,2,3\n", {"header": True}, ["items", "item='NAME'"]),
    "twice": ("user,item\n1,2\n", {"item": "user"}, ["'user'", "twice"]),
    "no such position": (GOOD, {"user": "7"}, ["no header", "'7'", "1 to 3"]),
    "wide": ("a b c d e\n" * 5, {}, ["5 fields", "user='NAME'", "adjacency"]),
    "one word": ("hello\nworld\n", {}, ["line 1", "1 field", "format"]),
    "no items": ("1 2 3\n4\n", {"format": "adjacency"}, ["line 2", "'4' has no items"]),
    "format": (GOOD, {"format": "cvs"}, ["'cvs'", "did you mean 'csv'", "format"]),
    "wrong separator": (GOOD, {"format": "csv"}, ["line 1", "format"]),
    "binary": (b"\x00\x01\x02" * 50, {}, ["binary", "format"]),
    "zip": (b"PK\x03\x04 zipped", {}, ["binary"]),
    "json": ('{"user": 1, "item": 2}\n', {}, ["line 1", "JSON", "format='text'"]),
    "web page": ("<html>not found, sorry</html>", {}, ["line 1", "web page"]),
    "one date": ("user,item,time\n1,2,5\n1,3,6\n1,4,2020-01-01\n", {}, ["line 4", "2020-01-01"]),
    "one number": (
        *("user,item,time\n1,2,5\n1,3,2020-01-01\n1,4,2020-01-02\n", {}),
        ["line 2", "'5' is not a number or date"],
    ),
    "latin": ("1 2\n1 caf\xe9\n".encode("latin-1"), {}, ["line 2", "0xe9", "UTF-8"]),
    "utf-16": ("1 2\n".encode("utf-16"), {}, ["UTF-16"]),
    "gzip": (gzip.compress(b"1 2\n" * 99)[:-9], {}, ["damaged gzip"]),
    "all bad": ("1 2 x\n1 2 y\n", {"skip_bad": True}, ["every row is malformed", "skip_bad=True"]),
    "all quotes open": (
        *('user,item\n"a,b\n', {"skip_bad": True}),
        ["every line is malformed"],
    ),
    "not parquet": (GOOD, {"format": "parquet"}, ["not a readable Parquet", "format"]),
    "cut parquet": (b"PAR1" + b"x" * 40, {}, ["not a readable Parquet"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_file(tmp_path, case):
    content, options, words = CASES[case]
    path = tmp_path / "log.data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_interactions(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    if case != "format":
        assert message.startswith(str(path))
    for word in words:
        assert word in message, f"{word!r} not in {message!r}"


def test_missing_file_suggests_a_neighbour(tmp_path):
    (tmp_path / "train.txt").write_text(GOOD)
    with pytest.raises(DataError, match=r"no such file \(did you mean 'train\.txt'\?\)"):
        read_interactions(tmp_path / "trian.txt")
    with pytest.raises(DataError, match="no such file"):
        read_interactions(tmp_path / "no" / "where.txt")


def test_directory(tmp_path):
    with pytest.raises(DataError, match="is a directory"):
        read_interactions(tmp_path)


@pytest.mark.parametrize("at", range(0, 1000, 37))
def test_damaged_parquet_is_never_another_error(tmp_path, at):
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": range(50), "item": [f"i{n}" for n in range(50)]}).write_parquet(path)
    data = bytearray(path.read_bytes())
    at = at % len(data)
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with contextlib.suppress(CnsdiffError):
        read_interactions(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a readable Parquet"):
        read_interactions(path)
