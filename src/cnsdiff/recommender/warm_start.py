"""A warm start: embedding tables begin where an earlier training left them.

What tables have learnt may not be what a rehearsal judges by, and those of a finished run have
learnt everything. So a run that was rehearsed also keeps the tables that its rehearsal chose, which
know nothing after its cut. A later rehearsal, whose cut is no earlier
(:func:`cnsdiff.environment.rehearse`), begins at these; the training on everything that follows
begins at the tables of the finished run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cnsdiff.backbones.base import Backbone, Embeddings
from cnsdiff.base.errors import RunError
from cnsdiff.base.storage import first_line, write_tensors
from cnsdiff.data.ids import Vocabulary

#: In the weights of a training step.
_TABLES = "backbone.user_embedding", "backbone.item_embedding"


@dataclass(frozen=True)
class Rehearsed:
    """The tables of layer 0 that a rehearsal chose.

    Attributes
    ----------
    tables
        ``(U, d)`` and ``(I, d)`` float32 on the CPU; rows of NaN for ids that come after the cut.
    moment
        Time of the last pair before the cut.
    """

    tables: Embeddings
    moment: float

    @classmethod
    def of_part(
        cls,
        weights: Mapping[str, Tensor],
        part: tuple[pl.Series, pl.Series],
        sizes: tuple[int, int],
        moment: float,
    ) -> Self | None:
        """From the weights of a training on a part; ``None`` if there are no such tables.

        Parameters
        ----------
        weights
            By name, as of a training step.
        part
            Users and items of the part, as internal numbers of the whole.
        sizes
            ``U`` and ``I``.
        moment
            See the attribute.
        """
        own = tables_in(weights)
        if own is None:
            return None
        tables = []
        for table, ids, size in zip(own, part, sizes, strict=True):
            rows = torch.full((size, table.shape[1]), torch.nan)
            rows[torch.from_numpy(ids.to_numpy(writable=True))] = table
            tables.append(rows)
        return cls(Embeddings(*tables), moment)

    def for_ids(
        self, old: tuple[pl.Series, pl.Series], new: tuple[pl.Series, pl.Series]
    ) -> Rehearsed:
        """The same for other ids of users and items."""
        return Rehearsed(_renumbered(self.tables, old, new), self.moment)

    def save(self, path: Path) -> None:
        """Write atomically."""
        tensors = {"users": self.tables.users, "items": self.tables.items}
        write_tensors(path, tensors, {"moment": repr(self.moment)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote; :class:`RunError` if it is damaged."""
        tensors, moment = _read(path, ("users", "items"))
        return cls(Embeddings(*tensors), moment)


@dataclass(frozen=True)
class WarmStart:
    """Where an update begins, in the internal numbers of its dataset.

    Attributes
    ----------
    rehearsed
        Of the rehearsal.
    trained
        Tables of the training on everything; rows of NaN begin as always.
    """

    rehearsed: Rehearsed
    trained: Embeddings

    @classmethod
    def of_run(
        cls,
        weights: Mapping[str, Tensor],
        rehearsed: Rehearsed | None,
        old: tuple[pl.Series, pl.Series],
        new: tuple[pl.Series, pl.Series],
    ) -> Self | None:
        """From a finished training; ``None`` if it left no tables to begin with.

        Parameters
        ----------
        weights, rehearsed
            As :class:`~cnsdiff.recommender.run_directory.Fitted` has them.
        old, new
            Ids of users and of items: those of the rows, and those to begin with.
        """
        trained = tables_in(weights)
        if trained is None or rehearsed is None:
            return None
        for tables in (trained, rehearsed.tables):
            if [len(table) for table in tables] != [len(ids) for ids in old]:
                return None
        return cls(rehearsed.for_ids(old, new), _renumbered(trained, old, new))

    def of_part(self, users: pl.Series, items: pl.Series) -> WarmStart:
        """The same for a part of the dataset, whose ids are internal numbers of the whole."""
        rows = [torch.from_numpy(ids.to_numpy(writable=True)) for ids in (users, items)]
        rehearsed, trained = (
            Embeddings(*(table[own] for table, own in zip(tables, rows, strict=True)))
            for tables in (self.rehearsed.tables, self.trained)
        )
        return WarmStart(Rehearsed(rehearsed, self.rehearsed.moment), trained)

    def save(self, path: Path) -> None:
        """Write atomically."""
        (users, items), trained = self.rehearsed.tables, self.trained
        tensors = {"users": users, "items": items}
        tensors |= {"trained.users": trained.users, "trained.items": trained.items}
        write_tensors(path, tensors, {"moment": repr(self.rehearsed.moment)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote; :class:`RunError` if it is damaged."""
        names = "users", "items", "trained.users", "trained.items"
        (users, items, *trained), moment = _read(path, names)
        return cls(Rehearsed(Embeddings(users, items), moment), Embeddings(*trained))


def begin_at(backbone: nn.Module, tables: Embeddings) -> None:
    """Write the known rows of tables into those of a backbone that is not trained yet."""
    assert isinstance(backbone, Backbone)
    with torch.no_grad():
        for parameter, rows in zip(backbone.layer_zero(), tables, strict=True):
            known = rows.isfinite().all(dim=1)
            parameter[known] = rows[known].to(parameter)


def tables_in(weights: Mapping[str, Tensor]) -> Embeddings | None:
    """The tables of layer 0 among the weights of a step; a backbone of one's own may have none."""
    tables = [weights[name].detach().float().cpu() for name in _TABLES if name in weights]
    if len(tables) < 2 or any(table.ndim != 2 for table in tables):
        return None
    return Embeddings(*tables)


def _renumbered(
    tables: Embeddings, old: tuple[pl.Series, pl.Series], new: tuple[pl.Series, pl.Series]
) -> Embeddings:
    """The rows of new ids, NaN for those that the old ones do not have."""
    renumbered = []
    for table, before, now in zip(tables, old, new, strict=True):
        numbers = torch.from_numpy(Vocabulary(before.alias("id")).encode(now))
        rows = table[numbers.clamp(min=0)]
        rows[numbers < 0] = torch.nan
        renumbered.append(rows)
    return Embeddings(*renumbered)


def _read(path: Path, names: tuple[str, ...]) -> tuple[list[Tensor], float]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = [file.get_tensor(name) for name in names]
            return tensors, float((file.metadata() or {})["moment"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({first_line(error)}); train again") from error
