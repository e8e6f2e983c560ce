"""Items that train has never seen."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from cnsdiff.base.errors import ConfigError, DataError
from cnsdiff.base.text import parameter
from cnsdiff.data.ids import Vocabulary
from cnsdiff.shifts.base import register_scenario
from cnsdiff.shifts.drawing import anchors, draw, others, rounded
from cnsdiff.shifts.log_scenario import Log, LogScenario, Parts


@register_scenario
class NewItems(LogScenario):
    """Some items are kept from train altogether; the OOD test is of them and of others.

    All rows of a new item are of the OOD test, and some rows of the other items at random, so that
    new and old compete. Only items with features can be new, as
    nothing could be told of others. The pairs of new items are kept apart
    (:meth:`cnsdiff.data.Dataset.with_new_items`), those of the others are the split ``test_ood``.
    """

    name: ClassVar[str] = "new-items"

    share: float = Field(0.2, gt=0, lt=1)
    """Share of the items that are new."""
    ood_share: float = Field(0.2, gt=0, lt=1)
    """Share of the rows of the other items that are of the OOD test, too."""
    by: Literal["auto", "first-seen", "random"] = "auto"
    """Which: those seen for the first time last, or any; ``auto`` goes by time where there is
    any."""

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """Choose the new items, and the rows that compete with theirs."""
        if "item_features" not in log.features:
            raise DataError(
                f"{log.source}: nothing is known of its items, so nothing could be told of new "
                f"ones; give a table of their features with {parameter('item_features')}"
            )
        told = Vocabulary(log.item_ids.alias("id")).encode(log.features["item_features"]["item"])
        able = np.unique(told[told >= 0])
        n = min(rounded(self.share, log.n_items), len(able))
        if n == 0 or n == log.n_items:
            raise ConfigError(
                f"{log.source}: share {self.share:g} of its {log.n_items} items, of which "
                f"{len(able)} have features, makes {'none' if n == 0 else 'all'} new; "
                "change share, or give features of the log's items"
            )
        by = self.by
        if by == "auto":
            by = "first-seen" if "timestamp" in log.frame.columns else "random"
        if by == "random":
            new = rng.permutation(able)[:n]
        else:
            first = np.full(log.n_items, np.inf)
            np.minimum.at(first, log.items, log.timestamps.astype(np.float64))
            # Of equal times the one that the log has later.
            new = able[np.lexsort((-able, -first[able]))][:n]
        is_new = np.isin(log.items, new)
        old = np.flatnonzero(~is_new)
        free = old[~anchors(log.users[old], log.items[old], rng)]
        size = min(rounded(self.ood_share, len(old)), len(free))
        beside = draw(free, size, rng)
        ood = np.sort(np.concatenate([np.flatnonzero(is_new), beside]))
        return Parts(others(ood, len(log)), ood, {"new_items": n, "new_by": by})
