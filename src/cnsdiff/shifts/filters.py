"""Which interactions count: the rating threshold, repeated pairs, the k-core."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cnsdiff.data import Interactions
from cnsdiff.data.interactions import checked_core, checked_threshold


@dataclass(frozen=True)
class Filters:
    """What makes an interaction count.

    Attributes
    ----------
    threshold
        Least rating of a positive; None takes every interaction for one.
    user_core, item_core
        Least number of positives of a user and of an item (0 keeps all).
    """

    threshold: float | None = None
    user_core: int = 0
    item_core: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", checked_threshold(self.threshold))
        for side in ("user", "item"):
            name = f"{side}_core"
            object.__setattr__(self, name, checked_core(getattr(self, name), side))

    def clean(self, given: Interactions, *, core: bool) -> tuple[Interactions, dict[str, int]]:
        """Positives, each pair once, in the k-core if ``core``; and what was left out.

        Raises
        ------
        DataError
            There are no ratings for the threshold, or none reaches it.
        """
        positive = given.positives(self.threshold)
        once = positive.deduplicated()
        kept = once
        if core and (self.user_core > 1 or self.item_core > 1):
            kept = once.k_core(self.user_core, self.item_core)
        return kept, {
            "read": len(given),
            "skipped": given.skipped,
            "below_threshold": len(given) - len(positive),
            "users_without_positives": given.n_users - positive.n_users,
            "duplicates": len(positive) - len(once),
            "outside_k_core": len(once) - len(kept),
        }

    def settings(self) -> dict[str, Any]:
        """As written to the manifest."""
        return asdict(self)


#: Every interaction counts.
NO_FILTERS = Filters()
