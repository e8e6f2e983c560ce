"""A dataset in one call: from a log and a scenario, or from ready splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from narwhals.typing import IntoFrame

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.data import Dataset, Interactions, Source, read_interactions
from cnsdiff.data.reading.tables import Features
from cnsdiff.data.reading.times import require_one_unit
from cnsdiff.data.target import with_target
from cnsdiff.shifts.base import (
    NO_FILTERS,
    SCENARIOS,
    Filters,
    Scenario,
    register_scenario,
    table_of,
)
from cnsdiff.shifts.hybrid import Hybrid
from cnsdiff.shifts.sources import find_source, read_source
from cnsdiff.shifts.temporal import Temporal

_READING = [name for name in signature(read_interactions).parameters if name != "source"]


def prepare(
    log: str | Path | IntoFrame | Interactions | Source,
    scenario: str | Scenario,
    *,
    name: str | None = None,
    seed: int = 0,
    threshold: float | None = None,
    user_core: int = 0,
    item_core: int = 0,
    max_per_user: int | None = None,
    randomised: str | Path | IntoFrame | None = None,
    user_features: Features | None = None,
    item_features: Features | None = None,
    target_counts: str | Path | IntoFrame | None = None,
    target_sample: str | Path | IntoFrame | Interactions | None = None,
    licence: str | None = None,
    **settings: Any,
) -> Dataset:
    """Turn a log into a distribution-shift experiment.

    Parameters
    ----------
    log
        A file or data frame as :func:`~cnsdiff.data.read_interactions` takes it, the name of a
        data set fetched before (``"ml-100k"``), or something read already.
    scenario
        Its name, or a scenario with its settings: ``"popularity"``, ``Popularity(strength=2)``.
    name
        Of the dataset; by default that of the log and the scenario, ``"shop-popularity"``.
    seed
        The one seed of all that is chosen at random.
    threshold, user_core, item_core, max_per_user
        See :class:`~cnsdiff.shifts.Filters`. Without a threshold the usual one of a fetched data
        set is taken, where it has one.
    randomised
        Interactions whose items were shown at random or in full, for ``"exposure"``.
    user_features, item_features
        As :func:`~cnsdiff.data.read_features` takes them, a table or several by name; they become
        side tables.
    target_counts, target_sample
        What is known of the environment that a model is for: how often each item is asked for, and
        pairs of some users, who are then taken out of the tests (:mod:`cnsdiff.data.target`).
    licence
        A note on who may use the data, for the manifest.
    **settings
        Of a scenario given by name (``strength=2``), and options of
        :func:`~cnsdiff.data.read_interactions` (``user="who"``, ``skip_bad=True``).

    Returns
    -------
    Dataset
        In memory; call its ``save``.

    Raises
    ------
    InputError
        The log cannot be read or not be divided in this way, or a setting is wrong.

    See Also
    --------
    prepare_given : where the splits are files already.
    """
    reading = {key: settings.pop(key) for key in _READING if key in settings}
    chosen = make_scenario(scenario, settings)
    if isinstance(log, Source):
        source = log if name is None else replace(log, name=name)
        beside = {"randomised": randomised, "user_features": user_features}
        beside |= {"item_features": item_features, "licence": licence, **reading}
        extra = [key for key, value in beside.items() if value is not None]
        if extra:
            raise ConfigError(f"a Source holds all that is read, so {extra[0]!r} belongs into it")
    else:
        source = find_source(
            log,
            randomised=randomised,
            licence=licence,
            user_features=user_features,
            item_features=item_features,
            **reading,
        )
    if threshold is None:
        threshold = source.provenance.get("threshold")
    source = replace(source, name=name or f"{source.name}-{chosen.name}")
    filters = Filters(threshold, user_core, item_core, max_per_user)
    dataset = chosen(source, filters=filters, seed=seed)
    return _with_target(dataset, target_counts, target_sample, threshold, reading)


def _with_target(
    dataset: Dataset,
    counts: str | Path | IntoFrame | None,
    sample: str | Path | IntoFrame | Interactions | None,
    threshold: float | None,
    reading: Mapping[str, Any],
) -> Dataset:
    """The dataset with what is known of its target, the sample read as the log was."""
    pairs = None
    if sample is not None:
        pairs = sample if isinstance(sample, Interactions) else read_interactions(sample, **reading)
        if "rating" in pairs.frame.columns:
            pairs = pairs.positives(threshold)
    literal = bool(reading.get("literal_ids", False))
    return with_target(dataset, counts=counts, sample=pairs, literal_ids=literal)


def make_scenario(scenario: str | Scenario, settings: Mapping[str, Any]) -> Scenario:
    """The scenario of that name with these settings; one with settings of its own as it is."""
    if isinstance(scenario, Scenario):
        if settings:
            key = next(iter(settings))
            raise ConfigError(
                f"{key!r} is given beside a {type(scenario).__name__} that has its settings "
                f"already{did_you_mean(key, _READING)}; give it to {type(scenario).__name__}"
            )
        return scenario
    return SCENARIOS.find(scenario)(**settings)


def settings_in_time(scenario: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the settings of a scenario by name those that cut in time, with the ``name`` they are of.

    They are its own, or those of the first part of ``"hybrid"``.
    """
    if scenario != Hybrid.name:
        return {"name": scenario, **settings}
    first = settings.get("first", {})
    return {"name": Temporal.name, **({"name": first} if isinstance(first, str) else first)}


def in_time(scenario: str, settings: Mapping[str, Any], **changes: Any) -> Mapping[str, Any]:
    """Settings of a scenario by name with changes to those that cut in time."""
    if scenario != Hybrid.name:
        return {**settings, **changes}
    return {**settings, "first": {**settings_in_time(scenario, settings), **changes}}


def cuts_of(scenario: str, settings: Mapping[str, Any], cuts: int) -> list[Mapping[str, Any]]:
    """Settings of a scenario at several cuts in time, the earliest first, the last its own.

    Their OOD tests follow one another and share no row (see :class:`Temporal`).
    :class:`ConfigError` if the scenario has no cut in time, or is cut back already.
    """
    own = settings_in_time(scenario, settings)
    if own["name"] != Temporal.name:
        raise ConfigError(
            "several cuts are of a scenario that cuts in time, temporal or hybrid, not "
            f"{own['name']}"
        )
    if "back" in own:
        raise ConfigError("several cuts are told apart by their 'back', so do not set it beside")
    return [in_time(scenario, settings, back=back) for back in reversed(range(cuts))]


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
    max_per_user: int | None = None,
    licence: str | None = None,
    user_features: Features | None = None,
    item_features: Features | None = None,
    target_counts: str | Path | IntoFrame | None = None,
    target_sample: str | Path | IntoFrame | Interactions | None = None,
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
    threshold, user_core, item_core, max_per_user
        See :class:`~cnsdiff.shifts.Filters`.
    licence
        A note on who may use the data, for the manifest.
    user_features, item_features
        What is known of users and items, as :func:`~cnsdiff.data.read_features` takes it.
    target_counts, target_sample
        As in :func:`prepare`.
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
    filters = Filters(threshold, user_core, item_core, max_per_user)
    dataset = Given()(source, filters=filters)
    return _with_target(dataset, target_counts, target_sample, threshold, reading)
