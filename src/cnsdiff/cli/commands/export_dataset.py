"""``cnsdiff data export``: the splits of a dataset for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnsdiff.cli.commands.export import beside
from cnsdiff.cli.options import Json

EXAMPLE = "Example: cnsdiff data export data/food --to recbole --out exports/food"


class Format(StrEnum):
    """What a dataset can be written as."""

    csv = "csv"
    parquet = "parquet"
    recbole = "recbole"


def export_dataset(
    dataset: Annotated[Path, typer.Argument(help="Dataset directory.")],
    to: Annotated[Format, typer.Option(help="What to write.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory to write (default: DATASET-FORMAT); its name is RecBole's."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing export.")] = False,
    json: Json = False,
) -> None:
    """Write the splits of a dataset, under your ids, for another tool to train on.

    A file for each split and each table of features; with recbole, its atomic files and a
    configuration file for each test.
    """
    from cnsdiff import export as exports
    from cnsdiff.cli.output import console, note, print_json
    from cnsdiff.data import load_dataset

    write = {
        Format.csv: exports.dataset_to_csv,
        Format.parquet: exports.dataset_to_parquet,
        Format.recbole: exports.dataset_to_recbole,
    }[to]
    data = load_dataset(dataset)
    out = beside(dataset, to.value) if out is None else out
    manifest = write(data, out, overwrite=overwrite)
    if json:
        print_json({"path": str(out), **manifest})
        return
    screen = console()
    rows = ", ".join(f"{split} {count:,}" for split, count in manifest["rows"].items())
    screen.print(f"{data.name}: {rows} pairs")
    for feature, count in manifest.get("read_as_missing", {}).items():
        values = "value" if count == 1 else "values"
        told = f"RecBole reads {count:,} {values} of {feature} as missing (NA, null, None …)"
        screen.print(note(told), soft_wrap=True)
    screen.print(f"Wrote {out}", soft_wrap=True)
    if to is Format.recbole:
        configurations = sorted(name for name in manifest["files"] if name.endswith(".yaml"))
        screen.print(
            f"Next, where RecBole is installed: run_recbole(model='LightGCN', "
            f"dataset={manifest['name']!r}, config_file_list=[{str(out / configurations[-1])!r}])",
            soft_wrap=True,
        )
