"""LightGCN's lists of items, told from a log by what the lines hold and by other files."""

from __future__ import annotations

import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.data import read_interactions
from cnsdiff.data.reading.adjacency import layout_of
from cnsdiff.shifts import prepare_given

CLEAR = "".join(
    " ".join(map(str, [user, *(20 + (user * 7 + step * 3) % 40 for step in range(3 + user % 5))]))
    + "\n"
    for user in range(12)
)
#: Two items on every line; neither in order nor ids that come twice.
PAIRS = "".join(f"{user} {31 + user * 3} {20 + user}\n" for user in range(5))


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        (CLEAR, "adjacency"),
        (PAIRS, "unclear"),
        ("".join(f"{u} {20 + u} {40 + u * 2}\n" for u in range(10)), "adjacency"),  # in order
        ("".join(f"{u} {20 + (u * 3) % 10} {20 + u}\n" for u in range(10)), "adjacency"),  # shared
        ("".join(f"{u} {9 - u % 3}{' 12' * (u % 2)}\n" for u in range(10)), "adjacency"),  # uneven
        ("1 20\n" + "".join(f"{u} 20\n" for u in range(2, 30)) + "0 20 30\n", "unclear"),
        ("1\n2\n3 20 30\n" + "".join(f"{u}\n" for u in range(4, 40)), "other"),
        ("1 20 5\n2 30 4\n3 10 3\n", "log"),  # ratings
        ("1 20 35\n1 30 28\n2 20 31\n", "log"),  # a user twice
        ("1 20 1700000000\n2 30 1700000009\n", "log"),  # times
        ("1 20 4 1700000000\n2 30 4 1700000009\n", "log"),
        ("1 20\n2 30\n", "other"),
        ("1 20 3.5\n2 30 4\n", "other"),
        ("a 20 30\nb 30 40\n", "other"),
        ("", "other"),
    ],
)
def test_layouts(text, layout):
    assert layout_of(text.splitlines()) == layout


def test_what_may_be_either_is_asked_about(read):
    with pytest.raises(DataError, match=r"line 1: may be a user and items.*format"):
        read(PAIRS)
    assert len(read(PAIRS, format="adjacency")) == 10
    assert len(read(PAIRS, format="text")) == len(read(PAIRS, rating="3")) == 5


@pytest.fixture
def splits(tmp_path):
    def splits(**texts):
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        return {name: tmp_path / name for name in texts}

    return splits


def test_a_split_is_read_as_the_others_are(splits):
    files = splits(train=CLEAR, test_ood="".join(f"{u} {59 - u} {58 - u}\n" for u in range(8)))
    with pytest.raises(DataError, match="may be a user and items"):
        prepare_given(files["test_ood"])
    test = prepare_given(**files).manifest.splits["test_ood"]
    assert test.read == 16


def test_an_unclear_split_of_a_log_is_a_log(splits):
    log = "".join(f"{n % 5} {31 + n * 3 % 17} {20 + n}\n" for n in range(10))
    valid = "".join(f"{u} {31 + (u * 3 + 3) % 17} {20 + u}\n" for u in range(5))
    files = splits(train=log, valid=valid)
    assert prepare_given(**files).manifest.splits["valid"].read == 5


def test_splits_that_contradict_each_other(splits):
    files = splits(train=CLEAR, test_iid="1 20 4\n1 21 5\n2 22 3\n")
    with pytest.raises(DataError, match=r"test_iid: looks like lines of .*train like.*format"):
        prepare_given(**files)
    test = prepare_given(**files, format="adjacency").manifest.splits["test_iid"]
    assert test.read == 6


@pytest.mark.parametrize("first", ["# u items", "user items"])
def test_a_comment_or_a_header_is_no_user(tmp_path, first):
    file = tmp_path / "train.txt"
    file.write_text(first + "\n" + "".join(f"{u} {u + 1} {u + 2}\n" for u in range(20)))
    with pytest.raises(DataError, match=r"train.txt, line 1: .* is no line of numbers"):
        read_interactions(file, format="adjacency")
    read = read_interactions(file, format="adjacency", skip_bad=True)
    assert (read.skipped, read.problems[0].reason) == (1, "words among lines of numbers")
    assert read.frame["user"].to_list() == [u for u in range(20) for _ in range(2)]
