"""The environment of a dataset: how often it put each item before users (METHOD §9)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cnsdiff.data import Dataset
from cnsdiff.evaluation.dial import standardised_log


def exposure_counts(dataset: Dataset) -> Tensor:
    """``(I,)`` float64: how often the log shows that each item was exposed.

    The side table ``exposures`` where the dataset has it, whatever the users thought of the item;
    for want of it the training pairs of the item, which also tell how much it is liked. Neither
    holds anything of the held-out pairs.
    """
    if "exposures" in dataset.table_names:
        counts = dataset.table("exposures")["exposures"].to_numpy()
    else:
        counts = np.bincount(dataset.split("train").items, minlength=dataset.n_items)
    return torch.from_numpy(counts.astype(np.float64))


def environment(dataset: Dataset) -> Tensor:
    """``(I,)`` float32 ``e``: :func:`~cnsdiff.evaluation.dial.standardised_log` of the counts."""
    return standardised_log(exposure_counts(dataset))
