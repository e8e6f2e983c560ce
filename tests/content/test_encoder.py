"""Tables of features as vectors: against scikit-learn, and what is refused."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from cnsdiff.base.errors import DataError
from cnsdiff.content.features import FeatureEncoder, kind_of

RNG = np.random.default_rng(0)
N = 60
TABLE = pl.DataFrame(
    {
        "brand": [f"brand {i % 7}" for i in range(N)],
        "tags": [[*["red", "new"][: 1 + i % 2], f"t{i % 5}"] for i in range(N)],
        "genres": [f"g{i % 3}|g{i % 4}" for i in range(N)],
        "title": [f"the fox number{i % 6} jumps over dog{i % 9}" for i in range(N)],
        "price": RNG.normal(size=N),
        "flag": RNG.random(N) < 0.5,
        "code": [i % 4 for i in range(N)],
        "since": [dt.date(2020, 1, 1) + dt.timedelta(days=i) for i in range(N)],
        "image": RNG.normal(size=(N, 5)).tolist(),
    }
)


def test_kinds_are_told_from_the_values():
    told = {series.name: kind_of(series) for series in TABLE}
    assert told == {
        "brand": "category",
        "tags": "tags",
        "genres": "tags",
        "title": "text",
        "price": "number",
        "flag": "number",
        "code": "category",
        "since": "number",
        "image": "vector",
    }


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    return FeatureEncoder.fit(TABLE, rank=8)


def test_the_vectors_have_the_width_that_is_said_and_are_the_same_row_by_row(encoder):
    vectors = encoder.vectors(TABLE)
    assert vectors.shape == (N, encoder.width) == (N, 8 + 5 + 3)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(encoder.vectors(TABLE[7:9]), vectors[7:9], atol=1e-6)


def test_what_is_kept_makes_the_same_encoder(encoder):
    again = FeatureEncoder.of_state(encoder.state(), encoder.tensors)
    np.testing.assert_array_equal(again.vectors(TABLE), encoder.vectors(TABLE))


def test_words_are_weighted_as_scikit_learn_weighs_them():
    texts = ["red fox", "red dog red", "fox dog dog", "red", "cat dog"] * 3
    table = pl.DataFrame({"title": texts})
    encoder = FeatureEncoder.fit(table, rank=4, kinds={"title": "text"})
    ours = encoder._weighted(encoder._words(table)).toarray()
    judge = TfidfVectorizer(sublinear_tf=True, vocabulary=encoder.columns[0].words)
    np.testing.assert_allclose(ours, judge.fit_transform(texts).toarray(), atol=1e-6)


def test_all_words_at_full_rank_keep_the_order_of_their_whitened_cosines():
    table = TABLE.select("brand", "tags")
    encoder = FeatureEncoder.fit(table, rank=50)
    words = encoder._weighted(encoder._words(table)).toarray().astype(np.float64)
    left, values, _ = np.linalg.svd(words, full_matrices=False)
    whitened = left * np.sqrt(values)
    whitened /= np.linalg.norm(whitened, axis=1, keepdims=True)
    vectors = encoder.vectors(table)
    np.testing.assert_allclose(vectors @ vectors.T, whitened @ whitened.T, atol=1e-4)


def test_what_is_missing_says_nothing(encoder):
    nothing = TABLE.select(pl.lit(None, dtype=s.dtype).alias(s.name) for s in TABLE)
    assert not encoder.vectors(nothing[:1]).any()
    table = TABLE.with_columns(image=pl.when(pl.col("code") > 0).then("image"))
    part = FeatureEncoder.fit(table.select("image", "brand"), rank=8).vectors(table)
    assert np.isfinite(part).all()
    assert not part[::4, -5:].any()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text("abc |,", max_size=4)),
            st.one_of(st.none(), st.floats(-1e6, 1e6)),
            st.one_of(st.none(), st.lists(st.sampled_from("xyz"), max_size=3)),
        ),
        min_size=4,
        max_size=12,
    )
)
def test_any_table_gives_finite_vectors_of_bounded_length(rows):
    schema = {"a": pl.String, "b": pl.Float64, "c": pl.List(pl.String)}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    encoder = FeatureEncoder.fit(table, rank=3)
    vectors = encoder.vectors(table)
    assert vectors.shape == (len(rows), encoder.width)
    assert np.isfinite(vectors).all()


def test_a_column_that_tells_nothing_is_left_out_and_named():
    table = TABLE.select("brand").with_columns(
        same=pl.lit("all"), own=pl.Series([f"id{i}" for i in range(N)]), nested=pl.struct("brand")
    )
    encoder = FeatureEncoder.fit(table)
    assert [column.name for column in encoder.columns] == ["brand"]
    assert [note.split("'")[1] for note in encoder.notes] == ["same", "own", "nested"]


@pytest.mark.parametrize(
    "column, words",
    [
        (pl.Series("x", [1.0, float("nan")] * 30), "is nan in row 2; leave a value empty"),
        (pl.Series("x", [1.0, float("inf")] * 30), "is inf in row 2; leave a value empty"),
        (pl.Series("x", [[1.0, 2.0], [1.0]] * 30), "vectors of 1 and of 2 numbers"),
        (pl.Series("x", [[1.0, float("nan")]] * 60), "a vector with a number that is missing"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(column, words):
    with pytest.raises(DataError, match=f"the feature 'x' .*{words}"):
        FeatureEncoder.fit(column.to_frame())


def test_kinds_that_do_not_fit_are_refused(encoder):
    with pytest.raises(DataError, match="no column 'colour'; they are brand, tags"):
        FeatureEncoder.fit(TABLE, kinds={"colour": "text"})
    with pytest.raises(DataError, match="'brand' cannot be of the kind 'sound'; the kinds are"):
        FeatureEncoder.fit(TABLE, kinds={"brand": "sound"})
    with pytest.raises(DataError, match="'brand' holds 'brand 0', which is no number"):
        FeatureEncoder.fit(TABLE, kinds={"brand": "number"})
    with pytest.raises(DataError, match="'brand' holds String and no vectors"):
        FeatureEncoder.fit(TABLE, kinds={"brand": "vector"})


def test_another_table_must_have_the_columns(encoder):
    with pytest.raises(DataError, match="no column 'price', which the model was trained with"):
        encoder.vectors(TABLE.drop("price"))
    other = TABLE.with_columns(image=pl.Series([[1.0, 2.0]] * N))
    with pytest.raises(DataError, match="vectors of 2 numbers, and the model was trained with 5"):
        encoder.vectors(other)


def test_a_column_of_a_million_categories_is_refused(monkeypatch):
    monkeypatch.setattr("cnsdiff.content.features.MOST_WORDS", 5)
    with pytest.raises(DataError, match="'brand' has 7 categories that occur twice or more"):
        FeatureEncoder.fit(TABLE.select("brand"))
