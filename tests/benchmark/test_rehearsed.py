"""Rehearsals in a benchmark: what a recommender alone would come to, for all methods alike."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import ConfigError
from cnsdiff.benchmark import workers
from cnsdiff.benchmark.fit import fit_model, reference_scorer
from cnsdiff.benchmark.grid import Grid
from cnsdiff.benchmark.plan import plan
from cnsdiff.benchmark.task import Task, run_task
from cnsdiff.data import Dataset, Interactions
from cnsdiff.environment import HALF_LIVES, Choices, covariates_at, rehearse
from cnsdiff.environment.environment import SCALES, OwnUnits
from cnsdiff.evaluation import EmbeddingScorer, evaluate, evaluate_split
from cnsdiff.evaluation.dial import Dialled
from cnsdiff.recommender.config import resolve_config
from cnsdiff.references import EASE, RecentMostPop
from cnsdiff.training.progress import SparseReporter

DAY = 86_400
SELECTIONS = ("valid+dial", "rehearsal", "rehearsal+dial")


def splits(*, dated: bool = True) -> Dataset:
    rng = np.random.default_rng(0)
    n = 3000
    users, times = rng.integers(0, 120, n), np.sort(rng.integers(0, 300 * DAY, n))
    fashion = (times // (10 * DAY) + rng.integers(0, 20, n)) % 90
    items = np.where(rng.random(n) < 0.6, fashion, (users % 3) * 30 + rng.integers(0, 30, n))
    frame = pl.DataFrame({"user": users, "item": items, "timestamp": times})
    frame = frame.unique(["user", "item"], keep="first", maintain_order=True)
    late = frame["timestamp"] >= 250 * DAY
    held = pl.Series(np.random.default_rng(1).random(frame.height) < 0.15)
    frame = frame if dated else frame.drop("timestamp")
    return Dataset.from_splits(
        {
            "train": Interactions(frame.filter(~late & ~held), "log"),
            "valid": Interactions(frame.filter(~late & held), "log"),
            "test_ood": Interactions(frame.filter(late), "log"),
        },
        name="fashion",
        scenario="temporal",
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return splits().save(tmp_path_factory.mktemp("data") / "fashion")


def grid(path: Path, **changes: object) -> Grid:
    settings = {
        "name": "dated",
        "datasets": {"fashion": {"path": str(path)}},
        "methods": {
            "ours": {"set": {"training.fhn_every": None, "training.batch_size": 512}},
            "ease": {"reference": "ease", "options": {"l2": 20.0}, "group": "reference"},
            "mostpop": {"reference": "mostpop", "group": "reference"},
        },
        "seeds": [2],
        "budget": {"epochs": 4},
        "select_on": SELECTIONS,
        **changes,
    }
    return Grid.model_validate(settings)


def finals(path: Path, method: str, **changes: object) -> list[Task]:
    units = plan(grid(path, **changes), {"fashion": path}, threads=1)
    return [
        replace(unit.trials[0], kind="final", seed=2, selections=unit.selections)
        for unit in units
        if unit.trials[0].method.name == method
    ]


def test_a_rehearsal_has_trainings_of_its_own(path):
    plain, rehearsed = finals(path, "ours")
    assert plain.selections == ("valid+dial",)
    assert rehearsed.selections == ("rehearsal", "rehearsal+dial")
    assert plain.key != rehearsed.key


@pytest.mark.parametrize("rehearsed", [False, True])
def test_a_long_training_says_how_far_it_is(path, monkeypatch, capsys, rehearsed):
    """Each step of it, where lines are due at once; processes of a pool run the same function."""
    monkeypatch.setattr(workers, "SparseReporter", partial(SparseReporter, every=0.0))
    task = finals(path, "ours")[rehearsed]
    silent = workers._run(task, False)
    assert capsys.readouterr().err == ""
    told = workers._run(task, True)
    assert_frame_equal(silent.rows.drop("seconds"), told.rows.drop("seconds"))
    pattern = r"benchmark: fashion ours final seed 2: epoch (\d+) of at most \d+, \d+ s"
    matches = [re.fullmatch(pattern, line) for line in capsys.readouterr().err.splitlines()]
    epochs = [int(found[1]) for found in matches]
    assert len(set(epochs)) > 1
    # After a rehearsal everything trains once more, from its first epoch.
    assert (epochs == sorted(epochs)) != rehearsed


@pytest.mark.parametrize("dial", ["off", "auto"])
def test_a_final_is_the_recommender_rehearsed(path, dial):
    dataset = load_dataset(path)
    rows = run_task(finals(path, "ours")[1]).rows
    rows = rows.filter(selection="rehearsal" + ("+dial" if dial == "auto" else ""))
    settings = {"epochs": 4, "fhn_every": None, "batch_size": 512, "dial": dial}
    model = Recommender(training=settings, seed=2, threads=1)
    model.fit(dataset, select_on="rehearsal")
    assert rows["epoch"].unique().to_list() == [model.best_epoch_]
    expected = model.evaluate(dataset).splits["test_ood"].metrics
    measured = rows.filter(split="test_ood")
    assert dict(measured.select("metric", "value").iter_rows()) == pytest.approx(expected, abs=1e-6)
    assert rows.filter(split="valid", metric="ndcg@20 (selected)").height == 1


class Standardised:
    """All scores at once, those of each user with a standard deviation of 1."""

    def __init__(self, model):
        self.n_users, self.n_items = model.n_users, model.n_items
        scores = model.score_block(torch.arange(self.n_users), 0, self.n_items).double().numpy()
        self.scores = torch.from_numpy(scores / scores.std(axis=1, keepdims=True)).float()

    def score_block(self, users, start, stop):
        return self.scores[users, start:stop].clone()


def test_a_reference_is_rehearsed_by_hand(path):
    dataset = load_dataset(path)
    rows = run_task(finals(path, "ease")[1]).rows
    # Choose on the early part, by the textbook.
    rehearsal = rehearse(dataset)
    part = rehearsal.dataset
    train = part.split("train")
    pairs = train.csr(part.n_users, part.n_items)
    model = Standardised(EASE(20.0).fit(part))
    covariates = covariates_at(train.items, train.timestamps, part.n_items)
    coefficients = Choices(part.split("valid"), pairs, covariates).coefficients(model)
    step = (torch.from_numpy(covariates.values) @ coefficients).float()
    values = {
        scale: evaluate_split(
            Dialled(model, scale * step, 1.0, sigma=1.0), part.split("valid"), pairs
        ).metrics["ndcg@20"]
        for scale in SCALES
    }
    scale = max(values, key=lambda s: (values[s], -s))
    selected = rows.filter(selection="rehearsal+dial", metric="ndcg@20 (selected)")["value"][0]
    assert selected == pytest.approx(values[scale], abs=1e-9)
    plain = rows.filter(selection="rehearsal", metric="ndcg@20 (selected)")["value"][0]
    assert plain == pytest.approx(values[0.0], abs=1e-9)
    assert values[scale] > values[0.0]
    # Read everything at the end of the log.
    whole = dataset.merged()
    log = whole.split("train")
    model = Standardised(EASE(20.0).fit(whole))
    now = covariates_at(log.items, log.timestamps, whole.n_items, span=covariates.span).values
    bias = (torch.from_numpy(now) @ (scale * coefficients)).float()
    expected = evaluate(Dialled(model, bias, 1.0, sigma=1.0), whole, ks=(10, 20))
    measured = rows.filter(selection="rehearsal+dial", split="test_ood")
    values = dict(measured.select("metric", "value").iter_rows())
    assert values == pytest.approx(expected.splits["test_ood"].metrics, abs=1e-9)


def test_what_is_the_environment_gets_no_other(path):
    rows = run_task(finals(path, "mostpop")[1]).rows.filter(split="test_ood", metric="ndcg@20")
    assert rows.height == 2
    assert rows["value"].n_unique() == 1


def test_a_trial_opens_no_test_and_trains_once(path, opened, monkeypatch):
    trial = replace(finals(path, "ours")[1], kind="trial")
    rows = run_task(trial).rows
    assert "test_ood.parquet" not in opened
    assert set(rows["split"]) == {"valid", "train"}
    final = run_task(replace(trial, kind="final")).rows
    both = [frame.filter(metric="ndcg@20 (selected)")["value"].to_list() for frame in (rows, final)]
    assert both[0] == both[1]


def test_time_is_kept_for_training_on_everything(path):
    dataset = load_dataset(path)
    config = resolve_config({"training": {"epochs": 50, "fhn_every": None}, "threads": 1})
    ticks = iter(range(10**6))
    fitted = fit_model(
        config, dataset, ["rehearsal+dial"], "ndcg@20", seconds=5.0, clock=lambda: next(ticks)
    )
    assert fitted.stopped_by == "time"
    assert fitted.epochs < 6
    scorer = fitted.choices["rehearsal+dial"].scorer
    for kind in (Dialled, OwnUnits):
        assert isinstance(scorer, kind)
        scorer = scorer.scorer
    assert isinstance(scorer, EmbeddingScorer)


def test_the_shift_that_a_dataset_anticipates_is_rehearsed(path):
    changes = {
        "datasets": {"fashion": {"path": str(path), "anticipate": "rehearsal"}},
        "select_on": ("valid", "anticipated+dial", "rehearsal+dial"),
    }
    assert [t.selections for t in finals(path, "ours", **changes)] == [
        ("valid",),
        ("rehearsal+dial",),
    ]


def test_a_log_without_times_rehearses_nothing(tmp_path):
    path = splits(dated=False).save(tmp_path / "undated")
    assert [task.selections for task in finals(path, "ours")] == [("valid+dial",)]
    for changes in (
        {"select_on": ("rehearsal",)},
        {"datasets": {"fashion": {"path": str(path), "anticipate": "rehearsal"}}},
    ):
        with pytest.raises(ConfigError, match=r"datasets\.fashion: has no timestamps"):
            finals(path, "ours", **changes)


def test_beside_a_rehearsed_model_a_reference_is_as_the_benchmark_has_it(path):
    dataset = load_dataset(path)
    methods = {"ease": {"reference": "ease", "group": "reference"}}
    rows = run_task(finals(path, "ease", methods=methods)[1]).rows
    measured = rows.filter(selection="rehearsal+dial", split="test_ood")
    whole = dataset.merged()
    scorer = reference_scorer("ease", whole, rehearsal=rehearse(whole))
    expected = evaluate(scorer, whole, ["test_ood"], (10, 20)).splits["test_ood"].metrics
    assert dict(measured.select("metric", "value").iter_rows()) == pytest.approx(expected, abs=1e-9)


def test_the_half_life_of_popularity_is_rehearsed_too(path):
    dataset = load_dataset(path)
    part = rehearse(dataset)
    early = part.dataset.split("train").csr(part.dataset.n_users, part.dataset.n_items)
    values = {
        half_life: evaluate_split(
            RecentMostPop(half_life).fit(part.dataset), part.dataset.split("valid"), early
        ).metrics["ndcg@20"]
        for half_life in HALF_LIVES
    }
    best = RecentMostPop(max(values, key=values.__getitem__)).fit(part.whole)
    users = torch.arange(1)
    scorer = reference_scorer("recent-mostpop", dataset, rehearsal=part)
    scores, expected = (s.score_block(users, 0, dataset.n_items) for s in (scorer, best))
    assert torch.equal(scores, expected)
