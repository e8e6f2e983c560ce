"""Two established treatments of popularity bias in a ranking loss.

*Inverse propensities* weigh the positives (Schnabel et al., ICML 2016; Saito et al., WSDM 2020):
a click on an item that is rarely shown counts for more. *Popularity deconfounding* (Zhang et al.,
SIGIR 2021) lets popularity explain a part of the click while training, and leaves it out when
ranking. Popularity ``m_i`` is an item's number of training interactions over that of the most
popular item, in ``[0, 1]``.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cnsdiff.base.search_space import Searched
from cnsdiff.base.settings import Settings


class PropensityConfig(Settings):
    """Inverse-propensity weights of the ranking loss."""

    exponent: Annotated[float, Searched(low=0.1, high=1.0)] = Field(
        0.0, ge=0, le=10, description="η in p_i = m_i^η; 0: off"
    )
    floor: float = Field(0.01, gt=0, le=1, description="least p_i, which bounds the weights")


def popularity_power(counts: Tensor, exponent: float) -> Tensor:
    """``m_i^exponent``, float64 of the shape of ``counts``."""
    return (counts.double() / counts.max()) ** exponent


def inverse_propensity(counts: Tensor, config: PropensityConfig) -> Tensor:
    """Weight of a positive by its item: ``w_i ∝ 1 / max(p_i, floor)`` with ``p_i = m_i^η``.

    Self-normalised: the mean of ``w`` over the training interactions is 1, so that the loss keeps
    its scale beside the other terms. That of a batch is 1 on average only.

    Parameters
    ----------
    counts
        ``(n_items,)`` training interactions of each item.

    Returns
    -------
    Tensor
        ``(n_items,)`` float32.
    """
    weights = 1 / popularity_power(counts, config.exponent).clamp(min=config.floor)
    return (weights * (counts.sum() / (weights * counts).sum())).float()


def deconfounded(scores: Tensor, popularity: Tensor) -> Tensor:
    """PDA's score while training, ``ELU'(s) · m^γ``.

    ``ELU'(s)`` is ``s + 1`` above 0 and ``e^s`` below. Ranking under ``do(popularity)`` drops
    ``m^γ``; ``ELU'`` is monotone, so the order is that of ``s`` itself and serving stays as it
    is. Zhang et al. count popularity by stage of time; here there is one stage, all of training.
    Injecting a popularity wanted at serving time, the second half of PDA, is not part of it.

    Parameters
    ----------
    scores
        ``s``, of any shape.
    popularity
        ``m^γ`` (:func:`popularity_power`), of a shape that broadcasts.
    """
    # Not elu(s) + 1, which rounds a small e^s away.
    positive = torch.where(scores > 0, scores + 1, scores.clamp(max=0).exp())
    return positive * popularity
