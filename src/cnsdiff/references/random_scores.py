"""Chance: every pair of user and item gets a score drawn at random."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff.base.counted_random import uniforms
from cnsdiff.base.errors import ConfigError
from cnsdiff.base.seeding import derive_seed
from cnsdiff.references.base import Reference


class RandomScores(Reference):
    """Scores uniform in ``[0, 1]``, independent of one another and of the data.

    The score of a pair is a function of ``(seed, user, item)`` alone: it does not depend on the
    batch or the chunk it is asked for in, nor on the size of the catalogue.

    Parameters
    ----------
    seed : int
        At least 0.
    """

    deterministic: ClassVar[bool] = False
    dialled: ClassVar[bool] = False

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def _fit(self, train: csr_array) -> None:
        if self.seed < 0:
            raise ConfigError(f"RandomScores' seed is {self.seed}; it must not be negative")
        self._key = derive_seed(self.seed, "random scores")

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        self._fitted()
        # The pair's number: 32 bits each, so that no two pairs share one.
        rows = users.cpu().numpy().astype(np.int64)[:, np.newaxis] << 32
        scores = uniforms(self._key, rows | np.arange(start, stop))
        return torch.from_numpy(scores.astype(np.float32)).to(users.device)
