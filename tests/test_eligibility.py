"""Who is shown what: nothing that the log holds, nothing ruled out; and in a forked process."""

from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import cnsdiff
from cnsdiff import Recommender
from cnsdiff.base.errors import CnsdiffWarning, InputError
from cnsdiff.data import Dataset, Interactions
from cnsdiff.data.ids import IdIndex, Vocabulary
from cnsdiff.export import to_numpy
from cnsdiff.training.progress import Reporter

FAST = {"epochs": 1, "batch_size": 256}


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """Ratings from 1 to 5 with times; user 99 has but low ones."""
    rng = np.random.default_rng(0)
    pairs = np.argwhere(rng.random((40, 30)) < 0.4)
    frame = pl.DataFrame(pairs, schema=["user", "item"]).with_columns(
        rating=pl.Series(rng.integers(1, 6, len(pairs)).astype(float)),
        timestamp=pl.Series(rng.integers(10**9, 10**9 + 10**6, len(pairs))),
    )
    low = pl.DataFrame({"user": [99] * 3, "item": [0, 1, 2], "rating": [1.0] * 3})
    return pl.concat([frame, low.with_columns(timestamp=pl.lit(10**9, pl.Int64))])


@pytest.fixture(scope="module")
def dataset(log) -> Dataset:
    return cnsdiff.prepare(log, "temporal", threshold=4, seed=0)


@pytest.fixture(scope="module")
def model(dataset) -> Recommender:
    return Recommender("mf", "random", training=FAST).fit(dataset)


def pairs_of(table: pl.DataFrame) -> set[tuple[object, object]]:
    return set(table.select("user", "item").rows())


def in_log(log: pl.DataFrame, dataset: Dataset) -> set[tuple[object, object]]:
    """All pairs of the log whose item train knows."""
    return pairs_of(log.filter(pl.col("item").is_in(dataset.items.implode())))


@pytest.mark.parametrize("scenario", ["popularity", "temporal", "user-group", "noise"])
def test_a_dataset_knows_all_of_the_log(log, tmp_path, scenario):
    made = cnsdiff.prepare(log, scenario, threshold=4, seed=0)
    loaded = cnsdiff.load_dataset(made.save(tmp_path / "saved"))
    train = made.split("train")
    known = set(zip(made.decode_users(train.users), made.decode_items(train.items), strict=True))
    for table in (made.seen(), loaded.seen()):
        assert table.columns == ["user", "id", "item", "timestamp"]
        mine = table.filter(pl.col("user").is_not_null())
        users = pl.Series(made.decode_users(mine["user"].to_list()))
        beyond = set(zip(users, made.decode_items(mine["item"].to_list()), strict=True))
        others = table.filter(pl.col("user").is_null())
        beyond |= set(zip(others["id"], made.decode_items(others["item"].to_list()), strict=True))
        assert not beyond & known
        assert in_log(log, made) - known <= beyond
        assert set(others["id"]) == set(log["user"]) - set(made.users)
    times = dict(zip(zip(log["user"], log["item"], strict=True), log["timestamp"], strict=True))
    for row in loaded.seen().iter_rows(named=True):
        user = row["id"] if row["user"] is None else made.users[row["user"]]
        made_up = scenario == "noise" and (user, made.items[row["item"]]) not in times
        assert made_up or row["timestamp"] == times[user, made.items[row["item"]]]


def test_what_an_experiment_showed_is_known_too(log):
    shown = pl.DataFrame({"user": list(range(30)), "item": list(range(30))}).with_columns(
        rating=pl.col("user") % 5 + 1.0
    )
    both = pl.concat([log.drop("timestamp"), shown])
    made = cnsdiff.prepare(log.drop("timestamp"), "exposure", randomised=shown, threshold=4, seed=0)
    fitted = Recommender("mf", "random", training=FAST).fit(made)
    assert not pairs_of(fitted.recommend(made.users, k=100)) & pairs_of(both)


def test_nothing_of_the_log_is_recommended(log, dataset, model, tmp_path):
    loaded = Recommender.load(model.save(tmp_path / "run"))
    for served in (model, loaded):
        table = served.recommend(dataset.users, k=100)
        assert not pairs_of(table) & pairs_of(log)
        # And all the rest is.
        assert (
            table.height
            + len(
                in_log(log, dataset)
                & pairs_of(log.filter(pl.col("user").is_in(dataset.users.implode())))
            )
            == dataset.n_users * dataset.n_items
        )
    by_train = pairs_of(model.recommend(dataset.users, k=100, seen="train"))
    train = model.learnt_from(dataset).split("train")  # rehearsed, so on valid, too
    assert len(by_train) == dataset.n_users * dataset.n_items - len(train)
    assert by_train & pairs_of(log)
    everything = model.recommend(dataset.users, k=100, seen="none")
    assert everything.height == dataset.n_users * dataset.n_items


def test_warnings_name_the_line_that_asks(dataset, model):
    for ask in (
        lambda: model.recommend(dataset.users[:1], k=1, exclude=["nothing"]),
        lambda: model.recommend(dataset.users[:1], k=1, exclude={"nobody": [dataset.items[0]]}),
        lambda: model.similar(dataset.items[:1], k=1, exclude=["nothing"]),
    ):
        with pytest.warns(CnsdiffWarning, match="did not occur in training") as told:
            ask()
        assert told[0].filename == __file__


def test_a_user_of_low_ratings_alone_is_not_offered_them(dataset, model):
    assert 99 not in dataset.users.to_list()
    table = model.recommend([99, 98], k=100, cold="popular")
    assert not {0, 1, 2} & set(table.filter(pl.col("user") == 99)["item"])
    assert {0, 1, 2} <= set(table.filter(pl.col("user") == 98)["item"])


def test_splits_given_ready_know_what_fell_below_the_threshold(log, tmp_path):
    log = log.sample(fraction=1, shuffle=True, seed=0)
    parts = {"train": log[:300], "valid": log[300:400], "test_ood": log[400:]}
    made = cnsdiff.prepare_given(**parts, threshold=4)
    fitted = Recommender("mf", "random", training=FAST).fit(made)
    assert not pairs_of(fitted.recommend(made.users, k=100)) & pairs_of(log)


def test_a_dataset_and_a_run_from_before(dataset, model, tmp_path):
    old = Dataset(
        users=dataset.users,
        items=dataset.items,
        manifest=dataset.manifest.model_copy(update={"seen": None}),
        splits={name: dataset.split(name) for name in dataset.split_names},
    )
    held_out = {
        (user, item)
        for name in dataset.split_names[1:]
        for user, item in zip(dataset.split(name).users, dataset.split(name).items, strict=True)
    }
    assert set(old.seen().select("user", "item").rows()) == held_out
    path = model.save(tmp_path / "run")
    (path / "seen.parquet").unlink()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]["seen.parquet"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    before = Recommender.load(path)
    with pytest.warns(CnsdiffWarning, match="only training pairs are left out"):
        table = before.recommend(dataset.users, k=5)
    assert table.equals(model.recommend(dataset.users, k=5, seen="train"))
    assert not (before.save(tmp_path / "again") / "seen.parquet").exists()
    with pytest.warns(CnsdiffWarning, match="only training pairs are left out"):
        assert to_numpy(before, tmp_path / "vectors")["seen"] == "train"

    class Heard(Reporter):
        def note(self, message: str) -> None:
            notes.append(message)

    notes: list[str] = []
    Recommender("mf", "random", training=FAST).fit(old, reporter=Heard())
    assert any("prepare it again" in note for note in notes)


def test_a_fingerprint_says_nothing_of_what_else_was_seen(log, dataset):
    """A dataset prepared before what is seen was kept is the same as one prepared now."""

    def fingerprint(logs):
        train = Interactions(log[:300].select("user", "item"), "x")
        return Dataset.from_splits({"train": train}, name="n", scenario="s", logs=logs).fingerprint

    assert fingerprint(()) == fingerprint([Interactions(log, "x")])


RULES = {
    "list": lambda users, items: items,
    "array": lambda users, items: np.array(items),
    "series": lambda users, items: pd.Series(items),
    "frame": lambda users, items: pd.DataFrame({"item": items, "why": "sold out"}),
}


@pytest.mark.parametrize("kind", RULES)
def test_items_for_all_users(dataset, model, kind):
    users, chosen = dataset.users[:5], dataset.items[3:9].to_list()
    given = RULES[kind](users, chosen)
    everything = model.recommend(users, k=100)
    few = everything.filter(pl.col("item").is_in(chosen))
    only = model.recommend(users, k=100, only=given)
    assert only.select("user", "item").equals(few.select("user", "item"))
    assert only["score"].to_list() == pytest.approx(few["score"].to_list(), rel=1e-5)
    rest = everything.filter(~pl.col("item").is_in(chosen))
    assert (
        model.recommend(users, k=100, exclude=given)
        .select("user", "item")
        .equals(rest.select("user", "item"))
    )
    both = model.recommend(users, k=100, only=given, exclude=chosen[:2])
    assert set(both["item"]) <= set(chosen[2:])
    like = model.similar(dataset.items[:2], k=100, only=given, exclude=chosen[:1])
    assert set(like["similar"]) == set(chosen[1:])


@pytest.mark.parametrize("kind", ["mapping", "frame"])
def test_items_of_each_user(dataset, model, kind):
    users = [dataset.users[0], 12345, dataset.users[1], dataset.users[0]]
    a, b, c = dataset.items[4:7].to_list()
    chosen = {users[0]: [a, b], 12345: [c], 777: [a]}
    given = chosen
    if kind == "frame":
        rows = [(user, item) for user, items in chosen.items() for item in items]
        given = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    ask = {"k": 100, "cold": "popular", "seen": "none"}
    only = model.recommend(users, only=given, **ask)
    assert pairs_of(only) == {(users[0], a), (users[0], b), (12345, c)}
    assert only.height == 5  # who is asked for twice gets two lists
    out = model.recommend(users, exclude=given, **ask)
    assert pairs_of(model.recommend(users, **ask)) - pairs_of(out) == pairs_of(only)
    with pytest.raises(InputError, match="of no user"):
        model.similar([a], exclude=given)


def test_bad_rules(dataset, model):
    user = dataset.users[:1]
    with pytest.raises(InputError, match="only: 2 of 2 items did not occur in training, so"):
        model.recommend(user, only=["x", 12345])
    with pytest.raises(InputError, match="only: names no item"):
        model.recommend(user, only=[])
    with pytest.raises(InputError, match=r"exclude: has no column 'item' .*'why'"):
        model.recommend(user, exclude=pd.DataFrame({"why": [1]}))
    with pytest.raises(InputError, match="seen must be 'all', 'train' or 'none', not 'some'"):
        model.recommend(user, seen="some")
    some = [dataset.items[0], 12345]
    with pytest.warns(CnsdiffWarning, match="only: 1 of 2 items did not occur in training"):
        model.recommend(user, only=some)
    for given in (some, [12345]):
        told = f"exclude: 1 of {len(given)} items did not occur"
        with pytest.warns(CnsdiffWarning, match=told):
            model.recommend(user, exclude=given)
    for name in ("exclude", "only"):
        told = f"{name}: 1 of 1 users did not occur in training, the first is 'u7'"
        with pytest.warns(CnsdiffWarning, match=told):
            model.recommend(user, **{name: {"u7": [dataset.items[0]]}})
    assert model.recommend(user, only={user[0]: []}).height == 0


def test_columns_by_any_name_that_a_log_may_have(dataset, model):
    user, other = dataset.users[:2].to_list()
    item = dataset.items[3]
    given = pd.DataFrame({"user_id": [user], "product_id": [item], "why": "sold out"})
    lists = model.recommend([user, other], k=100, seen="none", only=given)
    assert pairs_of(lists) == {(user, item)}


@pytest.mark.parametrize("k", [2.0, "2", True, None, float("nan")])
def test_a_length_is_a_whole_number(dataset, model, k):
    for ask, ids in ((model.recommend, dataset.users[:1]), (model.similar, dataset.items[:1])):
        with pytest.raises(InputError, match="k must be a whole number, not"):
            ask(ids, k=k)


def test_a_frame_of_users(dataset, model):
    users = dataset.users[:2].to_list()
    expected = model.recommend(users, k=2)
    for make in (pd.DataFrame, pl.DataFrame, pl.LazyFrame):
        table = model.recommend(make({"age": [1, 2], "user": users}), k=2, cold="popular")
        assert pl.DataFrame(table).equals(expected)
        with pytest.raises(InputError, match=r"without a column 'user' .*'age'"):
            model.recommend(make({"age": [1, 2]}), cold="popular")
    with pytest.raises(InputError, match="not a dict"):
        model.recommend({"user": users}, cold="popular")


def test_memory_grows_with_the_catalogue_not_with_k(dataset, model):
    assert (
        model.recommend(dataset.users, k=10**15).height
        == model.recommend(dataset.users, k=dataset.n_items).height
    )
    assert model.similar(dataset.items[:1], k=10**15).height == dataset.n_items - 1


def test_a_model_loaded_before_a_fork_serves_after_it(dataset, model):
    """Polars' threads and OpenMP's are gone in a forked process: whoever asks waits for ever."""
    model.recommend(dataset.users, k=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.randn(2000, 64) @ torch.randn(64, 2000)  # OpenMP's threads are there now
        users = dataset.users.to_list()
        expected = model.recommend(users, k=3).rows()
        context = multiprocessing.get_context("fork")
        answers = context.Queue()

        def serve() -> None:
            some = model.recommend(users, k=3, exclude=pd.DataFrame({"user": [12345], "item": [3]}))
            frame = model.recommend(pd.Series(users), k=3)
            new = model.recommend([12345], k=3, cold="popular").rows()
            like = model.similar(dataset.items.to_list(), k=2).rows()
            score = model.score(users, dataset.items[: len(users)].to_list()[:1] * len(users))
            answers.put((some.rows(), frame["item"].tolist(), new, like, len(score)))

        worker = context.Process(target=serve)
        worker.start()
        try:
            some, frame, new, like, scored = answers.get(timeout=20)
        finally:
            worker.kill()
            worker.join()
    finally:
        torch.set_num_threads(threads)
    assert [row[:2] for row in some] == [row[:2] for row in expected]
    assert frame == [row[1] for row in expected]
    assert len(new) == 3
    assert len(like) == 2 * dataset.n_items
    assert scored == len(users)


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_serving_finds_the_ids_that_reading_finds(kind):
    known = pl.Series("id", [7, -3, 2**53 + 1, 0] if kind == "numbers" else ["7", "007", "a", "b"])
    for asked in (
        ["7", "7.0", "007", "-3", "+7", "1e3", " 7", "", "a", "\u0667", "9" * 30],
        [7, -3, 2**53 + 1, None],
        [7.0, float("nan"), -3.0],
        np.array([7, 8], dtype=np.int32),
    ):
        wanted = Vocabulary(known).encode(asked)
        assert IdIndex(known).find(asked).tolist() == wanted.tolist(), asked
    for wrong in ([2.0**53], [1.5], [True], [b"7"], [[7]]):
        with pytest.raises(InputError):
            IdIndex(known).find(wrong)
