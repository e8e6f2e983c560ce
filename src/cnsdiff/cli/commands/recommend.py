"""``cnsdiff recommend``: top-K lists from a run."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnsdiff.cli.options import Dial, Json, NewItems, Seen, SeenChoice

if TYPE_CHECKING:
    import polars as pl

    from cnsdiff.recommender.recommender import Recommender

EXAMPLE = "Example: cnsdiff recommend runs/food --users 17,42 --k 10"


class Cold(StrEnum):
    """Lists for a user unknown to training."""

    error = "error"
    popular = "popular"


Run = Annotated[Path, typer.Argument(help="Run directory.")]
Exclude = Annotated[
    Path | None,
    typer.Option(
        help="Items never to show: an id a line, or a table with a column 'item' and, for items "
        "of each user, 'user'."
    ),
]
Only = Annotated[Path | None, typer.Option(help="The only items to show; as --exclude.")]
Out = Annotated[Path | None, typer.Option(help="Write to .parquet or .csv instead.")]


def recommend(
    run: Run,
    users: Annotated[str | None, typer.Option(help="User ids, separated by commas.")] = None,
    users_from: Annotated[Path | None, typer.Option(help="File with one user id a line.")] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every known user.")] = False,
    k: Annotated[int, typer.Option(min=1, max=10**9, help="Items per user.")] = 20,
    seen: Seen = SeenChoice.all,
    exclude: Exclude = None,
    only: Only = None,
    new_items: NewItems = None,
    cold: Annotated[Cold, typer.Option(help="For users unknown to training.")] = Cold.error,
    dial: Dial = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """The best items of each user, without those the user already has."""
    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.parsing import parse_features
    from cnsdiff.recommender.recommender import Recommender

    if sum((users is not None, users_from is not None, all_users)) != 1:
        raise ConfigError("say for whom: --users 1,2,3 or --users-from FILE or --all-users")
    require_table_name(out)
    model = Recommender.load(run)
    if new_items:
        model.add_items(parse_features("--new-items", new_items))
    wanted: Any = model.users_
    if not all_users:
        wanted = ids_asked("user", users, users_from, model.users_)
    table = model.recommend(
        wanted,
        k,
        seen=seen.value,
        exclude=item_choice(exclude, model),
        only=item_choice(only, model),
        cold=cold.value,
        dial=dial,
    )
    show_lists(table, out, json=json)


def require_table_name(out: Path | None) -> None:
    from cnsdiff.base.errors import ConfigError

    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{out}: the name must end in .parquet or .csv")


def show_lists(table: pl.DataFrame, out: Path | None, *, json: bool) -> None:
    """Lists as a table on the terminal, as JSON, or in a file."""
    from cnsdiff.base.storage import write_with
    from cnsdiff.cli.output import console, print_json, print_table
    from cnsdiff.display.tables import Column, Table

    if out is not None:
        write_with(out, table.write_parquet if out.suffix == ".parquet" else table.write_csv)
        if json:
            print_json({"out": str(out), "rows": table.height})
        else:
            console().print(f"Wrote {table.height:,} rows to {out}")
        return
    if json:
        print_json(table.to_dicts())
        return
    titles = [name for name in table.columns if name != "score"]
    columns = [Column("score", "score")] if "score" in table.columns else []
    rows = [
        ([str(row[name]) for name in titles], [row[column.name] for column in columns])
        for row in table.iter_rows(named=True)
    ]
    print_table(console(), Table.of("", titles, columns, rows))


def ids_asked(side: str, listed: str | None, file: Path | None, known: pl.Series) -> pl.Series:
    """The ids that ``--users`` or ``--users-from`` names (items alike), of the type known."""
    from cnsdiff.base.errors import ConfigError

    if file is not None:
        ids = _lines(file, side, known)
        if not ids:
            raise ConfigError(f"{file}: holds no {side} ids; give one a line")
    else:
        ids = [id.strip() for id in (listed or "").split(",") if id.strip()]
        if not ids:
            raise ConfigError(f"--{side}s names nobody; give ids separated by commas")
    return _as_known(ids, known).alias(side)


def _as_known(ids: list[str], known: pl.Series) -> pl.Series:
    """Ids that were typed or read, as integers if all are and the known ids are."""
    import polars as pl

    texts = pl.Series(ids, dtype=pl.String)
    # "1.0" is what is left of 1 where a column was one of floats for a while.
    whole = texts.str.replace(r"^(-?\d+)\.0+$", "${1}")
    if known.dtype != pl.String and (whole.cast(known.dtype, strict=False).is_not_null()).all():
        texts = whole
    numbers = texts.cast(known.dtype, strict=False)
    return numbers if (numbers.cast(pl.String) == texts).fill_null(False).all() else texts


def _lines(path: Path, side: str, known: pl.Series) -> list[str]:
    """Ids, one a line; a first line that names the column is none, unless it is a known id."""
    import polars as pl

    from cnsdiff.base.errors import ConfigError
    from cnsdiff.data.reading.columns import ALIASES, plain_name

    try:
        # A byte order mark is no part of the first id.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text; give one {side} id a line") from error
    stated = known.cast(pl.String)
    ids = [_unquoted(line.strip(), stated) for line in text.splitlines() if line.strip()]
    if ids and plain_name(ids[0]) in ALIASES[side] and not (stated == ids[0]).any():
        return ids[1:]
    return ids


def _unquoted(line: str, known: pl.Series) -> str:
    """A line without the quotation marks that programs put around an id with a comma in it."""
    import csv

    if len(line) < 2 or line[0] != '"' or line[-1] != '"' or (known == line).any():
        return line
    fields = next(csv.reader([line]))
    return fields[0].strip() if len(fields) == 1 else line


def item_choice(path: Path | None, model: Recommender) -> Any:
    """Items to leave out or to choose from: a list for all users, or a table."""
    import polars as pl

    from cnsdiff.base.errors import ConfigError
    from cnsdiff.data.reading.columns import known_roles
    from cnsdiff.data.reading.readers import is_parquet, require_file
    from cnsdiff.data.reading.tables import read_raw

    if path is None:
        return None
    require_file(path, "item ids")
    if not is_parquet(path):
        ids = _lines(path, "item", model.items_)
        if not ids:
            raise ConfigError(f"{path}: holds no item ids; give one a line")
        # Only a header makes a table of it: a title may hold a comma.
        names = re.split(r"[\t,;|]", ids[0].replace('"', ""))
        known = model.items_.cast(pl.String)
        if len(names) == 1 or "item" not in known_roles(names) or (known == ids[0]).any():
            return _as_known(ids, model.items_)
    frame = read_raw(path, "item ids").frame
    roles = known_roles(frame.columns)
    if "item" not in roles:
        raise ConfigError(
            f"{path}: has no column of item ids (its columns are "
            f"{', '.join(map(repr, frame.columns))}); call it 'item'"
        )
    return frame.select(
        frame[roles[side]].alias(side) for side in ("user", "item") if side in roles
    )
