"""The log: read, its threshold chosen, thinned to what the budget is enough for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.base.seeding import numpy_generator
from cnsdiff.base.storage import sha256
from cnsdiff.base.text import parameter
from cnsdiff.data import Dataset, Interactions, Source
from cnsdiff.data.interactions import Problem
from cnsdiff.diagnostics import describe_log
from cnsdiff.display.wording import percent
from cnsdiff.shifts import Filters
from cnsdiff.shifts.sources import find_source

#: Labels of a period in which items were shown at random.
RANDOM_LABELS = ("random", "randomised", "randomized", "uniform")


@dataclass(frozen=True)
class Reading:
    """Options for reading a log.

    Attributes
    ----------
    log
        A file, or the name of a data set fetched before.
    columns
        Column of each role where it is not to be guessed: ``user``, ``item``, ``rating``,
        ``timestamp``, ``period``, ``event``.
    events
        Weights by type of event, or ``None``: all rows, alike.
    format, header, delimiter, skip_bad, time_unit, literal_ids
        As :func:`~cnsdiff.data.read_interactions` takes them.
    randomised, user_features, item_features
        Files beside the log; features of items may be several by name.
    threshold, user_core, item_core, max_per_user
        See :class:`~cnsdiff.shifts.Filters`; without a threshold one is chosen.
    """

    log: str
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = "auto"
    header: bool | None = None
    delimiter: str | None = None
    skip_bad: bool = False
    time_unit: str = "auto"
    literal_ids: bool = False
    randomised: Path | None = None
    user_features: Path | None = None
    item_features: Path | Mapping[str, Path] | None = None
    threshold: float | None = None
    user_core: int = 0
    item_core: int = 0
    max_per_user: int | None = None
    events: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Log:
    """A log as the audit uses it.

    Attributes
    ----------
    source
        Its table ``"log"``, and what is beside it.
    checksum
        SHA-256 of all files read, as one.
    threshold
        Least rating of a positive, or ``None`` if every interaction counts.
    notes
        What was chosen and how to change it, a sentence each.
    n_drawn
        Users that were drawn, where the log was too large for the budget.
    whole
        The table before that; ``None`` where it is the same.
    """

    source: Source
    checksum: str
    threshold: float | None
    notes: tuple[str, ...]
    n_drawn: int | None = None
    whole: Interactions | None = field(default=None, repr=False)

    @property
    def interactions(self) -> Interactions:
        """The table."""
        return self.source.tables["log"]

    @property
    def columns(self) -> dict[str, str]:
        """The file's name for each column used."""
        frame, named = self.interactions.frame, self.interactions.columns
        return {role: named.get(role, role) for role in frame.columns}


def read_log(reading: Reading) -> Log:
    """Read the log, choose the threshold, and find what was shown at random.

    Raises
    ------
    InputError
        A file cannot be read.
    """
    source = find_source(
        reading.log,
        randomised=reading.randomised,
        user_features=reading.user_features,
        item_features=reading.item_features,
        format=reading.format,
        header=reading.header,
        delimiter=reading.delimiter,
        skip_bad=reading.skip_bad,
        time_unit=reading.time_unit,
        literal_ids=reading.literal_ids,
        events=reading.events,
        **dict(reading.columns),
    )
    table = source.tables["log"]
    usual = source.provenance.get("threshold")
    threshold, why = choose_threshold(table, reading.threshold, usual)
    notes = [why] if why else []
    if table.skipped:
        # What stands in the lines is data, and notes are marked up in a report.
        why = ", ".join(
            f"{problem.rows:,} with {problem.reason} (first in {problem.place.partition(',')[0]})"
            for problem in table.problems
        )
        missing = sum(problem.rows for problem in table.problems if problem.missing)
        counted = {"malformed": table.skipped - missing, "without an id": missing}
        skipped = " and ".join(f"{n:,} rows {what}" for what, n in counted.items() if n)
        skipped += " were left out"
        notes.append(f"{skipped} ({parameter('skip_bad', True)}): {why}.")
    notes += describe_log(table).remarks(reading.max_per_user)
    if "randomised" not in source.tables:
        source, more = _randomised_rows(source)
        notes += more
    return Log(source, _checksum(reading, source), threshold, tuple(notes))


def filters_of(log: Log, reading: Reading) -> Filters:
    """Those that the log goes through before it is divided or trained on."""
    return Filters(log.threshold, reading.user_core, reading.item_core, reading.max_per_user)


def undivided(log: Log, reading: Reading) -> Dataset:
    """The whole log as training data, for a model that is for use: nothing is held out.

    Raises
    ------
    DataError
        Nothing is left of it.
    """
    filters = filters_of(log, reading)
    pairs, counts = filters.clean(log.interactions, core=True)
    return Dataset.from_splits(
        {"train": pairs},
        name=log.source.name,
        scenario="given",
        source=log.source.provenance,
        settings=filters.settings(),
        counts={"train": counts},
        log={"funnel": [step.to_dict() for step in pairs.funnel]},
        tables=log.source.features,
        logs=log.source.tables.values(),
    )


def choose_threshold(
    table: Interactions, wanted: float | None, usual: float | None = None
) -> tuple[float | None, str]:
    """The least rating of a positive, and a sentence that says why; none without ratings.

    What is wanted stands; else comes what is usual for a known data set, else what its scale has.
    """
    if "rating" not in table.frame.columns:
        return wanted, "" if wanted is None else f"Ratings of {wanted:g} and more are positive."
    ratings = table.frame["rating"].to_numpy()
    column = table.columns.get("rating", "rating")

    def share(threshold: float) -> str:
        return f"{percent(float((ratings >= threshold).mean()))} of {len(ratings):,} rows"

    change = f"{parameter('threshold')} changes that"
    if wanted is not None:
        return wanted, f"Ratings of {wanted:g} and more are positive, as asked: {share(wanted)}."
    if usual is not None:
        return usual, (
            f"Ratings of {usual:g} and more are positive, as usual for this data set: "
            f"{share(usual)}; {change}."
        )
    values = np.unique(ratings)
    low, high = float(values[0]), float(values[-1])
    if len(values) == 1:
        return None, f"All values of {column!r} are {low:g}, so every row is positive."
    chosen = _of_scale(values)
    if chosen is None:
        return None, (
            f"The values of {column!r} go from {low:g} to {high:g} and look like no scale of "
            f"ratings, so every row is positive whatever its value; {parameter('threshold')} X "
            "makes those of X and more positive."
        )
    return chosen, (
        f"The values of {column!r} look like ratings from {low:g} to {high:g}, so those of "
        f"{chosen:g} and more are positive: {share(chosen)}; {change}, and "
        f"{parameter('rating', 'none')} makes every row positive."
    )


def _of_scale(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    """The usual threshold of a scale with these values, or ``None`` if it is no known scale."""
    low, high = float(values[0]), float(values[-1])
    # Stars come whole or in halves.
    if not np.array_equal(values * 2, np.round(values * 2)):
        return None
    if set(values.tolist()) == {0.0, 1.0}:
        return 1.0
    if set(values.tolist()) <= {-1.0, 0.0, 1.0}:
        return 1.0
    if low >= 0 and 3 <= high <= 5:
        return 4.0 if high > 4 else 3.0
    if low >= 0 and 5 < high <= 10 and len(values) >= 5:
        return 7.0
    return None


def _randomised_rows(source: Source) -> tuple[Source, list[str]]:
    """The rows whose period says that they were shown at random, as a table of their own."""
    table = source.tables["log"]
    if "period" not in table.frame.columns:
        return source, []
    label = pl.col("period").cast(pl.String).str.to_lowercase()
    at_random = table.frame.select(label.is_in(RANDOM_LABELS)).to_series()
    n = int(at_random.sum())
    if not 0 < n < table.frame.height:
        return source, []
    tables = {
        "log": table.narrowed("log", table.frame.filter(~at_random), Problem("shown at random", n)),
        "randomised": replace(
            table, frame=table.frame.filter(at_random), skipped=0, problems=(), funnel=()
        ),
    }
    column = table.columns.get("period", "period")
    note = f"{n:,} rows were shown at random, says {column!r}; they are the test of exposure."
    return replace(source, tables={**source.tables, **tables}), [note]


def _checksum(reading: Reading, source: Source) -> str:
    """Of the files' bytes, or of what the catalogue says of a fetched data set."""
    beside = (reading.randomised, reading.user_features, reading.item_features)
    parts: list[Any] = [
        {name: sha256(own) for name, own in file.items()}
        if isinstance(file, Mapping)
        else file and sha256(file)
        for file in beside
    ]
    if Path(reading.log).is_file():
        parts.append(sha256(Path(reading.log)))
    else:
        parts.append(json.dumps(source.provenance.get("files"), sort_keys=True, default=str))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# --- A log too large for the budget

#: So many seconds make a shift's numbers mean something on a log of this size, and on larger ones
#: as many times more: pairs cost in training, users × items in ranking.
_SECONDS, _PAIRS, _SCORES = 25.0, 50_000, 20_000_000
#: A log is thinned for at most so many shifts, and never below so many pairs.
_SHIFTS, _LEAST_PAIRS = 3, 30_000


def seconds_a_shift(pairs: Interactions) -> float:
    """About how long one shift of these positives needs."""
    scores = pairs.n_users * pairs.n_items
    return _SECONDS * max(1.0, len(pairs) / _PAIRS, scores / _SCORES)


def thinned(
    log: Log,
    budget: float,
    n_shifts: int,
    *,
    seed: int,
    most: int | None,
    max_per_user: int | None = None,
) -> Log:
    """The log as it is, or all rows of some users drawn at random, as the budget allows.

    The budget, in seconds, is shared by ``n_shifts``. With ``most``, so many positive pairs are
    kept whatever it is; 0 keeps all. A pair counts once, and pairs of users who will be left out
    for having more than ``max_per_user`` count nothing.
    """
    every = log.interactions.positives(log.threshold).deduplicated()
    positive = every if max_per_user is None else every.without_heavy_users(max_per_user)
    allowed = budget / max(min(n_shifts, _SHIFTS), 1)

    def fits(pairs: Interactions) -> bool:
        if most is not None:
            return most == 0 or len(pairs) <= most
        return seconds_a_shift(pairs) <= allowed or len(pairs) < 2 * _LEAST_PAIRS

    if fits(positive):
        return log
    table = log.interactions
    users = positive.frame["user"].unique(maintain_order=True)
    all_users = every.frame["user"].unique(maintain_order=True)
    heavy = all_users.filter(~all_users.is_in(users.implode()))
    order = pl.Series(numpy_generator(seed, "audit/thinned").permutation(len(users)))
    drawn = users.gather(order)
    while not fits(positive):
        # Each step keeps seven tenths of the users of the step before.
        drawn = drawn.head(max(1, int(0.7 * len(drawn))))
        own = pl.col("user").is_in(drawn.implode())
        positive = replace(positive, frame=positive.frame.filter(own))
        if len(drawn) == 1:
            break
    # Those who are heavy stay until the filters leave them out, and count them.
    frame = table.frame.filter(pl.col("user").is_in(pl.concat([drawn, heavy]).implode()))
    others = Problem(f"of {len(users) - len(drawn):,} users not drawn", len(table) - frame.height)
    why = (
        f"as {parameter('max_pairs')} asks"
        if most is not None
        else f"as many as the budget is enough for; it and {parameter('max_pairs')} change that"
    )
    note = (
        f"Of {len(users):,} users {len(drawn):,} were drawn at random, with {len(positive):,} "
        f"positive pairs: {why}."
    )
    tables = {**log.source.tables, "log": table.narrowed("drawn", frame, others)}
    source = replace(log.source, tables=tables)
    return replace(log, source=source, notes=(*log.notes, note), n_drawn=len(drawn), whole=table)
