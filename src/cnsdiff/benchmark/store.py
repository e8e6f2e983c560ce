"""The results of a benchmark on disk: one Parquet file per task.

A result is appended as a new file, written under a temporary name and renamed, so a kill loses
nothing but the tasks under way and never leaves half a result; a task whose file is there is done.

======================  =====================================================================
``grid.yaml``           the grid, all defaults written out
``data/``               the datasets that the grid prepares
``records/KEY.parquet``   a task: one row per selection, split and metric; a failure is one row
``per_user/KEY.parquet``  a final's accuracy of every user on the tests
``lists/KEY.parquet``     a final's lists of the users whose lists are kept, if any are
``weights/KEY/SELECTION``  a final's model by each selection, a run directory, if weights are kept
======================  =====================================================================
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import polars as pl

from cnsdiff.base.errors import RunError
from cnsdiff.base.storage import (
    locked,
    read_parquet,
    remove_leftovers,
    remove_whole,
    write_text,
    write_with,
)
from cnsdiff.base.text import Command
from cnsdiff.benchmark.grid import Grid, dump_grid
from cnsdiff.benchmark.task import Outcome, Task
from cnsdiff.recommender.run_directory import is_run

#: Columns of a record and their types.
SCHEMA = pl.Schema(
    {
        "key": pl.String,
        "kind": pl.String,
        "dataset": pl.String,
        "method": pl.String,
        "trial": pl.Int64,
        "setting": pl.String,
        "seed": pl.Int64,
        "status": pl.String,
        "error": pl.String,
        "selection": pl.String,
        "epoch": pl.Int64,
        "split": pl.String,
        "metric": pl.String,
        "value": pl.Float64,
        "n_users": pl.Int64,
        "epochs": pl.Int64,
        "seconds": pl.Float64,
        "stopped_by": pl.String,
        "fingerprint": pl.String,
        "threads": pl.Int64,
        "machine": pl.String,
        "created_by": pl.String,
    }
)


@dataclass(frozen=True)
class Store:
    """The directory of a benchmark."""

    path: Path

    @property
    def data(self) -> Path:
        """Where the grid's datasets are kept."""
        return self.path / "data"

    def open(self, grid: Grid, *, adding: bool = True) -> None:
        """Make the directory, or take up one that is there.

        Without ``adding`` the grid of one that is there stays as it is, whoever adds to it.

        Raises
        ------
        RunError
            ``path`` holds something else, or results are being added for another grid.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: is a file; choose another directory")
        if self.path.is_dir():
            remove_leftovers(self.path, ["grid.yaml"])
            if any(self.path.iterdir()) and not (self.path / "grid.yaml").exists():
                raise RunError(
                    f"{self.path}: is not empty and holds no benchmark; choose another directory"
                )
        text, file = dump_grid(grid), self.path / "grid.yaml"
        if not file.is_file() or (adding and file.read_bytes() != text.encode()):
            with locked(self.path, self._busy):
                write_text(file, text)  # first: by it the rest is known
        for folder in (self._records, self._users, self.data):
            folder.mkdir(exist_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the work that adds results: one command at a time, which clears up first.

        Raises
        ------
        RunError
            Another command is adding results.
        """
        with locked(self.path, self._busy):
            for folder in (self._records, self._users, self._lists, self.data, self.weights):
                for entry in folder.glob(".*"):  # being written when a process was killed
                    if entry.is_dir():
                        shutil.rmtree(entry)
                    else:
                        entry.unlink()
            yield

    @property
    def _busy(self) -> RunError:
        return RunError(
            f"{self.path}: another benchmark is running here; wait for it, choose another "
            f"directory, or look at it with {Command('benchmark', 'GRID.yaml', show=True)}"
        )

    def add(self, task: Task, outcome: Outcome) -> bool:
        """Store the outcome of a task; its record goes last, and says that all is there.

        A task that ran again for its models keeps the record that it has, if that says the same.

        Returns
        -------
        bool
            Whether a task that ran again for its models came to another result.
        """
        before = None if outcome.models is None else self.read(task)
        same = before is not None and _same(before, outcome.rows)
        # Models and record are of one training, whenever a kill comes.
        remove_whole(self.weights / task.key)
        if outcome.models is not None:
            if not same:
                self.forget(task)
            outcome.models.rename(self.weights / task.key)
        if same:
            return False
        if outcome.per_user is not None:
            write_with(self._users / f"{task.key}.parquet", outcome.per_user.write_parquet)
        if outcome.lists is not None:
            self._lists.mkdir(exist_ok=True)
            write_with(self._lists / f"{task.key}.parquet", outcome.lists.write_parquet)
        self._write(task, outcome.rows.with_columns(status=pl.lit("ok")))
        return before is not None

    def add_failure(self, task: Task, error: str) -> None:
        """Store that a task failed, and why in one sentence."""
        self._write(task, pl.DataFrame({"status": ["failed"], "error": [error]}))

    def _write(self, task: Task, rows: pl.DataFrame) -> None:
        facts = {
            "key": task.key,
            "kind": task.kind,
            "dataset": task.dataset,
            "method": task.method.name,
            "trial": task.trial,
            "setting": json.dumps(task.setting, sort_keys=True),
            "seed": task.seed,
            "fingerprint": task.fingerprint,
            "threads": task.threads,
            "machine": platform.node(),
            "created_by": f"cnsdiff {version('cnsdiff')}",
        }
        record = rows.with_columns(**{name: pl.lit(value) for name, value in facts.items()})
        absent = {name: pl.lit(None) for name in SCHEMA.keys() - record.columns}
        record = record.with_columns(**absent).select(*SCHEMA).cast(SCHEMA)
        write_with(self._records / f"{task.key}.parquet", record.write_parquet)

    def status(self, task: Task) -> str | None:
        """``"ok"``, ``"failed"``, or ``None`` if it has not been run."""
        record = self.read(task)
        return None if record is None else str(record["status"][0])

    def read(self, task: Task) -> pl.DataFrame | None:
        """The record of a task, or ``None``."""
        file = self._records / f"{task.key}.parquet"
        if not file.exists():
            return None
        record = _read(file)
        if (
            record.schema != SCHEMA
            or record.is_empty()
            or not record["status"].is_in(["ok", "failed"]).fill_null(False).all()
        ):
            raise _damaged(file)
        return record

    def has_models(self, task: Task) -> bool:
        """Whether the models of a final are kept, by all of its selections."""
        return all(is_run(place) for place in self.models(task).values())

    def models(self, task: Task) -> dict[str, Path]:
        """Where the run directory of each selection of a final is, or would be."""
        return {name: self.weights / task.key / name for name in task.selections}

    def forget(self, task: Task) -> None:
        """Remove a task's record, so that it runs again."""
        (self._records / f"{task.key}.parquet").unlink(missing_ok=True)

    def records(self, tasks: Iterable[Task]) -> pl.DataFrame:
        """The records of those of these tasks that have one."""
        records = [record for task in tasks if (record := self.read(task)) is not None]
        return pl.concat([pl.DataFrame(schema=SCHEMA), *records])

    def per_user(self, task: Task) -> pl.DataFrame:
        """A final's accuracy of every user: selection, split, user, and the metrics."""
        file = self._users / f"{task.key}.parquet"
        users = _read(file)
        names = ("selection", "split", "user")
        values = users.drop(names, strict=False)
        if (
            [users.schema.get(name) for name in names] != [pl.String, pl.String, pl.Int32]
            or set(values.dtypes) != {pl.Float32}
            or any(column.null_count() for column in users)
            or not all(column.is_finite().all() for column in values)
        ):
            raise _damaged(file)
        return users

    def lists(self, task: Task) -> pl.DataFrame | None:
        """A final's lists: selection, user, item, the best first; ``None`` if none are kept."""
        if not task.people:
            return None
        file = self._lists / f"{task.key}.parquet"
        lists = _read(file)
        schema = {"selection": pl.String, "user": pl.Int32, "item": pl.Int32}
        if dict(lists.schema) != schema or any(column.null_count() for column in lists):
            raise _damaged(file)
        return lists

    @property
    def weights(self) -> Path:
        """Where models are kept."""
        return self.path / "weights"

    @property
    def _lists(self) -> Path:
        return self.path / "lists"

    @property
    def _records(self) -> Path:
        return self.path / "records"

    @property
    def _users(self) -> Path:
        return self.path / "per_user"


def _same(record: pl.DataFrame, rows: pl.DataFrame) -> bool:
    """Whether a record says what the outcome of its task does, but for the time it took."""
    columns = [name for name in rows.columns if name != "seconds"]
    schema = pl.Schema({name: SCHEMA[name] for name in columns})
    return record.select(columns).equals(rows.select(columns).cast(schema))


def _read(file: Path) -> pl.DataFrame:
    try:
        return read_parquet(file)
    except (OSError, ValueError) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> RunError:
    record = file.parent.with_name("records") / file.name
    return RunError(f"{file}: is missing or damaged; delete {record} and run the benchmark again")
