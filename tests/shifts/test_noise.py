"""Noisy feedback: exact shares, a clean test that stays the same."""

from __future__ import annotations

import polars as pl
import pytest

from cnsdiff.base.errors import ConfigError
from cnsdiff.data import Interactions
from cnsdiff.shifts import Noise

SIDE = ("train", "valid", "test_iid")


def pairs(frame):
    return set(frame.select("user", "item").rows())


@pytest.mark.parametrize("strength", [0, 0.1, 0.5])
def test_flipped_items_are_new_to_their_users(long_tail, named, strength):
    dataset = Noise(strength=strength)(long_tail)
    truth, observed = pairs(long_tail.frame), named(dataset, *SIDE)
    side = len(long_tail) - int(0.2 * len(long_tail) + 0.5)
    assert observed.height == side == len(pairs(observed))
    false = pairs(observed) - truth
    assert len(false) == int(strength * side + 0.5)
    # A flip changes the item alone: the rows are found again by user and time.
    back = observed.join(long_tail.frame, on=["user", "timestamp"], how="left")
    assert back["item_right"].null_count() == 0
    assert (back["item"] != back["item_right"]).sum() == len(false)
    # valid and test_iid are as noisy as train.
    if strength:
        for name in SIDE:
            own = pairs(named(dataset, name))
            assert len(own - truth) / len(own) == pytest.approx(strength, abs=0.08)


def test_dropped_rows_are_gone(long_tail, named):
    dataset = Noise(kind="drop", strength=0.5)(long_tail)
    side = len(long_tail) - int(0.2 * len(long_tail) + 0.5)
    observed = named(dataset, *SIDE)
    assert observed.height == side - int(side / 2 + 0.5)
    assert pairs(observed) < pairs(long_tail.frame)


def test_the_clean_test_is_the_same_at_every_strength(long_tail, named):
    tests = [
        pairs(named(Noise(kind=kind, strength=strength)(long_tail), "test_ood"))
        for kind in ("flip", "drop")
        for strength in (0, 0.2, 0.6)
    ]
    assert len(tests[0]) == int(0.2 * len(long_tail) + 0.5)
    assert all(test == tests[0] for test in tests)
    assert tests[0] < pairs(long_tail.frame)


def test_users_with_nearly_everything(named):
    # Nobody lacks more than two of the eight items.
    rows = [(user, item) for user in range(30) for item in range(8) if (user + item) % 8 > 1]
    log = Interactions(pl.DataFrame(rows, ["user", "item"], orient="row"), "dense.csv")
    dataset = Noise(strength=0.3, ood_share=0.1)(log)
    observed = named(dataset, *SIDE)
    assert len(pairs(observed)) == observed.height == 162
    assert len(pairs(observed) - pairs(log.frame)) == 49
    with pytest.raises(ConfigError, match=r"dense.csv: only \d+ of the 162 training rows can be"):
        Noise(strength=0.5, ood_share=0.1)(log)


def test_refusals(long_tail):
    with pytest.raises(ConfigError, match=r"only \d+ of the \d+ rows can be held out.*ood_share"):
        Noise(ood_share=0.95)(long_tail)
    with pytest.raises(ConfigError, match=r"rows can be dropped.*strength 0.95 asks for"):
        Noise(kind="drop", strength=0.95)(long_tail)
    with pytest.raises(ConfigError, match="kind: input should be 'flip' or 'drop'"):
        Noise(kind="flop")
