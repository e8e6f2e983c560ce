"""The run directory: everything needed to reproduce a training and to serve its result.

======================  =====================================================================
``manifest.json``       schema version, status, provenance, best epoch, dial, checksums of the
                        files below
``config.yaml``         the resolved configuration
``weights.safetensors``  the embeddings or item weights that score, the environment's share per unit
                        of the dial, the best weights of all parts and, where users were added,
                        what folds them in
``users.parquet``       user ids as given; the row is the internal number (also ``items``)
``train.parquet``       the training pairs, and those added since; recommendations leave them out
``seen.parquet``        what else the log says of its users, which they leave out, too
``content.safetensors``  of a model with content, what was learnt of the items' features
``activity.safetensors``  of a model with an environment, what it was computed of, to follow it on
``rehearsal.safetensors``  of a run that was rehearsed, the tables chosen there, for an update
``history.parquet``     one row of scalars per epoch
``metrics.parquet``     the last evaluation (written by ``evaluate``, not checksummed)
``checkpoint.safetensors``  while training only, as are ``refit.safetensors``, ``second…``
                        and ``start.safetensors``, where an update begins
``update.json``         of an update, how it rehearsed beside the run before (not checksummed)
``dataset``             of a run on a whole log, as ``prepare`` would write it (not checksummed)
``tracking.json``       where the training is tracked (:mod:`cnsdiff.tracking`; not checksummed)
======================  =====================================================================

Reading verifies version and checksums, and nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast

import numpy as np
import polars as pl
import torch
import yaml
from pydantic import BaseModel, Field, FiniteFloat
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.backbones import BACKBONES, Backbone
from cnsdiff.base.errors import ConfigError, InputError, RunError
from cnsdiff.base.registry import Registry
from cnsdiff.base.settings import Record, shown, validated
from cnsdiff.base.storage import (
    atomic_directory,
    first_line,
    foreign_to,
    locked,
    read_json,
    read_parquet,
    read_settled,
    recover,
    refusing_damage,
    remove_leftovers,
    remove_whole,
    require_version,
    sha256,
    write_json,
    write_tensors,
    write_text,
    write_with,
)
from cnsdiff.base.text import Command
from cnsdiff.content.model import Content, ContentChoice
from cnsdiff.data import Dataset
from cnsdiff.data.directory import ids_misfit, numbers_misfit
from cnsdiff.data.side_tables import Seen, seen_misfit
from cnsdiff.data.splits import pair_matrix
from cnsdiff.environment import Activity, Environment
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.dial import spread, standardised_log
from cnsdiff.evaluation.metrics import item_counts
from cnsdiff.recommender.config import Config, Tree, is_closed_form, read_yaml, resolve_config
from cnsdiff.recommender.embedding_model import EmbeddingModel, ItemItemModel, Model
from cnsdiff.recommender.fold_in import HistoryMap
from cnsdiff.recommender.stack import Stack
from cnsdiff.recommender.warm_start import Rehearsed
from cnsdiff.samplers import SAMPLERS, Sampler
from cnsdiff.training.checkpoint import EpochRecord

#: Of a run; of one with an environment, which a cnsdiff from before it would not apply; of one in
#: closed form, whose components an earlier cnsdiff does not know; and of one with content, whose
#: new items it would rank too low.
SCHEMA_VERSION, WITH_ENVIRONMENT, IN_CLOSED_FORM, WITH_CONTENT = 1, 2, 3, 4
#: The mend of a run that cannot be used.
_AGAIN = "train again"
#: Of the training of a model, and of a stack's second one; and of those on everything that follow.
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINTS = (
    CHECKPOINT,
    "second.safetensors",
    "refit.safetensors",
    "second-refit.safetensors",
    "held-out.safetensors",
    "second-held-out.safetensors",
    "start.safetensors",
)
#: Those of trainings without the items held out to choose content.
HELD_OUT = CHECKPOINTS[4:6]
#: Where an update begins (:mod:`cnsdiff.recommender.warm_start`).
START = CHECKPOINTS[6]
#: What a model knows of items' features.
CONTENT = "content.safetensors"
#: What an environment was computed of, and the unit of its coefficients.
ACTIVITY, SIGMA, OWN_UNITS = "activity.safetensors", "sigma", "own_units"
#: The tables that its rehearsal chose, where an update may begin.
REHEARSAL = "rehearsal.safetensors"
TRACKING = "tracking.json"
#: That of a run that was trained on a whole log.
DATASET = "dataset"
_FILES = (
    "config.yaml",
    "weights.safetensors",
    "users.parquet",
    "items.parquet",
    "train.parquet",
    "seen.parquet",
    "history.parquet",
    CONTENT,
    ACTIVITY,
    REHEARSAL,
)
#: Settings that came later, and what they were before.
_SINCE: tuple[tuple[str, str, object], ...] = (
    ("training", "horizon", 0.2),
    ("training", "refit", "auto"),
    ("training", "select_also", None),
    ("stack", "preset", None),
    ("stack", "set", {}),
    ("content", "prior", "none"),
    ("content", "rank", 256),
    ("content", "held_out", 0.1),
    ("content", "kinds", {}),
)
#: Runs from before it was kept have none.
_OPTIONAL = ("seen.parquet", CONTENT, ACTIVITY, REHEARSAL)


class TrainedOn(Record):
    """The dataset of a run."""

    name: str
    scenario: str
    path: str | None
    """Its directory; None if it was in memory only."""
    fingerprint: str


class BenchmarkOrigin(Record):
    """The final of a benchmark that left a run."""

    task: str
    """Names its record, ``records/TASK.parquet``."""
    method: str
    """In the grid."""
    setting: dict[str, object]
    """What the search chose, by dotted keys."""
    selection: str
    """The validation objective that picked setting, epoch and dial."""
    stopped_by: str
    """Where it is ``"time"``, the configuration alone does not give this model again."""


class Provenance(Record):
    """Versions and dataset of a run."""

    schema_version: int
    created_by: str
    plugins: dict[str, str] = Field(default={})
    """The packages of components that are not built in."""
    versions: dict[str, str]
    config_fingerprint: str
    dataset: TrainedOn
    benchmark: BenchmarkOrigin | None = None
    """Of a run that a benchmark kept."""

    def to_dict(self) -> dict[str, object]:
        """In JSON's types, with the keys that were set, as in the file."""
        return self.model_dump(exclude_unset=True)


class RunManifest(Provenance):
    """``manifest.json`` of a run from its first moment on."""

    status: Literal["training", "complete"]


class StoredContent(Record):
    """What was chosen of content and, where it is used, how features are read."""

    choice: ContentChoice
    encoder: dict[str, object] | None = None


class FinishedRun(RunManifest):
    """``manifest.json`` once training is over; one from before the dial has none."""

    best_epoch: int = Field(ge=1)
    epochs: int = Field(ge=1)
    dial: FiniteFloat = 0.0
    environment: Environment | None = None
    """What a rehearsal chose."""
    stack: Stack | None = None
    """What validation chose of two models."""
    content: StoredContent | None = None
    """What was chosen of content."""
    sha256: dict[str, str]


def config_fingerprint(config: Config) -> str:
    """Hex SHA-256 of the resolved configuration."""
    tree = config.model_dump(mode="json")
    for section, key, default in _SINCE:  # so that a training begun before goes on
        if tree[section][key] == default:
            del tree[section][key]
    for section in ("stack", "content"):
        if not tree[section]:
            del tree[section]
    text = json.dumps(tree, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(config: Config, dataset: Dataset) -> Provenance:
    """The provenance of a training of ``config`` on ``dataset``."""
    components = ((BACKBONES, config.backbone.name), (SAMPLERS, config.sampler.name))
    of_plugins = {name: registry.package_of(name) for registry, name in components}
    plugins = {name: package for name, package in of_plugins.items() if package is not None}
    stated = Provenance(
        schema_version=IN_CLOSED_FORM if config.closed_form else SCHEMA_VERSION,
        created_by=f"cnsdiff {version('cnsdiff')}",
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        config_fingerprint=config_fingerprint(config),
        dataset=TrainedOn(
            name=dataset.name,
            scenario=dataset.scenario,
            path=str(dataset.path.resolve()) if dataset.path else None,
            fingerprint=dataset.fingerprint,
        ),
    )
    return stated.model_copy(update={"plugins": plugins}) if plugins else stated


@contextlib.contextmanager
def training_in(path: Path, config: Config, dataset: Dataset) -> Iterator[None]:
    """Open a run directory for training, and hold it until the block or the process ends.

    Raises
    ------
    RunError
        It belongs to something else, or another process trains there.
    """
    _begin(path, config, dataset)
    busy = RunError(
        f"{path}: another training is running here; wait for it, or choose another directory"
    )
    with locked(path, busy):
        remove_leftovers(path, (*_FILES, "manifest.json", *CHECKPOINTS, TRACKING))
        for left in path.glob(".tmp??????"):  # of safetensors, by an earlier version
            left.unlink()
        _require_same(path, config, dataset)
        yield


@contextlib.contextmanager
def dataset_kept_in(path: Path, dataset: Dataset) -> Iterator[None]:
    """Save a dataset in the run directory that is to be trained on it.

    Where no training began in the block, nothing is left. A run that is there already is left as
    it is: training refuses another dataset.

    Raises
    ------
    RunError
        The directory holds something else.
    """
    place, free = path / DATASET, not path.exists()
    if path.is_file() or (not free and not is_run(path) and foreign_to(path, (DATASET,))):
        raise RunError(f"{path}: exists and is not a run directory; choose another directory")
    if not is_run(path):  # what is there was left by a kill, and maybe of another log
        copy(dataset).save(place, overwrite=place.is_dir())  # which makes the place its own
    try:
        yield
    finally:
        if not is_run(path):
            remove_whole(path if free else place)


def require_unfinished(path: Path) -> None:
    """Raise :class:`RunError` if a finished run is there."""
    if is_run(path) and read_manifest(path).status == "complete":
        remove_checkpoints(path)  # killed before that
        raise RunError(f"{path}: holds a finished run; choose another directory")


def _begin(path: Path, config: Config, dataset: Dataset) -> None:
    """Make a run directory where there is none: manifest and configuration at once."""
    recover(path)
    remove_leftovers(path, ["manifest.json"])
    if (path / "manifest.json").exists():
        return
    manifest = {"status": "training", **provenance(config, dataset).to_dict()}
    if (path / DATASET).is_dir() and foreign_to(path, (DATASET, "config.yaml")) is None:
        write_text(path / "config.yaml", _yaml(config))
        write_json(path / "manifest.json", manifest)
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path}: exists and is not a run directory; choose another directory")
    try:
        with atomic_directory(path) as temporary:
            write_json(temporary / "manifest.json", manifest)
            write_text(temporary / "config.yaml", _yaml(config))
    except InputError:
        if not (path / "manifest.json").exists():  # else another was quicker
            raise


def _require_same(path: Path, config: Config, dataset: Dataset) -> None:
    """:class:`RunError` unless ``path`` is an unfinished run of this."""
    require_unfinished(path)
    manifest = read_manifest(path)
    if manifest.config_fingerprint != config_fingerprint(config):
        raise RunError(
            f"{path}: holds an unfinished run of another configuration; resume that one with "
            f"`{Command('train', resume=path)}`, or choose another directory"
        )
    if manifest.dataset.fingerprint != dataset.fingerprint:
        raise RunError(
            f"{path}: was begun on the dataset {manifest.dataset.name!r} with other "
            "content; prepare that dataset again, or choose another directory"
        )
    if not (path / "config.yaml").exists():  # killed before, by an earlier version
        write_text(path / "config.yaml", _yaml(config))


def require_replaceable(path: Path) -> None:
    """Raise :class:`RunError` unless ``path`` is free, empty or a run directory."""
    is_run = (path / "manifest.json").is_file() and (path / "config.yaml").is_file()
    if path.exists() and not is_run and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path}: holds something that is not a run; choose another place")


def remove_checkpoints(path: Path) -> None:
    """Take the checkpoints out of a run that is finished."""
    for checkpoint in CHECKPOINTS:
        (path / checkpoint).unlink(missing_ok=True)


def history_row(record: EpochRecord) -> dict[str, float]:
    """An epoch's record as one flat row: seconds, ``train/<term>`` and ``valid/<metric>``."""
    return {
        "epoch": record["epoch"],
        "seconds": record["seconds"],
        "validation_seconds": record["validation_seconds"],
        **{f"train/{name}": value for name, value in record["train"].items()},
        **{f"valid/{name}": value for name, value in record["validation"].items()},
    }


def history_table(history: list[EpochRecord]) -> pl.DataFrame:
    """One :func:`history_row` per epoch."""
    return pl.DataFrame([history_row(record) for record in history], infer_schema_length=None)


def history_records(table: pl.DataFrame) -> list[EpochRecord]:
    """The records that :func:`history_table` was made of."""

    def under(row: Mapping[str, float | None], prefix: str) -> dict[str, float]:
        return {
            name.removeprefix(prefix): value
            for name, value in row.items()
            if name.startswith(prefix) and value is not None
        }

    return [
        {
            "epoch": row["epoch"],
            "seconds": row["seconds"],
            "validation_seconds": row["validation_seconds"],
            "train": under(row, "train/"),
            "validation": under(row, "valid/"),
        }
        for row in table.iter_rows(named=True)
    ]


class _Component(Record):
    name: str


class _StoredConfig(Record):
    """As much of ``config.yaml`` as is looked at before the rest is validated."""

    backbone: _Component
    sampler: _Component | None = None
    training: Tree


def is_run(path: Path) -> bool:
    """Whether a directory is a run, finished or not; a dataset has a manifest as well."""
    if any((path / name).exists() for name in ("config.yaml", "weights.safetensors")):
        return True
    try:
        manifest = read_json(path / "manifest.json")
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "status" in manifest


def without_configuration(path: Path) -> RunError:
    """The sentence for a run that was killed as it began, by an earlier version."""
    return RunError(
        f"{path}: was ended before its configuration was written, so nothing is lost; give the "
        f"command again that began it, `{Command('train', 'DATASET', out=path)}` with its "
        "options"
    )


def read_manifest(path: Path) -> RunManifest:
    """The manifest of a run directory, of the right version; of a finished one, a FinishedRun."""
    recover(path)
    file = path / "manifest.json"
    missing = RunError(
        f"{path}: is not a run directory (it has no manifest.json); make one with "
        f"`{Command('train', 'DATASET', out='RUN')}`"
    )
    with refusing_damage(file, _AGAIN, missing=missing):
        content = read_json(file)
        later = WITH_ENVIRONMENT, IN_CLOSED_FORM, WITH_CONTENT
        if not isinstance(content, dict) or content.get("schema_version") not in later:
            require_version(file, content, SCHEMA_VERSION, _AGAIN)
        finished = isinstance(content, dict) and content.get("status") == "complete"
        manifest = validated(FinishedRun if finished else RunManifest, content)
    if (path / DATASET).is_dir():  # wherever the run was moved to
        own = manifest.dataset.model_copy(update={"path": str((path / DATASET).resolve())})
        manifest = manifest.model_copy(update={"dataset": own})
    return manifest


def read_config(path: Path) -> Tree:
    """The configuration in a run directory, as a tree that has its main sections."""
    file = path / "config.yaml"
    with refusing_damage(file, _AGAIN):
        tree = read_yaml(file)
        stated = validated(_StoredConfig, tree)
        if stated.sampler is None and not is_closed_form(stated.backbone.name):
            raise ValueError("sampler: field required")
        if unknown := tree.keys() - Config.model_fields.keys():
            raise ValueError(f"unknown key {shown(min(unknown))}")
    training = tree["training"]
    training.setdefault("dial", "off")  # a run from before the dial has none
    if training.get("select_on") != "rehearsal":
        training.setdefault("refit", False)  # nor had any been trained on validation
    return dict(tree)


@dataclass(frozen=True)
class StoredRun:
    """The files of a finished run, as they are."""

    path: Path
    manifest: FinishedRun
    config: Tree
    weights: dict[str, Tensor]
    users: pl.DataFrame
    items: pl.DataFrame
    train: pl.DataFrame
    history: pl.DataFrame
    seen: pl.DataFrame | None = None
    content: Content | None = None
    activity: Activity | None = None
    sigma: float | None = None
    own_units: bool = False
    rehearsed: Rehearsed | None = None


def read_run(path: Path) -> StoredRun:
    """All files of a finished run, verified."""
    return read_settled(path / "manifest.json", lambda: _read_run(path))


def _read_run(path: Path) -> StoredRun:
    manifest = read_manifest(path)
    if not isinstance(manifest, FinishedRun):
        if not (path / "config.yaml").exists():
            raise without_configuration(path)
        raise RunError(
            f"{path}: training has not finished; go on with `{Command('train', resume=path)}`"
        )
    files = [name for name in _FILES if name in manifest.sha256 or name not in _OPTIONAL]
    frames = {}
    for name in files:
        with _verified(path / name, manifest.sha256.get(name)) as file:
            if name.endswith(".parquet"):
                with refusing_damage(path / name, _AGAIN):
                    frames[name.removesuffix(".parquet")] = read_parquet(file)
    config = read_config(path)
    place = path / "weights.safetensors"
    try:
        weights = load_file(place)
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{place}: cannot be read ({first_line(error)}); train again") from error
    content, (activity, sigma, own_units) = _content(path, manifest), _activity(path, manifest)
    rehearsed = Rehearsed.load(path / REHEARSAL) if REHEARSAL in files else None
    run = StoredRun(
        path,
        manifest,
        config,
        weights,
        **frames,
        content=content,
        activity=activity,
        sigma=sigma,
        own_units=own_units,
        rehearsed=rehearsed,
    )
    for name, problem in _misfits(run):
        raise RunError(f"{path / name}: {problem}, so it does not fit the run; train again")
    return run


def _content(path: Path, manifest: FinishedRun) -> Content | None:
    """What a run knows of items' features."""
    stored = manifest.content
    if stored is None or stored.encoder is None:
        return None
    place = path / CONTENT
    try:
        return Content.of_state(
            {"choice": stored.choice, "encoder": stored.encoder}, load_file(place)
        )
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{place}: cannot be read ({first_line(error)}); train again") from error


def _activity(path: Path, manifest: FinishedRun) -> tuple[Activity | None, float | None, bool]:
    """What a run's environment was computed of, the unit of its coefficients, and that of scores.

    An older run does not say that its scores are in own units, and they are not.
    """
    if ACTIVITY not in manifest.sha256:
        return None, None, False
    place = path / ACTIVITY
    try:
        tensors = load_file(place)
        return Activity.of_tensors(tensors), float(tensors[SIGMA]), OWN_UNITS in tensors
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{place}: cannot be read ({first_line(error)}); train again") from error


def _misfits(run: StoredRun) -> Iterator[tuple[str, str]]:
    """Files that do not hold what a run's do, and why; an honest run has none."""
    users, items, history = run.users, run.items, run.history
    for name, ids in (("users", users), ("items", items)):
        if problem := ids_misfit(ids):
            yield f"{name}.parquet", problem
    if problem := numbers_misfit(run.train, {"user": users.height, "item": items.height}):
        yield "train.parquet", problem
    if run.train.schema.get("since", pl.Boolean) != pl.Boolean:
        yield "train.parquet", "has a column 'since' of what is neither true nor false"
    if run.seen is not None and (problem := seen_misfit(run.seen, users.height, items.height)):
        yield "seen.parquet", problem
    for name in ("epoch", "seconds", "validation_seconds"):
        if name not in history.columns or not history[name].dtype.is_numeric():
            yield "history.parquet", f"has no column {name!r} of numbers"
    best = run.manifest.best_epoch
    if best not in history["epoch"]:
        yield "history.parquet", f"has no epoch {best}, which the manifest calls the best"
    if run.weights.keys() & {_DENSE, *_SPARSE}:
        misfits = _item_weights_misfits(run.weights, items.height)
    else:
        misfits = _embeddings_misfits(run.weights, users.height, items.height)
    for problem in misfits:
        yield "weights.safetensors", problem
    environment = run.manifest.environment
    if run.activity is not None:
        activity = run.activity
        if len(activity.counts) != items.height:
            yield ACTIVITY, f"is of {len(activity.counts):,} items and not of {items.height:,}"
        stated = None if environment is None else (environment.span, *environment.half_lives)
        if stated != (activity.span, *activity.half_lives):
            yield ACTIVITY, "is of another environment than the manifest's"
    counted = run.config["training"].get("select_on") == "target-counts"
    if (environment is not None or counted) != ("bias" in run.weights):
        yield "weights.safetensors", "and the manifest do not agree on a bias"
    units = {"environment": run.manifest.dial, "bias": 1.0, "offsets": 1.0}
    for name, unit in units.items():
        column = run.weights.get(name)
        if column is None:
            continue
        if column.dtype != torch.float32 or tuple(column.shape) != (items.height,):
            yield "weights.safetensors", f"has {name} of {column.dtype} and {tuple(column.shape)}"
        if not torch.isfinite(column * unit).all():
            yield "weights.safetensors", f"has {name} that gives no finite score"


def _embeddings_misfits(weights: Mapping[str, Tensor], n_users: int, n_items: int) -> Iterator[str]:
    widths = set()
    for name, rows in zip(_TABLES, (n_users, n_items), strict=True):
        table = weights.get(name)
        if table is None:
            yield f"has no {name}"
            return
        if table.dtype != torch.float32 or table.ndim != 2 or len(table) != rows:
            yield f"has {name} of {table.dtype} and {tuple(table.shape)}"
        widths.add(table.shape[1])
        # A product of two vectors is at most that of their lengths: a finite score, if the square
        # of each length is finite.
        if not torch.isfinite(torch.linalg.vector_norm(table, dim=1).square()).all():
            yield f"has {name} that give no finite score"
    if len(widths) > 1:
        yield "has vectors of users and items that differ in length"
    if _MAP in weights:
        square, shape = weights[_MAP], weights.get(_MAP_SHAPE)
        if shape is None or tuple(shape.shape) != (2,) or {*square.shape} != widths:
            yield f"has {_MAP} of {tuple(square.shape)}"
        elif not (torch.isfinite(square).all() and torch.isfinite(shape).all()):
            yield f"has {_MAP} that gives no finite score"


def _item_weights_misfits(weights: Mapping[str, Tensor], n_items: int) -> Iterator[str]:
    values = weights.get(_DENSE)
    if values is not None:
        if values.dtype != torch.float32 or tuple(values.shape) != (n_items, n_items):
            yield f"has {_DENSE} of {values.dtype} and {tuple(values.shape)}"
    else:
        parts = [weights.get(name) for name in _SPARSE]
        if any(part is None or part.ndim != 1 for part in parts):
            yield f"has not all of {', '.join(_SPARSE)} as columns"
            return
        values, indices, indptr = cast("list[Tensor]", parts)
        whole = {torch.int32, torch.int64}
        if values.dtype != torch.float32 or not {indices.dtype, indptr.dtype} <= whole:
            yield f"has item weights of {values.dtype} in places of {indices.dtype}"
            return
        in_order = (
            len(indptr) == n_items + 1 and indptr[0] == 0 and bool((indptr.diff() >= 0).all())
        )
        if not in_order or int(indptr[-1]) != len(values) or len(indices) != len(values):
            yield f"has item weights whose rows are not those of {n_items} items"
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n_items:
            yield f"has item weights of items that are none of {n_items}"
    if "environment" not in weights:
        yield "has no environment"
    # A score is a sum over a history, which has an item once.
    largest = torch.finfo(torch.float32).max
    if values.numel() and not all(n_items * abs(float(v)) <= largest for v in values.aminmax()):
        yield "has item weights that give no finite score"


@contextlib.contextmanager
def _verified(file: Path, expected: str | None) -> Iterator[BinaryIO]:
    """A file of a run, open at its beginning, whose content is that of the manifest."""
    if not file.is_file():
        raise RunError(f"{file}: is missing from the run; restore it or train again")
    with file.open("rb") as opened:
        if expected is None or hashlib.file_digest(opened, "sha256").hexdigest() != expected:
            raise RunError(
                f"{file}: its content does not match the manifest's checksum (truncated or "
                "changed); restore it or train again"
            )
        opened.seek(0)
        yield opened


def _yaml(config: BaseModel) -> str:
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text


@dataclass(frozen=True)
class Fitted:
    """A training that is over.

    Attributes
    ----------
    config
        The resolved configuration.
    model
        What is served.
    weights
        The best weights of backbone, sampler and objective, by name.
    history
        One record of scalars per epoch.
    best_epoch
        The epoch that ``model`` and ``weights`` are of.
    provenance
        Versions and dataset.
    stack
        What was chosen of two models; ``weights``, ``history`` and ``best_epoch`` are the first's.
    rehearsed
        Of a training that was rehearsed, the tables chosen there.
    """

    config: Config
    model: Model
    weights: Mapping[str, Tensor]
    history: list[EpochRecord]
    best_epoch: int
    provenance: Provenance
    stack: Stack | None = None
    rehearsed: Rehearsed | None = None

    def write(self, path: Path) -> None:
        """Write the files of a finished run into the folder ``path``."""
        model, environment = self.model, self.model.environment
        rows, columns = model.train.nonzero()
        train = pl.DataFrame({"user": rows, "item": columns})
        if model.since is not None:
            train = train.with_columns(since=np.asarray(model.since[rows, columns]) != 0)
        weights = {
            **_scoring_tensors(model),
            "environment": model.dial_step,
            **({} if model.bias is None else {"bias": model.bias}),
            **({} if model.offsets is None else {"offsets": model.offsets}),
            **_fold_tensors(model),
            **{f"model.{name}": value for name, value in self.weights.items()},
        }
        frames = {
            "users": model.users.alias("id").to_frame(),
            "items": model.items.alias("id").to_frame(),
            "train": train,
            **({} if model.seen is None else {"seen": model.seen.table()}),
            "history": history_table(self.history),
        }
        write_text(path / "config.yaml", _yaml(self.config))
        write_tensors(path / "weights.safetensors", weights)
        if model.content is not None:
            write_tensors(path / CONTENT, model.content.tensors())
        if model.activity is not None:
            sigma = torch.tensor(model.sigma, dtype=torch.float64)
            units = {SIGMA: sigma} | ({OWN_UNITS: torch.tensor(1)} if model.own_units else {})
            write_tensors(path / ACTIVITY, {**model.activity.tensors(), **units})
        if self.rehearsed is not None:
            self.rehearsed.save(path / REHEARSAL)
        for name, frame in frames.items():
            write_with(path / f"{name}.parquet", frame.write_parquet)
        # The manifest last, which makes the run a finished one.
        absent = {
            "seen.parquet": model.seen is None,
            CONTENT: model.content is None,
            ACTIVITY: model.activity is None,
            REHEARSAL: self.rehearsed is None,
        }
        files = [name for name in _FILES if not absent.get(name)]
        version_of = self.provenance.schema_version
        if model.bias is not None:
            version_of = max(version_of, WITH_ENVIRONMENT)
        content = None
        if model.content_choice is not None:
            encoder = None if model.content is None else model.content.state()["encoder"]
            content = StoredContent(choice=model.content_choice, encoder=encoder)
            version_of = max(version_of, WITH_CONTENT)
        manifest = {
            "status": "complete",
            **self.provenance.to_dict(),
            "schema_version": version_of,
            "best_epoch": self.best_epoch,
            "dial": model.dial,
            **({} if environment is None else {"environment": environment.model_dump()}),
            **({} if self.stack is None else {"stack": self.stack.model_dump(mode="json")}),
            **({} if content is None else {"content": content.model_dump(mode="json")}),
            "epochs": len(self.history),
            "sha256": {name: sha256(path / name) for name in files},
        }
        write_json(path / "manifest.json", manifest)
        remove_checkpoints(path)

    @classmethod
    def of_run(cls, run: StoredRun) -> Self:
        """From the files that :func:`read_run` returns."""
        users, items = run.users["id"], run.items["id"]
        weights = dict(run.weights)
        shape = len(users), len(items)
        train = pair_matrix(run.train["user"].to_numpy(), run.train["item"].to_numpy(), shape)
        since = None
        if "since" in run.train.columns:
            added = run.train.filter(pl.col("since"))
            since = pair_matrix(added["user"].to_numpy(), added["item"].to_numpy(), shape)
        dial_step, bias = weights.pop("environment", None), weights.pop("bias", None)
        offsets, stored = weights.pop("offsets", None), run.manifest.content
        if dial_step is None:  # a run from before the dial
            tables = EmbeddingScorer(*(weights[name] for name in _TABLES))
            dial_step = spread(tables) * standardised_log(item_counts(train))
        own = FinishedRun.model_fields.keys() - Provenance.model_fields.keys()
        stated = {k: v for k, v in run.manifest.to_dict().items() if k not in own}
        return cls(
            # Components of the user's own are not needed to serve, nor to be found by name.
            config=_stored_config(run.config, f"{run.path}/config.yaml"),
            model=_model_of(
                weights,
                users=users,
                items=items,
                train=train,
                dial_step=dial_step,
                dial=run.manifest.dial,
                environment=run.manifest.environment,
                bias=bias,
                activity=run.activity,
                sigma=run.sigma,
                own_units=run.own_units,
                offsets=offsets,
                content=run.content,
                content_choice=None if stored is None else stored.choice,
                since=since,
                seen=None if run.seen is None else Seen.of_table(run.seen, len(users), len(items)),
            ),
            weights={name.removeprefix("model."): value for name, value in weights.items()},
            history=history_records(run.history),
            best_epoch=run.manifest.best_epoch,
            provenance=Provenance.model_validate(stated),
            stack=run.manifest.stack,
            rehearsed=run.rehearsed,
        )


#: Names of what scores: embeddings; item weights, dense or as the parts of a CSR matrix.
_TABLES = ("user_embeddings", "item_embeddings")
_DENSE = "item_weights"
#: Of the map that folds users in.
_MAP, _MAP_SHAPE = "history_map", "history_map.exponent_length"
_SPARSE = tuple(f"item_weights.{part}" for part in ("data", "indices", "indptr"))


def _scoring_tensors(model: Model) -> dict[str, Tensor]:
    """What scores, by the names of ``weights.safetensors``."""
    if isinstance(model, EmbeddingModel):
        return {name: getattr(model, name) for name in _TABLES}
    assert isinstance(model, ItemItemModel)
    weights = model.weights
    if isinstance(weights, Tensor):
        return {_DENSE: weights}
    parts = weights.data, weights.indices, weights.indptr
    return {name: torch.from_numpy(part) for name, part in zip(_SPARSE, parts, strict=True)}


def _fold_tensors(model: Model) -> dict[str, Tensor]:
    """What folds users in, where it was fitted to the model before some were added."""
    if not isinstance(model, EmbeddingModel) or model.history_map is None:
        return {}
    own = model.history_map
    return {_MAP: own.weights, _MAP_SHAPE: torch.tensor([own.exponent, own.length])}


def _model_of(tensors: dict[str, Tensor], **rest: Any) -> Model:
    """The model whose :func:`_scoring_tensors` are taken out of ``tensors``."""
    if _DENSE in tensors:
        return ItemItemModel(weights=tensors.pop(_DENSE), **rest)
    if _SPARSE[0] in tensors:
        n_items = len(rest["items"])
        parts = tuple(tensors.pop(name).numpy() for name in _SPARSE)
        return ItemItemModel(weights=csr_array(parts, shape=(n_items, n_items)), **rest)
    users, items = (tensors.pop(name) for name in _TABLES)
    own = None
    if _MAP in tensors:
        own = HistoryMap(tensors.pop(_MAP), *tensors.pop(_MAP_SHAPE).tolist())
    return EmbeddingModel(user_embeddings=users, item_embeddings=items, history_map=own, **rest)


def _stored_config(stated: Mapping[str, Any], source: str) -> Config:
    """The configuration of a run, whose components may be of classes that cannot be found."""
    tree = dict(stated)
    given: dict[str, dict[str, type[Any]]] = {"backbone": {}, "sampler": {}}
    kinds: tuple[tuple[str, Registry[Any], type[Any]], ...] = (
        ("backbone", BACKBONES, Backbone),
        ("sampler", SAMPLERS, Sampler),
    )
    for section, registry, base in kinds:
        if "sampler" not in tree:  # in closed form
            break
        name = tree[section]["name"]
        if not registry.at_hand(name):
            known = base.Config.model_fields.keys() & tree[section].keys()
            tree[section] = {key: tree[section][key] for key in known}
            given[section][name] = base
    try:
        return resolve_config(
            tree, source=source, backbones=given["backbone"], samplers=given["sampler"]
        )
    except ConfigError as error:
        raise RunError(f"{error}; train again") from error
