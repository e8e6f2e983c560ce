"""The run directory: everything needed to reproduce a training and to serve its result.

======================  =====================================================================
``manifest.json``       schema version, status, provenance, best epoch, dial, checksums of the
                        files below
``config.yaml``         the resolved configuration
``weights.safetensors``  the embeddings that score, the environment's share per unit of the dial,
                        and the best weights of all parts
``users.parquet``       user ids as given; the row is the internal number (also ``items``)
``train.parquet``       the training pairs, which recommendations leave out
``history.parquet``     one row of scalars per epoch
``metrics.parquet``     the last evaluation (written by ``evaluate``, not checksummed)
``checkpoint.safetensors``  while training only
``tracking.json``       where the training is tracked (:mod:`cnsdiff.tracking`; not checksummed)
======================  =====================================================================

Reading verifies version and checksums, and nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cnsdiff.backbones import BACKBONES
from cnsdiff.config import Config
from cnsdiff.data import Dataset
from cnsdiff.errors import InputError, RunError
from cnsdiff.samplers import SAMPLERS
from cnsdiff.storage import (
    atomic_directory,
    locked,
    read_parquet,
    recover,
    remove_leftovers,
    sha256,
    write_json,
    write_tensors,
    write_text,
    write_with,
)

SCHEMA_VERSION = 1
CHECKPOINT = "checkpoint.safetensors"
TRACKING = "tracking.json"
_FILES = (
    "config.yaml",
    "weights.safetensors",
    "users.parquet",
    "items.parquet",
    "train.parquet",
    "history.parquet",
)


def config_fingerprint(config: Config) -> str:
    """Hex SHA-256 of the resolved configuration."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a run's manifest says from its first moment on."""
    components = ((BACKBONES, config.backbone.name), (SAMPLERS, config.sampler.name))
    of_plugins = {name: registry.package_of(name) for registry, name in components}
    plugins = {name: package for name, package in of_plugins.items() if package is not None}
    return {
        "schema_version": SCHEMA_VERSION,
        "created_by": f"cnsdiff {version('cnsdiff')}",
        **({"plugins": plugins} if plugins else {}),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "config_fingerprint": config_fingerprint(config),
        "dataset": {
            "name": dataset.name,
            "scenario": dataset.scenario,
            "path": str(dataset.path.resolve()) if dataset.path else None,
            "fingerprint": dataset.fingerprint,
        },
    }


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
        f"{path}: another training is running here; wait for it, or choose another --out"
    )
    with locked(path, busy):
        remove_leftovers(path, (*_FILES, "manifest.json", CHECKPOINT, TRACKING))
        for left in path.glob(".tmp??????"):  # of safetensors, which version 0.1 wrote with
            left.unlink()
        _require_same(path, config, dataset)
        yield


def _begin(path: Path, config: Config, dataset: Dataset) -> None:
    """Make a run directory where there is none: manifest and configuration at once."""
    recover(path)
    remove_leftovers(path, ["manifest.json"])
    if (path / "manifest.json").exists():
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path}: exists and is no run directory; choose another --out")
    try:
        with atomic_directory(path) as temporary:
            manifest = {"status": "training", **provenance(config, dataset)}
            write_json(temporary / "manifest.json", manifest)
            write_text(temporary / "config.yaml", _yaml(config))
    except InputError:
        if not (path / "manifest.json").exists():  # else another was quicker
            raise


def _require_same(path: Path, config: Config, dataset: Dataset) -> None:
    """:class:`RunError` unless ``path`` is an unfinished run of this."""
    manifest = read_manifest(path)
    if manifest["status"] == "complete":
        (path / CHECKPOINT).unlink(missing_ok=True)  # killed before that
        raise RunError(f"{path}: holds a finished run; choose another --out")
    if manifest["config_fingerprint"] != config_fingerprint(config):
        raise RunError(
            f"{path}: holds an unfinished run of another configuration; resume that one with "
            f"`cnsdiff train --resume {path}`, or choose another --out"
        )
    if manifest["dataset"]["fingerprint"] != dataset.fingerprint:
        raise RunError(
            f"{path}: was begun on the dataset {manifest['dataset']['name']!r} with other "
            "content; prepare that dataset again, or choose another --out"
        )
    if not (path / "config.yaml").exists():  # killed before it was written, by version 0.1
        write_text(path / "config.yaml", _yaml(config))


def require_replaceable(path: Path) -> None:
    """Raise :class:`RunError` unless ``path`` is free, empty or a run directory."""
    is_run = (path / "manifest.json").is_file() and (path / "config.yaml").is_file()
    if path.exists() and not is_run and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path}: holds something that is no run; choose another place")


def write_run(
    path: Path,
    *,
    config: Config,
    provenance: dict[str, Any],
    weights: dict[str, Tensor],
    users: pl.Series,
    items: pl.Series,
    train: pl.DataFrame,
    history: list[dict[str, Any]],
    best_epoch: int,
    dial: float,
) -> None:
    """Write all files of a finished run, the manifest last, and drop the checkpoint."""
    write_text(path / "config.yaml", _yaml(config))
    write_tensors(path / "weights.safetensors", weights)
    for name, frame in (
        ("users", users.alias("id").to_frame()),
        ("items", items.alias("id").to_frame()),
        ("train", train),
        ("history", history_table(history)),
    ):
        write_with(path / f"{name}.parquet", frame.write_parquet)
    manifest = {
        "status": "complete",
        **provenance,
        "best_epoch": best_epoch,
        "dial": dial,
        "epochs": len(history),
        "sha256": {name: sha256(path / name) for name in _FILES},
    }
    write_json(path / "manifest.json", manifest)
    (path / CHECKPOINT).unlink(missing_ok=True)


def as_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration tree as the keyword arguments of :class:`cnsdiff.Recommender`."""
    components = ("backbone", "sampler")
    options = {key: value for key, value in config.items() if key not in components}
    return options | {f"{section}_options": config[section] for section in components}


def history_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's record as one flat row: seconds, ``train/<term>`` and ``valid/<metric>``."""
    return {
        "epoch": record["epoch"],
        "seconds": record["seconds"],
        "validation_seconds": record["validation_seconds"],
        **{f"train/{name}": value for name, value in record["train"].items()},
        **{f"valid/{name}": value for name, value in record["validation"].items()},
    }


def history_table(history: list[dict[str, Any]]) -> pl.DataFrame:
    """One :func:`history_row` per epoch."""
    return pl.DataFrame([history_row(record) for record in history], infer_schema_length=None)


def history_records(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The records that :func:`history_table` was made of."""
    own = ("epoch", "seconds", "validation_seconds")

    def under(row: dict[str, Any], prefix: str) -> dict[str, float]:
        return {
            name.removeprefix(prefix): value
            for name, value in row.items()
            if name.startswith(prefix) and value is not None
        }

    return [
        {name: row[name] for name in own}
        | {"train": under(row, "train/"), "validation": under(row, "valid/")}
        for row in table.iter_rows(named=True)
    ]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run directory, of the right version."""
    recover(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        found = manifest["schema_version"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{path}: is no run directory (it has no manifest.json); make one with "
            "`cnsdiff train DATASET --out RUN`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}/manifest.json: is damaged; train again") from error
    if found != SCHEMA_VERSION:
        raise RunError(
            f"{path}: run schema version {found}, this cnsdiff reads {SCHEMA_VERSION}; "
            "use the version of cnsdiff that wrote it, or train again"
        )
    if not _is_whole(manifest):
        raise RunError(f"{path}/manifest.json: is damaged (keys are missing); train again")
    return dict(manifest)


def _is_whole(manifest: dict[str, Any]) -> bool:
    dataset, finished = manifest.get("dataset"), manifest.get("status") == "complete"
    return (
        manifest.get("status") in ("training", "complete")
        and isinstance(manifest.get("config_fingerprint"), str)
        and isinstance(dataset, dict)
        and isinstance(dataset.get("name"), str)
        and isinstance(dataset.get("fingerprint"), str)
        and isinstance(dataset.get("path", 0), str | None)
        and (not finished or isinstance(manifest.get("sha256"), dict))
        and (not finished or isinstance(manifest.get("best_epoch"), int))
        and _is_dial(manifest.get("dial", 0.0))
    )


def _is_dial(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_run(path: Path) -> dict[str, Any]:
    """All parts of a finished run, verified.

    Returns
    -------
    dict
        ``manifest``, ``config`` (mapping), ``weights`` and the frames ``users``, ``items``,
        ``train`` and ``history``.
    """
    manifest = read_manifest(path)
    if manifest["status"] != "complete":
        raise RunError(
            f"{path}: training has not finished; go on with `cnsdiff train --resume {path}`"
        )
    for name in _FILES:
        _verify(path / name, manifest["sha256"].get(name))
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        config["training"].setdefault("dial", "off")  # a run from before the dial has none
        return {
            "manifest": manifest,
            "config": config,
            "weights": load_file(path / "weights.safetensors"),
            **{
                name: read_parquet(path / f"{name}.parquet")
                for name in ("users", "items", "train", "history")
            },
        }
    except (SafetensorError, pl.exceptions.PolarsError, yaml.YAMLError, OSError) as error:
        raise RunError(f"{path}: cannot be read ({error}); train again") from error


def _verify(file: Path, expected: str | None) -> None:
    if not file.is_file():
        raise RunError(f"{file}: is missing from the run; restore it or train again")
    if expected is None or sha256(file) != expected:
        raise RunError(
            f"{file}: its content does not match the manifest's checksum (truncated or changed); "
            "restore it or train again"
        )


def _yaml(config: BaseModel) -> str:
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return text
