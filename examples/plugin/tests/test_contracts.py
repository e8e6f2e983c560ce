"""The contracts of cnsdiff, and what is promised beyond them."""

from __future__ import annotations

import numpy as np
import torch
from cnsdiff_example.backbone import Projected
from cnsdiff_example.sampler import Mixed, MixedConfig
from cnsdiff_example.scenario import TimeOfDay

from cnsdiff.backbones import Embeddings
from cnsdiff.testing import (
    DIM,
    check_backbone,
    check_sampler,
    check_scenario,
    make_batch,
    make_context,
    tiny_positives,
    tiny_source,
)


def test_contracts() -> None:
    check_sampler(Mixed)
    check_sampler(Mixed, MixedConfig(n_negatives=3, candidates=2))
    check_backbone(Projected)
    check_scenario(TimeOfDay())


def test_hard_negatives_score_higher() -> None:
    positives = tiny_positives()
    seeded = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(n, DIM, generator=seeded) for n in (positives.n_users, positives.n_items)
    )
    batch, means = make_batch(positives), []
    for share in (0.0, 1.0):
        sampler = Mixed(positives, DIM, MixedConfig(share=share), seeded)
        drawn = sampler(batch, Embeddings(users, items), make_context()).items
        means.append((users[batch.users] * items[drawn[:, 0]]).sum(dim=1).mean())
    assert means[1] > means[0] + 1


def test_the_hours_go_round_midnight() -> None:
    dataset = TimeOfDay(start=22, hours=4)(tiny_source())
    hours = {name: dataset.split(name).timestamps // 3600 % 24 for name in ("train", "test_ood")}
    assert set(np.unique(hours["test_ood"])) == {22, 23, 0, 1}
    assert not set(np.unique(hours["train"])) & {22, 23, 0, 1}
