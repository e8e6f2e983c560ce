"""The scenario whose splits are given as ready files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from narwhals.typing import IntoFrame

from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.data.reading.times import require_one_unit
from cnsdiff.shifts.base import Scenario, register_scenario, table_of
from cnsdiff.shifts.filters import NO_FILTERS, Filters
from cnsdiff.shifts.sources import read_source


@register_scenario
class Given(Scenario):
    """Ready splits; the shift is whatever lies between them.

    The source's tables are named after the splits. Threshold and duplicates are handled alike
    in every split, the k-core on train alone: the held-out pairs it makes unknown are dropped,
    and counted, with the others. Nothing is random, so ``seed`` changes nothing.
    """

    name: ClassVar[str] = "given"

    def __call__(
        self, source: Source | Interactions, *, filters: Filters = NO_FILTERS, seed: int = 0
    ) -> Dataset:
        """Build the dataset (see :class:`Scenario`)."""
        source = Source({"train": source}) if isinstance(source, Interactions) else source
        table_of(source, "train", self.name)
        require_one_unit(source.tables)
        cleaned = {
            split: filters.clean(given, core=split == "train")
            for split, given in source.tables.items()
        }
        for kept, counts in cleaned.values():
            if filters.threshold is None and "rating" in kept.frame.columns:
                counts["ratings_ignored"] = len(kept)
        return Dataset.from_splits(
            {split: kept for split, (kept, _) in cleaned.items()},
            name=source.name,
            scenario=self.name,
            source=source.provenance,
            settings=filters.settings(),
            counts={split: counts for split, (_, counts) in cleaned.items()},
            tables=source.features,
            logs=source.tables.values(),
        )


def prepare_given(
    train: str | Path | IntoFrame,
    *,
    valid: str | Path | IntoFrame | None = None,
    test_iid: str | Path | IntoFrame | None = None,
    test_ood: str | Path | IntoFrame | None = None,
    name: str | None = None,
    threshold: float | None = None,
    user_core: int = 0,
    item_core: int = 0,
    licence: str | None = None,
    user_features: str | Path | IntoFrame | None = None,
    item_features: str | Path | IntoFrame | None = None,
    **reading: Any,
) -> Dataset:
    """A dataset from ready train, validation and test files or data frames.

    Parameters
    ----------
    train, valid, test_iid, test_ood
        Sources as :func:`~cnsdiff.data.read_interactions` takes them; all but ``train`` may be
        left out.
    name
        Of the dataset; the name of the folder train lies in by default.
    threshold, user_core, item_core
        See :class:`~cnsdiff.shifts.Filters`.
    licence
        A note on who may use the data, for the manifest.
    user_features, item_features
        What is known of users and items, as :func:`~cnsdiff.data.read_features` takes it.
    **reading
        Passed on to :func:`~cnsdiff.data.read_interactions` (``format``, ``user``, …,
        ``skip_bad``, ``time_unit``).

    Returns
    -------
    Dataset
        In memory; call its ``save``.

    Raises
    ------
    DataError
        A source cannot be read, or nothing is left of a split.
    """
    given = {"train": train, "valid": valid, "test_iid": test_iid, "test_ood": test_ood}
    if name is None:
        name = Path(train).resolve().parent.name if isinstance(train, str | Path) else ""
    source = read_source(
        {split: file for split, file in given.items() if file is not None},
        name=name or "unnamed",
        licence=licence,
        user_features=user_features,
        item_features=item_features,
        **reading,
    )
    return Given()(source, filters=Filters(threshold, user_core, item_core))
