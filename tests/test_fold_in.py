"""The fold-in: against its formula by hand, and what must hold of it whatever the model."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array, random_array

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.base.errors import CnsdiffWarning, InputError, RunError
from cnsdiff.base.storage import sha256
from cnsdiff.data import Dataset, Interactions
from cnsdiff.data.splits import pair_matrix
from cnsdiff.recommender.fold_in import RIDGE, HistoryMap, joined

BRIEF = {"epochs": 2, "batch_size": 256}
MODELS = {
    "cosine": {"backbone": "mf", "training": BRIEF},
    "inner": {"backbone": "mf", "sampler": "random", "training": BRIEF},
    "stack": {"training": BRIEF, "stack": {"preset": "bpr-lightgcn", "set": {"training": BRIEF}}},
    "content": {"training": BRIEF, "content": {"prior": "ridge", "held_out": 0.2}},
    "ials": {"backbone": "ials", "backbone_options": {"factors": 16}},
    "ease": {"backbone": "ease"},
    "itemknn": {"backbone": "itemknn"},
}


WORLD = ConfoundedWorld(n_users=80, n_items=60, exposures=25, seed=0).dataset()
N_USERS, N_ITEMS = WORLD.n_users, WORLD.n_items


@pytest.fixture(scope="module")
def world():
    return WORLD


@pytest.fixture(scope="module")
def fitted(world):
    """Models by name, each trained when it is first asked for."""
    models = {}

    def model(name):
        if name not in models:
            models[name] = Recommender(**MODELS[name], seed=0).fit(world, select_on="valid")
        return models[name]

    return model


def scores(scorer):
    return scorer.score_block(torch.arange(scorer.n_users), 0, scorer.n_items)


def since_of(rows):
    """``(n, I)`` from a list of items for each user."""
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return pair_matrix(users, items, (len(rows), N_ITEMS))


def by_hand(model, history):
    """A vector by the formula, from the model alone and with least squares by another route."""
    train, v = model.train, model.user_embeddings.double().numpy()
    z = model.item_embeddings.double().numpy()

    def feature(items, exponent):
        return z[items].sum(0) / len(items) ** exponent

    fits = []
    for exponent in (0, 0.5, 1):
        x = np.stack([feature(train[[u]].indices, exponent) for u in range(train.shape[0])])
        power = (x**2).sum() / x.shape[1]
        towards = (x * v).sum() / x.shape[1] / power
        # Ridge towards a multiple of the identity, as further rows of ordinary least squares.
        extra = (RIDGE * power) ** 0.5 * np.eye(x.shape[1])
        rows, wanted = np.concatenate([x, extra]), np.concatenate([v, towards * extra])
        weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        left = ((x @ weights - v) ** 2).sum()
        fits.append((left, feature(sorted(history), exponent) @ weights))
    vector = min(fits, key=lambda fit: fit[0])[1]
    lengths = np.linalg.norm(v, axis=1)
    if lengths.max() - lengths.min() < 1e-5:
        vector *= lengths.mean() / np.linalg.norm(vector)
    return vector


# -- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_nothing_new_is_the_model_as_trained_bit_for_bit(fitted, name):
    model = fitted(name).model_
    users = np.arange(len(model.users))
    nothing = csr_array(model.train.shape, dtype=np.float32)
    trained = scores(model._of_users(users, None))
    assert torch.equal(scores(model.fold_in(users, nothing)), trained)
    assert torch.equal(scores(model.fold_in(users, model.train)), trained)


@pytest.mark.parametrize("name", ["cosine", "inner", "stack", "content", "ials"])
def test_a_vector_is_that_of_the_formula(fitted, name):
    model = fitted(name).model_
    new = [i for i in range(N_ITEMS) if i not in model.train[[3]].indices][:2]
    folded = model.fold_in(np.array([3, -1]), since_of([[*new, new[0]], [7, 9, 7]]))
    wholes = {*model.train[[3]].indices.tolist(), *new}, {7, 9}
    for vector, history in zip(folded.user_embeddings, wholes, strict=True):
        np.testing.assert_allclose(vector, by_hand(model, history), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["ease", "itemknn"])
def test_item_weights_are_summed_over_the_whole_history(fitted, name):
    model = fitted(name).model_
    folded = model.fold_in(np.array([5, -1]), since_of([[1, 2, 1], [4]]))
    weights = model.weights if isinstance(model.weights, torch.Tensor) else model.weights.todense()
    history = np.unique([*model.train[[5]].indices, 1, 2])
    expected = np.stack([np.asarray(weights)[history].sum(0), np.asarray(weights)[4]])
    np.testing.assert_allclose(scores(folded), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "ease"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_users_are_folded_in_one_by_one_in_any_order(fitted, name, data):
    model = fitted(name).model_
    users = data.draw(st.lists(st.integers(-1, N_USERS - 1), min_size=1, max_size=6))
    items = st.lists(st.integers(0, N_ITEMS - 1), max_size=5)
    rows = data.draw(st.lists(items, min_size=len(users), max_size=len(users)))
    together = scores(model.fold_in(np.array(users), since_of(rows)))
    order = data.draw(st.permutations(range(len(users))))
    for place in order:
        alone = model.fold_in(np.array([users[place]]), since_of([rows[place]]))
        torch.testing.assert_close(scores(alone)[0], together[place], rtol=1e-5, atol=1e-6)
    mixed = model.fold_in(np.array(users)[order], since_of([rows[place] for place in order]))
    torch.testing.assert_close(scores(mixed), together[list(order)], rtol=1e-5, atol=1e-6)


def test_an_unknown_user_without_a_history_is_of_no_taste(fitted):
    folded = fitted("cosine").model_.fold_in(np.array([-1]), since_of([[]]))
    assert not folded.user_embeddings.any()


def test_vectors_keep_the_length_that_all_have(fitted):
    model = fitted("cosine").model_
    assert model._fitted_map.length == pytest.approx(1)
    folded = model.fold_in(np.array([-1, 0]), since_of([[3], [4, 5]]))
    torch.testing.assert_close(folded.user_embeddings.norm(dim=1), torch.ones(2))
    assert fitted("inner").model_._fitted_map.length == 0


@pytest.mark.parametrize("name", ["cosine", "inner", "ials", "stack", "content"])
def test_histories_as_trained_give_vectors_near_the_trained_ones(fitted, name):
    """Each trained user as if unknown: nearer to their own vector than to the others'."""
    model = fitted(name).model_
    folded = model.fold_in(np.full(len(model.users), -1), model.train).user_embeddings
    own = torch.nn.functional.normalize(folded, dim=1)
    trained = torch.nn.functional.normalize(model.user_embeddings, dim=1)
    cosines = own @ trained.T
    nearer = (cosines < cosines.diagonal()[:, None]).double().mean(1)
    assert float(nearer.mean()) > 0.9


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_history_map_is_found_again_where_users_have_one(exponent):
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(40, 4, generator=generator)
    train = csr_array(random_array((500, 40), density=0.2, rng=0), dtype=np.float32)
    train.data[:] = 1
    true = HistoryMap(2 * torch.eye(4), exponent, 0.0)
    learnt = HistoryMap.fit(true(train, items), items, train)
    assert (learnt.exponent, learnt.length) == (exponent, 0)
    torch.testing.assert_close(learnt.weights, true.weights, rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20),
       st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20))  # fmt: skip
def test_joined_is_the_union(first, second):
    def matrix(pairs):
        rows, columns = (np.array([p[n] for p in pairs], dtype=np.int64) for n in (0, 1))
        return csr_array((np.full(len(pairs), 5.0), (rows, columns)), shape=(4, 6))

    start = matrix(first)
    start.sum_duplicates()
    raw = sorted(second)
    starts = np.searchsorted([row for row, _ in raw], np.arange(5))
    since = csr_array((-np.ones(len(raw)), [item for _, item in raw], starts), shape=(4, 6))
    both = joined(start, since)
    assert {*zip(*map(np.ndarray.tolist, both.nonzero()), strict=True)} == {*first, *second}
    assert both.nnz == len({*first, *second})
    assert (both.data == 1).all()


# -- the recommender ---------------------------------------------------------------------------


def additions(world):
    """A log of two known users and two new ones, with pairs of train and repeats."""
    known, items = world.users, world.items
    split = world.split("train")
    old = known[int(split.users[0])], items[int(split.items[0])]
    rows = [
        *[(known[1], items[n]) for n in (3, 8, 21)],
        *[(known[2], items[n]) for n in (5, 3)],
        *[(90_001, items[n]) for n in (3, 4, 5, 3)],
        *[(90_002, items[n]) for n in (30, 31)],
        old,
    ]
    return pl.DataFrame(rows, schema=["user", "item"], orient="row")


def same(one, other):
    """Whether two models have the same users, histories and scores of taste."""
    one, other = one.model_, other.model_
    order = other._user_index.find(one.users.to_list())
    assert sorted(order) == list(range(len(other.users))) and len(one.users) == len(order)
    assert (one.train != other.train[order]).nnz == (one.since != other.since[order]).nnz == 0
    mine, theirs = (scores(m._of_users(np.arange(len(order)), None)) for m in (one, other))
    torch.testing.assert_close(mine, theirs[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_users_follow_what_was_added_and_new_ones_are_known(fitted, world, name, tmp_path):
    trained = fitted(name)
    model = Recommender.load(trained.save(tmp_path / "run"))
    log = additions(world)
    assert model.add_interactions(log) is model
    # Those with nothing new are as they were, the others as the model folds them in.
    own, was = model.model_, trained.model_
    assert own.users.to_list() == [*world.users, 90_001, 90_002]
    numbers = np.arange(len(was.users))
    touched = np.flatnonzero(np.diff(own.train.indptr)[:-2] > np.diff(was.train.indptr))
    assert {*touched} <= {1, 2}
    calm = np.setdiff1d(numbers, touched)
    assert torch.equal(scores(own._of_users(calm, None)), scores(was._of_users(calm, None)))
    expected = was.fold_in(np.array([1, -1]), since_of([[3, 8, 21], [3, 4, 5]]))
    mine = own._of_users(np.array([1, len(numbers)]), None)
    torch.testing.assert_close(scores(mine), scores(expected), rtol=1e-5, atol=1e-6)
    # What was added is seen.
    lists = model.recommend([world.users[1], 90_001], k=N_ITEMS)
    shown = lists.join(log.with_columns(pl.col("item").cast(lists["item"].dtype)),
                       on=["user", "item"], how="inner")  # fmt: skip
    assert shown.height == 0
    # A saved run has it all, and goes on.
    again = Recommender.load(model.save(tmp_path / "longer"))
    assert again.recommend([world.users[1], 90_001], k=N_ITEMS).equals(lists)
    more = pl.DataFrame({"user": [90_001, 90_003], "item": [world.items[9]] * 2})
    same(again.add_interactions(more), model.add_interactions(more))


@pytest.mark.parametrize("name", ["cosine", "ease"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_twice_or_in_two_halves_is_as_once(fitted, world, name, data):
    fresh = fitted(name)._result
    users = st.sampled_from([*world.users[:4].to_list(), 90_001, 90_002])
    pairs = data.draw(st.lists(st.tuples(users, st.sampled_from(world.items[:12].to_list())),
                               min_size=1, max_size=15))  # fmt: skip
    log = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    cut = data.draw(st.integers(0, len(pairs)))

    def added(*logs):
        model = Recommender()
        model._keep(fresh)
        for part in logs:
            if len(part):
                model.add_interactions(part)
        return model

    once = added(log)
    twice = added(log, log)
    assert torch.equal(
        *(scores(m.model_._of_users(np.arange(N_USERS), None)) for m in (once, twice))
    )
    assert once.model_.users.equals(twice.model_.users)
    assert (once.model_.since != twice.model_.since).nnz == 0
    same(added(log[:cut], log[cut:]), once)
    same(added(log[cut:], log[:cut]), once)


def test_what_a_log_says_of_a_new_user_stays_seen(world):
    """A user of valid alone is none of train, but was seen with items."""
    log = pl.DataFrame({"user": [1, 1, 2, 2, 3, 3], "item": [1, 2, 1, 3, 2, 3]})
    valid = pl.DataFrame({"user": [1, 9], "item": [3, 1]})
    data = Dataset.from_splits(
        {"train": Interactions(log, "train"), "valid": Interactions(valid, "valid")},
        name="small",
        scenario="given",
    )
    model = Recommender("ease").fit(data, refit=False)
    model.add_interactions(pl.DataFrame({"user": [9], "item": [2]}))
    assert model.recommend([9], k=3)["item"].to_list() == [3]
    assert model.recommend([9], k=3, seen="train")["item"].sort().to_list() == [1, 3]


def test_unknown_items_are_left_out_with_a_warning(fitted, world, tmp_path):
    model = Recommender.load(fitted("ease").save(tmp_path / "run"))
    log = pl.DataFrame({"user": [world.users[0]] * 3, "item": [70_001, 70_001, 70_002]})
    with pytest.warns(CnsdiffWarning, match="3 of the 3 interactions added are with 2 items"):
        model.add_interactions(log)
    assert model.model_.train.nnz == fitted("ease").model_.train.nnz
    content = Recommender.load(fitted("content").save(tmp_path / "content"))
    with pytest.warns(CnsdiffWarning, match="70001; give the features of new items with add_items"):
        content.add_interactions(log)


def test_users_of_another_type_are_refused(fitted):
    with pytest.raises(InputError, match="the user 'ann' cannot be added, as the users known"):
        log = pl.DataFrame({"user": ["ann"], "item": [WORLD.items[0]]})
        fitted("ease").add_interactions(log)


def test_items_added_before_are_part_of_a_history(fitted, world, tmp_path):
    features = world.table("item_features")[:2].with_columns(item=pl.Series([9001, 9002]))
    folder = fitted("content").save(tmp_path / "run")
    who = world.users[4]
    log = pl.DataFrame({"user": [who, 90_001], "item": [9001, world.items[2]]})
    first = Recommender.load(folder).add_items(features).add_interactions(log)
    assert first.model_.item_embeddings.shape[1] == first.model_.user_embeddings.shape[1]
    assert 9001 not in first.recommend([who], k=N_ITEMS + 2)["item"].to_list()
    # The map is that of the model as trained, whatever was added before it was needed.
    trained = fitted("content").model_._fitted_map
    assert torch.equal(first.model_.history_map.weights, trained.weights)
    later = Recommender.load(folder).add_interactions(log[1:]).add_items(features)
    same(later.add_interactions(log[:1]), first)
    kept = Recommender.load(first.save(tmp_path / "longer"))
    same(kept, first)


def test_pairs_added_are_told_from_those_trained_on(fitted, world, tmp_path):
    trained = fitted("inner")
    model = Recommender.load(trained.save(tmp_path / "run"))
    model.add_interactions(additions(world))
    again = Recommender.load(model.save(tmp_path / "longer"))
    for own in (model.model_, again.model_):
        before = own.trained_on
        assert (before[: len(world.users)] != trained.model_.train).nnz == 0
        assert before[len(world.users) :].nnz == 0
        assert own.since.nnz + before.nnz == own.train.nnz > before.nnz
        assert own.since.data.all()


def test_a_damaged_map_is_refused(fitted, world, tmp_path):
    model = Recommender.load(fitted("inner").save(tmp_path / "run"))
    path = model.add_interactions(additions(world)).save(tmp_path / "longer")
    manifest = json.loads((path / "manifest.json").read_text())
    weights = load_file(path / "weights.safetensors")
    weights["history_map"] = weights["history_map"][1:]
    save_file(weights, path / "weights.safetensors")
    manifest["sha256"]["weights.safetensors"] = sha256(path / "weights.safetensors")
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="has history_map of"):
        Recommender.load(path)
