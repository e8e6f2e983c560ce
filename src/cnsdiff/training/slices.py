"""A batch cut into slices by user, which several processes compute at once.

Slice ``p`` of ``P`` holds the rows of a batch whose user is ``p`` modulo ``P``. The loss of a step
is the mean over all rows of the batch, each row's taken within its slice: so it depends on ``P``,
but not on who computes which slice. Of ``N`` processes, process ``r`` computes the slices that are
``r`` modulo ``N``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import ConfigError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import Context
from cnsdiff.training.checkpoint import TrainingState
from cnsdiff.training.processes import Processes
from cnsdiff.training.step import TrainingStep


def number_of_slices(wished: int, processes: Processes) -> int:
    """``P``: as many as asked for, but at least one for each process.

    Raises
    ------
    ConfigError
        They cannot be shared out evenly.
    """
    count = max(wished, processes.count)
    if count % processes.count:
        raise ConfigError(
            f"training.slices: {wished} slices cannot be shared evenly by {processes.count} "
            f"processes; set a multiple of {processes.count}, or start another number of processes"
        )
    return count


@dataclass(frozen=True)
class Part:
    """One slice of a batch.

    Attributes
    ----------
    number
        Which slice.
    index
        ``(m,)`` rows of ``Positives.pairs``; there may be none.
    share
        Of the batch's rows, in ``[0, 1]``.
    """

    number: int
    index: Tensor
    share: float


@dataclass(frozen=True)
class Step:
    """The slices of a batch that this process computes.

    Attributes
    ----------
    parts
        Its slices.
    rows
        Of the whole batch.
    empty
        Whether any slice of the batch, in whatever process, has no rows.
    filled
        The first slice that has some.
    """

    parts: tuple[Part, ...]
    rows: int
    empty: bool = False
    filled: int = 0


class Slices:
    """The division of each batch among processes.

    Parameters
    ----------
    users
        ``(n,)`` the user of every training interaction.
    count
        ``P``.
    processes
        Who share them.
    kept
        ``(m,)`` which interactions the rows of ``Positives.pairs`` are, rising, where it holds
        those of this process's slices only.
    rows
        ``(n_rows,)`` which interactions are trained on, rising; all by default.
    """

    def __init__(
        self,
        users: Tensor,
        count: int,
        processes: Processes,
        kept: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self.count, self.processes = count, processes
        self.own = tuple(range(processes.rank, count, processes.count))
        self.n_rows = len(users) if rows is None else len(rows)
        self._kept, self._rows = kept, rows
        # Fewer bytes than the users have; none where all rows are of one slice.
        kind = torch.int16 if count < 2**15 else torch.int64
        self._slices = None if count == 1 else (users % count).to(kind)

    def epoch(self, order: Tensor, batch_size: int) -> list[Step]:
        """The steps of an epoch whose rows come in this ``order (n_rows,)``."""
        if self._rows is not None:
            order = self._rows[order]
        if self._slices is None:
            return [
                Step((Part(0, index, 1.0),), len(index)) for index in torch.split(order, batch_size)
            ]
        n, count = len(order), self.count
        slices = self._slices[order].long()
        batches = torch.arange(n, device=order.device) // batch_size
        keys = batches * count + slices
        n_steps = -(-n // batch_size)
        table = torch.bincount(keys, minlength=n_steps * count).view(n_steps, count).tolist()
        mine = slices % self.processes.count == self.processes.rank
        # Within a slice the rows stay in their order.
        rows = order[mine][keys[mine].argsort(stable=True)]
        if self._kept is not None:
            rows = torch.searchsorted(self._kept, rows)
        parts = iter(torch.split(rows, [counts[p] for counts in table for p in self.own]))
        steps = []
        for counts in table:
            total = sum(counts)
            own = tuple(Part(p, next(parts), counts[p] / total) for p in self.own)
            filled = next(p for p, size in enumerate(counts) if size)
            steps.append(Step(own, total, 0 in counts, filled))
        return steps


class Streams:
    """The random streams of each slice during an epoch.

    Those of slice 0 are the streams of a batch that is not cut. A sampler that draws once for all
    rows of a batch has the same streams in every slice, and so the same draws.

    Parameters
    ----------
    seed, epoch
        What they derive from.
    slices
        Which of them are computed here.
    alike
        Whether all slices draw the same.
    device
        Where.
    """

    def __init__(
        self, seed: int, epoch: int, slices: Slices, *, alike: bool, device: torch.device
    ) -> None:
        self._slices, self._alike = slices, alike
        self._generators: Mapping[int, tuple[torch.Generator, torch.Generator]] = {}
        for p in slices.own:
            indices = (epoch,) if alike or p == 0 else (epoch, p)
            negatives, noise = (
                torch_generator(seed, purpose, *indices, device=device)
                for purpose in ("negatives", "noise")
            )
            self._generators[p] = negatives, noise

    def context(self, number: int, progress: float, epoch: int) -> Context:
        """The sampler's context for the slice ``number``."""
        negatives, noise = self._generators[number]
        return Context(progress=progress, negatives=negatives, noise=noise, epoch=epoch)

    def catch_up(self, step: Step) -> None:
        """After a step: a slice that had no rows drew nothing, and joins those that did."""
        if not (self._alike and step.empty):
            return
        processes = self._slices.processes
        ahead = self._generators.get(step.filled)
        states = None if ahead is None else [generator.get_state() for generator in ahead]
        states = processes.from_process(step.filled % processes.count, states)
        assert states is not None
        for generators in self._generators.values():
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


class Layout:
    """Every process has everything; a shard has its share."""

    #: Whether a process that has no rows in a batch must propagate with the others all the same.
    propagates_together = False

    def slices(
        self, positives: Positives, count: int, processes: Processes, *, lacking: bool = False
    ) -> Slices:
        """How batches of all training interactions are cut into ``count`` slices.

        With ``lacking``, of all whose user lacks some item.
        """
        rows = positives.rows_with_negatives() if lacking else None
        return Slices(positives.pairs[:, 0], count, processes, rows=rows)

    def shared_parameters(self, step: TrainingStep) -> Iterable[nn.Parameter]:
        """The parameters that every process has a copy of, with a gradient of its own slices."""
        learnt = step.sampler.trained_parameters()
        return [*step.backbone.parameters(), *learnt]

    def device(self, device: torch.device) -> torch.device:
        """The device of all embeddings in the first process, given the one it trains on."""
        return device

    def embeddings(self, embeddings: Embeddings) -> Embeddings:
        """All embeddings, in the first process, of what each has. A collective."""
        return embeddings

    def whole(self, state: TrainingState) -> TrainingState:
        """The state of all, in the first process, of the state of each. A collective."""
        return state

    def own(self, state: TrainingState) -> TrainingState:
        """The share of this process in the state of all."""
        return state
