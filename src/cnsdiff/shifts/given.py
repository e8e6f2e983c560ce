"""The scenario whose splits are given as ready files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narwhals.typing import IntoFrame

from cnsdiff.data import Dataset, Interactions, read_interactions
from cnsdiff.shifts.base import Filters, register_scenario


@register_scenario
class Given:
    """Ready splits; the shift is whatever lies between them.

    Threshold and duplicates are handled alike in every split, the k-core on train alone: the
    held-out pairs it makes unknown are dropped, and counted, with the others.
    """

    name = "given"

    def __call__(
        self,
        tables: Mapping[str, Interactions],
        *,
        filters: Filters,
        dataset_name: str,
        source: Mapping[str, Any] | None = None,
    ) -> Dataset:
        """Build the dataset from ``tables``, keyed by split name."""
        cleaned = {
            split: filters.clean(given, core=split == "train") for split, given in tables.items()
        }
        return Dataset.from_splits(
            {split: kept for split, (kept, _) in cleaned.items()},
            name=dataset_name,
            scenario=self.name,
            source=source,
            settings=filters.settings(),
            counts={split: counts for split, (_, counts) in cleaned.items()},
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
    **reading
        Passed on to :func:`~cnsdiff.data.read_interactions` (``format``, ``user``, …,
        ``skip_bad``).

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
    sources = {split: source for split, source in given.items() if source is not None}
    tables = {split: read_interactions(source, **reading) for split, source in sources.items()}
    about: dict[str, Any] = {"files": {split: _short(source) for split, source in sources.items()}}
    if licence is not None:
        about["licence"] = licence
    if name is None:
        name = Path(train).resolve().parent.name if isinstance(train, str | Path) else ""
    return Given()(
        tables,
        filters=Filters(threshold, user_core, item_core),
        dataset_name=name or "unnamed",
        source=about,
    )


def _short(source: Any) -> str:
    """A file's own name: its folders would mean nothing elsewhere."""
    return Path(source).name if isinstance(source, str | Path) else "DataFrame"
