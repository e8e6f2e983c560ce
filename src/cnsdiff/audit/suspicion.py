"""Whether a recommender that we did not train may have seen the pairs that judge it.

What it was trained on cannot be known; what its lists give away can be measured. Three signs:

- *As good on what was held out as on what it was to learn from.* A list that may hold training
  pairs holds more of a user's own training pairs than of held-out ones, unless both were learnt
  from. Both are counted beyond what a stranger's pairs would give, so that popularity is no sign.
- *Held-out pairs are missing.* A system that leaves out what users have had, and has seen the
  held-out pairs, lists fewer of them than of a stranger's.
- *Too good.* It is far better on the IID test than anything trained here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.audit.intervals import Estimate
from cnsdiff.evaluation.relevance import Relevance
from cnsdiff.seeding import numpy_generator

_RESAMPLES = 2000
#: Fewer users than this tell nothing.
LEAST_USERS = 20
#: Held-out pairs are found at least so often as training pairs: they were learnt from alike.
_ALIKE = 0.75
#: So many times as accurate as the best that was trained here: too good to be honest.
TOO_GOOD = 1.5


@dataclass(frozen=True)
class Signs:
    """What the lists give away.

    Attributes
    ----------
    train, held_out
        Mean share of a user's training pairs, and of the held-out pairs, that are in the list, less
        the share of a stranger's.
    ratio
        ``held_out / train``; near 1 if both were learnt from.
    n_users
        Of whom there are a list, training pairs and held-out pairs.
    """

    train: Estimate
    held_out: Estimate
    ratio: Estimate
    n_users: int

    @property
    def learnt_from_both(self) -> bool:
        """Whether held-out pairs look like training pairs."""
        return (
            self.n_users >= LEAST_USERS
            and self.train.low > 0
            and self.held_out.low > 0
            and self.ratio.low > _ALIKE
        )

    @property
    def left_out(self) -> bool:
        """Whether held-out pairs are missing from the lists."""
        return self.n_users >= LEAST_USERS and self.held_out.high < 0


def signs(
    lists: Tensor,
    train: tuple[NDArray[np.int64], NDArray[np.int64]],
    held_out: tuple[NDArray[np.int64], NDArray[np.int64]],
    shape: tuple[int, int],
    *,
    seed: int,
) -> Signs:
    """What lists give away of what they were made from.

    Parameters
    ----------
    lists
        ``(n_users, K)`` with training pairs still in them, -1 for none.
    train, held_out
        Users and items of the pairs.
    shape
        Users and items of the dataset.
    seed
        Of the strangers and of the intervals.
    """
    known = [Relevance(*pairs, *shape) for pairs in (train, held_out)]
    has = (known[0].counts > 0) & (known[1].counts > 0) & (lists >= 0).any(1)
    users = has.nonzero()[:, 0]
    if len(users) < 2:
        none = Estimate(float("nan"), float("nan"), float("nan"))
        return Signs(none, none, none, len(users))
    # Each user's stranger is the next in a random circle, so that nobody is his own.
    order = numpy_generator(seed, "audit/strangers").permutation(len(users))
    stranger = np.empty(len(users), dtype=np.int64)
    stranger[order] = np.roll(order, 1)
    own, others = lists[users], lists[users[torch.from_numpy(stranger)]]
    excess = []
    for pairs in known:
        # The user's pairs in a stranger's list: what popularity alone would find of them.
        found = pairs.hits(users, own).sum(1) - pairs.hits(users, others).sum(1)
        excess.append((found / pairs.counts[users]).numpy())
    values = np.stack(excess, axis=1)
    means = _resampled_means(values, seed)
    observed = values.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(observed[1] / observed[0]) if observed[0] > 0 else float("nan")
        ratios = means[:, 1] / means[:, 0]
    return Signs(
        Estimate.of(float(observed[0]), means[:, 0]),
        Estimate.of(float(observed[1]), means[:, 1]),
        Estimate.of(ratio, ratios),
        len(users),
    )


def _resampled_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    rng = numpy_generator(seed, "audit/signs")
    n = len(values)
    found = np.empty((_RESAMPLES, values.shape[1]))
    for at in range(_RESAMPLES):
        counts = np.bincount(rng.integers(n, size=n), minlength=n)
        found[at] = counts @ values / n
    return found
