"""``cnsdiff evaluate``: how good a run is, in the world it was trained in and in a shifted one."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cnsdiff.base.text import Command
from cnsdiff.cli import completion
from cnsdiff.cli.options import Dial, Json

if TYPE_CHECKING:
    from cnsdiff.base.errors import StorageError
    from cnsdiff.data import Dataset
    from cnsdiff.evaluation import Evaluation
    from cnsdiff.evaluation.judges import JudgeKind
    from cnsdiff.recommender.recommender import Recommender

#: What the system says where a run may be read only.
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

#: Share of lists that end in a tie from which on a reader is told: below it the order of the rows
#: moved no value by more than 1% (docs/metrics.md).
_TIED = 0.25

EXAMPLE = "Example: cnsdiff evaluate runs/food --references"


class MaskChoice(StrEnum):
    """Pairs that lists leave out."""

    train = "train"
    past = "past"


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
            help=f"Only these splits ({completion.words('splits')}).",
            autocompletion=completion.split,
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
    mask: Annotated[
        MaskChoice,
        typer.Option(
            help="What lists leave out: the pairs of train, as published numbers do, or each "
            "user's whole past, as a shop would."
        ),
    ] = MaskChoice.train,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="Also precision, hit rate, MRR, MAP, coverage, …")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write all metrics to this .parquet or .csv instead of metrics.parquet in the run."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Rank the whole catalogue for every user and measure on valid, IID and OOD test."""
    from cnsdiff.base.errors import ConfigError, InputError, RunError, did_you_mean
    from cnsdiff.benchmark.fit import reference_scorer
    from cnsdiff.cli.output import (
        GrowingComparison,
        console,
        metrics_table,
        print_json,
        print_next,
        print_table,
        user_counts,
    )
    from cnsdiff.data import load_dataset
    from cnsdiff.environment import rehearse
    from cnsdiff.evaluation import evaluate as measure
    from cnsdiff.evaluation.judges import judge_for
    from cnsdiff.evaluation.metrics import relevance_of
    from cnsdiff.evaluation.protocol import STANDARD_SPLITS, splits_to_evaluate
    from cnsdiff.recommender.config import EvaluationConfig
    from cnsdiff.recommender.recommender import Recommender
    from cnsdiff.recommender.run_directory import is_run
    from cnsdiff.references import REHEARSED, STANDARD, left_out_if_it_fails

    for name in split or ():
        if name not in STANDARD_SPLITS:
            raise InputError(
                f"--split {name}: is not a held-out split{did_you_mean(name, STANDARD_SPLITS)}; "
                f"choose from {', '.join(STANDARD_SPLITS)}"
            )
    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{out}: the name must end in .parquet or .csv")
    model = label = None
    of_run = is_run(target)
    if (target / "manifest.json").exists() and not of_run:
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
        data, ks = model.learnt_from(load_dataset(place)), model.config_.evaluation.ks
        name = model.config_.method
        label = name if dial is None else f"{name} (dial {dial:g})"
        if label in REHEARSED:  # which may be in the same table
            label = f"{label} (this run)"
        if false_negatives is not None and model.config_.closed_form:
            raise InputError(
                f"{target}: {name} is solved in closed form, and --false-negatives needs a run "
                "with a trained sampler"
            )
    # Beside a model that was rehearsed, references are, too.
    rehearsal = settings = None
    if references and model is not None and model.environment_ is not None:
        settings = model.config_.training
        rehearsal = rehearse(data, settings.horizon)
    names = (STANDARD if rehearsal is None else REHEARSED) if references else ()
    screen = console()
    results: dict[str, Evaluation] = {}
    left_out: dict[str, str] = {}
    table: GrowingComparison | None = None

    def keep(name: str, result: Evaluation) -> None:
        nonlocal table
        results[name] = result
        if not json:
            if table is None:
                title = f"{data.name} ({data.scenario}): {result.protocol}"
                table = GrowingComparison(screen, title, [*([label] if label else []), *names], ks)
            table.add(name, result)

    # The run's own numbers come first and are safe before anything else is begun.
    # Reports read metrics.parquet as measured the usual way.
    usual = of_run and mask is MaskChoice.train
    file = out or (target / "metrics.parquet" if usual else None)
    unwritten = counts = None
    if model is not None and label is not None:
        if false_negatives is not None:  # a judge that there is not is told before the work
            judge_for(data, cast("JudgeKind", false_negatives))
        keep(label, model.evaluate(data, split, mask=mask.value, dial=dial))
        unwritten = None if file is None else _write(file, results)
        splits = list(results[label].splits)
    else:
        splits = split or splits_to_evaluate(data)
        for name in splits:  # one sentence, not one for each reference
            relevance_of(data.split(name), name, (data.n_users, data.n_items))
    for name in names:
        evaluation = None
        with left_out_if_it_fails(name, left_out):
            scorer = reference_scorer(name, data, rehearsal=rehearsal, settings=settings)
            evaluation = measure(scorer, data, splits, ks, mask=mask.value)
        if evaluation is not None:  # what goes wrong while printing is not the reference's fault
            keep(name, evaluation)
    if not results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"{target}: no reference could be measured ({reasons})")
    if table is not None:
        table.close()
    if file is not None and unwritten is None and names:
        unwritten = _write(file, results)
    if model is not None and false_negatives is not None:
        counts = model.false_negatives(data, cast("JudgeKind", false_negatives))
    new_items, new_words = _new_items(model, data, split, ks, dial)
    verdict = _verdict(results, label, f"ndcg@{max(ks)}")
    steps = _next(target, of_run, references)
    if json:
        report: dict[str, object] = {
            "dataset": data.name,
            "scenario": data.scenario,
            "masked": mask.value,
            "models": {name: result.to_dict() for name, result in results.items()},
            "left_out": left_out,
            "verdict": verdict,
            "next": [str(command) for command in steps],
        }
        if counts is not None:
            report["false_negatives"] = {"judge": false_negatives, **counts.scalars()}
        if new_items is not None:
            report["new_items"] = new_items
        if unwritten is not None:
            report["not_written"] = str(unwritten)
        print_json(report)
    else:
        if all_metrics:
            for name, result in results.items():
                print_table(screen, metrics_table(name, result))
        screen.print(user_counts(next(iter(results.values()))))
        if rehearsal is not None:
            screen.print(
                "References are rehearsed, too, each with its own environment.",
                soft_wrap=True,
            )
        if counts is not None:
            low, high = counts.interval()
            screen.print(
                f"False negatives ({false_negatives}): {counts.fhn:.2%} of {counts.judged:,} "
                f"judged (95% interval {low:.2%} to {high:.2%}); {counts.fhn_hard:.2%} of the "
                "hard ones."
            )
        if new_words:
            screen.print(new_words, soft_wrap=True)
        screen.print(verdict, style="bold", soft_wrap=True)
        print_next(screen, *steps)
    _end([*_ties(results, max(ks)), *_missing(left_out)], unwritten, out is not None)


def _new_items(
    model: Recommender | None,
    data: Dataset,
    asked: Sequence[str] | None,
    ks: Sequence[int],
    dial: float | None,
) -> tuple[dict[str, object] | None, str]:
    """How new items of the OOD test are placed, as JSON has it and in a sentence.

    By default of a test that has no known items, too.
    """
    from dataclasses import asdict

    from cnsdiff.display.wording import metric_title, number, percent

    if model is None or not data.n_new_items or not (asked is None or "test_ood" in asked):
        return None, ""
    pairs = data.table("new_item_pairs")["split"].eq("test_ood").sum()
    if not pairs:
        return None, ""
    if model.content_ is None or not model.content_.used:
        return None, (
            f"{pairs:,} more pairs of the OOD test are of {data.n_new_items:,} new items, which a "
            "model without content cannot tell; train one with --content auto."
        )
    found, metric = model.evaluate_new_items(data, dial=dial), f"ndcg@{max(ks)}"
    by = {"old items": found.warm, "new ones": found.new, "all in one list": found.joint}
    told = ", ".join(f"{number(own[metric])} of {name}" for name, own in by.items() if own)
    of_all = {name: own for name, own in asdict(found).items() if name != "per_user"}
    return of_all, (
        f"With the {data.n_new_items:,} new items that {percent(found.share_taken)} of the OOD "
        f"test's pairs are on: {metric_title(metric)} {told}, where they take "
        f"{percent(found.share_listed[max(ks)])} of the places."
    )


def _verdict(results: Mapping[str, Evaluation], model: str | None, metric: str) -> str:
    """The share kept under the shift, and the references that are better there.

    Parameters
    ----------
    results
        By name: the model and references, or references alone.
    model
        Which of them is the model, if one is.
    metric
        Such as ``"ndcg@20"``.
    """
    from cnsdiff.display.wording import ON_SPLIT, metric_title, number, percent

    splits = next(iter(results.values())).splits
    judged = next((name for name in ON_SPLIT if name in splits), next(iter(splits)))
    where = ON_SPLIT.get(judged, judged)
    values = {name: result[judged][metric] for name, result in results.items()}
    if model is None:
        best = max(values, key=lambda name: values[name])
        return (
            f"The best reference {where} is {best}: {metric_title(metric)} {number(values[best])}."
        )
    own = values[model]
    sentence = f"{model} has {metric_title(metric)} {number(own)} {where}"
    if judged == "test_ood" and "test_iid" in splits:
        before = results[model]["test_iid"][metric]
        if before:
            sentence += f", {percent(own / before)} of the {number(before)} on the IID test"
    others = sorted(
        ((value, name) for name, value in values.items() if name != model), reverse=True
    )
    better = [f"{name} ({number(value)})" for value, name in others if value >= own]
    if better:
        sentence += f"; better there: {', '.join(better)}"
    elif others:
        value, name = others[0]
        sentence += f"; the best reference, {name}, has {number(value)}"
    return f"{sentence}."


def _ties(results: Mapping[str, Evaluation], k: int) -> list[str]:
    """A note on models whose lists end in a tie for many users, on whatever split."""
    most = {name: max(s.tied for s in result.splits.values()) for name, result in results.items()}
    shares = [
        f"{share:.0%} of the lists of {name}" for name, share in most.items() if share > _TIED
    ]
    if not shares:
        return []
    return [
        f"{' and '.join(shares)} end at place {k} in a tie, which goes to the item that occurs "
        "first in train: with its rows in another order the values may differ"
    ]


def _missing(left_out: Mapping[str, str]) -> list[str]:
    return [f"{name} is left out: {reason}" for name, reason in left_out.items()]


def _write(file: Path, results: Mapping[str, Evaluation]) -> StorageError | None:
    """All metrics as a table; why it could not be written, for after they have been shown."""
    import polars as pl

    from cnsdiff.base.errors import StorageError
    from cnsdiff.base.storage import write_with

    frames = [e.table().insert_column(0, pl.lit(m).alias("model")) for m, e in results.items()]
    table = pl.concat(frames)
    try:
        write_with(file, table.write_csv if file.suffix == ".csv" else table.write_parquet)
    except StorageError as error:
        return error
    return None


def _end(notes: list[str], unwritten: StorageError | None, asked: bool) -> None:
    """Notes, once all else is told; an unwritten file is one, too, where nobody asked for it."""
    from cnsdiff.base.text import say

    cause = getattr(unwritten, "__cause__", None)
    only_read = not asked and isinstance(cause, OSError) and cause.errno in _READ_ONLY
    if unwritten is not None:
        mend = ", or say where with --out" if only_read else ""
        notes = [*notes, f"the metrics were not kept: {unwritten}{mend}"]
    for note in notes:
        say(f"cnsdiff: {note}", sys.stderr)
    if unwritten is not None and not only_read:
        raise typer.Exit(unwritten.exit_code)


def _next(target: Path, of_run: bool, references: bool) -> list[Command]:
    """Commands to go on with."""
    from cnsdiff.cli.output import train_on

    if not of_run:
        return [train_on(target, "a model to set beside them")]
    beside = Command("evaluate", target, references=True, purpose="beside what any has to beat")
    page = Command("report", target, purpose="all about it in one HTML file")
    lists = Command(
        "recommend", target, all_users=True, out="lists.csv", purpose="the lists themselves"
    )
    return [page, lists] if references else [beside, page, lists]
