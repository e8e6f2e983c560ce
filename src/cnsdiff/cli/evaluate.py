"""``cnsdiff evaluate``: how good a run is, in the world it was trained in and in a shifted one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cnsdiff.data import Dataset
    from cnsdiff.evaluation import Evaluation

EXAMPLE = "Example: cnsdiff evaluate runs/food --references"


def evaluate(
    target: Annotated[
        Path, typer.Argument(help="Run directory, or a dataset for references only.")
    ],
    dataset: Annotated[
        Path | None, typer.Option(help="Where the run's dataset is now, if it has moved.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only these splits (valid, test_iid, test_ood).")
    ] = None,
    references: Annotated[
        bool, typer.Option(help="Also MostPop, ItemKNN and EASE, fitted on the same train split.")
    ] = False,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="Also precision, hit rate, MRR, MAP, coverage, …")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank the whole catalogue for every user and measure on valid, IID and OOD test."""
    import polars as pl

    from cnsdiff.cli.output import comparison_table, console, metrics_table, print_json, user_counts
    from cnsdiff.config import EvaluationConfig
    from cnsdiff.data import load_dataset
    from cnsdiff.errors import InputError, RunError, did_you_mean
    from cnsdiff.evaluation.evaluate import STANDARD_SPLITS
    from cnsdiff.recommender import Recommender
    from cnsdiff.storage import write_with

    splits = split or list(STANDARD_SPLITS)
    for name in splits:
        if name not in STANDARD_SPLITS:
            raise InputError(
                f"--split {name}: is no held-out split{did_you_mean(name, STANDARD_SPLITS)}; "
                f"choose from {', '.join(STANDARD_SPLITS)}"
            )
    results: dict[str, Evaluation] = {}
    is_run = any((target / file).exists() for file in ("config.yaml", "weights.safetensors"))
    if (target / "manifest.json").exists() and not is_run:
        data, ks, references = load_dataset(target), EvaluationConfig().ks, True
    else:
        model = Recommender.load(target)
        place = dataset or model.dataset_path_
        if place is None:
            raise RunError(f"{target}: was trained in memory; say where its --dataset is")
        if dataset is None and not place.exists():
            raise RunError(f"{place}: the run's dataset is gone; say where it is with --dataset")
        data, ks = load_dataset(place), model.config_.evaluation.ks
        results[model.config_.sampler.name] = model.evaluate(data, splits)
    if references:
        results |= _references(data, splits, ks)
    if is_run:
        frames = [e.table().insert_column(0, pl.lit(m).alias("model")) for m, e in results.items()]
        write_with(target / "metrics.parquet", pl.concat(frames).write_parquet)
    if json:
        print_json({name: result.to_dict() for name, result in results.items()})
        return
    screen = console()
    title = f"{data.name} ({data.scenario}): full ranking, train positives masked"
    screen.print(comparison_table(title, results, ks))
    if all_metrics:
        for name, result in results.items():
            screen.print(metrics_table(name, result))
    screen.print(user_counts(next(iter(results.values()))))


def _references(data: Dataset, splits: list[str], ks: tuple[int, ...]) -> dict[str, Evaluation]:
    from cnsdiff.evaluation import evaluate as measure
    from cnsdiff.references import REFERENCES

    return {
        name: measure(reference().fit(data), data, splits, ks)
        for name, reference in REFERENCES.items()
    }
