"""The training loop: what it selects, records and refuses."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch

from cnsdiff import Recommender
from cnsdiff.backbones.base import MF, BackboneConfig
from cnsdiff.base.errors import DataError, TrainingError
from cnsdiff.data import Dataset
from cnsdiff.data.splits import Split
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers.base import Sampler, SamplerConfig, Vectors
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.testing import DIM, tiny_positives
from cnsdiff.training.checkpoint import TrainingState
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.loop import Trainer
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.step import TrainingStep

EPOCHS = {"epochs": 3, "batch_size": 64}


def trained(world, **options) -> Recommender:
    options = {"training": EPOCHS, **options}
    return Recommender(**options).fit(world)


def same_embeddings(one: Recommender, other: Recommender) -> bool:
    return torch.equal(one.user_embeddings_, other.user_embeddings_) and torch.equal(
        one.item_embeddings_, other.item_embeddings_
    )


# -- with scripted validations -----------------------------------------------------------------


def build(sampler_class=RandomSampler) -> tuple[TrainingStep, object]:
    positives = tiny_positives()
    backbone = MF(positives, BackboneConfig(dim=DIM), torch.Generator().manual_seed(0))
    sampler = sampler_class(positives, DIM, SamplerConfig(), torch.Generator().manual_seed(1))
    return TrainingStep(backbone, sampler, Objective(ObjectiveConfig(), positives)), positives


class Scripted:
    """A selection whose validations return ``values``, by objective."""

    def __init__(self, **values):
        self.objectives = dict.fromkeys(values, TrainingConfig())
        self.values, self.seen = {name: iter(given) for name, given in values.items()}, []
        self.asked = []

    def __call__(self, scorer, names):
        self.seen.append([scorer.user_embeddings.clone(), scorer.item_embeddings.clone()])
        self.asked.append(names)
        return {name: {"recall@10": 0.0, "ndcg@20": next(self.values[name])} for name in names}


def fit(values, *, sampler=RandomSampler, checkpoint=None, reporter=None, stop=None, **config):
    """Train with validations that return ``values``; the step, its state, and the snapshots."""
    step, positives = build(sampler)
    selection = values if isinstance(values, Scripted) else Scripted(valid=values)
    settings = {"epochs": 6, "batch_size": 20, "patience": None, "patience_steps": 0, **config}
    lr = settings.pop("lr", TrainingConfig().lr)
    # Not checked, so that it may be too large.
    config = TrainingConfig(**settings).model_copy(update={"lr": lr})
    fabric = make_fabric("cpu", "32-true")
    trainer = Trainer(config, step, positives, seed=0, fabric=fabric, checkpoint=checkpoint)
    state = trainer.fit(selection, reporter or Reporter(), stop=stop)
    return step, state, selection.seen


def test_the_best_weights_are_put_back():
    step, state, seen = fit([0.1, 0.3, 0.2, 0.3, 0.1, 0.0])
    assert state.stopping["best_epoch"] == 2
    for table, at_best, at_end in zip(step.embeddings(), seen[1], seen[-1], strict=True):
        assert torch.equal(table, at_best)
        assert not torch.equal(table, at_end)
    assert not step.training


def test_objectives_choose_as_if_alone_and_stop_by_themselves():
    """The weights of the epoch that each likes; the training lasts as long as one has patience."""
    curves = {"early": [0.3, 0.2, 0.1], "late": [0.1, 0.2, 0.15, 0.3, 0.2, 0.1]}
    selection = Scripted(**curves)
    step, state, seen = fit(selection, patience=2)
    assert selection.asked == [["early", "late"]] * 3 + [["late"]] * 3
    assert state.epoch == 6
    for name, epoch in (("late", 4), ("early", 1)):
        choice = state.choices[name]
        assert choice.stopping.best_epoch == epoch
        step.load_state_dict(choice.weights)
        for table, at_best in zip(step.embeddings(), seen[epoch - 1], strict=True):
            assert torch.equal(table, at_best)
        _, alone, _ = fit(Scripted(**{name: curves[name]}), patience=2)
        assert alone.stopping == vars(choice.stopping)
        assert all(torch.equal(alone.best[key], choice.weights[key]) for key in alone.best)


def test_a_training_that_is_told_to_stop_keeps_its_best():
    records = []

    def third(record):
        records.append(record)
        return record["epoch"] == 3

    _, state, _ = fit([0.1, 0.3, 0.2, 0.9], stop=third)
    assert (state.epoch, state.stopping["best_epoch"]) == (3, 2)
    assert records == state.history


def test_one_that_goes_on_after_it_was_told_to_stop_trains_no_more(tmp_path):
    checkpoint, told = tmp_path / "checkpoint.safetensors", {"stop": lambda r: r["epoch"] == 3}
    _, first, _ = fit([0.1, 0.3, 0.2, 0.9], checkpoint=checkpoint, **told)
    _, again, seen = fit([0.9], checkpoint=checkpoint, stop=lambda r: r["epoch"] >= 3)
    assert (again.epoch, again.stopping["best_epoch"], seen) == (3, 2, [])
    assert all(torch.equal(first.best[name], again.best[name]) for name in first.best)


def test_patience_ends_training(noting):
    _, state, _ = fit([0.3, 0.2, 0.4, 0.1, 0.4, 9.0], patience=2, reporter=noting)
    assert state.epoch == len(state.history) == 5
    assert noting.best == [True, False, True, False, False]
    assert noting.begun[:2] == (0, 6)


def test_validate_every_counts_epochs_and_never_misses_the_last():
    _, state, seen = fit([0.5, 0.2, 0.1, 0.05], epochs=7, validate_every=2, patience=9)
    assert [r["epoch"] for r in state.history if r["validation"]] == [2, 4, 6, 7]
    assert len(seen) == 4
    assert state.stopping["best_epoch"] == 2


def test_patience_lasts_some_steps_however_few_an_epoch_has():
    """Falling from the start: stopped after the last validation within so many steps."""
    n_steps = math.ceil(len(tiny_positives()) / 20)
    falling = [1.0 / k for k in range(1, 40)]
    for steps, stopped in ((0, 3), (3 * n_steps, 4), (7 * n_steps - 1, 8), (7 * n_steps + 1, 9)):
        _, state, _ = fit(falling, epochs=30, patience=2, patience_steps=steps)
        assert len(state.history) == stopped
    _, state, _ = fit(falling, epochs=30, patience=2, patience_steps=8 * n_steps, validate_every=2)
    assert len(state.history) == 2 + 2 * 4


def test_patience_counts_validations_not_epochs():
    _, state, _ = fit([0.5, 0.2, 0.1], epochs=20, validate_every=3, patience=2)
    assert state.epoch == 9


def test_history_has_a_record_per_epoch():
    _, state, _ = fit([0.1] * 6)
    assert [record["epoch"] for record in state.history] == [1, 2, 3, 4, 5, 6]
    for record in state.history:
        assert next(iter(record["validation"])) == "ndcg@20", "what selects comes first"
        assert record["train"].keys() == {"loss", "bpr", "l2"}
        assert record["train"]["loss"] == pytest.approx(
            record["train"]["bpr"] + record["train"]["l2"]
        )
        assert record["seconds"] > 0
        assert record["validation_seconds"] > 0
    losses = [record["train"]["loss"] for record in state.history]
    assert losses[-1] < losses[0]


class Spoilt(RandomSampler):
    """Turns its vectors into NaN from the ``after``-th call on."""

    after = 0

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.calls = itertools.count()

    def forward(self, batch, embeddings, context):
        negatives = super().forward(batch, embeddings, context)
        bad = next(self.calls) >= self.after
        vectors = negatives.embed(embeddings)
        return Vectors(vectors * torch.nan if bad else vectors)


def steps_per_epoch() -> int:
    return -(-len(tiny_positives()) // 20)


@pytest.mark.parametrize(
    ("offset", "place"),
    [(0, r"epoch 3, step 1\b"), (2, r"epoch 3, step \d+")],  # at a step that is read, and not
)
def test_nan_stops_with_one_sentence_and_keeps_the_last_epoch(tmp_path, offset, place):
    spoilt = type("Spoilt", (Spoilt,), {"after": 2 * steps_per_epoch() + offset})
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingError) as caught:
        fit([0.1] * 6, sampler=spoilt, checkpoint=checkpoint)
    message = str(caught.value)
    assert re.search(place, message)
    assert re.search(r": loss, bpr(, l2)? became NaN or infinite; ", message)
    assert f"{checkpoint} keeps epoch 2" in message
    assert "lower training.lr (now 0.002)" in message
    assert caught.value.exit_code == 1
    kept = TrainingState.load(checkpoint)
    assert kept.epoch == len(kept.history) == 2
    assert all(bool(value.isfinite().all()) for value in kept.model.values())


def test_nan_in_the_first_epoch_promises_no_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingError, match=r"epoch 1, step 1:") as caught:
        fit([0.1] * 6, sampler=Spoilt, checkpoint=checkpoint)
    assert "keeps" not in str(caught.value)
    assert not checkpoint.exists()


def test_infinite_weights_are_found_before_they_are_saved(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    # One step an epoch: its loss is finite, the weights after it are not.
    with pytest.raises(TrainingError, match="weights became NaN or infinite"):
        fit([0.1] * 6, lr=1e39, batch_size=10_000, checkpoint=checkpoint)
    assert not checkpoint.exists()


def test_a_learning_rate_that_blows_up(world, tmp_path):
    model = Recommender("mf", "random", training={**EPOCHS, "lr": 1e20})
    with pytest.raises(TrainingError, match=r"lower training.lr \(now 1e\+20\)"):
        model.fit(world, run=tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()


# -- on a world --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "random"},
        {"sampler": "random", "backbone": "mf"},
        {},
        {"sampler": "cnsdiff"},
        {"preset": "authors"},
        {"preset": "paper"},
        {"preset": "ssm-lightgcn"},
    ],
    ids=str,
)
def test_the_seed_decides_everything(world, options):
    first = trained(world, **options)
    torch.manual_seed(123)  # the global stream has no say
    again = trained(world, **options)
    assert same_embeddings(first, again)
    assert [r["train"] for r in first.history_] == [r["train"] for r in again.history_]
    assert not same_embeddings(first, trained(world, **options, seed=1))


def test_mixed_precision_trains(world):
    exact = trained(world, sampler="random")
    mixed = trained(world, sampler="random", precision="bf16-mixed")
    assert mixed.user_embeddings_.dtype == torch.float32
    assert not same_embeddings(exact, mixed)
    assert mixed.history_[-1]["train"]["loss"] == pytest.approx(
        exact.history_[-1]["train"]["loss"], rel=0.02
    )


def poisoned(world: Dataset, monkeypatch, *names: str) -> list[str]:
    opened: list[str] = []
    real = Dataset.split

    def split(self, name):
        opened.append(name)
        assert name not in names, f"{name} was opened"
        return real(self, name)

    monkeypatch.setattr(Dataset, "split", split)
    return opened


def test_training_opens_no_test_split(world, monkeypatch, tmp_path):
    opened = poisoned(world, monkeypatch, "test_iid", "test_ood")
    Recommender(training=EPOCHS).fit(world, run=tmp_path / "run")
    assert set(opened) == {"train", "valid"}


def test_the_content_of_a_test_split_changes_no_weights(world):
    rng = np.random.default_rng(0)
    swapped = {name: world.split(name) for name in ("train", "valid")}
    for name in ("test_iid", "test_ood"):
        free = np.flatnonzero(
            world.split("train").csr(world.n_users, world.n_items).toarray().ravel() == 0
        )
        pairs = rng.choice(free, size=50, replace=False)
        swapped[name] = Split(name, pairs // world.n_items, pairs % world.n_items)
    other = Dataset(
        users=world.users,
        items=world.items,
        manifest=world.manifest.model_copy(update={"fingerprint": "another"}),
        splits=swapped,
    )
    for options in ({}, {"sampler": "random"}, {"sampler": "cnsdiff"}):
        assert same_embeddings(trained(world, **options), trained(other, **options))


def test_selecting_on_the_test_split_says_so_loudly(world, noting, monkeypatch):
    opened = poisoned(world, monkeypatch, "valid", "test_iid")
    training = {**EPOCHS, "select_on": "test_ood", "dial": "off", "fhn_every": None}
    model = Recommender(sampler="random", training=training).fit(world, reporter=noting)
    assert set(opened) == {"train", "test_ood"}
    (note,) = noting.notes
    assert note.startswith("WARNING: select_on=test_ood")
    assert "not an honest estimate" in note
    # The published rule: of the four metrics none may fall.
    four = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")
    best = None
    for record in model.history_:
        new = [record["validation"][name] for name in four]
        if best is None or all(n >= b for n, b in zip(new, best[1], strict=True)):
            best = (record["epoch"], new)
    assert model.best_epoch_ == best[0]


def test_selecting_on_valid_is_silent(world, noting):
    Recommender(sampler="random", training=EPOCHS).fit(world, reporter=noting)
    assert noting.notes == []


def test_no_valid_split(world):
    splits = {"train": world.split("train"), "test_ood": world.split("test_ood")}
    kept = {name: world.manifest.splits[name] for name in splits}
    bare = Dataset(
        users=world.users,
        items=world.items,
        manifest=world.manifest.model_copy(update={"splits": kept, "tables": []}),
        splits=splits,
    )
    with pytest.raises(DataError, match=r"has no valid split; prepare it again with valid='FILE'"):
        Recommender(sampler="random").fit(bare, refit=False)


class Learning(Sampler):
    """A sampler with a parameter of its own and a loss that moves it."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.shift = torch.nn.Parameter(torch.zeros(self.dim))

    def forward(self, batch, embeddings, context):
        items = self.positives.sample_negatives(batch.users, 1, context.negatives)
        return Vectors(
            embeddings.items[items] + self.shift,
            loss=(self.shift - 1).square().sum(),
            diagnostics={"shift": self.shift.detach().mean()},
        )


def test_a_samplers_own_loss_and_diagnostics_are_trained_and_logged():
    step, state, _ = fit([0.1] * 6, sampler=Learning)
    assert step.sampler.shift.detach().abs().min() > 0
    assert {"loss", "bpr", "l2", "sampler", "shift"} == state.history[0]["train"].keys()
