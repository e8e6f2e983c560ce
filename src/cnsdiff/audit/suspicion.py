"""Signs that a recommender from elsewhere has seen the pairs that judge it.

What it was trained on cannot be known; what its lists give away can be measured. Three signs:

- *As good on what was held out as on what it was to learn from.* Pairs of the IID test are like
  training pairs in all but one thing: whether they were learnt from. A list that may hold training
  pairs holds more of those, then, unless it was made from both. Both are counted beyond what a
  stranger's list would hold of them, so that popularity is no sign. Models that learn nothing by
  heart (ItemKNN on a dense log) show it too, and gain nothing from what they have seen: so it
  counts in full only of a recommender that is better on the IID test than all that was trained.
- *Held-out pairs are missing.* A system that leaves out what users have had, and has seen the
  held-out pairs, lists fewer of them than of a stranger's.
- *Too good.* It is far better on the IID test than anything trained here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset
from cnsdiff.evaluation.metrics import Relevance
from cnsdiff.evaluation.significance import Interval, resampled_sums

#: Fewer users than this tell nothing; of more than this, some are enough.
LEAST_USERS, _MOST_USERS = 20, 4000
#: Held-out pairs are found at least so often as training pairs: they were learnt from alike.
_ALIKE = 0.8
#: So many times as accurate as the best that was trained here: too good to be honest.
TOO_GOOD = 1.5
#: Places of a list that are looked at.
DEPTH = 20

#: Resamples of users.
RESAMPLES = 2_000

_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Signs:
    """Signs in the lists.

    Attributes
    ----------
    train, held_out
        Mean share of a user's training pairs, and of the IID test's, that are in the list, less
        the share that is in a stranger's.
    ratio
        ``held_out / train``; near 1 if both were learnt from.
    n_users
        Of whom there are a list, training pairs and held-out pairs.
    """

    train: Interval
    held_out: Interval
    ratio: Interval
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


def signs(lists: Tensor, dataset: Dataset, *, seed: int) -> Signs:
    """Signs in the first :data:`DEPTH` places of lists of what they were made from.

    ``lists (n_users, K)`` still hold training pairs; -1 is no item.
    """
    shape = (dataset.n_users, dataset.n_items)
    splits = [dataset.split(name) for name in ("train", "test_iid")]
    known = [Relevance(split.users, split.items, *shape) for split in splits]
    lists = lists[:, :DEPTH]
    has = (known[0].counts > 0) & (known[1].counts > 0) & (lists >= 0).any(1)
    users = has.nonzero()[:, 0]
    rng = numpy_generator(seed, "audit/strangers")
    users = users[torch.from_numpy(rng.permutation(len(users))[:_MOST_USERS])]
    if len(users) < 2:
        return Signs(_UNKNOWN, _UNKNOWN, _UNKNOWN, len(users))
    # They come in a random order, so that the next is a stranger, and nobody is his own.
    own, others = lists[users], lists[users.roll(1)]
    excess = []
    for pairs in known:
        # The user's pairs in a stranger's list: what popularity alone would find of them.
        hits = pairs.hits(users, own).sum(1) - pairs.hits(users, others).sum(1)
        excess.append((hits / pairs.counts[users]).numpy())
    values = np.stack(excess, axis=1)
    rng = numpy_generator(seed, "audit/signs")
    means = resampled_sums(values, rng, RESAMPLES) / len(values)
    observed = values.mean(0)
    ratio = float(observed[1] / observed[0]) if observed[0] > 0 else float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = means[:, 1] / means[:, 0]
    return Signs(
        Interval.of_draws(float(observed[0]), means[:, 0], n=len(users)),
        Interval.of_draws(float(observed[1]), means[:, 1], n=len(users)),
        Interval.of_draws(ratio, ratios, n=len(users)),
        len(users),
    )
