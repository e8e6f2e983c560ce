"""What came after training, replayed by day: does a run that follows its environment do better?

    python benchmarks/replay.py world --seeds 0 1 2 --json FILE
    python benchmarks/replay.py world --seeds 0 --retrain 3 --json FILE
    python benchmarks/replay.py LOG --timestamp time --seeds 0 1 2 --json FILE

A run is trained on the past; its environment is chosen by a rehearsal inside that, and nothing is
chosen on what is replayed. Each day is judged by its pairs of known users and items that are new to
the user, on lists made at its start:

- ``frozen``: the environment of the end of training.
- ``live``: the environment of all that came before this day; nothing is trained.
- ``live + fold-in``: vectors of users of all that they did before this day, too.
- ``retrained``: a training on all that came before, every so many days; live in between.

NDCG@20 of a day is a mean over its users, and the figure is the mean over days; intervals (95%) and
gains are of resampled users. Beside it, how often the environment is refreshed: judged hour by hour
(for dates: day by day), with an environment that is renewed as often as stated.

The world: 1,000 users and 1,000 items, of which popularity drifts (correlation .95 from a day to
the next), a season of eight days passes and another group of items is promoted each day; 46 days
train, 14 are replayed. A log is cut where its last fifth begins.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from cnsdiff import ConfoundedWorld, Recommender, read_interactions
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset, Interactions, Split
from cnsdiff.data.splits import pair_matrix
from cnsdiff.evaluation import EmbeddingScorer, evaluate_split
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.simulate.confounded_world import LOG_START, PERIOD_SECONDS

METRIC, RESAMPLES = "ndcg@20", 2000
WORLD = {"n_users": 1000, "n_items": 1000, "periods": 60, "exposures": 240.0}
DAYS = 14


class Stream(NamedTuple):
    """What came after training, in the order of time.

    Attributes
    ----------
    users, items, times
        ``(n,)``; a user unknown to training is -1.
    start, day
        When it begins, and the length of a day, in the units of the times.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    start: float
    day: float

    def edges(self, length: float) -> NDArray[np.float64]:
        """When stretches of some length begin, and the end of the last."""
        n = int((self.times[-1] - self.start) // length) + 1
        return self.start + length * np.arange(n + 1)

    def until(self, moment: float) -> slice:
        """What came before a moment."""
        return slice(0, int(np.searchsorted(self.times, moment)))


def the_world(seed: int) -> tuple[Dataset, Stream]:
    """A world whose environment moves daily, cut before its last days."""
    world = ConfoundedWorld(**WORLD, seed=seed)
    clicks = world.clicks(world.periods).select("user", "item", "timestamp")
    cut = LOG_START + (len(world.periods) - DAYS) * PERIOD_SECONDS
    return cut_at(clicks, cut, float(PERIOD_SECONDS))


def of_log(path: str, **columns: str) -> tuple[Dataset, Stream]:
    """A log with times, cut where its last fifth begins."""
    pairs = read_interactions(path, **columns).deduplicated().frame
    cut = int(pairs["timestamp"].quantile(0.8, "lower"))
    return cut_at(pairs.select("user", "item", "timestamp"), cut, 86_400.0)


def cut_at(pairs: pl.DataFrame, cut: int, day: float) -> tuple[Dataset, Stream]:
    """What came before a moment as training, and what came after, of known items."""
    before = pairs.filter(pl.col("timestamp") < cut)
    dataset = Dataset.from_splits(
        {"train": Interactions(before, "the log")}, name="the log", scenario="temporal"
    )
    numbers = {
        side: {name: number for number, name in enumerate(ids)}
        for side, ids in (("user", dataset.users), ("item", dataset.items))
    }
    after = pairs.filter(pl.col("timestamp") >= cut).with_columns(
        pl.col(side).replace_strict(known, default=-1) for side, known in numbers.items()
    )
    after = after.filter(pl.col("item") >= 0).sort("timestamp", "user", "item")
    columns = (after[name].to_numpy() for name in ("user", "item", "timestamp"))
    return dataset, Stream(*columns, start=float(cut), day=day)


class State(NamedTuple):
    """What makes the lists of a day: a run's vectors, in the numbers of the dataset."""

    users: Tensor
    items: Tensor
    bias: Tensor


class Replay:
    """Days one after the other, for one run and what came after its training."""

    def __init__(self, dataset: Dataset, stream: Stream, seed: int, **training: Any) -> None:
        self.dataset, self.stream, self.seed, self.training = dataset, stream, seed, training
        self.shape = dataset.n_users, dataset.n_items
        self.log = dataset.split("train")
        self.before = self.log.csr(*self.shape)
        self.model = self._fitted(dataset)

    def _fitted(self, dataset: Dataset) -> EmbeddingModel:
        training = {"fhn_every": None, **self.training}
        recommender = Recommender(seed=self.seed, threads=1, training=training)
        model = recommender.fit(dataset, select_on="rehearsal").model_
        assert isinstance(model, EmbeddingModel)
        return model

    def since(self, moment: float) -> csr_array:
        """``(U, I)`` what known users did from the cut until a moment."""
        part = self.stream.until(moment)
        users, items = self.stream.users[part], self.stream.items[part]
        return pair_matrix(users[users >= 0], items[users >= 0], self.shape)

    def live_bias(self, moment: float) -> Tensor:
        """That of the run, whose environment has followed until a moment."""
        part = self.stream.until(moment)
        assert self.model.activity is not None
        items, times = self.stream.items[part], self.stream.times[part]
        return self.model.live_bias(self.model.activity.followed_by(items, times, moment=moment))

    def judged(self, state: State, start: float, end: float) -> NDArray[np.float64]:
        """``(U,)`` NDCG@20 of the pairs of a stretch of time; NaN of users without."""
        values = np.full(self.dataset.n_users, np.nan)
        part = slice(self.stream.until(start).stop, self.stream.until(end).stop)
        users, items = self.stream.users[part], self.stream.items[part]
        out = self.before + self.since(start)
        new = users >= 0
        if new.any():  # of no pairs scipy gives no array
            new[new] = np.asarray(out[users[new], items[new]]) == 0
        if new.any():
            split = Split("day", users[new], items[new])
            table = evaluate_split(
                EmbeddingScorer(*state), split, out, ks=(20,), per_user=True
            ).per_user
            assert table is not None
            values[table["user"].to_numpy()] = table[METRIC].to_numpy()
        return values

    def by_stretch(
        self, length: float, state_at: Callable[[int, float], State]
    ) -> NDArray[np.float64]:
        """``(U, n)`` of stretches of a length, each judged on lists made at its start."""
        edges = self.stream.edges(length)
        columns = [
            self.judged(state_at(number, start), start, end)
            for number, (start, end) in enumerate(pairwise(edges))
        ]
        return np.stack(columns, axis=1)

    def state(self, bias: Tensor) -> State:
        return State(self.model.user_embeddings, self.model.item_embeddings, bias)

    def refreshed(self, length: float, every: int | None) -> NDArray[np.float64]:
        """With an environment that is renewed every so many stretches, or never."""
        assert self.model.bias is not None
        bias = self.model.bias

        def state_at(number: int, start: float) -> State:
            nonlocal bias
            if every is not None and number % every == 0:
                bias = self.live_bias(start)
            return self.state(bias)

        return self.by_stretch(length, state_at)

    def folded_in(self, length: float) -> NDArray[np.float64]:
        """With a live environment, and users' vectors of all that they did."""
        everyone = np.arange(self.dataset.n_users)

        def state_at(number: int, start: float) -> State:
            scorer = self.model.fold_in(everyone, self.since(start))
            return State(scorer.user_embeddings, scorer.item_embeddings, self.live_bias(start))

        return self.by_stretch(length, state_at)

    def retrained(self, length: float, every: int) -> NDArray[np.float64]:
        """With a training on all that came before, every so many stretches; live in between."""
        late = self.state(self.live_bias(self.stream.start))
        model = self.model

        def state_at(number: int, start: float) -> State:
            nonlocal late, model
            if number and number % every == 0:
                model = self._fitted(self._until(start))
                users, items = (np.argsort(ids.to_numpy()) for ids in (model.users, model.items))
                vectors = model.user_embeddings[users], model.item_embeddings[items]
                late = State(*vectors, late.bias)
            environment, sigma = model.environment, model.sigma
            assert environment is not None and sigma is not None
            bias = environment.bias(environment.activity(self._all(start), self.shape[1]), sigma)
            return late._replace(bias=bias)

        return self.by_stretch(length, state_at)

    def _all(self, moment: float) -> Split:
        """All interactions until a moment, of unknown users (-1) among them."""
        part = self.stream.until(moment)
        assert self.log.timestamps is not None
        return Split(
            "train",
            np.concatenate([self.log.users, self.stream.users[part]]),
            np.concatenate([self.log.items, self.stream.items[part]]),
            np.concatenate([self.log.timestamps, self.stream.times[part]]),
        )

    def _until(self, moment: float) -> Dataset:
        """What known users did until a moment, by number."""
        log = self._all(moment)
        frame = pl.DataFrame({"user": log.users, "item": log.items, "timestamp": log.timestamps})
        frame = frame.filter(pl.col("user") >= 0).unique(
            ["user", "item"], keep="first", maintain_order=True
        )
        return Dataset.from_splits(
            {"train": Interactions(frame, "the log")}, name="the log", scenario="temporal"
        )


def figure(values: NDArray[np.float64]) -> float:
    """The mean over stretches of the mean over those who are judged there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a stretch that judges nobody
        return float(np.nanmean(np.nanmean(values, axis=0)))


def gain(values: NDArray[np.float64], base: NDArray[np.float64]) -> tuple[float, float, float]:
    """The gain of a figure over another, and its interval by resampled users."""
    rng = numpy_generator(0, "replay")
    judged = ~np.isnan(base).all(axis=1)
    values, base = values[judged], base[judged]
    there = (~np.isnan(base)).astype(float)
    sums = [np.nan_to_num(own) for own in (values, base)]
    ratios = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, len(base), len(base)), minlength=len(base)).astype(
            float
        )
        n = times @ there
        means = [float(((times @ own)[n > 0] / n[n > 0]).mean()) for own in sums]
        ratios.append(means[0] / means[1] - 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return figure(values) / figure(base) - 1, float(low), float(high)


def replayed(replay: Replay, retrain: int | None, note: str) -> dict[str, NDArray[np.float64]]:
    """``(U, n)`` by way of serving: those of days, and those of how often is refreshed."""
    day = replay.stream.day
    ways: dict[str, Callable[[], NDArray[np.float64]]] = {
        "frozen": lambda: replay.refreshed(day, None),
        "live": lambda: replay.refreshed(day, 1),
    }
    if hasattr(replay.model, "fold_in"):
        ways["live + fold-in"] = lambda: replay.folded_in(day)
    if retrain is not None:
        ways[f"retrained every {retrain} days"] = lambda: replay.retrained(day, retrain)
    if (replay.stream.times % day == 0).all():  # dates
        for every in (30, 7):
            ways[f"by day: every {every} days"] = lambda n=every: replay.refreshed(day, n)
    else:
        for name, every in (("never", None), ("7 days", 168), ("day", 24), ("hour", 1)):
            ways[f"by hour: {name}"] = lambda n=every: replay.refreshed(day / 24, n)
    values = {}
    for name, way in ways.items():
        started = time.perf_counter()
        values[name] = way()
        seconds = time.perf_counter() - started
        print(f"{note} {name}: {figure(values[name]):.4f} ({seconds:.0f} s)", flush=True)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", help="'world', or a log with times")
    parser.add_argument("--timestamp", help="the column of times")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--retrain", type=int, help="days from one training to the next")
    parser.add_argument("--horizon", type=float, help="of the rehearsal; by default its own")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    training = {} if options.horizon is None else {"horizon": options.horizon}
    by_seed: list[dict[str, NDArray[np.float64]]] = []
    for seed in options.seeds:
        if options.log == "world":
            dataset, stream = the_world(seed)
        else:
            columns = {} if options.timestamp is None else {"timestamp": options.timestamp}
            dataset, stream = of_log(options.log, **columns)
        started = time.perf_counter()
        replay = Replay(dataset, stream, seed, **training)
        print(
            f"seed {seed}: {dataset}, {len(stream.times):,} interactions replayed over "
            f"{len(stream.edges(stream.day)) - 1} days; trained in "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )
        by_seed.append(replayed(replay, options.retrain, f"seed {seed}"))
    rows = []
    for name in by_seed[0]:
        base = "by hour: never" if name.startswith("by hour") else "frozen"
        # Worlds of other seeds have other users; those of one log are the same.
        joined = np.concatenate if options.log == "world" else partial(np.mean, axis=0)
        own, its = (joined([values[key] for values in by_seed]) for key in (name, base))
        rows.append((name, figure(own), *gain(own, its)))
        print("{:28} {:.4f}  {:+.0%} [{:+.0%}, {:+.0%}]".format(*rows[-1]))
    if options.json is not None:
        keys = ("way", METRIC, "gain", "low", "high")
        content = {"log": options.log, "seeds": options.seeds, "horizon": options.horizon,
                   "rows": [dict(zip(keys, row, strict=True)) for row in rows]}  # fmt: skip
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
