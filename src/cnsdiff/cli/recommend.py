"""``cnsdiff recommend``: top-K lists from a run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnsdiff.cli.options import Dial, Json

if TYPE_CHECKING:
    import polars as pl

    from cnsdiff.recommender import Recommender

EXAMPLE = "Example: cnsdiff recommend runs/food --users 17,42 --k 10"


class Cold(StrEnum):
    """What a user unknown to training gets."""

    error = "error"
    popular = "popular"


def recommend(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    users: Annotated[str | None, typer.Option(help="User ids, separated by commas.")] = None,
    users_from: Annotated[Path | None, typer.Option(help="File with one user id a line.")] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every known user.")] = False,
    k: Annotated[int, typer.Option(min=1, help="Items per user.")] = 20,
    cold: Annotated[Cold, typer.Option(help="For users unknown to training.")] = Cold.error,
    dial: Dial = None,
    out: Annotated[Path | None, typer.Option(help="Write to .parquet or .csv instead.")] = None,
    json: Json = False,
) -> None:
    """The best items of each user, without those already interacted with."""
    from rich.table import Table

    from cnsdiff.cli.output import console, print_json
    from cnsdiff.errors import ConfigError
    from cnsdiff.recommender import Recommender
    from cnsdiff.storage import write_with

    if sum((users is not None, users_from is not None, all_users)) != 1:
        raise ConfigError("say for whom: --users 1,2,3 or --users-from FILE or --all-users")
    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{out}: the name must end in .parquet or .csv")
    model = Recommender.load(run)
    asked: Any = model.users_
    if users is not None:
        asked = _as_known([user.strip() for user in users.split(",") if user.strip()], model)
        if not len(asked):
            raise ConfigError("--users names nobody; give ids separated by commas")
    elif users_from is not None:
        asked = _as_known(_lines(users_from), model)
    table = model.recommend(asked, k, cold=cold.value, dial=dial)
    if out is not None:
        write = table.write_parquet if out.suffix == ".parquet" else table.write_csv
        write_with(out, write)
        if not json:
            console().print(f"Wrote {table.height:,} rows to {out}")
    if json:
        if out is None:
            print_json(table.to_dicts())
        else:
            print_json({"out": str(out), "rows": table.height})
    elif out is None:
        shown = Table(header_style="bold")
        for column in table.columns:
            shown.add_column(column, justify="right", overflow="fold")
        for row in table.iter_rows(named=True):
            shown.add_row(
                str(row["user"]), str(row["item"]), f"{row['score']:.4f}", str(row["rank"])
            )
        console().print(shown)


def _as_known(ids: list[str], model: Recommender) -> pl.Series:
    """Ids typed on the command line, as integers if all are and the known ids are."""
    import polars as pl

    given = pl.Series("user", ids, dtype=pl.String)
    numbers = given.cast(model.users_.dtype, strict=False)
    return numbers if (numbers.cast(pl.String) == given).fill_null(False).all() else given


def _lines(path: Path) -> list[str]:
    from cnsdiff.errors import ConfigError

    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text; give one user id a line") from error
    ids = [user for user in ids if user]
    if not ids:
        raise ConfigError(f"{path}: holds no user ids; give one a line")
    return ids
