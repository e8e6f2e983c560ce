"""``cnsdiff prepare``: files of interactions become a dataset directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Example: cnsdiff prepare --train train.txt --valid valid.txt --test-iid iid.txt "
    "--test-ood ood.txt --out data/food"
)


def prepare(
    out: Annotated[Path, typer.Option(help="Dataset directory to write.")],
    train: Annotated[Path, typer.Option(help="Training interactions.")],
    valid: Annotated[Path | None, typer.Option(help="Validation interactions (IID).")] = None,
    test_iid: Annotated[Path | None, typer.Option(help="Test from the same distribution.")] = None,
    test_ood: Annotated[Path | None, typer.Option(help="Test from the shifted one.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Least rating of a positive.")] = None,
    user_core: Annotated[int, typer.Option(min=0, help="Least positives of a user.")] = 0,
    item_core: Annotated[int, typer.Option(min=0, help="Least positives of an item.")] = 0,
    format: Annotated[
        str, typer.Option(help="auto, text, csv, tsv, inter, adjacency or parquet.")
    ] = "auto",
    user_col: Annotated[str | None, typer.Option(help="Name of the user column.")] = None,
    item_col: Annotated[str | None, typer.Option(help="Name of the item column.")] = None,
    rating_col: Annotated[
        str | None, typer.Option(help="Name of the rating column, or 'none'.")
    ] = None,
    timestamp_col: Annotated[
        str | None, typer.Option(help="Name of the time column, or 'none'.")
    ] = None,
    header: Annotated[
        bool | None, typer.Option(help="Whether the first line names the columns.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option(help="Leave malformed lines out and count them.")
    ] = False,
    licence: Annotated[str | None, typer.Option(help="Licence note for the manifest.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing dataset.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read ready splits (text, CSV, Parquet, .inter, …) into a dataset directory."""
    from cnsdiff.cli.output import console, print_json
    from cnsdiff.shifts import prepare_given

    dataset = prepare_given(
        train,
        valid=valid,
        test_iid=test_iid,
        test_ood=test_ood,
        name=name,
        threshold=threshold,
        user_core=user_core,
        item_core=item_core,
        licence=licence,
        format=format,
        user=user_col,
        item=item_col,
        rating=rating_col,
        timestamp=timestamp_col,
        header=header,
        skip_bad=skip_bad,
    )
    dataset.save(out, overwrite=overwrite)
    if json:
        print_json({"path": str(out), **dataset.manifest})
        return
    screen = console()
    screen.print(counts_table(dataset.name, dataset.manifest))
    for split, option, use in (
        ("valid", "--valid", "train picks its best epoch on it"),
        ("test_ood", "--test-ood", "without it nothing is known about a shift"),
    ):
        if split not in dataset.split_names:
            screen.print(f"[yellow]note:[/] there is no {split} split ({option} FILE): {use}")
    screen.print(f"Wrote {out}. Next: cnsdiff train {out} --out RUN", soft_wrap=True)


def counts_table(name: str, manifest: dict[str, object]) -> object:
    """What each split holds and what was left out of it."""
    from rich.table import Table

    columns = {
        "rows": "pairs",
        "users": "users",
        "items": "items",
        "skipped": "malformed",
        "below_threshold": "below threshold",
        "users_without_positives": "users without positives",
        "duplicates": "duplicates",
        "outside_k_core": "outside k-core",
        "overlap_train": "also in train",
        "dropped_unknown": "unknown to train",
    }
    splits = manifest["splits"]
    assert isinstance(splits, dict)
    always = ("rows", "users", "items")
    used = [c for c in columns if c in always or any(counts.get(c) for counts in splits.values())]
    title = f"{name}: {manifest['n_users']:,} users, {manifest['n_items']:,} items"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("split")
    for column in used:
        table.add_column(columns[column], justify="right")
    for split, counts in splits.items():
        table.add_row(split, *(f"{counts.get(column, 0):,}" for column in used))
    return table
