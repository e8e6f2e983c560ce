"""The objectives of a benchmark: what they measure, and that nothing is ranked twice for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from cnsdiff.base.errors import CnsdiffError, DataError
from cnsdiff.benchmark.fit import selection_by
from cnsdiff.data import Dataset, Split
from cnsdiff.evaluation import EmbeddingScorer, evaluate_split, ranking
from cnsdiff.evaluation import dial as dial_module
from cnsdiff.evaluation.anticipation import Anticipated, anticipated_name
from cnsdiff.evaluation.dial import (
    COARSE,
    FINE,
    Dialled,
    best_reading,
    exposure_counts,
    exposure_score,
    prudent_dial,
)
from cnsdiff.evaluation.protocol import SplitEvaluation
from cnsdiff.training import selection as selection_module
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.selection import Reading, as_configured

PLAIN = ("valid", *get_args(Anticipated))
DIALLED = tuple(f"{name}+dial" for name in PLAIN)
METRIC = "ndcg@10"
SETTINGS = TrainingConfig()


def model(dataset: Dataset, seed: int = 0) -> EmbeddingScorer:
    random = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(n, 4, generator=random) for n in (dataset.n_users, dataset.n_items))
    return EmbeddingScorer(users, items)


class Validation:
    """A selection by the names of a benchmark: the value of each."""

    def __init__(self, dataset, names, metric, settings) -> None:
        self.selection = selection_by(dataset, names, metric, settings)

    def __call__(self, scorer: Any, names: Any = None) -> dict[str, float]:
        objectives = self.selection.objectives
        return {
            name: values[objectives[name].selection_metrics[0]]
            for name, values in self.selection(scorer, names).items()
        }

    def read(self, *args: Any) -> dict[str, Reading]:
        return self.selection.place(*args)


@pytest.fixture
def dial_users(request, monkeypatch) -> int:
    monkeypatch.setattr(selection_module, "DIAL_USERS", request.param)
    return int(request.param)


def key(name: str) -> str:
    return METRIC if name == "valid" else anticipated_name(METRIC, name)


def read_at(
    scorer: EmbeddingScorer, dataset: Dataset, gammas: Any, split: Split | None = None
) -> dict[float, dict[str, float]]:
    """What the evaluation says at each dial, one whole evaluation for each."""
    return {gamma: found.metrics for gamma, found in evaluated(scorer, dataset, gammas, split)}


def evaluated(
    scorer: EmbeddingScorer, dataset: Dataset, gammas: Any, split: Split | None = None
) -> Iterator[tuple[float, SplitEvaluation]]:
    split = split or dataset.split("valid")
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    exposure = exposure_counts(dataset).numpy()
    shifts = [
        as_configured(name, SETTINGS, split, train, (10,), exposure=exposure) for name in PLAIN[1:]
    ]
    at = exposure_score(dataset)
    for gamma in gammas:
        dialled = Dialled(scorer, at, gamma)
        yield (
            gamma,
            evaluate_split(dialled, split, train, ks=(10,), anticipations=shifts, per_user=True),
        )


def test_an_epoch_is_worth_what_it_is_at_its_best_dial(world):
    scorer = model(world)
    found = Validation(world, (*PLAIN, *DIALLED), METRIC, SETTINGS)(scorer)
    assert list(found) == [*PLAIN, *DIALLED]
    at = read_at(scorer, world, COARSE)
    for name in PLAIN:
        assert found[name] == at[0.0][key(name)]
        assert found[f"{name}+dial"] == best_reading(at, key(name))[1]
    assert sum(found[f"{name}+dial"] > found[name] for name in PLAIN) > 1


def sample_of(world: Dataset, validation: Validation) -> Split:
    """The pairs of the users that place the dial."""
    valid = world.split("valid")
    drawn = np.unique(validation.selection._sample.users)
    rows = np.isin(valid.users, drawn)
    assert valid.timestamps is not None
    return Split("valid", valid.users[rows], valid.items[rows], valid.timestamps[rows])


@pytest.mark.parametrize("dial_users", [2000, 10], indirect=True)
def test_a_dial_that_is_done_is_read_on_all_users_over_the_whole_grid(world, dial_users):
    """Each objective by itself, and prudently."""
    validation = Validation(world, DIALLED, METRIC, SETTINGS)
    prudent = 0
    for seed in range(4):
        scorer = model(world, seed)
        fine = dict(evaluated(scorer, world, FINE))
        for name, reading in validation.read(scorer, DIALLED).items():
            base = key(name.removesuffix("+dial"))
            columns = {gamma: found.per_user[base].to_numpy() for gamma, found in fine.items()}
            assert reading.dial == prudent_dial(columns)
            assert reading.value == fine[reading.dial][base]
            best = best_reading({gamma: found.metrics for gamma, found in fine.items()}, base)
            prudent += best[0] != reading.dial
            (alone,) = validation.read(scorer, [name]).values()
            assert alone == reading
    assert prudent, "the best dial was always taken"


def test_dials_that_are_given_are_all_that_is_read(world, monkeypatch):
    validation = Validation(world, DIALLED, METRIC, SETTINGS)
    gammas = (-2.0, 0.3, 3.0)
    at, counted = read_at(model(world), world, gammas), ranked(monkeypatch)
    for name, reading in validation.read(model(world), DIALLED, gammas).items():
        assert reading.dial in gammas
        assert reading.value == at[reading.dial][key(name.removesuffix("+dial"))]
    assert set(counted) == set(gammas)
    assert validation.read(model(world), []) == {}


@pytest.mark.parametrize("dial_users", [15], indirect=True)
def test_a_sample_of_the_users_places_the_dial(world, dial_users):
    """And all are measured where there is none."""
    scorer = model(world)
    sampled = Validation(world, (*PLAIN, *DIALLED), METRIC, SETTINGS)
    found = sampled(scorer)
    part = sample_of(world, sampled)
    assert len(np.unique(part.users)) == 15 < len(np.unique(world.split("valid").users))
    at = read_at(scorer, world, COARSE, part)
    for name in DIALLED:
        expected = best_reading(at, key(name.removesuffix("+dial")))[1]
        assert found[name] == pytest.approx(expected, abs=1e-12)
    plain = Validation(world, PLAIN, METRIC, SETTINGS)(scorer)
    assert {name: found[name] for name in PLAIN} == plain
    alone = Validation(world, DIALLED, METRIC, SETTINGS)
    assert np.array_equal(alone.selection._sample.users, sampled.selection._sample.users)
    assert alone(scorer) == pytest.approx({name: found[name] for name in DIALLED}, abs=1e-12)


def test_only_what_is_asked_for_is_measured(world):
    scorer = model(world)
    both = Validation(world, (*PLAIN, *DIALLED), METRIC, SETTINGS)
    whole = both(scorer)
    asked = ["tempered+dial", "valid"]
    assert list(both(scorer, asked)) == asked
    assert both(scorer, asked) == {name: whole[name] for name in asked}


def ranked(monkeypatch: pytest.MonkeyPatch) -> Counter[float]:
    """Users ranked at each dial from now on."""
    counted: Counter[float] = Counter()
    lists = dial_module.lists_at

    def turning(scorer: Any, biases: Any, users: Tensor, *args: Any, **options: Any) -> Any:
        counted.update(dict.fromkeys(biases, len(users)))
        return lists(scorer, biases, users, *args, **options)

    monkeypatch.setattr(dial_module, "lists_at", turning)
    return counted


class Counting(EmbeddingScorer):
    """Counts the users it is asked for."""

    asked = 0

    def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
        self.asked += len(users)
        return super().score_block(users, start, stop)


@pytest.mark.parametrize("dial_users", [2000, 15], indirect=True)
def test_nothing_is_ranked_or_scored_twice(world, monkeypatch, dial_users):
    counted = ranked(monkeypatch)
    n = len(np.unique(world.split("valid").users))
    some, spread = min(n, dial_users), world.n_users
    tables = vars(model(world))
    scorer = Counting(tables["user_embeddings"], tables["item_embeddings"])
    validation = Validation(world, (*PLAIN, *DIALLED), METRIC, SETTINGS)
    validation(scorer)
    # A sample is ranked by itself, at 0 too; all users are read once for all.
    sampled = some if some < n else 0
    assert counted == dict.fromkeys(COARSE, some) | {0.0: n + sampled}
    assert scorer.asked == n + sampled + spread
    counted.clear()
    validation(scorer, PLAIN)
    assert counted == {0.0: n}
    counted.clear()
    validation(scorer, DIALLED)
    assert counted == dict.fromkeys(COARSE, some)
    counted.clear()
    validation.read(scorer, DIALLED)
    assert counted == dict.fromkeys(FINE, n)


def test_batches_change_nothing(world, monkeypatch):
    validation = Validation(world, DIALLED, METRIC, SETTINGS)
    scorer = model(world)
    whole, read = validation(scorer), validation.read(scorer, DIALLED)
    for module, setting, value in (
        (dial_module, "_KEPT_USERS", 7),
        (dial_module, "_KEPT_SCORES", 11 * world.n_items),
        (ranking, "_GROUP", 2),
    ):
        monkeypatch.setattr(module, setting, value)
        assert validation(scorer) == pytest.approx(whole, abs=1e-12)
        again = validation.read(scorer, DIALLED)
        assert [r.dial for r in again.values()] == [r.dial for r in read.values()]


def test_what_is_never_recommended_stays_so(world):
    class Sparse(EmbeddingScorer):
        def score_block(self, users: Tensor, start: int, stop: int) -> Tensor:
            scores = super().score_block(users, start, stop)
            scores[:, torch.arange(start, stop) % 2 == 0] = -torch.inf
            return scores

    tables = vars(model(world))
    scorer = Sparse(tables["user_embeddings"], tables["item_embeddings"])
    found = Validation(world, DIALLED, METRIC, SETTINGS)(scorer)
    at = read_at(scorer, world, COARSE)
    for name in DIALLED:
        assert found[name] == best_reading(at, key(name.removesuffix("+dial")))[1]


def test_a_score_that_is_no_number(world):
    tables = vars(model(world))
    tables["item_embeddings"][3] = torch.nan
    with pytest.raises(CnsdiffError, match="not a number"):
        Validation(world, ("valid+dial",), METRIC, SETTINGS)(
            EmbeddingScorer(tables["user_embeddings"], tables["item_embeddings"])
        )


def test_objectives_are_those_of_the_evaluation(world):
    scorer, valid = model(world), world.split("valid")
    train = world.split("train").csr(world.n_users, world.n_items)
    for metric in ("recall@3", "ndcg@30"):
        found = Validation(world, ("valid",), metric, SETTINGS)(scorer)
        ks = (int(metric.partition("@")[2]),)
        assert found["valid"] == evaluate_split(scorer, valid, train, ks=ks).metrics[metric]


def test_nothing_to_validate_on(world):
    valid = world.split("valid")
    world.split = lambda name: (
        Split("valid", valid.users[:0], valid.items[:0])
        if name == "valid"
        else type(world).split(world, name)
    )
    with pytest.raises(DataError, match="the valid split holds no interactions"):
        Validation(world, ("valid",), METRIC, SETTINGS)
