"""What to do about a shift: the rules by which an audit advises, and the price of its advice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnsdiff.audit.advice import break_even
from cnsdiff.evaluation.significance import Interval


def exactly(value: float) -> Interval:
    return Interval(value, value, value)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_at_the_break_even_nothing_is_expected_to_change(gain, cost):
    least = break_even(exactly(gain), exactly(-cost))
    assert least * gain == pytest.approx((1 - least) * cost)
    assert 0 < least < 1


@pytest.mark.parametrize("gain, paid", [(0.0, 0.0), (0.1, 0.02), (0.1, 0.0), (-0.1, -0.1)])
def test_without_a_trade_there_is_no_break_even(gain, paid):
    assert break_even(exactly(gain), exactly(paid)) is None
