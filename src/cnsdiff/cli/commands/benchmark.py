"""``cnsdiff benchmark``: many methods on many datasets, compared as a reviewer would ask."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnsdiff.cli import completion

if TYPE_CHECKING:
    from cnsdiff.base.text import Command
    from cnsdiff.benchmark.findings import Results
    from cnsdiff.benchmark.grid import Grid
    from cnsdiff.benchmark.plan import Unit
    from cnsdiff.benchmark.store import Store
    from cnsdiff.benchmark.workers import Workers

FORMATS = ("text", "markdown", "latex", "json")
EXAMPLE = "Example: cnsdiff benchmark grid.yaml --out results/grid --workers 2"


def benchmark(
    grid: Annotated[Path, typer.Argument(help="YAML file: datasets, methods, seeds, budget.")],
    out: Annotated[
        Path | None, typer.Option(help="Where results are kept (default: results/NAME).")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes at once on this machine.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="CPU threads of all workers together (default: all cores); with --ray, of a task "
            "(default: 1).",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on this Ray cluster: auto, ray://HOST:PORT."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0.0, help="GPUs that each task asks of Ray (0.5: two share one).")
    ] = 0.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run what failed before once more.")
    ] = False,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights",
            help="Keep the model of every final as a run directory, OUT/weights/TASK/SELECTION; "
            "finals done without theirs run again.",
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Run nothing; only print what is there.")
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(help="Method to test the others against (default: the best of --rivals)."),
    ] = None,
    ours: Annotated[
        str | None,
        typer.Option(
            help="Method whose average improvement is computed (default: the first of the "
            "group ours)."
        ),
    ] = None,
    rivals: Annotated[
        str,
        typer.Option(
            help="Group that --ours and the tests compare with; --ours with all others too."
        ),
    ] = "sampler",
    format: Annotated[
        str,
        typer.Option(
            help=f"Of the tables: {completion.words('table_formats')}.",
            autocompletion=completion.table_format,
        ),
    ] = "text",
    json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
) -> None:
    """Search, train and test every method of a grid alike, and compare them.

    Each result is kept as it comes: after Ctrl-C or a crash the same command goes on.
    """
    from cnsdiff.base.errors import InputError
    from cnsdiff.base.text import Command, say
    from cnsdiff.benchmark.findings import collect
    from cnsdiff.benchmark.grid import read_grid
    from cnsdiff.benchmark.plan import materialise, plan
    from cnsdiff.benchmark.run import bare_finals
    from cnsdiff.benchmark.store import Store
    from cnsdiff.benchmark.workers import cores
    from cnsdiff.display.wording import count

    if format not in FORMATS:
        raise InputError(f"--format {format}: choose one of {', '.join(FORMATS)}")
    spec = read_grid(grid)
    for option, name in (("--baseline", baseline), ("--ours", ours)):
        if name is not None and name not in spec.methods:
            raise InputError(f"{option} {name}: the grid has no such method")
    store = Store(out or Path("results") / spec.name)
    store.open(spec, adding=not show)
    keeps = keep_weights or spec.keep_weights
    # Of a cluster's machines nothing is known here, so a task asks for what any of them has.
    each = (threads or 1) if ray is not None else max((threads or cores()) // workers, 1)
    with nullcontext() if show else store.writing():
        datasets = {
            name: materialise(name, entry, store.data) for name, entry in spec.datasets.items()
        }
        units = plan(spec, datasets, threads=each)
        if not show:
            _run(units, store, _workers(workers, each, ray, gpus), retry_failed, keeps)
    results = collect(spec, units, store)
    form = "json" if json else format
    steps = [
        Command("report", store.path, purpose="all of it in one HTML file"),
        Command(
            "benchmark",
            grid,
            out=store.path,
            show=True,
            format="markdown",
            purpose="the tables for a page; latex for a paper",
        ),
    ]
    models = _models(units, store)
    if models:
        purpose = "one of the models kept; the others are beside it"
        steps.append(Command("evaluate", models[0]["path"], purpose=purpose))
    _print(spec, results, form, baseline, ours, rivals, steps, models)
    bare = bare_finals(units, store) if keeps else []
    if bare:
        mend = "run the command without --show" if show else "give the command again"
        say(
            f"the weights of {count(len(bare), 'final')} are not there; to fit them again and keep "
            f"their weights, {mend}",
            sys.stderr,
        )
    if (results.failures.height or bare) and not show:
        raise typer.Exit(1)


def _models(units: tuple[Unit, ...], store: Store) -> list[dict[str, str | int]]:
    """The models kept: dataset, method, selection, seed, and the path of the run directory."""
    return [
        {
            **{"dataset": task.dataset, "method": task.method.name, "selection": selection},
            **{"seed": task.seed, "path": str(path)},
        }
        for unit in units
        for task in unit.finals(store) or ()
        if store.has_models(task)
        for selection, path in store.models(task).items()
    ]


def _workers(n: int, threads: int, ray: str | None, gpus: float) -> Workers:
    from cnsdiff.benchmark.workers import LocalWorkers, RayWorkers
    from cnsdiff.display.progress import is_live

    lines = not is_live()  # they would tear the live table
    if ray is None:
        return LocalWorkers(n, lines=lines)
    return RayWorkers(ray, threads, gpus=gpus, lines=lines)


def _run(
    units: tuple[Unit, ...], store: Store, workers: Workers, retry_failed: bool, keeps: bool
) -> None:
    from cnsdiff.benchmark.progress import reporter_for_terminal
    from cnsdiff.benchmark.run import run
    from cnsdiff.cli.failure import interruptible

    how = f"what is done is kept in {store.path}, and the same command goes on"
    with interruptible(how), workers:
        run(
            units,
            store,
            workers,
            reporter_for_terminal(),
            retry_failed=retry_failed,
            keep_weights=keeps,
        )


def _print(
    grid: Grid,
    results: Results,
    form: str,
    baseline: str | None,
    ours: str | None,
    rivals: str,
    steps: list[Command],
    models: list[dict[str, str | int]],
) -> None:
    from cnsdiff.base.text import say
    from cnsdiff.benchmark.findings import PARTS, benchmark_verdict, find
    from cnsdiff.cli.output import console, print_json, print_next
    from cnsdiff.display.render import render
    from cnsdiff.evaluation.protocol import protocol

    findings = find(grid, results, baseline=baseline, ours=ours, rivals=rivals)
    shown = findings.tables() if findings else dict.fromkeys(PARTS, ())
    verdict = benchmark_verdict(findings.summary, findings.metric) if findings else None
    if form == "json":
        print_json(
            {
                "name": grid.name,
                "masked": "train",
                "missing": results.missing,
                "verdict": verdict,
                **{key: [table.to_dict() for table in tables] for key, tables in shown.items()},
                "failures": results.failures.to_dicts(),
                "models": models,
                "next": [str(command) for command in steps],
            }
        )
        return
    print(
        render([t for tables in shown.values() for t in tables], form, styled=sys.stdout.isatty())
    )
    for failure in results.failures.iter_rows(named=True):
        say(
            f"failed: {failure['dataset']} {failure['method']} {failure['kind']} seed "
            f"{failure['seed']} {failure['setting']}: {failure['error']}",
            sys.stderr,
        )
    if results.missing:
        say(f"{results.missing} results are still missing", sys.stderr)
    if form == "text" and findings is not None:
        screen = console()
        screen.print(f"{protocol().capitalize()}.")
        if verdict is not None:
            screen.print(verdict, style="bold", soft_wrap=True)
        print_next(screen, *steps)
