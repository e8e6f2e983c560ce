"""The grid of a benchmark: datasets × methods × seeds, one budget and one search for all.

A YAML file; unknown keys are errors that name the nearest. ``docs/benchmark.md`` describes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.search_space import Space
from cnsdiff.base.settings import BEYOND_WHOLE, Settings, first_problem, shown
from cnsdiff.evaluation.anticipation import Anticipated
from cnsdiff.recommender.config import nested, read_config_file
from cnsdiff.shifts.preparation import cuts_of

#: Plain validation and a rehearsal, as names of selections; others are those of ``Anticipated``.
PLAIN, REHEARSAL = "valid", "rehearsal"
#: Whatever anticipates a dataset's own shift.
ANTICIPATED = "anticipated"
#: Behind the name of a selection: it picks the dial too, or in a rehearsal the environment.
DIAL = "+dial"

#: The group of the methods of this package: no rivals of one another.
OURS = "ours"

#: Of a benchmark, a dataset, a method: parts of file names, of which none is hidden.
_NAME = r"^\w[\w.-]*$"


#: Bytes of such a name; two and a digest make the name of a file.
_LONGEST = 80

#: Training settings that are the same for all, and where a grid says them.
_SAME_FOR_ALL = {
    "epochs": "budget",
    "select_on": "select_on",
    "select_metric": "select_metric",
    "dial": "select_on",
}


def is_dialled(selection: str) -> bool:
    """Whether a selection picks the dial too."""
    return selection.endswith(DIAL)


def without_dial(selection: str) -> str:
    """The validation objective of a selection."""
    return selection.removesuffix(DIAL)


#: Arguments of a function, or settings by their dotted keys, as YAML gives them.
Arguments: TypeAlias = dict[str, Any]
#: Settings of the configuration, with dotted keys or nested ones.
Overrides = Annotated[
    Arguments, BeforeValidator(lambda v: nested(v) if isinstance(v, Mapping) else v)
]


class Budget(Settings):
    """The budget of one training, the same for every method."""

    epochs: int = Field(100, ge=1, le=10**6, description="at most so many epochs")
    minutes: float | None = Field(
        None,
        gt=0,
        description="and so long on the clock; where this ends a training, its result depends on "
        "the machine, and the record says so",
    )
    cpu_minutes: float | None = Field(
        None,
        gt=0,
        description="the same in minutes of CPU, all threads together, which other work on the "
        "machine does not use up",
    )

    @model_validator(mode="after")
    def _check(self) -> Budget:
        if self.minutes is not None and self.cpu_minutes is not None:
            raise ValueError("give one of minutes and cpu_minutes, not both")
        return self


class Search(Settings):
    """The hyper-parameter search, the same for every method."""

    trials: int = Field(
        1,
        ge=1,
        le=10**6,
        description="settings tried: the method's own, then those of its tries, the rest drawn",
    )
    seed: int = Field(
        0, ge=0, lt=BEYOND_WHOLE, description="of the settings drawn, and of their trainings"
    )


class DatasetEntry(Settings):
    """Where a dataset comes from (one of the first four), and which shift it is known for."""

    path: str | None = Field(None, description="a prepared directory")
    prepare: Arguments | None = Field(
        None, description="arguments of cnsdiff.prepare: log, scenario, …"
    )
    given: Arguments | None = Field(
        None, description="arguments of cnsdiff.prepare_given: train, valid, …"
    )
    simulate: Arguments | None = Field(
        None, description="settings of ConfoundedWorld and of its dataset: shift, confounding, …"
    )
    cuts: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="of a scenario that cuts in time: cut so many times, each a dataset of its "
        "own (NAME-cut-1 …) whose results are pooled under NAME",
    )
    pool: str | None = Field(
        None, pattern=_NAME, description="pool its results with those of the same pool"
    )
    anticipate: Literal[Anticipated, "rehearsal"] | None = Field(
        None, description="the validation objective that anticipates its shift, or 'rehearsal'"
    )
    scenario: str | None = Field(None, description="its shift by name, for the tables")
    methods: tuple[str, ...] | None = Field(
        None, min_length=1, description="only these; all by default"
    )
    budget: Budget | None = Field(None, description="in place of the grid's")
    search: Search | None = Field(None, description="in place of the grid's")
    set: Overrides = Field({}, description="settings for every method on this dataset")

    @model_validator(mode="after")
    def _check(self) -> DatasetEntry:
        sources = (self.path, self.prepare, self.given, self.simulate)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("give exactly one of path, prepare, given and simulate")
        if self.methods is not None and len(set(self.methods)) < len(self.methods):
            raise ValueError("methods names one method twice")
        if self.cuts is not None and (self.prepare is None or self.pool is not None):
            raise ValueError("cuts are of a dataset with prepare, and make a pool of their own")
        return self

    def at_each_cut(self, name: str) -> dict[str, DatasetEntry]:
        """The datasets that it stands for, by name: itself, or one of each of its ``cuts``."""
        if self.cuts is None or self.prepare is None:
            return {name: self}
        try:
            recipes = cuts_of(str(self.prepare.get("scenario")), self.prepare, self.cuts)
        except ConfigError as error:
            raise ValueError(f"{name}: {error}") from error
        return {
            f"{name}-cut-{number}": self.model_copy(
                update={"prepare": dict(recipe), "cuts": None, "pool": name}
            )
            for number, recipe in enumerate(recipes, start=1)
        }


class MethodEntry(Settings):
    """A configuration of :class:`~cnsdiff.Recommender`, or a reference."""

    reference: str | None = Field(None, description="name of a reference: mostpop, ease, …")
    options: Arguments = Field({}, description="arguments of the reference")
    preset: str = Field("default", description="the configuration underneath")
    set: Overrides = Field({}, description="settings on top of it")
    search: dict[str, Space] = Field({}, description="what is searched, beside the shared")
    tries: tuple[Arguments, ...] = Field(
        (), description="settings to try before any is drawn; they count as trials"
    )
    shared: bool = Field(
        True, description="whether the grid's own set and search apply; a preset that must stay "
        "as published says false"
    )  # fmt: skip
    group: str = Field("sampler", description="in which group of the tables it stands")

    @field_validator("group")
    @classmethod
    def _current_group(cls, group: str) -> str:
        """Grids of earlier versions call the group of our own methods ``cnsdiff``."""
        return OURS if group == "cnsdiff" else group

    @model_validator(mode="after")
    def _check(self) -> MethodEntry:
        if self.reference is None and self.options:
            raise ValueError("options are the arguments of a reference; use set for settings")
        if self.reference is not None and self.set:
            raise ValueError("a reference takes options, not set")
        return self


_SelectOn = Literal[
    "valid", "anticipated", "rehearsal", "valid+dial", "anticipated+dial", "rehearsal+dial"
]


class Grid(Settings):
    """A benchmark."""

    name: str = Field(pattern=_NAME, description="what it is called")
    datasets: dict[str, DatasetEntry] = Field(min_length=1)
    methods: dict[str, MethodEntry] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1)
    set: Overrides = Field({}, description="settings shared by all methods that train")
    search_space: dict[str, Space] = Field({}, description="searched in all methods that train")
    budget: Budget = Budget()
    search: Search = Search()
    select_on: tuple[_SelectOn, ...] = Field(
        ("valid", "anticipated"),
        min_length=1,
        description="what picks setting and epoch: plain validation; the dataset's anticipated "
        "shift; a rehearsal, after which everything trains, on datasets with times; with +dial "
        "the dial too, or the environment; each gives its own table",
    )
    select_metric: str = Field("ndcg@20", pattern=r"^(recall|ndcg)@\d+$")
    ks: tuple[PositiveInt, ...] = Field((10, 20), min_length=1)
    keep_weights: bool = Field(
        False, description="whether the model of each final is kept, as a run directory"
    )

    @field_validator("datasets")
    @classmethod
    def _every_cut(cls, datasets: dict[str, DatasetEntry]) -> dict[str, DatasetEntry]:
        every: dict[str, DatasetEntry] = {}
        for name, entry in datasets.items():
            own = entry.at_each_cut(name)
            if twice := sorted({*own} & {*every, *(datasets.keys() - {name})}):
                raise ValueError(
                    f"{twice[0]!r} is a dataset already, and one of the cuts of {name}"
                )
            every |= own
        return every

    @model_validator(mode="after")
    def _check(self) -> Grid:
        names = [("name", self.name)]
        for kind, entries in (("dataset", self.datasets), ("method", self.methods)):
            for name in entries:
                names.append((f"{kind} {name[:_LONGEST]!r}…", name))
                if not re.fullmatch(_NAME, name):
                    raise ValueError(
                        f"{kind} {name!r}: use letters, digits, '_', and after these '.' and '-'"
                    )
        for place, name in names:
            if len(name.encode()) > _LONGEST:
                raise ValueError(f"{place}: is longer than {_LONGEST} bytes; shorten it")
        for pool, members in self.pools.items():
            if pool in self.datasets:
                raise ValueError(f"pool {pool!r} is called like a dataset; choose another name")
            first, *rest = (self.datasets[member] for member in members)
            if any((e.anticipate, e.methods) != (first.anticipate, first.methods) for e in rest):
                raise ValueError(
                    f"the datasets of pool {pool!r} differ in anticipate or methods, and only what "
                    "was run alike can be pooled"
                )
        for name, entry in self.datasets.items():
            for method in entry.methods or ():
                if method not in self.methods:
                    raise ValueError(
                        f"dataset {name!r} names the method {method!r}, which is not defined"
                        f"{did_you_mean(method, self.methods)}"
                    )
        if int(self.select_metric.partition("@")[2]) not in self.ks:
            raise ValueError(f"select_metric {self.select_metric!r} needs its cut-off in ks")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds names one seed twice")
        if len(set(self.select_on)) < len(self.select_on):
            raise ValueError("select_on names one objective twice")
        self._require_equal_terms()
        return self

    def _require_equal_terms(self) -> None:
        """No method, dataset or search changes what has to be the same for all."""
        everywhere: dict[str, Arguments] = {"set": self.set}
        everywhere |= {f"datasets.{name}.set": entry.set for name, entry in self.datasets.items()}
        somewhere: dict[str, Arguments] = {"search_space": nested(self.search_space)}
        for name, entry in self.methods.items():
            somewhere[f"methods.{name}.set"] = entry.set
            somewhere[f"methods.{name}.search"] = nested(entry.search)
            for number, setting in enumerate(entry.tries):
                somewhere[f"methods.{name}.tries[{number}]"] = nested(setting)
        for place, settings in (everywhere | somewhere).items():
            training = settings.get("training")
            for key in training if isinstance(training, dict) else ():
                home = _SAME_FOR_ALL.get(key)
                if key.startswith("select_") and place in somewhere:
                    home = home or "the grid's set or a dataset's"
                if home is not None:
                    raise ValueError(
                        f"{place}: training.{key} is the same for all methods; say it in {home}"
                    )

    @property
    def pools(self) -> dict[str, list[str]]:
        """The datasets of each pool."""
        pools: dict[str, list[str]] = {}
        for name, entry in self.datasets.items():
            if entry.pool is not None:
                pools.setdefault(entry.pool, []).append(name)
        return pools

    def methods_on(self, dataset: str) -> tuple[str, ...]:
        """The methods that run on a dataset."""
        return self.datasets[dataset].methods or tuple(self.methods)

    def selections(self, dataset: str) -> tuple[str, ...]:
        """Validation objectives that pick, with or without the dial, each giving its own result.

        Where a dataset anticipates no shift, what would pick by it is left out; if that leaves
        nothing, plain validation picks in its place.
        """
        anticipated = self.datasets[dataset].anticipate
        usable = [on for on in self.select_on if anticipated or without_dial(on) != ANTICIPATED]
        own = anticipated if usable and anticipated else PLAIN
        names = [on.replace(ANTICIPATED, own) for on in usable or self.select_on]
        return tuple(dict.fromkeys(names))


def selected(selection: str) -> str:
    """``"anticipated+dial"`` -> ``"selected for the anticipated shift, with the dial"``."""
    objective = selection.removesuffix(DIAL)
    words = {PLAIN: "on validation", ANTICIPATED: "for the anticipated shift"}
    dial = ", with the dial" if selection.endswith(DIAL) else ""
    return f"selected {words.get(objective, f'on {objective}')}{dial}"


def digest(value: Any) -> str:
    """A short hex digest of a JSON value."""
    # YAML knows dates, JSON does not.
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dump_grid(grid: Grid) -> str:
    """The grid as YAML, with every default written out."""
    tree = grid.model_dump(mode="json")
    if not grid.keep_weights:  # so that stores from before it was there hold the same grid
        del tree["keep_weights"]
    text: str = yaml.safe_dump(tree, sort_keys=False)
    return text


def read_grid(path: Path) -> Grid:
    """The grid in a YAML file.

    ``$NAME`` in the sources of datasets is taken from the environment, and their paths are
    relative to the file's folder.

    Raises
    ------
    ConfigError
        The file cannot be read or a key or value is wrong; one sentence with the place.
    """
    tree = read_config_file(path)
    try:
        grid = Grid.model_validate(tree)
    except ValidationError as error:
        problem = first_problem(error)
        place = ".".join(map(str, problem.keys))
        if problem.unknown:
            known = _known(problem.keys)
            hint = did_you_mean(str(problem.keys[-1]), known)
            hint = hint or f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{path}: unknown key {shown(place)}{hint}") from error
        whole = isinstance(problem.given, (dict, Settings))
        got = "" if whole else f" (got {shown(problem.given)})"
        where = f"{place}: " if place else ""
        raise ConfigError(f"{path}: {where}{problem.message}{got}") from error
    datasets = {}
    for name, entry in grid.datasets.items():
        sources = {
            source: arguments and _located(arguments, path, f"datasets.{name}")
            for source in ("prepare", "given")
            for arguments in [getattr(entry, source)]
        }
        if entry.path is not None:
            sources["path"] = _file(entry.path, path, f"datasets.{name}")
        datasets[name] = entry.model_copy(update=sources)
    return grid.model_copy(update={"datasets": datasets})


def _known(keys: tuple[int | str, ...]) -> list[str]:
    """The keys there are where the last of ``keys`` stands."""
    model: type[Settings] = Grid
    outer = iter(keys[:-1])
    for key in outer:
        annotation = model.model_fields[str(key)].annotation
        kinds = [annotation, *get_args(annotation)]
        model = next(k for k in kinds if isinstance(k, type) and issubclass(k, Settings))
        if get_origin(annotation) is dict:
            next(outer, None)  # the name of a dataset, method or setting
    return list(model.model_fields)


#: Arguments that name a file, in the sources of datasets.
_FILES = {
    "log", "randomised", "user_features", "item_features",
    "train", "valid", "test_iid", "test_ood",
}  # fmt: skip


def _located(arguments: Arguments, grid: Path, place: str) -> Arguments:
    """Arguments with variables and relative paths resolved in those that name a file."""
    located: dict[str, object] = {}
    for key in _FILES & arguments.keys():
        given = arguments[key]
        if isinstance(given, str):
            located[key] = _file(given, grid, place, named=key == "log")
        elif isinstance(given, Mapping):  # features by name
            located[key] = {name: _file(str(file), grid, place) for name, file in given.items()}
    return arguments | located


def _file(text: str, grid: Path, place: str, *, named: bool = False) -> str:
    expanded = os.path.expandvars(text)
    missing = re.search(r"\$\{?(\w+)", expanded)
    if missing:
        raise ConfigError(
            f"{grid}: {place}: the variable {missing.group(1)} is not set; export "
            f"{missing.group(1)}=FOLDER, or write the path into the grid"
        )
    here = grid.parent / expanded
    # A log that is no file may be the name of a data set fetched before.
    is_name = named and "/" not in expanded and not here.exists()
    return expanded if is_name else str(here)
