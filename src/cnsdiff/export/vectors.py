"""What an embedding export holds: vectors whose inner product is the score.

A score read at a dial is ``u · v + b``, and ``b`` is an item's share of the environment
(:mod:`cnsdiff.evaluation.dial`). Whatever ranks by inner products knows no ``b``, so it becomes a
coordinate: ``(u, 1) · (v, b)``. At dial 0 there is no ``b``: the vectors are the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.recommender.eligibility import SeenItems
from cnsdiff.recommender.run_directory import config_fingerprint

if TYPE_CHECKING:
    from cnsdiff.recommender.recommender import Recommender


@dataclass(frozen=True)
class Vectors:
    """A trained model, read at a dial, as vectors.

    Attributes
    ----------
    users, items
        The ids as given; the row is that of the vectors.
    user_vectors, item_vectors
        ``(U, d)`` and ``(I, d)`` float32, C-ordered; their inner product is the score.
    seen
        ``(n, 2)`` rows of a user and of an item that the user already has: what ``recommend``
        leaves out. Sorted.
    facts
        What the manifest says of them.
    """

    users: pl.Series
    items: pl.Series
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    seen: NDArray[np.int64]
    facts: dict[str, Any]


def vectors_of(model: Recommender, dial: float | None = None, seen: SeenItems = "all") -> Vectors:
    """The vectors of a fitted model, read at ``dial`` or at its own.

    ``seen`` says which pairs are left out, as in :meth:`cnsdiff.Recommender.recommend`.

    Raises
    ------
    NotFittedError
        The model has not been fitted.
    InputError
        ``dial`` is not finite, or there is no such ``seen``.
    """
    pairs = np.stack(model.model_.left_out(seen).nonzero(), axis=1).astype(np.int64)
    gamma = model.dial_ if dial is None else dial
    scorer = model.model_.scorer(dial=gamma)
    users, items = scorer.user_embeddings.numpy(), scorer.item_embeddings.numpy()
    own = users.shape[1]
    if scorer.item_bias is not None:
        bias = scorer.item_bias.numpy()
        users = np.concatenate([users, np.ones((len(users), 1), np.float32)], axis=1)
        items = np.concatenate([items, bias[:, None]], axis=1)
    facts = {
        "export": "embeddings",
        "score": "inner product of a user's and an item's vector",
        "dial": gamma,
        "dim": users.shape[1],
        "model_dim": own,
        "last_coordinate": "the dial's share" if users.shape[1] > own else "the model's own",
        "n_users": len(users),
        "n_items": len(items),
        "config_fingerprint": config_fingerprint(model.config_),
        "seen": "train" if seen == "all" and model.model_.seen is None else seen,
        "best_epoch": model.best_epoch_,
        "dataset": model.trained_on_,
    }
    return Vectors(
        users=model.users_,
        items=model.items_,
        user_vectors=np.ascontiguousarray(users, dtype=np.float32),
        item_vectors=np.ascontiguousarray(items, dtype=np.float32),
        seen=pairs,
        facts=facts,
    )
