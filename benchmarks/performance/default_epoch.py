"""Row ``default_epoch``: an epoch of our default over one of LightGCN with random negatives.

Training time only, as in a run's history, of the presets ``default`` and ``bpr-lightgcn``, which
have the same backbone and the same batch. The other presets take their turn too, as ratios without
a target; the validation after each epoch is reported beside, and that of ``default``, which reads
the model at all dials, over its own epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from measurement import Finding, Options, Place, Target, at, ours_over, places
from training import Epoch, train

ROW = "default_epoch"
TARGET, VALIDATION_TARGET = Target(1.3), Target(0.5)
REFERENCE = "bpr-lightgcn"
METHODS: dict[str, dict[str, Any]] = {
    REFERENCE: {"preset": REFERENCE},
    "default": {"preset": "default"},
    "ssm-lightgcn": {"preset": "ssm-lightgcn"},
    "sampler cnsdiff": {"sampler": "cnsdiff"},
    "paper": {"preset": "paper"},
    "authors": {"preset": "authors"},
}


def measure(options: Options) -> Iterator[Finding]:
    for place in places(options):
        turns: dict[str, list[Epoch]] = {name: [] for name in METHODS}
        for _ in range(options.rounds):
            for name, choice in METHODS.items():
                turns[name].append(train(place.dataset, options.epochs, place.threads, **choice))
        yield from _findings(place, turns)


def _findings(place: Place, turns: dict[str, list[Epoch]]) -> Iterator[Finding]:
    reference = [epoch.seconds for epoch in turns[REFERENCE]]
    for name, epochs in turns.items():
        if name == REFERENCE:
            continue
        finding = at(ROW, f"training epoch, {name} over {REFERENCE}", place)
        finding.target = TARGET if name == "default" else None
        yield _with_steps(ours_over(finding, [e.seconds for e in epochs], reference), turns, name)
    finding = at(ROW, "validation over a training epoch, default", place, target=VALIDATION_TARGET)
    default = turns["default"]
    yield ours_over(finding, [e.validation_seconds for e in default], [e.seconds for e in default])
    for name in ("default", REFERENCE):
        finding = at(ROW, f"validation after an epoch, {name}", place, unit="s")
        yield finding.of([epoch.validation_seconds for epoch in turns[name]])


def _with_steps(finding: Finding, turns: dict[str, list[Epoch]], name: str) -> Finding:
    """How many steps both epochs have: a preset may have a batch of its own."""
    finding.details["steps"] = turns[name][0].steps
    finding.details["reference_steps"] = turns[REFERENCE][0].steps
    return finding
