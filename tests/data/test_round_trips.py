"""Any ids in, the same ids out."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff.data import Dataset, Interactions, load_dataset, read_interactions
from cnsdiff.data.reading.columns import ALIASES

LIGHT = settings(max_examples=40, deadline=None)
# All of Unicode but what ends a line or a string: a record of text is one line.
TEXT = st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), min_size=1)
WORDS = st.text(
    st.characters(exclude_characters='\0"', exclude_categories=["Cs", "Z", "C"]), min_size=1
)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


#: A line of two of these is refused as a header that stands among the rows.
COLUMNS = {"user", "item"} | {
    name for role in ("user", "item") for name in ALIASES[role] if name.endswith("id")
}


def names_columns(pair: tuple[object, object]) -> bool:
    plain = [re.sub(r":.*$|[\s_\-.]", "", str(name)).lower() for name in pair]
    return set(plain) <= COLUMNS


def pairs(ids: st.SearchStrategy) -> st.SearchStrategy:
    rows = st.tuples(ids, ids).filter(lambda pair: not names_columns(pair))
    return st.lists(rows, min_size=1, max_size=12)


def as_text(frame: pl.DataFrame) -> list[tuple[str, str]]:
    return frame.select(pl.col("user", "item").cast(pl.String)).rows()


@LIGHT
@given(pairs(TEXT), st.sampled_from(",;\t|"))
def test_quoted_text(rows, separator):
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.csv"
        frame.write_csv(path, separator=separator, quote_style="always")
        assert as_text(read_interactions(path, literal_ids=True).frame) == rows


@LIGHT
@given(pairs(WORDS), st.sampled_from([" ", "\t"]))
def test_plain_words(rows, separator):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.txt"
        lines = [f"user{separator}item", *(separator.join(row) for row in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
        options = {"format": "text", "header": True, "literal_ids": True}
        assert as_text(read_interactions(path, **options).frame) == [*rows]


@LIGHT
@given(pairs(st.one_of(INTEGERS)))
def test_integers_stay_integers_in_every_format(rows):
    frame = pl.DataFrame(rows, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")
    with tempfile.TemporaryDirectory() as folder:
        frame.write_csv(Path(folder) / "a.csv")
        frame.write_parquet(Path(folder) / "a.parquet")
        sources = [Path(folder) / "a.csv", Path(folder) / "a.parquet", frame, frame.to_pandas()]
        for source in sources:
            assert read_interactions(source).frame.equals(frame)


@LIGHT
@given(pairs(st.one_of(TEXT, INTEGERS.map(str))))
def test_a_saved_dataset_gives_back_the_ids(rows):
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row").unique(maintain_order=True)
    made = Dataset.from_splits({"train": Interactions(frame, "x")}, name="d", scenario="given")
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_dataset(made.save(Path(folder) / "d"))
        train = loaded.split("train")
    assert loaded.decode_users(train.users).to_list() == frame["user"].to_list()
    assert loaded.decode_items(train.items).to_list() == frame["item"].to_list()
    assert np.array_equal(loaded.encode_users(frame["user"]), train.users)
    assert np.array_equal(loaded.encode_items(frame["item"].to_list()), train.items)
    assert loaded.fingerprint == made.fingerprint
