"""Tables cut by rows: each process has its share, and the result is that of whole tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from launching import forked, furthest, scalars, train_together

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import ConfigError
from cnsdiff.data.positives import Positives
from cnsdiff.recommender.fitting import assemble
from cnsdiff.recommender.run_directory import CHECKPOINT
from cnsdiff.training.checkpoint import TrainingState
from cnsdiff.training.processes import Processes
from cnsdiff.training.sharding import Shard

#: No false negatives are counted on a share of the users.
TRAINING = {"epochs": 4, "batch_size": 200, "patience": None, "fhn_every": None}
TINY = {**TRAINING, "epochs": 1, "batch_size": 3}
VARIANTS = {
    "default": {"training": TRAINING},
    "random": {"sampler": "random", "training": TRAINING},
    "mf": {"backbone": "mf", "sampler": "exposure", "training": TRAINING},
    "mf random": {"backbone": "mf", "sampler": "random", "training": TRAINING},
    "one layer": {"backbone_options": {"layers": 1}, "sampler": "dns", "training": TRAINING},
    "learning": {"sampler": "exposure_diffusion", "training": TRAINING},
    "popularity": {"sampler": "popularity", "training": {**TRAINING, "slices": 4}},
    "in-batch": {"preset": "ssm-lightgcn", "training": TRAINING},
    "rehearsed": {"training": {**TRAINING, "select_on": "rehearsal"}},
    "tiny": {"training": TINY},
    "tiny mf": {"backbone": "mf", "sampler": "random", "training": TINY},
}


@pytest.fixture(scope="module")
def sharded(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sharded") / "runs"
    variants = {
        name: {**options, "training": {**options["training"], "shard": True}}
        for name, options in VARIANTS.items()
    }
    train_together(dataset, variants, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_sharded_is_whole(dataset, sharded, tmp_path, variant):
    """Two processes with half of the tables each are one with two slices of whole tables."""
    options = VARIANTS[variant]
    settings = {"slices": 2, **options["training"]}
    model = Recommender(**{**options, "training": settings})
    model.fit(load_dataset(dataset), run=tmp_path / "run")
    assert furthest(sharded / variant, tmp_path / "run") < 1e-5
    loaded = Recommender.load(sharded / variant)
    assert loaded.user_embeddings_.shape == model.user_embeddings_.shape
    assert (loaded.best_epoch_, loaded.dial_) == (model.best_epoch_, model.dial_)
    ours, theirs = scalars(sharded / variant), scalars(tmp_path / "run")
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_interrupted_and_resumed(dataset, tmp_path):
    """From a checkpoint that holds whole tables, in the shares of as many processes."""
    options = {"sampler": "random", "training": {**TRAINING, "shard": True}}
    train_together(dataset, {"whole": options}, tmp_path / "a")
    script = tmp_path / "killed.py"
    script.write_text(
        "import sys; from cnsdiff import Recommender, load_dataset\n"
        "from cnsdiff.training.loop import Trainer\n"
        "save = Trainer._save\n"
        "def ending(self, state):\n"
        "    save(self, state)\n"
        "    if state.epoch == 2: sys.exit(7)\n"
        "Trainer._save = ending\n"
        f"Recommender(**{options!r}).fit(load_dataset(sys.argv[1]), run=sys.argv[2])\n"
    )
    (tmp_path / "b").mkdir()
    parts = tmp_path / "b" / "whole"
    assert forked(script, dataset, parts).returncode == 7
    state = TrainingState.load(parts / CHECKPOINT)
    assert state.epoch == 2
    assert state.model["backbone.user_embedding"].shape == (61, 64)
    assert [state.optimizer[i]["exp_avg"].shape for i in (0, 1)] == [(61, 64), (47, 64)]
    train_together(dataset, {"whole": options}, tmp_path / "b")
    assert furthest(tmp_path / "a" / "whole", parts) == 0


# -- in this process ---------------------------------------------------------------------------


def test_shares_are_all_there_is(world):
    config = Recommender(sampler="random", training={"shard": True}).resolve()
    whole, pairs, *_ = assemble(config, world)
    n_pairs, users, items = 0, [], []
    for rank in range(3):
        step, positives, _, shard = assemble(config, world, processes=Processes(rank, 3))
        n_pairs += len(positives)
        assert positives.n_users == len(step.backbone.user_embedding)
        assert torch.equal(positives.item_counts, pairs.item_counts)
        assert (positives.matrix != pairs.matrix[shard.own_users]).nnz == 0
        expected = whole.backbone.user_embedding[shard.own_users]
        assert torch.equal(step.backbone.user_embedding, expected)
        users.append(np.arange(world.n_users)[shard.own_users])
        items.append(step.backbone.item_embedding)
        # Rows of the normalised adjacency, by the degrees that items have among all users.
        rows = step.backbone.user_item.to_dense()
        assert torch.equal(rows, whole.backbone.user_item.to_dense()[shard.own_users])
    assert n_pairs == len(pairs)
    assert sorted(np.concatenate(users)) == list(range(world.n_users))
    assert torch.equal(torch.cat(items), whole.backbone.item_embedding)


def test_one_process_has_everything(world):
    training = {"epochs": 2, "batch_size": 64}
    alone = Recommender(training={**training, "shard": True}).fit(world)
    plain = Recommender(training=training).fit(world)
    assert torch.equal(alone.user_embeddings_, plain.user_embeddings_)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampler": "mixgcf"}, "the sampler MixGCFSampler needs the data of all users"),
        ({"sampler": "srns"}, "the sampler SRNSSampler needs the data of all users"),
        ({"precision": "16-mixed"}, "set precision to 'bf16-mixed' or '32-true'"),
    ],
)
def test_what_cannot_be_sharded(world, options, sentence):
    config = Recommender(**options, training={"shard": True}).resolve()
    with pytest.raises(ConfigError, match=sentence):
        assemble(config, world, processes=Processes(0, 2))


def test_a_backbone_of_ones_own_cannot_be_sharded(world):
    from cnsdiff.backbones.base import MF

    class Mine(MF):
        pass

    sharded = {"shard": True}
    config = Recommender(backbone=Mine, sampler="random", training=sharded).resolve()
    with pytest.raises(ConfigError, match="backbone Mine does not say how it propagates"):
        assemble(config, world, processes=Processes(0, 2), classes={"backbone": Mine})


def test_more_processes_than_items(world):
    _, positives, *_ = assemble(Recommender().resolve(), world)
    with pytest.raises(ConfigError, match="too few for 51 processes"):
        Shard(positives, Processes(0, 51))


def test_shares_leave_out_the_rows_of_users_with_every_item():
    observed = np.random.default_rng(0).random((9, 6)) < 0.4
    observed[[2, 5]] = True
    users, items = np.nonzero(observed)
    whole = Positives(users, items, 9, 6)
    kept = whole.rows_with_negatives()
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))
    seen = []
    for rank in range(2):
        shard = Shard(whole, Processes(rank, 2))
        own = shard.positives(whole)
        slices = shard.slices(own, 2, shard.processes, lacking=True)
        for step in slices.epoch(order, 8):
            (part,) = step.parts
            seen += [(2 * user + rank, item) for user, item in own.pairs[part.index].tolist()]
    assert sorted(seen) == [tuple(pair) for pair in whole.pairs[kept].tolist()]
    assert {2, 5}.isdisjoint(user for user, _ in seen)
