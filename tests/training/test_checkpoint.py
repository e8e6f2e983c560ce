"""The checkpoint file: whole, verified, and never half-written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.base.errors import RunError, StorageError
from cnsdiff.recommender.run_directory import CHECKPOINT
from cnsdiff.training.checkpoint import TrainingState, optimizer_moments

TRAINING = {"epochs": 4, "batch_size": 64}


@pytest.fixture
def state() -> TrainingState:
    weights = {"a.b": torch.randn(3, 2), "c": torch.tensor([float("1e-30")])}
    return TrainingState(
        epoch=3,
        model=weights,
        best=weights,  # shares memory
        optimizer={0: {"exp_avg": torch.randn(3, 2), "step": torch.tensor(7.0)}},
        stopping={"best_epoch": 2, "best": {"ndcg@20": 0.1 + 0.2}, "stale": 1},
        history=[
            {
                "epoch": 1,
                "train": {"loss": 0.1},
                "validation": {},
                "seconds": 1e-9,
                "validation_seconds": 0.0,
            }
        ],
        identity={"configuration": "x", "dataset": "y"},
    )


def test_round_trip(state, tmp_path):
    path = tmp_path / "c.safetensors"
    state.save(path)
    found = TrainingState.load(path)
    for group in ("model", "best"):
        ours, theirs = getattr(state, group), getattr(found, group)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert found.optimizer.keys() == {0}
    assert torch.equal(found.optimizer[0]["exp_avg"], state.optimizer[0]["exp_avg"])
    assert torch.equal(found.optimizer[0]["step"], state.optimizer[0]["step"])
    for name in ("epoch", "stopping", "history", "identity"):
        assert getattr(found, name) == getattr(state, name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("keep", [0, 1, 8, 60, -1])
def test_truncated(state, tmp_path, keep):
    path = tmp_path / "c.safetensors"
    state.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"c.safetensors: the checkpoint is damaged .*delete it"):
        TrainingState.load(path)


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"state": "{"}, {"state": "[]"}, {"state": "{}"}, {"state": '{"version": 1}'}],
)
def test_not_a_checkpoint(tmp_path, metadata):
    path = tmp_path / "c.safetensors"
    save_file({"model.x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(RunError, match="damaged"):
        TrainingState.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epoch", "3"),
        ("epoch", 0),
        ("history", {}),
        ("history", [{"epoch": 1}]),
        ("stopping", {"best_epoch": -1, "best": {}, "stale": 0}),
        ("stopping", {"best_epoch": 1, "best": {"x": "y"}, "stale": 0}),
        ("identity", {"dataset": 1}),
        ("deep", None),
    ],
)
def test_a_state_that_is_none(state, tmp_path, key, value):
    path = tmp_path / "c.safetensors"
    if key != "deep":
        setattr(state, key, value)
    state.save(path)
    if key == "deep":
        save_file({"model.x": torch.zeros(1)}, path, metadata={"state": "[" * 100_000})
    with pytest.raises(RunError, match="the checkpoint is damaged"):
        TrainingState.load(path)


@pytest.mark.parametrize("group", ["model", "best", "optimizer"])
@pytest.mark.parametrize("how", ["missing", "shape"])
def test_a_checkpoint_of_another_model(state, tmp_path, group, how):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state.model, state.best = dict(weights), dict(weights)
    state.optimizer = {
        index: {"step": torch.tensor(1.0), "exp_avg": zeros, "exp_avg_sq": zeros}
        for index, zeros in enumerate((torch.zeros(3, 2), torch.zeros(3)))
    }
    state.restore(model, optimizer, tmp_path / "c")
    tensors = state.optimizer[0] if group == "optimizer" else getattr(state, group)
    if group == "optimizer" and how == "missing":
        del tensors["exp_avg_sq"]
    elif group == "optimizer":
        tensors["exp_avg"] = torch.zeros(4)
    elif how == "missing":
        del tensors["bias"]
    else:
        tensors["bias"] = torch.zeros(4)
    with pytest.raises(RunError, match="c: the checkpoint is damaged"):
        state.restore(model, optimizer, tmp_path / "c")


def test_strange_tensors(state, tmp_path):
    path = tmp_path / "c.safetensors"
    state.save(path)
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    meta = header["__metadata__"]
    for name in ("nonsense.x", "optimizer.first.exp_avg"):
        save_file({name: torch.zeros(1)}, path, metadata=meta)
        with pytest.raises(RunError, match="damaged"):
            TrainingState.load(path)


def test_another_version(state, tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"model.x": torch.zeros(1)}, path, metadata={"state": json.dumps({"version": 99})})
    with pytest.raises(RunError, match=r"checkpoint version 99, this cnsdiff reads 1; train again"):
        TrainingState.load(path)


def test_adam_goes_on_as_if_never_stopped():
    def train(optimizer, parameter, steps, start=0):
        for step in range(start, start + steps):
            optimizer.zero_grad()
            (parameter * torch.tensor([1.0, float(step + 1)])).square().sum().backward()
            optimizer.step()

    whole = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    train(torch.optim.Adam([whole], lr=0.1, fused=True), whole, 6)
    part = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    first = torch.optim.Adam([part], lr=0.1, fused=True)
    train(first, part, 3)
    second = torch.optim.Adam([part], lr=0.1, fused=True)
    moments = {k: dict(v) for k, v in optimizer_moments(first).items()}
    TrainingState(3, optimizer=moments).restore(torch.nn.Module(), second, Path("checkpoint"))
    train(second, part, 3, start=3)
    assert torch.equal(whole, part)


# -- in a run ----------------------------------------------------------------------------------


def unfinished(world, run, interrupting, epochs=2, **options):
    options = {"sampler": "random", "training": TRAINING, **options}
    model = Recommender(**options)
    with pytest.raises(KeyboardInterrupt):
        model.fit(world, run=run, reporter=interrupting(epochs))
    return model


def test_a_checkpoint_of_another_run_is_refused(world, tmp_path, interrupting):
    unfinished(world, tmp_path / "a", interrupting)
    unfinished(world, tmp_path / "b", interrupting, seed=5)
    other = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=9).dataset()
    unfinished(other, tmp_path / "c", interrupting)
    ours = tmp_path / "a" / CHECKPOINT
    before = ours.read_bytes()
    for folder, what in (("b", "configuration"), ("c", "dataset")):
        ours.write_bytes((tmp_path / folder / CHECKPOINT).read_bytes())
        with pytest.raises(RunError, match=f"{CHECKPOINT}: belongs to another {what}; .*directory"):
            Recommender(sampler="random", training=TRAINING).fit(world, run=tmp_path / "a")
    ours.write_bytes(before)
    Recommender(sampler="random", training=TRAINING).fit(world, run=tmp_path / "a")


def test_a_run_of_another_configuration_or_dataset_is_refused(world, tmp_path, interrupting):
    unfinished(world, tmp_path / "a", interrupting)
    with pytest.raises(RunError, match=r"unfinished run of another configuration.*--resume"):
        Recommender(sampler="random", training=TRAINING, seed=1).fit(world, run=tmp_path / "a")
    other = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=9).dataset()
    with pytest.raises(RunError, match=r"begun on the dataset 'confounded-world' with other"):
        Recommender(sampler="random", training=TRAINING).fit(other, run=tmp_path / "a")
    assert TrainingState.load(tmp_path / "a" / CHECKPOINT).epoch == 2


def test_a_damaged_checkpoint_is_named(world, tmp_path, interrupting):
    unfinished(world, tmp_path / "a", interrupting)
    checkpoint = tmp_path / "a" / CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(RunError, match=rf"{CHECKPOINT}: the checkpoint is damaged"):
        Recommender(sampler="random", training=TRAINING).fit(world, run=tmp_path / "a")


def test_a_full_disk_leaves_the_previous_checkpoint(world, tmp_path, interrupting, full_disk):
    whole = Recommender(sampler="random", training=TRAINING).fit(world)
    run = tmp_path / "a"
    model = unfinished(world, run, interrupting)
    names = sorted(entry.name for entry in run.iterdir())
    before = (run / CHECKPOINT).read_bytes()
    with full_disk(20_000), pytest.raises(StorageError, match=r"the disk is full.*untouched"):
        model.fit(world, run=run)
    assert (run / CHECKPOINT).read_bytes() == before
    assert sorted(entry.name for entry in run.iterdir()) == names
    assert TrainingState.load(run / CHECKPOINT).epoch == 2
    model.fit(world, run=run)
    assert torch.equal(model.user_embeddings_, whole.user_embeddings_)
