"""Counting false negatives while training: what is counted, and that nothing is changed by it."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from cnsdiff import Recommender
from cnsdiff.backbones.base import MF, BackboneConfig, Embeddings
from cnsdiff.base.errors import DataError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.evaluation.fhn import false_negatives
from cnsdiff.evaluation.judges import judge_for
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.recommender.run_directory import history_records, history_table
from cnsdiff.samplers.base import Batch, Items, Sampler
from cnsdiff.samplers.cnsdiff import CNSDiffSampler
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.testing import DIM, make_batch, tiny_positives
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.loop import Trainer
from cnsdiff.training.probe import FalseNegativeProbe
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.step import TrainingStep

EPOCHS = {"epochs": 3, "batch_size": 64}
LOGGED = {"fhn", "fhn_hard", "hard_share", "fhn_judged"}


def trained(world, *, training=None, reporter=None, **options) -> Recommender:
    options = {"sampler": "random", **options}
    model = Recommender(**options, training=EPOCHS | (training or {}))
    return model.fit(world, reporter=reporter)


def weights(model: Recommender) -> dict[str, torch.Tensor]:
    return model._fitted().weights | {"U": model.user_embeddings_, "I": model.item_embeddings_}


def assert_same_weights(one, other) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def logged(model: Recommender) -> list[dict[str, float]]:
    names = LOGGED | {"known_positive"}
    return [{k: v for k, v in r["train"].items() if k in names} for r in model.history_]


# -- through the Recommender -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "random"},
        {"sampler": "cnsdiff"},
        {"preset": "authors", "sampler": None},
        {"sampler": "cnsdiff", "precision": "bf16-mixed"},
        {"sampler": "cnsdiff", "sampler_options": {"n_negatives": 3}},
    ],
    ids=str,
)
def test_counting_changes_no_weight_and_no_loss(world, options):
    silent = trained(world, **options, training={"fhn_every": None})
    assert logged(silent) == [{}] * 3
    for on in ("valid", "held-out"):
        counting = trained(world, **options, training={"fhn_on": on, "fhn_neighbours": 2})
        assert_same_weights(weights(counting), weights(silent))
        for ours, theirs in zip(counting.history_, silent.history_, strict=True):
            assert theirs["train"].items() <= ours["train"].items()
            assert theirs["validation"] == ours["validation"]


def test_each_epoch_is_counted_anew_and_from_the_seed(world):
    first, again = (logged(trained(world, sampler="cnsdiff")) for _ in range(2))
    assert first == again
    assert all(record.keys() == LOGGED | {"known_positive"} for record in first)
    assert len({tuple(record.items()) for record in first}) == 3
    assert all(record.keys() == LOGGED for record in logged(trained(world)))


def test_what_knows_more_finds_more(world):
    """The same negatives before three judges, of whom each knows what the one before knows."""
    by_valid, by_all, by_truth = (
        logged(trained(world, training={"fhn_on": on})) for on in ("valid", "held-out", "truth")
    )
    for valid, every, truth in zip(by_valid, by_all, by_truth, strict=True):
        assert valid["hard_share"] == every["hard_share"] == truth["hard_share"]
        assert valid["fhn"] < every["fhn"] < truth["fhn"]
        assert valid["fhn_hard"] <= every["fhn_hard"] <= truth["fhn_hard"]
        assert valid["fhn_judged"] == truth["fhn_judged"]


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_every_so_many_epochs_and_the_last(world, every, epochs):
    model = trained(world, training={"fhn_every": every, "epochs": 5, "patience": None})
    assert [r["epoch"] for r in model.history_ if "fhn" in r["train"]] == epochs
    table = history_table(model.history_)
    assert table.filter(table["train/fhn"].is_not_null())["epoch"].to_list() == epochs
    assert history_records(table) == model.history_


def test_a_resumed_run_counts_the_same(world, tmp_path, interrupting):
    def fit(run, reporter=None):
        training = {**EPOCHS, "epochs": 5, "fhn_every": 2, "patience": None}
        model = Recommender(sampler="cnsdiff", training=training)
        return model.fit(world, run=tmp_path / run, reporter=reporter)

    whole = fit("whole")
    for reporter in (interrupting(1), interrupting(3, steps=3)):  # the second while it counts
        with pytest.raises(KeyboardInterrupt):
            fit("parts", reporter)
    resumed = fit("parts")
    assert logged(resumed) == logged(whole)
    assert_same_weights(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("on", "reads"), [("held-out", "reads the test splits"), ("truth", "reads the simulated truth")]
)
def test_what_is_read_beyond_valid_is_said(world, noting, on, reads):
    trained(world, training={"fhn_on": on}, reporter=noting)
    (note,) = noting.notes
    assert note.startswith(f"training.fhn_on={on} {reads} ")
    assert "no weight and no choice of epoch depends" in note


def test_valid_is_read_in_silence(world, noting):
    trained(world, reporter=noting)
    assert noting.notes == []


def test_a_dataset_without_judgements(world, tmp_path):
    bare = Dataset(
        users=world.users,
        items=world.items,
        manifest=world.manifest.model_copy(update={"tables": []}),
        splits={name: world.split(name) for name in world.split_names},
    )
    with pytest.raises(DataError, match="judgements"):
        Recommender(training={**EPOCHS, "fhn_on": "experiment"}).fit(bare, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_valid_split_the_default_counts_nothing(world):
    splits = {name: world.split(name) for name in ("train", "test_ood")}
    kept = {name: world.manifest.splits[name] for name in splits}
    bare = Dataset(
        users=world.users,
        items=world.items,
        manifest=world.manifest.model_copy(update={"splits": kept}),
        splits=splits,
    )
    assert logged(trained(bare, training={"select_on": "test_ood", "dial": "off"})) == [{}] * 3


def test_an_objective_without_sampled_negatives_has_none_to_count(world):
    model = Recommender("mf", preset="ssm-lightgcn", training=EPOCHS).fit(world)
    assert logged(model) == [{}] * 3


# -- through the trainer -----------------------------------------------------------------------


class ConstantJudge:
    complete = True
    known_users = None

    def __init__(self, verdict: int) -> None:
        self.verdict = verdict

    def __call__(self, users, items):
        assert not torch.is_grad_enabled()
        return torch.full(items.shape, self.verdict, dtype=torch.int8)


class PoisonousJudge(ConstantJudge):
    """Spoils all it can lay hands on."""

    def __call__(self, users, items):
        verdict = super().__call__(users, items)
        users.zero_(), items.zero_()
        torch.manual_seed(int(verdict.sum()))
        torch.rand(7)
        return verdict


class NoJudge:
    complete = True
    known_users = None

    def __call__(self, users, items):
        raise AssertionError("asked")


def fit(judge, sampler_class=RandomSampler, **config):
    positives = tiny_positives()
    backbone = MF(positives, BackboneConfig(dim=DIM), torch.Generator().manual_seed(0))
    sampler = sampler_class(
        positives, DIM, sampler_class.Config(), torch.Generator().manual_seed(1)
    )
    step = TrainingStep(backbone, sampler, Objective(ObjectiveConfig(), positives))
    config = TrainingConfig(**{"epochs": 3, "batch_size": 20, "patience": None, **config})
    probe = FalseNegativeProbe(judge, positives, config, seed=0)
    fabric = make_fabric("cpu", "32-true")
    trainer = Trainer(config, step, positives, seed=0, fabric=fabric, probe=probe)
    return trainer.fit(Indifferent(), Reporter())


class Indifferent:
    """A selection to which all epochs are alike."""

    objectives: ClassVar = {"valid": TrainingConfig()}

    def __call__(self, scorer, names):
        return {"valid": {"ndcg@20": 0.0}}


@pytest.mark.parametrize("sampler_class", [RandomSampler, CNSDiffSampler])
def test_a_poisonous_judge_changes_no_weight(sampler_class):
    silent = fit(NoJudge(), sampler_class, fhn_every=None)
    for judge in (ConstantJudge(1), ConstantJudge(0), ConstantJudge(-1), PoisonousJudge(1)):
        state = fit(judge, sampler_class, fhn_sample=7)
        assert_same_weights(state.model, silent.model)
        assert state.stopping == silent.stopping


@pytest.mark.parametrize("verdict", [0, 1])
def test_verdicts_reach_the_record(verdict):
    for record in fit(ConstantJudge(verdict)).history:
        assert record["train"]["fhn"] == record["train"]["fhn_hard"] == verdict


def test_unknown_verdicts_are_no_ratio():
    for record in fit(ConstantJudge(-1)).history:
        assert record["train"].keys() & LOGGED == {"hard_share", "fhn_judged"}
        assert record["train"]["fhn_judged"] == 0.0


# -- the sample --------------------------------------------------------------------------------


class Recording:
    """Knows of some users, and keeps which are asked about."""

    def __init__(self, known: torch.Tensor | None = None) -> None:
        self.known_users = known
        self.complete = known is None
        self.asked: list[torch.Tensor] = []

    def __call__(self, users, items):
        self.asked.append(users.clone())
        return torch.zeros(items.shape, dtype=torch.int8)


def show(judge, n_steps: int, *, rows: int = 10, n: int = 1, epoch: int = 1, **config):
    """Show a probe an epoch of ``n_steps`` batches; its scalars, and the steps it looked at."""
    positives = tiny_positives()
    config = TrainingConfig(**{"batch_size": rows, **config})
    probe = FalseNegativeProbe(judge, positives, config, seed=0)
    generator = torch.Generator().manual_seed(0)
    tables = (
        torch.randn(size, DIM, generator=generator)
        for size in (positives.n_users, positives.n_items)
    )
    embeddings, looked = Embeddings(*tables), []
    probe.begin(epoch, n_steps)
    for step in range(n_steps):
        index = torch.randint(len(positives), (rows,), generator=generator)
        batch = make_batch(positives, index)
        before = len(judge.asked)
        negatives = positives.sample_negatives(batch.users, n, generator)
        if probe.looks_at(step):
            probe(batch, embeddings, Items(negatives))
        if len(judge.asked) > before:
            looked.append(step)
    return dict(probe.scalars()), looked


@pytest.mark.parametrize(
    ("n_steps", "sample", "looks"),
    [(1, 9, 1), (16, 9, 1), (17, 9, 2), (52, 9, 4), (999, 9, 16), (17, 60, 6), (17, 999, 17)],
)
def test_looks_are_evenly_spaced_and_as_many_as_the_sample_needs(n_steps, sample, looks):
    _, looked = show(Recording(), n_steps, fhn_sample=sample)
    assert len(looked) == looks
    gaps = np.diff([-1 - looked[0], *looked, 2 * n_steps - 1 - looked[-1]])
    assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize(
    ("sample", "n", "n_steps", "judged"),
    [
        (36, 1, 40, 36),  # 9 rows of each of 4 batches
        (34, 1, 40, 36),  # rounded up
        (32, 4, 40, 32),  # 2 rows of each of 4, with all their negatives
        (3, 4, 40, 12),  # at least a row of each of 3
        (32, 2, 3, 36),  # 6 rows of each of 3
        (999, 1, 2, 20),  # all there are
    ],
)
def test_the_sample_is_as_large_as_asked(sample, n, n_steps, judged):
    scalars, _ = show(Recording(), n_steps, n=n, fhn_sample=sample)
    assert scalars["fhn_judged"] == judged


@pytest.mark.parametrize(
    ("users", "items", "sample"), [(50, 80, 256), (500, 100, 500), (1000, 300, 2048)]
)
def test_the_default_sample_is_a_hundredth_within_bounds(users, items, sample):
    everything = np.indices((users, items)).reshape(2, -1)
    positives = Positives(*everything, users, items + 1)
    assert len(positives) == users * items
    probe = FalseNegativeProbe(ConstantJudge(0), positives, TrainingConfig(), seed=0)
    batch = make_batch(positives, torch.arange(3000))
    embeddings = Embeddings(torch.ones(users, 1), torch.ones(items + 1, 1))
    probe.begin(1, 1)
    probe(batch, embeddings, Items(torch.full((3000, 1), items)))
    assert probe.scalars()["fhn_judged"] == sample


def test_the_sample_is_drawn_anew_in_each_epoch():
    samples = []
    for epoch in (1, 2, 1):
        judge = Recording()
        show(judge, 5, epoch=epoch, fhn_sample=15)
        samples.append(torch.stack(judge.asked))
    assert torch.equal(samples[0], samples[2])
    assert not torch.equal(samples[0], samples[1])


def test_users_the_judge_knows_come_first():
    known = torch.zeros(tiny_positives().n_users, dtype=torch.bool)
    known[[0, 1, 2, 3, 4]] = True
    judge, everyone = Recording(known), Recording()
    show(judge, 96, rows=40, fhn_sample=6 * 5)
    assert all(bool(known[users].all()) for users in judge.asked)
    show(everyone, 96, rows=40, fhn_sample=6 * 5)
    assert not all(bool(known[users].all()) for users in everyone.asked)
    # Where there are too few of them, the others fill up.
    short = Recording(known)
    scalars, _ = show(short, 6, rows=10, fhn_sample=60)
    assert scalars["fhn_judged"] == 60


def test_it_counts_what_the_function_counts(world):
    """One batch looked at as a whole: no sampling stands between the two."""
    model = trained(world, training={"epochs": 1, "batch_size": 10_000, "fhn_sample": 10_000})
    train = world.split("train")
    seen: dict[str, object] = {}

    class Seen(RandomSampler):
        def forward(self, batch: Batch, embeddings: Embeddings, context) -> Items:
            negatives = super().forward(batch, embeddings, context)
            tables = Embeddings(*(table.detach().clone() for table in embeddings))
            seen.update(batch=batch, embeddings=tables, negatives=negatives, sampler=self)
            return negatives

    again = trained(
        world, sampler=Seen, training={"epochs": 1, "batch_size": 10_000, "fhn_sample": 10_000}
    )
    assert logged(again) == logged(model)
    sampler = seen.pop("sampler")
    assert isinstance(sampler, Sampler)
    found = false_negatives(
        **seen,
        judge=judge_for(world, "valid"),
        positives=sampler.positives,
        generator=torch_generator(9, "another"),
    )
    record = logged(model)[0]
    assert record["fhn_judged"] == found.judged == len(train)
    assert record["fhn"] == found.fhn
    # Other candidates, so not quite the same medians.
    assert math.isclose(record["hard_share"], found.hard_share, abs_tol=0.1)
