"""``cnsdiff quickstart``: the whole story on an embedded world, in a few minutes."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cnsdiff.cli.options import Json, Seed

EXAMPLE = "Example: cnsdiff quickstart --out quickstart"


def quickstart(
    out: Annotated[
        Path | None, typer.Option(help="Keep the dataset and the runs in this new directory.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=10**6, help="At most so many epochs.")] = 40,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Simulate a confounded world, train random and exposure, compare them under a shift.

    Either model is read twice: for the world it was trained in, and for even exposure.
    The world's clicks are biased by what was popular; the OOD test is what its users click when
    everything is shown alike. No data and no network are needed.
    """
    from cnsdiff.base.errors import InputError
    from cnsdiff.base.text import Command
    from cnsdiff.cli.output import (
        comparison_table,
        console,
        print_json,
        print_next,
        print_table,
    )
    from cnsdiff.data import load_dataset
    from cnsdiff.evaluation import Evaluation, evaluate
    from cnsdiff.recommender.recommender import Recommender
    from cnsdiff.references import MostPop, left_out_if_it_fails
    from cnsdiff.simulate import ConfoundedWorld
    from cnsdiff.training.progress import reporter_for_terminal

    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already exists; choose another --out")
    keep: contextlib.AbstractContextManager[str | Path] = (
        tempfile.TemporaryDirectory() if out is None else contextlib.nullcontext(out)
    )
    with keep as place:
        folder = Path(place)
        ConfoundedWorld(seed=seed).dataset().save(folder / "dataset")
        dataset = load_dataset(folder / "dataset")
        results: dict[str, Evaluation] = {}
        left_out: dict[str, str] = {}
        with left_out_if_it_fails("mostpop", left_out):
            results["mostpop"] = evaluate(MostPop().fit(dataset), dataset)
        # So small a world has few steps an epoch: larger ones than usual.
        models = {
            "random": Recommender(sampler="random", seed=seed, training=_training(epochs, 0.01)),
            "exposure": Recommender(seed=seed, training=_training(epochs, 0.003)),
        }
        for name, model in models.items():
            model.fit(dataset, run=folder / name, reporter=reporter_for_terminal(name))
            results[name] = model.evaluate(dataset)
        for name, model in models.items():
            even = model.best_dial(dataset, "inverse-exposure")
            results[f"{name}, even exposure"] = model.evaluate(dataset, dial=even)
    if json:
        document = {name: result.to_dict() for name, result in results.items()}
        path = None if out is None else str(out)
        print_json({"path": path, "models": document, "left_out": left_out})
        return
    screen = console()
    title = (
        "ConfoundedWorld: clicks logged under popularity bias, tested with everything shown alike"
    )
    print_table(screen, comparison_table(title, results, (10, 20)))
    for name, reason in left_out.items():
        screen.print(f"{name} is left out: {reason}.", soft_wrap=True)
    for line in (
        "IID test: clicks of the same biased log. OOD test: clicks under do(exposure = uniform).",
        "Last rows: the same two models, at the dial that validation chooses for even exposure.",
        f"{next(iter(results.values())).protocol.capitalize()}.",
        "One seed and one small world prove nothing about your data: try it.",
    ):
        screen.print(line)
    steps = [
        Command("audit", "ratings.csv", purpose="with your own log: what a shift costs, what to do")
    ]
    if out is not None:
        run = out / "exposure"
        steps.append(Command("report", run, purpose="this model in one HTML file"))
        steps.append(Command("recommend", run, users="0,1", purpose="its lists"))
        screen.print(f"Kept in {out}", soft_wrap=True)
    print_next(screen, *steps)


def _training(epochs: int, lr: float) -> dict[str, int | float]:
    return {"epochs": epochs, "patience": 6, "patience_steps": 0, "lr": lr}
