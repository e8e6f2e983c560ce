"""``cnsdiff simulate``: a world whose truth is known becomes a dataset directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnsdiff.cli import completion
from cnsdiff.cli.options import Json, Seed

EXAMPLE = "Example: cnsdiff simulate --shift popularity --confounding 2 --out data/world"


def simulate(
    out: Annotated[Path, typer.Option(help="Dataset directory to write.")],
    shift: Annotated[
        str,
        typer.Option(
            help="popularity, temporal, exposure, hybrid (temporal and popularity), or two "
            "joined by +.",
            autocompletion=completion.shift,
        ),
    ] = "exposure",
    strength: Annotated[
        float, typer.Option(help="From the logged environment (0) to the full shift (1).")
    ] = 1.0,
    confounding: Annotated[
        float, typer.Option(help="b: how strongly the environment moves exposure.")
    ] = 1.5,
    users: Annotated[int, typer.Option(help="Users.")] = 1500,
    items: Annotated[int, typer.Option(help="Items.")] = 800,
    exposures: Annotated[
        float, typer.Option(help="Mean number of items a user is shown in the log.")
    ] = 80.0,
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing dataset.")] = False,
    json: Json = False,
) -> None:
    """Simulate clicks confounded by what was shown, with the truth beside them.

    Relevance is known for every pair, so false negatives can be counted exactly; docs/world.md
    has the equations, and the settings that only Python has.
    """
    from cnsdiff.cli.output import (
        after_dataset,
        console,
        print_dataset,
        print_json,
        print_next,
    )
    from cnsdiff.simulate import ConfoundedWorld

    world = ConfoundedWorld(
        n_users=users, n_items=items, confounding=confounding, exposures=exposures, seed=seed
    )
    dataset = world.dataset(shift, strength=strength)
    dataset.save(out, overwrite=overwrite)
    if json:
        print_json({"path": str(out), **dataset.manifest.to_dict()})
        return
    screen = console()
    print_dataset(screen, dataset)
    screen.print(f"Wrote {out}", soft_wrap=True)
    print_next(screen, *after_dataset(out, dataset.split_names))
