"""What the dial trades: accuracy on either test as popularity counts for less or for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.data import Dataset, Split
from cnsdiff.display.palette import SPLITS, method_styles
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.evaluation import EmbeddingScorer, exposure_score, readings
from cnsdiff.evaluation.dial import exposure_counts, in_words
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.report.accuracy import Measured
from cnsdiff.report.charts import chart, mark_x
from cnsdiff.report.document import Block, Figure, Prose
from cnsdiff.training.selection import as_configured, some_users

#: Where the dial is read, besides the one that was chosen.
DIALS = (-4.0, -2.0, -1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Users of each split whose lists are read at every dial.
USERS = 1_000

Readings = dict[float, dict[str, float]]


def dial_blocks(
    model: EmbeddingModel,
    config: Config,
    dataset: Dataset,
    held_out: Mapping[str, Split],
    references: Sequence[Measured],
    metric: str,
) -> list[Block]:
    """The frontier between the tests, and each measure along the dial.

    Parameters
    ----------
    model
        Its embeddings; the dial is turned on the scores as trained.
    config
        What chose its dial.
    dataset
        With the splits and the exposures.
    held_out
        The tests, to describe; nothing is chosen by them.
    references
        Measured on the same tests, for comparison; they have no dial.
    metric
        With its cut-off.
    """
    gammas = tuple(sorted({*DIALS, model.dial}))
    scorer = EmbeddingScorer(model.user_embeddings, model.item_embeddings)
    score = exposure_score(dataset)
    found: dict[str, Readings] = {}
    some = {split: some_users(pairs, USERS) for split, pairs in held_out.items()}
    for split, pairs in some.items():
        found[split] = readings(
            scorer, score, pairs, model.train, gammas=gammas, ks=config.evaluation.ks
        )
    selecting = config.training.selection_metrics[0]
    if "valid" in dataset.split_names and config.training.selection_split == "valid":
        valid = some_users(dataset.split("valid"), USERS)
        anticipated = config.training.anticipated
        asked = (
            ()
            if anticipated is None
            else (
                as_configured(
                    anticipated,
                    config.training,
                    valid,
                    model.train,
                    config.evaluation.ks,
                    exposure_counts(dataset).numpy(),
                ),
            )
        )
        found["valid"] = readings(
            scorer,
            score,
            valid,
            model.train,
            gammas=gammas,
            ks=config.evaluation.ks,
            anticipations=asked,
        )
    blocks: list[Block] = [Prose(_chosen(model.dial, config))]
    if set(held_out) == {"test_iid", "test_ood"}:
        blocks.append(_frontier(found, some, references, model.dial, metric))
    blocks.append(_along(found, model.dial, {"valid": selecting}, metric))
    return blocks


def _chosen(dial: float, config: Config) -> str:
    training = config.training
    how = {
        "auto": f"It was chosen on validation alone, by **{training.selection_metrics[0]}**",
        "off": "It was switched off when training",
    }.get(str(training.dial), "It was fixed when training")
    return (
        "The dial adds a share of the environment to every score: below 0 popularity counts for "
        "less than in training, above 0 for more. One training serves all of it. "
        f"This model is read at **{in_words(dial)}**. {how}; the curves below describe what the "
        "tests would have shown, and chose nothing. Picking a dial from them would be picking on "
        "the test."
    )


def _frontier(
    found: Mapping[str, Readings],
    some: Mapping[str, Split],
    references: Sequence[Measured],
    dial: float,
    metric: str,
) -> Figure:
    figure = chart(x=f"IID {metric_title(metric)}", y=f"OOD {metric_title(metric)}", height=440)
    gammas = list(found["test_iid"])
    iid, ood = (
        [found[split][gamma][metric] for gamma in gammas] for split in ("test_iid", "test_ood")
    )
    others = {
        one.name: tuple(_mean_of(one, split, some[split], metric) for split in some)
        for one in references
    }
    styles = method_styles(["this run", *others])
    figure.add_scatter(
        x=iid,
        y=ood,
        mode="lines+markers",
        name="this run, by its dial",
        marker={**styles["this run"].marker, "size": 6},
        line=styles["this run"].line,
        text=[f"dial {gamma:g}" for gamma in gammas],
        hovertemplate="%{text}: IID %{x:.4f}, OOD %{y:.4f}<extra></extra>",
    )
    for gamma in {gammas[0], -1.0, 0.0, 1.0, gammas[-1]} - {dial}:
        at = gammas.index(gamma)
        figure.add_annotation(
            x=iid[at], y=ood[at], text=f"{gamma:g}", showarrow=False, xanchor="left", xshift=7
        )
    at = gammas.index(dial)
    figure.add_scatter(
        x=[iid[at]],
        y=[ood[at]],
        mode="markers+text",
        name="the chosen dial",
        text=[f"chosen: {dial:g}"],
        textposition="top right",
        marker={
            "symbol": "circle-open",
            "size": 17,
            "line": {"width": 3},
            "color": styles["this run"].colour,
        },
        hoverinfo="skip",
    )
    for name, (x, y) in others.items():
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=name, marker={**styles[name].marker, "size": 11}
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    numbers = pl.DataFrame(
        [("this run", gamma, x, y) for gamma, x, y in zip(gammas, iid, ood, strict=True)]
        + [(name, None, x, y) for name, (x, y) in others.items()],
        schema={"method": pl.String, "dial": pl.Float64, "iid": pl.Float64, "ood": pl.Float64},
        orient="row",
    )
    return Figure(
        "The frontier between the two tests",
        f"{metric_title(metric)} on either test as the dial turns (numbers along the line). "
        f"Further right is better today, further up better after the shift. {_of_users(some)}",
        figure,
        numbers,
    )


def _along(
    found: Mapping[str, Readings], dial: float, selecting: Mapping[str, str], metric: str
) -> Figure:
    figure = chart(x="dial", y="share of its own best")
    columns: dict[str, Any] = {}
    for split, values in found.items():
        own = selecting.get(split, metric)
        reached = np.array([reading[own] for reading in values.values()])
        best = reached.max()
        columns["dial"] = list(values)
        columns[f"{split}/{own}"] = reached
        title = SPLIT_TITLES[split] if split != "valid" else f"validation, {metric_title(own)}"
        # Evenly spaced dials: most of what happens, happens around 0.
        figure.add_scatter(
            x=list(range(len(values))),
            y=reached / best if best else reached,
            mode="lines+markers",
            name=title,
            marker={**SPLITS[split].marker, "size": 7},
            line=SPLITS[split].line,
        )
    gammas = columns["dial"]
    mark_x(figure, gammas.index(dial), f"chosen: {dial:g}")
    figure.update_xaxes(
        tickmode="array", tickvals=list(range(len(gammas))), ticktext=[f"{g:g}" for g in gammas]
    )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return Figure(
        "Along the dial",
        "What selected the dial, and what each test would have shown. Where the curve of "
        "validation peaks near that of the OOD test, the anticipated shift was the one that came.",
        figure,
        pl.DataFrame(columns),
    )


def _mean_of(one: Measured, split: str, some: Split, metric: str) -> float:
    frame = one.splits[split].per_user
    assert frame is not None
    users = pl.Series(np.unique(some.users))
    return float(frame.filter(pl.col("user").is_in(users.implode()))[metric].to_numpy().mean())


def _of_users(some: Mapping[str, Split]) -> str:
    counts = {split: np.unique(pairs.users).size for split, pairs in some.items()}
    told = " and ".join(f"{n:,} users of the {SPLIT_TITLES[split]}" for split, n in counts.items())
    return f"Of {told}."
