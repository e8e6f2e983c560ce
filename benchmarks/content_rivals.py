r"""DropoutNet and CLCRec, from their formulas, for ``benchmarks/new_items.py``.

Each gives vectors of users and of all items, new ones among them, from what a model has learnt and
the same encoded features. Epoch, settings and the offset of new items are chosen on the items held
out of train on which ours are chosen.

**DropoutNet** (Volkovs, Yu & Poutanen, NIPS 2017) learns two networks on top of learnt vectors
``U`` and ``V``, so that inner products stay, although ``V`` is left out of some items::

    Σ (U_u · V_i - f(U_u) · g(V_i, x_i))²,        V_i → 0 with probability p

**CLCRec** (Wei et al., ACM MM 2021) learns vectors ``u`` and ``z`` and an encoder ``h`` of features
by two contrasts, of an item with its features, and of a user with items of which a share ρ is told
by features; ``N`` are items drawn at random::

    -λ log exp(ẑ_i · ĥ_i / τ) / Σ_{j of i, N} exp(ẑ_i · ĥ_j / τ)
    - (1 - λ) log exp(u · y_i / τ) / Σ_{j of i, N} exp(u · y_j / τ),      y_j = h_j or z_j
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.seeding import torch_generator
from cnsdiff.content.choice import HeldOut
from cnsdiff.content.model import Learnt
from cnsdiff.evaluation import EmbeddingScorer

#: Pairs of a step and steps of an epoch at least, and items drawn that a step of CLCRec shares.
BATCH, STEPS, NEGATIVES = 1024, 50, 512
HIDDEN, LEARNING_RATE, DECAY = 256, 1e-3, 1e-4
#: Epochs at most, and without a better one.
EPOCHS, PATIENCE = 40, 4
SHARE_TOLD = 0.5
SCALES = (0.0, 0.25, 0.5, 2.0)
#: What is tried of each: ``p``; ``λ`` and ``τ``.
DROPOUTS = (0.2, 0.5, 0.8)
CONTRASTS = ((0.5, 0.2), (0.5, 1.0), (0.9, 0.2), (0.9, 1.0))

#: After each epoch, the vectors of users and of all items.
Epochs = Iterator[Embeddings]


def dropout_net(learnt: Learnt, dropout: float, seed: int) -> Epochs:
    """DropoutNet on vectors scaled to a mean length of 1."""
    generator = torch_generator(seed, "dropoutnet")
    known = learnt.counts > 0
    users, items = (
        t / t[own].norm(dim=1).mean()
        for t, own in ((learnt.tables.users, slice(None)), (learnt.tables.items, known))
    )
    items = torch.where(known[:, None], items, 0.0)
    features, dim = learnt.features, users.shape[1]
    of_users = network(dim, dim, generator)
    of_items = network(dim + features.shape[1], dim, generator)
    optimizer = torch.optim.AdamW(
        [*of_users.parameters(), *of_items.parameters()], lr=LEARNING_RATE, weight_decay=DECAY
    )
    rows, columns = pairs_of(learnt)
    size = max(1, min(BATCH, len(rows) // STEPS))
    candidates = known.nonzero()[:, 0]
    while True:
        for batch in torch.randperm(len(rows), generator=generator).split(size):
            # A pair of the log, and the same user with an item drawn at random.
            u = rows[batch].repeat(2)
            drawn = torch.randint(len(candidates), (len(batch),), generator=generator)
            i = torch.cat([columns[batch], candidates[drawn]])
            target = (users[u] * items[i]).sum(dim=1)
            kept = torch.rand(len(i), 1, generator=generator) >= dropout
            told = of_items(torch.cat([items[i] * kept, features[i]], dim=1))
            loss = dropout_net_loss(target, of_users(users[u]), told)
            step(optimizer, loss)
        with torch.no_grad():
            told = torch.cat([of_items(torch.cat(b, dim=1)) for b in chunks(items, features)])
            yield Embeddings(of_users(users), told)


def dropout_net_loss(target: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """Of ``(n,)`` inner products to keep and ``(n, d)`` vectors of both sides."""
    return (target - (users * items).sum(dim=1)).square().mean()


def clcrec(learnt: Learnt, contrast: tuple[float, float], seed: int) -> Epochs:
    """CLCRec; its vectors start anew, as large as ours."""
    weight, temperature = contrast
    generator = torch_generator(seed, "clcrec")
    known, features = learnt.counts > 0, learnt.features
    n_users, dim = learnt.tables.users.shape
    users, items = (
        nn.init.xavier_normal_(torch.empty(n, dim), generator=generator).requires_grad_()
        for n in (n_users, len(features))
    )
    encoder = network(features.shape[1], dim, generator)
    optimizer = torch.optim.AdamW(
        [users, items, *encoder.parameters()], lr=LEARNING_RATE, weight_decay=DECAY
    )
    rows, columns = pairs_of(learnt)
    size = max(1, min(BATCH, len(rows) // STEPS))
    candidates = known.nonzero()[:, 0]
    while True:
        for batch in torch.randperm(len(rows), generator=generator).split(size):
            drawn = torch.randint(len(candidates), (NEGATIVES,), generator=generator)
            i = torch.cat([columns[batch], candidates[drawn]])
            by_features = torch.rand(len(i), 1, generator=generator) < SHARE_TOLD
            told = encoder(features[i])
            loss = clcrec_loss(users[rows[batch]], items[i], told, by_features, weight, temperature)
            step(optimizer, loss)
        with torch.no_grad():
            told = torch.cat([encoder(b) for (b,) in chunks(features)])
            yield Embeddings(users.detach().clone(), torch.where(known[:, None], items, told))


def clcrec_loss(
    users: Tensor,
    items: Tensor,
    told: Tensor,
    by_features: Tensor,
    weight: float,
    temperature: float,
) -> Tensor:
    """Both contrasts.

    ``users (n, d)``; ``items (n + N, d)``, those of the pairs first, and what features tell of
    them; ``by_features (n + N, 1)`` which of them are told.
    """
    n = len(users)
    mixed = torch.where(by_features, told, items)

    def contrast(anchors: Tensor, others: Tensor) -> Tensor:
        of_pair = (anchors * others[:n]).sum(dim=1, keepdim=True)
        scores = torch.cat([of_pair, anchors @ others[n:].T], dim=1) / temperature
        return cross_entropy(scores, torch.zeros(n, dtype=torch.long))

    of_items = contrast(normalize(items[:n], dim=1), normalize(told, dim=1))
    return weight * of_items + (1 - weight) * contrast(users, mixed)


@dataclass(frozen=True)
class Chosen:
    """A setting, its epochs, and what it measured on held-out pairs.

    ``offset`` is that of new items, ``scale`` how much of the environment or the dial it takes.
    """

    setting: object
    epochs: int
    offset: float
    scale: float
    value: float


def choose(
    rival: Callable[..., Epochs], settings: tuple[object, ...], held: HeldOut, seed: int
) -> Chosen:
    """The setting, epoch, offset and scale that are best for all held-out pairs."""
    best, kept = Chosen(None, 0, 0.0, 1.0, -1.0), None
    for setting in settings:
        top, stale = -1.0, 0
        for epoch, tables in enumerate(rival(held.learnt, setting, seed), 1):
            scorer = scorer_of(tables, held.learnt)
            offset, value = max(held.of_all(scorer).items(), key=lambda pair: pair[1])
            if value > best.value:
                best, kept = Chosen(setting, epoch, offset, 1.0, value), scorer
            stale = 0 if value > top else stale + 1
            top = max(top, value)
            if stale == PATIENCE or epoch == EPOCHS:
                break
    assert kept is not None
    if held.learnt.bias.any():
        for scale in SCALES:
            for offset, value in held.of_all(kept, scale).items():
                if value > best.value:
                    best = replace(best, offset=offset, scale=scale, value=value)
    return best


def learn(
    rival: Callable[..., Epochs], chosen: Chosen, learnt: Learnt, seed: int
) -> EmbeddingScorer:
    """As it was chosen, on everything."""
    epochs = rival(learnt, chosen.setting, seed)
    for _ in range(chosen.epochs):
        tables = next(epochs)
    scorer = scorer_of(tables, learnt)
    offset = torch.where(learnt.counts > 0, 0.0, chosen.offset)
    bias = chosen.scale * learnt.bias + offset
    return EmbeddingScorer(scorer.user_embeddings, scorer.item_embeddings, bias)


def scorer_of(tables: Embeddings, learnt: Learnt) -> EmbeddingScorer:
    """Scores in units of how far those of a user spread over known items."""
    users, items = tables
    scale = Embeddings(users, items[learnt.counts > 0]).deviations()[:, None].float()
    return EmbeddingScorer(users / scale, items)


def network(width: int, dim: int, generator: torch.Generator) -> nn.Sequential:
    """One hidden layer."""
    layers = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, dim)
    with torch.no_grad():
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            layer.bias.zero_()
    return nn.Sequential(layers[0], nn.LeakyReLU(), layers[1])


def pairs_of(learnt: Learnt) -> tuple[Tensor, Tensor]:
    """Users and items of all training pairs."""
    rows, columns = learnt.train.nonzero()
    return torch.from_numpy(rows).long(), torch.from_numpy(columns).long()


def chunks(*tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of all tables, some at a time."""
    return zip(*(table.split(8192) for table in tables), strict=True)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
