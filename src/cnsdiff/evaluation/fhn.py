"""False hard negatives: the share of a sampler's negatives that the user would like.

A negative picked from the catalogue is judged itself; a synthesised one through the ``k``
catalogue items nearest to it by cosine. It is *hard* when it scores above the user's median
candidate: the median score of a few random items outside the user's training positives.
Counts, not ratios, come out of a batch: they add up, so that a ratio over many batches is a
ratio of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import DataError, InputError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data.positives import Positives
from cnsdiff.evaluation.judges import LIKED, UNKNOWN, Judge
from cnsdiff.samplers.base import Batch, Context, Items, Negatives, Vectors

#: A block of the search for neighbours: 8 MiB of float32, of which a core's cache holds much.
_VECTORS_AT_ONCE, _ITEMS_AT_ONCE = 1024, 2048
#: Rows whose candidates are scored together.
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class FalseNegatives:
    """Counts of negatives and of what they turned out to be; ``a + b`` pools two of them.

    Attributes
    ----------
    examined
        Negatives looked at.
    hard
        Of these, those that score above their user's median candidate.
    judged, false
        Verdicts given, and those that say "liked". A synthesised negative is asked about once
        per neighbour.
    hard_judged, hard_false
        The same of hard negatives alone.
    known_positive
        Times that what was asked about is a training positive of the user. A complete judge
        counts them as false; a partial one, which knows few pairs, leaves them out.
    neighbours
        ``k``, the catalogue items a synthesised negative was judged by; 0 for negatives picked
        from the catalogue.
    """

    examined: int = 0
    hard: int = 0
    judged: int = 0
    false: int = 0
    hard_judged: int = 0
    hard_false: int = 0
    known_positive: int = 0
    neighbours: int = 0

    def __add__(self, other: FalseNegatives) -> FalseNegatives:
        if self.examined and other.examined and self.neighbours != other.neighbours:
            raise ValueError(
                f"counts by {self.neighbours} and by {other.neighbours} neighbours do not add up"
            )
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return FalseNegatives(**{**sums, "neighbours": max(self.neighbours, other.neighbours)})

    @property
    def fhn(self) -> float:
        """Share of the judged negatives that are false; NaN if none was judged."""
        return _share(self.false, self.judged)

    @property
    def fhn_hard(self) -> float:
        """The same of the hard negatives."""
        return _share(self.hard_false, self.hard_judged)

    @property
    def hard_share(self) -> float:
        """Share of the negatives that are hard."""
        return _share(self.hard, self.examined)

    @property
    def known_positive_share(self) -> float:
        """Share of what was asked about that is a training positive of the user."""
        return _share(self.known_positive, self.examined * max(self.neighbours, 1))

    def interval(self, *, hard: bool = False, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of :attr:`fhn`, or of :attr:`fhn_hard`.

        It takes the verdicts as independent. Those on the neighbours of one vector are not, so
        with more than one neighbour it is too narrow.
        """
        if hard:
            return wilson(self.hard_false, self.hard_judged, level)
        return wilson(self.false, self.judged, level)

    def scalars(self) -> dict[str, float]:
        """The scalars to log: defined ratios, and ``fhn_judged``, the verdicts they rest on.

        ``known_positive`` (a share) only for synthesised negatives: picked ones have none.
        """
        if not self.examined:
            return {}
        values = {
            "fhn": self.fhn,
            "fhn_hard": self.fhn_hard,
            "hard_share": self.hard_share,
            "fhn_judged": float(self.judged),
        }
        if self.neighbours:
            values["known_positive"] = self.known_positive_share
        return {name: value for name, value in values.items() if not math.isnan(value)}


def false_negatives(
    negatives: Items | Vectors,
    batch: Batch,
    embeddings: Embeddings,
    judge: Judge,
    positives: Positives,
    *,
    neighbours: int = 1,
    candidates: int = 64,
    generator: torch.Generator,
) -> FalseNegatives:
    """Judge the negatives of a batch.

    Parameters
    ----------
    negatives, batch
        Each row's own, and for which interactions.
    embeddings
        Those whose inner product is the score (unit vectors where it is the cosine).
    judge
        See :func:`cnsdiff.evaluation.judges.judge_for`.
    positives
        The training pairs. A pair that is one of them is liked, whatever the judge says, if the
        judge knows all pairs; else it is left out, and reported as ``known_positive`` alone.
    neighbours
        ``k``: nearest catalogue items by cosine that stand for a synthesised negative (at most
        the whole catalogue).
    candidates
        Random items outside the user's training positives whose median score parts hard from
        easy; drawn anew for each row.
    generator
        Source of the candidates, on the embeddings' device.

    Returns
    -------
    FalseNegatives
        Nothing given is changed, and no gradient is kept.
    """
    device = embeddings.items.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        embeddings = Embeddings(*(table.detach().float() for table in embeddings))
        vectors = negatives.embed(embeddings).float()  # (B, n, d)
        match negatives:
            case Items(items):
                k = 0
            case Vectors():
                k = min(neighbours, positives.n_items)
                items = nearest_items(vectors.flatten(0, 1), embeddings.items, k)
        items = items.reshape(len(batch), -1)  # (B, n * max(k, 1))
        known = positives.contains(batch.users.unsqueeze(1), items)
        # An experiment tries few pairs. Training positives, all judged, would drown its verdicts.
        of_known = LIKED if judge.complete else UNKNOWN
        verdict = judge(batch.users, items).masked_fill(known, of_known)
        pool = positives.sample_negatives(batch.users, candidates, generator)
        users = embeddings.users[batch.users].unsqueeze(1)  # (B, 1, d)
        median = _median(_scores(users, pool, embeddings.items))
        # Summed as in _scores: no item scores above itself.
        hard = (vectors * users).sum(dim=-1) > median.unsqueeze(1)  # (B, n)
        judged, false = verdict != UNKNOWN, verdict == LIKED
        hard_items = hard.repeat_interleave(max(k, 1), dim=1)
        masks = {
            "hard": hard,
            "judged": judged,
            "false": false,
            "hard_judged": judged & hard_items,
            "hard_false": false & hard_items,
            "known_positive": known,
        }
        # One reading from the device, not one per count.
        counts = torch.stack([mask.sum() for mask in masks.values()]).tolist()
    return FalseNegatives(
        examined=hard.numel(), neighbours=k, **dict(zip(masks, counts, strict=True))
    )


def nearest_items(vectors: Tensor, items: Tensor, k: int) -> Tensor:
    """The ``k`` rows of ``items`` ``(I, d)`` nearest to each of ``vectors`` ``(m, d)``, by cosine.

    Exact, in memory of one block of vectors × items. Returns ``(m, k)`` int64, nearest first.
    """
    catalogue = torch.split(F.normalize(items, dim=1), _ITEMS_AT_ONCE)
    nearest = [_nearest(rows, catalogue, k) for rows in torch.split(vectors, _VECTORS_AT_ONCE)]
    return torch.cat(nearest)


def _nearest(vectors: Tensor, catalogue: Sequence[Tensor], k: int) -> Tensor:
    # The length of a vector is the same for all items, so it need not be divided out.
    cosine = vectors.new_empty((len(vectors), 0))
    nearest = torch.empty_like(cosine, dtype=torch.int64)
    start = 0
    for items in catalogue:
        scores = vectors @ items.T
        # The maximum alone is found in half the time.
        best = scores.max(dim=1, keepdim=True) if k == 1 else scores.topk(min(k, len(items)))
        cosine = torch.cat([cosine, best.values], dim=1)
        nearest = torch.cat([nearest, best.indices + start], dim=1)
        if cosine.shape[1] > k:
            cosine, kept = cosine.topk(k, dim=1)
            nearest = nearest.gather(1, kept)
        start += len(items)
    return nearest.gather(1, cosine.argsort(dim=1, descending=True))


def measure_false_negatives(
    sampler: Callable[[Batch, Embeddings, Context], Negatives],
    embeddings: Embeddings,
    positives: Positives,
    judge: Judge,
    *,
    n: int = 10_000,
    batch_size: int = 2048,
    seed: int = 0,
    progress: float = 1.0,
    epoch: int = 1,
    cosine: bool = False,
    layers: tuple[Embeddings, ...] = (),
    neighbours: int = 1,
    candidates: int = 64,
) -> FalseNegatives:
    """Ask a sampler for negatives of random training interactions, and judge them.

    Interactions are drawn with replacement, from those of users the judge knows something
    about: an experiment tries few pairs, and the rest would only be unknown.

    Parameters
    ----------
    sampler
        A sampler, or what the loss makes of one's negatives: called as in training, without
        gradient. One with a memory remembers these calls: pass
        a copy if it is to be trained on.
    embeddings
        Those whose inner product is the score, on one device with sampler, positives and judge.
    positives
        The training pairs.
    judge
        See :func:`cnsdiff.evaluation.judges.judge_for`.
    n
        Interactions to draw; each has the sampler's ``n_negatives``.
    batch_size
        Interactions per call.
    seed
        Of this measurement.
    progress
        Share of the training that is done, in ``[0, 1]``; samplers with a curriculum ask.
    epoch
        The epoch that follows, from 1.
    cosine
        Whether the score is the cosine (``embeddings`` are then unit vectors).
    layers
        The backbone's embeddings layer by layer, for a sampler that wants them; by default one
        layer, ``embeddings``.
    neighbours, candidates
        See :func:`false_negatives`.

    Raises
    ------
    InputError
        ``n``, ``batch_size``, ``neighbours`` or ``candidates`` is below 1.
    DataError
        The judge knows none of the users with training interactions.
    """
    sizes = {
        "n": n, "batch_size": batch_size, "neighbours": neighbours, "candidates": candidates,
    }  # fmt: skip
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    device = embeddings.items.device
    pairs = positives.pairs
    # A user who has every item has no negative that could be false.
    lacking = positives.rows_with_negatives()
    eligible = torch.arange(len(pairs), device=device) if lacking is None else lacking
    if judge.known_users is not None:
        eligible = eligible[judge.known_users[pairs[eligible, 0]]]
    if not len(eligible):
        raise DataError(
            "the judgements are about users without training interactions only, so no negative "
            "can be judged; check that both use the same ids"
        )

    def stream(purpose: str) -> torch.Generator:
        return torch_generator(seed, f"fhn/{purpose}", device=device)

    drawn = torch.randint(len(eligible), (n,), generator=stream("pairs"), device=device)
    context = Context(
        progress=progress,
        negatives=stream("negatives"),
        noise=stream("noise"),
        cosine=cosine,
        epoch=epoch,
        layers=layers or (embeddings,),
    )
    generator, total = stream("candidates"), FalseNegatives()
    for index in torch.split(eligible[drawn], batch_size):
        users, items = pairs[index].unbind(dim=1)
        batch = Batch(index, users, items)
        with torch.no_grad():
            negatives = sampler(batch, embeddings, context).deal(len(index), generator)
        total += false_negatives(
            negatives, batch, embeddings, judge, positives,
            neighbours=neighbours, candidates=candidates, generator=generator,
        )  # fmt: skip
    return total


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); ``(0, 1)`` without trials."""
    if not trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = successes / trials, 1 + z**2 / trials
    centre = share + z**2 / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # Rounding alone could leave [0, 1].
    return max(0.0, (centre - spread) / shrink), min(1.0, (centre + spread) / shrink)


def _scores(users: Tensor, pool: Tensor, items: Tensor) -> Tensor:
    """The scores ``(B, c)`` of items ``pool`` ``(B, c)`` for ``users`` ``(B, 1, d)``."""
    # Few rows at a time: buffers of megabytes cost more to get than to fill. And F.embedding
    # gathers several times faster than indexing does.
    blocks = zip(torch.split(users, _ROWS_AT_ONCE), torch.split(pool, _ROWS_AT_ONCE), strict=True)
    return torch.cat([(F.embedding(own, items) * user).sum(dim=-1) for user, own in blocks])


def _median(scores: Tensor) -> Tensor:
    """The median of each row, the mean of the two middle values where their number is even."""
    ordered = scores.sort(dim=1).values
    upper = scores.shape[1] // 2
    lower = (scores.shape[1] - 1) // 2
    return (ordered[:, lower] + ordered[:, upper]) / 2


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
