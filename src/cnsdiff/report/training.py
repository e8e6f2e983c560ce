"""The course of a training, epoch by epoch, from its history."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from cnsdiff.display.wording import metric_title
from cnsdiff.report.charts import SPLITS, Style, curves, mark_x, method_styles
from cnsdiff.report.document import Block, Figure, Prose

#: What the scalars of a history are; one that is not here is shown under its own name.
MEANINGS = {
    "loss": ("Loss", "What training minimises: the sum of its terms."),
    "bpr": ("BPR", "The ranking loss of pairs."),
    "softmax": ("Softmax", "The ranking loss over many negatives."),
    "l2": ("L2", "The penalty on the size of the embeddings."),
    "contrastive": ("Contrastive term", "The alignment of positives with themselves."),
    "sampler": ("The sampler's own loss", "What the sampler learns by, as it is weighted."),
    "reconstruction": ("Reconstruction", "How far the denoiser is from the positive it had."),
    "causal": ("Causal term", "How much the generated negative depends on the environment."),
    "capped": ("Capped negatives", "Share of the generated that were pulled back by the cap."),
    "hardness": (
        "Hardness",
        "σ of the score of a negative less that of its positive: above ½, it scores higher.",
    ),
    "cos_to_positive": (
        "Nearness to the positive",
        "Cosine of a generated negative and its positive; at 1 they are the same.",
    ),
    "cos_to_source": (
        "Nearness to the source",
        "Cosine of a generated negative and the item that it was made from.",
    ),
    "hard_share": (
        "Hard negatives",
        "Share of the negatives that score above the user's median candidate.",
    ),
    "known_positive": (
        "Known positives",
        "Share of the synthesised negatives whose nearest item the user is known to like.",
    ),
}
#: Shown together, in another figure, or of no use to a reader.
_ELSEWHERE = {"fhn", "fhn_hard", "fhn_judged"}


def training_blocks(history: pl.DataFrame, best_epoch: int, metrics: Sequence[str]) -> list[Block]:
    """Small figures over the epochs: validation, the dial, each term of the loss, the negatives.

    Parameters
    ----------
    history
        ``history.parquet`` of a run.
    best_epoch
        The one whose weights were kept.
    metrics
        Validation metrics to draw, the one that selects first.
    """
    epochs = history["epoch"].to_list()
    style = method_styles(["run"])["run"]
    seconds = history["seconds"].sum()
    blocks: list[Block] = [
        Prose(
            f"{len(epochs)} epochs in {seconds:,.0f} s; the weights are those of epoch "
            f"**{best_epoch}**, the dotted line. Validation alone picked it."
        )
    ]

    def draw(title: str, caption: str, lines: dict[str, tuple[Style, str]]) -> None:
        there = {
            name: (one, history[column].to_list())
            for name, (one, column) in lines.items()
            if column in history.columns and history[column].is_not_null().any()
        }
        if there:
            figure, numbers = curves(epochs, there, x_title="epoch")
            mark_x(figure, best_epoch, f"epoch {best_epoch}")
            blocks.append(Figure(title, caption, figure, numbers, small=True))

    for metric in metrics:
        selects = metric == metrics[0]
        draw(
            f"{metric_title(metric)} on validation",
            "What picks the epoch." if selects else "Reported, and picks nothing.",
            {metric: (SPLITS["valid"], f"valid/{metric}")},
        )
    draw(
        "Dial",
        "The best of a coarse grid on validation; 0 reads the scores as trained.",
        {"dial": (style, "valid/dial")},
    )
    hard = method_styles(["all", "hard"])
    draw(
        "False negatives",
        "Share of the judged negatives that the user likes, by pairs held out in validation.",
        {"all": (hard["all"], "train/fhn"), "hard": (hard["hard"], "train/fhn_hard")},
    )
    for column in history.columns:
        kind, _, name = column.partition("/")
        if kind == "train" and name not in _ELSEWHERE:
            title, caption = MEANINGS.get(name, (name, "As the sampler or the loss reports it."))
            draw(title, caption, {name: (style, column)})
    return blocks
