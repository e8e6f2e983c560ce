"""What of a content model is chosen: on items held out of training, as if they were new.

Theory does not tell which prior, how much of the towers, how many interactions outweigh the prior,
nor how high new items stand among old ones. So each is chosen by the ranking metric. Of no
content, a prior alone and a prior with towers the simplest is taken that is within one standard
error of the best (the rule of Breiman et al., 1984), so that features that tell nothing cost
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import normalize

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.content.model import ContentChoice, ContentModel, Learnt
from cnsdiff.content.priors import energy_scores
from cnsdiff.content.towers import Towers, fit_towers
from cnsdiff.data import Split
from cnsdiff.data.splits import pair_matrix
from cnsdiff.environment import Rehearsal
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.dial import evaluations_at, readings_at

#: Weights of the towers, relative to the learnt vectors; ``c``; and offsets, in units of ``σ``.
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
PULLS = (0.0, 0.5, 2.0, 8.0)
OFFSETS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
#: Epochs of the towers at most.
EPOCHS = 8
#: Priors that are tried where none is named.
TRIED = ("ridge", "mlp")
#: Values of ``τ`` of the first clicks, and how many of an item are known while it is chosen.
SHARPNESS, CLICKS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0), 2
#: Of so many the rest is chosen; and users who choose, at most.
FINALISTS, USERS = 3, 2000


def learnt_on(
    part: Rehearsal, tables: Embeddings, bias: Tensor | None, features: Tensor
) -> tuple[Learnt, Split, Split]:
    """What was learnt on a part of a dataset, and its held-out pairs of known and of new items.

    Parameters
    ----------
    part
        Its dataset has the numbers of the whole as ids.
    tables
        Of the part.
    bias
        ``(I_part,)`` in units of ``σ``.
    features
        ``(I, r)`` of all items of the whole.
    """
    whole, train = part.whole, part.dataset.split("train")
    users, items = (np.array(ids) for ids in (part.dataset.users, part.dataset.items))
    log = whole.split("train")
    # The rows of the part under the numbers of the whole; the others have nothing.
    of_users = torch.zeros(whole.n_users, tables.users.shape[1])
    of_items = torch.zeros(whole.n_items, tables.items.shape[1])
    of_users[torch.from_numpy(users)] = tables.users.detach().float().cpu()
    of_items[torch.from_numpy(items)] = tables.items.detach().float().cpu()
    added = torch.zeros(whole.n_items)
    if bias is not None:
        added[torch.from_numpy(items)] = bias
    shape = whole.n_users, whole.n_items
    pairs = pair_matrix(users[train.users], items[train.items], shape)
    learnt = Learnt(Embeddings(of_users, of_items), pairs, added, features)
    trained = np.isin(
        log.users * whole.n_items + log.items,
        users[train.users] * whole.n_items + items[train.items],
    )
    held = ~trained & np.isin(log.users, users)
    known = np.isin(log.items, items)
    told = features.any(dim=1).numpy()[log.items]
    warm, new = (
        Split("valid", log.users[rows], log.items[rows])
        for rows in (held & known, held & ~known & told)
    )
    return learnt, warm, new


def choose_content(
    learnt: Learnt,
    warm: Split,
    new: Split,
    metric: str,
    *,
    priors: Sequence[str] = TRIED,
    share: float = 1.0,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> ContentChoice:
    """Choose on held-out pairs.

    Prior, length and weight are compared on new items alone. Then ``c`` and the offset are chosen
    on all pairs together, for the best of these and for the best without towers.

    Parameters
    ----------
    learnt
        Items of ``new`` have no training pairs.
    warm, new
        Held-out pairs of known items, and all pairs of those held out as if new.
    metric
        Recall or NDCG at a cut-off.
    priors
        Of :data:`~cnsdiff.content.priors.PRIORS`.
    share
        Of the pairs of new items, how many are among all pairs together.
    seed
        Of what is learnt.
    note
        Told what comes next.
    """
    some = numpy_generator(seed, "content pairs").random(len(new)) < share
    held = HeldOut(learnt, warm, new, metric, some)
    # Towers, epoch by epoch.
    sums = learnt.profiles
    unit = EmbeddingScorer(normalize(sums, dim=1), learnt.features)
    profile = held.of_new(unit)
    kept: list[tuple[float, int, Towers]] = []

    def look(epoch: int, towers: Towers) -> None:
        value = held.of_new(EmbeddingScorer(towers.users(sums), towers.items(learnt.features)))
        note(f"towers of content, epoch {epoch}: {metric} {value:.4f} on new items")
        if not kept or value > kept[0][0]:
            kept[:] = [(value, epoch, towers)]

    fit_towers(learnt.train, learnt.features, EPOCHS, seed=seed, each=look)
    _, epochs, towers = kept[0]
    # Prior, its length and the weight of the towers.
    long = float(learnt.tables.items[held.known].norm(dim=1).mean())
    tried: list[tuple[float, ContentModel]] = []
    means: dict[str, Tensor] = {}  # as the regressions tell them, once: draws are dear
    for prior in priors:
        note(f"content by {prior}")
        start = ContentChoice(
            used=True,
            prior=prior,
            length=None,
            weight=0.0,
            epochs=epochs,
            pull=0.0,
            offset=0.0,
            metrics={},
        )
        bare = ContentModel.fit(start, learnt, seed=seed)
        means[prior] = bare.regression(learnt.features)
        for length, weight in product((None, long), WEIGHTS):
            model = bare.but(length=length, weight=weight, towers=towers)
            tried.append((held.of_new(model.scorer(learnt, means[prior])), model))
    tried.sort(key=lambda pair: -pair[0])
    # c and the offset.
    simplest = next(pair for pair in tried if pair[1].towers is None)
    finals: list[tuple[float, ContentModel]] = []
    for value, model in {id(pair[1]): pair for pair in [*tried[:FINALISTS], simplest]}.values():
        for pull in PULLS:
            own = model.but(pull=pull)
            scorer = own.scorer(learnt, means[own.choice.prior])
            for offset, together in held.of_all(scorer).items():
                metrics = {"with": together, "new": value, "profile": profile}
                finals.append((together, own.but(offset=offset, metrics=metrics)))
    best = max(finals, key=lambda pair: pair[0])[1]
    # The simplest whose distance from the best is within its standard error.
    alone = max((pair for pair in finals if pair[1].towers is None), key=lambda pair: pair[0])[1]

    def of_users(model: ContentModel) -> NDArray[np.float64]:
        scorer = model.scorer(learnt, means[model.choice.prior])
        return held.of_users(held.lists(scorer, model.choice.offset))

    values = of_users(best)
    used = _leads(values, held.of_users(held.lists_without))
    if best.towers is not None and not _leads(values, of_users(alone)):
        best = alone
    metrics = {**best.choice.metrics, **held.without_content()}
    if "diffusion" in priors:
        known = held.known
        energy = energy_scores(
            learnt.features[known], learnt.tables.items[known], learnt.counts[known], seed
        )
        note(
            f"energy score of vectors held out: {energy['gaussian']:.4f} of a Gaussian, "
            f"{energy['diffusion']:.4f} of the diffusion; the smaller one tells them better"
        )
        metrics |= {f"energy {name}": value for name, value in energy.items()}
    # How much the first clicks count.
    sharpness = held.sharpest(best, means[best.choice.prior], seed) if used else 1.0
    return best.but(used=used, metrics=metrics, sharpness=sharpness).choice


def _leads(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether the mean over users is larger by more than its standard error."""
    more = first - second
    return bool(more.mean() > more.std() / np.sqrt(len(more)))


class Lists(NamedTuple):
    """A scorer, and ``(I,)`` what is added to its scores."""

    scorer: EmbeddingScorer
    bias: Tensor


class HeldOut:
    """The metric of held-out pairs, of known items and of those held out as if new."""

    def __init__(
        self, learnt: Learnt, warm: Split, new: Split, metric: str, some: NDArray[np.bool_]
    ) -> None:
        """See :func:`choose_content`; ``some (n_new,)`` of the new pairs are among all together."""
        self.learnt, self.metric = learnt, metric
        self._ks = (int(metric.partition("@")[2]),)
        together = Split(
            "valid", np.r_[warm.users, new.users[some]], np.r_[warm.items, new.items[some]]
        )
        self.warm, self.new, self.both = (s.of_some_users(USERS) for s in (warm, new, together))
        self.known = learnt.counts > 0
        self.unseen = torch.zeros_like(self.known)
        self.unseen[torch.from_numpy(np.unique(new.items))] = True

    def of_new(self, scorer: EmbeddingScorer) -> float:
        """Of the pairs of new items, in lists of new items."""
        return self._read(scorer, {0.0: self._only(self.unseen)}, self.new)[0.0]

    def of_all(self, scorer: EmbeddingScorer, scale: float = 1.0) -> dict[float, float]:
        """Of all pairs, at each of :data:`OFFSETS`, with so much of the learnt bias."""
        base = scale * self.learnt.bias + self._only(self.known | self.unseen)
        return self._read(scorer, {own: base + own * self.unseen for own in OFFSETS}, self.both)

    def sharpest(self, model: ContentModel, mean: Tensor, seed: int) -> float:
        """The best of :data:`SHARPNESS`, where :data:`CLICKS` users of each new item are known."""
        new, learnt = self.new, self.learnt
        order = numpy_generator(seed, "content clicks").permutation(len(new))
        by_item = order[np.argsort(new.items[order], kind="stable")]
        starts = np.searchsorted(new.items[by_item], new.items[by_item])
        known = np.zeros(len(new), dtype=bool)
        known[by_item] = np.arange(len(new)) - starts < CLICKS
        rest = Split("valid", new.users[~known], new.items[~known])
        if not len(rest):
            return 1.0
        items = model.items(learnt.features, learnt.tables.items, learnt.counts, mean)
        users, d = model.users(learnt, items), learnt.tables.items.shape[1]
        shape = learnt.train.shape
        train = learnt.train + pair_matrix(new.users[known], new.items[known], shape)
        biases, prior = {0.0: self._only(self.unseen)}, model.prior(learnt.features, mean)

        def value(sharpness: float) -> float:
            told = prior.after_clicks(users[:, :d], new.users[known], new.items[known], sharpness)
            clicked = torch.where(self.unseen[:, None], told, items[:, :d])
            scorer = EmbeddingScorer(users, torch.cat([clicked, items[:, d:]], dim=1))
            return self._read(scorer, biases, rest, train)[0.0]

        return max(SHARPNESS, key=value)

    def without_content(self) -> dict[str, float]:
        """Of all pairs and of those of known items, where no new item is in any list."""
        scorer, bias = self.lists_without
        splits = {"without": self.both, "warm": self.warm}
        return {name: self._read(scorer, {0.0: bias}, own)[0.0] for name, own in splits.items()}

    def lists(self, scorer: EmbeddingScorer, offset: float) -> Lists:
        """Of all items, new ones with an offset."""
        base = self.learnt.bias + self._only(self.known | self.unseen)
        return Lists(scorer, base + offset * self.unseen)

    @property
    def lists_without(self) -> Lists:
        """Of known items, without content, on the scale that they are served on."""
        users, items = self.learnt.tables
        scale = Embeddings(users, items[self.known]).deviations().mean().float()
        bias = self.learnt.bias + self._only(self.known)
        return Lists(EmbeddingScorer(users / scale, items), bias)

    def of_users(self, lists: Lists) -> NDArray[np.float64]:
        """The metric of all pairs, of each user."""
        ((_, found),) = evaluations_at(
            lists.scorer,
            {0.0: lists.bias},
            self.both,
            self.learnt.train,
            ks=self._ks,
            anticipations=(),
            per_user=True,
        )
        assert found.per_user is not None
        return found.per_user[self.metric].to_numpy()

    def _only(self, items: Tensor) -> Tensor:
        return torch.where(items, 0.0, -torch.inf)

    def _read(
        self,
        scorer: EmbeddingScorer,
        biases: Mapping[float, Tensor],
        split: Split,
        train: csr_array | None = None,
    ) -> dict[float, float]:
        """The metric at each bias; lists leave out ``train``, by default what was learnt."""
        left_out = self.learnt.train if train is None else train
        measured = readings_at(scorer, biases, split, left_out, ks=self._ks)
        return {at: metrics[self.metric] for at, metrics in measured.items()}
