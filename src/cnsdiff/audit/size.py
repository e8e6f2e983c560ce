"""How much of a log a budget is enough for: how many shifts, and how many users."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from cnsdiff.audit.log import Log
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.base.spelling import parameter
from cnsdiff.data import Interactions

#: So many seconds make a shift's numbers mean something on a log of this size, and on larger ones
#: as many times more: pairs cost in training, users × items in ranking.
_SECONDS, _PAIRS, _SCORES = 25.0, 50_000, 20_000_000
#: A log is thinned for at most so many shifts, and never below so many pairs.
_SHIFTS, _LEAST_PAIRS = 3, 30_000


def seconds_a_shift(pairs: Interactions) -> float:
    """About how long one shift of these positives needs."""
    scores = pairs.n_users * pairs.n_items
    return _SECONDS * max(1.0, len(pairs) / _PAIRS, scores / _SCORES)


def thinned(log: Log, budget: float, n_shifts: int, *, seed: int, most: int | None) -> Log:
    """The log as it is, or all rows of some users drawn at random, so many as the budget allows.

    Parameters
    ----------
    budget
        In seconds.
    n_shifts
        That its columns allow.
    seed
        Of the draw.
    most
        Positive pairs to keep at most, whatever the budget; 0 keeps all, ``None`` goes by it.
    """
    positive = log.interactions.positives(log.threshold)
    allowed = budget / max(min(n_shifts, _SHIFTS), 1)

    def fits(pairs: Interactions) -> bool:
        if most is not None:
            return most == 0 or len(pairs) <= most
        return seconds_a_shift(pairs) <= allowed or len(pairs) < 2 * _LEAST_PAIRS

    if fits(positive):
        return log
    table = log.interactions
    users = positive.frame["user"].unique(maintain_order=True)
    order = pl.Series(numpy_generator(seed, "audit/thinned").permutation(len(users)))
    drawn = users.gather(order)
    kept = drawn
    while not fits(positive):
        # Each step keeps seven tenths of those that the step before kept.
        kept = kept.head(max(1, int(0.7 * len(kept))))
        positive = replace(
            positive, frame=positive.frame.filter(pl.col("user").is_in(kept.implode()))
        )
        if len(kept) == 1:
            break
    frame = table.frame.filter(pl.col("user").is_in(kept.implode()))
    why = (
        f"as {parameter('max_pairs')} asks"
        if most is not None
        else f"as many as the budget is enough for; it and {parameter('max_pairs')} change that"
    )
    note = (
        f"Of {len(users):,} users {len(kept):,} were drawn at random, with {len(positive):,} "
        f"positive pairs: {why}."
    )
    tables = {**log.source.tables, "log": replace(table, frame=frame)}
    source = replace(log.source, tables=tables)
    return replace(log, source=source, notes=(*log.notes, note), n_drawn=len(kept))
