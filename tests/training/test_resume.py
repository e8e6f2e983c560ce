"""A disturbed training ends as an undisturbed one would have, bit by bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from cnsdiff import Recommender
from cnsdiff.recommender.run_directory import CHECKPOINT

VARIANTS = {
    "random": {"sampler": "random"},
    "mf": {"backbone": "mf", "sampler": "random"},
    "default": {},
    "cnsdiff": {"sampler": "cnsdiff"},
    "learned environment": {
        "sampler": "cnsdiff",
        "sampler_options": {"environment": "learned"},
    },
    "exposure_diffusion": {"sampler": "exposure_diffusion"},
    "mixgcf": {"sampler": "mixgcf"},
    "srns": {"sampler": "srns"},
    "dens": {"sampler": "dens"},
    "authors": {"preset": "authors"},
    "paper": {"preset": "paper"},
    "softmax": {"preset": "ssm-lightgcn"},
    "uniform softmax": {
        "sampler": "random",
        "objective": {"loss": "softmax", "negatives": "uniform", "uniform_negatives": 30},
    },
}


def recommender(variant: str, **training) -> Recommender:
    training = {"epochs": 5, "batch_size": 64, "patience": None} | training
    return Recommender(**VARIANTS[variant], training=training)


def assert_same_run(one, other):
    ours, theirs = (load_file(run / "weights.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different
    for name in ("config.yaml", "train.parquet", "users.parquet", "items.parquet"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    records = [
        [{k: v for k, v in r.items() if "seconds" not in k} for r in Recommender.load(run).history_]
        for run in (one, other)
    ]
    assert records[0] == records[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_interrupted_runs_end_the_same(world, tmp_path, interrupting, variant):
    whole = recommender(variant).fit(world, run=tmp_path / "whole")
    # After an epoch, then in the middle of one.
    for reporter in (interrupting(1), interrupting(3, steps=2)):
        with pytest.raises(KeyboardInterrupt):
            recommender(variant).fit(world, run=tmp_path / "parts", reporter=reporter)
    resumed = recommender(variant).fit(world, run=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert (resumed.best_epoch_, resumed.dial_) == (whole.best_epoch_, whole.dial_)
    assert resumed.recommend(world.users, 10).equals(whole.recommend(world.users, 10))


def test_interrupted_before_the_first_checkpoint(world, tmp_path, interrupting):
    recommender("random").fit(world, run=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        recommender("random").fit(world, run=tmp_path / "parts", reporter=interrupting(0, steps=1))
    assert not (tmp_path / "parts" / CHECKPOINT).exists()
    recommender("random").fit(world, run=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_early_stopping_goes_on_counting(world, tmp_path, interrupting, noting):
    # A learning rate at which this world over-fits after a few epochs.
    settings = {"epochs": 60, "patience": 3, "patience_steps": 0, "lr": 0.1}
    whole = recommender("mf", **settings).fit(world, run=tmp_path / "whole")
    stopped = len(whole.history_)
    assert whole.best_epoch_ == stopped - 3
    assert stopped < 60
    # In the middle of the wait, and when the wait is already over.
    for epochs in (stopped - 1, stopped):
        with pytest.raises(KeyboardInterrupt):
            recommender("mf", **settings).fit(
                world, run=tmp_path / "parts", reporter=interrupting(epochs)
            )
    recommender("mf", **settings).fit(world, run=tmp_path / "parts", reporter=noting)
    assert noting.best == [], "nothing was left to train"
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_validating_now_and_then(world, tmp_path, interrupting):
    recommender("random", validate_every=3).fit(world, run=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        recommender("random", validate_every=3).fit(
            world, run=tmp_path / "parts", reporter=interrupting(2)
        )
    recommender("random", validate_every=3).fit(world, run=tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
