"""Environments of training interactions: as labelled, or inferred."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.text import parameter
from cnsdiff.data.positives import Positives

EnvironmentKind = Literal["none", "popularity", "time", "given", "learned"]


def environment_labels(positives: Positives, kind: EnvironmentKind, n: int) -> Tensor | None:
    """The environment ``0 … n-1`` of every training interaction, ``(len(positives),)``.

    ``popularity`` ranks interactions by the popularity of their item, ``time`` by when they
    happened; either ranking is cut into ``n`` strata of about equal mass, and equal values
    never fall into different strata. ``given`` takes the dataset's own labels, whatever ``n``.
    ``none`` and ``learned`` have no labels: ``None``.
    """
    if kind == "given":
        if positives.periods is None:
            raise ConfigError(
                "sampler.environment: 'given' needs labels of periods, which this dataset's "
                f"training split lacks; prepare it with {parameter('period', ...)} or choose "
                "'popularity'"
            )
        return positives.periods
    if kind == "popularity":
        value = positives.item_counts[positives.pairs[:, 1]].double()
    elif kind == "time":
        if positives.timestamps is None:
            raise ConfigError(
                "sampler.environment: 'time' needs timestamps, which this dataset's training "
                "split lacks; prepare it with a timestamp column or choose 'popularity'"
            )
        value = positives.timestamps
    else:
        return None
    return strata(value, n)


def strata(value: Tensor, n: int) -> Tensor:
    """The stratum, of ``n`` of about equal mass, of each ``value (m,)``, from 0 up.

    Equal values never fall into different strata, so some may be empty.
    """
    ordered = value.sort().values
    # Mid-rank of each value among all, in (0, 1): ties share one.
    below = torch.searchsorted(ordered, value)
    up_to = torch.searchsorted(ordered, value, right=True)
    rank = (below + up_to) / (2 * len(value))
    return (rank * n).long().clamp_(max=n - 1)
