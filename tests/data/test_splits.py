"""A split in internal numbers: the part of it that some users have."""

from __future__ import annotations

import numpy as np

from cnsdiff.data.splits import Split


def test_the_pairs_of_some_users_with_all_that_goes_with_them() -> None:
    users, items = np.array([3, 1, 3, 2, 0]), np.array([5, 6, 7, 8, 9])
    times, places = np.array([10, 20, 30, 40, 50]), np.array([0, 1, 0, 1, 1])
    part = Split("valid", users, items, times, places).of_users(np.array([3, 0]))
    assert part.name == "valid"
    assert part.users.tolist() == [3, 3, 0]
    assert part.items.tolist() == [5, 7, 9]
    assert part.timestamps is not None
    assert part.periods is not None
    assert part.timestamps.tolist() == [10, 30, 50]
    assert part.periods.tolist() == [0, 0, 1]
    bare = Split("valid", users, items).of_users(np.array([1]))
    assert (bare.items.tolist(), bare.timestamps, bare.periods) == ([6], None, None)
