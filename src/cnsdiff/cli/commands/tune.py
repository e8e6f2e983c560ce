"""``cnsdiff tune``: search a recommender's settings on validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnsdiff.cli import completion
from cnsdiff.cli.options import Device, Horizon, Json, OwnSeed, Threads

if TYPE_CHECKING:
    from cnsdiff.display.tables import Table
    from cnsdiff.tuning.study import Study
    from cnsdiff.tuning.tuner import Tuned

EXAMPLE = "Example: cnsdiff tune data/food --trials 20 --out tuned/food"


def tune(
    dataset: Annotated[Path, typer.Argument(help="Dataset directory.")],
    out: Annotated[Path, typer.Option(help="Directory of the study.")],
    trials: Annotated[
        int, typer.Option(min=1, max=10**6, help="Settings to try, those of before included.")
    ] = 20,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Begin no trial that would not end within this time: 90s, 30m, 1h30m.",
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=SPACE",
            help="Search this setting, too, or in another space: training.lr=0.001..0.01:log, "
            "backbone.dim=32,64,128.",
            autocompletion=completion.setting,
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,KEY",
            help="Search these alone: training.lr, or all of a section: sampler.",
            autocompletion=completion.section_or_key,
        ),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End trials early that lag behind.")
    ] = True,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Negative sampler, as in cnsdiff train.", autocompletion=completion.sampler
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Backbone, as in cnsdiff train.", autocompletion=completion.backbone),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Preset, as in cnsdiff train.", autocompletion=completion.preset)
    ] = "default",
    config: Annotated[
        Path | None, typer.Option(help="YAML file with settings, which the search starts from.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting, fixed: it is not searched.",
            autocompletion=completion.setting,
        ),
    ] = None,
    select_on: Annotated[
        str | None,
        typer.Option(
            help="What judges a trial, as in cnsdiff train.", autocompletion=completion.select_on
        ),
    ] = None,
    horizon: Horizon = None,
    seed: OwnSeed = None,
    device: Device = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Search settings: trials are judged on validation, and no test split is opened.

    The first trial is the configuration as given. Every outcome is kept as it comes: after Ctrl-C
    or a crash the same command goes on, to the very result of an undisturbed one.
    """
    from cnsdiff.cli.failure import interruptible
    from cnsdiff.cli.parsing import (
        parse_assignments,
        parse_budget,
        read_searches,
        recommender_of,
    )
    from cnsdiff.data import load_dataset
    from cnsdiff.tuning.progress import reporter_for_terminal
    from cnsdiff.tuning.searches import leaves
    from cnsdiff.tuning.tuner import tune as carry_out

    model = recommender_of(
        backbone, sampler, preset, config, set_ or (), select_on, seed, device, threads, horizon
    )
    seconds = None if budget is None else parse_budget(budget)
    resolved = model.resolve()
    label = resolved.title
    with interruptible(f"what is done is kept in {out}, and the same command goes on"):
        tuned = carry_out(
            model,
            load_dataset(dataset),
            trials=trials,
            out=out,
            search=read_searches(search or (), resolved),
            only=None if only is None else [name.strip() for name in only.split(",")],
            fixed=leaves(parse_assignments(set_ or ())),
            budget=seconds,
            prune=prune,
            reporter=reporter_for_terminal(label),
        )
    _print(tuned, out, json)


def _print(tuned: Tuned, out: Path, json: bool) -> None:
    from cnsdiff.cli.output import console, print_json, print_next, print_table
    from cnsdiff.evaluation.dial import in_words
    from cnsdiff.tuning.study import BEST_CONFIG, BEST_RUN, next_commands

    study = tuned.study
    if json:
        print_json(_summary(study, out))
        return
    screen = console()
    print_table(screen, _table(study))
    screen.print(study.verdict(), soft_wrap=True)
    screen.print(
        f"The value is the best of {len(study.trials)}, and so flatters: what it is worth, the "
        "tests will tell.",
        soft_wrap=True,
    )
    wider = study.wider()
    if wider:
        searches = " ".join(f"--search {key}={space}" for key, space in wider.items())
        screen.print(
            f"The best is near an end of what was searched; search on, into another --out: "
            f"{searches}",
            soft_wrap=True,
        )
    if tuned.model.environment_ is None:
        screen.print(f"dial: {in_words(tuned.model.dial_)}")
    screen.print(f"Wrote {out / BEST_CONFIG} and the run {out / BEST_RUN}.", soft_wrap=True)
    print_next(screen, *next_commands(study, out))


def _summary(study: Study, out: Path) -> dict[str, object]:
    from cnsdiff.tuning.study import BEST_CONFIG, BEST_RUN, next_commands

    best, first = study.best, study.given
    assert best is not None
    return {
        "out": str(out),
        "dataset": study.dataset.name,
        "objective": study.objective,
        "verdict": study.verdict(),
        "trials": len(study.trials),
        "asked": study.asked,
        **{state: study.count(state) for state in ("completed", "pruned", "failed")},
        "best": best.model_dump(mode="json"),
        "value_as_given": None if first is None else first.value,
        "gain": study.gain,
        "importances": study.importances and study.importances.model_dump(mode="json"),
        "left_out": list(study.left_out),
        "config": str(out / BEST_CONFIG),
        "run": str(out / BEST_RUN),
        "next": list(map(str, next_commands(study, out))),
    }


def _table(study: Study) -> Table:
    """Each setting searched: as given, at the best trial, and what it matters."""
    from cnsdiff.display.tables import Cell, Column, Table
    from cnsdiff.display.wording import percent, percent_span
    from cnsdiff.tuning.study import value_text

    best, importances = study.best, study.importances
    assert best is not None
    states = ("completed", "pruned", "failed")
    counts = [f"{study.count(state)} {state}" for state in states if study.count(state)]
    rows: list[tuple[list[str], list[Cell]]] = []
    for key in study.spaces if importances is None else importances.shares:
        settings = map(value_text, (study.as_given(key), best.setting[key]))
        cells = []
        if importances is not None:
            own = importances.shares[key]
            text = f"{percent(own.share, 0)} ({percent_span(own.low, own.high)})"
            cells.append(Cell(own.share, text=text))
        rows.append(([key, str(study.spaces[key]), *settings], cells))
    return Table.of(
        f"{len(study.trials)} trials: {', '.join(counts)}",
        ["setting", "searched", "as given", f"best (trial {best.number})"],
        [] if importances is None else [Column("share", "of the differences", percent=True)],
        rows,
    )
