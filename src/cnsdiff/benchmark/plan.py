"""From a grid to its tasks: its datasets, which trials, and after them which finals.

A *unit* is a method on a dataset. All its trials come first; then each validation objective picks
the setting that was best by it, and the finals fit that setting with every seed. Objectives that
picked the same setting share their finals.

The settings of trial ``t`` are a function of the search's seed, ``t`` and the names searched, and
of nothing else: any number of trials can run at once, a search that was killed goes on where it
was, and all methods of a grid are tried at the *same* values of the settings they share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.search_space import Space
from cnsdiff.base.seeding import derive_seed
from cnsdiff.base.text import install_command
from cnsdiff.benchmark.grid import (
    REHEARSAL,
    Arguments,
    Budget,
    DatasetEntry,
    Grid,
    MethodEntry,
    Search,
    digest,
    without_dial,
)
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import Method, Task
from cnsdiff.data import Dataset, load_dataset
from cnsdiff.recommender.config import merge, nested, resolve_config
from cnsdiff.references import REFERENCES
from cnsdiff.shifts import prepare, prepare_given
from cnsdiff.simulate import ConfoundedWorld
from cnsdiff.simulate.settings import ShiftSettings


@dataclass(frozen=True)
class Unit:
    """A method on a dataset.

    Attributes
    ----------
    trials
        One task per setting of the search, no setting twice.
    seeds
        Of the finals.
    selections
        Validation objectives, each of which picks a setting and an epoch.
    """

    trials: tuple[Task, ...]
    seeds: tuple[int, ...]
    selections: tuple[str, ...]

    @property
    def searches(self) -> bool:
        """Whether there is a choice of settings, and so trials have to be run."""
        return len(self.trials) > 1

    @property
    def most_finals(self) -> int:
        """As many finals as there can be."""
        return len(self.seeds) * (len(self.selections) if self.searches else 1)

    def picked(self, store: Store) -> dict[str, Task] | None:
        """The trial that each objective picked, or ``None`` while trials are missing.

        An objective that no trial could be measured by is left out.
        """
        if not self.searches:
            return dict.fromkeys(self.selections, self.trials[0])
        if any(store.status(task) is None for task in self.trials):
            return None
        by_key = {task.key: task for task in self.trials}
        values = store.records(self.trials).filter(
            pl.col("metric").str.ends_with("(selected)") & pl.col("value").is_finite()
        )
        # Of equal values the first trial, which is the method as it stands, wins.
        best = values.sort("value", "trial", descending=[True, False], maintain_order=True)
        best = best.unique("selection", keep="first", maintain_order=True)
        picked = {row["selection"]: by_key[row["key"]] for row in best.iter_rows(named=True)}
        return {name: picked[name] for name in self.selections if name in picked}

    def finals(self, store: Store) -> list[Task] | None:
        """The finals to fit and test, or ``None`` while trials are missing."""
        picked = self.picked(store)
        if picked is None:
            return None
        chosen: dict[int, list[str]] = {}
        for selection, trial in picked.items():
            chosen.setdefault(trial.trial, []).append(selection)
        return [
            replace(trial, kind="final", seed=seed, selections=tuple(chosen[trial.trial]))
            for trial in self.trials
            if trial.trial in chosen
            for seed in self.seeds
        ]


def plan(
    grid: Grid, datasets: Mapping[str, Path], *, threads: int | None = None
) -> tuple[Unit, ...]:
    """The units of a grid, every configuration checked.

    Parameters
    ----------
    datasets
        Directory of each dataset of the grid.
    threads
        CPU threads of each task.

    Raises
    ------
    ConfigError
        A method's configuration is wrong, or a dataset has no valid split.
    """
    return tuple(
        _unit(grid, name, dataset, method, selections, threads)
        for name, path in datasets.items()
        for dataset in [load_dataset(path)]
        for method in grid.methods_on(name)
        for selections in _trained_together(grid, name, dataset)
    )


def _trained_together(grid: Grid, name: str, dataset: Dataset) -> list[tuple[str, ...]]:
    """The selections that read the same trainings: a rehearsal has trainings of its own."""
    selections = grid.selections(name)
    rehearsed = tuple(on for on in selections if without_dial(on) == REHEARSAL)
    others = tuple(on for on in selections if on not in rehearsed)
    if rehearsed and dataset.split("train").timestamps is None:
        if grid.datasets[name].anticipate == REHEARSAL or not others:
            raise ConfigError(
                f"datasets.{name}: has no timestamps, so no shift in time can be rehearsed; "
                "anticipate another shift, or prepare it from a log with times"
            )
        rehearsed = ()
    return [group for group in (others, rehearsed) if group]


def _unit(
    grid: Grid,
    name: str,
    dataset: Dataset,
    method_name: str,
    selections: tuple[str, ...],
    threads: int | None,
) -> Unit:
    if "valid" not in dataset.split_names:
        raise ConfigError(
            f"datasets.{name}: has no valid split, by which settings and epochs are picked; "
            "prepare it with one"
        )
    entry, place = grid.methods[method_name], grid.datasets[name]
    budget, search = place.budget or grid.budget, place.search or grid.search
    shared = entry.shared and entry.reference is None
    space = {**(grid.search_space if shared else {}), **entry.search}
    method, settings = _method(method_name, entry, grid, place.set, budget)
    task = Task(
        kind="trial",
        dataset=name,
        path=str(dataset.path),
        fingerprint=dataset.fingerprint,
        method=method,
        setting={},
        trial=0,
        seed=search.seed,
        selections=selections,
        metric=grid.select_metric,
        ks=grid.ks,
        settings=settings,
        seconds=None if budget.minutes is None else 60 * budget.minutes,
        cpu_seconds=None if budget.cpu_minutes is None else 60 * budget.cpu_minutes,
        threads=threads,
    )
    trials = tuple(_trials(task, entry.tries, space, search))
    for trial in trials:
        # Refuse now what would fail in every task.
        if trial.method.reference is None:
            trial.method.config(0)
        else:
            trial.method.build_reference(0)
    seeds = grid.seeds if method.seeded else grid.seeds[:1]
    return Unit(trials, seeds, task.selections)


def _method(
    name: str, entry: MethodEntry, grid: Grid, on_dataset: Arguments, budget: Budget
) -> tuple[Method, Arguments]:
    """A method before any search, and the settings of the objectives on this dataset."""
    own = ((f"methods.{name}.set", entry.set),) if entry.reference is None else ()
    for place, settings in (("set", grid.set), ("the dataset's set", on_dataset), *own):
        if not isinstance(settings.get("training", {}), Mapping):
            raise ConfigError(
                f"{place}: training must be a section with keys, not {settings['training']!r}"
            )
    selecting = {
        key: value
        for key, value in merge(grid.set, on_dataset).get("training", {}).items()
        if key.startswith("select_")
    }
    resolve_config({"training": selecting}, source="set")  # of references nothing else asks
    if entry.reference is not None:
        if entry.reference not in REFERENCES:
            raise ConfigError(
                f"methods.{name}: no reference is called {entry.reference!r}"
                f"{did_you_mean(entry.reference, REFERENCES)}; available: {', '.join(REFERENCES)}"
            )
        return Method(name, entry.reference, entry.options), selecting
    shared = merge(grid.set, on_dataset) if entry.shared else {}
    options = merge(merge(shared, entry.set), {"training": {**selecting, "epochs": budget.epochs}})
    return Method(name, None, options, entry.preset), selecting


def _trials(
    task: Task,
    tries: Sequence[Arguments],
    space: Mapping[str, Space],
    search: Search,
) -> list[Task]:
    try:
        nested(space)
    except ValueError as error:
        raise ConfigError(f"methods.{task.method.name}: in what is searched, {error}") from error
    settings: list[Arguments] = [{}, *tries][: search.trials]
    if space:
        drawn = range(len(settings), search.trials)
        settings += [settings_of(number, space, search.seed) for number in drawn]
    trials = [
        replace(task, trial=number, setting=setting, method=task.method.with_setting(setting))
        for number, setting in enumerate(settings)
    ]
    distinct: dict[str, Task] = {}
    for trial in trials:  # where there are few choices, some are drawn again
        distinct.setdefault(trial.key, trial)
    return list(distinct.values())


def materialise(name: str, entry: DatasetEntry, folder: Path) -> Path:
    """The directory of a grid's dataset, made in ``folder`` unless it is there already.

    Raises
    ------
    InputError
        The source cannot be read or prepared as asked.
    """
    place = place_of(name, entry, folder)
    if entry.path is not None:
        load_dataset(place)  # better now than in a worker
    elif not place.exists():
        _make(name, entry).save(place)
    return place


def place_of(name: str, entry: DatasetEntry, folder: Path) -> Path:
    """Where a grid's dataset is, or will be."""
    if entry.path is not None:
        return Path(entry.path)
    recipe = {"prepare": entry.prepare, "given": entry.given, "simulate": entry.simulate}
    # Another recipe is another directory: what was made by the old one is never taken for it.
    return folder / f"{name}-{digest(recipe)[:8]}"


def _make(name: str, entry: DatasetEntry) -> Dataset:
    try:
        if entry.prepare is not None:
            return prepare(**{"name": name, **entry.prepare})
        if entry.given is not None:
            return prepare_given(**{"name": name, **entry.given})
    except TypeError as error:
        # An argument that the function does not have, or lacks.
        raise ConfigError(f"datasets.{name}: {error}; see docs/benchmark.md") from error
    settings = entry.simulate or {}
    shift = {key: value for key, value in settings.items() if key in ShiftSettings.model_fields}
    world = {key: value for key, value in settings.items() if key not in shift}
    try:
        return ConfoundedWorld(**world).dataset(**shift)
    except ConfigError as error:
        raise ConfigError(f"datasets.{name}: {error}") from error


def settings_of(trial: int, space: Mapping[str, Space], seed: int) -> Arguments:
    """The setting of a trial: nothing for trial 0, else a draw from ``space``.

    Raises
    ------
    ConfigError
        Optuna is not installed.
    """
    if trial == 0 or not space:
        return {}
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "a search of more than one trial needs Optuna; install it with: "
            f"{install_command('bench')}"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    values = {}
    for name in sorted(space):
        # A stream per name: what one method searches beside does not move the others' values.
        stream = derive_seed(seed, f"search/{name}", trial) % 2**32
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=stream))
        value = study.ask({name: space[name].distribution()}).params[name]
        values[name] = space[name].short(value)
    return values
