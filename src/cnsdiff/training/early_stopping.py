"""Keeping the best epoch and knowing when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: The four metrics that must improve together in the published code (METHOD §4, no. 6).
PUBLISHED_METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")


@dataclass
class EarlyStopping:
    """The best validation so far, and how long ago it was.

    Parameters
    ----------
    metrics
        What is compared: one metric must rise; of several, none may fall (the published rule).
    patience
        Validations without improvement to wait for; ``None`` never stops.
    """

    metrics: Sequence[str]
    patience: int | None
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0

    def update(self, epoch: int, values: Mapping[str, float]) -> bool:
        """Take in a validation; true if it is the best so far."""
        new = {name: values[name] for name in self.metrics}
        if not self.best:
            improved = True
        elif len(self.metrics) == 1:
            improved = all(new[name] > self.best[name] for name in self.metrics)
        else:
            improved = all(new[name] >= self.best[name] for name in self.metrics)
        if improved:
            self.best_epoch, self.best, self.stale = epoch, new, 0
        else:
            self.stale += 1
        return improved

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.stale >= self.patience
