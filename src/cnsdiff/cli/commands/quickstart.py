"""``cnsdiff quickstart``: the whole story on an embedded world, in less than a minute."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnsdiff.cli.options import Json, Seed

if TYPE_CHECKING:
    from cnsdiff.display.tables import Table
    from cnsdiff.evaluation import Evaluation

EXAMPLE = "Example: cnsdiff quickstart --out quickstart"

#: A year of a small shop that moves as fast as a real one (docs/world.md), chosen by that alone.
WORLD = {
    "n_users": 1000,
    "n_items": 600,
    "exposures": 40.0,
    "periods": 12,
    "season_length": 12,
    "persistence": 0.8,
    "promotion_weight": 0.25,
    "confounding": 2.0,
    "launches": 0.25,
}
#: By row of the table: a reference, and whether it is rehearsed.
REFERENCES = {
    "mostpop": ("mostpop", False),
    "recent-mostpop": ("recent-mostpop", True),
    "itemknn": ("itemknn", False),
    "itemknn, rehearsed": ("itemknn", True),
}
#: By row of the table: the preset of a model.
MODELS = {"random": "bpr-lightgcn", "cnsdiff": "paper", "exposure": "default"}
#: The method that the verdict is about, and the trained one that it has to beat.
OURS, RIVAL = "exposure", "random"
METRIC = "ndcg@20"


def quickstart(
    out: Annotated[
        Path | None, typer.Option(help="Keep the dataset and the runs in this new directory.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=10**6, help="At most so many epochs.")] = 40,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Simulate a shop that moves as fast as a real one, and say which model keeps up with it.

    Nine months of clicks train random negatives, the paper's cnsdiff and the default, which
    rehearses the latest part of the log; the three months after judge them, beside references. No
    data and no network are needed.
    """
    # In so small a world threads wait for one another; beside other work, for most of the time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
    import torch

    from cnsdiff.base.errors import InputError
    from cnsdiff.base.text import Command
    from cnsdiff.benchmark.fit import reference_scorer
    from cnsdiff.cli.output import console, print_json, print_next, print_table
    from cnsdiff.data import load_dataset
    from cnsdiff.environment import rehearse
    from cnsdiff.evaluation import evaluate
    from cnsdiff.recommender.recommender import Recommender
    from cnsdiff.references import left_out_if_it_fails
    from cnsdiff.simulate import ConfoundedWorld
    from cnsdiff.training.progress import reporter_for_terminal

    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already exists; choose another --out")
    keep: contextlib.AbstractContextManager[str | Path] = (
        tempfile.TemporaryDirectory() if out is None else contextlib.nullcontext(out)
    )
    torch.set_num_threads(1)
    with keep as place:
        folder = Path(place)
        ConfoundedWorld(seed=seed, **WORLD).dataset("temporal").save(folder / "dataset")
        dataset = load_dataset(folder / "dataset")
        # So small a log has few steps an epoch: smaller batches than usual, and larger steps.
        training = {
            "epochs": epochs, "patience": 5, "patience_steps": 0, "batch_size": 512, "lr": 0.01,
            "fhn_every": None,
        }  # fmt: skip
        results: dict[str, Evaluation] = {}
        false_negatives: dict[str, float] = {}
        left_out: dict[str, str] = {}
        rehearsal = rehearse(dataset, Recommender().resolve().training.horizon)
        for row, (name, rehearsed) in REFERENCES.items():
            with left_out_if_it_fails(row, left_out):
                scorer = reference_scorer(name, dataset, rehearsal=rehearsal if rehearsed else None)
                data = dataset.merged() if rehearsed else dataset
                results[row] = evaluate(scorer, data, ["test_iid", "test_ood"], per_user=True)
        for name, preset in MODELS.items():
            model = Recommender(preset=preset, seed=seed, training=training)
            model.fit(dataset, run=folder / name, reporter=reporter_for_terminal(name))
            results[name] = model.evaluate(dataset, ["test_iid", "test_ood"], per_user=True)
            false_negatives[name] = model.false_negatives(dataset, "truth").fhn
    sentence = verdict(results)
    steps = [
        Command("audit", "ratings.csv", purpose="your own log: what shifts cost, what to do"),
        Command("train", "ratings.csv", for_="temporal", out="run", purpose="a model for it"),
    ]
    if out is not None:
        run = out / OURS
        steps.append(Command("report", run, purpose="this model in one HTML file"))
        steps.append(Command("recommend", run, users="0,1", purpose="its lists"))
    if json:
        print_json(
            {
                "verdict": sentence,
                "path": None if out is None else str(out),
                "models": {name: result.to_dict() for name, result in results.items()},
                "false_negatives": false_negatives,
                "left_out": left_out,
                "next": [str(step) for step in steps],
            }
        )
        return
    screen = console()
    screen.print(sentence, style="bold", soft_wrap=True)
    print_table(screen, _table(results, false_negatives))
    for name, reason in left_out.items():
        screen.print(f"{name} is left out: {reason}.", soft_wrap=True)
    if out is not None:
        screen.print(f"Kept in {out}", soft_wrap=True)
    print_next(screen, *steps)


def verdict(results: Mapping[str, Evaluation]) -> str:
    """What came true in the OOD test, in one sentence: the default beside its rivals there.

    Beside the model with random negatives, and the reference that is best by this very test.
    """
    from cnsdiff.display.wording import metric_title

    scores = {name: result["test_ood"][METRIC] for name, result in results.items()}
    references = [name for name in REFERENCES if name in scores]
    rivals = {RIVAL: "random negatives"}
    if references:
        best = max(references, key=lambda name: scores[name])
        rivals[best] = f"the best reference, {best.replace(',', '')}"
    parts = [f"{_beside(results, rival)} {words}" for rival, words in rivals.items()]
    return (
        f"On the clicks of the next three months the default is {' and '.join(parts)} "
        f"({metric_title(METRIC)})."
    )


def _beside(results: Mapping[str, Evaluation], rival: str) -> str:
    """How much better or worse the default is than a rival; level, if users cannot tell."""
    import numpy as np

    from cnsdiff.display.wording import percent, percent_span
    from cnsdiff.evaluation.significance import paired_bootstrap

    ours, theirs = (
        results[name].per_user["test_ood"].sort("user")[METRIC].to_numpy().astype(np.float64)
        for name in (OURS, rival)
    )
    difference, scale = paired_bootstrap(ours, theirs, seed=0), theirs.mean()
    if not difference.sign:
        return "level with"
    word, sign = ("better", 1) if difference.sign > 0 else ("worse", -1)
    if scale == 0:
        return f"{word} than"
    low, high = sorted((sign * difference.low / scale, sign * difference.high / scale))
    return f"{percent(sign * difference.value / scale, 0)} {word} ({percent_span(low, high)}) than"


def _table(results: Mapping[str, Evaluation], false_negatives: Mapping[str, float]) -> Table:
    """A row per method: how well it ranks the past and what came, and its false negatives."""
    from cnsdiff.display.tables import Column, Table
    from cnsdiff.display.wording import metric_title

    columns = [
        Column("past", f"{metric_title(METRIC)}, past"),
        Column("later", "3 months later"),
        Column("false_negatives", "false negatives", 0, percent=True, signed=False),
    ]
    return Table.of(
        "",
        ["method"],
        columns,
        [
            (
                [name],
                [
                    result["test_iid"][METRIC],
                    result["test_ood"][METRIC],
                    false_negatives.get(name),
                ],
            )
            for name, result in results.items()
        ],
        "past: clicks held out of the nine months that train. later: those of the next three",
        "(the OOD test). In brackets above, 95% intervals over users.",
        "random and cnsdiff (the paper's) are LightGCN, chosen on the past. exposure (the",
        "default), recent-mostpop and what is rehearsed are chosen on the log's last fifth.",
        "false negatives: of what a sampler takes for disliked, the share that the user likes.",
        "One simulated shop proves nothing about your data: try it.",
    )
