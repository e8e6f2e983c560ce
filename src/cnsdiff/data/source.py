"""What a shift scenario starts from: tables of interactions, and what is known beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from cnsdiff.data.interactions import Interactions


@dataclass(frozen=True)
class Source:
    """A data set before it is split.

    Attributes
    ----------
    tables
        Interactions by role: ``"log"`` for the one log most scenarios divide, ``"randomised"``
        for one whose items were shown at random (or all of them), or the names of ready splits.
    features
        ``"user_features"`` with a column ``user`` and ``"item_features"`` with a column ``item``,
        each id once, beside any columns that describe them; in the ids of ``tables``.
    name
        What the data set is called.
    provenance
        For the manifest's ``source``: ``files``, ``licence``, … No full paths: they say nothing
        on another machine.
    """

    tables: Mapping[str, Interactions]
    features: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    name: str = "unnamed"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Source | Interactions) -> Source:
        """A lone table of interactions is the log."""
        return given if isinstance(given, Source) else cls({"log": given})
