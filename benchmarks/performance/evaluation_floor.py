"""Row ``evaluation_floor``: full-ranking evaluation over one product of matrices and ``topk``.

Ours is the evaluation of all users of the IID test (of validation where there is none) with masked
training positives, at k = 20; the floor, for the same users and in the same blocks, the product of
their embeddings with the items' and ``torch.topk``, into memory prepared beforehand. The pairs are
read beforehand: files are in neither.

Then the memory: how much more the resident set of a process grows while it evaluates synthetic
embeddings of four times the users. A block of scores has the same size whatever their number; what
grows with them are their lists and their metrics, a hundredth of a row of scores each or two.

    python benchmarks/performance/evaluation_floor.py USERS ITEMS

is one such process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from measurement import (
    Finding,
    Options,
    Place,
    Target,
    at,
    ours_over,
    peak_resident,
    places,
    resident,
    seconds_of,
)
from torch import Tensor

from cnsdiff.data.splits import Split
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.protocol import evaluate_split
from cnsdiff.evaluation.ranking import ITEM_CHUNK, USER_BATCH

ROW = "evaluation_floor"
TARGET = Target(1.3)
K, DIM = 20, 64
ITEMS = 20_000  # of the synthetic embeddings
MIB = 2**20


def measure(options: Options) -> Iterator[Finding]:
    for place in places(options):
        yield _time(place, options.rounds)
    yield _memory(options)


def _time(place: Place, rounds: int) -> Finding:
    dataset = place.dataset
    name = "test_iid" if "test_iid" in dataset.split_names else "valid"
    split = dataset.split(name)
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    users, items = _embeddings(dataset.n_users, dataset.n_items)
    ranked = torch.from_numpy(np.unique(split.users))

    def ours() -> None:
        evaluate_split(EmbeddingScorer(users, items), split, train, ks=(K,))

    floor = _floor(users[ranked], items)
    ours()  # both warm up
    floor()
    seconds, bare = [], []
    for _ in range(rounds):
        seconds.append(seconds_of(ours))
        bare.append(seconds_of(floor))
    finding = at(ROW, f"evaluation on {name} over product and topk", place, target=TARGET)
    finding.details["users"] = len(ranked)
    return ours_over(finding, seconds, bare)


def _floor(users: Tensor, items: Tensor) -> Callable[[], None]:
    n_items = len(items)
    chunk = min(ITEM_CHUNK, n_items)
    buffer = users.new_empty(USER_BATCH * chunk)

    def work() -> None:
        for rows in users.split(USER_BATCH):
            for start in range(0, n_items, chunk):
                columns = items[start : start + chunk]
                block = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
                torch.mm(rows, columns.T, out=block)
                block.topk(min(K, len(columns)), dim=1)

    return work


def _embeddings(n_users: int, n_items: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, DIM, generator=stream) for n in (n_users, n_items))  # type: ignore[return-value]


def _memory(options: Options) -> Finding:
    n_few = options.memory_users
    grown: dict[int, list[int]] = {n_few: [], 4 * n_few: []}
    for _ in range(options.rounds):
        for n_users, growths in grown.items():
            command = [sys.executable, __file__, str(n_users), str(ITEMS)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            growths.append(json.loads(done.stdout)["growth_bytes"])
    few, many = grown.values()
    per_user = [(b - a) / (3 * n_few) for a, b in zip(few, many, strict=True)]
    finding = Finding(ROW, "memory of an added user over a row of scores", unit="of it")
    finding.details = {
        "growth_mib": {n: [g / MIB for g in growths] for n, growths in grown.items()},
        "bytes_per_added_user": per_user,
        "block_mib": 4 * USER_BATCH * min(ITEM_CHUNK, ITEMS) / MIB,
    }
    return finding.of([bytes_ / (4 * ITEMS) for bytes_ in per_user])


def grow(n_users: int, n_items: int) -> dict[str, int]:
    """Evaluate synthetic embeddings in this process."""
    torch.set_num_threads(1)
    users, items = _embeddings(n_users, n_items)
    rng = np.random.default_rng(0)
    everyone = np.arange(n_users)
    # Ten different training items a user and one held out; pairs of both only by chance.
    first = rng.integers(n_items, size=n_users)
    seen = (first[:, None] + np.arange(0, 10 * 7, 7)) % n_items
    train = Split("train", everyone.repeat(10), seen.ravel()).csr(n_users, n_items)
    held_out = Split("valid", everyone, rng.integers(n_items, size=n_users))
    before = resident()
    evaluate_split(EmbeddingScorer(users, items), held_out, train, ks=(K,))
    return {"growth_bytes": peak_resident() - before, "before_bytes": before}


if __name__ == "__main__":
    print(json.dumps(grow(*map(int, sys.argv[1:]))))
