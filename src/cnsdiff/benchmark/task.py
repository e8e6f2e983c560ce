"""The two tasks of a benchmark, as pure functions of what they are given.

A *trial* fits a method with one setting and measures it on validation; no test split is opened. A
*final* fits it with the setting that an objective chose, and measures all splits. Both run
anywhere the dataset's directory can be read.
"""

from __future__ import annotations

import platform
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from cnsdiff.base.errors import ConfigError, StorageError
from cnsdiff.base.text import parameter
from cnsdiff.benchmark.fit import Fitted, best_of, fit_model, fit_reference, rehearses
from cnsdiff.benchmark.grid import Arguments, digest
from cnsdiff.data import Dataset, load_dataset
from cnsdiff.evaluation import Evaluation, Scorer, evaluate
from cnsdiff.evaluation.protocol import STANDARD_SPLITS
from cnsdiff.evaluation.ranking import rank
from cnsdiff.recommender.config import Config, merge, nested, resolve_config
from cnsdiff.recommender.run_directory import BenchmarkOrigin
from cnsdiff.references import CLOSED_FORM, REFERENCES, Reference
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.progress import Reporter

#: Of what a task is and does; results of another version are not taken for this one's.
VERSION = 1

#: The dial that a selection picked, as a metric of validation.
DIALLED = "dial"

#: Splits and metrics whose values per user are stored.
PER_USER_SPLITS = ("test_iid", "test_ood")
PER_USER_METRICS = ("recall", "ndcg")
#: Items of a list that is kept.
LISTED = 20


@dataclass(frozen=True)
class Method:
    """A method as plain values.

    Attributes
    ----------
    name
        In the grid.
    reference
        Name of the reference, or ``None`` for a model that trains.
    options
        Arguments of the reference, or the configuration on top of ``preset``.
    preset
        The configuration underneath.
    """

    name: str
    reference: str | None
    options: Arguments
    preset: str = "default"

    def with_setting(self, setting: Arguments) -> Method:
        """The same with the values a search chose (dotted keys)."""
        return Method(self.name, self.reference, merge(self.options, nested(setting)), self.preset)

    @property
    def seeded(self) -> bool:
        """Whether the result depends on the seed."""
        return self.reference is None or not REFERENCES[self.reference].deterministic

    def config(self, seed: int, threads: int | None = None) -> Config:
        """The configuration of a model that trains; :class:`ConfigError` if it is wrong."""
        options = merge(self.options, {"seed": seed, "threads": threads})
        config = resolve_config(options, preset=self.preset, source=f"methods.{self.name}")
        if config.closed_form:
            raise ConfigError(
                f"methods.{self.name}: {config.method!r} is not trained by gradient; write it as "
                f"a reference, {{reference: {config.method}, options: …}}"
            )
        if config.content.prior != "none":
            raise ConfigError(
                f"methods.{self.name}: a benchmark measures no content; leave content.prior out, "
                "and see benchmarks/new_items.py"
            )
        return config

    def config_of_run(self, settings: Arguments, seed: int, threads: int | None = None) -> Config:
        """The configuration that a model of this method is saved with.

        Parameters
        ----------
        settings
            The ``select_*`` fields of training, which a reference has from elsewhere.

        Raises
        ------
        ConfigError
            It is a reference that cannot be saved.
        """
        if self.reference is None:
            return self.config(seed, threads)
        if self.reference not in CLOSED_FORM:
            raise ConfigError(
                f"methods.{self.name}: {self.reference!r} draws its scores and has no weights to "
                "keep"
            )
        options: Arguments = {"threads": threads, **self.options, "seed": seed}
        # Options of the machine and the seed are settings of the whole configuration.
        whole = {name: options.pop(name) for name in {"device", "threads", "seed"} & options.keys()}
        backbone = {"name": self.reference, **options}
        return resolve_config(
            {"backbone": backbone, "training": settings, **whole}, source=f"methods.{self.name}"
        )

    def build_reference(self, seed: int, threads: int | None = None) -> Reference:
        """The reference, not fitted; :class:`ConfigError` on an option it does not have."""
        assert self.reference is not None
        kind = REFERENCES[self.reference]
        options = {**self.options, "seed": seed} if self.seeded else self.options
        if threads is not None and "threads" in signature(kind).parameters:
            options = {"threads": threads, **options}
        try:
            return kind(**options)
        except TypeError as error:
            raise ConfigError(f"methods.{self.name}: {error}") from error

    def build_references(self, seed: int, threads: int | None = None) -> list[Reference]:
        """Those that its options stand for: several where one says ``"auto"``."""
        reference = self.build_reference(seed, threads)
        if "auto" not in self.options.values():
            return [reference]
        kind = type(reference)
        config = kind.Config(name=str(self.reference), **self.options)
        return list(kind.candidates(config, seed=seed, threads=threads))


@dataclass(frozen=True)
class Task:
    """A trial or a final.

    Attributes
    ----------
    kind
        Which.
    dataset, path, fingerprint
        Name in the grid, directory, and content.
    method
        With its setting already in place.
    setting
        What the search chose, for the record.
    trial
        Number of that setting.
    seed
        Of the training.
    selections
        Objectives that pick the epoch; of a final, those that picked this setting.
    metric
        What the objectives measure.
    ks
        Cut-offs.
    settings
        The grid's ``training`` settings, for the objectives of a reference.
    seconds, cpu_seconds
        Budget on the clock, or of CPU; at most one of them.
    threads
        CPU threads.
    people
        Users whose lists are kept, of a final.
    weights
        Folder in which a final leaves its models, a run directory for each selection; ``None``: it
        leaves none. No result depends on it.
    """

    kind: Literal["trial", "final"]
    dataset: str
    path: str
    fingerprint: str
    method: Method
    setting: Arguments
    trial: int
    seed: int
    selections: tuple[str, ...]
    metric: str
    ks: tuple[int, ...]
    settings: Arguments = field(default_factory=dict)
    seconds: float | None = None
    cpu_seconds: float | None = None
    threads: int | None = None
    people: tuple[int, ...] = ()
    weights: str | None = None

    @property
    def key(self) -> str:
        """Names the task by all that its result depends on (on one machine)."""
        parts = {
            "version": VERSION,
            "kind": self.kind,
            "data": self.fingerprint,
            "name": self.method.name,
            "reference": self.method.reference,
            "options": self.method.options,
            "preset": self.method.preset,
            "seed": self.seed,
            "selections": sorted(self.selections),
            "metric": self.metric,
            "ks": sorted(self.ks),
            "settings": self.settings,
            "seconds": self.seconds,
            # Left out where they are not set: keys stay as they were.
            **({"people": self.people} if self.people else {}),
            **({"cpu_seconds": self.cpu_seconds} if self.cpu_seconds is not None else {}),
            **({"environment": "own units"} if rehearses(self.selections) else {}),
        }
        return f"{self.dataset}.{self.method.name}.{self.kind}.{digest(parts)}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task.

    Attributes
    ----------
    rows
        One per selection, split and metric.
    per_user
        One row per user of each selection and split, of a final; else ``None``.
    lists
        The first 20 items of each of the task's ``people`` by each selection, the best first; or
        ``None``.
    models
        Where its models are, for the store to take in; ``None`` if it left none.
    """

    rows: pl.DataFrame
    per_user: pl.DataFrame | None
    lists: pl.DataFrame | None = None
    models: Path | None = None


def run_task(task: Task, reporter: Reporter | None = None) -> Outcome:
    """Fit and measure, as the task says; ``reporter`` is told of its trainings.

    Raises
    ------
    CnsdiffError
        It cannot be done.
    """
    if task.weights is not None and not Path(task.weights).is_dir():
        raise StorageError(
            f"{task.weights}: not found on {platform.node()}, which should leave models in it; put "
            f"the results ({parameter('out')}) where every machine can write"
        )
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    dataset = load_dataset(Path(task.path))
    fitted = fit_task(task, dataset, reporter)
    rows: list[dict[str, object]] = []
    per_user: list[pl.DataFrame] = []
    lists: list[pl.DataFrame] = []
    # What several objectives chose is one model; one trained on valid, too, has it masked.
    evaluations: dict[tuple[object, ...], Evaluation] = {}
    judged = dataset.merged() if rehearses(task.selections) else dataset
    for selection, choice in fitted.choices.items():
        shared = {"selection": selection, "epoch": choice.epoch}
        values: list[tuple[str, str, float, int | None]] = [
            ("valid", f"{task.metric} (selected)", choice.value, None)
        ]
        if choice.gamma is not None:
            values.append(("valid", DIALLED, choice.gamma, None))
        values += [("train", name, value, None) for name, value in choice.training.items()]
        if task.kind == "final":
            splits = [name for name in STANDARD_SPLITS if name in judged.split_names]
            rehearsed = judged is not dataset and selection
            stack = choice.stack and (*choice.stack.weights, choice.stack.best_epoch)
            model = choice.epoch, choice.gamma or 0.0, choice.candidate, rehearsed, stack
            if model not in evaluations:
                evaluations[model] = evaluate(choice.scorer, judged, splits, task.ks, per_user=True)
            for split, result in evaluations[model].splits.items():
                values += [(split, *item, result.n_users) for item in result.metrics.items()]
                if split in PER_USER_SPLITS and result.per_user is not None:
                    per_user.append(_per_user(result.per_user, selection, split))
            if task.people:
                lists.append(_lists(choice.scorer, judged, task.people, selection))
        rows += [
            {**shared, "split": split, "metric": metric, "value": float(value), "n_users": n}
            for split, metric, value, n in values
        ]
    table = pl.DataFrame(rows, schema_overrides={"n_users": pl.Int64}).with_columns(
        epochs=pl.lit(fitted.epochs),
        seconds=pl.lit(fitted.seconds),
        stopped_by=pl.lit(fitted.stopped_by),
    )
    both = [pl.concat(frames) if frames else None for frames in (per_user, lists)]
    return Outcome(table, both[0], both[1], _models(task, fitted, dataset))


def _models(task: Task, fitted: Fitted, dataset: Dataset) -> Path | None:
    """Write a run directory for each selection, all in a new folder under a temporary name."""
    if task.weights is None:
        return None
    config = task.method.config_of_run(task.settings, task.seed, task.threads)
    folder = Path(task.weights) / f".{task.key}.{secrets.token_hex(8)}.new"
    try:
        folder.mkdir()
        for selection in fitted.choices:
            run = fitted.as_run(selection, config, dataset, task.metric, task.ks)
            origin = BenchmarkOrigin(
                task=task.key,
                method=task.method.name,
                setting=task.setting,
                selection=selection,
                stopped_by=fitted.stopped_by,
            )
            provenance = run.provenance.model_copy(update={"benchmark": origin})
            (folder / selection).mkdir()
            replace(run, provenance=provenance).write(folder / selection)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def fit_task(task: Task, dataset: Dataset, reporter: Reporter | None = None) -> Fitted:
    """Fit the task's method, each of its selections picking; a test split is not read."""
    if task.method.reference is not None:
        settings = TrainingConfig(**task.settings)
        fits = [
            fit_reference(
                own, dataset, task.selections, task.metric, settings, refit=task.kind == "final"
            )
            for own in task.method.build_references(task.seed, task.threads)
        ]
        return best_of(fits)
    method = task.method
    if task.kind == "trial":
        # What judges negatives may be a test split, and no trial opens one.
        method = method.with_setting({"training.fhn_every": None})
    config = method.config(task.seed, task.threads)
    return fit_model(
        config,
        dataset,
        task.selections,
        task.metric,
        seconds=task.seconds if task.cpu_seconds is None else task.cpu_seconds,
        refit=task.kind == "final",
        clock=time.monotonic if task.cpu_seconds is None else time.process_time,
        reporter=reporter,
    )


def _lists(scorer: Scorer, dataset: Dataset, people: Sequence[int], selection: str) -> pl.DataFrame:
    """The first 20 items of each of these users, the best first, without those of train."""
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    items, _ = rank(scorer, torch.tensor(people), LISTED, exclude=train)
    frame = pl.DataFrame(
        {"user": np.repeat(people, items.shape[1]), "item": items.flatten().cpu().numpy()},
        schema={"user": pl.Int32, "item": pl.Int32},
    )
    return frame.filter(pl.col("item") >= 0).select(pl.lit(selection).alias("selection"), pl.all())


def _per_user(frame: pl.DataFrame, selection: str, split: str) -> pl.DataFrame:
    metrics = [name for name in frame.columns if name.partition("@")[0] in PER_USER_METRICS]
    return frame.select(
        pl.lit(selection).alias("selection"),
        pl.lit(split).alias("split"),
        pl.col("user").cast(pl.Int32),
        *(pl.col(name).cast(pl.Float32) for name in metrics),
    )
