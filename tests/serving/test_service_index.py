"""Lists from an index of the items, against those of the exact product."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from service_parts import train

import cnsdiff
from cnsdiff.base.errors import ConfigError
from cnsdiff.serving import index as module
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.index import ItemIndex, largest
from cnsdiff.serving.ranking import best
from cnsdiff.serving.schemas import EventBody, ItemBody, RecommendRequest
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store
from cnsdiff.serving.version import Snapshot

faiss = pytest.importorskip("faiss")
NONE = np.zeros(0, dtype=np.int64)


def exact(items, vector, bias, eligible, k):
    """The ``k`` best of all items, one after the other."""
    scores = items.double() @ vector.double() + bias.double()
    order = sorted(np.flatnonzero(eligible), key=lambda item: -scores[item].item())
    return order[:k]


def listed(index, items, vector, bias, eligible, by_bias, k):
    among = index.candidates(vector, eligible, by_bias, k)
    assert eligible[among].all()
    assert (np.diff(among) > 0).all()
    return among[best(items[among] @ vector + bias[among], k)[0]].tolist()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 400),
    n_added=st.integers(0, 20),
    share=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    scale=st.sampled_from([0.0, 0.3, 3.0]),
    k=st.integers(1, 30),
)
def test_all_lists_looked_into_give_the_exact_list(seed, n_items, n_added, share, scale, k):
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(n_items + n_added, 5, generator=generator)
    index = ItemIndex(items[:n_items])
    index.probed = index.n_lists
    for _ in range(2):  # the second bias takes the place of the first
        vector, noise = (torch.randn(n, generator=generator) for n in (5, n_items + n_added))
        bias, eligible = scale * noise, torch.rand(len(items), generator=generator) < share
        index.set_bias(bias)
        # Nothing by its bias: what is not among the candidates is missed.
        ours = listed(index, items, vector, bias, eligible.numpy(), NONE, k)
        assert ours == exact(items, vector, bias, eligible.numpy(), k)


def opposite():
    """4,000 items in two groups of opposite directions: a user's lists are those of one of them."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.ones(4000).index_fill_(0, torch.arange(2000), -1.0)
    return signs[:, None] * (1 + 0.1 * torch.randn(4000, 8, generator=generator))


def test_an_item_that_the_environment_lifts_out_of_a_poor_list_is_found():
    items, bias, eligible = opposite(), torch.zeros(4000), np.ones(4000, dtype=bool)
    index, vector = ItemIndex(items), torch.ones(8)
    index.set_bias(bias)
    bias[7] = 1000.0  # of the other group, and the index was not told
    assert listed(index, items, vector, bias, eligible, largest(bias), 3)[0] == 7
    assert 7 not in index.candidates(vector, eligible, NONE, 3)
    assert len(index.candidates(vector, eligible, largest(bias), 3)) < 1500


def test_lists_that_the_environment_favours_are_looked_into():
    index, bias, eligible = ItemIndex(opposite()), torch.zeros(4000), np.ones(4000, dtype=bool)
    assert (index.candidates(torch.ones(8), eligible, NONE, 3) >= 2000).all()
    bias[:2000] = 1000.0
    index.set_bias(bias)
    assert (index.candidates(torch.ones(8), eligible, NONE, 3) < 2000).all()


def test_the_same_items_give_the_same_index():
    items = torch.randn(3000, 6, generator=torch.Generator().manual_seed(1))
    one, two = (faiss.serialize_index(ItemIndex(items)._lists) for _ in range(2))
    assert np.array_equal(one, two)


def test_recall_is_the_share_of_the_exact_lists():
    items, users = (
        torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in (3000, 30)
    )
    index = ItemIndex(items)
    shares, every = [], np.ones(3000, dtype=bool)
    for user in users:
        right = exact(items, user, torch.zeros(3000), every, 20)
        shares.append(len(set(right) & set(index.candidates(user, every, NONE, 20))) / 20)
    assert 0.1 < index.recall(items, users) < 0.9
    assert index.recall(items, users) == pytest.approx(np.mean(shares))
    index.probed = index.n_lists
    assert index.recall(items, users) == 1.0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def services(run, tmp_path):
    """With an index, and without, over stores of the same content."""
    both = []
    for choice in ("ivf", "exact"):
        store = Store.open(f"sqlite:///{tmp_path}/{choice}.db")
        service = Service(store, ServiceConfig(index=choice, log_answers=False))
        service.serve(run)
        both.append(service)
    yield both
    for service in both:
        service.close()


def lists(service, requests):
    answers = service.recommend_many(requests)
    return [[ranked.item for ranked in answer.items] for answer in answers], [
        [ranked.score for ranked in answer.items] for answer in answers
    ]


def test_a_service_with_an_index_gives_the_lists_of_one_without(services, run, monkeypatch):
    users = cnsdiff.Recommender.load(run).users_.to_list()
    items = cnsdiff.Recommender.load(run).items_.to_list()
    plain = [RecommendRequest(user=user, k=6) for user in users]
    ruled = [
        RecommendRequest(user=users[3], k=5, exclude=items[:10], where={"stock": True}),
        RecommendRequest(user=users[4], k=5, only=items[:9], seen="none"),
        RecommendRequest(session=[items[2], items[8]], k=40),
    ]
    of_all = [  # which the exact product answers
        RecommendRequest(user=users[5], k=5, pin=[items[3]], bury=[items[1]]),
        RecommendRequest(user=users[6], k=5, boost={items[0]: 2.0}, quotas={"stock": 2}),
        RecommendRequest(user=users[7], k=5, dial=0.7),
        RecommendRequest(user="nobody", k=5),
    ]
    for service in services:
        service.put_items(
            [ItemBody(item=item, features={"stock": n % 3 > 0}) for n, item in enumerate(items)]
            + [ItemBody(item=10**6, features={"stock": True})]
        )
        service.add_events(
            [
                EventBody(event_id=f"e{n}", user=users[n % 9], item=item, timestamp=1.6e9)
                for n, item in enumerate([10**6, *items[:6]] * 3)
            ]
        )
        service.follow()
        service.refresh()
    searched, product = (lists(service, plain + ruled + of_all) for service in services)
    assert searched[0] == product[0]
    for ours, others in zip(searched[1], product[1], strict=True):
        np.testing.assert_allclose(ours, others, rtol=1e-5, atol=1e-5)

    def refuse(*_):
        raise AssertionError("the exact product was asked")

    monkeypatch.setattr(Snapshot, "scores", refuse)
    assert lists(services[0], plain + ruled)[0] == product[0][: len(plain + ruled)]


def test_what_the_index_lacks_the_exact_product_has(services, run, monkeypatch):
    users = cnsdiff.Recommender.load(run).users_.to_list()
    requests = [RecommendRequest(user=user, k=9) for user in users]
    monkeypatch.setattr(ItemIndex, "candidates", lambda *_: np.arange(4))
    searched, product = (lists(service, requests)[0] for service in services)
    assert searched == product


def test_a_large_catalogue_has_an_index_where_faiss_is(run, tmp_path, monkeypatch, caplog):
    def loaded(**given):
        with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
            service = Service(store, ServiceConfig(**given))
            service.serve(run)
            index = service._now().active.snapshot.index
            service.close()
            return index

    assert loaded() is None
    monkeypatch.setattr("cnsdiff.serving.version.EXACT_UP_TO", 10)
    assert isinstance(loaded(), ItemIndex)
    assert loaded(index="exact") is None
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(ItemIndex, "recall", lambda *_: 0.6)
        assert loaded() is None
        assert "an index would find 60.0% of the exact" in caplog.text
        assert isinstance(loaded(index="ivf"), ItemIndex)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level(logging.WARNING):
        assert loaded() is None
    assert [record.getMessage() for record in caplog.records if "faiss" in record.message] == [
        "each of 36 items is scored for each list, as the package faiss is not installed; install "
        f"it with: {module.install_command('faiss')}"
    ]
    with pytest.raises(ConfigError, match=r"set index to 'exact'"):
        loaded(index="ivf")
