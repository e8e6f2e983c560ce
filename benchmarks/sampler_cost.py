"""What a training step costs with each sampler, as a ratio to random negatives in the same run.

    python benchmarks/sampler_cost.py data/yelp2018 [--threads 1] [--rounds 5] [--json FILE]

Full steps (LightGCN, batch 2048: forward, backward, optimiser), and beside them the sampler alone.
Samplers take turns, round after round, so that a machine whose speed drifts slows all alike; the
ratio is the median over rounds. SRNS refreshes its memories once an epoch: its first step of an
epoch is timed apart and spread over the epoch's steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cnsdiff import load_dataset
from cnsdiff.base.seeding import torch_generator
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.recommender.config import resolve_config
from cnsdiff.recommender.fitting import assemble
from cnsdiff.recommender.presets import PRESETS
from cnsdiff.samplers import SAMPLERS, Batch, Context
from cnsdiff.training.step import TrainingStep

BATCH = 2048


class Contestant:
    """A configuration whose training steps can be timed."""

    def __init__(self, dataset: Dataset, choice: dict[str, Any], preset: str, device: str) -> None:
        config = resolve_config(choice, preset=preset)
        self.device = torch.device(device)
        self.step: TrainingStep
        self.positives: Positives
        self.step, self.positives = assemble(config, dataset)[:2]
        self.step.to(self.device)
        self.optimizer = torch.optim.Adam(list(self.step.parameter_groups(0.01)), fused=True)
        self.streams = [torch_generator(0, name, device=device) for name in ("negatives", "noise")]
        self.order = torch_generator(0, "order", device=device)
        self.epoch = 1

    def _batch(self) -> Batch:
        pairs = self.positives.pairs
        index = torch.randint(len(pairs), (BATCH,), generator=self.order, device=self.device)
        return Batch(index, *pairs[index].unbind(1))

    def _context(self) -> Context:
        layers = self.step.layers() if self.step.sampler.wants_layers else ()
        return Context(0.5, *self.streams, epoch=self.epoch, layers=layers)

    def full(self) -> None:
        """A whole training step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, _ = self.step(self._batch(), Context(0.5, *self.streams, epoch=self.epoch))
        loss.backward()
        self.optimizer.step()

    def sampling(self) -> Callable[[], None]:
        """The sampler alone, on embeddings made beforehand."""
        batch, embeddings, context = self._batch(), self.step.embeddings(), self._context()

        def sample() -> None:
            self.step.sampler(batch, embeddings, context)

        return sample


def seconds(work: Callable[[], None], times: int) -> float:
    """Mean time of a call."""
    _wait()
    started = time.perf_counter()
    for _ in range(times):
        work()
    _wait()
    return (time.perf_counter() - started) / times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps in a turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.dataset)
    contestants: dict[str, Contestant] = {}
    for name in sorted(SAMPLERS.names(), key=lambda name: (name != "random", name)):
        contestants[name] = Contestant(
            dataset, {"sampler": {"name": name}}, "default", options.device
        )
    for name in PRESETS:
        if name not in ("default", "bpr-lightgcn"):
            contestants[f"({name})"] = Contestant(dataset, {}, name, options.device)
    per_epoch = -(-len(contestants["random"].positives) // BATCH)
    steps: dict[str, list[float]] = {name: [] for name in contestants}
    samplers: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1, options.rounds):  # the first round warms up
        for name, contestant in contestants.items():
            contestant.epoch += 1
            first = seconds(contestant.full, 1)
            usual = seconds(contestant.full, options.steps)
            alone = seconds(contestant.sampling(), options.steps)
            if number >= 0:
                steps[name].append((max(first, usual) + (per_epoch - 1) * usual) / per_epoch)
                samplers[name].append(alone)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, steps["random"], strict=True))
        for name, times in steps.items()
    }
    print(
        f"{dataset.name}: {dataset.n_users:,} users, {dataset.n_items:,} items; batch {BATCH}, "
        f"{options.threads} thread(s), {options.rounds} rounds, medians"
    )
    print(f"{'sampler':<16} {'step, ms':>9} {'x random':>9} {'sampler alone, ms':>18}")
    for name, times in steps.items():
        print(
            f"{name:<16} {1e3 * statistics.median(times):>9.1f} {ratios[name]:>9.2f} "
            f"{1e3 * statistics.median(samplers[name]):>18.1f}"
        )
    if options.json:
        result = {"dataset": dataset.name, "threads": options.threads, "device": options.device}
        found = {"step_seconds": steps, "sampler_seconds": samplers, "ratio_to_random": ratios}
        options.json.write_text(json.dumps(result | found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
