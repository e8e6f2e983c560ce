"""Tables of features as vectors: against scikit-learn, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from cnsdiff.base.errors import CnsdiffWarning, DataError
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
    table = table.select("image", "brand")
    part = FeatureEncoder.fit(table, rank=8).vectors(table)
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
    with pytest.raises(DataError, match=r"none of the columns .*; give some of brand, tags"):
        encoder.vectors(TABLE.select(colour="brand"))
    other = TABLE.with_columns(image=pl.Series([[1.0, 2.0]] * N))
    with pytest.raises(DataError, match="vectors of 2 numbers, and the model was trained with 5"):
        encoder.vectors(other)


@pytest.mark.parametrize("name", TABLE.columns)
def test_a_column_that_is_lacking_is_one_of_missing_values(encoder, name):
    nulls = TABLE.with_columns(pl.lit(None, dtype=TABLE[name].dtype).alias(name))
    with pytest.warns(CnsdiffWarning, match=f"item features lack '{name}', which the model was"):
        found = encoder.vectors(TABLE.drop(name))
    np.testing.assert_array_equal(found, encoder.vectors(nulls))


def test_a_column_that_was_not_there_is_told_and_ignored(encoder):
    with pytest.warns(CnsdiffWarning, match="have 'colour', which the model was trained without"):
        found = encoder.vectors(TABLE.with_columns(colour="brand"))
    np.testing.assert_array_equal(found, encoder.vectors(TABLE))
    # One that told nothing when it was fitted is nothing new.
    table = TABLE.select("brand", same=pl.lit("all"))
    fitted = FeatureEncoder.fit(table)
    again = FeatureEncoder.of_state(json.loads(json.dumps(fitted.state())), fitted.tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.vectors(table)


def test_numbers_beyond_those_fitted_count_as_the_nearest(encoder):
    far = TABLE[:3].with_columns(price=pl.Series([1e9, -1e9, None]))
    edge = TABLE[:3].with_columns(
        price=pl.Series([TABLE["price"].max(), TABLE["price"].min(), None])
    )
    np.testing.assert_array_equal(encoder.vectors(far), encoder.vectors(edge))


def test_a_column_of_a_million_categories_is_refused(monkeypatch):
    monkeypatch.setattr("cnsdiff.content.features.MOST_WORDS", 5)
    with pytest.raises(DataError, match="'brand' has 7 categories that occur twice or more"):
        FeatureEncoder.fit(TABLE.select("brand"))


def test_times_are_the_same_in_any_unit_and_as_text():
    days = [dt.datetime(2020, 1, 1) + dt.timedelta(days=i) for i in range(N)]
    table = pl.DataFrame({"since": pl.Series(days, dtype=pl.Datetime("us"))})
    encoder = FeatureEncoder.fit(table)
    expected = (np.arange(N) - np.mean(np.arange(N))) / np.std(np.arange(N))
    column = pl.col("since")
    others = [
        column.cast(pl.Datetime("ns")),
        column.cast(pl.Datetime("ms")),
        column.cast(pl.Date),
        column.dt.to_string("%Y-%m-%d"),
        column.dt.to_string("%Y-%m-%d %H:%M:%S"),
        column.dt.replace_time_zone("UTC"),
    ]
    for other in [column, *others]:
        given = table.select(other)
        assert kind_of(given["since"]) == "number"
        np.testing.assert_allclose(encoder.vectors(given)[:, 0], expected, atol=1e-5)
    seconds = pl.DataFrame({"x": [1.6e9 + i for i in range(N)]})
    told = FeatureEncoder.fit(seconds).vectors(seconds)[:, 0]
    np.testing.assert_allclose(told, expected, atol=1e-4)
    lengths = pl.DataFrame({"since": pl.Series(days)}).select(pl.col("since") - days[0])
    encoder = FeatureEncoder.fit(lengths)
    given = lengths.cast(pl.Duration("ms"))
    np.testing.assert_allclose(encoder.vectors(given)[:, 0], expected, atol=1e-5)


def test_decimals_and_codes_that_became_floats():
    prices = pl.DataFrame({"x": pl.Series([i / 4 for i in range(N)]).cast(pl.Decimal(10, 2))})
    plain = prices.cast(pl.Float64)
    np.testing.assert_array_equal(
        FeatureEncoder.fit(prices).vectors(plain), FeatureEncoder.fit(plain).vectors(prices)
    )
    codes = pl.DataFrame({"x": [1, 2, 3, None] * 5})
    encoder = FeatureEncoder.fit(codes, kinds={"x": "category"})
    vectors = encoder.vectors(codes)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0] * 5)
    np.testing.assert_array_equal(encoder.vectors(codes.cast(pl.Float64)), vectors)


def test_the_mark_between_tags_is_that_of_the_items_fitted():
    texts = ["a|b", "c|a", "b|c", "a, x|b"] * 5
    encoder = FeatureEncoder.fit(pl.DataFrame({"x": texts}))
    assert sorted(encoder.columns[0].words) == ["a", "a, x", "b", "c"]
    # More commas than strokes are in this table, which change nothing.
    alone = encoder.vectors(pl.DataFrame({"x": ["a, x|b", "a, x, y, z|b"]}))
    np.testing.assert_allclose(alone[0], encoder.vectors(pl.DataFrame({"x": texts}))[3], atol=1e-6)
    by_comma = FeatureEncoder.fit(
        pl.DataFrame({"x": ["a,b", "c,a", "b,c"] * 5}), kinds={"x": "tags"}
    )
    again = FeatureEncoder.of_state(by_comma.state(), by_comma.tensors)
    assert np.linalg.norm(again.vectors(pl.DataFrame({"x": ["b , a", "d"]})), axis=1) == (
        pytest.approx([1, 0])
    )


@pytest.mark.parametrize("kind", ["category", "tags", "text"])
def test_what_no_words_can_be_made_of_is_refused(kind):
    nested = pl.DataFrame({"x": [[[1.0]], [[2.0]]] * 5})
    assert kind_of(nested["x"]) is None
    with pytest.raises(DataError, match=f"'x' holds .* cannot be read as {kind}; let the column"):
        FeatureEncoder.fit(nested, kinds={"x": kind})


def test_an_empty_vector_is_a_missing_one():
    vectors = [[1.0, 2.0], [], None, [3.0, 1.0], [0.0, 5.0]]
    table = pl.DataFrame({"x": vectors}, schema={"x": pl.List(pl.Float32)})
    encoder = FeatureEncoder.fit(table)
    told = encoder.vectors(table)
    assert np.linalg.norm(told, axis=1) == pytest.approx([1, 0, 0, 1, 1])
    nothing = encoder.vectors(table[1:3])
    np.testing.assert_array_equal(nothing, told[1:3])


def test_vectors_that_are_alike_are_left_out():
    table = pl.DataFrame({"x": [[1.0, 2.0], None] * 5, "brand": ["a", "b"] * 5})
    encoder = FeatureEncoder.fit(table)
    assert encoder.notes == ["the feature 'x' was left out: its vectors are alike"]
    assert [column.name for column in encoder.columns] == ["brand"]
    assert encoder.vectors(table).shape == (10, encoder.width)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_vectors_are_whitened_principal_components(n, width, rank, seed):
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, width)).astype(np.float32) + 3
    encoder = FeatureEncoder.fit(pl.DataFrame({"x": dense.tolist()}), rank=rank)
    told = encoder.vectors(pl.DataFrame({"x": dense.tolist()}))
    left, values, _ = np.linalg.svd(dense - dense.mean(axis=0), full_matrices=False)
    kept = min(rank, int((values > 1e-5 * values[0]).sum()))
    expected = left[:, :kept] * np.sqrt(values[:kept])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert told.shape == (n, kept)
    np.testing.assert_allclose(told @ told.T, expected @ expected.T, atol=2e-3)


def test_blocks_of_rows_change_nothing(encoder, monkeypatch):
    whole = encoder.vectors(TABLE)
    monkeypatch.setattr("cnsdiff.content.features._ROWS", 7)
    np.testing.assert_allclose(encoder.vectors(TABLE), whole, atol=1e-6)
    again = FeatureEncoder.fit(TABLE, rank=8)
    assert again.columns == encoder.columns
    for name, tensor in encoder.tensors.items():
        np.testing.assert_allclose(again.tensors[name] ** 2, tensor**2, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=4), min_size=3, max_size=12),
    st.lists(st.sampled_from(["x", "y", None]), min_size=12, max_size=12),
)
def test_words_of_a_row_are_weighted_by_rarity_and_count(tags, brands):
    brands = brands[: len(tags)]
    schema = {"tags": pl.List(pl.String), "brand": pl.String}
    table = pl.DataFrame({"tags": tags, "brand": brands}, schema=schema)
    encoder = FeatureEncoder.fit(table, rank=3, kinds={"brand": "category"})
    if not encoder.columns:
        return
    n = len(tags)
    rows = {"tags": tags, "brand": [[b] if b else [] for b in brands]}
    blocks = []
    for column in encoder.columns:
        held = {word: sum(word in row for row in rows[column.name]) for word in "abcdxy"}
        assert set(column.words) == {word for word, k in held.items() if 2 <= k < n}
        block = np.array(
            [
                [
                    (1 + np.log(row.count(word))) * (np.log((1 + n) / (1 + held[word])) + 1)
                    if word in row
                    else 0
                    for word in column.words
                ]
                for row in rows[column.name]
            ]
        )
        blocks.append(block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12))
    ours = encoder._weighted(encoder._words(table)).toarray()
    np.testing.assert_allclose(ours, np.concatenate(blocks, axis=1), atol=1e-5)
