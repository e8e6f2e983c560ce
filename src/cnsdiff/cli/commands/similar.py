"""``cnsdiff similar``: the nearest items of an item."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cnsdiff.cli.commands.recommend import (
    Exclude,
    Only,
    Out,
    Run,
    ids_asked,
    item_choice,
    require_table_name,
    show_lists,
)
from cnsdiff.cli.options import Json, NewItems

EXAMPLE = "Example: cnsdiff similar runs/food --items 17,42 --k 10"


def similar(
    run: Run,
    items: Annotated[str | None, typer.Option(help="Item ids, separated by commas.")] = None,
    items_from: Annotated[Path | None, typer.Option(help="File with one item id a line.")] = None,
    all_items: Annotated[bool, typer.Option("--all-items", help="Every known item.")] = False,
    k: Annotated[int, typer.Option(min=1, max=10**9, help="Neighbours per item.")] = 20,
    exclude: Exclude = None,
    only: Only = None,
    new_items: NewItems = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """The items nearest to each by the cosine of their vectors."""
    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.parsing import parse_features
    from cnsdiff.recommender.recommender import Recommender

    if sum((items is not None, items_from is not None, all_items)) != 1:
        raise ConfigError("say to what: --items 1,2,3 or --items-from FILE or --all-items")
    require_table_name(out)
    model = Recommender.load(run)
    if new_items:
        model.add_items(parse_features("--new-items", new_items))
    wanted: Any = model.items_
    if not all_items:
        wanted = ids_asked("item", items, items_from, model.items_)
    show_lists(
        model.similar(
            wanted, k, exclude=item_choice(exclude, model), only=item_choice(only, model)
        ),
        out,
        json=json,
    )
