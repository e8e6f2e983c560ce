"""``cnsdiff data describe``: what is in a dataset, and how far each split is from train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnsdiff.base.spelling import Command
from cnsdiff.cli import completion
from cnsdiff.cli.options import Json

if TYPE_CHECKING:
    from cnsdiff.catalogue import Entry
    from cnsdiff.data import Dataset

EXAMPLE = "Example: cnsdiff data describe data/food --figures food.html"


def describe(
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET...",
            help="Dataset directory, or the name of a data set in the catalogue. Several "
            "directories give one table of their distances.",
            autocompletion=completion.log,
        ),
    ],
    figures: Annotated[
        Path | None, typer.Option(help="HTML file to write; it opens offline.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing --figures file.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Of the random divisions behind 'by chance'.")
    ] = 0,
    json: Json = False,
) -> None:
    """Measure the shift between train and each split: counts, long tail, distances, overlap."""
    from cnsdiff.base.errors import InputError
    from cnsdiff.cli.describe_tables import comparison_table, dataset_tables
    from cnsdiff.cli.output import console, note, print_json
    from cnsdiff.data import Dataset
    from cnsdiff.diagnostics import describe as measure

    if figures is not None:
        _refuse_existing(figures, overwrite=overwrite)
    found = [_find(target) for target in datasets]
    prepared = [one for one in found if isinstance(one, Dataset)]
    published = [one for one in found if not isinstance(one, Dataset)]
    if published:
        entry = published[0]
        if len(found) > 1 or figures is not None:
            raise InputError(
                f"{entry.name}: is a name of the catalogue, not a dataset directory, so there is "
                f"nothing to measure; make one with {Command('prepare', entry.name, out='DIR')}"
            )
        _show_entry(entry, json=json)
        return
    described = [measure(dataset, seed=seed) for dataset in prepared]
    if figures is not None:
        from cnsdiff.report.dataset import descriptions_document
        from cnsdiff.report.html import write_html

        write_html(descriptions_document(described), figures)
    if json:
        documents = [
            {"path": str(dataset.path), **one.to_dict()}
            for dataset, one in zip(prepared, described, strict=True)
        ]
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    screen = console()
    single = len(described) == 1
    for table in dataset_tables(described[0]) if single else [comparison_table(described)]:
        screen.print(table)
    screen.print(
        f"By chance: the mean of {described[0].draws} random divisions of the same pairs into "
        "parts of the same sizes."
    )
    for one in described:
        for problem in one.problems:
            screen.print(note(f"{one.name}: {problem}"), soft_wrap=True)
    if figures is not None:
        screen.print(f"Wrote {figures}.", soft_wrap=True)


def _refuse_existing(file: Path, *, overwrite: bool) -> None:
    from cnsdiff.base.errors import InputError

    if file.is_dir():
        raise InputError(f"--figures {file}: is a directory; name a file in it")
    if file.exists() and not overwrite:
        raise InputError(
            f"--figures {file}: already exists; choose another name or pass --overwrite"
        )


def _find(target: str) -> Dataset | Entry:
    """The dataset in that directory, else the catalogue's entry of that name."""
    from cnsdiff.base.errors import InputError, did_you_mean
    from cnsdiff.catalogue import ENTRIES
    from cnsdiff.data import load_dataset

    path = Path(target)
    # A folder that only happens to have the name is no dataset.
    if target in ENTRIES and not (path / "manifest.json").exists():
        return ENTRIES[target]
    if path.exists():
        return load_dataset(path)
    raise InputError(
        f"{target}: is neither a dataset directory nor a name of the catalogue"
        f"{did_you_mean(target, ENTRIES)}; make a dataset with cnsdiff prepare, or see cnsdiff "
        "data list"
    )


def entry_facts(entry: Entry, root: Path | None = None) -> dict[str, Any]:
    """What the catalogue knows of a data set, and what of it is on this machine, for JSON."""
    from cnsdiff.catalogue import home, status

    return {
        "name": entry.name,
        "what": entry.what,
        "shift": entry.shift,
        "columns": list(entry.columns),
        "threshold": entry.threshold,
        "bytes": entry.size or None,
        "licence": entry.licence,
        "terms": entry.terms,
        "must_accept_terms": entry.ask,
        "home_page": entry.home_page,
        "citation": entry.citation,
        "addresses": list(entry.addresses),
        "checksum": None if entry.checksum is None else str(entry.checksum),
        "status": status(entry, root),
        "folder": str(home(root) / entry.name),
    }


def _show_entry(entry: Entry, *, json: bool) -> None:
    from cnsdiff.cli.output import console, print_json, print_next

    facts = entry_facts(entry)
    if json:
        print_json(facts)
        return
    screen = console()
    shown = facts | {
        "columns": ", ".join(entry.columns),
        "addresses": ", ".join(entry.addresses) or "none: by hand, from the home page",
        "bytes": f"{entry.size:,}" if entry.size else "not known",
        "must_accept_terms": "yes" if entry.ask else "no",
    }
    for key, value in shown.items():
        if value is not None:
            title = key.replace("_", " ")
            screen.print(f"{title:<18} {value}", soft_wrap=True)
    if facts["status"] == "fetched":
        out = f"data/{entry.name.rpartition('/')[2]}"
        print_next(
            screen,
            Command("prepare", entry.name, scenario="popularity", out=out, purpose="divide it"),
            Command("data describe", out, purpose="measure the shift"),
        )
    else:
        print_next(screen, Command("data fetch", entry.name, purpose="get it"))
