"""The report of a run: what it keeps under the shift, beside what any method has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from cnsdiff.base.errors import CnsdiffError, InputError
from cnsdiff.base.spelling import Command
from cnsdiff.base.storage import read_parquet
from cnsdiff.data import Dataset, Split, load_dataset
from cnsdiff.display.progress import Reporting
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import metric_title
from cnsdiff.evaluation.dial import in_words
from cnsdiff.evaluation.metrics import ACCURACY
from cnsdiff.recommender import run_directory
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.references import REFERENCES, STANDARD, left_out_if_it_fails
from cnsdiff.report.accuracy import (
    Measured,
    accuracy_blocks,
    measure_model,
    stand,
    tests_of,
)
from cnsdiff.report.dial import dial_blocks
from cnsdiff.report.document import Block, Document, Facts, Prose, Section, Source, verbatim
from cnsdiff.report.negatives import negative_blocks
from cnsdiff.report.run_next import next_steps
from cnsdiff.report.run_verdict import verdict_on_tests, verdict_without_tests
from cnsdiff.report.shift import shift_blocks
from cnsdiff.report.slices import slice_blocks
from cnsdiff.report.training import training_blocks

#: Items up to which EASE is fitted here: its time grows with their cube, and takes minutes beyond.
EASE_ITEMS = 6_000


def run_document(
    path: Path, *, dataset: Path | None = None, seed: int = 0, reporter: Reporting | None = None
) -> Document:
    """The report of a finished run.

    Parameters
    ----------
    path
        The run directory.
    dataset
        Where its dataset is now, if it has moved. A run whose dataset is gone has a report of what
        it holds itself.
    seed
        Of the resampling of users and of the negatives drawn.
    reporter
        Told what is being done.

    Raises
    ------
    RunError
        The run is unfinished or damaged.
    InputError
        ``dataset`` is not the one the run was trained on.
    """
    told = reporter or Reporting()
    parts = run_directory.read_run(path)
    model = Recommender.load(path)
    data, missing = _dataset_of(model, path, dataset)
    metric = _metric(model)
    sampler, backbone = model.config_.sampler.name, model.config_.backbone.name
    trained_on = parts["manifest"]["dataset"]
    title = f"{backbone} + {sampler} on {trained_on['name']} ({trained_on['scenario']})"
    sections: list[Section] = []
    verdict = summary = ""
    held_out = tests_of(data) if data is not None else {}
    if data is not None and held_out:
        measured, left_out = _measure(model, data, held_out, path, told)
        told.note("comparing them by resampling users")
        standing = stand(measured, metric, seed)
        verdict, summary = verdict_on_tests(standing, data)
        summary += "".join(f"\n\n{sentence}" for sentence in left_out)
        sections.append(Section("Accuracy", accuracy_blocks(standing)))
        sections.append(
            Section("Slices", slice_blocks(measured, held_out, model.model_.train, metric, seed))
        )
        told.note("turning the dial")
        dial = dial_blocks(model.model_, model.config_, data, held_out, measured[1:], metric)
        sections.append(Section("Dial", dial))
    else:
        verdict, summary = verdict_without_tests(model, parts["history"], missing)
        if (known := _last_evaluation(path, metric)) is not None:
            sections.append(Section("Accuracy", [known]))
    if data is not None:
        told.note("asking the trained sampler for negatives")
        sections.append(
            Section("Negatives", _or_why_not(lambda: negative_blocks(model, data, seed)))
        )
        told.note("measuring the shift")
        sections.append(Section("Shift", _or_why_not(lambda: shift_blocks(data, seed))))
    metrics = (model.config_.training.selection_metrics[0], *_plain_metrics(metric))
    history = training_blocks(parts["history"], model.best_epoch_, tuple(dict.fromkeys(metrics)))
    sections.append(Section("Training", history))
    sections.append(Section("Next", next_steps(path, model, data, missing)))
    sections.append(Section("Run", _provenance(path, parts, model)))
    return Document(title, verdict, sections, summary)


def _dataset_of(
    model: Recommender, path: Path, given: Path | None
) -> tuple[Dataset | None, str | None]:
    """The dataset of the run, or why there is none."""
    place = given or model.dataset_path_
    if place is None:
        return None, "It was trained on a dataset in memory"
    try:
        data = load_dataset(place)
    except CnsdiffError:
        if given is not None:
            raise
        return None, f"Its dataset is no longer in {place}"
    if data.fingerprint != model.trained_on_["fingerprint"]:
        if given is not None:
            raise InputError(
                f"{given}: is not the dataset that {path} was trained on, or its content changed; "
                "name that one"
            )
        return None, f"The dataset in {place} is no longer the one that it was trained on"
    return data, None


def _metric(model: Recommender) -> str:
    """The metric of the figures: the one that selects, where it is one of accuracy."""
    chosen, ks = model.config_.training.select_metric, model.config_.evaluation.ks
    name, _, k = chosen.partition("@")
    return chosen if name in ACCURACY and k.isdigit() and int(k) in ks else f"ndcg@{max(ks)}"


def _plain_metrics(metric: str) -> tuple[str, ...]:
    _, _, k = metric.partition("@")
    return (f"ndcg@{k}", f"recall@{k}")


def _measure(
    model: Recommender,
    data: Dataset,
    held_out: Mapping[str, Split],
    path: Path,
    told: Reporting,
) -> tuple[list[Measured], list[str]]:
    """The run and the references on the tests, and what was left out, a sentence each."""
    train, ks = model.model_.train, model.config_.evaluation.ks
    told.note(f"ranking for the users of {data.name}")
    own = measure_model(
        f"{model.config_.sampler.name} (this run)", model.model_.scorer(), held_out, train, ks
    )
    measured, left_out = [own], []
    failed: dict[str, str] = {}
    for name in STANDARD:
        if name == "ease" and data.n_items > EASE_ITEMS:
            left_out.append(
                f"EASE is left out: with {data.n_items:,} items it takes minutes. "
                f"`{verbatim(Command('evaluate', path, references=True))}` measures it."
            )
            continue
        told.note(f"fitting {name}")
        with left_out_if_it_fails(name, failed):
            reference = REFERENCES[name]().fit(data)
            measured.append(measure_model(name, reference, held_out, train, ks))
    left_out += [f"{name} is left out: {reason}." for name, reason in failed.items()]
    return measured, left_out


def _last_evaluation(path: Path, metric: str) -> Block | None:
    """What ``cnsdiff evaluate`` found last, if it did: without intervals."""
    file = path / "metrics.parquet"
    if not file.is_file():
        return None
    try:
        found = read_parquet(file)
        name, _, k = metric.partition("@")
        chosen = found.filter(pl.col("metric") == name, pl.col("k") == int(k))
        wide = chosen.pivot("split", index="model", values="value", maintain_order=True)
        splits = wide.columns[1:]
        rows = tuple(
            (
                (str(row["model"]),),
                tuple(Cell(math.nan if row[s] is None else float(row[s])) for s in splits),
            )
            for row in wide.iter_rows(named=True)
        )
    except (pl.exceptions.PolarsError, OSError, ValueError, KeyError):
        return Prose("The file `metrics.parquet` of the run is damaged; evaluate it again.")
    return Table(
        f"{metric_title(metric)} when it was last evaluated",
        ("method",),
        tuple(Column(split, split) for split in splits),
        rows,
        ("from metrics.parquet of the run; without the dataset there are no intervals",),
    )


def _or_why_not(build: Callable[[], list[Block]]) -> list[Block]:
    """The blocks of a section, or the sentence that says why it has none."""
    try:
        return build()
    except CnsdiffError as error:
        return [Prose(f"Left out: {verbatim(error)}")]


def _provenance(path: Path, parts: Mapping[str, Any], model: Recommender) -> list[Block]:
    manifest, history = parts["manifest"], parts["history"]
    versions = manifest["versions"]
    facts = [
        ("users", f"{len(parts['users']):,}"),
        ("items", f"{len(parts['items']):,}"),
        ("training pairs", f"{len(parts['train']):,}"),
        ("epochs", f"{manifest['epochs']}, the best {manifest['best_epoch']}"),
        ("seconds of training", f"{history['seconds'].sum():,.0f}"),
        ("dial", in_words(model.dial_)),
        ("seed", str(model.config_.seed)),
        ("written by", manifest["created_by"]),
        ("Python", versions["python"]),
        ("torch", versions["torch"]),
        ("numpy", versions["numpy"]),
        ("this report by", f"cnsdiff {version('cnsdiff')}"),
        ("dataset", f"{manifest['dataset']['name']} ({manifest['dataset']['scenario']})"),
        ("fingerprint of the dataset", manifest["dataset"]["fingerprint"]),
        ("fingerprint of the configuration", manifest["config_fingerprint"]),
        ("run", str(path)),
    ]
    config = (path / "config.yaml").read_text(encoding="utf-8")
    return [Facts(facts), Source("config.yaml", config)]
