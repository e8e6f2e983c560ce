"""Looking at the negatives of an epoch while it trains, without touching anything.

The loop tells a probe that an epoch begins and asks it for scalars at the end; the training
step shows it the negatives of the batches it looks at. A probe changes no weight: it has a random
stream of its own and keeps no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.evaluation.fhn import FalseNegatives, false_negatives
from cnsdiff.evaluation.judges import Judge, JudgeKind, judge_for
from cnsdiff.samplers.base import Batch, Items, Negatives
from cnsdiff.training.config import TrainingConfig

#: Of the batches of an epoch one in so many is looked at, up to a number that spreads the sample
#: well enough (more only where the sample would not fit): each look has a cost of its own.
_EVERY, _LOOKS = 16, 16

_READS: Mapping[JudgeKind, str] = {
    "held-out": "the test splits",
    "experiment": "the experiment's judgements",
    "truth": "the simulated truth",
}


class FalseNegativeProbe:
    """Counts false negatives among a sample of those an epoch trains on.

    The sample is a few random rows of evenly spaced batches.

    Parameters
    ----------
    judge
        Says which negatives are false, on the device of training.
    positives
        The training pairs.
    config
        How often, how many, by how many neighbours (``fhn_*``).
    seed
        The one seed.
    """

    def __init__(
        self, judge: Judge, positives: Positives, config: TrainingConfig, seed: int
    ) -> None:
        self.judge, self.positives, self.config, self.seed = judge, positives, config, seed
        self._epoch = 0
        self._measured: frozenset[int] = frozenset()
        self._counts = FalseNegatives()
        self._generator: torch.Generator | None = None

    @property
    def note(self) -> str | None:
        if self.config.fhn_on == "valid":
            return None
        return (
            f"training.fhn_on={self.config.fhn_on} reads {_READS[self.config.fhn_on]} to count "
            "false negatives: a diagnostic, on which no weight and no choice of epoch depends"
        )

    def begin(self, epoch: int, n_steps: int) -> None:
        """An epoch of ``n_steps`` batches begins."""
        self._epoch, self._counts = epoch, FalseNegatives()
        every = self.config.fhn_every
        due = every is not None and (epoch % every == 0 or epoch == self.config.epochs)
        spread = min(-(-n_steps // _EVERY), _LOOKS)
        fitting = -(-self._sample // self.config.batch_size_for(len(self.positives)))
        looks = min(n_steps, max(spread, fitting)) if due else 0
        # The middle of each of equal parts of the epoch.
        self._measured = frozenset((2 * j + 1) * n_steps // (2 * looks) for j in range(looks))
        self._generator = None

    def looks_at(self, step: int) -> bool:
        """Whether it wants to see the batch of this number, from 0."""
        return step in self._measured

    def __call__(self, batch: Batch, embeddings: Embeddings, negatives: Negatives) -> None:
        """Count among the negatives of a batch it looks at; ``embeddings`` score it."""
        if self._generator is None:
            device = batch.users.device
            self._generator = torch_generator(self.seed, "fhn", self._epoch, device=device)
        # Of weighted ones each row is dealt one.
        weighted = isinstance(negatives, Items) and negatives.weights is not None
        rows = self._rows(batch, 1 if weighted else negatives.n)
        self._counts += false_negatives(
            negatives.rows(rows).deal(len(rows), self._generator),
            Batch(batch.index[rows], batch.users[rows], batch.positives[rows]),
            embeddings,
            self.judge,
            self.positives,
            neighbours=self.config.fhn_neighbours,
            generator=self._generator,
        )

    def scalars(self) -> Mapping[str, float]:
        """Scalars of this epoch, for its record; empty if no negative was judged."""
        return self._counts.scalars()

    @property
    def _sample(self) -> int:
        # Judging a negative costs about as much as training on two interactions.
        return self.config.fhn_sample or min(max(len(self.positives) // 100, 256), 2048)

    def _rows(self, batch: Batch, n: int) -> Tensor:
        """Random rows of a batch, those of users the judge knows before all others."""
        wanted = -(-self._sample // (n * len(self._measured)))
        device = batch.users.device
        order = torch.rand(len(batch), generator=self._generator, device=device)
        if self.judge.known_users is not None:
            order += (~self.judge.known_users[batch.users]).to(order.dtype)
        return order.argsort()[:wanted]


def false_negative_probe(
    config: TrainingConfig,
    dataset: Dataset,
    positives: Positives,
    seed: int,
    device: torch.device | str,
) -> FalseNegativeProbe | None:
    """The probe a configuration asks for, or ``None`` if it asks for none.

    The default judge, the valid split, is not insisted on: a dataset may have none.

    Raises
    ------
    DataError
        The dataset has nothing to judge negatives by as ``config.fhn_on`` asks.
    """
    without_valid = config.fhn_on == "valid" and "valid" not in dataset.split_names
    if config.fhn_every is None or without_valid:
        return None
    return FalseNegativeProbe(judge_for(dataset, config.fhn_on, device), positives, config, seed)
