"""``cnsdiff evaluate``: how good a run is, in the world it was trained in and in a shifted one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cnsdiff.cli import completion
from cnsdiff.cli.options import Dial, Json

if TYPE_CHECKING:
    from cnsdiff.data import Dataset
    from cnsdiff.evaluation import Evaluation
    from cnsdiff.evaluation.fhn import FalseNegatives
    from cnsdiff.evaluation.judges import JudgeKind

EXAMPLE = "Example: cnsdiff evaluate runs/food --references"


def evaluate(
    target: Annotated[
        Path, typer.Argument(help="Run directory, or a dataset for references only.")
    ],
    dataset: Annotated[
        Path | None, typer.Option(help="Where the run's dataset is now, if it has moved.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these splits (valid, test_iid, test_ood).", autocompletion=completion.split
        ),
    ] = None,
    references: Annotated[
        bool, typer.Option(help="Also MostPop, ItemKNN and EASE, fitted on the same train split.")
    ] = False,
    false_negatives: Annotated[
        str | None,
        typer.Option(
            metavar="JUDGE",
            help="Also the share of false negatives among the trained sampler's, as judged by "
            "valid, held-out, experiment or truth.",
            autocompletion=completion.judge,
        ),
    ] = None,
    dial: Dial = None,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="Also precision, hit rate, MRR, MAP, coverage, …")
    ] = False,
    json: Json = False,
) -> None:
    """Rank the whole catalogue for every user and measure on valid, IID and OOD test."""
    import polars as pl

    from cnsdiff.cli.output import (
        comparison_table,
        console,
        metrics_table,
        print_json,
        print_next,
        user_counts,
    )
    from cnsdiff.cli.verdict import evaluation_verdict
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
    counts: FalseNegatives | None = None
    label = None
    is_run = any((target / file).exists() for file in ("config.yaml", "weights.safetensors"))
    if (target / "manifest.json").exists() and not is_run:
        if false_negatives is not None:
            raise InputError(
                f"{target}: is a dataset, and --false-negatives needs a run with a trained sampler"
            )
        if dial is not None:
            raise InputError(f"{target}: is a dataset, and --dial needs a run to read")
        data, ks, references = load_dataset(target), EvaluationConfig().ks, True
    else:
        model = Recommender.load(target)
        place = dataset or model.dataset_path_
        if place is None:
            raise RunError(f"{target}: was trained in memory; say where its --dataset is")
        if dataset is None and not place.exists():
            raise RunError(f"{place}: the run's dataset is gone; say where it is with --dataset")
        data, ks = load_dataset(place), model.config_.evaluation.ks
        if false_negatives is not None:
            counts = model.false_negatives(data, cast("JudgeKind", false_negatives))
        name = model.config_.sampler.name
        label = name if dial is None else f"{name} (dial {dial:g})"
        results[label] = model.evaluate(data, splits, dial=dial)
    if references:
        results |= _references(data, splits, ks)
    if is_run:
        frames = [e.table().insert_column(0, pl.lit(m).alias("model")) for m, e in results.items()]
        write_with(target / "metrics.parquet", pl.concat(frames).write_parquet)
    metric = f"ndcg@{max(ks)}"
    verdict = evaluation_verdict(results, label, metric)
    steps = _next(target, is_run, references)
    if json:
        report: dict[str, object] = {
            "dataset": data.name,
            "scenario": data.scenario,
            "models": {name: result.to_dict() for name, result in results.items()},
            "verdict": verdict,
            "next": [command for command, _ in steps],
        }
        if counts is not None:
            report["false_negatives"] = {"judge": false_negatives, **counts.scalars()}
        print_json(report)
        return
    screen = console()
    title = f"{data.name} ({data.scenario}): full ranking, train positives masked"
    screen.print(comparison_table(title, results, ks))
    if all_metrics:
        for name, result in results.items():
            screen.print(metrics_table(name, result))
    screen.print(user_counts(next(iter(results.values()))))
    if counts is not None:
        low, high = counts.interval()
        screen.print(
            f"False negatives ({false_negatives}): {counts.fhn:.2%} of {counts.judged:,} judged "
            f"(95 % interval {low:.2%} to {high:.2%}); {counts.fhn_hard:.2%} of the hard ones."
        )
    screen.print(verdict, style="bold", soft_wrap=True)
    print_next(screen, *steps)


def _next(target: Path, is_run: bool, references: bool) -> list[tuple[str, str]]:
    """Commands to go on with, and what each is for."""
    from cnsdiff.visible import shell_word

    place = shell_word(target)
    if not is_run:
        return [(f"cnsdiff train {place} --out RUN", "a model to set beside them")]
    steps = [(f"cnsdiff report {place}", "all about it in one HTML file")]
    if not references:
        steps.insert(0, (f"cnsdiff evaluate {place} --references", "beside what any has to beat"))
    steps.append((f"cnsdiff recommend {place} --all-users --out lists.csv", "the lists themselves"))
    return steps


def _references(data: Dataset, splits: list[str], ks: tuple[int, ...]) -> dict[str, Evaluation]:
    from cnsdiff.evaluation import evaluate as measure
    from cnsdiff.references import REFERENCES, STANDARD

    return {name: measure(REFERENCES[name]().fit(data), data, splits, ks) for name in STANDARD}
