"""Row ``speedups``: what each speed-up brought, the way before over the way now.

Both ways give the same result (the tests of the parts say so) but for the number of negatives,
whose accuracy docs/performance.md compares. Beside them two that were weighed and left out, as the
share of the work that they could save: propagation of the batch's rows alone in the last layer, and
an optimiser that moves the batch's rows alone.

    python benchmarks/performance/speedups.py DATASET PRESET kept|plain THREADS

is a process that times steps with and without freed memory being kept: what the C library does with
memory cannot be undone in a process.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measurement import Finding, Options, Place, at, over_ours, places, seconds_of
from steps import Steps
from torch import Tensor

from cnsdiff import load_dataset
from cnsdiff.backbones.base import mean_of
from cnsdiff.backbones.lightgcn import LightGCN
from cnsdiff.diffusion.denoiser import dropout_mask
from cnsdiff.kernels.gradients import shared_softmax
from cnsdiff.kernels.memory import freed_memory_kept
from cnsdiff.objectives.losses import sampled_softmax

ROW = "speedups"
BATCH, DIM = 2048, 64
Work = Callable[[], object]


def measure(options: Options) -> Iterator[Finding]:
    for place in places(options):
        with freed_memory_kept():
            for what, before, now in _pairs(place):
                yield _compared(what, place, before, now, options)
        for preset in ("bpr-lightgcn", "default"):
            yield _kept(place, preset, options)
        yield from _left_out(place)


def _pairs(place: Place) -> Iterator[tuple[str, Work, Work]]:
    """What, the way before, the way now."""
    steps = Steps(place.dataset, "default")
    backbone = steps.step.backbone
    assert isinstance(backbone, LightGCN)
    matrix, items = backbone.user_item.csr, backbone.item_embedding.detach()
    yield (
        "sparse product: CSR over bags of embeddings",
        lambda: matrix @ items,
        lambda: backbone.user_item.product(items),
    )
    yield (
        "propagation, both ways: layer by layer over Horner's rule",
        lambda: _descend(mean_of(backbone.layers())),
        lambda: _descend(backbone()),
    )
    for n in (128, 512):
        yield f"softmax over {n} shared: autograd's over ours", *_softmax(n)
    wide = Steps(place.dataset, "default", {"sampler": {"n_negatives": 512}})
    yield "default step: 512 negatives over 128", wide, Steps(place.dataset, "default")
    kind = type(steps.step.sampler)

    def reading() -> None:
        kind.reads_embeddings = True
        try:
            steps()
        finally:
            kind.reads_embeddings = False

    yield "default step: tables projected over rows", reading, steps
    stream = torch.Generator().manual_seed(0)
    like = torch.empty(3, BATCH, DIM)
    yield (
        "dropout mask: a float for each entry over random bits",
        lambda: (torch.rand(like.shape, generator=stream) >= 0.5) / 0.5,
        lambda: dropout_mask(like, 0.5, stream),
    )


def _descend(embeddings: Any) -> None:
    torch.autograd.backward(list(embeddings), [torch.ones_like(part) for part in embeddings])


def _softmax(n: int) -> tuple[Work, Work]:
    stream = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randn(size, DIM, generator=stream).requires_grad_() for size in (BATCH, n)
    )
    ids = torch.randint(n, (BATCH,), generator=stream), torch.arange(n)
    weights = torch.full((BATCH,), 1 / BATCH)

    def own() -> Tensor:
        return (rows * columns.index_select(0, ids[0])).sum(dim=1)

    def before() -> None:
        sampled_softmax(own(), rows @ columns.T, ids[1] != ids[0].unsqueeze(1)).backward()

    def now() -> None:
        shared_softmax(rows, columns, weights, own=own(), barred=ids).backward()

    return before, now


def _compared(what: str, place: Place, before: Work, now: Work, options: Options) -> Finding:
    seconds_of(before, 2), seconds_of(now, 2)  # warm up
    ours, reference = [], []
    for _ in range(options.rounds):
        reference.append(seconds_of(before, options.steps))
        ours.append(seconds_of(now, options.steps))
    return over_ours(at(ROW, what, place), ours, reference)


def _kept(place: Place, preset: str, options: Options) -> Finding:
    what = f"{preset} step: freed memory returned over kept"
    ours, reference = [], []
    for _ in range(options.rounds):
        for way, found in (("plain", reference), ("kept", ours)):
            arguments = [str(options.datasets[place.name]), preset, way, str(place.threads)]
            command = [sys.executable, __file__, *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout)["seconds"])
    return over_ours(at(ROW, what, place), ours, reference)


def _left_out(place: Place) -> Iterator[Finding]:
    """How much of its work a step of one batch could spare."""
    positives = Steps(place.dataset, "default").positives
    n_pairs = len(positives)
    order = torch.randperm(n_pairs, generator=torch.Generator().manual_seed(0))
    pairs, touched = [], []
    for index in order.split(BATCH)[:-1] or [order]:
        users, items = (column.unique() for column in positives.pairs[index].unbind(dim=1))
        in_rows = positives.user_counts[users].sum() + positives.item_counts[items].sum()
        pairs.append(1 - float(in_rows) / (2 * n_pairs))
        n_rows = positives.n_users + positives.n_items
        touched.append(1 - (len(users) + len(items)) / n_rows)
    finding = at(ROW, "left out: share of the last layer's pairs not in a batch's rows", place)
    finding.unit = "of it"
    yield finding.of(pairs)
    finding = at(ROW, "left out: share of rows without a gradient before propagation", place)
    finding.unit = "of all"
    yield finding.of(touched)


def time_steps(path: Path, preset: str, way: str, threads: int) -> float:
    """Seconds of a step, in this process."""
    torch.set_num_threads(threads)
    with freed_memory_kept() if way == "kept" else contextlib.nullcontext():
        steps = Steps(load_dataset(path), preset)
        seconds_of(steps, 5)
        return seconds_of(steps, 30)


if __name__ == "__main__":
    path, preset, way, threads = sys.argv[1:]
    print(json.dumps({"seconds": time_steps(Path(path), preset, way, int(threads))}))
