"""Every layout of the catalogue, from files in the form their publishers describe."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cnsdiff.base.errors import DataError
from cnsdiff.catalogue import readers
from cnsdiff.catalogue.entries import ENTRIES


def rows(table) -> list[tuple[object, ...]]:
    return table.frame.rows()


def test_ml_100k_of_grouplens(tmp_path):
    (tmp_path / "u.data").write_text("1\t2\t5\t881250949\n3\t1\t2\t891717742\n")
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n3|53|F|other|T8H1N\n")
    toy = "1|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1|1|" + "|".join("0" * 13)
    mis = "2|Misérables, Les (1995)|01-Jan-1995||http://x|" + "|".join("0" * 8 + "1" + "0" * 10)
    unknown = "267|unknown||||1|" + "|".join("0" * 18)
    text = "\n".join([toy, mis, unknown, ""])
    (tmp_path / "u.item").write_bytes(text.encode("latin-1"))
    source = readers.ml_100k_grouplens(tmp_path)
    assert rows(source.tables["log"]) == [(1, 2, 5.0, 881250949), (3, 1, 2.0, 891717742)]
    users = pl.DataFrame(
        {
            "user": [1, 3],
            "age": [24, 53],
            "gender": ["M", "F"],
            "occupation": ["technician", "other"],
        }
    )
    assert_frame_equal(source.features["user_features"], users)
    items = pl.DataFrame(
        {
            "item": [1, 2, 267],
            "title": ["Toy Story", "Misérables, Les", "unknown"],
            "release_year": [1995, 1995, None],
            "genres": ["Animation|Children's|Comedy", "Drama", "unknown"],
        }
    )
    assert_frame_equal(source.features["item_features"], items)


def test_ml_1m(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    movies = "1193::One Flew (1975)::Drama\n661::Café (1996) (V)::Animation|Children's\n"
    (tmp_path / "movies.dat").write_bytes(movies.replace("\n", "\r\n").encode("latin-1"))
    source = readers.ml_1m(tmp_path)
    assert rows(source.tables["log"])[0] == (1, 1193, 5.0, 978300760)
    assert source.features["user_features"].rows() == [(1, 1, "F", 10), (2, 56, "M", 16)]
    assert source.features["item_features"].rows() == [
        (1193, "One Flew", 1975, "Drama"),
        (661, "Café", 1996, "Animation|Children's"),
    ]


@pytest.mark.parametrize("text", ["1::F::1\n", ""])
def test_lines_of_another_form(tmp_path, text):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n")
    (tmp_path / "users.dat").write_text(text)
    with pytest.raises(DataError, match=r"users\.dat, line 1: has \d fields where 5 are expected"):
        readers.ml_1m(tmp_path)


def test_kuairec(tmp_path):
    head = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    big = head + "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.273\n"
    # The second stage of the experiment has no times.
    small = head + "14,148,4381,6067,,,,0.722\n14,183,11635,6100,2020-07-05,20200705,1593,1.907\n"
    (tmp_path / "big_matrix.csv").write_text(big)
    (tmp_path / "small_matrix.csv").write_text(small)
    (tmp_path / "user_features.csv").write_text("user_id,degree,days\n0,full_active,107\n")
    (tmp_path / "item_categories.csv").write_text('video_id,feat\n0,[8]\n1,"[27, 9]"\n')
    source = readers.kuairec(tmp_path)
    assert rows(source.tables["log"]) == [(0, 3649, 1.273, 1593878903.438)]
    assert rows(source.tables["randomised"]) == [(14, 148, 0.722), (14, 183, 1.907)]
    assert source.features["user_features"].rows() == [(0, "full_active", 107)]
    assert source.features["item_features"].rows() == [(0, "[8]"), (1, "[27, 9]")]
    assert source.features["item_features"].columns == ["item", "categories"]


def coat_features(folder):
    (folder / "user_features.ascii").write_text("1 0 0 1\n0 1 1 0\n")
    (folder / "user_features_map.txt").write_text(
        "gender:men\ngender:women\nage:under 20\nage:over 60"
    )
    (folder / "item_features.ascii").write_text("1 0\n0 1\n0 0\n")
    (folder / "item_features_map.txt").write_text("color:red\ncolor:blue\n")


def test_coat_as_published_and_as_triples_are_the_same(tmp_path):
    train = np.array([[0, 5, 0], [1, 0, 2]])
    test = np.array([[3, 0, 0], [0, 0, 4]])
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        coat_features(folder)
    np.savetxt(one / "train.ascii", train, fmt="%d")
    np.savetxt(one / "test.ascii", test, fmt="%d")
    (other / "user.txt").write_text("0,1,5\n1,0,1\n1,2,2\n")
    (other / "random.txt").write_text("0,0,3\n1,2,4\n")
    left, right = readers.coat_matrices(one), readers.coat_triples(other)
    for role in ("log", "randomised"):
        assert_frame_equal(left.tables[role].frame, right.tables[role].frame)
    assert left.features["user_features"].to_dicts() == [
        {"user": 0, "gender": "men", "age": "over 60"},
        {"user": 1, "gender": "women", "age": "under 20"},
    ]
    assert left.features["item_features"].rows() == [(0, "red"), (1, "blue"), (2, None)]
    for name, table in left.features.items():
        assert_frame_equal(table, right.features[name])


def test_coat_features_and_their_names_must_fit(tmp_path):
    coat_features(tmp_path)
    (tmp_path / "user.txt").write_text("0,1,5\n")
    (tmp_path / "random.txt").write_text("0,0,3\n")
    (tmp_path / "item_features_map.txt").write_text("color:red\n")
    with pytest.raises(DataError, match=r"names 1 columns, but item_features\.ascii has 2"):
        readers.coat_triples(tmp_path)
    (tmp_path / "item_features.ascii").write_text("1 0\n0\n")
    with pytest.raises(
        DataError, match=r"item_features\.ascii: is not what its publisher describes"
    ):
        readers.coat_triples(tmp_path)


def test_yahoo_r3_of_webscope(tmp_path):
    stem = "ydata-ymusic-rating-study-v1_0"
    (tmp_path / f"{stem}-train.txt").write_text("1\t14\t5\n1\t35\t1\n")
    (tmp_path / f"{stem}-test.txt").write_text("1\t49\t1\n2\t126\t4\n")
    source = readers.yahoo_r3_webscope(tmp_path)
    assert rows(source.tables["log"]) == [(1, 14, 5.0), (1, 35, 1.0)]
    assert rows(source.tables["randomised"]) == [(1, 49, 1.0), (2, 126, 4.0)]


def test_food_reviews_span_lines(tmp_path):
    (tmp_path / "RAW_interactions.csv").write_text(
        "user_id,recipe_id,date,rating,review\n"
        '38094,40893,2003-02-17,4,"Great,\nreally ""great"""\n'
        "1293707,40893,2011-12-21,5,So simple\n"
    )
    (tmp_path / "RAW_recipes.csv").write_text(
        "name,id,minutes,contributor_id,submitted,tags,nutrition,n_steps,steps,description,"
        "ingredients,n_ingredients\n"
        '"bread",40893,55,47892,2005-09-16,"[\'a\', \'b\']","[51.5, 0.0]",2,"[\'x\']","two\n'
        'lines","[\'flour\']",7\n'
    )
    source = readers.food(tmp_path)
    day = np.datetime64("2003-02-17").astype("datetime64[s]").astype(int)
    assert rows(source.tables["log"])[0] == (38094, 40893, 4.0, day)
    assert len(source.tables["log"]) == 2
    (recipe,) = source.features["item_features"].to_dicts()
    assert recipe == {
        "item": 40893, "name": "bread", "minutes": 55, "submitted": "2005-09-16", "n_steps": 2,
        "n_ingredients": 7,
    }  # fmt: skip


def test_yelp(tmp_path):
    review = {"review_id": "r", "user_id": "u-1", "business_id": "b_1", "stars": 3.0, "useful": 0}
    review |= {"text": 'If "you"\ndecide', "date": "2018-07-07 22:09:11"}
    business = {"business_id": "b_1", "name": "X", "city": "Tucson", "state": "AZ", "stars": 4.5}
    business |= {"review_count": 22, "attributes": {"a": "1"}, "categories": "Shopping, Food"}
    lonely = business | {"business_id": "b_2", "attributes": None, "categories": None}
    (tmp_path / "yelp_academic_dataset_review.json").write_text(json.dumps(review) + "\n")
    (tmp_path / "yelp_academic_dataset_business.json").write_text(
        f"{json.dumps(business)}\n{json.dumps(lonely)}\n"
    )
    source = readers.yelp(tmp_path)
    assert rows(source.tables["log"]) == [("u-1", "b_1", 3.0, 1531001351)]
    assert source.features["item_features"].rows() == [
        ("b_1", "Tucson", "AZ", 4.5, 22, "Shopping, Food"),
        ("b_2", "Tucson", "AZ", 4.5, 22, None),
    ]


@pytest.mark.parametrize("packed", [True, False])
def test_amazon_times_become_seconds(tmp_path, packed):
    text = "user_id,parent_asin,rating,timestamp\nAGKH,B00YQ,5.0,1588687728923\n"
    name = "All_Beauty.csv"
    if packed:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / name).write_text(text)
    (tmp_path / "source.json").write_text("{}")
    source = readers.amazon_2023(tmp_path)
    assert rows(source.tables["log"]) == [("AGKH", "B00YQ", 5.0, 1588687728)]


@pytest.mark.parametrize("name", ["kuairec", "coat", "yelp", "food", "amazon-2023/All_Beauty"])
def test_files_of_another_kind(tmp_path, name):
    layout = ENTRIES[name].layouts[0]
    for file in layout.required:
        (tmp_path / file).write_bytes(b"<html>\n<p>please log in</p>\n\0")
    with pytest.raises(DataError) as caught:
        layout.read(tmp_path)
    text = str(caught.value)
    assert "force=True" in text
    assert "\n" not in text


def test_bad_values_name_the_file(tmp_path):
    (tmp_path / "All_Beauty.csv").write_text(
        "user_id,parent_asin,rating,timestamp\na,b,5.0,1588687728923\n,b,5.0,1588687728923\n"
    )
    with pytest.raises(DataError, match=r"All_Beauty\.csv: .*row 2"):
        readers.amazon_2023(tmp_path)
