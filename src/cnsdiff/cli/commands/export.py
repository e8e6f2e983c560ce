"""``cnsdiff export`` and ``cnsdiff data export``: embeddings and splits for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cnsdiff.cli.options import Dial, Json, NewItems, Seen, SeenChoice

EXAMPLE = "Example: cnsdiff export runs/food --to faiss --out exports/food"
DATASET_EXAMPLE = "Example: cnsdiff data export data/food --to recbole --out exports/food"


class Format(StrEnum):
    """Formats of embeddings."""

    parquet = "parquet"
    numpy = "numpy"
    faiss = "faiss"


class Index(StrEnum):
    """The kinds of faiss index."""

    auto = "auto"
    flat = "flat"
    ivf = "ivf"
    hnsw = "hnsw"


def beside(source: Path, format: str) -> Path:
    """Where an export goes that is not told: ``runs/food-faiss`` beside ``runs/food``."""
    named = source if source.name not in ("", "..") else source.resolve()
    return named.with_name(f"{named.name}-{format}")


def export(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    to: Annotated[Format, typer.Option(help="What to write.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory to write (default: RUN-FORMAT).")
    ] = None,
    dial: Dial = None,
    seen: Seen = SeenChoice.all,
    new_items: NewItems = None,
    index: Annotated[
        Index | None,
        typer.Option(
            help="Of faiss: flat (exact), ivf, hnsw, or auto: flat up to 100,000 items, then ivf."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing export.")] = False,
    json: Json = False,
) -> None:
    """Write user and item embeddings, under your ids, for another system to serve.

    The inner product of a user's and an item's vector is the score that recommend ranks by, at the
    same dial. What recommend leaves out, pairs that the log holds, is written beside them. Of ease
    and itemknn, --to parquet writes the weight of each pair of items.
    """
    from cnsdiff import export as exports
    from cnsdiff.base.errors import ConfigError
    from cnsdiff.cli.output import console, print_json
    from cnsdiff.cli.parsing import parse_features
    from cnsdiff.display.wording import count
    from cnsdiff.recommender.recommender import Recommender

    options: dict[str, Any] = {"dial": dial, "seen": seen.value, "overwrite": overwrite}
    if index is not None:
        if to is not Format.faiss:
            raise ConfigError(f"--index is of --to faiss, not of {to.value}; drop one of the two")
        options["index"] = index.value
    write = {
        Format.parquet: exports.to_parquet,
        Format.numpy: exports.to_numpy,
        Format.faiss: exports.to_faiss,
    }[to]
    model = Recommender.load(run)
    if new_items:
        model.add_items(parse_features("--new-items", new_items))
    out = beside(run, to.value) if out is None else out
    manifest: Any = write(model, out, **options)
    if json:
        print_json({"path": str(out), **manifest})
        return
    screen = console()
    if manifest["export"] == "item-weights":
        screen.print(
            f"{manifest['n_weights']:,} weights of {manifest['n_items']:,} items, read at dial "
            f"{manifest['dial']:g} (the items' biases are its share)."
        )
        screen.print(f"Wrote {out}", soft_wrap=True)
        return
    screen.print(
        f"{manifest['n_users']:,} users and {manifest['n_items']:,} items as vectors of "
        f"{count(manifest['dim'], 'number')}, read at dial {manifest['dial']:g}"
        + (" (the last number is its share)" if manifest["dim"] > manifest["model_dim"] else "")
        + "."
    )
    made = manifest.get("index")
    if made is not None:
        screen.print(
            f"index: {made['kind']}, "
            + ("exact" if made["kind"] == "flat" else f"finds {made['recall']:.1%} of exact top 20")
        )
    screen.print(f"Wrote {out}", soft_wrap=True)


class DatasetFormat(StrEnum):
    """Formats of a dataset."""

    csv = "csv"
    parquet = "parquet"
    recbole = "recbole"


def export_dataset(
    dataset: Annotated[Path, typer.Argument(help="Dataset directory.")],
    to: Annotated[DatasetFormat, typer.Option(help="What to write.")],
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
        DatasetFormat.csv: exports.dataset_to_csv,
        DatasetFormat.parquet: exports.dataset_to_parquet,
        DatasetFormat.recbole: exports.dataset_to_recbole,
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
        remark = f"RecBole reads {count:,} {values} of {feature} as missing (NA, null, None …)"
        screen.print(note(remark), soft_wrap=True)
    screen.print(f"Wrote {out}", soft_wrap=True)
    if to is DatasetFormat.recbole:
        configurations = sorted(name for name in manifest["files"] if name.endswith(".yaml"))
        screen.print(
            f"Next, where RecBole is installed: run_recbole(model='LightGCN', "
            f"dataset={manifest['name']!r}, config_file_list=[{str(out / configurations[-1])!r}])",
            soft_wrap=True,
        )
