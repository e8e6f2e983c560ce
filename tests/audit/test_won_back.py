"""What content wins back of the pairs on new items, against the measure itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from cnsdiff import ConfoundedWorld, Recommender, prepare
from cnsdiff.audit.content import WonBack, measured, of_all_pairs, win_back
from cnsdiff.audit.findings import with_won_back
from cnsdiff.audit.judging import Setting
from cnsdiff.audit.record import NewItemsRecord
from cnsdiff.benchmark.task import Method, Task
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.new_items import evaluate_new_items
from cnsdiff.evaluation.significance import Difference

WORLD = ConfoundedWorld(n_users=120, n_items=100, exposures=50, seed=0)
ITEMS = WORLD.dataset().table("item_features").with_columns(item=WORLD.dataset().items)
LOG = WORLD.clicks(WORLD.periods).select("user", "item", "timestamp")
TRAINING = {"epochs": 3, "fhn_every": None}
KS = (5, 20)


@pytest.fixture(scope="module")
def dataset():
    known = LOG.filter(pl.col("item").is_in(ITEMS["item"].implode()))
    return prepare(known, "new-items", item_features=ITEMS, seed=2)


@pytest.fixture(scope="module")
def trained(dataset):
    """Without content, and with it."""
    models = [
        Recommender(
            seed=0, threads=1, training=TRAINING, content={"prior": prior}, evaluation={"ks": KS}
        ).fit(dataset, select_on="valid", refit=False)
        for prior in ("none", "ridge")
    ]
    return tuple(models)


def setting_of(model, dataset, epochs=3, seconds=0.0):
    found = model.evaluate(dataset, ["test_ood"], per_user=True).splits["test_ood"].per_user
    per_user = {"test_iid": found, "test_ood": found.sort("user")}
    return Setting("exposure", "valid+dial", 0.1, None, epochs, seconds, "epochs", per_user)


@pytest.mark.parametrize("metric", ["ndcg@5", "ndcg@20", "recall@20"])
def test_without_content_it_is_what_lists_without_new_items_have(trained, dataset, metric):
    plain, content = trained
    joint, n = dataset.with_new_items(), dataset.n_items
    own = plain.model_.scorer()
    vectors = torch.cat([own.item_embeddings, torch.zeros(joint.n_items - n, 64)])
    bias = torch.full((joint.n_items,), -torch.inf)
    bias[:n] = 0.0 if own.item_bias is None else own.item_bias
    expected = evaluate_new_items(
        EmbeddingScorer(own.user_embeddings, vectors, bias), joint, n, ks=KS, per_user=True
    )
    found = measured(content, setting_of(plain, dataset), dataset, metric, seed=0)
    assert found.used
    assert found.without == pytest.approx(expected.joint[metric], abs=1e-9)
    with_content = content.evaluate_new_items(dataset, per_user=True)
    assert found.content == pytest.approx(with_content.joint[metric])
    assert found.of_new == with_content.new[metric]
    more = with_content.per_user.sort("user")[metric] - expected.per_user.sort("user")[metric]
    assert found.difference.value == pytest.approx(more.mean(), abs=1e-9)
    assert found.difference.n == len(more)


def test_users_of_new_items_alone_have_nothing_without_content():
    share = of_all_pairs("ndcg@5", np.array([0, 2, 9]), np.array([3, 2, 12]))
    np.testing.assert_allclose(share, [0.0, 1.0, 1.0])
    share = of_all_pairs("recall@5", np.array([0, 2, 9]), np.array([3, 2, 12]))
    np.testing.assert_allclose(share, [0.0, 1.0, 0.75])


def task_of(dataset, path):
    options = {"training": TRAINING, "threads": 1}
    method = Method("exposure", None, options)
    return Task(
        kind="final", dataset="temporal", path=str(path), fingerprint=dataset.manifest.fingerprint,
        method=method, setting={}, trial=0, seed=0, selections=("valid+dial",), metric="ndcg@20",
        ks=KS, threads=1,
    )  # fmt: skip


def test_it_ends_in_time_goes_on_and_is_kept(trained, dataset, tmp_path):
    setting, task = setting_of(trained[0], dataset), task_of(dataset, tmp_path)
    folder = tmp_path / "content"
    slow = replace(setting, seconds=100.0)
    asked = {"metric": "ndcg@20", "folder": folder}
    assert "for want of time" in win_back(slow, task, dataset, seconds=10.0, **asked)
    assert not folder.exists()
    assert "for want of time" in win_back(setting, task, dataset, seconds=0.0, **asked)
    first = win_back(slow, task, dataset, seconds=90.0, **asked)  # what it began is not refused
    assert isinstance(first, WonBack)
    (run,) = folder.iterdir()
    before = (run / "config.yaml").stat().st_mtime_ns
    assert win_back(slow, task, dataset, seconds=0.0, **asked) == first
    assert (run / "config.yaml").stat().st_mtime_ns == before
    # With a longer budget the setting trains for longer, and so does what is measured beside it.
    shorter = replace(setting, epochs=2)
    win_back(shorter, task, dataset, seconds=600.0, **asked)
    lengths = {len(pl.read_parquet(run / "history.parquet")) for run in folder.iterdir()}
    assert lengths == {2, 3}


def test_the_words_say_what_the_numbers_say(trained, dataset):
    record = NewItemsRecord(pairs=40, new_pairs=10, items=3, with_features=2, words="25% are new.")
    setting = setting_of(trained[0], dataset)
    late = with_won_back(record, "It was not measured.", setting, "ndcg@20", "train")
    assert (late.words, late.won_back) == ("25% are new. It was not measured.", None)
    gain = WonBack(True, 0.1, 0.15, 0.2, Difference(0.05, 0.04, 0.06, 0.001, n=100))
    told = with_won_back(record, gain, setting, "ndcg@20", "cnsdiff train --content auto")
    assert told.command == "cnsdiff train --content auto"
    assert "0.1000 without features and 0.1500 with them: +0.0500 (+0.0400 to" in told.words
    loss = WonBack(True, 0.1, 0.09, 0.2, Difference(-0.01, -0.02, -0.005, 0.001, n=100))
    assert with_won_back(record, loss, setting, "ndcg@20", "train").command is None
    unused = WonBack(False, 0.1, 0.1, 0.0, Difference(0.0, 0.0, 0.0, 1.0, n=100))
    told = with_won_back(record, unused, setting, "ndcg@20", "train")
    assert told.command is None
    assert "content was left out" in told.words
