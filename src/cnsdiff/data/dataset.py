"""A prepared dataset: ids, splits, and how they came about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.base.errors import DataError, warn
from cnsdiff.base.storage import read_settled
from cnsdiff.base.text import parameter
from cnsdiff.data.directory import (
    MANIFEST,
    SCHEMA_VERSION,
    SPLITS,
    DatasetManifest,
    SeenCounts,
    SplitCounts,
    ids_misfit,
    read_manifest,
    read_table,
    require_side_table,
    require_split,
    write_directory,
)
from cnsdiff.data.ids import Vocabulary
from cnsdiff.data.interactions import Interactions
from cnsdiff.data.side_tables import (
    add_to_hash,
    encode_side_tables,
    new_item_tables,
    seen_misfit,
    seen_table,
    side_table_misfit,
)
from cnsdiff.data.splits import (
    Encoded,
    Split,
    content_hash,
    encode_splits,
    joined,
    split_misfit,
    split_of,
    table_of,
)

LICENCE = "not stated; ask the publisher of the data before passing it on"


class Dataset:
    """Train, validation and test pairs under one shift scenario.

    Made by :meth:`from_splits` or :func:`load_dataset`, not by hand. Internal user and item
    numbers are the rows of ``users`` and ``items``.

    Attributes
    ----------
    name, scenario
        What it is called and how it was split.
    users, items
        The ids as given, in order of first appearance in train.
    manifest
        Counts, settings and provenance, as in ``manifest.json``.
    path
        Its directory; None while it is in memory only.
    """

    def __init__(
        self,
        *,
        users: pl.Series,
        items: pl.Series,
        manifest: DatasetManifest,
        splits: Mapping[str, Split] = MappingProxyType({}),
        tables: Mapping[str, pl.DataFrame] = MappingProxyType({}),
        seen: pl.DataFrame | None = None,
        path: Path | None = None,
    ) -> None:
        self._users = Vocabulary(users.alias("id"))
        self._items = Vocabulary(items.alias("id"))
        # What is in memory: all of it, or what has been read from the directory so far.
        self._splits, self._tables = dict(splits), dict(tables)
        self._seen = seen
        self.manifest = manifest
        self.path = path

    def __repr__(self) -> str:
        splits = self.manifest.splits
        counts = ", ".join(f"{name} {splits[name].rows:,}" for name in self.split_names)
        return (
            f"Dataset({self.name!r}, {self.scenario}: {self.n_users:,} users, "
            f"{self.n_items:,} items; {counts})"
        )

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.manifest.name

    @property
    def scenario(self) -> str:
        """The name of the shift scenario."""
        return self.manifest.scenario

    @property
    def users(self) -> pl.Series:
        """User ids as given; the row is the internal number."""
        return self._users.ids

    @property
    def items(self) -> pl.Series:
        """Item ids as given; the row is the internal number."""
        return self._items.ids

    @property
    def n_users(self) -> int:
        """Number of users in train."""
        return len(self._users)

    @property
    def n_items(self) -> int:
        """Number of items in train."""
        return len(self._items)

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits there are, in the order of :data:`SPLITS`."""
        return tuple(name for name in SPLITS if name in self.manifest.splits)

    @property
    def periods(self) -> list[Any]:
        """The labels that ``Split.periods`` numbers; empty without labels of periods."""
        return list(self.manifest.environments)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The side tables there are, in the order of :data:`~cnsdiff.data.SIDE_TABLES`."""
        return tuple(self.manifest.tables)

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of ids, pairs and side tables: equal for equal content, saved or not."""
        return self.manifest.fingerprint

    def split(self, name: str) -> Split:
        """The pairs of one split.

        A dataset with a directory reads and checks the file when it is first asked for, so that
        no test split is opened before, and keeps it.

        Raises
        ------
        DataError
            There is no such split, or its file is damaged.
        """
        require_split(name)
        if name not in self.split_names:
            if self.n_new_items and name in self.table("new_item_pairs")["split"]:
                raise DataError(
                    f"{self.path or self.name}: has no {name} split of known items, only pairs of "
                    "new ones; measure these with evaluate_new_items, or evaluate other splits "
                    f"with {parameter('split')}"
                )
            other = {
                "train": "",
                "valid": " (training picks its best epoch on it)",
            }.get(name, f", or evaluate other splits with {parameter('split')}")
            raise DataError(
                f"{self.path or self.name}: has no {name} split; prepare it again with "
                f"{parameter(name, 'FILE')}{other}"
            )
        if name not in self._splits:
            n_labels = len(self.periods)
            table = self._read(
                name, lambda table: split_misfit(table, self.n_users, self.n_items, n_labels)
            )
            self._splits[name] = split_of(table, name)
        return self._splits[name]

    def merged(self) -> Dataset:
        """The same dataset with the pairs of valid in train, for a model that learns from both."""
        if "valid" not in self.split_names:
            return self
        train = joined([self.split("train"), self.split("valid")], "train")
        others = {name: own for name, own in self.manifest.splits.items() if name != "valid"}
        return Dataset(
            users=self.users,
            items=self.items,
            manifest=self.manifest.model_copy(
                update={"splits": {**others, "train": SplitCounts(**train.sizes)}}
            ),
            splits={**self._splits, "train": train},
            tables=self._tables,
            seen=self._seen,
            path=self.path,
        )

    @property
    def n_new_items(self) -> int:
        """Items of held-out pairs that train does not know, but of which features are known."""
        if "new_item_features" not in self.table_names:
            return 0
        return self.table("new_item_features").height

    def with_new_items(self) -> Dataset:
        """The same dataset with the new items behind those of train, and with their pairs.

        They have no pair in train; held-out splits have theirs behind the others, and a split of
        new items alone is there, too. For measuring a model that can tell new items; itself where
        there are none.
        """
        if not self.n_new_items:
            return self
        fresh, pairs = self.table("new_item_features"), self.table("new_item_pairs")
        splits = {}
        for name in SPLITS:
            own = pairs.filter(pl.col("split") == name)
            parts = [self.split(name)] if name in self.split_names else []
            if len(own):
                # A split may have no times where others have.
                columns = (
                    own[column].to_numpy()
                    if column in own.columns and not own[column].null_count()
                    else None
                    for column in ("timestamp", "environment")
                )
                users, items = (own[side].cast(pl.Int64).to_numpy() for side in ("user", "item"))
                parts.append(Split(name, users, items + self.n_items, *columns))
            if parts:
                splits[name] = joined(parts, name) if len(own) else parts[0]
        known = fresh.drop("id").rename({"item": "id"}, strict=False)
        features = pl.concat([self.table("item_features"), known], how="vertical_relaxed")
        of_users = [name for name in self.table_names if name.startswith(("user", "truth_users"))]
        tables = {**{name: self.table(name) for name in of_users}, "item_features": features}
        counts = {name: split.sizes for name, split in splits.items()}
        ids = pl.concat([self.items, fresh["id"]])
        encoded = Encoded(splits, self.users, ids, None, counts)
        return Dataset(
            users=self.users,
            items=ids,
            manifest=self.manifest.model_copy(
                update={
                    "fingerprint": add_to_hash(content_hash(encoded), tables),
                    "n_items": len(ids),
                    "splits": {name: SplitCounts(**own) for name, own in counts.items()},
                    "tables": [name for name in self.table_names if name in tables],
                }
            ),
            splits=splits,
            tables=tables,
            seen=self.seen(),
        )

    def table(self, name: str) -> pl.DataFrame:
        """One side table: features, judgements, the truth of a simulation, exposures.

        Tables of users or items have a row for each internal number, with nulls where nothing
        is known (``exposures``: 0); ``judgements`` has ``user`` and ``item``
        (internal numbers) and ``relevant``. Read and checked as a split is.

        Raises
        ------
        DataError
            There is no such table, or its file is damaged.
        """
        require_side_table(name)
        if name not in self.table_names:
            raise DataError(f"{self.path or self.name}: has no {name}; prepare it again with them")
        if name not in self._tables:
            n_items = self.n_new_items if name == "new_item_pairs" else self.n_items
            self._tables[name] = self._read(
                name, lambda table: side_table_misfit(table, name, self.n_users, n_items)
            )
        return self._tables[name]

    def _read(self, name: str, misfit: Callable[[pl.DataFrame], str | None]) -> pl.DataFrame:
        """A table of the directory, which must fit the ids and the manifest."""
        if self.path is None:
            raise DataError(f"{self.name}: its {name} is neither in memory nor on disk")
        table = read_table(self.path, name, self.manifest)
        problem = misfit(table)
        rows = self.manifest.splits[name].rows if name in self.split_names else table.height
        if table.height != rows:
            problem = f"has {table.height} rows and not {rows}"
        if problem is not None:
            raise DataError(
                f"{self.path}: {name}.parquet {problem}, so it does not fit users.parquet, "
                "items.parquet and the manifest; prepare the dataset again"
            )
        return table

    def seen(self) -> pl.DataFrame:
        """Everything the log says of its users beyond train: what they already have.

        The held-out splits, what fell below the rating threshold and what the scenario left out,
        as far as train knows the item. It does not tell which pair is of which split, belongs to
        no measurement, and is not part of :attr:`fingerprint`. :class:`DataError` if its file is
        damaged.

        Returns
        -------
        DataFrame
            See :func:`~cnsdiff.data.side_tables.seen_table`: ``user`` (internal number, null for
            users who are not in train), ``id`` (of those users), ``item``, ``timestamp?``.
        """
        if self._seen is None and self.path is not None and self.manifest.seen is not None:
            self._seen = self._read(
                "seen", lambda table: seen_misfit(table, self.n_users, self.n_items)
            )
        if self._seen is None:
            # A dataset from before this table holds no more than its splits.
            logs = [
                Interactions(
                    pl.DataFrame(
                        {
                            "user": self.decode_users(split.users),
                            "item": self.decode_items(split.items),
                            **({} if split.timestamps is None else {"timestamp": split.timestamps}),
                        }
                    ),
                    self.name,
                )
                for split in map(self.split, self.split_names)
                if split.name != "train"
            ]
            self._seen = seen_table(logs, self._users, self._items, self.split("train"))
        return self._seen

    def encode_users(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """Internal numbers ``(n,)`` of user ids, -1 where unknown to train."""
        return self._users.encode(ids)

    def encode_items(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """Internal numbers ``(n,)`` of item ids, -1 where unknown to train."""
        return self._items.encode(ids)

    def decode_users(self, numbers: Sequence[int] | NDArray[np.integer[Any]]) -> pl.Series:
        """User ids of internal numbers; ValueError for one out of range."""
        return self._users.decode(numbers)

    def decode_items(self, numbers: Sequence[int] | NDArray[np.integer[Any]]) -> pl.Series:
        """Item ids of internal numbers; ValueError for one out of range."""
        return self._items.decode(numbers)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the dataset directory in one step; ``path`` becomes the dataset's own.

        Raises
        ------
        InputError
            ``path`` exists (pass ``overwrite``), or holds something that is no dataset.
        StorageError
            It cannot be written; what was there is untouched.
        """
        path = Path(path)
        tables = {
            "users": self.users.to_frame(),
            "items": self.items.to_frame(),
            **{name: table_of(self.split(name)) for name in self.split_names},
            **{name: self.table(name) for name in self.table_names},
            "seen": self.seen(),
        }
        seen = SeenCounts(pairs=tables["seen"].height)
        manifest = self.manifest.model_copy(update={"seen": seen})
        self.manifest = write_directory(path, manifest, tables, overwrite=overwrite)
        self.path = path
        return path

    @classmethod
    def from_splits(
        cls,
        splits: Mapping[str, Interactions],
        *,
        name: str,
        scenario: str,
        source: Mapping[str, Any] | str | None = None,
        settings: Mapping[str, Any] | None = None,
        counts: Mapping[str, Mapping[str, int]] | None = None,
        log: Mapping[str, Any] | None = None,
        tables: Mapping[str, pl.DataFrame] | None = None,
        logs: Iterable[Interactions] = (),
    ) -> Dataset:
        """Number the ids of train and bring all splits into those numbers.

        Duplicates are dropped everywhere; from the held-out splits, pairs whose user or item
        does not occur in train and pairs that are in train too; from valid, pairs that are in a
        test too. All are counted in the manifest (``duplicates``, ``dropped_unknown``,
        ``overlap_train``, ``overlap_test``). Pairs of both tests stay in both
        (``overlap_test_iid``).

        Parameters
        ----------
        splits
            Positive interactions by split name; ``"train"`` is required.
        name, scenario
            For the manifest.
        source
            Where the data came from: a mapping such as ``{"files": {...}, "licence": "..."}``
            or a sentence. No full paths: they say nothing on another machine.
        settings
            How it was prepared (threshold, k-core, …).
        counts
            More counts for each split, put beside those made here.
        log
            What became of the log before it was split, for the manifest.
        tables
            Side tables in the ids as given: ``user_features``, ``truth_users`` (a column
            ``user``, a row each), ``item_features``, ``truth_items``, ``exposures`` (``item``;
            the last with a count ``exposures``), ``judgements`` (``user``, ``item``,
            ``relevant``). Rows of ids unknown to train are left out.
        logs
            What the splits were made of, whole: what :meth:`seen` has the pairs of; by default
            the splits.

        Raises
        ------
        DataError
            A split name is unknown, train is missing or empty, ids cannot be compared, or no
            pair of a held-out split is known to train.
        """
        for split in splits:
            require_split(split)
        if "train" not in splits:
            raise DataError(f"there is no train split; give one with {parameter('train', 'FILE')}")
        if len(splits["train"]) == 0:
            raise DataError(
                f"{splits['train'].source}: no interaction is left to train on; lower "
                f"{parameter('threshold')} or the k-core"
            )
        encoded = encode_splits(splits)
        if (weights := encoded.splits["train"].weights) is not None and not weights.any():
            raise DataError(
                f"{splits['train'].source}: every pair to train on has the weight 0; give the "
                f"events among them a weight above 0 with {parameter('events', ...)}"
            )
        numbers = Vocabulary(encoded.users), Vocabulary(encoded.items)
        side = encode_side_tables(tables or {}, *numbers)
        if tables is not None and "item_features" in tables:
            side |= new_item_tables(splits, tables["item_features"], *numbers, encoded.periods)
        for split, why in encoded.empty.items():
            fresh = 0
            if "new_item_pairs" in side:
                fresh = side["new_item_pairs"].filter(pl.col("split") == split).height
            if not fresh:
                raise DataError(why)
            warn(
                f"{splits[split].source}: all {fresh:,} pairs left of the {split} split are of new "
                f"items, so there is no {split} of known ones; evaluate_new_items measures them"
            )
        held_out = [table for split, table in splits.items() if split != "train"]
        seen = seen_table(list(logs) or held_out, *numbers, encoded.splits["train"])
        labels = encoded.periods
        origin = {"description": source} if isinstance(source, str) else dict(source or {})
        more = {split: dict(own) for split, own in (counts or {}).items()}
        if "new_item_pairs" in side:
            for split, own in encoded.counts.items():
                fresh = side["new_item_pairs"].filter(pl.col("split") == split).height
                if fresh:
                    unknown = own["dropped_unknown"] - fresh
                    more[split] = {
                        **more.get(split, {}),
                        "dropped_unknown": unknown,
                        "new_item_pairs": fresh,
                    }
        # A field that is not set is not in the file.
        optional: dict[str, Any] = {
            "environments": None if labels is None else labels.to_list(),
            "tables": list(side) or None,
            "log": None if log is None else dict(log),
        }
        manifest = DatasetManifest(
            schema_version=SCHEMA_VERSION,
            name=str(name),
            scenario=scenario,
            created_by=f"cnsdiff {version('cnsdiff')}",
            fingerprint=add_to_hash(content_hash(encoded), side),
            n_users=len(encoded.users),
            n_items=len(encoded.items),
            splits={
                split: SplitCounts(**own | {key: int(n) for key, n in more.get(split, {}).items()})
                for split, own in encoded.counts.items()
            },
            source={"licence": LICENCE, **origin},
            settings=dict(settings or {}),
            seen=SeenCounts(pairs=seen.height),
            **{field: value for field, value in optional.items() if value is not None},
        )
        return cls(
            users=encoded.users,
            items=encoded.items,
            manifest=manifest,
            splits=encoded.splits,
            tables=side,
            seen=seen,
        )


def load_dataset(path: str | Path) -> Dataset:
    """Open a dataset directory; its splits are read when asked for.

    Raises
    ------
    DataError
        It is not a dataset, of another schema version, incomplete or damaged.
    """
    path = Path(path)
    return read_settled(path / MANIFEST, lambda: _load(path))


def _load(path: Path) -> Dataset:
    manifest = read_manifest(path)
    ids = {}
    for table, count in (("users", manifest.n_users), ("items", manifest.n_items)):
        frame = read_table(path, table, manifest)
        problem = ids_misfit(frame)
        if problem is None and frame.height != count:
            problem = f"has {frame.height} ids and not {count}"
        if problem is not None:
            raise DataError(
                f"{path}: {table}.parquet does not fit the manifest ({problem}); prepare the "
                "dataset again"
            )
        ids[table] = frame["id"]
    return Dataset(users=ids["users"], items=ids["items"], manifest=manifest, path=path)
