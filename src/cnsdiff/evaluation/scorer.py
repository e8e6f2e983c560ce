"""What can be ranked: anything that scores a block of users × items on demand."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cnsdiff.base.errors import InputError


@runtime_checkable
class Scorer(Protocol):
    """A model seen from the ranking: it scores a block of items for a batch of users.

    An object that also has an attribute ``device`` (:class:`torch.device`) is ranked on that
    device unless the caller names another.
    """

    @property
    def n_users(self) -> int:
        """Number of users it knows; ids run from 0."""

    @property
    def n_items(self) -> int:
        """Number of items it knows; ids run from 0."""

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        """Score the items ``start .. stop - 1`` for each of the users.

        Parameters
        ----------
        users : Tensor of int64, shape (B,)
        start, stop : int
            ``0 <= start < stop <= n_items``.

        Returns
        -------
        Tensor of float32, shape (B, stop - start)
            Higher is better. ``-inf`` means "never recommend"; NaN is an error. The caller may
            overwrite it, so it must not share memory with the model's own state.
        """
        ...


class EmbeddingScorer:
    """Inner products of user and item embeddings.

    Parameters
    ----------
    user_embeddings : Tensor, shape (U, d)
    item_embeddings : Tensor, shape (I, d)
        On the same device. Normalise the rows beforehand to rank by cosine.
    item_bias : Tensor, shape (I,), optional
        Added to every user's scores, on the same device.

    Raises
    ------
    InputError
        If the shapes or the devices do not fit together.
    """

    def __init__(
        self, user_embeddings: Tensor, item_embeddings: Tensor, item_bias: Tensor | None = None
    ) -> None:
        shapes = tuple(user_embeddings.shape), tuple(item_embeddings.shape)
        if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
            raise InputError(
                f"user and item embeddings have shapes {shapes[0]} and {shapes[1]}; "
                "give (users, d) and (items, d) with the same d"
            )
        if user_embeddings.device != item_embeddings.device:
            raise InputError(
                f"user embeddings are on {user_embeddings.device}, item embeddings on "
                f"{item_embeddings.device}; move them to one device"
            )
        if item_bias is not None and (
            tuple(item_bias.shape) != shapes[1][:1] or item_bias.device != item_embeddings.device
        ):
            raise InputError(
                f"the item bias has shape {tuple(item_bias.shape)} on {item_bias.device}; give "
                f"one value for each of {shapes[1][0]} items, on {item_embeddings.device}"
            )
        self.user_embeddings = user_embeddings.detach()
        self.item_embeddings = item_embeddings.detach()
        self.item_bias = None if item_bias is None else item_bias.detach()
        self.n_users, self.n_items = shapes[0][0], shapes[1][0]

    @property
    def device(self) -> torch.device:
        return self.item_embeddings.device

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        batch = self.user_embeddings[users.to(self.device)]
        scores = (batch @ self.item_embeddings[start:stop].T).to(torch.float32)
        return scores if self.item_bias is None else scores + self.item_bias[start:stop]
