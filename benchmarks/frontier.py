r"""How each method trades IID for OOD as the dial turns, and how the default's settings matter.

    python benchmarks/frontier.py DATASET --grid benchmarks/accuracy/all.yaml --dataset NAME \
        [--methods exposure,dns,ease] [--seed 0] [--json FILE] [--plot FILE.svg] \
        [--sensitivity objective.temperature=0.1,0.2,0.5 backbone.layers=1,2,3]

DATASET is a directory, NAME what the grid calls it. Each method is trained once, in its own setting
and with the budget that the grid gives it there. Validation picks epoch and dial as the grid's
``anticipated+dial`` does; then the same weights are measured on both tests at every dial, from -4
to 8. Beside the dial picked stands the one that plain validation picks for the same weights.

``--sensitivity`` changes one setting of ``exposure`` at a time; ``valid+dial`` and
``anticipated+dial`` each pick the epoch and the dial of one training. ``--methods ''`` leaves out
the walks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cnsdiff import load_dataset
from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.benchmark.fit import Choice, selection_by
from cnsdiff.benchmark.grid import DIAL, PLAIN, Grid, read_grid
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.task import Task, fit_task
from cnsdiff.cli.parsing import parse_assignments
from cnsdiff.data import Dataset
from cnsdiff.evaluation import Scorer, evaluate
from cnsdiff.evaluation.dial import FINE, Dialled, exposure_score, readings
from cnsdiff.references import REFERENCES
from cnsdiff.training.config import TrainingConfig

OURS, POPULARITY = "exposure", "mostpop"
RIVALS = ("dns", "mixgcf", "random", "ssm", "ssm-uniform", "ease", "itemknn")
PLAIN_DIAL = PLAIN + DIAL
K = 20
METRICS = (f"ndcg@{K}", f"recall@{K}")
SPLITS = {"iid": "test_iid", "ood": "test_ood"}


def tasks_of(grid: Grid, name: str, path: Path, seed: int, threads: int) -> dict[str, Task]:
    """The grid's own final of every method on a dataset, before any search."""
    if name not in grid.datasets:
        raise ConfigError(f"the grid has no dataset {name!r}{did_you_mean(name, grid.datasets)}")
    trials = [unit.trials[0] for unit in plan(grid, {name: path}, threads=threads)]
    anticipated = (grid.datasets[name].anticipate or PLAIN) + DIAL
    return {
        trial.method.name: replace(trial, kind="final", seed=seed, selections=(anticipated,))
        for trial in trials
    }


def on_tests(scorer: Scorer, dataset: Dataset) -> dict[str, dict[str, float]]:
    """:data:`METRICS` on both tests; every user is ranked once."""
    found = evaluate(scorer, dataset, list(SPLITS.values()), ks=(K,)).splits
    return {
        short: {metric: float(found[split].metrics[metric]) for metric in METRICS}
        for short, split in SPLITS.items()
    }


def walk(task: Task, dataset: Dataset) -> dict[str, Any]:
    """Fit a method, and measure its weights on the tests at every dial.

    MostPop, which is the environment itself, and random scores are read at 0 alone.
    """
    fitted = fit_task(task, dataset)
    choice = fitted.choices[task.selections[0]]
    reading = choice.scorer
    assert isinstance(reading, Dialled)
    trained, reference = reading.scorer, task.method.reference
    gammas = FINE if reference is None or REFERENCES[reference].dialled else (0.0,)
    # Plain validation is shaped by no setting.
    settings = TrainingConfig()
    selection = selection_by(dataset, [PLAIN_DIAL], task.metric, settings, reading.device)
    # As the grid looks for a dial: near the best coarse one, where there is more than one.
    plain = selection.place(trained, [PLAIN_DIAL], None if len(gammas) > 1 else gammas)[PLAIN_DIAL]
    at_dials = {
        short: readings(
            trained,
            exposure_score(dataset),
            dataset.split(split),
            selection.train,
            gammas=gammas,
            ks=(K,),
            device=reading.device,
        )
        for short, split in SPLITS.items()
    }
    points = [
        {
            "gamma": gamma,
            **{
                short: {metric: found[gamma][metric] for metric in METRICS}
                for short, found in at_dials.items()
            },
        }
        for gamma in gammas
    ]
    return {
        "gamma": choice.gamma,
        "value": choice.value,
        "plain_gamma": plain.dial,
        "plain_value": plain.value,
        "epoch": choice.epoch,
        "epochs": fitted.epochs,
        "stopped_by": fitted.stopped_by,
        "seconds": fitted.seconds,
        "walk": points,
    }


def print_walk(name: str, found: dict[str, Any]) -> None:
    metric, at = METRICS[0], {point["gamma"]: point for point in found["walk"]}
    chosen, plain = at[found["gamma"]], at[found["plain_gamma"]]
    best = max(found["walk"], key=lambda point: point["ood"][metric])
    print(
        f"{name:<14} {found['epoch']:>5} {found['stopped_by']:>10} {found['gamma']:>6g} "
        f"{chosen['ood'][metric]:>7.4f} {chosen['iid'][metric]:>7.4f} "
        f"{plain['gamma']:>8g} {plain['iid'][metric]:>7.4f} "
        f"{best['ood'][metric]:>13.4f} {best['gamma']:>6g}",
        flush=True,
    )


def variants(task: Task, knobs: Iterable[str]) -> list[tuple[str, str, Task]]:
    """``KEY=V1,V2`` as the task with one setting changed at a time; first the task as it is.

    Raises
    ------
    ConfigError
        A key or a value is wrong; nothing has been trained yet.
    """
    found = [("own", "", task)]
    for knob in knobs:
        key, _, values = knob.partition("=")
        for value in values.split(","):
            method = task.method.with_setting(parse_assignments([f"{key}={value}"]))
            found.append((key, value, replace(task, method=method)))
    for _, _, changed in found:
        changed.method.config(changed.seed, changed.threads)
    return found


def sensitivity(task: Task, knobs: Sequence[str], dataset: Dataset) -> list[dict[str, Any]]:
    """The validation objectives of each setting, and the tests at the epochs and dials picked."""
    anticipated = task.selections[0]
    task = replace(task, selections=tuple(dict.fromkeys((PLAIN_DIAL, anticipated))))
    print(f"\n{OURS}, one setting changed at a time; '=' marks the value it has")
    print("valid: the objective where it is best; IID and OOD: the tests there")
    print(f"{'':<36}|{PLAIN_DIAL:^31}|{anticipated:^39}")
    head = f"{'valid':>7} {'epoch':>5} {'dial':>6} {'IID':>7}"
    print(f"{'setting':<27} {'value':>7} | {head} | {head} {'OOD':>7}")
    done: dict[str, dict[str, Any]] = {}  # values that are the method's own train nothing new
    rows = []
    for key, value, changed in variants(task, knobs):
        config = changed.method.config(changed.seed, changed.threads).model_dump_json()
        own = config in done
        if not own:
            fitted = fit_task(changed, dataset)
            choices = {name: _picked(found, dataset) for name, found in fitted.choices.items()}
            trained = {"epochs": fitted.epochs, "stopped_by": fitted.stopped_by}
            done[config] = {**trained, "choices": choices}
        row = {"setting": key, "value": value, **done[config]}
        rows.append(row)
        plain, shifted = (row["choices"][name] for name in (PLAIN_DIAL, anticipated))
        print(
            f"{key:<27} {value:>7}{'=' if own else ' '}| {_cells(plain)} | {_cells(shifted)} "
            f"{shifted['ood'][METRICS[0]]:>7.4f}",
            flush=True,
        )
    return rows


def _picked(choice: Choice, dataset: Dataset) -> dict[str, Any]:
    tests = on_tests(choice.scorer, dataset)
    return {"value": choice.value, "epoch": choice.epoch, "gamma": choice.gamma, **tests}


def _cells(picked: dict[str, Any]) -> str:
    return (
        f"{picked['value']:>7.4f} {picked['epoch']:>5} {picked['gamma']:>6g} "
        f"{picked['iid'][METRICS[0]]:>7.4f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", metavar="DATASET", type=Path)
    parser.add_argument("--grid", type=Path, required=True)
    parser.add_argument("--dataset", required=True, help="its name in the grid")
    parser.add_argument("--methods", default=",".join((OURS, *RIVALS)), help="with commas between")
    parser.add_argument(
        "--sensitivity", nargs="+", action="extend", default=[], metavar="KEY=V1,V2"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", "--out", type=Path)
    parser.add_argument("--plot", type=Path, help="the figure, as SVG")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.path)
    grid = read_grid(options.grid)
    tasks = tasks_of(grid, options.dataset, options.path, options.seed, options.threads)
    names = [name for name in options.methods.split(",") if name]
    for name in [*names, *([OURS] if options.sensitivity else [])]:
        if name not in tasks:
            raise ConfigError(
                f"the grid has no method {name!r} on {options.dataset}{did_you_mean(name, tasks)}"
            )
    if names and POPULARITY in tasks and POPULARITY not in names:
        names.append(POPULARITY)
    selection = next(iter(tasks.values())).selections[0]
    result: dict[str, Any] = {"dataset": options.dataset, "grid": grid.name}
    result |= {"selection": selection, "seed": options.seed, "threads": options.threads}
    if names:
        print(f"{options.dataset}: test {METRICS[0]} of one training each, seed {options.seed}")
        print(f"chosen: epoch and dial by {selection}; plain: the dial by {PLAIN}, same weights")
        print("best OOD: read off the test set, for description only; nothing is picked by it")
        print(f"{'':<37}{'- chosen -':>16} {'- plain -':>16} {'- best OOD -':>20}")
        print(
            f"{'method':<14} {'epoch':>5} {'stopped by':>10} {'dial':>6} {'OOD':>7} {'IID':>7} "
            f"{'dial':>8} {'IID':>7} {'OOD':>13} {'dial':>6}"
        )
        result["methods"] = {}
    for name in names:
        found = {"group": grid.methods[name].group, **walk(tasks[name], dataset)}
        result["methods"][name] = found
        print_walk(name, found)
    if options.sensitivity:
        result["sensitivity"] = sensitivity(tasks[OURS], options.sensitivity, dataset)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plot and names:
        from frontier_figure import save

        save(result, options.plot)


if __name__ == "__main__":
    main()
