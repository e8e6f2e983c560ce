"""What content wins back of the pairs on new items, measured under the shift in time.

The setting that is chosen for the shift trains once more, with content. Without content a new item
is in no list, so what that leaves of each user's metric needs no training: the metric of their
known items, over lists that could have held all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.audit.judging import Setting
from cnsdiff.audit.record import FEW_USERS
from cnsdiff.audit.training import KS
from cnsdiff.base.errors import CnsdiffError, RunError
from cnsdiff.benchmark.fit import objectives
from cnsdiff.benchmark.task import Task
from cnsdiff.data import Dataset
from cnsdiff.evaluation.significance import Difference, paired_bootstrap
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.recommender.run_directory import provenance
from cnsdiff.training.checkpoint import EpochRecord
from cnsdiff.training.progress import Reporter

#: Share of the budget that is kept for it, and how often the training's own time it takes at least.
SHARE, LENGTHS = 0.3, 1.0


@dataclass(frozen=True)
class WonBack:
    """The metric of one list of all items, known and new, for all later pairs.

    Attributes
    ----------
    used
        Whether content was used; where items held out say that it tells nothing it is not.
    without, content
        The means over users without content and with it.
    of_new
        With it, of new items in lists of new items.
    difference
        With content less without, over users; of unknown ends where they are few.
    """

    used: bool
    without: float
    content: float
    of_new: float
    difference: Difference


class _Late(Exception):
    """The time for it is over."""


class _Deadline(Reporter):
    """Ends a training when its time is over."""

    def __init__(self, at: float) -> None:
        self._at = at

    def _check(self) -> None:
        if time.monotonic() > self._at:
            raise _Late

    def step(self, epoch: int, scalars: Mapping[str, float] | None) -> None:
        self._check()

    def note(self, text: str) -> None:
        self._check()


def win_back(
    setting: Setting, task: Task, dataset: Dataset, metric: str, *, folder: Path, seconds: float
) -> WonBack | str:
    """Train a setting with content and measure it, or say in a sentence why not.

    Parameters
    ----------
    setting, task
        What was trained without content.
    dataset
        Its pairs of new items have features.
    metric
        One that the audit keeps of each user.
    folder
        Where the run is kept: an audit that is done again reads it, one that was cut short goes on.
    seconds
        For all of it.
    """
    late = "What that wins back was not measured, for want of time: give a longer budget."
    config = _with_content(task.method.config(task.seed, task.threads), setting, metric)
    made = provenance(config, dataset)
    # One directory for each configuration, dataset and length, so that none is taken for another:
    # with a longer budget the setting may have trained for longer.
    name = f"{made.config_fingerprint[:8]}-{made.dataset.fingerprint[:8]}-{setting.epochs}"
    run = folder / name
    try:
        model = Recommender.load(run)
    except RunError:
        if not run.exists() and seconds < LENGTHS * setting.seconds:  # one that is there goes on
            return late
        model = Recommender.from_config(config.model_dump(mode="json"))
        deadline = _Deadline(time.monotonic() + seconds)

        def ended(record: EpochRecord) -> bool:
            return record["epoch"] >= setting.epochs

        try:
            model.fit(dataset, run=run, reporter=deadline, stop=ended)
        except _Late:
            return late
        except CnsdiffError as error:
            return f"What that wins back could not be measured: {error}."
    return measured(model, setting, dataset, metric, seed=task.seed)


def _with_content(config: Config, setting: Setting, metric: str) -> Config:
    training = objectives([setting.selection], metric, config.training)[setting.selection]
    return config.model_copy(
        update={
            "training": training,
            "content": config.content.model_copy(update={"prior": "auto"}),
            "evaluation": config.evaluation.model_copy(update={"ks": KS}),
        }
    )


def measured(
    model: Recommender, setting: Setting, dataset: Dataset, metric: str, *, seed: int
) -> WonBack:
    """One list of all items with the content of a model, beside a setting without any."""
    known = setting.per_user["test_ood"].select(pl.col("user").cast(pl.Int64), pl.col(metric))
    joint = dataset.with_new_items().split("test_ood")
    users, counts = np.unique(joint.users, return_counts=True)
    own = np.bincount(dataset.split("test_ood").users, minlength=dataset.n_users)[users]
    table = pl.DataFrame({"user": users.astype(np.int64)})
    values = table.join(known, on="user", how="left", maintain_order="left")[metric]
    without = values.fill_null(0.0).cast(pl.Float64).to_numpy()
    without = without * of_all_pairs(metric, own, counts)
    assert model.content_ is not None
    if not model.content_.used:
        level = Difference(0.0, 0.0, 0.0, 1.0, n=len(users))
        return WonBack(False, float(without.mean()), float(without.mean()), 0.0, level)
    found = model.evaluate_new_items(dataset, per_user=True)
    assert found.per_user is not None
    content = found.per_user.sort("user")[metric].cast(pl.Float64).to_numpy()
    if len(users) < FEW_USERS:
        difference = Difference(
            float((content - without).mean()), np.nan, np.nan, 1.0, n=len(users)
        )
    else:
        difference = paired_bootstrap(content, without, seed=seed)
    return WonBack(
        True, float(without.mean()), float(content.mean()), found.new[metric], difference
    )


def of_all_pairs(
    metric: str, n_known: NDArray[np.int64], n_all: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``(n,)`` what a user's metric of known items is to be multiplied by, for that of all pairs.

    The hits are the same, and a perfect list of all pairs is worth more.

    Parameters
    ----------
    metric
        Recall or NDCG at a cut-off.
    n_known, n_all
        ``(n,)`` held-out pairs of each user.
    """
    name, _, k = metric.partition("@")
    if name == "recall":
        return n_known / n_all
    ideal = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(int(k)) + 2.0))]
    return np.asarray(ideal[np.minimum(n_known, int(k))] / ideal[np.minimum(n_all, int(k))])
