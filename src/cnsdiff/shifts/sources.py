"""From files, data frames and names of known data sets to a :class:`~cnsdiff.data.Source`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
from narwhals.typing import IntoFrame

from cnsdiff.base.errors import ConfigError, DataError, did_you_mean, warn
from cnsdiff.base.text import parameter
from cnsdiff.data import Interactions, Source, read_interactions
from cnsdiff.data.ids import Vocabulary
from cnsdiff.data.reading.adjacency import layout_of
from cnsdiff.data.reading.lines import first_lines
from cnsdiff.data.reading.tables import Features, file_name, joined, read_modalities

_SIDES: dict[str, Literal["user", "item"]] = {"user_features": "user", "item_features": "item"}


def read_source(
    tables: Mapping[str, str | Path | IntoFrame | Interactions],
    *,
    name: str,
    licence: str | None = None,
    user_features: Features | None = None,
    item_features: Features | None = None,
    described: Mapping[str, Interactions] | None = None,
    **reading: Any,
) -> Source:
    """Read interactions by role, and features.

    Tables and features as :func:`~cnsdiff.data.read_interactions` and
    :func:`~cnsdiff.data.read_features` take them; tables may have been read already. Features are
    of the users and items of the tables ``described``, which are those read where not given.
    """
    optional = {"user_features": user_features, "item_features": item_features}
    features = {role: table for role, table in optional.items() if table is not None}
    files = {role: _short(table) for role, table in {**tables, **features}.items()}
    formats = _formats(tables, reading)
    interactions = {
        role: table
        if isinstance(table, Interactions)
        else read_interactions(table, **{**reading, **formats.get(role, {})})
        for role, table in tables.items()
    }
    problems = {
        role: [asdict(problem) for problem in table.problems]
        for role, table in interactions.items()
        if table.problems
    }
    literal = bool(reading.get("literal_ids", False))
    main = _main_table(interactions if described is None else described)
    known = {}
    for role, given in features.items():
        sources = given if isinstance(given, Mapping) else {"": given}
        modalities = read_modalities(sources, _SIDES[role], literal_ids=literal)
        if main is not None:
            _require_matches(modalities, sources, _SIDES[role], main)
        known[role] = joined(modalities, _SIDES[role])
    facts = {"problems": problems or None, "licence": licence}
    return Source(
        interactions,
        known,
        name=name,
        provenance={
            "files": files,
            **{key: value for key, value in facts.items() if value is not None},
        },
    )


def _formats(tables: Mapping[str, Any], reading: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The format of files that taken alone may be adjacency lists or a log: that of the others.

    :class:`DataError` if one file can only be adjacency lists and another only a log.
    """
    columns = ("user", "item", "rating", "timestamp", "period", "event", "header", "delimiter")
    if reading.get("format", "auto") != "auto" or any(reading.get(c) is not None for c in columns):
        return {}
    files = {role: Path(given) for role, given in tables.items() if isinstance(given, str | Path)}
    if len(files) < 2:
        return {}
    layouts = {role: layout_of(first_lines(path)) for role, path in files.items() if path.is_file()}
    lists = [files[role] for role, layout in layouts.items() if layout == "adjacency"]
    logs = [files[role] for role, layout in layouts.items() if layout == "log"]
    if lists and logs:
        raise DataError(
            f"{logs[0]}: looks like lines of a user, an item and a rating, and {lists[0]} like "
            f"LightGCN's lines of a user and items; name what both are with {parameter('format')} "
            "(text or adjacency), or convert one of them"
        )
    if not lists and not logs:
        return {}
    same = {"format": "adjacency" if lists else "text"}
    return {role: same for role, layout in layouts.items() if layout == "unclear"}


def find_source(
    log: str | Path | IntoFrame | Interactions,
    *,
    randomised: str | Path | IntoFrame | None = None,
    name: str | None = None,
    licence: str | None = None,
    user_features: Features | None = None,
    item_features: Features | None = None,
    **reading: Any,
) -> Source:
    """The source that ``log`` names: a file, a data frame, or a data set fetched before.

    What is given beside a fetched data set replaces its own. :class:`DataError` if ``log`` is
    neither a file nor a known data set.
    """
    from cnsdiff.catalogue import ENTRIES

    options = {
        **reading,
        "licence": licence,
        "user_features": user_features,
        "item_features": item_features,
    }
    beside = {} if randomised is None else {"randomised": randomised}
    # Text that is no file may be the name of a data set; a path with a folder in it is none.
    if not (
        isinstance(log, str)
        and not Path(log).exists()
        and (log in ENTRIES or Path(log).name == log)
    ):
        stem = Path(log).name.split(".")[0] if isinstance(log, str | Path) else ""
        tables = {"log": log, **beside}
        return read_source(tables, name=name or stem or "unnamed", **options)
    source = _fetched(log, reading)
    own = read_source(beside, name=name or source.name, described=source.tables, **options)
    files = {**dict(source.provenance.get("files", {})), **own.provenance["files"]}
    return replace(
        source,
        tables={**source.tables, **own.tables},
        features={**source.features, **own.features},
        name=own.name,
        provenance={**source.provenance, **own.provenance, "files": files},
    )


def _main_table(tables: Mapping[str, Interactions]) -> Interactions | None:
    """The one whose users and items features are of."""
    return next((tables[name] for name in ("log", "train") if name in tables), None)


def _require_matches(
    modalities: Mapping[str, pl.DataFrame],
    sources: Mapping[str, Any],
    side: Literal["user", "item"],
    main: Interactions,
) -> None:
    """Stop where features are of nobody in the log, and say where they are of some only."""
    ids = main.frame[side].unique(maintain_order=True)
    vocabulary = Vocabulary(ids.alias("id"))
    checked: list[pl.Series] = []
    for name, table in modalities.items():
        file = file_name({name: sources[name]})
        # Vectors have the ids of the first table, of which that has been said.
        if any(table[side].equals(other) for other in checked):
            continue
        checked.append(table[side])
        matches = int((vocabulary.encode(table[side]) >= 0).sum())
        if matches == 0:
            raise DataError(
                f"{file}: none of its {len(table):,} {side}s is in {main.source}: it has "
                f"{table[side][0]!r}, and the other {ids[0]!r}; write the ids alike in both"
            )
        # Where everyone has some, those of others may be of items to come, and need no word.
        rest = len(table) - matches
        if matches < len(ids):
            warn(
                f"{file}: has features of {matches:,} of the {len(ids):,} {side}s of {main.source}"
                + (f", and of {rest:,} that are not in it" if rest else "")
            )


def _fetched(name: str, reading: Mapping[str, Any]) -> Source:
    from cnsdiff import catalogue

    known = list(catalogue.ENTRIES)
    if name not in known:
        near = did_you_mean(name, [*known, *sorted(entry.name for entry in Path().iterdir())])
        raise DataError(
            f"{name}: no such file, and no data set of the catalogue{near}; check the path, or see "
            "`cnsdiff data list`"
        )
    meant = sorted(key for key, value in reading.items() if value not in (None, False, "auto"))
    if meant:
        raise ConfigError(
            f"{name}: a data set of the catalogue is read in its own format, so {meant[0]!r} "
            "cannot be chosen; drop it"
        )
    return catalogue.load(name)


def _short(table: Any) -> str:
    """A file's own name: its folders would mean nothing elsewhere."""
    return Path(table.source).name if isinstance(table, Interactions) else file_name(table)
