"""A run trained further on what has come since: what it learns, where it begins, what judges it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnsdiff import Dataset, Interactions, Recommender
from cnsdiff.base.errors import DataError, InputError
from cnsdiff.environment import rehearse
from cnsdiff.recommender.fitting import Training
from cnsdiff.recommender.run_directory import Fitted, read_run
from cnsdiff.recommender.update import Updating, of_others
from cnsdiff.shifts import Filters
from cnsdiff.training.processes import make_fabric

DAY = 86_400
BRIEF = {"epochs": 2, "fhn_every": None}


def log(seed: int = 0, n: int = 2400) -> pl.DataFrame:
    """Half a year in which tastes stay, and fashions pass."""
    rng = np.random.default_rng(seed)
    users, times = rng.integers(0, 90, n), np.sort(rng.integers(0, 180 * DAY, n))
    fashion = (times // (10 * DAY) + rng.integers(0, 12, n)) % 60
    taste = (users % 4) * 15 + rng.integers(0, 15, n)
    items = np.where(rng.random(n) < 0.6, fashion, taste)
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": times})
    return frame.unique(["user", "item"], keep="first", maintain_order=True)


def whole(frame: pl.DataFrame) -> Dataset:
    return Dataset.from_splits({"train": Interactions(frame, "log")}, name="log", scenario="given")


def divided(frame: pl.DataFrame, share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    at = int(share * len(frame))
    return frame[:at], frame[at:]


def pairs(model: Recommender) -> set[tuple[object, object]]:
    users, items = model.model_.train.nonzero()
    return set(zip(model.users_.gather(users), model.items_.gather(items), strict=True))


def tables(weights) -> list[torch.Tensor]:
    return [weights[f"backbone.{side}_embedding"] for side in ("user", "item")]


@pytest.fixture(scope="module")
def parts() -> tuple[pl.DataFrame, pl.DataFrame]:
    return divided(log(), 0.7)


@pytest.fixture(scope="module")
def dataset(parts) -> Dataset:
    return whole(parts[0])


@pytest.fixture(scope="module")
def run(dataset) -> Recommender:
    return Recommender("mf", training=BRIEF, backbone_options={"dim": 16}).fit(dataset)


@pytest.fixture(scope="module")
def newer(run, dataset, parts) -> Recommender:
    return run.update(parts[1], dataset=dataset)


def fitted_of(model: Recommender, dataset: Dataset, path) -> Fitted:
    model.save(path)
    return Fitted.of_run(read_run(path))


# --- what is learnt


def test_old_and_new_train_and_the_old_stays(run, newer, parts):
    assert pairs(newer) == set(pl.concat(parts).select("user", "item").rows())
    assert pairs(run) == set(parts[0].select("user", "item").rows())
    assert newer.selected_on_ == "rehearsal"
    assert newer.config_.backbone == run.config_.backbone


def test_of_a_prepared_dataset_no_test_is_learnt(parts):
    frame, new = parts
    part = np.random.default_rng(1).choice(3, len(frame), p=[0.7, 0.15, 0.15])
    names = ("train", "valid", "test_ood")
    splits = {name: frame.filter(pl.Series(part == n)) for n, name in enumerate(names)}
    prepared = Dataset.from_splits(
        {name: Interactions(split, name) for name, split in splits.items()},
        name="prepared",
        scenario="random",
    )
    model = Recommender("mf", training=BRIEF).fit(prepared)
    later = new.join(splits["test_ood"], on=["user", "item"], how="anti")
    learnt = pairs(model.update(later, dataset=prepared))
    assert not learnt & set(splits["test_ood"].select("user", "item").rows())
    known = pl.concat([splits["train"], splits["valid"]])
    users, items = splits["train"]["user"], splits["train"]["item"]
    kept = known.filter(
        pl.col("user").is_in(users.implode()), pl.col("item").is_in(items.implode())
    )
    assert learnt == set(pl.concat([kept, later]).select("user", "item").rows())


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_pair_keeps_its_first_time_and_its_filters(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))

    def drawn(n: int, start: int) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "user": rng.integers(0, 6, n),
                "item": rng.integers(0, 6, n),
                "timestamp": rng.integers(start, start + 50, n),
                "rating": rng.integers(1, 6, n).astype(float),
            }
        )

    old, new = drawn(40, 0), drawn(40, 50)
    cores = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    filters = Filters(3.0, *cores)
    kept, _ = Filters(3.0).clean(Interactions(old, "old"), core=False)
    learnt = Dataset.from_splits(
        {"train": kept}, name="log", scenario="given", settings=filters.settings()
    )
    # Whatever was trained: only its log is looked at.
    fitted = Recommender("mostpop", training={"select_on": "valid"}).fit(learnt)._fitted()
    both = pl.concat([kept.frame, new])
    # The twin: dictionaries, and rows dropped until nothing changes.
    first: dict[tuple[int, int], int] = {}
    for row in both.filter(pl.col("rating") >= 3).iter_rows(named=True):
        pair = row["user"], row["item"]
        first[pair] = min(first.get(pair, row["timestamp"]), row["timestamp"])
    while True:
        sides = [[pair[side] for pair in first] for side in (0, 1)]
        rest = {
            pair: time
            for pair, time in first.items()
            if all(sides[s].count(pair[s]) >= cores[s] for s in (0, 1))
        }
        if len(rest) == len(first):
            break
        first = rest
    if max(first.values(), default=0) <= learnt.split("train").timestamps.max():
        with pytest.raises(DataError):
            Updating.of_run(fitted, new, learnt)
        return
    dataset = Updating.of_run(fitted, new, learnt).dataset
    split = dataset.split("train")
    ids = dataset.decode_users(split.users), dataset.decode_items(split.items)
    assert dict(zip(zip(*ids, strict=True), split.timestamps.tolist(), strict=True)) == first


def test_text_ids_of_a_store_are_the_numbers_of_the_log(run, dataset, parts):
    text = parts[1].with_columns(pl.col("user", "item").cast(pl.String))
    updating = Updating.of_run(run._fitted(), text, dataset)
    assert updating.dataset.users.dtype == pl.Int64
    stranger = pl.DataFrame({"user": ["x7"], "item": ["5"], "timestamp": [10**9]})
    mixed = Updating.of_run(run._fitted(), pl.concat([text, stranger]), dataset).dataset
    assert mixed.users.dtype == pl.String and mixed.items.dtype == pl.Int64
    assert set(mixed.users) == {*text["user"], *parts[0]["user"].cast(pl.String), "x7"}


def test_what_users_have_seen_stays_seen(parts):
    frame = parts[0].with_columns(rating=pl.Series(np.arange(len(parts[0])) % 5 + 1.0))
    kept, _ = Filters(2.0).clean(Interactions(frame, "log"), core=False)
    rated = Dataset.from_splits(
        {"train": kept}, name="log", scenario="given", settings=Filters(2.0).settings(),
        logs=[Interactions(frame, "log")],
    )  # fmt: skip
    fitted = Recommender("mostpop", training={"select_on": "valid"}).fit(rated)._fitted()
    new = parts[1].with_columns(rating=pl.Series(np.arange(len(parts[1])) % 3 + 1.0))
    dataset = Updating.of_run(fitted, new, rated).dataset
    seen = dataset.seen()
    shown = set(
        zip(dataset.decode_users(seen["user"]), dataset.decode_items(seen["item"]), strict=True)
    )
    low = pl.concat([frame, new]).filter(pl.col("rating") < 2)
    known = low.filter(pl.col("user").is_in(dataset.users.implode()))
    assert shown == set(known.select("user", "item").rows())


# --- where training begins


def test_known_rows_begin_where_the_run_is_and_others_as_always(run, dataset, parts):
    extra = pl.DataFrame({"user": [777, 3], "item": [1, 888], "timestamp": [10**9, 10**9]})
    updating = Updating.of_run(run._fitted(), pl.concat([parts[1], extra]), dataset)
    start, config = updating.start(), updating.configuration()
    fabric = make_fabric("cpu", "32-true", 1)
    warm, cold = (
        Training.of(config, updating.dataset, fabric, select=False, start=begun)
        for begun in (start.trained, None)
    )
    for side in ("users", "items"):
        ids, old = getattr(updating.dataset, side), getattr(run, f"{side}_")
        own, fresh = (getattr(t.trainer.step.backbone.layer_zero(), side) for t in (warm, cold))
        before = tables(run._fitted().weights)[side == "items"]
        for row, identifier in enumerate(ids):
            place = old.index_of(identifier)
            assert torch.equal(own[row], fresh[row] if place is None else before[place])
    assert 777 in updating.dataset.users and 888 in updating.dataset.items


def test_a_rehearsal_begins_with_nothing_of_what_it_judges_by():
    """Two pasts that differ only after the cut of the update's rehearsal leave the same tables."""
    frame = log()
    at = 0.8 * len(frame)
    taken = set(frame.select("user", "item").rows())
    rows = []
    for number, (user, item, time) in enumerate(frame.rows()):
        other = (item + 29) % 60
        if number >= at + 1 and (user, other) not in taken:
            taken.add((user, other))
            item = other
        rows.append((user, item, time))
    logs = frame, pl.DataFrame(rows, schema=frame.schema, orient="row")
    assert not logs[0].equals(logs[1])
    results = []
    for one in logs:
        first, later = divided(one, 0.93)  # the run has learnt what comes after the cut
        data = whole(first)
        model = Recommender("mf", training={**BRIEF, "epochs": 1}).fit(data)
        results.append((model._fitted(), model.update(later, dataset=data)._fitted()))
    (old, new), (other_old, other_new) = results
    assert not torch.equal(tables(old.weights)[0], tables(other_old.weights)[0])
    assert new.rehearsed.moment == other_new.rehearsed.moment > old.rehearsed.moment
    for one, other in zip(new.rehearsed.tables, other_new.rehearsed.tables, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_a_run_keeps_what_its_rehearsal_knew(run, dataset, tmp_path):
    fitted = fitted_of(run, dataset, tmp_path / "run")
    part = rehearse(dataset).dataset
    assert fitted.rehearsed.moment == part.split("train").timestamps.max()
    for table, known in zip(fitted.rehearsed.tables, (part.users, part.items), strict=True):
        rows = torch.isfinite(table).all(dim=1).nonzero()[:, 0].tolist()
        assert rows == sorted(known)


@pytest.mark.parametrize("horizon", [0.2, 0.4, 20.0 * DAY])
@pytest.mark.parametrize("known", [0.3, 0.75, 0.95])
def test_the_cut_comes_after_what_is_known(dataset, horizon, known):
    times = np.sort(dataset.split("train").timestamps)
    until = float(times[int(known * len(times))])
    usual, late = rehearse(dataset, horizon), rehearse(dataset, horizon, known_until=until)
    valid = late.dataset.split("valid").timestamps
    assert valid.min() > until
    if usual.dataset.split("train").timestamps.max() >= until:
        assert late.share == usual.share
    else:
        assert np.mean(times[times > until] >= valid.min()) == pytest.approx(0.5, abs=0.01)


def test_a_model_that_was_not_rehearsed_begins_anew(dataset, parts):
    old = Recommender("mf", training={**BRIEF, "select_on": "valid"}).fit(dataset)
    updating = Updating.of_run(old._fitted(), parts[1], dataset)
    assert updating.start() is None
    again = Recommender("mf", training={**BRIEF, "select_on": "rehearsal"}).fit(updating.dataset)
    newer = old.update(parts[1], dataset=dataset)
    assert torch.equal(newer.user_embeddings_, again.user_embeddings_)


def test_a_closed_form_is_solved_on_old_and_new(dataset, parts):
    old = Recommender("ease", training={"select_on": "rehearsal"}).fit(dataset)
    newer = old.update(parts[1], dataset=dataset)
    anew = Recommender("ease", training={"select_on": "rehearsal"}).fit(whole(pl.concat(parts)))
    torch.testing.assert_close(newer.model_.weights, anew.model_.weights)


def test_an_update_is_updated(run, dataset, parts):
    """Each rehearsal cuts no earlier than the one that it begins at."""
    fitted, data, moments = run._fitted(), dataset, [run._fitted().rehearsed.moment]
    for new in divided(parts[1], 0.5):
        updating = Updating.of_run(fitted, new, data)
        assert updating.start() is not None
        results: list[Fitted] = []
        updating.fit(keep=results.append)
        fitted, data = results[0], updating.dataset
        moments.append(fitted.rehearsed.moment)
    assert moments == sorted(set(moments))
    assert fitted.model.train.nnz == sum(map(len, parts))


def test_an_interrupted_update_goes_on_to_the_same(run, newer, dataset, parts, tmp_path):
    class Killed(BaseException):
        pass

    def kill(record) -> bool:
        raise Killed

    with pytest.raises(Killed):
        run.update(parts[1], dataset=dataset, run=tmp_path / "run", stop=kill)
    again = run.update(parts[1], dataset=dataset, run=tmp_path / "run")
    assert torch.equal(again.user_embeddings_, newer.user_embeddings_)
    assert not (tmp_path / "run" / "start.safetensors").exists()


# --- what judges


def test_what_judges_comes_after_what_is_compared(run, dataset, parts):
    updating = Updating.of_run(run._fitted(), parts[1], dataset)
    trial = updating.trial()
    assert updating.until == parts[0]["timestamp"].max()
    before = trial.dataset.split("train").timestamps
    assert updating.until < before.max() < trial.judges.timestamps.min()
    new = int((parts[1]["timestamp"] > updating.until).sum())
    assert int((parts[1]["timestamp"] > before.max()).sum()) == pytest.approx(new / 3, abs=3)
    comparison = updating.compare()
    assert comparison.moment == before.max()
    assert comparison.better == (comparison.new >= comparison.old)
    low, high = comparison.interval
    assert low <= comparison.new - comparison.old <= high


def test_an_update_knows_new_items_and_is_better():
    """The second half of the log is of other items, which the old run does not know."""
    rng = np.random.default_rng(0)
    n = 3000
    times = np.sort(rng.integers(0, 100 * DAY, n))
    users = rng.integers(0, 60, n)
    items = (users % 3) * 15 + rng.integers(0, 15, n) + 100 * (times > 50 * DAY)
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": times})
    frame = frame.unique(["user", "item"], keep="first", maintain_order=True)
    old = frame.filter(pl.col("timestamp") <= 50 * DAY)
    new = frame.filter(pl.col("timestamp") > 50 * DAY)
    data = whole(old)
    model = Recommender("mf", training={**BRIEF, "epochs": 20}).fit(data)
    updating = Updating.of_run(model._fitted(), new, data)
    comparison = updating.compare()
    assert comparison.better and comparison.interval[0] > 0


@pytest.mark.parametrize("name", ["mf", "ease", "itemknn"])
def test_a_run_is_judged_as_it_would_be_served(name, dataset, parts):
    """Among items in another order, and some that it does not know."""
    trained = {"select_on": "rehearsal", **(BRIEF if name == "mf" else {})}
    model = Recommender(name, training=trained).fit(dataset)
    known = pl.col("item").is_in(dataset.items.implode())
    frame = pl.concat([parts[0], parts[1].filter(known)]).reverse()
    stranger = pl.DataFrame({"user": [4], "item": [991], "timestamp": [frame["timestamp"].max()]})
    both = whole(pl.concat([stranger, frame]))
    ids = both.users, both.items
    scores = of_others(model.model_, ids, both.split("train"))
    blocks = [
        scores.score_block(torch.arange(both.n_users), start, min(start + 7, both.n_items))
        for start in range(0, both.n_items, 7)
    ]
    there = torch.cat(blocks, dim=1)
    assert bool((there[:, 0] == -torch.inf).all())
    later = parts[1].filter(known)
    served = model.follow(later).add_interactions(later).model_
    users, items = (
        torch.tensor([own.index_of(identifier) for identifier in asked])
        for own, asked in ((served.users, both.users), (served.items, both.items[1:]))
    )
    home = served.scorer().score_block(users, 0, len(served.items))[:, items]
    torch.testing.assert_close(there[:, 1:], home, rtol=1e-4, atol=1e-4)


# --- what cannot be done


def test_refusals(run, dataset, parts, tmp_path):
    with pytest.raises(DataError, match="holds no pair"):
        run.update(parts[0][:50], dataset=dataset)
    with pytest.raises(DataError, match="has no times"):
        run.update(parts[1].drop("timestamp"), dataset=dataset)
    with pytest.raises(InputError, match="is not the dataset"):
        run.update(parts[1], dataset=whole(parts[1]))
    with pytest.raises(InputError, match="in memory"):
        run.update(parts[1])
    few = parts[1][:30]
    with pytest.raises(DataError, match="too few to tell"):
        Updating.of_run(run._fitted(), few, dataset).compare()
    bare = whole(parts[0].drop("timestamp"))
    timeless = Recommender("mostpop").fit(bare)
    with pytest.raises(DataError, match="has no times"):
        timeless.update(parts[1], dataset=bare)
