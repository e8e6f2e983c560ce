"""Train on what a policy exposed, test on what was shown at random or in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.text import parameter
from cnsdiff.data import Interactions, Source
from cnsdiff.data.ids import unify
from cnsdiff.shifts.base import Filters, register_scenario, table_of
from cnsdiff.shifts.log_scenario import Log, LogScenario, OODTest, Parts

#: On scales that end here, "auto" takes ratings up to _DISLIKED for a dislike.
_SCALE = 5.0
_DISLIKED = 2.0


@register_scenario
class Exposure(LogScenario):
    """The OOD test is a second table, ``"randomised"``, whose items users did not choose to see.

    Such a table comes from an experiment (items shown at random: Yahoo! R3, Coat) or from
    exposing everything (KuaiRec's small matrix). Its positives, less all pairs of the log, are
    the OOD test. Its ratings are also kept as ``judgements``: of items that users like, and of
    items that they do not.

    A log with ratings also tells what it exposed, liked or not: the side table ``exposures``
    counts, for each item, its rated pairs below the threshold and those that train. Pairs of
    valid and of the IID test do not count, so the table says nothing of them. Only this scenario
    has the table: elsewhere rows are held out that training may not know of even when disliked,
    such as those after the cut in time.
    """

    name: ClassVar[str] = "exposure"
    ood_from_log: ClassVar[bool] = False

    negative_threshold: float | Literal["auto"] | None = Field("auto")
    """A randomised rating up to this is a dislike, one between it and the threshold is left
    out of the judgements. None: all below the threshold are dislikes. ``"auto"``: 2 where
    no rating is above 5, else None."""

    def divide(self, log: Log, rng: np.random.Generator) -> Parts:
        """The whole log trains."""
        return Parts(np.arange(len(log)), np.arange(0))

    def ood_test(self, source: Source, filters: Filters, log: Log, parts: Parts) -> OODTest:
        """The randomised positives that are new, and the judgements."""
        randomised = table_of(source, "randomised", self.name)
        rated = "rating" in randomised.frame.columns
        if rated and filters.threshold is None:
            raise ConfigError(
                f"{randomised.source}: has ratings, and without a threshold each of them would "
                f"count as liked; give {parameter('threshold')}"
            )
        filters = Filters(filters.threshold if rated else None)
        positives, counts = filters.clean(randomised, core=False)
        ids = {"log": source.tables["log"], "randomised": positives}
        users, items = unify(ids, "user"), unify(ids, "item")
        seen = pl.DataFrame({"user": users["log"], "item": items["log"]})
        fresh = positives.frame.with_columns(user=users["randomised"], item=items["randomised"])
        fresh = fresh.join(seen, on=["user", "item"], how="anti", maintain_order="left")
        pairs = Interactions(fresh, positives.source)
        tables = {"judgements": self.judgements(randomised, filters.threshold)} if rated else {}
        return OODTest(pairs, {**counts, "in_log": len(positives) - len(pairs)}, tables)

    def side_tables(
        self, source: Source, filters: Filters, held_out: Sequence[Interactions]
    ) -> dict[str, pl.DataFrame]:
        """``exposures``, where the log has ratings."""
        if filters.threshold is None:
            return {}
        pair = ["user", "item"]
        rated = table_of(source, "log", self.name).frame.select(pair).unique()
        for pairs in held_out:
            rated = rated.join(pairs.frame, on=pair, how="anti")
        return {"exposures": rated.group_by("item").agg(exposures=pl.len().cast(pl.Int64))}

    def judgements(self, randomised: Interactions, threshold: float | None) -> pl.DataFrame:
        """``user``, ``item`` and whether it is ``relevant``; pairs judged neither way are out."""
        rating = pl.col("rating")
        liked = rating >= threshold
        below = self.negative_threshold
        if below == "auto":
            highest = float(randomised.frame["rating"].to_numpy().max())
            below = _DISLIKED if highest <= _SCALE else None
        judged = liked if below is None else liked | (rating <= below)
        once = randomised.deduplicated().frame
        everything = once if below is None else once.filter(judged)
        return everything.select("user", "item", relevant=liked)
