"""A dataset in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from narwhals.typing import IntoFrame

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.data import Dataset, Interactions, Source, read_interactions
from cnsdiff.shifts.base import SCENARIOS, Scenario
from cnsdiff.shifts.filters import Filters
from cnsdiff.shifts.sources import find_source

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
    randomised: str | Path | IntoFrame | None = None,
    user_features: str | Path | IntoFrame | None = None,
    item_features: str | Path | IntoFrame | None = None,
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
    threshold, user_core, item_core
        See :class:`~cnsdiff.shifts.Filters`. Without a threshold the usual one of a fetched data
        set is taken, where it has one.
    randomised
        Interactions whose items were shown at random or in full, for ``"exposure"``.
    user_features, item_features
        As :func:`~cnsdiff.data.read_features` takes them; they become side tables.
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
    return chosen(source, filters=Filters(threshold, user_core, item_core), seed=seed)


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
