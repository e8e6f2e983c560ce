"""Shift of a split from train, and its level of chance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import rankdata, wasserstein_distance

from cnsdiff.data import Split
from cnsdiff.diagnostics.shift import TIME_CELLS, Frame, measure, measure_with_chance, redivide

DAY = 86_400


def make(name, users, items, timestamps=None, periods=None) -> Split:
    def array(values):
        return None if values is None else np.asarray(values)

    return Split(name, array(users), array(items), array(timestamps), array(periods))


def drawn(seed: int, n: int, name: str = "train", n_users: int = 12, n_items: int = 9) -> Split:
    """Pairs of a skewed world, each once."""
    random = np.random.default_rng(seed)
    weights = np.outer(np.arange(1, n_users + 1), np.arange(1, n_items + 1) ** 2).ravel()
    pairs = random.choice(n_users * n_items, n, replace=False, p=weights / weights.sum())
    return make(
        name,
        pairs // n_items,
        pairs % n_items,
        random.integers(0, 100 * DAY, n),
        random.integers(0, 3, n),
    )


FRAME = Frame(12, 9, 3, first=0.0, last=100.0 * DAY)


def test_every_axis_by_counting():
    train, split = drawn(0, 60), drawn(1, 25, "test_ood")
    found = measure(train, split, FRAME)
    assert list(found) == ["items", "users", "time", "periods"]
    for axis, size in (("items", 9), ("users", 12), ("periods", 3)):
        before, after = (Counter(getattr(one, axis).tolist()) for one in (train, split))
        p, q = ([counts[k] for k in range(size)] for counts in (before, after))
        assert found[axis].js == pytest.approx(jensenshannon(p, q) ** 2)
        if axis != "periods":
            stand = (rankdata(p) - 0.5) / size
            quantiles = ([stand[k] for k in getattr(one, axis)] for one in (train, split))
            assert found[axis].wasserstein == pytest.approx(wasserstein_distance(*quantiles))
    assert found["periods"].wasserstein is None
    days = wasserstein_distance(train.timestamps / DAY, split.timestamps / DAY)
    assert found["time"].wasserstein == pytest.approx(days)
    cells = [
        [sum(min(t // (2 * DAY), 49) == cell for t in one.timestamps) for cell in range(50)]
        for one in (train, split)
    ]
    assert found["time"].js == pytest.approx(jensenshannon(*cells) ** 2)


def test_axes_that_only_one_split_has_are_left_out():
    bare = make("valid", [0, 1], [0, 1])
    assert list(measure(drawn(0, 60), bare, FRAME)) == ["items", "users"]
    assert list(measure(bare, drawn(0, 60), FRAME)) == ["items", "users"]


def test_time_cells():
    times = np.array([0, 2 * DAY - 1, 2 * DAY, 100 * DAY])
    cells = FRAME.time_cells(times)
    assert (cells[0], cells[1], cells[49], cells.sum(), cells.size) == (2, 1, 1, 4, TIME_CELLS)
    at_once = Frame(1, 1, first=5.0, last=5.0).time_cells(np.array([5, 5]))
    assert (at_once[0], at_once.sum(), at_once.size) == (2, 2, TIME_CELLS)


def test_redivision_keeps_pairs_and_sizes():
    pooled = drawn(3, 80)
    train, split = redivide(pooled, 20, FRAME, np.random.default_rng(0))
    assert len(train) == 60
    together = Counter(zip(train.users.tolist(), train.items.tolist(), strict=True))
    together += Counter(zip(split.users.tolist(), split.items.tolist(), strict=True))
    whole = Counter(zip(pooled.users.tolist(), pooled.items.tolist(), strict=True))
    assert together <= whole
    lost = whole - together
    for user, item in lost:
        assert user not in train.users or item not in train.items
    assert set(split.users) <= set(train.users)
    assert set(split.items) <= set(train.items)
    # A pair stays with its time and its environment.
    rows = {(u, i): (t, e) for u, i, t, e in zip(*columns(pooled), strict=True)}
    for u, i, t, e in zip(*columns(split), strict=True):
        assert rows[u, i] == (t, e)


def columns(split: Split):
    return (getattr(split, name).tolist() for name in ("users", "items", "timestamps", "periods"))


def test_redivision_is_uniform():
    pooled = make("pooled", [0, 0, 1, 1], [0, 1, 0, 1])
    random, seen = np.random.default_rng(0), Counter()
    for _ in range(3000):
        _, split = redivide(pooled, 1, Frame(2, 2), random)
        seen[int(split.users[0]), int(split.items[0])] += 1
    # Four cells of 750, standard deviation 24.
    assert len(seen) == 4
    assert all(abs(count - 750) < 120 for count in seen.values())


def test_a_random_hold_out_is_at_the_level_of_chance_and_a_shift_is_beyond_it():
    pairs = drawn(5, 6000, n_users=200, n_items=60)
    order = np.random.default_rng(6).permutation(6000)
    frame = Frame(200, 60, 3, first=0.0, last=100.0 * DAY)

    def part(where) -> Split:
        return make("x", *(np.asarray(list(column))[where] for column in columns(pairs)))

    random = measure_with_chance(
        part(order[:5000]), part(order[5000:]), frame, np.random.default_rng(0), draws=20
    )
    for axis in ("items", "users", "time", "periods"):
        shift = random[axis]
        assert shift.observed.js > 0
        assert shift.observed.js == pytest.approx(shift.chance.js, rel=0.6, abs=1e-3), axis
        assert shift.observed.tv == pytest.approx(shift.chance.tv, rel=0.6, abs=2e-2), axis
    assert random["items"].observed.js == pytest.approx(random["items"].chance.js, rel=0.35)
    rare = order[np.argsort(pairs.items[order], kind="stable")]
    shifted = measure_with_chance(
        part(rare[1000:]), part(rare[:1000]), frame, np.random.default_rng(0)
    )["items"]
    # Most of the rarest items are then unknown to train; those left are far off all the same.
    assert shifted.observed.js > 5 * shifted.chance.js


def test_chance_is_the_mean_of_the_draws():
    train, split = drawn(0, 60), drawn(1, 25)
    found = measure_with_chance(train, split, FRAME, np.random.default_rng(7), draws=3)
    again = measure_with_chance(train, split, FRAME, np.random.default_rng(7), draws=3)
    assert found == again
    assert found["items"].observed == measure(train, split, FRAME)["items"]
    order = np.argsort(np.concatenate([train.timestamps, split.timestamps]), kind="stable")
    pooled = make(
        "pooled",
        *(
            np.concatenate([list(a), list(b)])[order]
            for a, b in zip(columns(train), columns(split), strict=True)
        ),
    )
    random = np.random.default_rng(7)
    each = [measure(*redivide(pooled, 25, FRAME, random), FRAME) for _ in range(3)]
    for axis, shift in found.items():
        assert shift.chance.js == pytest.approx(np.mean([one[axis].js for one in each]))
    assert found["periods"].chance.wasserstein is None


def test_no_chance_where_every_division_would_be_empty():
    # Whichever pair is held out, its user is unknown to the rest.
    train, split = make("train", [0], [0]), make("valid", [1], [0])
    found = measure_with_chance(train, split, Frame(2, 1), np.random.default_rng(0))
    assert found["items"].chance is None
    assert found["items"].observed.js == 0
